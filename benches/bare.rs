//! How fast the graphs of a model run with nothing around them: `bare MODEL PRECISION BATCH AT_ONCE COUNT`, PRECISION being `fp32`
//! or a precision that a job file takes. Images are random tensors in memory; a batch of them is encoded, `AT_ONCE` in
//! a run, and if the model writes captions, 20 tokens are generated for each by taking the highest logit. Prints one line of
//! JSON with images/s for COUNT images. The first batch, which allocates memory, is included, as in `nightcap run`. What
//! nightcap does beyond that shows in comparison with it.
//!
//! For models whose decoder attends to the encoder's states and appends to its caches, such as ViT-GPT2 and BLIP, and for
//! CLIP's images. If the prefill is exported as a graph of its own, that graph runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark may panic, and prints"
)]

use std::time::{Duration, Instant};

use nightcap::engine::open_decoder;
use nightcap::model::{ModelDirectory, Producer, Role};
use nightcap::onnx::{DataType, DecoderGraph, GraphOptions, Input, Outputs, Session, Tensor};

const STEPS: usize = 20;

/// What a batch took, in parts.
#[derive(Default, Clone, Copy)]
struct Took {
    encoder: Duration,
    once: Duration,
    steps: Duration,
}

struct Decoder {
    graphs: DecoderGraph,
    /// Runs the prefill, if that is another graph.
    first: Option<Session>,
    states: Vec<State>,
}

/// A value that goes from one step into the next ones.
struct State {
    input: String,
    output: String,
    /// Whether it keeps the value from the prefill.
    kept: bool,
    /// Its heads and the width of a head.
    size: [usize; 2],
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [model, precision, numbers @ ..] = arguments.as_slice() else {
        // `cargo bench` and `cargo test --benches` run every benchmark without arguments
        println!("bare: give MODEL PRECISION BATCH AT_ONCE COUNT");
        return;
    };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let [batch, at_once, count] = numbers[..] else { panic!("give BATCH AT_ONCE COUNT") };
    let precision = Some(precision.as_str()).filter(|precision| *precision != "fp32");
    let directory = ModelDirectory::open(model.as_ref(), precision).unwrap();
    let options = GraphOptions::default();
    let mut encoder = directory.graph(Role::Vision).unwrap().source.open(options).unwrap();
    let mut decoder = decoder(&directory, GraphOptions { varies: true, ..options });
    let side = encoder.inputs()[0].fixed(2).unwrap_or_else(|| side(&directory));
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let pixels: Vec<f32> = (0..at_once * 3 * side * side).map(|_| noise()).collect();
    let pixels = Tensor::from_f32(DataType::F32, &[at_once, 3, side, side], pixels).unwrap();
    let mut sum = Took::default();
    for _ in 0..count.div_ceil(batch) {
        let took = run(&mut encoder, &mut decoder, &pixels, batch);
        sum.encoder += took.encoder;
        sum.once += took.once;
        sum.steps += took.steps;
    }
    let images = (count.div_ceil(batch) * batch) as f64;
    let rate = |took: Duration| (took > Duration::ZERO).then(|| images / took.as_secs_f64());
    let said = serde_json::json!({
        "images_per_second": rate(sum.encoder + sum.once + sum.steps),
        "encoder_images_per_second": rate(sum.encoder),
        "once_images_per_second": rate(sum.once),
        "steps_images_per_second": rate(sum.steps),
    });
    println!("{said}");
}

/// The pixel values of an image.
fn side(directory: &ModelDirectory) -> usize {
    let size = &directory.preprocessor().unwrap().value["size"];
    size.get("height").or_else(|| size.get("shortest_edge")).and_then(serde_json::Value::as_u64).unwrap_or(224) as usize
}

