//! How captions begin. In: the job's prompt and the model directory. Out: the tokens that every caption goes on from; where the
//! image stands in the prompt, those of one image, with the places that its features take.

use serde::Serialize;

use super::chat;
use super::tokens::TextTokenizer;
use crate::model::{ModelDirectory, ModelError, Problem, Role};
use crate::preprocess::TileGrid;

/// How captions begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// With the decoder's start token, then the tokens of the job's prompt.
    Tokens(Vec<i64>),
    /// With a text around the image.
    Image(ImagePrompt),
}

/// A prompt that holds the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePrompt {
    /// The text as the tokenizer takes it.
    text: String,
    /// Whether the tokenizer adds its special tokens.
    adds_special_tokens: bool,
    place: Place,
    /// What the decoder starts from, if another graph reads the prompt.
    start: Option<i64>,
}

/// Where the features of an image go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    /// Before the text.
    First,
    /// Into the places of this token, which stands once in the text for each feature.
    Token { id: i64, name: String, frame: Option<Frame> },
}

/// The tokens around the parts of an image that is cut into tiles (Idefics3, `SmolVLM`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Frame {
    border: &'static str,
    whole: &'static str,
}

/// The prompt of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) ids: Vec<i64>,
    /// Which of them stand for features, in the order of these.
    pub(super) features: Vec<usize>,
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
const FRAME: Frame = Frame { border: "<fake_token_around_image>", whole: "<global-img>" };

impl Prompt {
    /// Resolves the job's `prompt` for a decoder that starts from `start`.
    pub(super) fn resolve(
        directory: &ModelDirectory,
        prompt: Option<&str>,
        start: Option<i64>,
    ) -> Result<Self, ModelError> {
        let fail = |what: String| ModelError::one(directory.path(), Problem::new("generation.prompt", what));
        let tokenizer = TextTokenizer::load(directory)?;
        if directory.bindings().prompt_holds_image() {
            let tokenizer = tokenizer.ok_or_else(|| fail("a prompt needs a tokenizer.json".into()))?;
            return ImagePrompt::resolve(directory, &tokenizer, prompt, start).map(Self::Image);
        }
        let tokens = match (prompt, tokenizer) {
            (None, _) => Vec::new(),
            (Some(_), None) => return Err(fail("a prompt needs a tokenizer.json".into())),
            (Some(prompt), Some(tokenizer)) => tokenizer
                .encode_whole(prompt, false)
                .map_err(|error| fail(format!("{prompt:?} cannot be tokenized: {error}")))?,
        };
        Ok(Self::Tokens(start.into_iter().chain(tokens).collect()))
    }

    /// How many tokens the decoder is given, if that is the same for every image.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Self::Tokens(tokens) => Some(tokens.len()),
            Self::Image(image) => image.start.map(|_| 1),
        }
    }
}

