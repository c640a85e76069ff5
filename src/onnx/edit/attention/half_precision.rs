//! Attention in graphs that a converter made float16, with the softmax between casts to and from float32.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use super::fuse::fuse;
use super::matching::find;
use super::new_nodes::{int64s, integer_attribute, tensor};
use super::projection::Projections;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::edit::graph_index::GraphIndex;
use crate::onnx::port::{DataType, GraphSource};
use crate::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::onnx::runtime::session::{GraphOptions, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

const LENGTH: usize = 5;

fn port(name: &str, dtype: DataType, shape: &[usize]) -> ValueInfoProto {
    let dim = |&size: &usize| DimensionProto { dim_value: i64::try_from(size).ok(), ..DimensionProto::default() };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: dtype.to_onnx(), shape });
    ValueInfoProto { r#type: Some(TypeProto { tensor_type, ..TypeProto::default() }), ..ValueInfoProto::named(name) }
}

fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto::of(op_type, input.iter().map(ToString::to_string).collect(), output)
}

/// Two rows of two heads of 16, float16, masked by a float32 mask.
fn graph() -> GraphProto {
    let with = |mut node: NodeProto, attribute: AttributeProto| {
        node.attribute.push(attribute);
        node
    };
    let transposed = |from: &str, to: &str, perm: &[i64]| {
        let perm = AttributeProto {
            name: Some("perm".to_owned()),
            ints: perm.to_vec(),
            r#type: Some(7),
            ..AttributeProto::default()
        };
        with(node("Transpose", &[from], to), perm)
    };
    let states = [2, LENGTH, 32];
    GraphProto {
        name: Some("masked".to_owned()),
        input: vec![
            port("q", DataType::F16, &states),
            port("k", DataType::F16, &states),
            port("v", DataType::F16, &states),
            port("mask", DataType::F32, &[2, 1, 1, LENGTH]),
        ],
        output: vec![port("out", DataType::F16, &states)],
        initializer: vec![
            int64s("split", &[0, 0, 2, 16]),
            int64s("join", &[0, 0, 32]),
            tensor("scale", 10, &[], vec![0, 0x34]),
        ],
        node: vec![
            node("Reshape", &["q", "split"], "q rows"),
            node("Reshape", &["k", "split"], "k rows"),
            node("Reshape", &["v", "split"], "v rows"),
            transposed("q rows", "q heads", &[0, 2, 1, 3]),
            transposed("k rows", "k heads", &[0, 2, 3, 1]),
            transposed("v rows", "v heads", &[0, 2, 1, 3]),
            node("MatMul", &["q heads", "k heads"], "scores"),
            node("Mul", &["scores", "scale"], "scaled"),
            with(node("Cast", &["scaled"], "single"), integer_attribute("to", 1)),
            node("Add", &["single", "mask"], "masked"),
            node("Softmax", &["masked"], "single probabilities"),
            with(node("Cast", &["single probabilities"], "probabilities"), integer_attribute("to", 10)),
            node("MatMul", &["probabilities", "v heads"], "out heads"),
            transposed("out heads", "out rows", &[0, 2, 1, 3]),
            node("Reshape", &["out rows", "join"], "out"),
        ],
        ..GraphProto::default()
    }
}

#[test]
fn a_softmax_between_casts_and_its_mask_become_one_operator() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_model/vision_model.onnx");
    let file = OnnxFile::read(&GraphSource::file(&path)).unwrap();
    let exported = graph();
    let index = GraphIndex::new(&exported, None);
    let (found, known) = find(&index, None);
    let fused = fuse(&index, &known, &found, &mut Projections::new(&file)).unwrap();
    assert_eq!((fused.count, fused.reasons), (1, Vec::new()));
    let fused = crate::onnx::edit::extract::extract(&fused.graph, exported.output.clone(), Vec::new());
    assert!(!fused.node.iter().any(|node| node.op_type() == "Softmax"));

    let states = |factor: f32| {
        #[allow(clippy::cast_precision_loss, reason = "a few hundred numbers")]
        let numbers = (0..2 * LENGTH * 32).map(|at| ((at * at) as f32 * factor).sin() * 2.0).collect();
        Tensor::from_f32(DataType::F16, &[2, LENGTH, 32], numbers).unwrap()
    };
    let mask = || {
        let hidden = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::MIN, 0.0, f32::MIN, f32::MIN];
        Tensor::from_f32(DataType::F32, &[2, 1, 1, LENGTH], hidden.to_vec()).unwrap()
    };
    let outputs = [exported.clone(), fused].map(|graph| {
        let edited = file.encode(graph).unwrap();
        let mut session = Session::open_edited(&path, &edited, GraphOptions::default()).unwrap();
        let feeds = [("q", states(0.37)), ("k", states(0.53)), ("v", states(0.71)), ("mask", mask())];
        let feeds = feeds.map(|(name, tensor)| (name, SessionInput::Owned(tensor)));
        session.run(&feeds).unwrap().any("out").unwrap().to_f32().unwrap().into_owned()
    });
    let difference = outputs[0].iter().zip(&outputs[1]).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    let largest = outputs[0].iter().fold(0.0f32, |most, a| most.max(a.abs()));
    assert!(largest > 1.0 && difference < 5e-3, "{difference} of {largest}");
    assert!(outputs[1].iter().all(|number| number.is_finite()));
}
