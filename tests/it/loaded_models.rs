//! Engines of model directories: fewer graphs, limits of tokens and positions, generation settings, fingerprints.

use std::path::Path;

use nightcap::engine::{
    BeamSettings, EarlyStopping, Engine, EngineOptions, GenerationOverrides, GenerationSettings, JobPrompt, Prompt,
    RowInput, Strategy, StrategyName, caption_fingerprint, embedding_fingerprint,
};
use nightcap::model::{ModelDirectory, Role};
use tempfile::TempDir;

use crate::common::BATCH;
use crate::engine::{pixels, tiny_model};
use crate::generation::fixture;
use crate::model_directory::{copy, write};

#[test]
fn directories_with_fewer_roles_load_and_run() {
    let image = pixels(1);
    let run = |copy: &TempDir, captions: bool| {
        let directory = ModelDirectory::open(copy.path(), None).unwrap();
        let resolve = || GenerationSettings::resolve(&directory, &GenerationOverrides::default()).unwrap();
        let generation = captions.then(resolve);
        let options = EngineOptions {
            threads: 1,
            generation,
            caption_similarity: true,
            wants_fused: true,
            ..EngineOptions::default()
        };
        let mut engine = Engine::load(&directory, options).unwrap();
        let image = directory.takes_images().then(|| engine.encode_images(&[&image]).unwrap().remove(0));
        engine
            .run(&[RowInput { image, text: Some("a red bus".into()), ..RowInput::default() }], BATCH)
            .unwrap()
            .remove(0)
            .unwrap()
    };
    let embedding_only = run(&copy(&["fusion.onnx", "decoder_with_past_model.onnx"]), false);
    assert!(embedding_only.image_text_similarity.is_some() && embedding_only.fused_embedding.is_none());
    let text_only =
        copy(&["vision_model.onnx", "fusion.onnx", "decoder_with_past_model.onnx", "preprocessor_config.json"]);
    let text_only = run(&text_only, false);
    assert!(text_only.text_embedding.is_some() && text_only.image_embedding.is_none());
    // without fusion the decoder attends to the image's own states
    let captions_only = run(&copy(&["fusion.onnx", "text_model.onnx"]), true);
    assert!(captions_only.caption.is_some_and(|caption| caption.tokens > 0 && caption.similarity.is_none()));
}

#[test]
fn a_long_text_is_cut_at_what_the_encoder_takes() {
    // the tokenizer's own limit taken away, config.json's max_position_embeddings (16) is left
    let copy = copy(&["vision_model.onnx", "fusion.onnx", "decoder_with_past_model.onnx"]);
    let embed = |folder: &Path| {
        let directory = ModelDirectory::open(folder, None).unwrap();
        let mut engine = Engine::load(&directory, EngineOptions { images: false, ..EngineOptions::default() }).unwrap();
        let rows = ["the dog ".repeat(30), "snow".into()].map(|text| RowInput {
            image: None,
            text: Some(text),
            ..RowInput::default()
        });
        let outputs = engine.run(&rows, BATCH).unwrap();
        outputs.into_iter().map(|output| output.unwrap().text_embedding.unwrap()).collect::<Vec<_>>()
    };
    let cut_by_tokenizer = embed(&tiny_model());
    let file = copy.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(tokenizer["truncation"]["max_length"], 16);
    tokenizer["truncation"] = serde_json::Value::Null;
    tokenizer["padding"] = serde_json::Value::Null;
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    assert_eq!(embed(copy.path()), cut_by_tokenizer);
}

