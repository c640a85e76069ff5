//! The format of prompts that a model was trained with. In: the model directory, then the prompt of a job or a row. Out: a [`Prompt`].

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::chat_template::ChatTemplate;
use super::expand::{ImagePrompt, ImageSlot, Prompt, TileTokens};
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::model::{ConfigFiles, ModelDirectory, ModelError, Problem, Role, Sourced};

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
    /// The same prompt for all rows of a run, with the time of the run in it.
    Dated {
        /// The job's prompt.
        question: String,
        /// The format into which it is put.
        format: PromptFormat,
    },
}

/// The format of a model's prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptFormat {
    /// The decoder's start token, then the prompt.
    Plain {
        /// The start token.
        start: Option<i64>,
        /// When it goes before a prompt; without a prompt, it is always there.
        rule: StartRule,
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
        /// The chat template; without one, the prompt must hold the image token itself.
        template: Option<ChatTemplate>,
        /// The id and the text of the image token.
        image: (i64, String),
        /// Whether there are tokens around the tiles of an image.
        tile_tokens: bool,
        /// The token with which the tokenizer begins a text, unless the text has it.
        bos: Option<String>,
        /// The decoder's start token, if the prompt is the input of an encoder.
        start: Option<i64>,
    },
    /// The image features, the first token of a text, the prompt, a newline (`PaliGemma`).
    Prefix {
        /// The id and the text of the image token.
        image: (i64, String),
        /// The first token of a text.
        bos: String,
    },
}

/// When the decoder's start token goes before the tokens of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartRule {
    /// Always.
    Always,
    /// Unless they begin with it (`_prepare_decoder_input_ids_for_generation` of transformers).
    UnlessThere,
    /// Never: the prompt has a start token of its own (Donut).
    Never,
}

/// The types of models whose prompts hold the image, as far as it is known how. A prompt in the form of another model gives bad captions
/// and no error.
const TYPES: [&str; 6] = ["fast_vlm", "florence2", "idefics3", "llava", "paligemma", "smolvlm"];

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

/// Tasks with an input, which goes where the braces are (`Florence2Processor.task_prompts_with_input`).
const TASKS_WITH_INPUT: [(&str, &str); 7] = [
    ("<CAPTION_TO_PHRASE_GROUNDING>", "Locate the phrases in the caption: {}"),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "Locate {} in the image with mask"),
    ("<REGION_TO_SEGMENTATION>", "What is the polygon mask of region {}"),
    ("<OPEN_VOCABULARY_DETECTION>", "Locate {} in the image."),
    ("<REGION_TO_CATEGORY>", "What is the region {}?"),
    ("<REGION_TO_DESCRIPTION>", "What does the region {} describe?"),
    ("<REGION_TO_OCR>", "What text is in the region {}?"),
];

