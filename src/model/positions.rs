//! How many tokens models have positions for. In: the configuration files. Out: the longest text, and the longest caption with its
//! prompt.

use serde_json::{Map, Value};

use super::class_defaults::{class_defaults, model_type};
use super::config::{ConfigFiles, Sourced};
use super::json_file::count;
use super::role::Role;

impl ConfigFiles {
    /// The longest text in tokens that the text encoder takes, special tokens included: the smaller of
    /// `max_position_embeddings` (`config.json`, its `text_config` first; `context_length` of `open_clip`) and `model_max_length`
    /// (`tokenizer_config.json`), or what sentence-transformers gives it.
    pub fn max_text_tokens(&self) -> Option<usize> {
        let find = |name: &str| {
            self.layers.iter().find(|(source, _)| source == name).and_then(|(_, object)| positions(object, false))
        };
        let own = self.towers.get(&Role::Text).and_then(|tower| count(tower.get("max_position_embeddings")?));
        let open_clip = || count(self.config()?.get("text_cfg")?.get("context_length")?);
        let positions =
            own.or_else(|| find("config.json (text_config)")).or_else(|| find(Self::CONFIG)).or_else(open_clip);
        let positions = positions.or_else(|| self.text_positions());
        let sentence = self.sentence_modules.as_ref().and_then(|modules| modules.max_seq_length);
        // transformers writes 1e30 for "no limit"
        let tokenizer = self.tokenizer_config.get("model_max_length").and_then(count).filter(|&limit| limit < 1 << 20);
        // `Siglip2Processor` pads and truncates to 64 whatever the model has
        let processor = (self.model_type() == Some("siglip2")).then_some(64);
        // sentence-transformers gives its own length to the tokenizer
        positions.into_iter().chain(sentence.or(tokenizer)).chain(processor).min()
    }

    /// The positions that the class of the text encoder's configuration has where the files give none: of the section for texts that
    /// `config.json` has, else of the one that its class has, else of its class.
    fn text_positions(&self) -> Option<usize> {
        let config = self.config()?;
        let section = |object: &Map<String, Value>| positions(object.get("text_config")?.as_object()?, true);
        section(config).or_else(|| section(class_defaults(model_type(config)))).or_else(|| positions(config, true))
    }

    /// How many tokens the decoder has positions for: `max_position_embeddings` or `n_positions` of `config.json`'s `decoder` or
    /// `text_config`, else of its top level; where they are not written, the default of the class.
    pub fn decoder_positions(&self) -> Option<Sourced<usize>> {
        let layer = |wanted: &str| {
            let (source, object) = self.layers.iter().find(|(source, _)| source == wanted)?;
            Some(Sourced { value: positions(object, true)?, source: source.clone() })
        };
        layer("config.json (decoder)").or_else(|| layer("config.json (text_config)")).or_else(|| layer(Self::CONFIG))
    }

    /// The positions by which transformers limits the default length of captions: those at the top of `config.json`, or of the text
    /// decoder that BLIP generates with.
    pub fn positions_of_default_length(&self) -> Option<usize> {
        let config = self.config()?;
        let section =
            config.get("text_config").and_then(Value::as_object).filter(|_| model_type(config) == Some("blip"));
        let object = section.unwrap_or(config);
        let own = object.get("max_position_embeddings").and_then(count);
        own.or_else(|| count(class_defaults(model_type(object)).get("max_position_embeddings")?))
    }
}

/// How many tokens a model with the configuration `object` has positions for. `RoBERTa` and its relatives number positions from
/// `pad_token_id + 1` on, so that many of their embeddings are of no token (`create_position_ids_from_input_ids`); BART's and OPT's tables
/// have those rows beyond `max_position_embeddings`.
fn positions(object: &Map<String, Value>, or_default: bool) -> Option<usize> {
    const FROM_PADDING: [&str; 12] = [
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "lilt",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ];
    let kind = model_type(object);
    let of_class = |name: &str| class_defaults(kind).get(name).filter(|_| or_default);
    let named = ["max_position_embeddings", "n_positions"].into_iter().find_map(|name| count(object.get(name)?));
    let rows = named.or_else(|| count(of_class("max_position_embeddings")?))?;
    if !kind.is_some_and(|kind| FROM_PADDING.contains(&kind)) {
        return Some(rows);
    }
    let padding =
        object.get("pad_token_id").and_then(count).or_else(|| count(class_defaults(kind).get("pad_token_id")?));
    Some(rows.saturating_sub(padding.unwrap_or(1) + 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and writes files")]

    use serde_json::{Value, json};

    use super::ConfigFiles;

    #[test]
    fn positions_that_are_counted_from_the_padding_token_leave_fewer_for_captions() {
        let positions = |decoder: Value| {
            let config = json!({"decoder": decoder, "model_type": "vision-encoder-decoder"});
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let mut problems = Vec::new();
            let files = ConfigFiles::read(folder.path(), &std::collections::BTreeMap::new(), &mut problems);
            assert_eq!(problems, []);
            files.decoder_positions().map(|found| found.value)
        };
        let of = |kind: &str, pad: Option<u64>| {
            let mut decoder = json!({"model_type": kind, "max_position_embeddings": 16});
            if let Some(pad) = pad {
                decoder["pad_token_id"] = pad.into();
            }
            positions(decoder)
        };
        assert_eq!(of("bert", Some(1)), Some(16));
        assert_eq!(of("trocr", Some(1)), Some(16));
        assert_eq!(of("opt", None), Some(16));
        for kind in ["roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "data2vec-text", "roberta-prelayernorm"] {
            assert_eq!(of(kind, Some(1)), Some(14), "{kind}");
            assert_eq!(of(kind, None), Some(14), "{kind}");
            assert_eq!(of(kind, Some(3)), Some(12), "{kind}");
        }
        assert_eq!(positions(json!({"model_type": "gpt2"})), Some(1024));
    }
}
