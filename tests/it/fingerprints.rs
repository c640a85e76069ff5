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
    tiny_model 0e5429d7544c9dc3-77a37aa5794d5baf e86999897b0d2ca6-3c957c50cf103f87
    sample     cd465a21337f9eed-97738e7b1196a58a c31992f8d3399659-3c957c50cf103f87
    blip       bfe68f2b3a71eb3b-4f81148cb1bdb02a 840b8b484fe12c95-4e9fb85d0b5a5fad
    blip_itm   -                                 83ee60c7963a4f3b-3c957c50cf103f87
    clip       -                                 647f14d7de2ee9b3-3c957c50cf103f87
    clip_split -                                 c17059d097fdd5de-3c957c50cf103f87
    coca       e6218c0b7b9ce153-6641fbf42f0cb743 94b5c3d5a6911f49-3c957c50cf103f87
    florence2  b8aa2ab2bb0b1ed4-b73f3bfc8d49f051 59c9fa1e30be11a1-4e9fb85d0b5a5fad
    git        998c142bac5a3a34-a908bcd55249da7b 6b54ad9feb908fb5-4e9fb85d0b5a5fad
    llava      b01e9a59a26270a0-4fe44f51612b26d2 441a80ea91ef98e1-4e9fb85d0b5a5fad
    siglip     -                                 46ed1ad1493fb16e-3c957c50cf103f87
    smolvlm    2ed32b67b98d780a-b0980a915e6dd58c 1a442b364bcf8173-4e9fb85d0b5a5fad
    trocr      ccc3cadee36da4d0-1f1357121ef5370a ddc33d058ae634bb-4e9fb85d0b5a5fad
    vit_gpt2   6819f405a5285154-59263ff7f6d9dbba 283bd4536a934a0a-4e9fb85d0b5a5fad
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
    none                 0e5429d7544c9dc3-77a37aa5794d5baf
    max_new_tokens       0e5429d7544c9dc3-e89e2e4133140fd7
    min_new_tokens       0e5429d7544c9dc3-ff648041c90019e5
    repetition_penalty   0e5429d7544c9dc3-99882f199e795a7a
    no_repeat_ngram_size 0e5429d7544c9dc3-ad1838f7d806e566
    stop                 0e5429d7544c9dc3-532c56b687ae03af
    prompt               0e5429d7544c9dc3-daaf8ad99bba7389
    template             0e5429d7544c9dc3-67eaa865796783fa
    beam                 0e5429d7544c9dc3-37e1950acd80dde6
    num_beams            0e5429d7544c9dc3-d742203818859c56
    length_penalty       0e5429d7544c9dc3-26c5aaf692b594b8
    early_stopping       0e5429d7544c9dc3-c404e09d8742ce3f
    sample               0e5429d7544c9dc3-c98f9cb9ea76a261
    temperature          0e5429d7544c9dc3-32253567704106fb
    top_k                0e5429d7544c9dc3-30231a82000cd674
    top_p                0e5429d7544c9dc3-03b14bd32c6af963
    min_p                0e5429d7544c9dc3-fd4148ce6d9838ad
    seed                 0e5429d7544c9dc3-f58381d9b8e5f3c8
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
    0e5429d7544c9dc3-77a37aa5794d5baf
    0e5429d7544c9dc3-c7134ce88bac34c6
    0e5429d7544c9dc3-efcaef0e0985d824
    e86999897b0d2ca6-3c957c50cf103f87
    e86999897b0d2ca6-4f8af99ef79b02f3
    e86999897b0d2ca6-ffe14a5d44fc935a
    ");
}
