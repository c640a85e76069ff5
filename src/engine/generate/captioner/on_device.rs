//! Captions on a device: which tensors stay in its memory, and what crosses to the host and back. On a machine with a GPU,
//! `NIGHTCAP_TEST_DEVICE=cuda:0` runs these tests there; otherwise the processor stands in for one.

mod selection;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::engine::encode::fusion::Fusion;
use crate::engine::encode::text::TextEncoder;
use crate::engine::encode::vision::{ImageEncoder, ImageFeatures};
use crate::engine::generate::settings::{GenerationOverrides, StrategyName};
use crate::onnx::{Device, RunContext, Transfers};
use crate::preprocess::{ImageProcessor, PixelValues, RgbImage};

/// Families with steps of one shape.
const STATIC: [&str; 5] = ["vit_gpt2", "blip", "git", "llava", "smolvlm"];

/// Where these tests run.
fn options() -> GraphOptions {
    #[allow(clippy::disallowed_methods, reason = "a switch for tests")]
    let named = std::env::var("NIGHTCAP_TEST_DEVICE").ok().map(|name| name.parse().unwrap());
    let device = named.filter(|device| *device != Device::Cpu).unwrap_or(Device::StandIn);
    GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true }
}

fn directory(model: &str) -> ModelDirectory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model);
    ModelDirectory::open(&path, None).unwrap()
}

/// Images without a pattern, all different.
fn pixels(directory: &ModelDirectory, count: usize) -> Vec<PixelValues> {
    let processor = ImageProcessor::from_config(&directory.preprocessor().unwrap().value).unwrap();
    let image = |number: usize| {
        let pixel = |at: usize| (at * (2 * number + 1) / 7 % 256) as u8 ^ (number * 37) as u8;
        RgbImage { width: 40, height: 30, pixels: (0..3600).map(pixel).collect() }
    };
    (0..count).map(|number| processor.process(&image(number))).collect()
}

fn images(directory: &ModelDirectory, count: usize) -> Vec<Arc<ImageFeatures>> {
    let pixels = pixels(directory, count);
    let mut encoder = ImageEncoder::open(directory, options(), true).unwrap().unwrap();
    encoder.encode(&pixels.iter().collect::<Vec<_>>()).unwrap()
}

fn prompt(model: &str) -> Option<String> {
    match model {
        "florence2" => Some("<CAPTION>".to_owned()),
        "llava" | "smolvlm" => Some("Describe this image.".to_owned()),
        _ => None,
    }
}

fn opened(model: &str, overrides: &GenerationOverrides) -> (ModelDirectory, CaptionGenerator) {
    opened_with(model, overrides, |_| {}, SPARE_CANDIDATES)
}

/// With settings that only a model's files have, and so many spare candidates.
fn opened_with(
    model: &str,
    overrides: &GenerationOverrides,
    change: impl Fn(&mut GenerationSettings),
    spare: usize,
) -> (ModelDirectory, CaptionGenerator) {
    let directory = directory(&format!("models/{model}"));
    let prompt = overrides.prompt.clone().or_else(|| prompt(model));
    let overrides = GenerationOverrides { prompt, ..overrides.clone() };
    let mut settings = GenerationSettings::resolve(&directory, &overrides).unwrap();
    change(&mut settings);
    let text = TextEncoder::open(&directory, options()).unwrap();
    let text = text.as_ref().map(|text| &text.graph);
    let captioner = CaptionGenerator::open_with(&directory, settings, options(), text, spare).unwrap().unwrap();
    (directory, captioner)
}

fn request((row, image): (usize, &Arc<ImageFeatures>)) -> GenerationRequest<'_> {
    GenerationRequest { row, key: row as u64, image, prompt: None, fused: None }
}

