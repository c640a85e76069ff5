//! The format of prompts that a model was trained with. In: the model directory, then the prompt of a job or a row. Out: a [`Prompt`].

use std::borrow::Cow;

use super::chat_template;
use super::expand::{ImagePrompt, ImageSlot, Prompt, TileTokens};
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::model::{ModelDirectory, ModelError, Problem, Role, Sourced};

/// The prompt of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobPrompt {
    /// A prompt for every row.
    Template {
        /// The job's Jinja template over the columns of the manifest.
        template: String,
        /// The format into which a row's prompt is put.
        format: PromptFormat,
    },
    /// The same prompt for all rows.
    Fixed(Prompt),
}

/// The format of a model's prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptFormat {
    /// The decoder's start token, then the prompt.
    Plain {
        /// The start token.
        start: Option<i64>,
    },
    /// The image features, then the question of a task, or any other text (Florence-2).
    Task {
        /// The text before it.
        before: String,
        /// The text after it.
        after: String,
        /// The decoder's start token.
        start: Option<i64>,
    },
    /// The text of a message that holds the image.
    Chat {
        /// The chat template (Jinja) and its file; without one, the prompt must hold the image token itself.
        template: Option<Sourced<String>>,
        /// The id and the text of the image token.
        image: (i64, String),
        /// Whether there are tokens around the tiles of an image.
        tile_tokens: bool,
        /// `bos_token` and `eos_token` for the template.
        special: [Option<String>; 2],
        /// The decoder's start token, if the prompt is the input of an encoder.
        start: Option<i64>,
    },
}

/// The most characters of a prompt that a message repeats.
const SHOWN: usize = 300;

/// Florence-2's tasks and the questions by which its processor replaces them (`Florence2Processor.task_prompts_without_inputs`).
const TASKS: [(&str, &str); 8] = [
    ("<CAPTION>", "What does the image describe?"),
    ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
    ("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image."),
    ("<OCR>", "What is the text in the image?"),
    ("<OCR_WITH_REGION>", "What is the text in the image, with regions?"),
    ("<OD>", "Locate the objects with category name in the image."),
    ("<DENSE_REGION_CAPTION>", "Locate the objects in the image, with their descriptions."),
    ("<REGION_PROPOSAL>", "Locate the region proposals in the image."),
];

impl JobPrompt {
    /// How many tokens the decoder processes before it generates one, if that is the same for every row.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Fixed(prompt) => prompt.length(),
            Self::Template { .. } => None,
        }
    }

    /// Whether the prompt holds the image.
    pub(crate) fn holds_image(&self) -> bool {
        match self {
            Self::Fixed(prompt) => matches!(prompt, Prompt::Image(_)),
            Self::Template { format, .. } => !matches!(format, PromptFormat::Plain { .. }),
        }
    }

    /// The prompt of a row, whose template was rendered as `own`; an error says what is wrong with that.
    pub(crate) fn of_row(&self, own: Option<&str>, tokenizer: &TextTokenizer) -> Result<Cow<'_, Prompt>, String> {
        match self {
            Self::Fixed(prompt) => Ok(Cow::Borrowed(prompt)),
            Self::Template { format, .. } => format.fill(tokenizer, own.unwrap_or_default()).map(Cow::Owned),
        }
    }
}

impl PromptFormat {
    /// The format of the model in `directory`, whose decoder starts from `start`.
    pub(crate) fn of(
        directory: &ModelDirectory,
        tokenizer: &TextTokenizer,
        start: Option<i64>,
    ) -> Result<Self, ModelError> {
        if !directory.bindings().prompt_holds_image() {
            return Ok(Self::Plain { start });
        }
        let config = directory.config();
        let special = |name: &str| match config.special_token(name) {
            Some(token) => Some(token.to_owned()),
            None => tokenizer.token(config.special_token_id(&format!("{name}_id"))?),
        };
        let start = start.filter(|_| directory.graph(Role::Encoder).is_some());
        if config.model_type() == Some("florence2") {
            let [before, after] = ["bos_token", "eos_token"].map(|name| special(name).unwrap_or_default());
            return Ok(Self::Task { before, after, start });
        }
        let fail = |what: String, hint: &str| {
            ModelError::one(directory.path(), Problem::new("config.json", what).with_hint(hint))
        };
        let id = config.image_token_id().ok_or_else(|| {
            let what = "there is no image_token_id, so it is not known where in the prompt the image goes".to_owned();
            fail(what, "copy the whole config.json of the model")
        })?;
        let name = tokenizer.token(id).ok_or_else(|| {
            let what = format!("its image_token_id is {id}, but tokenizer.json has no such token");
            fail(what, "copy tokenizer.json and config.json of one model")
        })?;
        Ok(Self::Chat {
            template: config.chat_template().cloned(),
            image: (id, name),
            tile_tokens: TileTokens::SMOLVLM.is_known(tokenizer),
            special: ["bos_token", "eos_token"].map(special),
            start,
        })
    }

    /// `prompt` in this format; an error says what is wrong with it.
    pub(crate) fn fill(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<Prompt, String> {
        match self {
            Self::Plain { start } => {
                let tokens = tokenizer.encode_whole(prompt, false);
                let tokens = tokens.map_err(|error| format!("{prompt:?} cannot be tokenized: {error}"))?;
                Ok(Prompt::Tokens(start.iter().copied().chain(tokens).collect()))
            }
            Self::Task { before, after, start } => {
                let asked = TASKS.iter().find(|(task, _)| *task == prompt).map_or(prompt, |(_, question)| question);
                let text = format!("{before}{asked}{after}");
                let image = ImageSlot::First;
                Ok(Prompt::Image(ImagePrompt { text, adds_special_tokens: false, image, start: *start }))
            }
            Self::Chat { template, image: (id, name), tile_tokens, special: [bos, eos], start } => {
                let special = |wanted: &str| if wanted == "bos_token" { bos.clone() } else { eos.clone() };
                let text = match template {
                    Some(Sourced { value, source }) => {
                        chat_template::render(value, prompt, special).map_err(|error| {
                            format!("the model's chat template in {source} cannot be rendered: {error}")
                        })?
                    }
                    None => prompt.to_owned(),
                };
                let found = text.matches(name.as_str()).count();
                if found != 1 {
                    let text: String = text.chars().take(SHOWN).collect();
                    return Err(format!(
                        "expected {name} once, where the image goes, and found it {found} times in {text:?}"
                    ));
                }
                // as in transformers: no second start token if the chat template begins with one
                let adds_special_tokens = bos.as_ref().is_none_or(|bos| !text.starts_with(bos));
                let tile_tokens = tile_tokens.then_some(TileTokens::SMOLVLM);
                let image = ImageSlot::Token { id: *id, name: name.clone(), tile_tokens };
                Ok(Prompt::Image(ImagePrompt { text, adds_special_tokens, image, start: *start }))
            }
        }
    }
}