#[test]
fn captions_of_a_model_without_a_decoder_are_refused() {
    let directory = ModelDirectory::open(&tiny_model(), None).unwrap();
    let generation = Some(GenerationSettings::resolve(&directory, &GenerationOverrides::default()).unwrap());
    let copy = copy(&["decoder_with_past_model.onnx"]);
    let embeds = ModelDirectory::open(copy.path(), None).unwrap();
    let error = Engine::load(&embeds, EngineOptions { generation, ..EngineOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("there is no decoder_with_past_model.onnx"), "{error}");
}

#[test]
fn generation_settings_come_from_the_files_and_then_the_job() {
    let copy = copy(&[]);
    let resolve = |overrides: &GenerationOverrides| {
        GenerationSettings::resolve(&ModelDirectory::open(copy.path(), None).unwrap(), overrides)
    };
    let plain = resolve(&GenerationOverrides::default()).unwrap();
    assert_eq!((plain.max_new_tokens, &plain.prompt), (12, &JobPrompt::Fixed(Prompt::Tokens(vec![2]))));
    assert_eq!(plain.eos_token_ids, [3]);
    let shorter = resolve(&GenerationOverrides { max_new_tokens: Some(5), ..GenerationOverrides::default() }).unwrap();
    assert_eq!(shorter.max_new_tokens, 5);

    // transformers counts the start token into max_length; the decoder's section gives what the top level leaves open
    std::fs::remove_file(copy.path().join("generation_config.json")).unwrap();
    write(
        &copy,
        "config.json",
        r#"{"max_length": 20, "bos_token_id": 2, "num_beams": 4, "repetition_penalty": 0.0, "num_beam_groups": 2,
            "suppress_tokens": [], "early_stopping": "sometimes", "bad_words_ids": [3],
            "decoder": {"max_length": 9, "eos_token_id": [3, 5], "bos_token_id": null, "n_positions": 16}}"#,
    );
    let said = resolve(&GenerationOverrides::default()).unwrap_err().to_string();
    insta::assert_snapshot!(said.replace(&copy.path().display().to_string(), "DIR"), @r#"
    the model directory DIR cannot run:
    config.json: early_stopping: expected true, false or "never", found "sometimes"
    config.json: num_beam_groups = 2 is not supported
      hint: take it out of config.json to generate captions without it
    config.json: repetition_penalty: expected a number above 0, found 0
    "#);
    write(
        &copy,
        "config.json",
        r#"{"max_length": 20, "bos_token_id": 2, "num_beams": 4, "repetition_penalty": 1.3, "suppress_tokens": [],
            "early_stopping": true, "forced_eos_token_id": 3, "bad_words_ids": [[7], [8, 9]],
            "decoder": {"max_length": 9, "eos_token_id": [3, 5], "bos_token_id": null, "n_positions": 16}}"#,
    );
    let files = resolve(&GenerationOverrides::default()).unwrap();
    let beams = BeamSettings { num_beams: 4, length_penalty: 1.0, early_stopping: EarlyStopping::True };
    assert_eq!(files.strategy, Strategy::Beam(beams));
    assert_eq!((files.repetition_penalty, files.forced_eos_token_ids.as_slice()), (1.3, [3].as_slice()));
    assert_eq!(files.bad_words_ids, [vec![7], vec![8, 9]]);
    let unused = GenerationOverrides { seed: Some(1), ..GenerationOverrides::default() };
    let said = resolve(&unused).unwrap_err().to_string();
    assert!(said.contains("seed has no effect on strategy = \"beam\""), "{said}");
    let prompt = GenerationOverrides { prompt: Some("a red bus".into()), ..GenerationOverrides::default() };
    let prompted = resolve(&prompt).unwrap();
    let JobPrompt::Fixed(Prompt::Tokens(tokens)) = &prompted.prompt else { panic!("{:?}", prompted.prompt) };
    assert_eq!((tokens.len(), prompted.max_new_tokens), (4, 5), "max_length counts the prompt");
    let neutral = GenerationOverrides { strategy: Some(StrategyName::Greedy), ..GenerationOverrides::default() };
    let settings = resolve(&neutral).unwrap();
    assert_eq!((settings.max_new_tokens, &settings.prompt), (8, &JobPrompt::Fixed(Prompt::Tokens(vec![2]))));
    assert_eq!(settings.eos_token_ids, [3, 5]);
    let long = GenerationOverrides { max_new_tokens: Some(17), ..neutral.clone() };
    let said = resolve(&long).unwrap_err().to_string();
    assert!(said.contains("max_new_tokens is 17, but config.json (decoder) gives the decoder 16 positions"), "{said}");
    assert!(resolve(&GenerationOverrides { min_new_tokens: Some(9), ..neutral.clone() }).is_err());
    let one = GenerationOverrides { strategy: Some(StrategyName::Beam), num_beams: Some(1), ..neutral };
    assert!(resolve(&one).unwrap_err().to_string().contains("needs num_beams of 2 or more, found 1"));
}

