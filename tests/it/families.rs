//! Every family of models against what `PyTorch` says about photographs (`tests/goldens/families/`), in batches of 1, 3 and 8:
//! pixels, encoder states, embeddings, and the tokens of every strategy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nightcap::engine::{
    Engine, EngineOptions, GenerationOverrides, GenerationSettings, ImageFeatures, ImageStates, RowInput, StrategyName,
};
use nightcap::model::ModelDirectory;
use nightcap::onnx::Device;
use nightcap::preprocess::{DecodeLimits, ImageProcessor, PixelValues, decode};
use serde_json::Value;

use crate::common::{Workplace, device, devices, repo};
use crate::generation::{fixture, overrides, strings};

/// How far a log-probability of a caption may be from `PyTorch`'s.
pub(crate) const LOGPROB: f64 = 5e-4;
/// How far an element of a vector of length 1, or a probability, may be from `PyTorch`'s.
const VECTOR: f64 = 2e-5;
/// How far an encoder state may be from `PyTorch`'s.
const STATE: f64 = 1e-4;
pub(crate) const BATCHES: [usize; 3] = [1, 3, 8];
/// Families whose decoders are recurrent, or take position ids and an attention mask, so that rows can join a running batch.
const REFILLED: [&str; 8] =
    ["fastvlm", "idefics3", "llava", "llava_siglip", "paligemma", "recipe_gru", "recipe_lstm", "smolvlm"];

