//! Captions on a device are those of the exported decoder: in batches of every size, captured or not, and wherever tokens are selected.

use std::collections::HashSet;

use itertools::Itertools;

use super::*;
use crate::engine::generate::settings::Strategy;

/// The captions of `images`, `captions` at once, in the order of rows; `prompts` are given to the rows in turn.
fn generated(
    captioner: &mut CaptionGenerator,
    tokenizer: &TextTokenizer,
    images: &[Arc<ImageFeatures>],
    prompts: &[&str],
    captions: usize,
) -> Vec<Sequence> {
    let requests = images.iter().enumerate().map(request).map(|request| {
        let prompt = (!prompts.is_empty()).then(|| prompts[request.row % prompts.len()]);
        GenerationRequest { prompt, ..request }
    });
    let requests: Vec<_> = requests.collect();
    let slots = captions * captioner.settings.strategy.beams();
    let mut rows = captioner.generate(&requests, &[], tokenizer, slots).unwrap();
    rows.sort_by_key(|(row, _)| *row);
    assert!(rows.iter().map(|(row, _)| *row).eq(0..images.len()));
    rows.into_iter().map(|(_, sequence)| sequence.unwrap()).collect()
}

/// The tokens of all captions, and the bits of their log-probabilities.
fn bits(captions: &[Sequence]) -> Vec<(&[i64], u64)> {
    captions.iter().map(|caption| (caption.tokens.as_slice(), caption.logprob.to_bits())).collect()
}

/// The captions have the same tokens; log-probabilities differ by rounding only.
fn assert_alike(found: &[Sequence], expected: &[Sequence], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!((&found.tokens, found.finish), (&expected.tokens, expected.finish), "{what}, row {row}");
        assert!((found.logprob - expected.logprob).abs() < 1e-4, "{what}, row {row}: {found:?}, not {expected:?}");
        assert!(found.finite);
    }
}

#[test]
fn steps_give_the_captions_of_the_exported_decoder_in_batches_of_every_size() {
    const ROWS: usize = 17;
    const SIZES: [usize; 9] = [1, 2, 3, 4, 5, 8, 9, 16, 17];
    const PROMPTS: [&str; 3] = ["a", "a photo of a", "the photo"];
    for (model, strategy) in STATIC.into_iter().cartesian_product([StrategyName::Greedy, StrategyName::Beam]) {
        let takes_prompts = model != "vit_gpt2";
        let overrides = GenerationOverrides {
            strategy: Some(strategy),
            num_beams: (strategy == StrategyName::Beam).then_some(3),
            no_repeat_ngram_size: Some(0),
            max_new_tokens: Some(8),
            min_new_tokens: Some(0),
            prompt: takes_prompts.then(|| "{{ prompt }}".to_owned()),
            ..GenerationOverrides::default()
        };
        let prompts = if takes_prompts { &PROMPTS[..] } else { &[] };
        let (directory, mut captioner) = opened(model, &overrides);
        let images = images(&directory, ROWS);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let in_batches = |captioner: &mut CaptionGenerator| {
            SIZES.map(|captions| generated(captioner, &tokenizer, &images, prompts, captions))
        };
        let captured = in_batches(&mut captioner);
        captioner.static_decoder.as_mut().unwrap().capture_nothing();
        let plain = in_batches(&mut captioner);
        (captioner.static_decoder, captioner.continuous_batching) = (None, false);
        let exported = generated(&mut captioner, &tokenizer, &images, prompts, 4);
        let lengths: HashSet<_> = exported.iter().map(|caption| caption.tokens.len()).collect();
        assert!(lengths.len() > 1, "{model}: rows leave at different times");
        for ((captured, plain), captions) in captured.iter().zip(&plain).zip(SIZES) {
            let what = format!("{model}, {strategy:?}, {captions} at once");
            assert_alike(captured, &exported, &what);
            assert_eq!(bits(captured), bits(plain), "{what}: captured steps give other bytes");
        }
    }
}

