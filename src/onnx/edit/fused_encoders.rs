//! Encoders in which attention is one operator compute what the exported ones do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::encoder_graph::{FusedOperators, fuse_operators};
use super::file::OnnxFile;
use crate::onnx::port::{DataType, Dim, GraphSource, Port};
use crate::onnx::proto::GraphProto;
use crate::onnx::runtime::device::Device;
use crate::onnx::runtime::session::{GraphOptions, Outputs, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// A sequence of numbers that is the same every time (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }

    /// From -1 to 1.
    #[allow(clippy::cast_precision_loss, reason = "24 bits")]
    fn number(&mut self) -> f32 {
        self.bits() as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Makes the float32 matrices of `graph` larger, so that scores differ and the softmax depends on them: fixtures have small random weights.
fn amplify(graph: &mut GraphProto) {
    let matrices = graph.initializer.iter_mut().filter(|tensor| tensor.dims.len() == 2 && tensor.data_type() == 1);
    for data in matrices.filter_map(|tensor| tensor.raw_data.as_mut()) {
        let numbers = data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        *data = numbers.flat_map(|number| (number * 6.0).to_le_bytes()).collect();
    }
}

/// `graph` with attention of twice the scale.
fn with_wrong_scale(mut graph: GraphProto) -> GraphProto {
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute).filter(|a| a.name() == "scale") {
        attribute.f = attribute.f.map(|scale| scale * 2.0);
    }
    graph
}

/// Three rows of random input, texts with the token `last` at their ends; masks hide more of each row, but never all of it.
fn input(port: &Port, last: i64, random: &mut Random) -> Tensor {
    let dims = port.shape.as_ref().unwrap();
    let size = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Any(_) if axis == 0 => 3,
        Dim::Any(name) if name == "num_channels" => 3,
        Dim::Any(name) if name == "height" || name == "width" => 32,
        Dim::Any(name) if name == "num_images" => 2,
        Dim::Any(_) => 7,
    };
    let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
    let count: usize = shape.iter().product();
    let row = count / shape[0];
    if port.name.contains("mask") {
        let shown = |at: usize| at % row < row - (at / row) * row / 4;
        let shown: Vec<bool> = (0..count).map(shown).collect();
        return Tensor::mask(port.dtype, &shape, shown).unwrap();
    }
    match port.dtype {
        DataType::I64 => {
            let token = |at: usize| match at % row {
                column if column == row - 1 => last,
                _ => 1 + i64::try_from(random.bits() % 20).unwrap(),
            };
            Tensor::from_i64(&shape, (0..count).map(token).collect())
        }
        dtype => Tensor::from_f32(dtype, &shape, (0..count).map(|_| random.number()).collect()),
    }
    .unwrap()
}

fn run(session: &mut Session, last: i64) -> Outputs {
    let mut random = Random(1);
    let ports: Vec<Port> = session.inputs().to_vec();
    let feeds: Vec<_> =
        ports.iter().map(|port| (port.name.as_str(), SessionInput::Owned(input(port, last, &mut random)))).collect();
    session.run(&feeds).unwrap()
}

/// The largest difference of an output, relative to its largest number.
fn difference(exported: &Outputs, fused: &Outputs, port: &Port) -> f32 {
    let (a, b) = (exported.any(&port.name).unwrap(), fused.any(&port.name).unwrap());
    assert_eq!(a.shape(), b.shape(), "{}", port.name);
    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
    let largest = a.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{}", port.name);
    a.iter().zip(b.iter()).fold(0.0f32, |most, (a, b)| if b.is_nan() { f32::NAN } else { most.max((a - b).abs()) })
        / largest
}

