//! What is read out of config.json and `generation_config.json`, and whether it is obeyed, against transformers
//! (`tests/goldens/generation_files.json`); and decoders whose inputs are not those of every export.

use std::path::Path;

use nightcap::engine::{
    Engine, EngineOptions, GenerationOverrides, GenerationSettings, RowInput, Strategy, StrategyName,
};
use nightcap::model::{ModelDirectory, inspect};
use nightcap::onnx::Device;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::common::repo;
use crate::generation::{captions, fixture, goldens, layout, overrides, photographs};
use crate::graph_writer::{attribute, bytes, constant, directory, model, node, number, port, port_of_any_size};
use crate::small_graphs::{cached_decoder, encode};

/// A null that is written to a file; a plain null takes a setting out.
const NULL: &str = "null!";

fn cases() -> Value {
    serde_json::from_slice(&std::fs::read(repo("tests/goldens/generation_files.json")).unwrap()).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `object` with the settings of `patch`; a dot leads into a section.
fn patched(mut object: Value, patch: &Value) -> Value {
    for (name, value) in patch.as_object().unwrap() {
        let (section, last) =
            name.split_once('.').map_or((None, name.as_str()), |(section, last)| (Some(section), last));
        let target = match section {
            Some(section) => &mut object[section],
            None => &mut object,
        };
        let target = target.as_object_mut().unwrap();
        if value.is_null() {
            target.remove(last);
        } else {
            let value = if value == NULL { Value::Null } else { value.clone() };
            target.insert(last.to_owned(), value);
        }
    }
    object
}

/// Writes the files of a case into `folder`.
fn write_files(folder: &Path, case: &Value) {
    let config = read(&fixture(case["model"].as_str().unwrap()).join("config.json"));
    std::fs::write(folder.join("config.json"), patched(config, &case["config"]).to_string()).unwrap();
    let generation = folder.join("generation_config.json");
    std::fs::remove_file(&generation).ok();
    if !case["generation"].is_null() {
        let made = patched(Value::Object(Map::new()), &case["generation"]);
        std::fs::write(&generation, made.to_string()).unwrap();
    }
}

#[test]
fn settings_come_from_the_files_that_transformers_reads_and_are_obeyed_or_refused() {
    let (cases, goldens) = (cases(), goldens());
    let (mut wrong, mut worst, mut ran, mut refused): (Vec<String>, f64, usize, usize) = (Vec::new(), 0.0, 0, 0);
    for name in ["vit_gpt2", "trocr"] {
        let folder = layout(name, &["encoder_model.onnx", "decoder_model_merged.onnx"], "");
        let all = photographs(folder.path(), &goldens, name);
        let images: Vec<_> = cases["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|index| all[index.as_u64().unwrap() as usize].clone())
            .collect();
        for case in cases["cases"].as_array().unwrap().iter().filter(|case| case["model"] == name) {
            write_files(folder.path(), case);
            let what = format!("{name}, {}", case["name"]);
            let model = ModelDirectory::open(folder.path(), None).unwrap();
            let settings = GenerationSettings::resolve(&model, &overrides(&case["job"]));
            if let Some(setting) = case["refused"].as_str() {
                refused += 1;
                match settings {
                    Err(error) if error.to_string().contains(setting) => {}
                    found => wrong.push(format!("{what}: expected {setting} to be refused, found {found:?}")),
                }
                continue;
            }
            let settings = match settings {
                Ok(settings) => settings,
                Err(error) => {
                    wrong.push(format!("{what}: {error}"));
                    continue;
                }
            };
            ran += 1;
            let options = EngineOptions {
                device: Device::Cpu,
                threads: 1,
                generation: Some(settings),
                ..EngineOptions::default()
            };
            let mut engine = Engine::load(&model, options).unwrap();
            let made = captions(&mut engine, &images, 12);
            for (caption, golden) in made.iter().zip(case["rows"].as_array().unwrap()) {
                let tokens: Vec<i64> = serde_json::from_value(golden[0].clone()).unwrap();
                if caption.token_ids == tokens {
                    worst = worst.max((f64::from(caption.logprob) - golden[1].as_f64().unwrap()).abs());
                } else {
                    wrong.push(format!("{what}: expected {tokens:?}, found {:?}", caption.token_ids));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ran + refused, wrong.join("\n"));
    assert!(ran > 150 && refused > 50, "{ran} cases ran, {refused} were refused");
    assert!(worst < 1e-4, "log-probabilities differ by {worst}");
}

/// A directory of `trocr` with these files.
fn trocr(config: &Value, generation: &Value) -> TempDir {
    let folder = layout("trocr", &["encoder_model.onnx", "decoder_model_merged.onnx"], "");
    write_files(folder.path(), &json!({"model": "trocr", "config": config, "generation": generation}));
    folder
}

#[test]
fn a_null_of_a_sampling_setting_switches_its_filter_off() {
    let given = |generation: Value| {
        let folder = trocr(&json!({}), &generation);
        let model = ModelDirectory::open(folder.path(), None).unwrap();
        let settings = GenerationSettings::resolve(&model, &GenerationOverrides::default()).unwrap();
        match settings.strategy {
            Strategy::Sample(sampling) => sampling,
            other => panic!("expected sampling, found {other:?}"),
        }
    };
    let plain = json!({"do_sample": true, "decoder_start_token_id": 2, "eos_token_id": 2});
    assert_eq!(given(plain.clone()).top_k, 50);
    let nulls = ["top_k", "top_p", "temperature", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"];
    let mut none = plain.clone();
    for name in nulls {
        none[name] = NULL.into();
    }
    let none = given(none);
    assert_eq!(none, nightcap::engine::SampleSettings::default());
    let kept = json!({"typical_p": 0.4, "epsilon_cutoff": 0.1, "eta_cutoff": 0.2, "top_p": 7.0, "top_k": 0});
    let kept = given(patched(plain, &kept));
    assert_eq!((kept.typical_p, kept.epsilon_cutoff, kept.eta_cutoff, kept.top_p, kept.top_k), (0.4, 0.1, 0.2, 1.0, 0));
}

#[test]
fn inspect_tells_which_settings_have_no_effect() {
    let generation = json!({"decoder_start_token_id": 2, "eos_token_id": 2, "made_up": 1, "use_cache": false, "num_beams": 2,
        "begin_index": NULL});
    let folder = trocr(&json!({"length_penalty": 3.0}), &generation);
    let shown = inspect(folder.path(), None).to_string();
    for line in [
        "  made_up = 1  (generation_config.json; no setting of transformers: it has no effect)",
        "  use_cache = false  (generation_config.json; no effect: changes only how fast transformers is, or how much memory it takes)",
        "  num_beams = 2  (generation_config.json)",
        "  begin_index = null  (generation_config.json; no setting of transformers: it has no effect)",
    ] {
        assert!(shown.contains(line), "{line:?} is not in:\n{shown}");
    }
    assert!(!shown.contains("length_penalty"), "{shown}");
}

fn vision() -> Vec<u8> {
    let axes = [attribute("axes", 7, &[number(8, 1), number(8, 2)].concat()), attribute("keepdims", 2, &number(3, 0))];
    model(&[
        node("ReduceMean", &["pixel_values"], "image_embeds", &axes.concat()),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_embeds", 1, &[0, 4]),
    ])
}

/// The captions of two rows by this decoder, with prompts of several tokens.
fn of_decoder(decoder: Vec<u8>) -> Vec<Vec<i64>> {
    let folder = directory(&[("vision_model.onnx", vision()), ("decoder_with_past_model.onnx", decoder)]);
    let model = ModelDirectory::open(folder.path(), None).unwrap();
    let overrides = GenerationOverrides { prompt: Some("one three two".to_owned()), ..GenerationOverrides::default() };
    let generation = Some(GenerationSettings::resolve(&model, &overrides).unwrap());
    let mut engine =
        Engine::load(&model, EngineOptions { threads: 1, generation, ..EngineOptions::default() }).unwrap();
    let images = encode(&mut engine, &[[0.0, 1.0, 4.0, 4.0], [1.0, 1.0, 0.5, 1.0]]);
    let rows: Vec<_> = images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
    let captions = engine.run(&rows, 2).unwrap().into_iter().map(|row| row.unwrap().caption.unwrap().token_ids);
    captions.collect()
}

#[test]
fn ids_masks_and_positions_are_given_in_the_type_that_a_decoder_takes() {
    assert_eq!(of_decoder(cached_decoder(true, true, 6)), of_decoder(cached_decoder(true, true, 7)));
}

#[test]
fn inputs_of_newer_exports_are_fed() {
    let plain = of_decoder(cached_decoder(true, true, 7));
    for (name, kind, axes) in [
        ("num_logits_to_keep", 7, &[][..]),
        ("num_logits_to_keep", 7, &[1]),
        ("logits_to_keep", 6, &[]),
        ("cache_position", 7, &[0]),
    ] {
        // messages of one kind that follow each other are one
        let more = bytes(7, &port_of_any_size(11, name, kind, axes));
        let decoder = [cached_decoder(true, true, 7), more].concat();
        assert_eq!(of_decoder(decoder), plain, "{name} {axes:?}");
    }
}

#[test]
fn a_decoder_that_was_exported_for_a_number_of_rows_runs_on_so_many_at_a_time() {
    let decoder = |batch: u64| {
        model(&[
            node("Sqrt", &["encoder_hidden_states"], "logits", &[]),
            port(11, "input_ids", 7, &[batch, 0]),
            port(11, "encoder_hidden_states", 1, &[batch, 0, 4]),
            port(12, "logits", 1, &[batch, 0, 4]),
        ])
    };
    let axes = [attribute("axes", 7, &number(8, 1)), attribute("keepdims", 2, &number(3, 0))].concat();
    let states = model(&[
        node("ReduceMean", &["pixel_values"], "last_hidden_state", &axes),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "last_hidden_state", 1, &[0, 0, 4]),
    ]);
    let open = |batch: u64| directory(&[("vision_model.onnx", states.clone()), ("decoder_model.onnx", decoder(batch))]);
    let resolve = |folder: &TempDir, num_beams: Option<usize>| {
        let strategy = num_beams.map(|_| StrategyName::Beam);
        let model = ModelDirectory::open(folder.path(), None).unwrap();
        GenerationSettings::resolve(
            &model,
            &GenerationOverrides { num_beams, strategy, ..GenerationOverrides::default() },
        )
    };
    let run = |folder: &TempDir, num_beams: Option<usize>| {
        let model = ModelDirectory::open(folder.path(), None).unwrap();
        let generation = Some(resolve(folder, num_beams).unwrap());
        let options = EngineOptions { threads: 1, generation, ..EngineOptions::default() };
        let mut engine = Engine::load(&model, options).unwrap();
        let images = encode(&mut engine, &[[0.0, 1.0, 4.0, 4.0], [1.0, 1.0, 0.5, 1.0], [9.0, 9.0, 1.0, 0.0]]);
        let rows: Vec<_> =
            images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
        let rows = engine.run(&rows, 8).unwrap().into_iter().map(|row| row.unwrap().caption.unwrap().token_ids);
        rows.collect::<Vec<_>>()
    };
    let fixed = open(1);
    assert_eq!(run(&fixed, None), run(&open(0), None));
    assert!(inspect(fixed.path(), None).to_string().contains("one row at a time, because its batch is fixed"));
    assert_eq!(run(&open(4), None), run(&open(0), None));
    assert_eq!(run(&fixed, Some(3)), run(&open(0), Some(3)));
    assert_eq!(run(&open(4), Some(3)), run(&open(0), Some(3)));
}

/// An embedding graph that gives `repeats` vectors for every id.
fn embed_tokens(repeats: usize) -> Vec<u8> {
    let cast = attribute("to", 2, &number(3, 1));
    let axis = |axis: u64| attribute("axis", 2, &number(3, axis));
    let wide = ["key"; 4];
    let long = vec!["vectors"; repeats];
    model(&[
        node("Cast", &["input_ids"], "float ids", &cast),
        node("Unsqueeze", &["float ids", "two"], "key", &[]),
        node("Concat", &wide, "vectors", &axis(2)),
        node("Concat", &long, "inputs_embeds", &axis(1)),
        port_of_any_size(11, "input_ids", 7, &[0, 0]),
        port_of_any_size(12, "inputs_embeds", 1, &[0, 0, 4]),
        constant("two", 2),
    ])
}

#[test]
fn an_embedding_graph_that_gives_another_number_of_vectors_is_an_error() {
    let image = [attribute("axes", 7, &number(8, 1)), attribute("keepdims", 2, &number(3, 0))];
    let features = model(&[
        node("ReduceMean", &["pixel_values"], "image_features", &image.concat()),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_features", 1, &[0, 0, 4]),
    ]);
    let decoder = model(&[
        node("Identity", &["inputs_embeds"], "logits", &[]),
        port_of_any_size(11, "inputs_embeds", 1, &[0, 0, 4]),
        port_of_any_size(12, "logits", 1, &[0, 0, 4]),
    ]);
    let run = |repeats: usize| {
        let folder = directory(&[
            ("vision_encoder.onnx", features.clone()),
            ("embed_tokens.onnx", embed_tokens(repeats)),
            ("decoder_model.onnx", decoder.clone()),
        ]);
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llava", "image_token_id": 3}"#).unwrap();
        let model = ModelDirectory::open(folder.path(), None).unwrap();
        let overrides =
            GenerationOverrides { prompt: Some("one three two".to_owned()), ..GenerationOverrides::default() };
        let generation = Some(GenerationSettings::resolve(&model, &overrides).unwrap());
        let options = EngineOptions { threads: 1, generation, ..EngineOptions::default() };
        let mut engine = Engine::load(&model, options).unwrap();
        let images = encode(&mut engine, &[[0.0, 1.0, 4.0, 4.0]]);
        let rows: Vec<_> =
            images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
        engine.run(&rows, 1).map(|rows| rows.len()).map_err(|error| error.to_string())
    };
    // A tokenizer of LLaVA puts a token in front. The embeddings fit; but without a cache, the next step would embed the image's tokens as text
    let error = run(1).unwrap_err();
    assert!(error.contains("expected a decoder with a cache, because the prompt holds an image"), "{error}");
    let error = run(2).unwrap_err();
    assert!(error.contains("expected \"inputs_embeds\" [1, 4, width]") && error.contains("found [1, 8, 4]"), "{error}");
}

#[test]
fn a_length_that_counts_the_prompt_is_counted_for_each_row() {
    let folder =
        trocr(&json!({}), &json!({"decoder_start_token_id": 2, "max_length": 6, "pad_token_id": 1, "bos_token_id": 0}));
    let model = ModelDirectory::open(folder.path(), None).unwrap();
    let overrides = GenerationOverrides {
        prompt: Some("{{ prompt }}".to_owned()),
        strategy: Some(StrategyName::Greedy),
        ..GenerationOverrides::default()
    };
    let generation = Some(GenerationSettings::resolve(&model, &overrides).unwrap());
    let mut engine =
        Engine::load(&model, EngineOptions { threads: 1, generation, ..EngineOptions::default() }).unwrap();
    let images = photographs(folder.path(), &goldens(), "trocr");
    let features = engine.encode_images(&images.iter().take(3).collect::<Vec<_>>()).unwrap();
    let rows: Vec<_> = features
        .into_iter()
        .zip(["ba", "baba", "babababa di di"])
        .map(|(image, prompt)| RowInput { image: Some(image), prompt: Some(prompt.to_owned()), ..RowInput::default() })
        .collect();
    let made = engine.run(&rows, 3).unwrap();
    let tokens: Vec<_> =
        made.iter().map(|row| row.as_ref().map(|row| row.caption.as_ref().unwrap().tokens).ok()).collect();
    assert_eq!(tokens, [Some(4), Some(3), None]);
    let error = made[2].as_ref().unwrap_err();
    assert!(error.message.contains("max_length is 6"), "{error:?}");
}
