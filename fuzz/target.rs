//! One entry point of `tests/fuzz` for libFuzzer: that with the name of this binary.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target, fuzzer_mutate};
use nightcap::fuzz::Target;
use nightcap::fuzz::mutate::{Random, mutate};

static TARGET: LazyLock<Target> =
    LazyLock::new(|| Target::named(env!("CARGO_BIN_NAME")).expect("an entry point of this name"));

fuzz_target!(|input: &[u8]| -> Corpus {
    drop(TARGET.run(input));
    Corpus::Keep
});

// Half of the changes are libFuzzer's own, the others know the format.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random(seed.into());
    if random.any() % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let made = mutate(TARGET.syntax, TARGET.tokens, &data[..size], &data[..size], max_size, &mut random);
    data[..made.len()].copy_from_slice(&made);
    made.len()
});
