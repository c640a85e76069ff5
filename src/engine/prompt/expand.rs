//! Tokenizes the prompt of one row. In: a prompt in the model's format ([`super::format`]), and how many features its image
//! has. Out: token ids, and which of them stand for image features.

use crate::engine::encode::tokenizer::TextTokenizer;
use crate::preprocess::TileGrid;

/// The prompt of a row in the model's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// The decoder's start token, if it has one, then the tokens of the text.
    Tokens(Vec<i64>),
    /// A text that holds the image.
    Image(ImagePrompt),
}

/// A prompt that holds the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePrompt {
    /// The text before tokenization.
    pub(crate) text: String,
    /// Whether the tokenizer adds its special tokens.
    pub(crate) adds_special_tokens: bool,
    /// Where the image features are.
    pub(crate) image: ImageSlot,
    /// The decoder's start token, if the prompt is the input of an encoder.
    pub(crate) start: Option<i64>,
}

/// Where the image features are in the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageSlot {
    /// Before the text.
    First,
    /// Where the text holds the image token, once; it is repeated for each feature. `tile_tokens` surround the tiles, if there are any.
    Token { id: i64, name: String, tile_tokens: Option<TileTokens> },
}

/// The tokens around the tiles of an image (Idefics3, `SmolVLM`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TileTokens {
    /// Before each tile, and before and after the whole image.
    pub(crate) around_image: &'static str,
    /// Marks the whole image, which follows the tiles.
    pub(crate) global_image: &'static str,
}

/// The prompt of one row as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenizedPrompt {
    pub(crate) ids: Vec<i64>,
    /// The indexes of the ids that stand for image features, in the order of the features.
    pub(crate) image_tokens: Vec<usize>,
    /// The decoder's start token, if the ids are the input of an encoder.
    pub(crate) decoder_start: Option<i64>,
}

impl TokenizedPrompt {
    /// The tokens that the decoder processes before it generates one.
    pub(crate) fn decoder_tokens(&self) -> Vec<i64> {
        self.decoder_start.map_or_else(|| self.ids.clone(), |start| vec![start])
    }
}

impl Prompt {
    /// Stands for an image feature in prompts without an image token; no id of a vocabulary.
    pub(crate) const NO_TOKEN: i64 = -1;

    /// How many tokens the decoder processes before it generates one, if that is the same for every image.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Tokens(tokens) => Some(tokens.len()),
            Self::Image(ImagePrompt { start, .. }) => start.map(|_| 1),
        }
    }

    /// The tokens for an image of `features` features, split into the tiles of `grid`.
    pub(crate) fn tokenize(
        &self,
        tokenizer: &TextTokenizer,
        features: usize,
        grid: Option<TileGrid>,
    ) -> Result<TokenizedPrompt, tokenizers::Error> {
        let ImagePrompt { text, adds_special_tokens, image, start } = match self {
            Self::Tokens(ids) => return Ok(TokenizedPrompt { ids: ids.clone(), ..TokenizedPrompt::default() }),
            Self::Image(prompt) => prompt,
        };
        let (ids, image_tokens) = match image {
            ImageSlot::First => {
                let text = tokenizer.encode_whole(text, *adds_special_tokens)?;
                let ids = std::iter::repeat_n(Self::NO_TOKEN, features).chain(text).collect();
                (ids, (0..features).collect())
            }
            ImageSlot::Token { id, name, tile_tokens } => {
                let tokens = name.repeat(features / grid.map_or(1, TileGrid::tiles));
                let tiles = tile_tokens
                    .as_ref()
                    .map_or_else(|| tokens.clone(), |tile_tokens| tile_tokens.surround(&tokens, grid));
                let ids = tokenizer.encode_whole(&text.replacen(name, &tiles, 1), *adds_special_tokens)?;
                let indexes = ids.iter().enumerate().filter(|(_, token)| *token == id).map(|(index, _)| index);
                let image_tokens = indexes.collect();
                (ids, image_tokens)
            }
        };
        Ok(TokenizedPrompt { ids, image_tokens, decoder_start: *start })
    }
}

impl TileTokens {
    /// Those of `SmolVLM`.
    pub(crate) const SMOLVLM: Self = Self { around_image: "<fake_token_around_image>", global_image: "<global-img>" };

    /// Whether `tokenizer` knows these tokens.
    pub(crate) fn is_known(&self, tokenizer: &TextTokenizer) -> bool {
        [self.around_image, self.global_image].iter().all(|token| tokenizer.token_id(token).is_some())
    }

    /// `tokens` for every tile, with the tokens around tiles (`get_image_prompt_string` in transformers).
    fn surround(&self, tokens: &str, grid: Option<TileGrid>) -> String {
        let Self { around_image, global_image } = self;
        let last = format!("{around_image}{global_image}{tokens}{around_image}");
        let Some(TileGrid { rows: rows @ 1.., columns }) = grid else { return last };
        let mut text = String::new();
        for row in 1..=rows {
            text.extend((1..=columns).map(|column| format!("{around_image}<row_{row}_col_{column}>{tokens}")));
            text.push('\n');
        }
        text + "\n" + &last
    }
}
