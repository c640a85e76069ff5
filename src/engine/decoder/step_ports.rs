//! What feeds the inputs of the decoder's graph, for the edit that makes a step of one shape of it. In: the model directory's bindings.
//! Out: [`StepPorts`].

use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, EmbedGraph, StepPort, StepPorts};

/// What feeds the inputs of the decoder's graph of `directory`; `None` without such a graph.
pub(crate) fn step_ports(directory: &ModelDirectory) -> Option<StepPorts> {
    let header = &directory.graph(Role::Decoder)?.header;
    let bindings = directory.bindings();
    // the edit makes int64 ids, positions and masks, and no inputs of other kinds
    let known = |(input, producer): &(String, Producer)| match producer {
        Producer::LogitsToKeep | Producer::CachePosition => false,
        Producer::Step | Producer::Positions | Producer::StepMask | Producer::HasPast => {
            header.input(input).is_none_or(|port| matches!(port.dtype, DataType::I64 | DataType::Bool))
        }
        _ => true,
    };
    if !bindings.of(Role::Decoder).iter().all(known) {
        return None;
    }
    let mut ports = StepPorts {
        positions: directory.position_limit(&[Role::Decoder]).map(|limit| limit.value),
        ..StepPorts::default()
    };
    for (input, producer) in bindings.of(Role::Decoder) {
        let port = match producer {
            Producer::Step => StepPort::Tokens,
            Producer::StepOutput(role, output) => {
                ports.embed = embed_graph(directory, *role, output);
                StepPort::Embedded
            }
            Producer::Positions => StepPort::Position,
            Producer::StepMask => StepPort::Mask,
            Producer::HasPast => StepPort::HasPast,
            Producer::Cache(output) if grows(directory, input) => StepPort::Growing(output.clone()),
            Producer::Cache(_) => StepPort::Replaced,
            Producer::Ones(..) => StepPort::Ones,
            _ => StepPort::Invariant,
        };
        ports.inputs.push((input.clone(), port));
    }
    Some(ports)
}

/// Whether the cache entry `input` has a dynamic axis besides the batch.
fn grows(directory: &ModelDirectory, input: &str) -> bool {
    let port = directory.graph(Role::Decoder).and_then(|graph| graph.header.input(input));
    port.is_some_and(|port| (1..port.rank().unwrap_or(1)).any(|axis| port.fixed(axis).is_none()))
}

