//! How fast the graphs of a model run with nothing around them: `bare MODEL PRECISION BATCH COUNT`, PRECISION being `fp32` or a
//! precision that a job file takes. Pictures are random tensors that lie in memory; a batch of them is encoded and, if the model
//! writes captions, 20 tokens are generated for each by taking the highest logit. Prints one line of JSON with images/s: the
//! best of three times COUNT pictures. What nightcap does beyond that shows in comparison with `nightcap run`.
//!
//! For models whose decoder takes the encoder's states and appends to its caches, such as ViT-GPT2, and for CLIP's pictures.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark may panic, and prints"
)]

use std::time::{Duration, Instant};

use nightcap::engine::open_decoder;
use nightcap::model::{ModelDirectory, Producer, Role};
use nightcap::onnx::{DataType, Graph, GraphOptions, Input, Stepped, Value};

const STEPS: usize = 20;
const ROUNDS: usize = 3;

/// What a batch took, in parts.
#[derive(Default, Clone, Copy)]
struct Took {
    encoder: Duration,
    once: Duration,
    steps: Duration,
}

struct Decoder {
    graphs: Stepped,
    /// The input that takes the encoder's states.
    states: String,
    /// Inputs that are caches, with their shape without batch and past: heads and head width.
    caches: Vec<(String, usize, usize)>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [model, precision, batch, count] = arguments.as_slice() else {
        // `cargo bench` and `cargo test --benches` run every benchmark without arguments
        println!("bare: give MODEL PRECISION BATCH COUNT");
        return;
    };
    let precision = Some(precision.as_str()).filter(|precision| *precision != "fp32");
    let (batch, count): (usize, usize) = (batch.parse().unwrap(), count.parse().unwrap());
    let directory = ModelDirectory::open(model.as_ref(), precision).unwrap();
    let options = GraphOptions::default();
    let vision = directory.graph(Role::Vision).unwrap();
    let mut encoder = Graph::open(&vision.source, options).unwrap();
    let mut decoder = directory.graph(Role::Decoder).map(|file| {
        let bound = directory.bindings().of(Role::Decoder);
        let states = bound.iter().find(|(_, producer)| matches!(producer, Producer::Output(Role::Vision, _)));
        let cache = |(input, producer): &(String, Producer)| {
            let port = file.header.input(input)?;
            matches!(producer, Producer::State(_))
                .then(|| (input.clone(), port.fixed(1).unwrap(), port.fixed(3).unwrap()))
        };
        let (states, _) = states.expect("a decoder that takes the encoder's states in every step");
        Decoder {
            graphs: open_decoder(&directory, file, options).unwrap(),
            states: states.clone(),
            caches: bound.iter().filter_map(cache).collect(),
        }
    });
    let side = directory.config().setting("image_size").and_then(|found| found.value.as_u64()).unwrap_or(224) as usize;
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let pixels: Vec<f32> = (0..batch * 3 * side * side).map(|_| noise()).collect();
    let pixels = Value::from_f32(DataType::F32, &[batch, 3, side, side], pixels).unwrap();
    run(&mut encoder, &mut decoder, &pixels, batch);
    let mut best = Took { encoder: Duration::MAX, ..Took::default() };
    for _ in 0..ROUNDS {
        let mut sum = Took::default();
        for _ in 0..count.div_ceil(batch) {
            let took = run(&mut encoder, &mut decoder, &pixels, batch);
            sum.encoder += took.encoder;
            sum.once += took.once;
            sum.steps += took.steps;
        }
        if sum.encoder + sum.once + sum.steps < best.encoder.saturating_add(best.once + best.steps) {
            best = sum;
        }
    }
    let images = (count.div_ceil(batch) * batch) as f64;
    let rate = |took: Duration| images / took.as_secs_f64();
    let said = serde_json::json!({
        "images_per_second": rate(best.encoder + best.once + best.steps),
        "encoder_images_per_second": rate(best.encoder),
        "once_images_per_second": decoder.is_some().then(|| rate(best.once)),
        "steps_images_per_second": decoder.is_some().then(|| rate(best.steps)),
    });
    println!("{said}");
}

fn run(encoder: &mut Graph, decoder: &mut Option<Decoder>, pixels: &Value, batch: usize) -> Took {
    let mut took = Took::default();
    let start = Instant::now();
    let mut outputs = encoder.run(vec![("pixel_values", Input::Shared(pixels))]).unwrap();
    took.encoder = start.elapsed();
    let Some(Decoder { graphs, states, caches }) = decoder else { return took };

    let start = Instant::now();
    let hidden = outputs.take("last_hidden_state", batch).unwrap();
    let mut contexts = Vec::new();
    if let Some(once) = &mut graphs.once {
        let mut outputs = once.graph.run(vec![(states.as_str(), Input::Shared(&hidden))]).unwrap();
        contexts.extend(once.values.iter().map(|name| (name.clone(), outputs.remove(name).unwrap())));
    }
    contexts.push((states.clone(), hidden));
    contexts.retain(|(name, _)| graphs.step.inputs().iter().any(|port| port.name == *name));
    took.once = start.elapsed();

    let start = Instant::now();
    let empty = |(_, heads, width): &(String, usize, usize)| Value::zeros(DataType::F32, &[batch, *heads, 0, *width]);
    let mut past: Vec<Value> = caches.iter().map(|cache| empty(cache).unwrap()).collect();
    let mut tokens = vec![0_i64; batch];
    for _ in 0..STEPS {
        let mut feeds = vec![("input_ids", Input::Owned(Value::from_i64(&[batch, 1], tokens).unwrap()))];
        feeds.extend(contexts.iter().map(|(name, value)| (name.as_str(), Input::Shared(value))));
        feeds.extend(caches.iter().zip(past).map(|((name, ..), value)| (name.as_str(), Input::Owned(value))));
        let mut outputs = graphs.step.run(feeds).unwrap();
        let present = |name: &str| name.replace("past_key_values", "present");
        past = caches.iter().map(|(name, ..)| outputs.take(&present(name), batch).unwrap()).collect();
        let logits = outputs.take("logits", batch).unwrap();
        let logits = logits.as_f32().unwrap();
        tokens = logits.chunks_exact(logits.len() / batch).map(highest).collect();
    }
    took.steps = start.elapsed();
    took
}

fn highest(logits: &[f32]) -> i64 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as i64
}