#[test]
fn positions_are_limited_where_the_graphs_have_a_table_of_them() {
    for (family, decoder, encoder) in [
        ("blip", Some(32), None),
        ("git", Some(32), None),
        ("trocr", Some(32), None),
        ("vit_gpt2", Some(32), None),
        ("coca", Some(16), None),
        ("florence2", Some(128), Some(128)),
        ("llava", None, None),
        ("smolvlm", None, None),
    ] {
        let directory = ModelDirectory::open(&fixture(family), None).unwrap();
        let limit = |roles: &[Role]| directory.position_limit(roles).map(|limit| limit.value);
        assert_eq!(limit(&[Role::Prefill, Role::Decoder]), decoder, "{family}");
        assert_eq!(limit(&[Role::Encoder]), encoder, "{family}");
    }
    let directory = ModelDirectory::open(&fixture("trocr"), None).unwrap();
    let resolve = |max_new_tokens| {
        let overrides = GenerationOverrides { max_new_tokens: Some(max_new_tokens), ..GenerationOverrides::default() };
        GenerationSettings::resolve(&directory, &overrides)
    };
    assert_eq!(resolve(32).unwrap().max_new_tokens, 32);
    let said = resolve(33).unwrap_err().to_string();
    assert!(said.contains("max_new_tokens is 33, but config.json (decoder) gives the decoder 32 positions"), "{said}");
    assert!(said.contains("hint: set max_new_tokens to at most 32"), "{said}");
}

#[test]
fn fingerprints_follow_what_decides_the_result() {
    let original = ModelDirectory::open(&tiny_model(), None).unwrap();
    let both = |directory: &ModelDirectory| {
        let settings = GenerationSettings::resolve(directory, &GenerationOverrides::default()).unwrap();
        let caption = caption_fingerprint(directory, &settings, false, None).unwrap();
        (caption, embedding_fingerprint(directory, false, false).unwrap())
    };
    let (caption, embedding) = both(&original);
    assert_eq!((caption.len(), embedding.len()), (33, 33));
    assert_ne!(caption, embedding);
    assert_eq!(both(&ModelDirectory::open(copy(&[]).path(), None).unwrap()), (caption.clone(), embedding.clone()));

    let changed = |name: &str| {
        let copy = copy(&[]);
        let mut bytes = std::fs::read(copy.path().join(name)).unwrap();
        // a weight or a blank, in the middle of the file; nothing that changes what is declared
        let place = bytes.len() / 2;
        match name.rsplit_once('.') {
            Some((_, "json")) => bytes.push(b' '),
            _ => bytes[place] ^= 1,
        }
        std::fs::write(copy.path().join(name), bytes).unwrap();
        both(&ModelDirectory::open(copy.path(), None).unwrap())
    };
    for name in ["vision_model.onnx", "text_model.onnx", "tokenizer.json", "preprocessor_config.json"] {
        let (new_caption, new_embedding) = changed(name);
        assert!(new_caption != caption && new_embedding != embedding, "{name}");
    }
    let (new_caption, same_embedding) = changed("decoder_with_past_model.onnx");
    assert!(new_caption != caption && same_embedding == embedding);
    assert_eq!(changed("generation_config.json"), (caption, embedding), "it counts through the resolved settings");
}
