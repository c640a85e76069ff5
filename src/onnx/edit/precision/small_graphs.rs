//! Conversion of small graphs, which are run before and after.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking; it writes files of its own"
)]

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use super::convert::{ConvertedGraph, convert, convert_within};
use super::decide::nodes_of;
use super::half::HalfPrecision::{Bf16, F16};
use crate::onnx::edit::external_data::{EXTERNAL, visit_tensors};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::port::{DataType, GraphSource};
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use crate::onnx::runtime::session::{GraphOptions, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// A folder with a graph file.
struct Graph(TempDir);

fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto::of(op_type, input.iter().map(ToString::to_string).collect(), output)
}

fn of(op_type: &str, input: &[&str], output: &str, attribute: AttributeProto) -> NodeProto {
    NodeProto { attribute: vec![attribute], ..node(op_type, input, output) }
}

fn held(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind), ..AttributeProto::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..held(name, 7) }
}

fn floats(name: &str, dims: &[i64], numbers: &[f32]) -> TensorProto {
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let (name, raw_data) = (Some(name.to_owned()), Some(Bytes::from(data)));
    TensorProto { name, dims: dims.to_vec(), data_type: Some(1), raw_data, ..TensorProto::default() }
}

fn integers(name: &str, numbers: &[i64]) -> TensorProto {
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let (name, raw_data) = (Some(name.to_owned()), Some(Bytes::from(data)));
    let dims = vec![numbers.len() as i64];
    TensorProto { name, dims, data_type: Some(7), raw_data, ..TensorProto::default() }
}

fn float(name: &str, rank: usize) -> ValueInfoProto {
    ValueInfoProto::tensor(name, DataType::F32, Some(rank))
}

/// Numbers from -2 to 2.
fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|at| 2.0 * ((at * at) as f32 * 0.37 + at as f32).sin()).collect()
}

fn opset(version: u8) -> Bytes {
    Bytes::from(vec![0x10, version])
}

impl Graph {
    fn new(graph: GraphProto, functions: Vec<FunctionProto>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let graph = Some(GraphProto { name: Some("small".to_owned()), ..graph });
        let mut opset_import = vec![opset(17)];
        if !functions.is_empty() {
            opset_import.push(Bytes::from_static(b"\x0a\x03own\x10\x01"));
        }
        let model = ModelProto { ir_version: Some(8), opset_import, graph, functions, ..ModelProto::default() };
        std::fs::write(folder.path().join("small.onnx"), model.encode_to_vec()).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("small.onnx")
    }

    fn half(&self) -> PathBuf {
        self.0.path().join("small_fp16.onnx")
    }

    fn refused(&self) -> String {
        let error = convert(&self.path(), &self.half(), F16, &|| false).unwrap_err();
        let hint = error.hint.unwrap_or_default();
        format!("{}\nhint: {hint}", error.what)
    }

    /// Converts it to float16; which operators stay in float32, in the order of their nodes, without casts.
    fn float32(&self) -> Vec<String> {
        convert(&self.path(), &self.half(), F16, &|| false).unwrap();
        let file = OnnxFile::read(&GraphSource::file(self.half())).unwrap();
        let types = super::types::Types::of(&file.graph);
        let is_single = |node: &&&NodeProto| node.input.iter().chain(&node.output).any(|name| types.is_float(name));
        let nodes = nodes_of(&file.graph);
        nodes.iter().filter(is_single).map(|node| node.op_type().to_owned()).filter(|op| op != "Cast").collect()
    }

    /// The largest difference of the output called `out` of both graphs on these inputs.
    fn difference(&self, inputs: &[(&str, Tensor, Tensor)]) -> f32 {
        let run = |path: &Path, second: bool| {
            let mut session = Session::open(path, GraphOptions::default()).unwrap();
            let feeds: Vec<_> = inputs
                .iter()
                .map(|(name, one, other)| (*name, SessionInput::Shared(if second { other } else { one })))
                .collect();
            session.run(&feeds).unwrap().any("out").unwrap().to_f32().unwrap().into_owned()
        };
        let (one, other) = (run(&self.path(), false), run(&self.half(), true));
        assert!(one.len() == other.len() && !one.is_empty());
        assert!(other.iter().all(|number| number.is_finite()), "{other:?}");
        one.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
    }
}

