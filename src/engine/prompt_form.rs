//! The form that a model wants its prompt in. In: the model directory, then a job's or a row's prompt. Out: a [`Prompt`].

use super::chat;
use super::prompt::{Frame, ImagePrompt, Place, Prompt};
use super::settings::GenerationOverrides;
use super::tokens::TextTokenizer;
use crate::model::{ModelDirectory, ModelError, Problem, Role};

/// What a prompt is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptForm {
    /// The decoder goes on from its start token, then the prompt.
    Plain {
        /// The start token.
        start: Option<i64>,
    },
    /// A task, or any other text, after the image (Florence-2).
    Task {
        /// Stands before it.
        before: String,
        /// Stands after it.
        after: String,
        /// What the decoder starts from.
        start: Option<i64>,
    },
    /// The text of a message that holds the image.
    Chat {
        /// A Jinja template; without one, the prompt says itself where the image goes.
        template: Option<String>,
        /// The token in whose places the image's features go, and its name.
        image: (i64, String),
        /// Whether tiles have tokens of their own around them.
        framed: bool,
        /// `bos_token` and `eos_token` for the template.
        special: [Option<String>; 2],
        /// What the decoder starts from, if another graph reads the prompt.
        start: Option<i64>,
    },
}

/// What the processor of Florence-2 asks for a task (`Florence2Processor.task_prompts_without_inputs`).
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

impl Prompt {
    /// Resolves the job's prompt for a decoder that starts from `start`.
    pub(super) fn resolve(
        directory: &ModelDirectory,
        overrides: &GenerationOverrides,
        start: Option<i64>,
    ) -> Result<Self, ModelError> {
        let fail = |what: String| ModelError::one(directory.path(), Problem::new("generation.prompt", what));
        let tokenizer = TextTokenizer::load(directory)?;
        let (Some(tokenizer), prompt) = (tokenizer, overrides.prompt.as_deref()) else {
            return Err(fail("the decoder needs a tokenizer.json".into()));
        };
        let form = PromptForm::of(directory, &tokenizer, start)?;
        if let Some(template) = overrides.prompt_template() {
            return Ok(Self::Rows { template: template.to_owned(), form });
        }
        match (prompt, &form) {
            (None, PromptForm::Plain { start }) => Ok(Self::Tokens(start.iter().copied().collect())),
            (None, form) => {
                let example = match form {
                    PromptForm::Task { .. } => "\"<CAPTION>\", for instance, or \"<DETAILED_CAPTION>\"",
                    _ => "\"Describe this image in one sentence.\", for instance",
                };
                let what = "this model answers a prompt, and the job gives none";
                let problem = Problem::new("generation.prompt", what).with_hint(format!("prompt = {example}"));
                Err(ModelError::one(directory.path(), problem))
            }
            (Some(prompt), form) => form.fill(&tokenizer, prompt).map_err(fail),
        }
    }
}

impl PromptForm {
    fn of(directory: &ModelDirectory, tokenizer: &TextTokenizer, start: Option<i64>) -> Result<Self, ModelError> {
        if !directory.bindings().prompt_holds_image() {
            return Ok(Self::Plain { start });
        }
        let config = directory.config();
        let special = |name: &str| match config.special_token(name) {
            Some(token) => Some(token.to_owned()),
            None => tokenizer.token(config.setting(&format!("{name}_id"))?.value.as_i64()?),
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
            let what = "there is no image_token_id, so that nothing says where in the prompt the image goes".to_owned();
            fail(what, "copy the whole config.json of the model")
        })?;
        let name = tokenizer.token(id).ok_or_else(|| {
            let what = format!("its image_token_id is {id}, but tokenizer.json has no such token");
            fail(what, "copy tokenizer.json and config.json of one model")
        })?;
        Ok(Self::Chat {
            template: config.chat_template().map(|template| template.value.clone()),
            image: (id, name),
            framed: Frame::SMOLVLM.is_known(tokenizer),
            special: ["bos_token", "eos_token"].map(special),
            start,
        })
    }

    /// `prompt` in this form; an error says what is wrong with it.
    pub(super) fn fill(&self, tokenizer: &TextTokenizer, prompt: &str) -> Result<Prompt, String> {
        match self {
            Self::Plain { start } => {
                let tokens = tokenizer.encode_whole(prompt, false);
                let tokens = tokens.map_err(|error| format!("{prompt:?} cannot be tokenized: {error}"))?;
                Ok(Prompt::Tokens(start.iter().copied().chain(tokens).collect()))
            }
            Self::Task { before, after, start } => {
                let asked = TASKS.iter().find(|(task, _)| *task == prompt).map_or(prompt, |(_, question)| question);
                let text = format!("{before}{asked}{after}");
                Ok(Prompt::Image(ImagePrompt::new(text, false, Place::First, *start)))
            }
            Self::Chat { template, image: (id, name), framed, special: [bos, eos], start } => {
                let special = |wanted: &str| if wanted == "bos_token" { bos.clone() } else { eos.clone() };
                let text = match template {
                    Some(template) => chat::render(template, prompt, special)
                        .map_err(|error| format!("the model's chat template cannot be rendered: {error}"))?,
                    None => prompt.to_owned(),
                };
                let found = text.matches(name.as_str()).count();
                if found != 1 {
                    return Err(format!(
                        "expected {name} once, where the image goes, and found it {found} times in {text:?}"
                    ));
                }
                // as transformers: a template that writes the start token itself needs no second one
                let adds_special_tokens = bos.as_ref().is_none_or(|bos| !text.starts_with(bos));
                let place = Place::Token { id: *id, name: name.clone(), frame: framed.then_some(Frame::SMOLVLM) };
                Ok(Prompt::Image(ImagePrompt::new(text, adds_special_tokens, place, *start)))
            }
        }
    }
}
