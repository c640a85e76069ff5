//! The engine against what `PyTorch` computed for the tiny model (`tests/goldens/tiny_model.json`), and against itself at
//! other batch sizes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nightcap::engine::{
    Engine, EngineOptions, Finish, GenerationOverrides, GenerationSettings, ImageFeatures, RowInput, RowOutput,
};
use nightcap::model::ModelDirectory;
use nightcap::preprocess::{PixelValues, TileGrid};
use nightcap::row::error::{ErrorKind, Stage};
use serde::Deserialize;

use crate::common::BATCH;

const SIDE: usize = 32;
/// How far float32 on another library may be from `PyTorch`'s.
const TOLERANCE: f32 = 2e-5;

pub(crate) fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_model")
}

/// Pixels of test image `seed`, `[3, 32, 32]`; the same formula as in `make_tiny_model.py`.
pub(crate) fn pixels(seed: u64) -> PixelValues {
    let mut state = seed * 7919 + 17;
    let mut uniform = || {
        state = (state * 1_664_525 + 1_013_904_223) % (1 << 32);
        (state >> 8) as f64 / f64::from(1 << 24) * 2.0 - 1.0
    };
    let mut pixels = Vec::with_capacity(3 * SIDE * SIDE);
    for _ in 0..3 {
        let (base, down, across, noise) = (uniform(), uniform(), uniform(), 0.5 * uniform());
        for y in 0..SIDE {
            for x in 0..SIDE {
                let (y, x) = (y as f64 - 16.0, x as f64 - 16.0);
                pixels.push((base + down * y / 16.0 + across * x / 16.0 + noise * uniform()) as f32);
            }
        }
    }
    pixel_values(pixels, SIDE as u32)
}

/// `data` as the pixel values of an image of `side` x `side`.
pub(crate) fn pixel_values(data: Vec<f32>, side: u32) -> PixelValues {
    PixelValues { data: data.into(), height: side, width: side, grid: None }
}

#[derive(Deserialize)]
struct Goldens {
    rows: Vec<Golden>,
}

#[derive(Deserialize, Clone)]
struct Golden {
    image: Option<u64>,
    text: Option<String>,
    image_embedding: Option<Vec<f32>>,
    text_embedding: Option<Vec<f32>>,
    fused_embedding: Option<Vec<f32>>,
    image_text_similarity: Option<f32>,
    tokens: Option<Vec<i64>>,
    caption: Option<String>,
    logprob: Option<f32>,
    finish: Option<String>,
    caption_similarity: Option<f32>,
}

fn goldens() -> Vec<Golden> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tiny_model.json");
    serde_json::from_slice::<Goldens>(&std::fs::read(path).unwrap()).unwrap().rows
}

fn engine(overrides: &GenerationOverrides) -> Engine {
    let directory = ModelDirectory::open(&tiny_model(), None).unwrap();
    let generation = Some(GenerationSettings::resolve(&directory, overrides).unwrap());
    let options = EngineOptions {
        threads: 1,
        generation,
        caption_similarity: true,
        wants_fused: true,
        ..EngineOptions::default()
    };
    Engine::load(&directory, options).unwrap()
}

fn encode(engine: &mut Engine, images: &[PixelValues]) -> Vec<Arc<ImageFeatures>> {
    engine.encode_images(&images.iter().collect::<Vec<_>>()).unwrap()
}

fn inputs(engine: &mut Engine, rows: &[(Option<u64>, Option<&str>)]) -> Vec<RowInput> {
    let images: Vec<_> = rows.iter().filter_map(|(seed, _)| seed.map(pixels)).collect();
    let mut features = encode(engine, &images).into_iter();
    rows.iter()
        .map(|(seed, text)| RowInput {
            image: seed.and_then(|_| features.next()),
            text: text.map(str::to_owned),
            ..RowInput::default()
        })
        .collect()
}