/// An input in both types.
fn both<'a>(name: &'a str, shape: &[usize], numbers: &[f32]) -> (&'a str, Tensor, Tensor) {
    let of = |dtype| Tensor::from_f32(dtype, shape, numbers.to_vec()).unwrap();
    (name, of(DataType::F32), of(DataType::F16))
}

fn same<'a>(name: &'a str, shape: &[usize], numbers: &[i64]) -> (&'a str, Tensor, Tensor) {
    let of = || Tensor::from_i64(shape, numbers.to_vec()).unwrap();
    (name, of(), of())
}

#[test]
fn a_decomposed_layer_normalization_is_computed_in_float32() {
    let mean = |from: &str, to: &str| of("ReduceMean", &[from], to, ints("axes", &[-1]));
    let graph = Graph::new(
        GraphProto {
            input: vec![float("x", 2)],
            output: vec![float("out", 2)],
            initializer: vec![
                floats("two", &[], &[2.0]),
                floats("epsilon", &[], &[1e-12]),
                floats("weight", &[8, 8], &noise(64)),
                floats("gamma", &[8], &noise(8)),
            ],
            node: vec![
                node("MatMul", &["x", "weight"], "states"),
                mean("states", "mean"),
                node("Sub", &["states", "mean"], "centred"),
                node("Pow", &["centred", "two"], "squares"),
                mean("squares", "variance"),
                node("Add", &["variance", "epsilon"], "positive"),
                node("Sqrt", &["positive"], "deviation"),
                node("Div", &["centred", "deviation"], "normal"),
                node("Mul", &["normal", "gamma"], "scaled"),
                node("MatMul", &["scaled", "weight"], "out"),
            ],
            ..GraphProto::default()
        },
        Vec::new(),
    );
    assert_eq!(graph.float32(), ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"]);
    // squares of these are beyond float16, and the root of 1e-12 would be 0
    assert!(graph.difference(&[both("x", &[2, 8], &noise(16).iter().map(|x| x * 200.0).collect::<Vec<_>>())]) < 0.02);
    assert!(graph.difference(&[both("x", &[1, 8], &[0.0; 8])]) < 1e-6);
}

/// Scores, masked with the most negative float32 where `mask` is 0.
fn attention() -> GraphProto {
    GraphProto {
        input: vec![float("q", 3), float("k", 3), ValueInfoProto::tensor("mask", DataType::I64, Some(3))],
        output: vec![float("out", 3)],
        initializer: vec![floats("one", &[], &[1.0]), floats("least", &[], &[f32::MIN]), floats("scale", &[], &[0.5])],
        node: vec![
            of("Cast", &["mask"], "seen", AttributeProto::int("to", 1)),
            node("Sub", &["one", "seen"], "hidden"),
            node("Mul", &["hidden", "least"], "bias"),
            node("MatMul", &["q", "k"], "product"),
            node("Mul", &["product", "scale"], "scores"),
            node("Add", &["scores", "bias"], "masked"),
            of("Softmax", &["masked"], "probabilities", AttributeProto::int("axis", -1)),
            node("MatMul", &["probabilities", "q"], "out"),
        ],
        ..GraphProto::default()
    }
}

#[test]
fn masks_scores_and_softmax_stay_in_float32() {
    let graph = Graph::new(attention(), Vec::new());
    assert_eq!(graph.float32(), ["Sub", "Mul", "Mul", "Add", "Softmax"]);
    // a row of which nothing is seen has equal probabilities, and no NaN
    let inputs =
        [both("q", &[1, 3, 4], &noise(12)), both("k", &[1, 4, 3], &noise(12)), same("mask", &[1, 1, 3], &[0, 0, 0])];
    assert!(graph.difference(&inputs) < 2e-3);
}

#[test]
fn a_mask_that_is_used_in_float16_is_finite_there() {
    let mut graph = attention();
    // the sum is used twice, so that it is no part of the softmax
    graph.node.push(node("Identity", &["masked"], "also"));
    graph.output.push(float("also", 3));
    let graph = Graph::new(graph, Vec::new());
    let kept = graph.float32();
    assert!(kept.contains(&"Clip".to_owned()), "{kept:?}");
    let inputs =
        [both("q", &[1, 3, 4], &noise(12)), both("k", &[1, 4, 3], &noise(12)), same("mask", &[1, 1, 3], &[0, 1, 0])];
    assert!(graph.difference(&inputs) < 2e-3);
}

#[test]
fn angles_of_positions_are_exact() {
    let graph = Graph::new(
        GraphProto {
            input: vec![float("x", 2), ValueInfoProto::tensor("positions", DataType::I64, Some(2))],
            output: vec![float("out", 2)],
            initializer: vec![floats("frequencies", &[1, 4], &[1.0, 0.1, 0.01, 0.001])],
            node: vec![
                of("Cast", &["positions"], "numbers", AttributeProto::int("to", 1)),
                node("MatMul", &["numbers", "frequencies"], "angles"),
                node("Cos", &["angles"], "cosines"),
                node("Mul", &["x", "cosines"], "out"),
            ],
            ..GraphProto::default()
        },
        Vec::new(),
    );
    assert_eq!(graph.float32(), ["MatMul", "Cos"]);
    let inputs = [both("x", &[2, 4], &[1.0; 8]), same("positions", &[2, 1], &[4099, 8191])];
    assert!(graph.difference(&inputs) < 1e-3);
}

#[test]
fn branches_share_weights_and_may_share_names() {
    let branch = |op_type: &str| GraphProto {
        name: Some(op_type.to_owned()),
        node: vec![
            node(op_type, &["x", "weight"], "mixed"),
            of("Softmax", &["mixed"], "result", AttributeProto::int("axis", -1)),
        ],
        output: vec![float("result", 2)],
        ..GraphProto::default()
    };
    let graph = |name: &str, graph: GraphProto| AttributeProto { g: Some(graph), ..held(name, 5) };
    let choice = NodeProto {
        attribute: vec![graph("then_branch", branch("MatMul")), graph("else_branch", branch("Add"))],
        ..node("If", &["which"], "chosen")
    };
    let graph = Graph::new(
        GraphProto {
            input: vec![float("x", 2), ValueInfoProto::tensor("flag", DataType::I64, Some(0))],
            output: vec![float("out", 2)],
            initializer: vec![floats("weight", &[4, 4], &noise(16))],
            node: vec![
                of("Cast", &["flag"], "which", AttributeProto::int("to", 9)),
                choice,
                node("MatMul", &["chosen", "weight"], "out"),
            ],
            ..GraphProto::default()
        },
        Vec::new(),
    );
    assert_eq!(graph.float32(), ["Softmax", "Add", "Softmax"]);
    for flag in [0, 1] {
        assert!(graph.difference(&[both("x", &[4, 4], &noise(16)), same("flag", &[], &[flag])]) < 4e-3);
    }
    let file = OnnxFile::read(&GraphSource::file(graph.half())).unwrap();
    let outputs: Vec<_> = nodes_of(&file.graph).into_iter().flat_map(|node| &node.output).collect();
    assert_eq!(outputs.iter().collect::<HashSet<_>>().len(), outputs.len(), "every name is there once: {outputs:?}");
}

#[test]
fn constants_copies_and_calls_of_functions_are_followed() {
    let named = AttributeProto { ref_attr_name: Some("axis".to_owned()), ..held("axis", 2) };
    let function = FunctionProto {
        name: Some("Halved".to_owned()),
        domain: Some("own".to_owned()),
        input: vec!["of".to_owned()],
        output: vec!["result".to_owned()],
        attribute: vec!["axis".to_owned()],
        opset_import: vec![opset(17)],
        node: vec![
            of("Constant", &[], "half", AttributeProto { f: Some(0.5), ..held("value_float", 1) }),
            node("Mul", &["of", "half"], "less"),
            of("Concat", &["less", "of"], "result", named),
        ],
        ..FunctionProto::default()
    };
    let call = |from: &str, to: &str, axis: i64| NodeProto {
        domain: Some("own".to_owned()),
        ..of("Halved", &[from], to, AttributeProto::int("axis", axis))
    };
    let graph = Graph::new(
        GraphProto {
            input: vec![float("x", 2)],
            output: vec![float("out", 2)],
            initializer: vec![floats("weight", &[8, 3], &noise(24))],
            node: vec![
                node("Identity", &["weight"], "copy"),
                call("x", "wide", 1),
                call("wide", "high", 0),
                node("MatMul", &["high", "copy"], "out"),
            ],
            ..GraphProto::default()
        },
        vec![function],
    );
    assert_eq!(graph.float32(), [] as [&str; 0]);
    assert!(graph.difference(&[both("x", &[2, 4], &noise(8))]) < 0.02);
}

#[test]
fn scales_of_resize_and_unusual_numbers_stay_in_float32() {
    let graph = Graph::new(
        GraphProto {
            input: vec![float("x", 4)],
            output: vec![float("out", 4)],
            initializer: vec![floats("scales", &[4], &[1.0, 1.0, 1.7, 2.3]), floats("large", &[], &[1e6])],
            node: vec![
                node("Resize", &["x", "", "scales"], "larger"),
                node("Mul", &["larger", "large"], "much"),
                node("Div", &["much", "large"], "out"),
            ],
            ..GraphProto::default()
        },
        Vec::new(),
    );
    // what was made with a number that is out of range is clamped before it becomes float16
    assert_eq!(graph.float32(), ["Resize", "Mul", "Div", "Clip"]);
    assert!(graph.difference(&[both("x", &[1, 1, 3, 3], &noise(9))]) < 2e-3);
}

fn product(weight: TensorProto) -> Graph {
    Graph::new(
        GraphProto {
            input: vec![float("x", 2)],
            output: vec![float("out", 2)],
            node: vec![node("MatMul", &["x", weight.name()], "out")],
            initializer: vec![weight, integers("unused", &[1])],
            ..GraphProto::default()
        },
        Vec::new(),
    )
}

#[test]
fn what_cannot_be_converted_is_refused_by_name() {
    insta::assert_snapshot!(product(floats("heavy", &[2, 2], &[1.0, 2.0, 3.0, 1e5])).refused(), @r#"
    weight "heavy": 1 of its numbers do not fit float16, whose largest is 65504; the largest of them is 100000
    hint: bfloat16 has the range of float32: --precision bf16
    "#);
    let graph = product(floats("weight", &[2, 2], &noise(4)));
    convert(&graph.path(), &graph.half(), F16, &|| false).unwrap();
    let again = Graph(tempfile::tempdir().unwrap());
    std::fs::copy(graph.half(), again.path()).unwrap();
    insta::assert_snapshot!(again.refused(), @r#"
    expected a float32 graph, found "x" as float16
    hint: it is converted already; convert the float32 model that it was made from
    "#);
    let quantised = Graph::new(
        GraphProto {
            input: vec![float("x", 2)],
            output: vec![float("out", 2)],
            node: vec![
                node("QuantizeLinear", &["x", "scale"], "small"),
                node("DequantizeLinear", &["small", "scale"], "out"),
            ],
            initializer: vec![floats("scale", &[], &[0.1])],
            ..GraphProto::default()
        },
        Vec::new(),
    );
    insta::assert_snapshot!(quantised.refused(), @"
    expected a float32 graph, found a quantised one (operator QuantizeLinear)
    hint: convert the float32 model that it was made from
    ");
}

#[test]
fn large_weights_lie_beside_the_graph_and_the_bytes_are_the_same_each_time() {
    let graph = product(floats("weight", &[32, 32], &noise(1024)));
    let [one, other] = ["one", "other"].map(|name| {
        let folder = graph.0.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let ConvertedGraph { bytes, .. } =
            convert_within(&graph.path(), &folder.join("g.onnx"), F16, 0, &|| false).unwrap();
        let files = ["g.onnx", "g.onnx_data"].map(|file| std::fs::read(folder.join(file)).unwrap());
        assert_eq!((bytes, files[1].len()), ((files[0].len() + files[1].len()) as u64, 2048));
        files
    });
    assert_eq!(one, other);
    let stopped = convert_within(&graph.path(), &graph.0.path().join("stopped.onnx"), F16, 0, &|| true).unwrap_err();
    assert!(stopped.what.ends_with("stopped"), "{stopped}");
    // and from there
    let beside = Graph(tempfile::tempdir().unwrap());
    std::fs::copy(graph.path(), beside.path()).unwrap();
    std::fs::copy(graph.0.path().join("one/g.onnx"), beside.half()).unwrap();
    std::fs::copy(graph.0.path().join("one/g.onnx_data"), beside.0.path().join("g.onnx_data")).unwrap();
    assert!(beside.difference(&[both("x", &[2, 32], &noise(64))]) < 0.05);
}

/// A bfloat16 graph with each bfloat16 number as float32: what it computes, but for the rounding of what is not a weight. A processor can
/// run it.
fn widened(path: &Path) -> Result<ModelProto, OnnxError> {
    let file = OnnxFile::read(&GraphSource::file(path))?;
    let mut model = file.model(file.graph.clone());
    let Ok(()) = visit_tensors::<Infallible>(&mut model, &mut |tensor| {
        assert_ne!(tensor.data_location(), EXTERNAL);
        if tensor.data_type() == 16 {
            let data = tensor.raw_data.take().unwrap();
            let wide = data.chunks_exact(2).flat_map(|pair| [0, 0, pair[0], pair[1]]).collect::<Vec<_>>();
            (tensor.data_type, tensor.raw_data) = (Some(1), Some(Bytes::from(wide)));
        }
        Ok(())
    });
    for node in &mut model.graph.as_mut().unwrap().node {
        let to = node.attribute.iter_mut().filter(|held| held.name() == "to");
        to.filter(|held| held.i == Some(16)).for_each(|held| held.i = Some(1));
    }
    Ok(model)
}

#[test]
fn a_bfloat16_graph_takes_and_gives_float32_and_computes_the_same() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/clip_split/vision_model.onnx");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("vision_model_bf16.onnx");
    let ConvertedGraph { nodes, in_float32, .. } = convert(&source, &target, Bf16, &|| false).unwrap();
    assert!(in_float32 * 2 < nodes, "{in_float32} of {nodes}");
    let header = crate::onnx::GraphHeader::read(&GraphSource::file(&target)).unwrap();
    assert!(header.inputs.iter().chain(&header.outputs).all(|port| port.dtype == DataType::F32));
    let wide = folder.path().join("wide.onnx");
    std::fs::write(&wide, widened(&target).unwrap().encode_to_vec()).unwrap();
    let shape: Vec<usize> = (0..4)
        .map(|axis| {
            header.inputs[0].fixed(axis).unwrap_or(if axis == 1 {
                3
            } else if axis == 0 {
                2
            } else {
                32
            })
        })
        .collect();
    let pixels = Tensor::from_f32(DataType::F32, &shape, noise(shape.iter().product())).unwrap();
    let [exact, rounded] = [&source, &wide].map(|path| {
        let mut session = Session::open(path, GraphOptions::default()).unwrap();
        let outputs = session.run(&[("pixel_values", SessionInput::Shared(&pixels))]).unwrap();
        outputs.any("image_embeds").unwrap().to_f32().unwrap().into_owned()
    });
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&exact, &rounded) / (dot(&exact, &exact) * dot(&rounded, &rounded)).sqrt();
    assert!(cosine > 0.999 && exact != rounded, "{cosine}");
}
