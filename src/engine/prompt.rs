//! How captions begin. In: a prompt, filled into the form that the model wants ([`super::prompt_form`]). Out: the tokens that
//! a caption goes on from; where the image stands in the prompt, with the places that its features take.

use super::prompt_form::PromptForm;
use super::tokens::TextTokenizer;
use crate::preprocess::TileGrid;

/// How captions begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// With the decoder's start token, then the tokens of the job's prompt.
    Tokens(Vec<i64>),
    /// With a text around the image.
    Image(ImagePrompt),
    /// With a prompt of each row's own.
    Rows {
        /// As the job gives it.
        template: String,
        /// What each row's prompt is put into.
        form: PromptForm,
    },
}

/// A prompt that holds the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePrompt {
    /// The text as the tokenizer takes it.
    pub(super) text: String,
    /// Whether the tokenizer adds its special tokens.
    pub(super) adds_special_tokens: bool,
    pub(super) place: Place,
    /// What the decoder starts from, if another graph reads the prompt.
    pub(super) start: Option<i64>,
}

/// Where the features of an image go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the text.
    First,
    /// Into the places of this token, which stands once in the text for each feature.
    Token { id: i64, name: String, frame: Option<Frame> },
}

/// The tokens around the parts of an image that is cut into tiles (Idefics3, `SmolVLM`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) border: &'static str,
    pub(super) whole: &'static str,
}

/// The prompt of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) ids: Vec<i64>,
    /// Which of them stand for features, in the order of these.
    pub(super) features: Vec<usize>,
}

impl Prompt {
    /// How many tokens the decoder is given, if that is the same for every image.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Self::Tokens(tokens) => Some(tokens.len()),
            Self::Image(ImagePrompt { start, .. }) => start.map(|_| 1),
            Self::Rows { .. } => None,
        }
    }

    /// The tokens for an image of `features` features, cut up as `grid` says.
    pub(super) fn expand(
        &self,
        tokenizer: &TextTokenizer,
        features: usize,
        grid: Option<TileGrid>,
    ) -> Result<Expanded, tokenizers::Error> {
        let image = match self {
            Self::Tokens(ids) => return Ok(Expanded { ids: ids.clone(), features: Vec::new() }),
            // a row's own prompt is never a template
            Self::Rows { .. } => return Ok(Expanded { ids: Vec::new(), features: Vec::new() }),
            Self::Image(image) => image,
        };
        match &image.place {
            Place::First => {
                let text = tokenizer.encode_whole(&image.text, image.adds_special_tokens)?;
                let ids = std::iter::repeat_n(Self::NO_TOKEN, features).chain(text).collect();
                Ok(Expanded { ids, features: (0..features).collect() })
            }
            Place::Token { id, name, frame } => {
                let slots = name.repeat(features / grid.map_or(1, TileGrid::tiles));
                let around = frame.as_ref().map_or_else(|| slots.clone(), |frame| frame.around(&slots, grid));
                let text = image.text.replacen(name, &around, 1);
                let ids = tokenizer.encode_whole(&text, image.adds_special_tokens)?;
                let places = ids.iter().enumerate().filter(|(_, token)| *token == id).map(|(place, _)| place);
                Ok(Expanded { features: places.collect(), ids })
            }
        }
    }

    /// What the decoder goes on from, after `expanded` was read.
    pub(super) fn prefix(&self, expanded: &Expanded) -> Vec<i64> {
        match self {
            Self::Image(ImagePrompt { start: Some(start), .. }) => vec![*start],
            _ => expanded.ids.clone(),
        }
    }

    /// Stands in a prompt where a feature has no token of its own; no token has this id.
    pub(super) const NO_TOKEN: i64 = -1;
}

impl Frame {
    /// What `SmolVLM` has around tiles.
    pub(super) const SMOLVLM: Self = Self { border: "<fake_token_around_image>", whole: "<global-img>" };

    /// Whether `tokenizer` knows these tokens.
    pub(super) fn is_known(&self, tokenizer: &TextTokenizer) -> bool {
        [self.border, self.whole].iter().all(|token| tokenizer.token_id(token).is_some())
    }
}

impl ImagePrompt {
    pub(super) fn new(text: String, adds_special_tokens: bool, place: Place, start: Option<i64>) -> Self {
        Self { text, adds_special_tokens, place, start }
    }
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