fn near(what: &str, got: Option<&[f32]>, want: Option<&[f32]>, tolerance: f32) {
    assert_eq!(got.map(<[f32]>::len), want.map(<[f32]>::len), "{what}");
    let pairs = got.unwrap_or_default().iter().zip(want.unwrap_or_default());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what} differs by {worst}");
}

fn near_output(what: &str, got: &RowOutput, want: &RowOutput, tolerance: f32) {
    let slice = |value: &Option<f32>| value.map(|value| vec![value]);
    near(what, got.image_embedding.as_deref(), want.image_embedding.as_deref(), tolerance);
    near(what, got.text_embedding.as_deref(), want.text_embedding.as_deref(), tolerance);
    near(what, got.fused_embedding.as_deref(), want.fused_embedding.as_deref(), tolerance);
    near(what, slice(&got.image_text_similarity).as_deref(), slice(&want.image_text_similarity).as_deref(), tolerance);
    assert_eq!(got.caption.is_some(), want.caption.is_some(), "{what}");
    let Some((got, want)) = got.caption.as_ref().zip(want.caption.as_ref()) else { return };
    assert_eq!((&got.text, got.tokens, got.finish), (&want.text, want.tokens, want.finish), "{what}");
    // logits are an order of magnitude larger than embeddings
    near(what, Some(&[got.logprob]), Some(&[want.logprob]), 10.0 * tolerance);
    near(what, slice(&got.similarity).as_deref(), slice(&want.similarity).as_deref(), tolerance);
}

#[test]
fn every_row_is_what_pytorch_says() {
    let mut engine = engine(&GenerationOverrides::default());
    let goldens = goldens();
    let rows: Vec<_> = goldens.iter().map(|golden| (golden.image, golden.text.as_deref())).collect();
    let inputs = inputs(&mut engine, &rows);
    let outputs = engine.run(&inputs, BATCH).unwrap();
    assert_eq!(outputs.len(), goldens.len());
    for (number, (output, golden)) in outputs.into_iter().zip(goldens).enumerate() {
        let (output, what) = (output.unwrap(), format!("row {number}"));
        near(&what, output.image_embedding.as_deref(), golden.image_embedding.as_deref(), TOLERANCE);
        near(&what, output.text_embedding.as_deref(), golden.text_embedding.as_deref(), TOLERANCE);
        near(&what, output.fused_embedding.as_deref(), golden.fused_embedding.as_deref(), TOLERANCE);
        assert_eq!(output.image_text_similarity.is_some(), golden.image_text_similarity.is_some());
        if let Some((got, want)) = output.image_text_similarity.zip(golden.image_text_similarity) {
            near(&what, Some(&[got]), Some(&[want]), TOLERANCE);
        }
        let Some(caption) = output.caption else {
            assert!(golden.caption.is_none(), "{what}");
            continue;
        };
        assert_eq!(Some(&caption.text), golden.caption.as_ref(), "{what}");
        assert_eq!(Some(caption.tokens as usize), golden.tokens.as_ref().map(Vec::len), "{what}");
        assert_eq!(Some(caption.finish.as_str()), golden.finish.as_deref(), "{what}");
        near(&what, Some(&[caption.logprob]), golden.logprob.map(|logprob| vec![logprob]).as_deref(), 10.0 * TOLERANCE);
        let (got, want) = (caption.similarity, golden.caption_similarity);
        near(&what, got.map(|x| vec![x]).as_deref(), want.map(|x| vec![x]).as_deref(), TOLERANCE);
    }
}

#[test]
fn goldens_cover_both_ends_of_a_caption_and_an_empty_one() {
    let goldens = goldens();
    let count = |finish: &str| goldens.iter().filter(|golden| golden.finish.as_deref() == Some(finish)).count();
    assert!(count("eos") >= 3 && count("length") >= 3);
    assert!(goldens.iter().any(|golden| golden.caption.as_deref() == Some("")));
}

