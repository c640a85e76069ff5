//! Graph files with damaged bytes: read and edited as before a model is opened, they give a result or an error.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test fails by panicking and writes its own files"
)]

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::attention::everywhere::find_everywhere;
use super::elide_copies::elide_copies;
use super::encoder_graph::fuse_operators;
use super::external_data::visit_tensors;
use super::extract::extract;
use super::file::OnnxFile;
use super::fold_shapes::sizes;
use super::header::GraphHeader;
use super::hoist::frontier;
use crate::onnx::port::GraphSource;
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};

/// A sequence of numbers that is the same every time (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most.max(1)
    }
}

/// All that is done to a graph file before ONNX Runtime gets it; whether it could be read.
fn edited(path: &Path) -> bool {
    let source = GraphSource::file(path);
    let header = GraphHeader::read(&source);
    if let Ok(header) = &header {
        for location in &header.external_files {
            // an error is an answer
            let _ = source.external_file(location);
        }
        header.inputs.iter().chain(&header.outputs).for_each(|port| assert!(port.describe().len() < 1 << 20));
    }
    let Ok(file) = OnnxFile::read(&source) else { return false };
    find_everywhere(&file.graph);
    let _ = fuse_operators(&file);
    let inputs: Vec<&str> = file.graph.input.iter().map(ValueInfoProto::name).collect();
    let computed = frontier(&file.graph, &inputs[..inputs.len() / 2]);
    let wanted = sizes(&file.graph).into_iter().chain(computed.iter().map(String::as_str));
    let subgraph = extract(&file.graph, wanted.map(ValueInfoProto::named).collect(), Vec::new());
    let (graph, _) = elide_copies(file.graph.clone());
    for graph in [subgraph, graph] {
        let _ = file.encode(graph);
    }
    true
}

/// The bytes of a fixture's graph without its weights, so that what is damaged is nearly always its structure.
fn structure(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    let mut model = ModelProto::decode(Bytes::from(std::fs::read(path).unwrap())).unwrap();
    let Ok(()) = visit_tensors::<std::convert::Infallible>(&mut model, &mut |tensor| {
        tensor.raw_data.iter_mut().for_each(|data| data.truncate(16));
        Ok(())
    });
    model.encode_to_vec()
}

fn damage(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(3) {
        let (at, length) = (random.below(bytes.len()), random.below(40));
        let end = (at + length).min(bytes.len());
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            5 => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
            _ => {
                let from = random.below(whole.len());
                let part = whole[from..(from + length).min(whole.len())].to_vec();
                drop(bytes.splice(at..end, part));
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

#[test]
fn damaged_graphs_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.onnx");
    let (mut random, mut read, mut refused) = (Random(16), 0, 0);
    for file in
        ["tiny_model/fusion.onnx", "models/trocr/decoder_model_merged.onnx", "models/clip_split/text_model.onnx"]
    {
        let whole = structure(file);
        std::fs::write(&path, &whole).unwrap();
        assert!(edited(&path), "{file}");
        for _ in 0..700 {
            std::fs::write(&path, damage(&whole, &mut random)).unwrap();
            if edited(&path) { read += 1 } else { refused += 1 }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

/// A field of a message: its number, and its content by length.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn graphs_that_are_deep_cyclic_or_made_of_nothing_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.onnx");
    // a graph in a node of a graph in a node ...
    let deep = (0..3000).fold(Vec::new(), |inner, _| field(1, &field(5, &field(6, &inner))));
    std::fs::write(&path, field(7, &deep)).unwrap();
    assert!(!edited(&path));
    // every node copies the value of another, in a circle
    let node = |from: &str, to: &str| {
        field(1, &[field(1, from.as_bytes()), field(2, to.as_bytes()), field(4, b"Concat")].concat())
    };
    let cycle: Vec<u8> =
        (0..3000).flat_map(|index| node(&format!("{index}"), &format!("{}", (index + 1) % 3000))).collect();
    std::fs::write(&path, field(7, &[cycle, field(12, &field(1, b"0"))].concat())).unwrap();
    assert!(edited(&path));
    // 20 MB of empty nodes, which would take 100 times that in memory
    std::fs::write(&path, field(7, &field(1, &[]).repeat(10_000_000))).unwrap();
    let said = GraphHeader::read(&GraphSource::file(&path)).unwrap_err().to_string();
    assert!(said.contains("a graph that takes at most"), "{said}");
    assert!(size_of::<GraphProto>() < 512);
}