fn operators(graph: &GraphProto) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in graph.node.iter().filter(|node| node.domain() == "com.microsoft") {
        *counts.entry(node.op_type()).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(op_type, count)| format!(" {count} {op_type}")).collect();
    counts.concat()
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn encoders_with_fused_operators_compute_what_the_exported_ones_do() {
    let graphs: [(&str, &[&str]); 23] = [
        ("tests/fixtures/models/blip/onnx/encoder_model.onnx", &[]),
        ("tests/fixtures/models/blip_itm/onnx/vision_model.onnx", &[]),
        ("tests/fixtures/models/blip_itm/onnx/text_model.onnx", &[]),
        ("tests/fixtures/models/blip_itm/onnx/multimodal_encoder.onnx", &[]),
        ("tests/fixtures/models/clip/model.onnx", &["image_embeds"]),
        ("tests/fixtures/models/clip/model.onnx", &["text_embeds"]),
        ("tests/fixtures/models/clip_split/vision_model.onnx", &[]),
        ("tests/fixtures/models/clip_split/text_model.onnx", &[]),
        ("tests/fixtures/models/coca/onnx/vision_model.onnx", &[]),
        ("tests/fixtures/models/coca/onnx/text_model.onnx", &[]),
        ("tests/fixtures/models/florence2/onnx/vision_encoder.onnx", &[]),
        ("tests/fixtures/models/florence2/onnx/encoder_model.onnx", &[]),
        ("tests/fixtures/models/git/onnx/encoder_model.onnx", &[]),
        ("tests/fixtures/models/llava/onnx/vision_encoder.onnx", &[]),
        ("tests/fixtures/models/siglip/model.onnx", &["image_embeds", "text_embeds"]),
        ("tests/fixtures/models/smolvlm/onnx/vision_encoder.onnx", &[]),
        ("tests/fixtures/models/trocr/encoder_model.onnx", &[]),
        ("tests/fixtures/models/vit_gpt2/encoder_model.onnx", &[]),
        ("tests/fixtures/models/vit_gpt2/encoder_model_fp16.onnx", &[]),
        ("tests/fixtures/tiny_model/vision_model.onnx", &[]),
        ("tests/fixtures/tiny_model/text_model.onnx", &[]),
        ("tests/fixtures/tiny_model/fusion.onnx", &[]),
        ("sample_data/model/text_model.onnx", &[]),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (name, outputs) in graphs {
        let outputs = Some(outputs.iter().map(ToString::to_string).collect()).filter(|all: &Vec<_>| !all.is_empty());
        let source = GraphSource { path: root.join(name), outputs };
        let options = GraphOptions { threads: 1, ..GraphOptions::default() };
        let mut file = OnnxFile::read(&source).unwrap();
        // CLIP's fixtures, and a trained model, have larger weights
        if name.contains("fixtures") && !name.contains("models/clip") {
            amplify(&mut file.graph);
        }
        let (graph, fused) = fuse_operators(&file).unwrap();
        let FusedOperators { attentions, fused_attentions, reasons, layer_norms, activations } = fused;
        let operators = operators(&graph);
        writeln!(
            table,
            "{name}: {fused_attentions} of {attentions}, {layer_norms} norms, {activations} activations:{operators}"
        )
        .unwrap();
        for reason in &reasons {
            writeln!(table, "    {reason}").unwrap();
        }
        let open = |graph| Session::open_edited(&source.path, &file.encode(graph).unwrap(), options).unwrap();
        let mut exported = open(file.graph.clone());
        // the text embedding of CLIP is the state of the end token, which attends to all others only at the end
        let last = if name.contains("models/clip") { 598 } else { 21 };
        let run = |session: &mut Session| run(session, last);
        let [one, same, other] =
            [run(&mut exported), run(&mut open(graph.clone())), run(&mut open(with_wrong_scale(graph)))];
        let most = if name.contains("fp16") { 5e-3 } else { 2e-5 };
        let floats = exported.outputs().iter().filter(|port| port.dtype.is_float());
        let differences = floats.map(|port| (difference(&one, &same, port), difference(&one, &other, port)));
        let (found, of_wrong) = differences.fold((0.0f32, 0.0f32), |(found, wrong), (a, b)| {
            (if a.is_nan() { f32::INFINITY } else { found.max(a) }, wrong.max(b))
        });
        println!("{name}: {found:e}, with a wrong scale {of_wrong:e}");
        // the comparison tells a wrong attention from a right one
        if found > most || of_wrong < 100.0 * found.max(1e-7) {
            wrong.push(format!("{name}: {found:e}, with a wrong scale {of_wrong:e}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    insta::assert_snapshot!(table, @r"
    tests/fixtures/models/blip/onnx/encoder_model.onnx: 2 of 2, 4 norms, 0 activations: 2 Attention 4 SkipLayerNormalization
    tests/fixtures/models/blip_itm/onnx/vision_model.onnx: 2 of 2, 4 norms, 0 activations: 2 Attention 4 SkipLayerNormalization
    tests/fixtures/models/blip_itm/onnx/text_model.onnx: 2 of 2, 4 norms, 0 activations: 2 Attention 4 SkipLayerNormalization
    tests/fixtures/models/blip_itm/onnx/multimodal_encoder.onnx: 4 of 4, 6 norms, 0 activations: 2 Attention 2 MultiHeadAttention 6 SkipLayerNormalization
    tests/fixtures/models/clip/model.onnx: 1 of 1, 1 norms, 0 activations: 1 Attention 1 SkipLayerNormalization
    tests/fixtures/models/clip/model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/models/clip_split/vision_model.onnx: 1 of 1, 1 norms, 0 activations: 1 Attention 1 SkipLayerNormalization
    tests/fixtures/models/clip_split/text_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/models/coca/onnx/vision_model.onnx: 2 of 2, 2 norms, 0 activations: 1 Attention 1 MultiHeadAttention 2 SkipLayerNormalization
    tests/fixtures/models/coca/onnx/text_model.onnx: 1 of 1, 1 norms, 0 activations: 1 Attention 1 SkipLayerNormalization
    tests/fixtures/models/florence2/onnx/vision_encoder.onnx: 2 of 4, 0 norms, 0 activations: 2 Attention
        expected a constant scale, found one that is computed
    tests/fixtures/models/florence2/onnx/encoder_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/models/git/onnx/encoder_model.onnx: 2 of 2, 4 norms, 0 activations: 2 Attention 4 SkipLayerNormalization
    tests/fixtures/models/llava/onnx/vision_encoder.onnx: 1 of 1, 1 norms, 0 activations: 1 Attention 1 SkipLayerNormalization
    tests/fixtures/models/siglip/model.onnx: 2 of 3, 4 norms, 3 activations: 2 Attention 3 FastGelu 4 SkipLayerNormalization
        expected a known number of heads
    tests/fixtures/models/smolvlm/onnx/vision_encoder.onnx: 1 of 1, 2 norms, 1 activations: 1 Attention 1 FastGelu 2 SkipLayerNormalization
    tests/fixtures/models/trocr/encoder_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/models/vit_gpt2/encoder_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/models/vit_gpt2/encoder_model_fp16.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/tiny_model/vision_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/tiny_model/text_model.onnx: 1 of 1, 2 norms, 0 activations: 1 Attention 2 SkipLayerNormalization
    tests/fixtures/tiny_model/fusion.onnx: 1 of 1, 1 norms, 0 activations: 1 MultiHeadAttention 1 SkipLayerNormalization
    sample_data/model/text_model.onnx: 6 of 6, 12 norms, 0 activations: 6 MultiHeadAttention 12 SkipLayerNormalization
    ");
}

#[test]
fn only_a_device_opens_the_graph_with_fused_operators() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/vit_gpt2/encoder_model.onnx");
    let source = GraphSource::file(path);
    let options = GraphOptions { threads: 1, ..GraphOptions::default() };
    let numbers =
        |mut session: Session| run(&mut session, 1).any("last_hidden_state").unwrap().to_f32().unwrap().into_owned();
    let file = OnnxFile::read(&source).unwrap();
    let edited = file.encode(fuse_operators(&file).unwrap().0).unwrap();
    let exported = numbers(source.open(options).unwrap());
    let fused = numbers(Session::open_edited(&source.path, &edited, options).unwrap());
    let of = |device| numbers(source.open_encoder(GraphOptions { device, ..options }).unwrap());
    assert_ne!(exported, fused);
    assert_eq!(of(Device::Cpu), exported);
    assert_eq!(of(Device::StandIn), fused);
}
