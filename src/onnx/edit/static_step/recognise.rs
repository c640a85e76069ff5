//! Makes and proves a static step. In: a graph's file, and what feeds its inputs. Out: the step, or why there is none.

use super::outcome::NotStatic;
use super::ports::StepPorts;
use super::step::StaticStep;
use super::{make, proof};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::port::GraphSource;
use crate::onnx::runtime::session::GraphOptions;

/// The static step of `graph`, the whole graph of `file`, whose inputs `ports` describes.
///
/// # Errors
/// When a file cannot be read, or memory ran out.
pub(crate) fn static_step(
    file: &OnnxFile,
    ports: &StepPorts,
    options: GraphOptions,
) -> Result<Result<StaticStep, NotStatic>, OnnxError> {
    let made = match make::make(file, ports, options)? {
        Ok(made) => made,
        Err(not) => return Ok(Err(not)),
    };
    Ok(proof::prove(file, &made, ports, options)?.map(|()| made))
}

/// Whether the graph of `source`, whose inputs `ports` describes, has a static step, or why not.
///
/// # Errors
/// As [`static_step`].
pub(crate) fn recognise_static(
    source: &GraphSource,
    ports: &StepPorts,
    options: GraphOptions,
) -> Result<Result<(), NotStatic>, OnnxError> {
    Ok(static_step(&OnnxFile::read(source)?, ports, options)?.map(|_| ()))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test fails by panicking and writes its own files"
    )]

    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use prost::Message;

    use super::{make, proof, recognise_static};
    use crate::onnx::edit::file::OnnxFile;
    use crate::onnx::edit::static_step::ports::{StepPort, StepPorts};
    use crate::onnx::edit::static_step::values::integers;
    use crate::onnx::port::GraphSource;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
    use crate::onnx::runtime::session::GraphOptions;

    fn git() -> PathBuf {
        let git = "tests/fixtures/models/git/onnx/decoder_with_past_model.onnx";
        Path::new(env!("CARGO_MANIFEST_DIR")).join(git)
    }

    fn ports() -> StepPorts {
        let cache = |layer: usize, what: &str| {
            let output = format!("present.{layer}.{what}");
            (format!("past_key_values.{layer}.{what}"), StepPort::Growing(output))
        };
        let caches = [(0, "key"), (0, "value"), (1, "key"), (1, "value")].map(|(layer, what)| cache(layer, what));
        let inputs = std::iter::once(("input_ids".to_owned(), StepPort::Tokens)).chain(caches).collect();
        StepPorts { inputs, ..StepPorts::default() }
    }

    /// What is said of the GIT decoder after `edit`.
    fn said(edit: impl FnOnce(&mut GraphProto)) -> String {
        let mut model = ModelProto::decode(Bytes::from(std::fs::read(git()).unwrap())).unwrap();
        edit(model.graph.as_mut().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decoder.onnx");
        std::fs::write(&path, model.encode_to_vec()).unwrap();
        let said = recognise_static(&GraphSource::file(&path), &ports(), GraphOptions::default()).unwrap();
        said.map_or_else(|not| not.reason, |()| "static".to_owned())
    }

    fn place(graph: &GraphProto, output: &str) -> usize {
        graph.node.iter().position(|node| node.output.first().is_some_and(|name| name == output)).unwrap()
    }

    #[test]
    fn a_sliding_window_is_left_alone() {
        assert_eq!(said(|_| ()), "static");
        let windowed = said(|graph| {
            // of the keys, only the last 40 are attended to
            let at = place(graph, "/LessOrEqual_output_0");
            let [keys, query] = graph.node[at].input.clone().try_into().unwrap();
            let name = |name: &str| name.to_owned();
            let nodes = [
                NodeProto::of("Sub", vec![query, name("window")], "first"),
                NodeProto::of("Greater", vec![keys, name("first")], "recent"),
                NodeProto::of("And", vec![name("/LessOrEqual_output_0"), name("recent")], "both"),
            ];
            graph.node.splice(at + 1..=at, nodes);
            graph.initializer.push(integers("window", &[1], &[40]));
            let masked = place(graph, "/Where_output_0");
            graph.node[masked].input[0] = name("both");
        });
        assert!(windowed.contains("an attention does not take all tokens alike"), "{windowed}");
        assert!(windowed.ends_with("after 130 tokens"), "{windowed}");
    }

    #[test]
    fn a_bias_that_depends_on_more_than_lengths_is_left_alone() {
        let biased = said(|graph| {
            let sum = place(graph, "/encoder/layer.0/attention/self/Add_output_0");
            let Some(NodeProto { input, .. }) = graph.node.get_mut(sum) else { return };
            let mask = input.iter().position(|name| name == "/Unsqueeze_5_output_0").unwrap();
            input[mask] = "bias".to_owned();
            let cast = NodeProto::of("Cast", vec!["input_ids".to_owned()], "number");
            let bias = NodeProto::of("Reshape", vec!["number".to_owned(), "four axes".to_owned()], "bias");
            graph.node.splice(sum..sum, [cast.with(crate::onnx::proto::AttributeProto::int("to", 1)), bias]);
            graph.initializer.push(integers("four axes", &[4], &[-1, 1, 1, 1]));
        });
        assert!(biased.contains("\"bias\" of an attention follows from more than lengths"), "{biased}");
    }

    #[test]
    fn caches_that_are_not_appended_to_and_unknown_operators_are_left_alone() {
        let before = said(|graph| {
            let at = place(graph, "present.0.key");
            graph.node[at].input.swap(0, 1);
        });
        let expected = "expected \"present.0.key\" to be \"past_key_values.0.key\" and one token, joined by Concat";
        assert!(before.contains(expected), "{before}");
        let unknown = said(|graph| {
            let at = place(graph, "/embeddings/Add_output_0");
            let sum = graph.node[at].output[0].clone();
            graph.node[at].output[0] = "sum".to_owned();
            graph.node.insert(at + 1, NodeProto::of("ThresholdedRelu", vec!["sum".to_owned()], &sum));
        });
        assert_eq!(unknown, "ThresholdedRelu of opset 17 is not converted");
    }

    #[test]
    fn a_step_that_differs_is_not_used() {
        let file = OnnxFile::read(&GraphSource::file(git())).unwrap();
        let options = GraphOptions::default();
        let mut made = make::make(&file, &ports(), options).unwrap().unwrap();
        assert_eq!(proof::prove(&file, &made, &ports(), options).unwrap(), Ok(()));
        let attention = made.graph.node.iter_mut().find(|node| node.op_type() == "Attention").unwrap();
        let scale = attention.attribute.iter_mut().find(|attribute| attribute.name() == "scale").unwrap();
        scale.f = scale.f.map(|scale| scale * 1.5);
        let not = proof::prove(&file, &made, &ports(), options).unwrap().unwrap_err();
        assert!(not.reason.contains("differs from the exported graph: \"logits\" by"), "{not}");
    }
}