#[test]
fn batches_of_1_7_and_32_agree() {
    let mut engine = engine(&GenerationOverrides::default());
    let texts = [None, Some("a dog runs on the beach near two tall people"), Some("snow"), None, Some("the red bus")];
    let rows: Vec<_> = (0..32).map(|row| (Some(row as u64), texts[row % texts.len()])).collect();
    let run = |engine: &mut Engine, size: usize| -> Vec<RowOutput> {
        rows.chunks(size)
            .flat_map(|chunk| {
                let inputs = inputs(engine, chunk);
                engine.run(&inputs, size).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>()
            })
            .collect()
    };
    let alone = run(&mut engine, 1);
    let distinct: std::collections::HashSet<_> =
        alone.iter().map(|row| row.caption.as_ref().unwrap().text.clone()).collect();
    assert!(distinct.len() > 16, "the fixture's captions must differ between images, found {}", distinct.len());
    for size in [7, 32] {
        for (number, (got, want)) in run(&mut engine, size).iter().zip(&alone).enumerate() {
            near_output(&format!("row {number} in batches of {size}"), got, want, 1e-5);
        }
    }
    assert_eq!(run(&mut engine, 32), run(&mut engine, 32), "the same batch gives the same bytes");
}

#[test]
fn a_batch_holds_early_ends_and_captions_cut_at_the_limit() {
    let mut engine = engine(&GenerationOverrides { max_new_tokens: Some(4), ..GenerationOverrides::default() });
    let rows: Vec<_> = (0..10).map(|seed| (Some(seed), None)).collect();
    let inputs = inputs(&mut engine, &rows);
    let captions: Vec<_> =
        engine.run(&inputs, BATCH).unwrap().into_iter().map(|row| row.unwrap().caption.unwrap()).collect();
    assert!(captions.iter().any(|caption| caption.finish == Finish::Eos && caption.tokens < 4));
    assert!(captions.iter().any(|caption| caption.finish == Finish::Length && caption.tokens == 4));
    assert!(captions.iter().all(|caption| caption.finish == Finish::Eos || caption.tokens == 4));
}

#[test]
fn min_new_tokens_holds_the_end_token_back() {
    let overrides = GenerationOverrides { min_new_tokens: Some(6), ..GenerationOverrides::default() };
    let mut engine = engine(&overrides);
    let rows: Vec<_> = (0..10).map(|seed| (Some(seed), None)).collect();
    let inputs = inputs(&mut engine, &rows);
    let captions: Vec<_> =
        engine.run(&inputs, BATCH).unwrap().into_iter().map(|row| row.unwrap().caption.unwrap()).collect();
    assert!(captions.iter().all(|caption| caption.tokens > 6));
    assert!(captions.iter().any(|caption| caption.finish == Finish::Eos));
}

#[test]
fn a_row_with_nan_fails_alone() {
    let mut engine = engine(&GenerationOverrides::default());
    let rows: Vec<_> = (0..4).map(|seed| (Some(seed), Some("a small boat"))).collect();
    let mut rows_in = inputs(&mut engine, &rows);
    let clean = engine.run(&rows_in, BATCH).unwrap();
    let mut bad = pixels(2).data.to_f32().into_owned();
    bad[100] = f32::NAN;
    let bad = pixel_values(bad, SIDE as u32);
    rows_in[2].image = Some(encode(&mut engine, &[bad]).remove(0));
    let outputs = engine.run(&rows_in, BATCH).unwrap();
    let error = outputs[2].as_ref().unwrap_err();
    assert_eq!((error.stage, error.kind), (Stage::Encode, ErrorKind::NonFiniteOutput));
    for row in [0, 1, 3] {
        near_output("a row beside it", outputs[row].as_ref().unwrap(), clean[row].as_ref().unwrap(), 1e-5);
    }
}