/// The graph of `role`, whose output `output` is the embeddings of tokens.
fn embed_graph(directory: &ModelDirectory, role: Role, output: &str) -> Option<EmbedGraph> {
    let source = directory.graph(role)?.source.clone();
    let tokens =
        |(_, producer): &&(String, Producer)| matches!(producer, Producer::Step | Producer::Tokens("input_ids"));
    let (input, _) = directory.bindings().of(role).iter().find(tokens)?;
    Some(EmbedGraph { source, input: input.clone(), output: output.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and copies files")]

    use std::path::{Path, PathBuf};

    use super::step_ports;
    use crate::engine::decoder::probe_inputs::probe_inputs;
    use crate::model::{ModelDirectory, Role};
    use crate::onnx::{
        DataType, DecoderGraph, Device, EmbedGraph, GraphOptions, NotStatic, Port, Session, SessionInput, StaticGraph,
        StepPort, StepPorts, Tensor,
    };

    const OPTIONS: GraphOptions =
        GraphOptions { device: Device::Cpu, threads: 1, dynamic_shapes: true, repeatable: true };
    /// How many tokens the rows of the test have at first.
    const LENGTHS: [usize; 3] = [6, 1, 3];
    const STEPS: usize = 5;
    /// Encoder states.
    const ATTENDED: usize = 7;

    fn fixture(model: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model)
    }

    fn open(directory: &ModelDirectory, ports: &StepPorts) -> DecoderGraph {
        let graph = directory.graph(Role::Decoder).unwrap();
        let probes = probe_inputs(directory, Role::Decoder).unwrap();
        let invariant = directory.bindings().invariant();
        DecoderGraph::open_with_static(&graph.source, &invariant, probes, Some(ports), OPTIONS).unwrap()
    }

    /// A copy of `model` that has a merged decoder only.
    fn merged(model: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture(model)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("decoder") || name.contains("merged") {
                std::fs::copy(&path, folder.path().join(name)).unwrap();
            }
        }
        folder
    }

    fn noise(seed: usize, count: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 37 + seed * 101) as f32 * 0.7).sin()).collect()
    }

    /// What the rows have in the inputs that are the same in all steps, and in their caches.
    fn value(port: &Port, kind: &StepPort, row: usize, length: usize) -> Tensor {
        let dynamic = if matches!(kind, StepPort::Growing(_)) { length } else { ATTENDED };
        let inner = (1..port.rank().unwrap()).map(|axis| port.fixed(axis).unwrap_or(dynamic));
        let shape: Vec<usize> = std::iter::once(1).chain(inner).collect();
        if *kind == StepPort::Ones {
            return Tensor::ones(port.dtype, &shape).unwrap();
        }
        let seed = port.name.bytes().map(usize::from).sum::<usize>() + row;
        Tensor::from_f32(port.dtype, &shape, noise(seed, shape.iter().product())).unwrap()
    }

    fn token(row: usize, step: usize) -> i64 {
        (4 + 11 * row + 3 * step) as i64
    }

    /// The logits of each step of one row, by the exported graph.
    fn exported(directory: &ModelDirectory, ports: &StepPorts, row: usize) -> Vec<Vec<f32>> {
        let graph = directory.graph(Role::Decoder).unwrap();
        let mut session = graph.source.open(OPTIONS).unwrap();
        let mut embedder = ports.embed.as_ref().map(|EmbedGraph { source, .. }| source.open(OPTIONS).unwrap());
        let mut length = LENGTHS[row];
        let port = |name: &str| graph.header.input(name).unwrap();
        let mut caches: Vec<Tensor> = Vec::new();
        for (name, kind) in ports.inputs.iter().filter(|(_, kind)| matches!(kind, StepPort::Growing(_))) {
            caches.push(value(port(name), kind, row, length));
        }
        let mut all = Vec::new();
        for step in 0..STEPS {
            let tokens = || Tensor::from_i64(&[1, 1], vec![token(row, step)]).unwrap();
            let mut before = std::mem::take(&mut caches).into_iter();
            let mut feeds = Vec::new();
            for (name, kind) in &ports.inputs {
                let port = port(name);
                let tensor = match kind {
                    StepPort::Tokens => tokens(),
                    StepPort::Embedded => {
                        let embed = ports.embed.as_ref().unwrap();
                        let feeds = [(embed.input.as_str(), SessionInput::Owned(tokens()))];
                        embedder.as_mut().unwrap().run(&feeds).unwrap().remove(&embed.output).unwrap()
                    }
                    StepPort::Position => Tensor::from_i64(&[1, 1], vec![length as i64]).unwrap(),
                    StepPort::Mask => Tensor::ones(port.dtype, &[1, length + 1]).unwrap(),
                    StepPort::HasPast => Tensor::from_bool(true).unwrap(),
                    StepPort::Growing(_) => before.next().unwrap(),
                    kind => value(port, kind, row, length),
                };
                feeds.push((name.as_str(), SessionInput::Owned(tensor)));
            }
            let mut outputs = session.run(&feeds).unwrap();
            for (_, kind) in &ports.inputs {
                if let StepPort::Growing(output) = kind {
                    caches.push(outputs.remove(output).unwrap());
                }
            }
            all.push(outputs.remove("logits").unwrap().to_f32().unwrap().into_owned());
            length += 1;
        }
        all
    }

    /// The logits of each step of all rows in one batch, by the static step.
    fn stepped(directory: &ModelDirectory, ports: &StepPorts, opened: DecoderGraph) -> Vec<Vec<f32>> {
        let graph = directory.graph(Role::Decoder).unwrap();
        let rows = LENGTHS.len();
        let made: StaticGraph = opened.static_step.unwrap().unwrap();
        let edited = made.encode(made.graph.clone()).unwrap();
        let mut session = Session::open_edited(made.path(), &edited, OPTIONS).unwrap();
        let joined = |name: &str, kind: &StepPort| {
            let port = graph.header.input(name).unwrap();
            let each: Vec<Tensor> = (0..rows).map(|row| value(port, kind, row, 0)).collect();
            let mut shape = each[0].shape();
            shape[0] = rows;
            if *kind == StepPort::Ones {
                return Tensor::ones(port.dtype, &shape).unwrap();
            }
            let data = each.iter().flat_map(|one| one.to_f32().unwrap().into_owned()).collect();
            Tensor::from_f32(port.dtype, &shape, data).unwrap()
        };
        let mut same: Vec<(String, Tensor)> = ports
            .inputs
            .iter()
            .filter(|(_, kind)| matches!(kind, StepPort::Invariant | StepPort::Ones))
            .map(|(name, kind)| (name.clone(), joined(name, kind)))
            .collect();
        if let Some(mut hoisted) = opened.hoisted {
            let taken = |name: &str| hoisted.session.inputs().iter().any(|port| port.name == name);
            let feeds: Vec<_> = same.iter().filter(|(name, _)| taken(name)).collect();
            let feeds: Vec<_> =
                feeds.into_iter().map(|(name, value)| (name.as_str(), SessionInput::Shared(value))).collect();
            let mut outputs = hoisted.session.run(&feeds).unwrap();
            same.extend(hoisted.outputs.iter().map(|name| (name.clone(), outputs.remove(name).unwrap())));
        }
        same.retain(|(name, _)| session.inputs().iter().any(|port| port.name == *name));
        // longer than any row becomes; what is behind a row's tokens must not matter
        let length = LENGTHS.into_iter().max().unwrap() + STEPS + 2;
        let mut caches: Vec<Tensor> = Vec::new();
        for cache in &made.caches {
            let port = graph.header.input(&cache.input).unwrap();
            let kind = StepPort::Growing(cache.output.clone());
            let mut data = Vec::new();
            for (row, &filled) in LENGTHS.iter().enumerate() {
                let known = value(port, &kind, row, filled);
                for head in known.to_f32().unwrap().chunks(filled * cache.width) {
                    data.extend_from_slice(head);
                    data.extend(std::iter::repeat_n(50.0, (length - filled) * cache.width));
                }
            }
            caches.push(Tensor::from_f32(cache.dtype, &[rows, cache.heads, length, cache.width], data).unwrap());
        }
        let mut all = vec![Vec::new(); rows];
        for step in 0..STEPS {
            let tokens = (0..rows).map(|row| token(row, step)).collect();
            let lengths = LENGTHS.iter().map(|&length| (length + step) as i64).collect();
            let mut feeds = vec![
                ("static.tokens", SessionInput::Owned(Tensor::from_i64(&[rows, 1], tokens).unwrap())),
                ("static.lengths", SessionInput::Owned(Tensor::from_i64(&[rows], lengths).unwrap())),
            ];
            feeds.extend(same.iter().map(|(name, value)| (name.as_str(), SessionInput::Shared(value))));
            let before = made.caches.iter().zip(std::mem::take(&mut caches));
            feeds.extend(before.map(|(cache, value)| (cache.input.as_str(), SessionInput::Owned(value))));
            let mut outputs = session.run(&feeds).unwrap();
            caches = made.caches.iter().map(|cache| outputs.take(&cache.output, rows).unwrap()).collect();
            let logits = outputs.take("logits", rows).unwrap();
            assert_eq!((logits.shape().len(), logits.shape()[1]), (3, 1));
            let vocabulary = logits.shape()[2];
            let found = logits.to_f32().unwrap();
            all.iter_mut().zip(found.chunks(vocabulary)).for_each(|(row, logits)| row.push(logits.to_vec()));
        }
        all.into_iter().flatten().collect()
    }

    /// Operators whose definitions changed since opset 22, so that an ONNX Runtime may lack them for CUDA, and those that compute sizes on the
    /// host. ONNX Runtime itself removes identities, and casts that change nothing.
    fn assert_stays_on_device(name: &str, made: &StaticGraph) {
        const NOT: [&str; 12] = [
            "Shape",
            "Size",
            "Range",
            "Expand",
            "Sin",
            "Cos",
            "Squeeze",
            "Unsqueeze",
            "ConstantOfShape",
            "Where",
            "If",
            "Equal",
        ];
        let found: Vec<&str> =
            made.graph.node.iter().map(crate::onnx::proto::NodeProto::op_type).filter(|op| NOT.contains(op)).collect();
        assert!(found.is_empty(), "{name}: {found:?}");
    }

    /// Five steps of rows of different lengths in one batch give what each row gets alone from the exported graph.
    fn assert_equal_steps(name: &str, directory: &ModelDirectory) {
        let ports = step_ports(directory).unwrap();
        let opened = open(directory, &ports);
        if let Some(Err(NotStatic { reason })) = &opened.static_step {
            panic!("{name}: {reason}");
        }
        assert_stays_on_device(name, opened.static_step.as_ref().unwrap().as_ref().unwrap());
        let half = opened.static_step.as_ref().unwrap().as_ref().unwrap().caches[0].dtype == DataType::F16;
        let found = stepped(directory, &ports, opened);
        let expected: Vec<Vec<f32>> = (0..LENGTHS.len()).flat_map(|row| exported(directory, &ports, row)).collect();
        assert_eq!(found.len(), LENGTHS.len() * STEPS);
        assert_ne!(expected[0], expected[1]);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let range = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(found.len(), expected.len());
            assert!(worst <= range * if half { 1e-2 } else { 2e-5 }, "{name}, step {index}: {worst} of {range}");
        }
    }

    #[test]
    fn steps_of_one_shape_give_the_logits_of_the_exported_graph() {
        for model in ["vit_gpt2", "trocr", "blip", "git", "smolvlm", "llava", "florence2"] {
            assert_equal_steps(model, &ModelDirectory::open(&fixture(model), None).unwrap());
        }
        assert_equal_steps("vit_gpt2 fp16", &ModelDirectory::open(&fixture("vit_gpt2"), Some("fp16")).unwrap());
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/model");
        assert_equal_steps("the sample model", &ModelDirectory::open(&sample, None).unwrap());
    }

    #[test]
    fn the_branch_with_a_cache_is_a_step_of_one_shape() {
        for model in ["vit_gpt2", "trocr"] {
            let folder = merged(model);
            let directory = ModelDirectory::open(folder.path(), None).unwrap();
            assert!(directory.graph(Role::Decoder).unwrap().file.contains("merged"));
            assert_equal_steps(&format!("{model}, merged"), &directory);
        }
    }

    #[test]
    fn what_is_the_same_in_all_steps_is_computed_once_for_both_graphs() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data/model");
        for path in [fixture("vit_gpt2"), sample] {
            let directory = ModelDirectory::open(&path, None).unwrap();
            let opened = open(&directory, &step_ports(&directory).unwrap());
            let taken: Vec<&str> = opened.step.inputs().iter().map(|port| port.name.as_str()).collect();
            let hoisted = opened.hoisted.unwrap().outputs;
            assert!(
                hoisted.len() >= 2 && hoisted.iter().all(|name| taken.contains(&name.as_str())),
                "{hoisted:?} {taken:?}"
            );
        }
    }

    #[test]
    fn a_decoder_without_a_cache_has_no_step_of_one_shape() {
        let directory = ModelDirectory::open(&fixture("coca"), None).unwrap();
        let opened = open(&directory, &step_ports(&directory).unwrap());
        let NotStatic { reason } = opened.static_step.unwrap().unwrap_err();
        assert_eq!(reason, "it keeps no cache: each step processes all tokens so far");
    }
}