/// A name, settings of a job, and a change of those that come from a model's files.
type Processed = (&'static str, GenerationOverrides, fn(&mut GenerationSettings));

/// Settings that need more than the highest logits.
fn processed() -> Vec<Processed> {
    let greedy = || GenerationOverrides {
        strategy: Some(StrategyName::Greedy),
        no_repeat_ngram_size: Some(0),
        max_new_tokens: Some(8),
        ..GenerationOverrides::default()
    };
    let beams = || GenerationOverrides { strategy: Some(StrategyName::Beam), num_beams: Some(3), ..greedy() };
    let sample = || GenerationOverrides { strategy: Some(StrategyName::Sample), top_k: Some(6), ..greedy() };
    let nothing: fn(&mut GenerationSettings) = |_| {};
    vec![
        ("repetition_penalty", GenerationOverrides { repetition_penalty: Some(1.7), ..greedy() }, nothing),
        ("no_repeat_ngram_size", GenerationOverrides { no_repeat_ngram_size: Some(2), ..greedy() }, nothing),
        (
            "min_new_tokens",
            GenerationOverrides { min_new_tokens: Some(6), no_repeat_ngram_size: Some(1), ..greedy() },
            nothing,
        ),
        ("bad words", greedy(), |settings| {
            settings.bad_words_ids = vec![vec![9], vec![30], vec![12, 20], vec![14, 14]];
        }),
        ("forced tokens", greedy(), |settings| {
            (settings.forced_bos_token_id, settings.forced_eos_token_ids) = (Some(7), vec![settings.eos_token_ids[0]]);
        }),
        ("suppressed at first", greedy(), |settings| settings.begin_suppress_tokens = (3..60).collect()),
        ("suppressed", greedy(), |settings| settings.suppress_tokens = (10..70).collect()),
        (
            "beams, processed",
            GenerationOverrides { repetition_penalty: Some(1.5), no_repeat_ngram_size: Some(2), ..beams() },
            nothing,
        ),
        ("beams, forced", GenerationOverrides { min_new_tokens: Some(3), ..beams() }, |settings| {
            (settings.forced_bos_token_id, settings.forced_eos_token_ids) = (Some(7), vec![settings.eos_token_ids[0]]);
            settings.bad_words_ids = vec![vec![12, 20], vec![14, 14]];
        }),
        ("beams, nearly all suppressed", beams(), |settings| {
            settings.suppress_tokens = (0..1000).filter(|token| !(40..43).contains(token)).collect();
        }),
        ("sampling", GenerationOverrides { temperature: Some(1.3), ..sample() }, nothing),
        ("sampling, filtered", GenerationOverrides { top_p: Some(0.8), min_p: Some(0.02), ..sample() }, nothing),
        (
            "sampling, nucleus",
            GenerationOverrides {
                top_k: Some(0),
                top_p: Some(0.7),
                temperature: Some(0.6),
                min_p: Some(0.01),
                ..sample()
            },
            nothing,
        ),
        (
            "sampling, likely",
            GenerationOverrides { top_k: Some(0), min_p: Some(0.2), no_repeat_ngram_size: Some(2), ..sample() },
            nothing,
        ),
        (
            "sampling, processed",
            GenerationOverrides { repetition_penalty: Some(1.4), no_repeat_ngram_size: Some(2), ..sample() },
            nothing,
        ),
    ]
}

#[test]
fn the_host_selects_among_candidates_what_it_selects_from_all_logits() {
    // runs with one spare candidate, where logits are read often, and with the usual number
    let mut runs = [0; 2];
    for (name, overrides, change) in processed() {
        let (directory, mut exported) = opened_with("vit_gpt2", &overrides, change, 0);
        (exported.static_decoder, exported.continuous_batching) = (None, false);
        let images = images(&directory, 6);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let seeds = if name.starts_with("sampling") { 0..6 } else { 0..1 };
        for (spare, runs) in [1, SPARE_CANDIDATES].into_iter().zip(&mut runs) {
            let (_, mut captioner) = opened_with("vit_gpt2", &overrides, change, spare);
            assert!(captioner.has_static_steps(), "{name}");
            for seed in seeds.clone() {
                for settings in [&mut exported.settings, &mut captioner.settings] {
                    if let Strategy::Sample(sampling) = &mut settings.strategy {
                        sampling.seed = seed;
                    }
                }
                let expected = generated(&mut exported, &tokenizer, &images, &[], 3);
                let context = RunContext::new().unwrap();
                let found = context.enter(|| generated(&mut captioner, &tokenizer, &images, &[], 4));
                assert_alike(&found, &expected, &format!("{name}, {spare} spare, seed {seed}"));
                *runs += context.transfers().runs;
            }
        }
    }
    assert!(runs[0] > runs[1] + 50, "logits are read where one spare candidate does not tell: {runs:?}");
}