#[test]
fn a_text_without_tokens_counts_as_none() {
    let mut engine = engine(&GenerationOverrides::default());
    let rows = [(Some(3), None), (Some(3), Some("")), (Some(3), Some(" \t ")), (None, Some(""))];
    let inputs = inputs(&mut engine, &rows);
    let outputs: Vec<_> = engine.run(&inputs, BATCH).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0], outputs[2]);
    assert!(outputs[0].text_embedding.is_none() && outputs[0].fused_embedding.is_some());
    assert_eq!(outputs[3], RowOutput::default());
}

#[test]
fn side_text_changes_caption_and_fused_embedding() {
    let mut engine = engine(&GenerationOverrides::default());
    let inputs = inputs(&mut engine, &[(Some(0), None), (Some(0), Some("snow on the mountain"))]);
    let outputs: Vec<_> = engine.run(&inputs, BATCH).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(outputs[0].image_embedding, outputs[1].image_embedding);
    assert_ne!(outputs[0].fused_embedding, outputs[1].fused_embedding);
    assert_ne!(outputs[0].caption, outputs[1].caption);
}

#[test]
fn what_is_not_asked_for_is_not_computed() {
    let directory = ModelDirectory::open(&tiny_model(), None).unwrap();
    let mut engine = Engine::load(&directory, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let inputs = inputs(&mut engine, &[(Some(1), Some("a red bus"))]);
    assert!(inputs[0].image.as_ref().unwrap().hidden.is_none(), "states are kept for fusion and decoder only");
    let output = engine.run(&inputs, BATCH).unwrap().remove(0).unwrap();
    assert!(output.caption.is_none() && output.fused_embedding.is_none());
    assert!(output.image_embedding.is_some() && output.image_text_similarity.is_some());

    let mut texts = Engine::load(&directory, EngineOptions { images: false, ..EngineOptions::default() }).unwrap();
    assert!(texts.encode_images(&[&pixels(0)]).is_err());
    let output = texts
        .run(&[RowInput { image: None, text: Some("a red bus".into()), ..RowInput::default() }], BATCH)
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(output.text_embedding.map(|embedding| embedding.len()), directory.text_embedding_dim());
}

#[test]
fn a_batch_of_more_patches_than_are_encoded_at_once_is_the_same() {
    let directory = ModelDirectory::open(&crate::common::repo("tests/fixtures/models/clip"), None).unwrap();
    // 49 images of 16 patches are encoded in one run
    assert_eq!(directory.config().patch_size(), Some(8));
    let mut engine = Engine::load(&directory, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let images: Vec<_> = (0..60).map(pixels).collect();
    let together = encode(&mut engine, &images);
    assert_eq!(together.len(), images.len());
    for (image, encoded) in images.iter().zip(&together) {
        let alone = encode(&mut engine, std::slice::from_ref(image)).remove(0);
        let pairs = alone.embedding.as_ref().unwrap().iter().zip(encoded.embedding.as_ref().unwrap());
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
    }
}

#[test]
fn images_of_another_size_are_refused() {
    let mut engine = engine(&GenerationOverrides::default());
    let error = engine.encode_images(&[&pixel_values(vec![0.0; 12], 32)]).unwrap_err();
    assert!(error.what.contains("expected 1 x 3 x 32 x 32 = 3072 pixel values, found 12"), "{error}");
    assert!(engine.encode_images(&[&pixel_values(vec![0.0; 48], 4)]).is_err(), "the graph itself takes 32 x 32 only");
    let tiles = PixelValues { grid: Some(TileGrid { rows: 1, columns: 2 }), ..pixel_values(vec![0.0; 9216], 32) };
    let error = engine.encode_images(&[&tiles]).unwrap_err();
    assert!(error.what.contains("expected an image that is not split, but preprocessing gives 3 tiles"), "{error}");
    assert!(engine.encode_images(&[]).unwrap().is_empty());
    assert!(engine.run(&[], BATCH).unwrap().is_empty());
}