/// What each step of a search moved, the first with the prefill before it.
fn moved_by_step(
    captioner: &mut CaptionGenerator,
    tokenizer: &TextTokenizer,
    images: &[Arc<ImageFeatures>],
    captions: usize,
) -> Vec<Transfers> {
    let requests = images.iter().enumerate().map(request);
    let prompted = requests.map(|request| {
        let prompt = captioner.tokenize(&request, tokenizer).unwrap();
        PromptedRequest { request, prompt }
    });
    let queue = RequestQueue::new(prompted.collect(), false);
    let beams = captioner.settings.strategy.beams();
    let static_decoder = captioner.static_decoder.as_mut().unwrap();
    static_decoder.set_slots(captions * beams);
    let mut search = DeviceSearch {
        decoder: &mut captioner.decoder,
        static_decoder,
        prefill_builder: PrefillBuilder { encoder: captioner.encoder.as_mut(), fused: &[] },
        queue,
        captions,
        context: DecodeContext { settings: &captioner.settings, tokenizer, workers: &captioner.workers },
    };
    let context = RunContext::new().unwrap();
    context.enter(|| {
        let (mut progress, mut all) = (search.begin(), Vec::new());
        loop {
            let before = context.transfers();
            let more = search.advance(&mut progress).unwrap();
            if !more {
                return all;
            }
            all.push(context.transfers() - before);
        }
    })
}

#[test]
fn image_states_are_on_the_device_from_the_encoder_to_the_prefill() {
    for model in ["vit_gpt2", "trocr", "blip", "git", "coca", "florence2", "llava", "smolvlm"] {
        let (directory, mut captioner) = opened(model, &GenerationOverrides::default());
        let images = images(&directory, 2);
        assert!(images.iter().all(|image| image.hidden.as_ref().unwrap().values().is_none()), "{model}");
        assert!(images.iter().all(|image| image.finite), "{model}");
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let requests = images.iter().enumerate().map(request);
        let prompted: Vec<_> = requests
            .map(|request| PromptedRequest { request, prompt: captioner.tokenize(&request, &tokenizer).unwrap() })
            .collect();
        let mut builder = PrefillBuilder { encoder: captioner.encoder.as_mut(), fused: &[] };
        let batch = builder.build(&prompted, &mut captioner.decoder).unwrap();
        let tensors: Vec<_> = batch.encoder_outputs.iter().chain(&batch.embedded).collect();
        let on_device = tensors.iter().filter(|tensor| tensor.device().is_some()).count();
        assert_eq!(on_device, tensors.len(), "{model}: tensors of states on the host");
        assert!(on_device > 0, "{model}");
    }
}

#[test]
fn fused_states_stay_on_the_device() {
    let directory = directory("tiny_model");
    let images = images(&directory, 2);
    let mut fusion = Fusion::open(&directory, options()).unwrap().unwrap();
    let images: Vec<_> = images.iter().map(|image| &**image).collect();
    let fused = fusion.fuse(&images, &[None, None], None).unwrap();
    assert!(fused.states.iter().all(|(_, states)| states.device().is_some()) && !fused.states.is_empty());
    assert_eq!(fused.embeddings.len(), 2, "embeddings are read");
}

#[test]
fn of_encoded_images_only_flags_and_embeddings_cross_to_the_host() {
    for model in ["vit_gpt2", "trocr", "blip", "git", "coca", "florence2", "llava", "smolvlm"] {
        let directory = directory(&format!("models/{model}"));
        let pixels = pixels(&directory, 3);
        let mut encoder = ImageEncoder::open(&directory, options(), true).unwrap().unwrap();
        let context = RunContext::new().unwrap();
        let images = context.enter(|| encoder.encode(&pixels.iter().collect::<Vec<_>>()).unwrap());
        let moved = context.transfers();
        let embeddings: usize = images.iter().flat_map(|image| &image.embedding).map(|vector| vector.len() * 4).sum();
        let flags = 4 * images.len();
        let groups = moved.runs / 2;
        assert_eq!(moved.to_host.bytes, (flags + embeddings) as u64, "{model}: {moved:?}");
        assert_eq!(moved.to_host.count, groups * if embeddings > 0 { 2 } else { 1 }, "{model}: {moved:?}");
        let taken: usize = pixels.iter().map(|pixels| pixels.data.len() * 4).sum();
        assert!(moved.to_device.bytes >= taken as u64, "{model}: {moved:?} with pixels of {taken} bytes");
    }
}