pub(crate) fn goldens(family: &str) -> Value {
    let family = family.trim_end_matches("_split");
    let path = repo("tests/goldens/families").join(format!("{family}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn directory(family: &str) -> ModelDirectory {
    ModelDirectory::open(&fixture(family), None).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The largest difference at the places that `probes` names, for each image.
fn probed(probes: &Value, values: &[&[f32]]) -> f64 {
    let places: Vec<usize> = numbers(&probes["places"]).into_iter().map(|place| place as usize).collect();
    let rows = probes["values"].as_array().unwrap();
    assert_eq!(rows.len(), values.len());
    let differences = values.iter().zip(rows).flat_map(|(values, row)| {
        let found = places.iter().map(|&place| f64::from(values[place]));
        found.zip(numbers(row)).map(|(found, golden)| (found - golden).abs()).collect::<Vec<_>>()
    });
    differences.fold(0.0, f64::max)
}

/// The photographs as `family` takes them.
pub(crate) fn photographs(family: &str, goldens: &Value) -> Vec<PixelValues> {
    photographs_for(family, &directory(family), goldens)
}

fn photographs_for(family: &str, directory: &ModelDirectory, goldens: &Value) -> Vec<PixelValues> {
    let processor = ImageProcessor::from_config(&directory.preprocessor().unwrap().value).unwrap();
    let paths: Vec<PathBuf> =
        strings(&goldens["photos"]).iter().map(|name| repo("sample_data/photos").join(name)).collect();
    let pixels: Vec<_> = paths
        .iter()
        .map(|path| {
            let limits = DecodeLimits { max_image_pixels: 100_000_000 };
            processor.process(&decode(&std::fs::read(path).unwrap(), limits).unwrap())
        })
        .collect();
    let values: Vec<_> = pixels.iter().map(|pixels| pixels.data.to_f32()).collect();
    let values: Vec<_> = values.iter().map(|values| &**values).collect();
    let worst = probed(&goldens["pixels"], &values);
    assert!(worst < 1e-5, "{family}: pixels differ by {worst}");
    pixels
}

pub(crate) fn encode(engine: &mut Engine, pixels: &[PixelValues], size: usize) -> Vec<Arc<ImageFeatures>> {
    let batches = pixels.chunks(size);
    batches.flat_map(|batch| engine.encode_images(&batch.iter().collect::<Vec<_>>()).unwrap()).collect()
}

/// Every case of the goldens, in every batch size; says how far log-probabilities and states are off.
pub(crate) fn captions_are_the_golden_ones(family: &str) {
    captions_of(family, &fixture(family), REFILLED.contains(&family), &BATCHES);
}

/// As [`captions_are_the_golden_ones`], of a directory that was made from the fixture, in batches of `sizes`; `refilled`: whether rows can
/// join a running batch.
pub(crate) fn captions_of(family: &str, folder: &Path, refilled: bool, sizes: &[usize]) {
    for device in devices() {
        captions_are_golden_on(device, family, &ModelDirectory::open(folder, None).unwrap(), refilled, sizes);
    }
}

fn captions_are_golden_on(device: Device, family: &str, directory: &ModelDirectory, refilled: bool, sizes: &[usize]) {
    let goldens = goldens(family);
    let pixels = photographs_for(family, directory, &goldens);
    let (mut logprobs, mut states): (f64, f64) = (0.0, 0.0);
    for case in goldens["cases"].as_array().unwrap() {
        let generation = Some(GenerationSettings::resolve(directory, &overrides(&case["settings"])).unwrap());
        let options = EngineOptions { device, threads: 1, generation, ..EngineOptions::default() };
        let mut engine = Engine::load(directory, options).unwrap();
        // steps of one shape let rows of every family join
        let joins = refilled || (device != Device::Cpu && engine.has_static_steps());
        assert_eq!(engine.supports_continuous_batching(), joins, "{family} on {device}");
        for &size in sizes {
            let what = format!("{family}, {}, batches of {size}, {device}", case["name"]);
            let images = encode(&mut engine, &pixels, size);
            let hidden = images.iter().map(|image| image.hidden.as_ref().and_then(ImageStates::values));
            let hidden: Option<Vec<_>> = hidden.collect();
            assert!(hidden.is_none() || device == Device::Cpu, "states stay on the device");
            if let Some(hidden) = hidden.filter(|_| goldens["states"].is_object()) {
                states = states.max(probed(&goldens["states"], &hidden));
            }
            let rows: Vec<_> =
                images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
            let golden = case["rows"].as_array().unwrap();
            assert_eq!(rows.len(), golden.len());
            let beams = case["settings"]["num_beams"].as_u64().unwrap_or(1) as usize;
            for (row, golden) in engine.run(&rows, size * beams).unwrap().into_iter().zip(golden) {
                let caption = row.unwrap().caption.unwrap();
                let tokens: Vec<i64> = serde_json::from_value(golden["tokens"].clone()).unwrap();
                assert_eq!(caption.token_ids, tokens, "{what}");
                assert_eq!(
                    (&golden["text"], &golden["finish"]),
                    (&caption.text.into(), &caption.finish.as_str().into()),
                    "{what}"
                );
                logprobs = logprobs.max((f64::from(caption.logprob) - golden["logprob"].as_f64().unwrap()).abs());
            }
        }
    }
    println!(
        "{family} on {device}: log-probabilities differ by at most {logprobs:.1e}, encoder states by {states:.1e}"
    );
    assert!(logprobs < LOGPROB && states < STATE, "{family}: {logprobs} and {states}");
}

/// Image, text and fused embeddings, and how well image and text match, in every batch size.
pub(crate) fn vectors_are_the_golden_ones(family: &str) {
    vectors_of(family, &fixture(family));
}

/// As [`vectors_are_the_golden_ones`], of a directory that was made from the fixture.
pub(crate) fn vectors_of(family: &str, folder: &Path) {
    for device in devices() {
        vectors_are_golden_on(device, family, &ModelDirectory::open(folder, None).unwrap());
    }
}

fn vectors_are_golden_on(device: Device, family: &str, directory: &ModelDirectory) {
    let goldens = goldens(family);
    let pixels = photographs_for(family, directory, &goldens);
    let options = EngineOptions { device, threads: 1, wants_fused: true, ..EngineOptions::default() };
    let mut engine = Engine::load(directory, options).unwrap();
    let mut worst: f64 = 0.0;
    for size in BATCHES {
        let images = encode(&mut engine, &pixels, size);
        let texts = strings(&goldens["texts"]);
        let rows: Vec<_> = images
            .into_iter()
            .zip(texts)
            .map(|(image, text)| RowInput { image: Some(image), text: Some(text), ..RowInput::default() })
            .collect();
        let outputs: Vec<_> = engine.run(&rows, size).unwrap().into_iter().map(Result::unwrap).collect();
        for (place, output) in outputs.iter().enumerate() {
            let vectors = [
                ("image_embeddings", &output.image_embedding),
                ("text_embeddings", &output.text_embedding),
                ("fused_embeddings", &output.fused_embedding),
            ];
            for (name, vector) in vectors {
                assert_eq!(goldens[name].is_array(), vector.is_some(), "{family}: {name}");
                let Some(vector) = vector else { continue };
                let golden = numbers(&goldens[name][place]);
                assert_eq!(vector.len(), golden.len());
                let cosine: f64 = vector.iter().zip(&golden).map(|(found, golden)| f64::from(*found) * golden).sum();
                assert!(cosine > 0.9999, "{family}: {name} of photograph {place} have cosine {cosine}");
                let differences = vector.iter().zip(&golden).map(|(found, golden)| (f64::from(*found) - golden).abs());
                worst = differences.fold(worst, f64::max);
            }
            assert_eq!(goldens["image_text_match"].is_array(), output.image_text_match.is_some(), "{family}");
            if let Some(found) = output.image_text_match {
                worst = worst.max((f64::from(found) - goldens["image_text_match"][place].as_f64().unwrap()).abs());
            }
        }
    }
    println!("{family} on {device}: vectors and probabilities differ by at most {worst:.1e}");
    assert!(worst < VECTOR, "{family}: {worst}");
}

/// `nightcap run` over the sample photographs; captions of the goldens' photographs are the golden greedy ones.
pub(crate) fn runs_over_the_sample_photographs(family: &str) {
    let goldens = goldens(family);
    let cases = goldens["cases"].as_array().into_iter().flatten();
    let greedy = cases.into_iter().find(|case| case["name"] == "greedy");
    let workplace = Workplace::new();
    let (manifest, model) = (repo("sample_data/manifest.parquet"), fixture(family));
    let (manifest, model) = (manifest.display(), model.display());
    let settings = greedy.and_then(|case| case["settings"].as_object()).into_iter().flatten();
    let generation: Vec<_> = settings.map(|(name, value)| format!("{name} = {value}\n")).collect();
    let (generation, device) = (generation.concat(), device());
    workplace.job(&format!(
        "[input]\nmanifest = \"{manifest}\"\nkey = \"id\"\nimage = \"image\"\ntext = \"title\"\n\
         [model]\npath = \"{model}\"\n[generation]\n{generation}[output]\npath = \"out\"\n[runtime]\nthreads = 1\nbatch_size = 3\ndevices = [\"{device}\"]\n"
    ));
    workplace.run_ok(&["--run-id", "night"]);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=again"]);
    let (parts, again) = (workplace.parts("out", "night"), workplace.parts("again", "night"));
    assert!(!parts.is_empty() && parts == again, "{family}: the same input gives the same bytes");
    let rows = workplace.rows("out", None);
    let ok = rows.text("status").iter().filter(|status| status.as_deref() == Some("ok")).count();
    assert_eq!((rows.len(), ok), (35, 32), "{family}: three of the images are broken on purpose");
    assert_eq!(rows.has("caption"), greedy.is_some(), "{family}");
    assert_eq!(rows.has("image_embedding"), goldens["image_embeddings"].is_array(), "{family}");
    assert_eq!(rows.has("image_text_match"), goldens["image_text_match"].is_array(), "{family}");
    let ids = rows.text("id");
    let golden = greedy.and_then(|case| case["rows"].as_array()).into_iter().flatten();
    for (photo, golden) in strings(&goldens["photos"]).iter().zip(golden) {
        let id = photo.split('.').next().unwrap();
        let row = ids.iter().position(|found| found.as_deref() == Some(id)).unwrap();
        assert_eq!(rows.text("caption")[row].as_deref(), golden["text"].as_str(), "{family}: {photo}");
        assert_eq!(rows.text("caption_finish")[row].as_deref(), golden["finish"].as_str(), "{family}: {photo}");
    }
}

#[test]
fn steps_have_one_shape_on_a_device() {
    // sampling without a filter, and a penalty that raises scores, need all logits
    for (top_k, repetition_penalty) in [(0, 1.0), (20, 0.9)] {
        let strategy = Some(StrategyName::Sample);
        let overrides = GenerationOverrides {
            strategy,
            top_k: Some(top_k),
            repetition_penalty: Some(repetition_penalty),
            ..GenerationOverrides::default()
        };
        let directory = directory("trocr");
        let generation = Some(GenerationSettings::resolve(&directory, &overrides).unwrap());
        let options = EngineOptions { device: Device::StandIn, generation, ..EngineOptions::default() };
        assert!(!Engine::load(&directory, options).unwrap().has_static_steps(), "top_k {top_k}");
    }
    // the files of TrOCR have bad words and suppressed tokens, those of Florence-2 forced tokens
    for family in ["vit_gpt2", "trocr", "blip", "git", "llava", "smolvlm", "florence2"] {
        let directory = directory(family);
        for strategy in [StrategyName::Greedy, StrategyName::Beam] {
            let overrides = GenerationOverrides {
                strategy: Some(strategy),
                num_beams: (strategy == StrategyName::Beam).then_some(3),
                prompt: match family {
                    "llava" | "smolvlm" => Some("Describe this image.".to_owned()),
                    "florence2" => Some("<CAPTION>".to_owned()),
                    _ => None,
                },
                ..GenerationOverrides::default()
            };
            let generation = Some(GenerationSettings::resolve(&directory, &overrides).unwrap());
            let options = EngineOptions { device: Device::StandIn, threads: 1, generation, ..EngineOptions::default() };
            let engine = Engine::load(&directory, options).unwrap();
            assert!(engine.has_static_steps(), "{family}, {strategy:?}");
        }
    }
}

#[test]
fn blip() {
    captions_are_the_golden_ones("blip");
    runs_over_the_sample_photographs("blip");
}

#[test]
fn git() {
    captions_are_the_golden_ones("git");
    runs_over_the_sample_photographs("git");
}

#[test]
fn llava() {
    captions_are_the_golden_ones("llava");
    runs_over_the_sample_photographs("llava");
}

/// `SigLIP`'s encoder has no class token.
#[test]
fn llava_with_siglip() {
    captions_are_the_golden_ones("llava_siglip");
}

/// The class of transformers 5, with `FastViT` and `Qwen2`, in a directory that it has saved.
#[test]
fn fastvlm() {
    captions_are_the_golden_ones("fastvlm");
    runs_over_the_sample_photographs("fastvlm");
}

#[test]
fn idefics3() {
    captions_are_the_golden_ones("idefics3");
}

#[test]
fn paligemma() {
    captions_are_the_golden_ones("paligemma");
    runs_over_the_sample_photographs("paligemma");
}

#[test]
fn smolvlm() {
    captions_are_the_golden_ones("smolvlm");
    runs_over_the_sample_photographs("smolvlm");
}

#[test]
fn clip_split() {
    vectors_are_the_golden_ones("clip_split");
    runs_over_the_sample_photographs("clip_split");
}

#[test]
fn florence2() {
    captions_are_the_golden_ones("florence2");
    runs_over_the_sample_photographs("florence2");
}

#[test]
fn coca() {
    captions_are_the_golden_ones("coca");
    vectors_are_the_golden_ones("coca");
    runs_over_the_sample_photographs("coca");
}

#[test]
fn blip_itm() {
    vectors_are_the_golden_ones("blip_itm");
    runs_over_the_sample_photographs("blip_itm");
}

#[test]
fn clip() {
    vectors_are_the_golden_ones("clip");
    runs_over_the_sample_photographs("clip");
}

#[test]
fn siglip() {
    vectors_are_the_golden_ones("siglip");
    runs_over_the_sample_photographs("siglip");
}