fn decoder(directory: &ModelDirectory, options: GraphOptions) -> Option<Decoder> {
    let file = directory.graph(Role::Decoder)?;
    let states = directory.bindings().of(Role::Decoder).iter().filter_map(|(input, producer)| {
        let (output, kept) = match producer {
            Producer::State(output) => (output.clone(), false),
            Producer::Kept(output) => (output.clone(), true),
            _ => return None,
        };
        let port = file.header.input(input)?;
        Some(State { input: input.clone(), output, kept, size: [port.fixed(1)?, port.fixed(3)?] })
    });
    Some(Decoder {
        states: states.collect(),
        graphs: open_decoder(directory, file, options).unwrap(),
        first: directory.graph(Role::Prefill).map(|file| file.source.open(options).unwrap()),
    })
}

fn run(encoder: &mut Session, decoder: &mut Option<Decoder>, pixels: &Tensor, batch: usize) -> Took {
    let mut took = Took::default();
    let start = Instant::now();
    let at_once = pixels.shape()[0];
    let mut encode = || encoder.run(&[("pixel_values", Input::Shared(pixels))]).unwrap();
    let outputs: Vec<Outputs> = (0..batch.div_ceil(at_once)).map(|_| encode()).collect();
    took.encoder = start.elapsed();
    let Some(Decoder { graphs, first, states }) = decoder else { return took };

    let start = Instant::now();
    let parts: Vec<_> = outputs.iter().map(|outputs| outputs.get("last_hidden_state", at_once).unwrap()).collect();
    let inner = &parts[0].shape()[1..];
    let shape = [&[batch], inner].concat();
    let mut hidden = parts.iter().map(|part| part.to_f32().unwrap()).collect::<Vec<_>>().concat();
    hidden.truncate(shape.iter().product());
    let mut contexts =
        vec![("encoder_hidden_states".to_owned(), Tensor::from_f32(DataType::F32, &shape, hidden).unwrap())];
    if let Some(once) = &mut graphs.once {
        let mut outputs = once.graph.run(&[("encoder_hidden_states", Input::Shared(&contexts[0].1))]).unwrap();
        contexts.extend(once.values.iter().map(|name| (name.clone(), outputs.remove(name).unwrap())));
    }
    took.once = start.elapsed();

    let start = Instant::now();
    let mut past: Vec<Tensor> = Vec::new();
    let mut tokens = vec![0_i64; batch];
    for step in 0..STEPS {
        let begins = step == 0;
        let graph = if begins { first.as_mut().unwrap_or(&mut graphs.step) } else { &mut graphs.step };
        if begins && graph.inputs().iter().any(|port| port.name.starts_with("past")) {
            let empty = |state: &State| Tensor::zeros(DataType::F32, &[batch, state.size[0], 0, state.size[1]]);
            past = states.iter().map(|state| empty(state).unwrap()).collect();
        }
        let mut feeds = vec![
            ("input_ids", Input::Owned(Tensor::from_i64(&[batch, 1], tokens).unwrap())),
            ("attention_mask", Input::Owned(Tensor::ones(DataType::I64, &[batch, step + 1]).unwrap())),
        ];
        feeds.extend(contexts.iter().map(|(name, value)| (name.as_str(), Input::Shared(value))));
        feeds.retain(|(name, _)| graph.inputs().iter().any(|port| port.name == *name));
        let (kept, moved): (Vec<_>, Vec<_>) = states.iter().zip(past).partition(|(state, _)| state.kept);
        feeds.extend(kept.iter().map(|(state, value)| (state.input.as_str(), Input::Shared(value))));
        feeds.extend(moved.into_iter().map(|(state, value)| (state.input.as_str(), Input::Owned(value))));
        let mut outputs = graph.run(&feeds).unwrap();
        let mut kept = kept.into_iter().map(|(_, value)| value);
        let next = |state: &State| {
            let held = if state.kept { kept.next() } else { None };
            held.unwrap_or_else(|| outputs.take(&state.output, batch).unwrap())
        };
        past = states.iter().map(next).collect();
        let logits = outputs.take("logits", batch).unwrap();
        let logits = logits.to_f32().unwrap();
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