impl ImagePrompt {
    fn resolve(
        directory: &ModelDirectory,
        tokenizer: &TextTokenizer,
        prompt: Option<&str>,
        start: Option<i64>,
    ) -> Result<Self, ModelError> {
        let config = directory.config();
        let fail = |what: String, hint: &str| {
            ModelError::one(directory.path(), Problem::new("generation.prompt", what).with_hint(hint))
        };
        let special = |name: &str| match config.special_token(name) {
            Some(token) => Some(token.to_owned()),
            None => tokenizer.token(config.setting(&format!("{name}_id"))?.value.as_i64()?),
        };
        let start = start.filter(|_| directory.graph(Role::Encoder).is_some());
        let is_florence = config.model_type() == Some("florence2");
        let Some(prompt) = prompt else {
            let hint = if is_florence {
                "prompt = \"<CAPTION>\", for instance, or \"<DETAILED_CAPTION>\""
            } else {
                "prompt = \"Describe this image in one sentence.\", for instance"
            };
            return Err(fail("this model answers a prompt, and the job gives none".into(), hint));
        };
        if is_florence {
            let asked = TASKS.iter().find(|(task, _)| *task == prompt).map_or(prompt, |(_, question)| question);
            let around = |name: &str| special(name).unwrap_or_default();
            let text = format!("{}{asked}{}", around("bos_token"), around("eos_token"));
            return Ok(Self { text, adds_special_tokens: false, place: Place::First, start });
        }
        let id = config.image_token_id().ok_or_else(|| {
            let what = "config.json gives no image_token_id, so that nothing says where the image goes".to_owned();
            fail(what, "copy the whole config.json of the model")
        })?;
        let name = tokenizer.token(id).ok_or_else(|| {
            let what = format!("tokenizer.json has no token {id}, the image_token_id of config.json");
            fail(what, "copy tokenizer.json and config.json of one model")
        })?;
        let text = match config.chat_template() {
            Some(template) => chat::render(&template.value, prompt, &special).map_err(|error| {
                let what = format!("the chat template in {} cannot be rendered: {error}", template.source);
                fail(what, "the job's prompt is given to it as the text of one user message, after an image")
            })?,
            None => prompt.to_owned(),
        };
        if text.matches(&name).count() != 1 {
            let what = format!("expected {name} once in the prompt, found {text:?}");
            return Err(fail(what, "without a chat template, the prompt itself must say where the image goes"));
        }
        // as transformers: a template that writes the start token itself needs no second one
        let adds_special_tokens = special("bos_token").is_none_or(|bos| !text.starts_with(&bos));
        let framed = [FRAME.border, FRAME.whole].iter().all(|token| tokenizer.token_id(token).is_some());
        let place = Place::Token { id, name, frame: framed.then_some(FRAME) };
        Ok(Self { text, adds_special_tokens, place, start })
    }

    /// The tokens for an image of `features` features, cut up as `grid` says.
    pub(super) fn expand(
        &self,
        tokenizer: &TextTokenizer,
        features: usize,
        grid: Option<TileGrid>,
    ) -> Result<Expanded, tokenizers::Error> {
        match &self.place {
            Place::First => {
                let text = tokenizer.encode_whole(&self.text, self.adds_special_tokens)?;
                let ids = std::iter::repeat_n(Self::NO_TOKEN, features).chain(text).collect();
                Ok(Expanded { ids, features: (0..features).collect() })
            }
            Place::Token { id, name, frame } => {
                let tiles = grid.map_or(1, TileGrid::tiles);
                let slots = name.repeat(features / tiles);
                let image = frame.as_ref().map_or_else(|| slots.clone(), |frame| frame.around(&slots, grid));
                let text = self.text.replacen(name, &image, 1);
                let ids = tokenizer.encode_whole(&text, self.adds_special_tokens)?;
                let places = ids.iter().enumerate().filter(|(_, token)| *token == id).map(|(place, _)| place);
                Ok(Expanded { features: places.collect(), ids })
            }
        }
    }

    /// What the decoder goes on from, after `expanded` was read.
    pub(super) fn prefix(&self, expanded: &Expanded) -> Vec<i64> {
        self.start.map_or_else(|| expanded.ids.clone(), |start| vec![start])
    }

    /// Stands in a prompt where a feature has no token of its own; no token has this id.
    pub(super) const NO_TOKEN: i64 = -1;
}

impl Frame {
    /// `slots` for every tile, with what stands around them (`get_image_prompt_string` in transformers).
    fn around(&self, slots: &str, grid: Option<TileGrid>) -> String {
        let Self { border, whole } = self;
        let last = format!("{border}{whole}{slots}{border}");
        let Some(TileGrid { rows: rows @ 1.., columns }) = grid else { return last };
        let mut text = String::new();
        for row in 1..=rows {
            text.extend((1..=columns).map(|column| format!("{border}<row_{row}_col_{column}>{slots}")));
            text.push('\n');
        }
        text + "\n" + &last
    }
}
