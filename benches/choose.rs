//! What a step of generation costs besides the decoder: choosing the next tokens of 16 captions from logits of GPT-2's vocabulary,
//! `[16, 50257]` f32, with their log-probabilities.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may panic; criterion_group! writes undocumented items"
)]

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use nightcap::engine::{GenerationOverrides, GenerationSettings, Strategy, StrategyName, select_token};
use nightcap::model::ModelDirectory;

const ROWS: usize = 16;
const VOCABULARY: usize = 50_257;

/// Logits without a pattern, from -12 to 12.
fn logits() -> Vec<f32> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 12.0
    };
    (0..ROWS * VOCABULARY).map(|_| next()).collect()
}

fn steps(criterion: &mut Criterion) {
    let tiny =
        ModelDirectory::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_model"), None).unwrap();
    let resolve = |overrides: &GenerationOverrides| GenerationSettings::resolve(&tiny, overrides).unwrap();
    let greedy =
        resolve(&GenerationOverrides { strategy: Some(StrategyName::Greedy), ..GenerationOverrides::default() });
    assert!(matches!(greedy.strategy, Strategy::Greedy));
    let processed = GenerationSettings { repetition_penalty: 1.2, no_repeat_ngram_size: 3, ..greedy.clone() };
    let sampled =
        resolve(&GenerationOverrides { strategy: Some(StrategyName::Sample), ..GenerationOverrides::default() });
    let (logits, history): (Vec<f32>, Vec<i64>) = (logits(), (1..=12).collect());
    let mut group = criterion.benchmark_group(format!("choose {ROWS} tokens of {VOCABULARY}"));
    for (name, settings) in [("greedy", &greedy), ("greedy, penalties", &processed), ("sample, top 50", &sampled)] {
        let mut scores = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                let rows = (0..).zip(logits.chunks_exact(VOCABULARY));
                let select = |(key, logits)| select_token(logits, settings, 1, &history, key, &mut scores).unwrap();
                rows.map(select).map(|(token, _)| token).sum::<i64>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
