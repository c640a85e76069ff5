//! Models of `jobs/train` whose blocks no other family has: LSTM and GRU decoders, word embeddings, a vision transformer, an
//! autoencoder's shared space. Their tokens, log-probabilities and vectors are those of `PyTorch` (`tests/goldens/families/recipes.py`),
//! in batches of 1, 3 and 8, with beams, and with a side text.

use nightcap::engine::{Engine, EngineOptions, GenerationSettings, RowInput};

use crate::common::{Workplace, device, devices, repo};
use crate::families::{
    BATCHES, LOGPROB, captions_are_the_golden_ones, directory, encode, goldens, photographs,
    vectors_are_the_golden_ones,
};
use crate::generation::{fixture, overrides, strings};

/// Captions of photographs with a text each, greedy and with beams, in every batch size.
fn captions_with_texts_are_the_golden_ones(family: &str) {
    let (goldens, directory) = (goldens(family), directory(family));
    let (pixels, texts) = (photographs(family, &goldens), strings(&goldens["texts"]));
    for (device, case) in devices()
        .into_iter()
        .flat_map(|device| goldens["cases_with_texts"].as_array().unwrap().iter().map(move |case| (device, case)))
    {
        let generation = Some(GenerationSettings::resolve(&directory, &overrides(&case["settings"])).unwrap());
        let options = EngineOptions { device, threads: 1, generation, ..EngineOptions::default() };
        let mut engine = Engine::load(&directory, options).unwrap();
        let beams = case["settings"]["num_beams"].as_u64().unwrap_or(1) as usize;
        for size in BATCHES {
            let images = encode(&mut engine, &pixels, size).into_iter().zip(&texts);
            let rows: Vec<_> = images
                .map(|(image, text)| RowInput { image: Some(image), text: Some(text.clone()), ..RowInput::default() })
                .collect();
            let golden = case["rows"].as_array().unwrap();
            assert_eq!(rows.len(), golden.len());
            for (row, golden) in engine.run(&rows, size * beams).unwrap().into_iter().zip(golden) {
                let caption = row.unwrap().caption.unwrap();
                let tokens: Vec<i64> = serde_json::from_value(golden["tokens"].clone()).unwrap();
                assert_eq!(caption.token_ids, tokens, "{family}, {}, batches of {size}, {device}", case["name"]);
                let difference = f64::from(caption.logprob) - golden["logprob"].as_f64().unwrap();
                assert!(difference.abs() < LOGPROB, "{family}: {difference}");
            }
        }
    }
}

/// `nightcap run` over the sample photographs writes the golden captions of those without a title to fuse.
fn runs_over_the_sample_photographs(family: &str) {
    let goldens = goldens(family);
    let workplace = Workplace::new();
    let (manifest, model, device) = (repo("sample_data/manifest.parquet"), fixture(family), device());
    let (manifest, model) = (manifest.display(), model.display());
    workplace.job(&format!(
        "[input]\nmanifest = \"{manifest}\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"{model}\"\n\
         [output]\npath = \"out\"\n[runtime]\nthreads = 1\nbatch_size = 3\ndevices = [\"{device}\"]\n"
    ));
    workplace.run_ok(&["--run-id", "night"]);
    let rows = workplace.rows("out", None);
    let ids = rows.text("id");
    for (photo, golden) in strings(&goldens["photos"]).iter().zip(goldens["cases"][0]["rows"].as_array().unwrap()) {
        let id = photo.split('.').next().unwrap();
        let row = ids.iter().position(|found| found.as_deref() == Some(id)).unwrap();
        assert_eq!(rows.text("caption")[row].as_deref(), golden["text"].as_str(), "{family}: {photo}");
    }
    assert!(rows.has("image_embedding") && rows.has("fused_embedding"), "{family}");
}

fn all(family: &str) {
    captions_are_the_golden_ones(family);
    captions_with_texts_are_the_golden_ones(family);
    vectors_are_the_golden_ones(family);
    runs_over_the_sample_photographs(family);
}

#[test]
fn an_lstm_with_word_embeddings_and_gated_fusion() {
    all("recipe_lstm");
}

#[test]
fn a_gru_with_a_trained_text_transformer_and_concatenation() {
    all("recipe_gru");
}

#[test]
fn an_autoencoder_with_single_head_fusion() {
    all("recipe_autoencoder");
}