impl JobPrompt {
    /// How many tokens the decoder processes before it generates one, if that is the same for every row.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Fixed(prompt) => prompt.length(),
            Self::Template { .. } | Self::Dated { .. } => None,
        }
    }

    /// Whether the prompt holds the image.
    pub(crate) fn holds_image(&self) -> bool {
        match self {
            Self::Fixed(prompt) => matches!(prompt, Prompt::Image(_)),
            Self::Template { format, .. } | Self::Dated { format, .. } => !matches!(format, PromptFormat::Plain { .. }),
        }
    }

    /// The prompt of a row, whose template was rendered as `own`; an error says what is wrong with that.
    pub(crate) fn of_row(&self, own: Option<&str>, tokenizer: &TextTokenizer) -> Result<Cow<'_, Prompt>, String> {
        match self {
            Self::Fixed(prompt) => Ok(Cow::Borrowed(prompt)),
            Self::Template { format, .. } => format.fill(tokenizer, own.unwrap_or_default()).map(Cow::Owned),
            Self::Dated { question, format } => format.fill(tokenizer, question).map(Cow::Owned),
        }
    }

    /// Takes `time` for the time where the prompt holds it.
    pub(crate) fn set_time(&mut self, time: DateTime<Utc>) {
        if let Self::Template { format, .. } | Self::Dated { format, .. } = self
            && let PromptFormat::Chat { template: Some(template), .. } = format
        {
            template.set_time(time);
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
        let config = directory.config();
        if !directory.bindings().prompt_holds_image() {
            let rule = match config.model_type() {
                _ if config.is_donut() => StartRule::Never,
                Some("vision-encoder-decoder") => StartRule::UnlessThere,
                _ => StartRule::Always,
            };
            return Ok(Self::Plain { start, rule });
        }
        let kind = known_type(config).map_err(|problem| ModelError::one(directory.path(), problem))?;
        let start = start.filter(|_| directory.graph(Role::Encoder).is_some());
        if kind == "florence2" {
            let special = |name: &str| match config.special_token(name) {
                Some(token) => Some(token.to_owned()),
                None => tokenizer.token(config.special_token_id(&format!("{name}_id"))?),
            };
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
        let bos = config.special_token("bos_token").map(str::to_owned);
        if kind == "paligemma" {
            return Ok(Self::Prefix { image: (id, name), bos: bos.unwrap_or_default() });
        }
        let template = config
            .chat_template()
            .map(|Sourced { value, source }| ChatTemplate::new(value.clone(), source.clone(), config.special_tokens()));
        let tile_tokens = TileTokens::SMOLVLM.is_known(tokenizer);
        Ok(Self::Chat { template, image: (id, name), tile_tokens, bos, start })
    }

    /// Whether prompts in this format depend on the time.
    pub(crate) fn is_dated(&self) -> bool {
        matches!(self, Self::Chat { template: Some(template), .. } if template.is_dated())
    }

    /// `prompt` in this format; an error says what is wrong with it.
    pub(crate) fn fill(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<Prompt, String> {
        match self {
            Self::Plain { start, rule } => {
                let tokens = tokenizer.encode_whole(prompt, false);
                let tokens = tokens.map_err(|error| format!("{prompt:?} cannot be tokenized: {error}"))?;
                let starts = match rule {
                    StartRule::Always => true,
                    StartRule::UnlessThere => tokens.first() != start.as_ref(),
                    StartRule::Never => tokens.is_empty(),
                };
                Ok(Prompt::Tokens(start.iter().copied().filter(|_| starts).chain(tokens).collect()))
            }
            Self::Task { before, after, start } => {
                let text = format!("{before}{}{after}", question_of(prompt)?);
                let image = ImageSlot::First;
                Ok(Prompt::Image(ImagePrompt { text, adds_special_tokens: false, image, start: *start }))
            }
            Self::Chat { template, image, tile_tokens, bos, start } => {
                let text = match template {
                    Some(template) => template.render(prompt).map_err(|error| {
                        format!("the model's chat template in {} cannot be rendered: {error}", template.source)
                    })?,
                    None => prompt.to_owned(),
                };
                // as in transformers: no second start token if the chat template begins with one
                let adds_special_tokens = bos.as_ref().is_none_or(|bos| !text.starts_with(bos));
                around_image(text, image, adds_special_tokens, *tile_tokens, *start)
            }
            Self::Prefix { image, bos } => {
                let (_, name) = image;
                let text = match prompt.rfind(name.as_str()) {
                    None => format!("{name}{bos}{prompt}\n"),
                    Some(place) => {
                        let (before, after) = prompt.split_at(place + name.len());
                        format!("{before}{bos}{after}\n")
                    }
                };
                around_image(text, image, false, false, None)
            }
        }
    }
}

/// A prompt whose `text` holds the image token once.
fn around_image(
    text: String,
    (id, name): &(i64, String),
    adds_special_tokens: bool,
    tile_tokens: bool,
    start: Option<i64>,
) -> Result<Prompt, String> {
    let found = text.matches(name.as_str()).count();
    if found != 1 {
        let text: String = text.chars().take(SHOWN).collect();
        return Err(format!("expected {name} once, where the image goes, and found it {found} times in {text:?}"));
    }
    let tile_tokens = tile_tokens.then_some(TileTokens::SMOLVLM);
    let image = ImageSlot::Token { id: *id, name: name.clone(), tile_tokens };
    Ok(Prompt::Image(ImagePrompt { text, adds_special_tokens, image, start }))
}

/// What Florence-2 is asked by `prompt`: the question of a task, or the prompt itself (`Florence2Processor._construct_prompts`).
pub(super) fn question_of(prompt: &str) -> Result<String, String> {
    if let Some((task, question)) = TASKS.iter().find(|(task, _)| prompt.contains(task)) {
        return if prompt == *task {
            Ok((*question).to_owned())
        } else {
            let shown: String = prompt.chars().take(SHOWN).collect();
            Err(format!("the task {task} takes no text: expected it alone, found {shown:?}"))
        };
    }
    let with_input = TASKS_WITH_INPUT.iter().find(|(task, _)| prompt.contains(task));
    Ok(with_input.map_or_else(
        || prompt.to_owned(),
        |(task, question)| question.replacen("{}", prompt.replace(task, "").trim(), 1),
    ))
}

/// The model's type, if it is known how its prompts hold the image.
fn known_type(config: &ConfigFiles) -> Result<&str, Problem> {
    let vision = config.section_type("vision_config");
    let kind = config.model_type();
    // LLaVA with another image encoder: its tokens are in rows, with tokens between and behind them
    let rows = vision.filter(|vision| kind == Some("llava") && *vision == "pixtral");
    if let Some(kind) = kind.filter(|kind| TYPES.contains(kind) && rows.is_none()) {
        return Ok(kind);
    }
    let found = match (kind, rows) {
        (Some(kind), Some(vision)) => format!("model_type {kind:?} with vision_config.model_type {vision:?}"),
        (Some(kind), None) => format!("model_type {kind:?}"),
        (None, _) => "no model_type".to_owned(),
    };
    let what = format!("expected a model whose prompts are known ({}), found {found}", TYPES.join(", "));
    let hint = "set generation.enabled = false in the job for vectors only; captions of this model are not supported";
    Err(Problem::new("config.json", what).with_hint(hint))
}