#[test]
fn a_greedy_step_is_one_run_and_three_numbers_a_row() {
    let overrides = |min_new_tokens| GenerationOverrides {
        strategy: Some(StrategyName::Greedy),
        no_repeat_ngram_size: Some(0),
        min_new_tokens: Some(min_new_tokens),
        max_new_tokens: Some(7),
        ..GenerationOverrides::default()
    };
    for model in STATIC {
        // no caption ends before the seventh token
        let (directory, mut captioner) = opened(model, &overrides(7));
        let images = images(&directory, 3);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let steps = moved_by_step(&mut captioner, &tokenizer, &images, 4);
        assert!((6..=7).contains(&steps.len()), "{model}: {steps:?}");
        // three rows are in four slots; a row is a token, its log-probability and whether its logits are finite
        for moved in &steps[1..] {
            let found = (moved.runs, moved.to_device.count, moved.to_host.count, moved.to_host.bytes);
            assert_eq!(found, (1, 0, 1, 4 * 3 * 4), "{model}: {moved:?}");
        }
        // a prefill gives the same numbers of three rows
        let prefill = if steps.len() == 6 { 3 * 3 * 4 } else { 0 };
        assert_eq!(steps[0].to_host.bytes, prefill + 4 * 3 * 4, "{model}: {:?}", steps[0]);
        assert_eq!(steps[0].to_host.count, 1 + u64::from(prefill > 0), "{model}: {:?}", steps[0]);
        let states: usize = images.iter().map(|image| image.hidden.as_ref().unwrap().bytes()).sum();
        let taken = steps[0].to_device.bytes;
        assert!(taken < states as u64, "{model}: {taken} bytes to the device, states have {states}");
    }
}

#[test]
fn a_step_of_beams_moves_the_numbers_of_its_candidates() {
    const BEAMS: usize = 3;
    let overrides = GenerationOverrides {
        strategy: Some(StrategyName::Beam),
        num_beams: Some(BEAMS),
        no_repeat_ngram_size: Some(0),
        min_new_tokens: Some(7),
        max_new_tokens: Some(7),
        ..GenerationOverrides::default()
    };
    for model in STATIC {
        let (directory, mut captioner) = opened(model, &overrides);
        let images = images(&directory, 2);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let steps = moved_by_step(&mut captioner, &tokenizer, &images, 2);
        assert!((6..=7).contains(&steps.len()), "{model}: {steps:?}");
        // six rows are in six slots
        let (slots, candidates) = (2 * BEAMS, 2 * BEAMS);
        let chosen = slots * (3 * candidates + 1) * 4;
        // the token, the length and the least length of each row
        let start = 3 * 8 * slots;
        // which rows the caches come from, and how much they are padded
        let reorder = 8 * slots + 8 * 8;
        for moved in &steps[1..] {
            let reordered = moved.runs == 2;
            let expected = if reordered { (2, 5, start + reorder) } else { (1, 3, start) };
            let found = (moved.runs, moved.to_device.count, moved.to_device.bytes as usize);
            assert_eq!(found, expected, "{model}: {moved:?}");
            assert_eq!((moved.to_host.count, moved.to_host.bytes), (1, chosen as u64), "{model}: {moved:?}");
        }
    }
}

#[test]
fn a_row_that_may_grow_beyond_the_positions_of_a_step_is_refused() {
    let image = |directory: &ModelDirectory| images(directory, 1).remove(0);
    let refused = |max_new_tokens, on_device: bool| {
        let overrides = GenerationOverrides { max_new_tokens: Some(max_new_tokens), ..GenerationOverrides::default() };
        let (directory, mut captioner) = opened("llava", &overrides);
        if !on_device {
            captioner.limits = PositionLimits::of(&directory);
        }
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let image = image(&directory);
        captioner.tokenize(&request((0, &image)), &tokenizer).map(|prompt| prompt.ids.len())
    };
    let prompt = refused(8, true).unwrap();
    let positions = 1 << 15;
    assert!(refused(positions + 1 - prompt, true).is_ok());
    let error = refused(positions + 2 - prompt, true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::PromptTooLong);
    assert!(error.message.contains("a step on a GPU gives the decoder 32768 positions"), "{error}");
    assert!(refused(positions + 2 - prompt, false).is_ok(), "computed positions have no limit on a processor");
}
