//! Every strategy against what transformers' `generate` says (`tests/goldens/generation.json`), over every layout that
//! optimum exports, in batches of 1, 3 and 8.

use std::path::{Path, PathBuf};

use half::f16;
use nightcap::engine::{
    Caption, EarlyStopping, Engine, EngineOptions, GenerationOverrides, GenerationSettings, RowInput, StrategyName,
};
use nightcap::model::{ModelDirectory, inspect};
use nightcap::onnx::Device;
use nightcap::preprocess::{DecodeLimits, ImageProcessor, PixelValues, decode};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Workplace, devices, repo, strings as strings_column, write_parquet};

pub(crate) const MODELS: [&str; 2] = ["vit_gpt2", "trocr"];
/// The graphs of each layout.
pub(crate) const LAYOUTS: [(&str, &[&str]); 3] = [
    ("one that branches", &["encoder_model.onnx", "decoder_model_merged.onnx"]),
    ("one for the prefill", &["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"]),
    ("no cache", &["encoder_model.onnx", "decoder_model.onnx"]),
];
/// Sizes of batches, and which cases of the goldens.
pub(crate) type Chosen = (&'static [usize], fn(&str) -> bool);
pub(crate) const ALL: Chosen = (&[1, 3, 8], |_| true);
/// How far a caption's log-probability may be from `PyTorch`'s.
pub(crate) const TOLERANCE: f64 = 1e-4;

pub(crate) fn goldens() -> Value {
    serde_json::from_slice(&std::fs::read(repo("tests/goldens/generation.json")).unwrap()).unwrap()
}

pub(crate) fn fixture(model: &str) -> PathBuf {
    repo("tests/fixtures/models").join(model)
}

/// A copy of `model` with only the graphs `files`, which go to the folder `beside` of it.
pub(crate) fn layout(model: &str, files: &[&str], beside: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(copy.path().join(beside)).unwrap();
    for entry in std::fs::read_dir(fixture(model)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains(".onnx") && files.contains(&name.trim_end_matches("_data")) {
            std::fs::copy(&path, copy.path().join(beside).join(name)).unwrap();
        } else if path.extension().is_some_and(|extension| extension == "json") {
            std::fs::copy(&path, copy.path().join(name)).unwrap();
        }
    }
    copy
}

pub(crate) fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The photographs' pixel values, which must be those that the golden tokens were made of.
pub(crate) fn photographs(folder: &Path, goldens: &Value, model: &str) -> Vec<PixelValues> {
    let directory = ModelDirectory::open(folder, None).or_else(|_| ModelDirectory::open(folder, Some("fp16"))).unwrap();
    let processor = ImageProcessor::from_config(&directory.preprocessor().unwrap().value).unwrap();
    let probes = goldens["models"][model]["pixels"].as_array().unwrap();
    let photos = strings(&goldens["photos"]).into_iter().zip(probes).map(|(name, probes)| {
        let bytes = std::fs::read(repo("sample_data/photos").join(&name)).unwrap();
        let image = decode(&bytes, DecodeLimits { max_image_pixels: 100_000_000 }).unwrap();
        let pixels = processor.process(&image);
        for (place, probe) in [0, 517, 1500, 2222, 3071].into_iter().zip(probes.as_array().unwrap()) {
            assert!(
                (f64::from(pixels.data.to_f32()[place]) - probe.as_f64().unwrap()).abs() < 1e-5,
                "{name} at {place}"
            );
        }
        pixels
    });
    photos.collect()
}

pub(crate) fn overrides(settings: &Value) -> GenerationOverrides {
    let number = |name: &str| settings[name].as_f64();
    let count = |name: &str| settings[name].as_u64().map(|count| count as usize);
    let early_stopping = match &settings["early_stopping"] {
        Value::Null => None,
        Value::Bool(true) => Some(EarlyStopping::True),
        Value::Bool(false) => Some(EarlyStopping::False),
        _ => Some(EarlyStopping::Never),
    };
    GenerationOverrides {
        max_new_tokens: count("max_new_tokens"),
        min_new_tokens: count("min_new_tokens"),
        num_beams: count("num_beams"),
        length_penalty: number("length_penalty"),
        early_stopping,
        repetition_penalty: number("repetition_penalty"),
        no_repeat_ngram_size: count("no_repeat_ngram_size"),
        stop: (!settings["stop"].is_null()).then(|| strings(&settings["stop"])),
        prompt: settings["prompt"].as_str().map(str::to_owned),
        ..GenerationOverrides::default()
    }
}

/// The model's `generation_config.json`, overlaid with `files`.
fn with_files(model: &str, files: &Value) -> Value {
    let config = std::fs::read(fixture(model).join("generation_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (name, value) in files.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    config
}

pub(crate) fn engine(folder: &Path, precision: Option<&str>, overrides: &GenerationOverrides) -> Engine {
    engine_on(devices()[0], folder, precision, overrides)
}

fn engine_on(device: Device, folder: &Path, precision: Option<&str>, overrides: &GenerationOverrides) -> Engine {
    let directory = ModelDirectory::open(folder, precision).unwrap();
    let generation = Some(GenerationSettings::resolve(&directory, overrides).unwrap());
    Engine::load(&directory, EngineOptions { device, threads: 1, generation, ..EngineOptions::default() }).unwrap()
}

/// The caption of every image, in batches of `size`; the row's key is its number.
pub(crate) fn captions(engine: &mut Engine, images: &[PixelValues], size: usize) -> Vec<Caption> {
    let features = engine.encode_images(&images.iter().collect::<Vec<_>>()).unwrap();
    let rows: Vec<_> = features
        .into_iter()
        .zip(0..)
        .map(|(image, key)| RowInput { image: Some(image), key, ..RowInput::default() })
        .collect();
    engine.run(&rows, size).unwrap().into_iter().map(|row| row.unwrap().caption.unwrap()).collect()
}

/// The chosen cases of `model` in its directory `folder`, in batches of `sizes`; returns how far a log-probability is off.
pub(crate) fn assert_golden_captions(
    goldens: &Value,
    model: &str,
    layout_name: &str,
    folder: &Path,
    (sizes, chosen): Chosen,
) -> f64 {
    let mut worst: f64 = 0.0;
    let images = photographs(folder, goldens, model);
    let cases = goldens["models"][model]["cases"].as_array().unwrap();
    for case in cases.iter().filter(|case| chosen(case["name"].as_str().unwrap())) {
        let settings = &case["settings"];
        let config = with_files(model, &settings["files"]);
        std::fs::write(folder.join("generation_config.json"), config.to_string()).unwrap();
        let beams = settings["num_beams"].as_u64().or(config["num_beams"].as_u64()).unwrap_or(1) as usize;
        for device in devices() {
            let mut engine = engine_on(device, folder, None, &overrides(settings));
            for &size in sizes {
                let what = format!("{model}, {layout_name}, {}, batches of {size}, {device}", case["name"]);
                let made = captions(&mut engine, &images, size * beams);
                for (caption, golden) in made.iter().zip(case["rows"].as_array().unwrap()) {
                    let tokens: Vec<i64> = serde_json::from_value(golden["tokens"].clone()).unwrap();
                    assert_eq!(caption.token_ids, tokens, "{what}");
                    assert_eq!(caption.tokens as usize, tokens.len(), "{what}");
                    assert_eq!(golden["finish"], caption.finish.as_str(), "{what}");
                    assert_eq!(golden["text"], caption.text, "{what}");
                    worst = worst.max((f64::from(caption.logprob) - golden["logprob"].as_f64().unwrap()).abs());
                }
                assert_eq!(made.len(), images.len());
            }
        }
    }
    worst
}

#[test]
fn every_caption_is_what_transformers_says() {
    let goldens = goldens();
    let mut worst: f64 = 0.0;
    for model in MODELS {
        for (layout_name, files) in LAYOUTS {
            let folder = layout(model, files, "");
            worst = worst.max(assert_golden_captions(&goldens, model, layout_name, folder.path(), ALL));
        }
    }
    println!("largest difference of a log-probability: {worst}");
    assert!(worst < TOLERANCE, "log-probabilities differ by {worst}");
}

#[test]
fn goldens_cover_every_end_and_differ() {
    let goldens = goldens();
    let rows = |model: &str, case: &str| -> Vec<Value> {
        let cases = goldens["models"][model]["cases"].as_array().unwrap();
        cases.iter().find(|found| found["name"] == case).unwrap()["rows"].as_array().unwrap().clone()
    };
    let count = |rows: &[Value], finish: &str| rows.iter().filter(|row| row["finish"] == finish).count();
    for case in ["greedy", "beam"] {
        let rows = rows("vit_gpt2", case);
        assert!(count(&rows, "eos") >= 2 && count(&rows, "length") >= 2, "both ends in one batch");
    }
    assert!(count(&rows("vit_gpt2", "stop"), "stop") >= 2 && count(&rows("vit_gpt2", "beam_stop"), "stop") >= 2);
    for model in MODELS {
        for (a, b) in [("greedy", "beam"), ("beam", "beam_long"), ("greedy", "processed"), ("beam", "beam_prompt")] {
            assert_ne!(rows(model, a), rows(model, b), "{model}: {a} and {b}");
        }
    }
}

#[test]
fn float16_graphs_with_external_weights_run_from_the_onnx_folder() {
    let goldens = goldens();
    let files = ["encoder_model_fp16.onnx", "decoder_with_past_model_fp16.onnx"];
    let folder = layout("vit_gpt2", &files, "onnx");
    assert!(folder.path().join("onnx/encoder_model_fp16.onnx_data").is_file());
    let images = photographs(folder.path(), &goldens, "vit_gpt2");
    let half = |image: &PixelValues| {
        let data: Vec<_> = image.data.to_f32().iter().map(|&value| f16::from_f32(value)).collect();
        PixelValues { data: data.into(), ..image.clone() }
    };
    let halves: Vec<_> = images.iter().map(half).collect();
    let case = &goldens["models"]["vit_gpt2"]["cases"][0];
    for device in devices() {
        let mut engine = engine_on(device, folder.path(), Some("fp16"), &GenerationOverrides::default());
        let made = captions(&mut engine, &images, 8);
        assert_eq!(captions(&mut engine, &halves, 8), made, "pixels that are rounded before and during the run");
        let rows = case["rows"].as_array().unwrap();
        let same: Vec<_> = made.iter().zip(rows).filter(|(caption, golden)| golden["text"] == caption.text).collect();
        assert!(same.len() >= 6, "float16 may change a token or two, not {} captions of 8", 8 - same.len());
        for (caption, golden) in same {
            let difference = f64::from(caption.logprob) - golden["logprob"].as_f64().unwrap();
            assert!(difference.abs() < 0.2 && difference.abs() > 0.0, "{difference}");
        }
    }
}

#[test]
fn draws_depend_on_seed_and_key_and_not_on_the_batch() {
    let goldens = goldens();
    let folder = fixture("trocr");
    let images = photographs(&folder, &goldens, "trocr");
    let sample = |seed, size, images: &[PixelValues]| {
        let strategy = Some(StrategyName::Sample);
        let overrides =
            GenerationOverrides { strategy, seed: Some(seed), top_k: Some(20), ..GenerationOverrides::default() };
        let mut engine = engine(&folder, None, &overrides);
        captions(&mut engine, images, size).into_iter().map(|caption| caption.token_ids).collect::<Vec<_>>()
    };
    let alone = sample(1, 1, &images);
    assert_eq!(sample(1, 3, &images), alone);
    assert_eq!(sample(1, 8, &images), alone);
    assert_ne!(sample(2, 8, &images), alone);
    let equal = vec![images[0].clone(); 8];
    let drawn: std::collections::HashSet<_> = sample(1, 8, &equal).into_iter().collect();
    assert!(drawn.len() > 4, "rows of other keys draw for themselves, found {}", drawn.len());
}

#[test]
fn a_run_draws_for_every_key_whatever_the_batch_size() {
    let workplace = Workplace::with_images(1, 10);
    let ids = (0..8).map(|row| Some(format!("key-{row}")));
    let image = (0..8).map(|_| Some("photos/0.png"));
    write_parquet(
        &workplace.path("manifest.parquet"),
        vec![("id", strings_column(ids)), ("image", strings_column(image))],
        8,
    );
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("text = \"title\"\n", ""));
    let run = |output: &str, settings: &[&str]| {
        let output_path = format!("output.path={output}");
        let mut arguments = vec!["--set", &output_path];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        workplace.run_ok(&arguments);
        let rows = workplace.rows(output, None);
        (rows.text("caption"), rows.text("caption_fingerprint")[0].clone())
    };
    let sample = ["generation.strategy=sample", "generation.temperature=2.0"];
    let (drawn, of_sampling) = run("sample", &sample);
    assert!(drawn.iter().collect::<std::collections::HashSet<_>>().len() > 4, "{drawn:?}");
    let (again, same) = run("again", &[sample[0], sample[1], "runtime.batch_size=3"]);
    assert_eq!((again, &same), (drawn, &of_sampling));
    let (beams, of_beams) = run("beams", &["generation.num_beams=3"]);
    assert!(beams.iter().all(|caption| *caption == beams[0]) && of_beams != of_sampling);
    assert_ne!(run("seed", &[sample[0], "generation.seed=9"]).1, of_sampling);
}

#[test]
fn inspect_explains_the_layouts() {
    let said: Vec<_> = MODELS
        .iter()
        .flat_map(|model| LAYOUTS.map(|(_, files)| (model, layout(model, files, ""))))
        .map(|(model, folder)| format!("{model}: {}", inspect(folder.path(), None).decoding.unwrap()))
        .collect();
    insta::assert_snapshot!(said.join("\n"), @"
    vit_gpt2: decoder_model_merged.onnx runs every step, the prefill in a branch of its own; cache entries: 2 growing
    vit_gpt2: decoder_with_past_model.onnx runs every step; cache entries: 2 growing
    vit_gpt2: decoder_model.onnx runs every step, on all tokens so far (there is no cache)
    trocr: decoder_model_merged.onnx runs every step, the prefill in a branch of its own; cache entries: 2 growing, 2 static
    trocr: decoder_with_past_model.onnx runs every step, decoder_model.onnx only computes the static cache; cache entries: 2 growing, 2 static
    trocr: decoder_model.onnx runs every step, on all tokens so far (there is no cache)
    ");
    let report = inspect(&fixture("trocr"), None).to_string();
    for line in [
        "vision: encoder_model.onnx",
        "prefill: decoder_model.onnx",
        "<- present.0.encoder.key of the prefill",
        "-> the cache of all later steps",
        "not used: decoder_model_merged.onnx",
    ] {
        assert!(report.contains(line), "{line:?} in {report}");
    }
}

#[test]
fn a_graph_that_is_named_for_the_prefill_runs_it() {
    let (_, files) = LAYOUTS[1];
    let folder = layout("trocr", files, "");
    let kept = || ModelDirectory::open(folder.path(), None).unwrap().static_cache_outputs().map(<[String]>::len);
    assert_eq!(kept(), Some(2), "the decoder needs a key and a value of it");
    let named = "[graphs]\nprefill = \"decoder_model.onnx\"\ndecoder = \"decoder_with_past_model.onnx\"\n";
    std::fs::write(folder.path().join("nightcap.toml"), named).unwrap();
    assert_eq!(kept(), None);
    assert!(assert_golden_captions(&goldens(), "trocr", "named", folder.path(), ALL) < TOLERANCE);
}

#[test]
fn a_static_cache_without_the_prefill_graph_is_refused() {
    let folder = layout("trocr", &["encoder_model.onnx", "decoder_with_past_model.onnx"], "");
    let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
    assert!(said.contains("input \"past_key_values.0.encoder.key\""), "{said}");
    assert!(said.contains("copy both"), "{said}");
}
