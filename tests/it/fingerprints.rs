//! Fingerprints stay what they are: renaming a type, rewording a message or updating a library changes none. If a change of code
//! is meant to change results, a version in `engine::fingerprint` or `preprocess` is raised, and these snapshots with it.

use nightcap::engine::{
    EarlyStopping, GenerationOverrides, GenerationSettings, StrategyName, caption_fingerprint, embedding_fingerprint,
};
use nightcap::model::ModelDirectory;

use crate::common::repo;
use crate::generation::fixture;

fn caption(directory: &ModelDirectory, overrides: &GenerationOverrides) -> String {
    let settings = GenerationSettings::resolve(directory, overrides).unwrap();
    caption_fingerprint(directory, &settings, false, None).unwrap()
}

/// What the models that answer a prompt are asked.
fn prompt(model: &str) -> Option<String> {
    match model {
        "florence2" => Some("<CAPTION>".to_owned()),
        "llava" | "smolvlm" => Some("Describe this image.".to_owned()),
        _ => None,
    }
}

#[test]
fn fingerprints_of_the_fixtures_stay_as_they_are() {
    let models = [
        "blip",
        "blip_itm",
        "clip",
        "clip_split",
        "coca",
        "florence2",
        "git",
        "llava",
        "siglip",
        "smolvlm",
        "trocr",
        "vit_gpt2",
    ];
    let fixtures = models.map(|model| (model, fixture(model)));
    let tiny = [("tiny_model", repo("tests/fixtures/tiny_model")), ("sample", repo("sample_data/model"))];
    let mut lines = Vec::new();
    for (model, path) in tiny.into_iter().chain(fixtures) {
        let directory = ModelDirectory::open(&path, None).unwrap();
        let overrides = GenerationOverrides { prompt: prompt(model), ..GenerationOverrides::default() };
        let caption = if directory.can_caption() { caption(&directory, &overrides) } else { "-".to_owned() };
        let embedding = embedding_fingerprint(&directory, false, false).unwrap();
        lines.push(format!("{model:10} {caption:33} {embedding}"));
    }
    insta::assert_snapshot!(lines.join("\n"), @"
    tiny_model 0e5429d7544c9dc3-a21a07ffc25efc3f e86999897b0d2ca6-ed5c1076a1871b47
    sample     e8e229502345ecd9-d15f19700a86c87a 8d7fa903af2a9044-ed5c1076a1871b47
    blip       06cde240913c6760-2e34b616fc32022e 136c9fc8f470a3d8-c34f7d645f52b5b1
    blip_itm   -                                 5249a9a73754144d-ed5c1076a1871b47
    clip       -                                 647f14d7de2ee9b3-ed5c1076a1871b47
    clip_split -                                 c17059d097fdd5de-ed5c1076a1871b47
    coca       e6218c0b7b9ce153-3de4773a2e7aa7f7 94b5c3d5a6911f49-ed5c1076a1871b47
    florence2  a5f5c0b54fae0953-c0046881177ad798 f0c47bfa95293d52-c34f7d645f52b5b1
    git        9f62a79694c99a39-cf6d3a41a1e84d7b 50d342cd264f5720-c34f7d645f52b5b1
    llava      e4c005b819956792-efd27f4c344d76c3 8036d9627f523d26-c34f7d645f52b5b1
    siglip     -                                 46ed1ad1493fb16e-ed5c1076a1871b47
    smolvlm    101b932c8d24e012-3684122171d83ff5 b66c3dbda7c0285a-c34f7d645f52b5b1
    trocr      ccc3cadee36da4d0-15cce69287adf751 ddc33d058ae634bb-c34f7d645f52b5b1
    vit_gpt2   6819f405a5285154-3c8f37a9a3262733 283bd4536a934a0a-c34f7d645f52b5b1
    ");
}

#[test]
fn every_setting_counts() {
    let tiny = ModelDirectory::open(&repo("tests/fixtures/tiny_model"), None).unwrap();
    let none = GenerationOverrides::default;
    let beam = || GenerationOverrides { strategy: Some(StrategyName::Beam), num_beams: Some(3), ..none() };
    let sample = || GenerationOverrides { strategy: Some(StrategyName::Sample), ..none() };
    let cases = [
        ("none", none()),
        ("max_new_tokens", GenerationOverrides { max_new_tokens: Some(5), ..none() }),
        ("min_new_tokens", GenerationOverrides { min_new_tokens: Some(2), ..none() }),
        ("repetition_penalty", GenerationOverrides { repetition_penalty: Some(1.5), ..none() }),
        ("no_repeat_ngram_size", GenerationOverrides { no_repeat_ngram_size: Some(2), ..none() }),
        ("stop", GenerationOverrides { stop: Some(vec!["dog".to_owned()]), ..none() }),
        ("prompt", GenerationOverrides { prompt: Some("a dog".to_owned()), ..none() }),
        ("template", GenerationOverrides { prompt: Some("a {{ title }}".to_owned()), ..none() }),
        ("beam", beam()),
        ("num_beams", GenerationOverrides { num_beams: Some(4), ..beam() }),
        ("length_penalty", GenerationOverrides { length_penalty: Some(0.5), ..beam() }),
        ("early_stopping", GenerationOverrides { early_stopping: Some(EarlyStopping::Never), ..beam() }),
        ("sample", sample()),
        ("temperature", GenerationOverrides { temperature: Some(0.5), ..sample() }),
        ("top_k", GenerationOverrides { top_k: Some(3), ..sample() }),
        ("top_p", GenerationOverrides { top_p: Some(0.5), ..sample() }),
        ("min_p", GenerationOverrides { min_p: Some(0.5), ..sample() }),
        ("seed", GenerationOverrides { seed: Some(7), ..sample() }),
    ];
    let made = cases.map(|(name, overrides)| (name, caption(&tiny, &overrides)));
    for (place, (name, fingerprint)) in made.iter().enumerate() {
        let equal = made[..place].iter().find(|(_, other)| other == fingerprint);
        assert!(equal.is_none(), "{name} has the fingerprint of {equal:?}");
    }
    let lines: Vec<_> = made.iter().map(|(name, fingerprint)| format!("{name:20} {fingerprint}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    none                 0e5429d7544c9dc3-a21a07ffc25efc3f
    max_new_tokens       0e5429d7544c9dc3-7fc3f6520b953491
    min_new_tokens       0e5429d7544c9dc3-683901081be92397
    repetition_penalty   0e5429d7544c9dc3-91bd8f252452ed80
    no_repeat_ngram_size 0e5429d7544c9dc3-1164f340dd2c4a3b
    stop                 0e5429d7544c9dc3-8395bd9b57e73fb3
    prompt               0e5429d7544c9dc3-267a41f31a014086
    template             0e5429d7544c9dc3-b733bad7f42f7faf
    beam                 0e5429d7544c9dc3-b07403fac97fd00a
    num_beams            0e5429d7544c9dc3-67c70b8fc392854b
    length_penalty       0e5429d7544c9dc3-6c9b0c860c67d73d
    early_stopping       0e5429d7544c9dc3-0f6286081d9a6311
    sample               0e5429d7544c9dc3-4b4621dd29d48027
    temperature          0e5429d7544c9dc3-e67f79dce04d7047
    top_k                0e5429d7544c9dc3-e6297537c2d68d26
    top_p                0e5429d7544c9dc3-81f5a0e6996ef490
    min_p                0e5429d7544c9dc3-c8ac9eb62dad33be
    seed                 0e5429d7544c9dc3-1ecf73bdfc98e994
    ");
}

#[test]
fn precision_of_vectors_and_reduced_jpegs_count() {
    let tiny = ModelDirectory::open(&repo("tests/fixtures/tiny_model"), None).unwrap();
    let clip = ModelDirectory::open(&fixture("clip"), None).unwrap();
    let settings = GenerationSettings::resolve(&tiny, &GenerationOverrides::default()).unwrap();
    let captions = [(false, None), (true, None), (true, Some(&clip))]
        .map(|(jpeg_scaling, embedder)| caption_fingerprint(&tiny, &settings, jpeg_scaling, embedder).unwrap());
    let alone = caption_fingerprint(&tiny, &settings, false, Some(&clip)).unwrap();
    assert_eq!(captions[0], alone, "the other model counts only where it decides how far a JPEG is reduced");
    let embeddings = [(false, false), (true, false), (false, true)]
        .map(|(half_precision, jpeg_scaling)| embedding_fingerprint(&tiny, half_precision, jpeg_scaling).unwrap());
    for three in [&captions, &embeddings] {
        assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2], "{three:?}");
    }
    insta::assert_snapshot!(captions.into_iter().chain(embeddings).collect::<Vec<_>>().join("\n"), @"
    0e5429d7544c9dc3-a21a07ffc25efc3f
    0e5429d7544c9dc3-bfe05fcdf5e16d91
    0e5429d7544c9dc3-c7daaf2edc62ae2e
    e86999897b0d2ca6-ed5c1076a1871b47
    e86999897b0d2ca6-dd62bd8b09061731
    e86999897b0d2ca6-ed34c7e7646e14e2
    ");
}
