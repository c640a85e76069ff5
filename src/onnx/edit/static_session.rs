//! Opens a static step with the choice of tokens in it, and the choice alone, for logits that another graph computes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::choose::{Choice, add_choice, add_next_step, names};
use super::header::port;
use super::static_step::StaticGraph;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::DataType;
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use crate::onnx::rows::graphs::OPSET_18;
use crate::onnx::runtime::bound::Capture;
use crate::onnx::runtime::device::AttentionKernels;
use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Session};

/// Opens `step`, which returns what it chooses: the token and the input of the next step instead of the logits, or several candidates
/// beside the logits; its attention runs on `kernels`.
/// Returns whether its runs are captured as CUDA graphs: that needs every node on the GPU.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub(crate) fn open_static_step(
    step: &StaticGraph,
    choice: &Choice,
    options: GraphOptions,
    kernels: AttentionKernels,
) -> Result<(Session, Capture), OnnxError> {
    let mut graph = step.graph.clone();
    graph.output.retain(|output| choice.candidates > 1 || output.name() != names::LOGITS);
    add_choice(&mut graph, names::LOGITS, choice);
    if choice.candidates == 1 {
        add_next_step(&mut graph);
    }
    let edited = step.encode(graph)?;
    let open = |capture| Session::open_for_binding(step.path(), &edited, options, kernels, capture);
    if options.device.captures() {
        match open(Capture::EachBinding) {
            Ok(session) => return Ok((session, Capture::EachBinding)),
            Err(error) if error.kind != OnnxErrorKind::Load => return Err(error),
            Err(error) => tracing::info!("steps are not captured as CUDA graphs: {error}"),
        }
    }
    Ok((open(Capture::Never)?, Capture::Never))
}

/// Opens a graph that chooses tokens as `step` does, from logits `[rows, tokens, vocabulary]` that another graph has computed.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub(crate) fn open_choice(step: &GraphProto, choice: &Choice, options: GraphOptions) -> Result<Session, OnnxError> {
    let logits = step.output.iter().find(|output| output.name() == names::LOGITS);
    let dtype = logits.map_or(DataType::F32, |output| port(output).dtype);
    let mut graph = GraphProto { name: Some("choice".to_owned()), ..GraphProto::default() };
    graph.input.push(ValueInfoProto::tensor(names::LOGITS, dtype, Some(3)));
    if !choice.ends.is_empty() {
        graph.input.push(ValueInfoProto::tensor(names::LENGTHS, DataType::I64, Some(1)));
    }
    add_choice(&mut graph, names::LOGITS, choice);
    let opset_import = vec![Bytes::from_static(OPSET_18)];
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, ..ModelProto::default() };
    let edited = EditedGraph { bytes: model.encode_to_vec(), folder: PathBuf::new() };
    Session::open_edited(Path::new("choice of tokens"), &edited, GraphOptions { dynamic_shapes: true, ..options })
}

#[cfg(test)]
mod tests {
    use super::{Choice, names, open_choice};
    use crate::onnx::port::DataType;
    use crate::onnx::proto::{GraphProto, ValueInfoProto};
    use crate::onnx::runtime::device::Device;
    use crate::onnx::runtime::session::{GraphOptions, SessionInput};
    use crate::onnx::runtime::tensor::Tensor;

    /// What is chosen from `rows` of logits, of which only the last of two tokens counts.
    fn chosen(choice: &Choice, rows: &[[f32; 5]], lengths: &[i64], shortest: &[i64]) -> Vec<Vec<f32>> {
        let output = vec![ValueInfoProto::tensor(names::LOGITS, DataType::F32, Some(3))];
        let step = GraphProto { output, ..GraphProto::default() };
        let options = GraphOptions { device: Device::StandIn, threads: 1, dynamic_shapes: true, repeatable: true };
        let mut session = open_choice(&step, choice, options).unwrap();
        let data = rows.iter().flat_map(|row| [9.0; 5].into_iter().chain(*row)).collect();
        let numbers = |numbers: &[i64]| SessionInput::Owned(Tensor::from_i64(&[rows.len()], numbers.to_vec()).unwrap());
        let logits = Tensor::from_f32(DataType::F32, &[rows.len(), 2, 5], data).unwrap();
        let mut feeds = vec![(names::LOGITS, SessionInput::Owned(logits))];
        if !choice.ends.is_empty() {
            feeds.extend([(names::LENGTHS, numbers(lengths)), (names::SHORTEST, numbers(shortest))]);
        }
        let outputs = session.run_on_device(&feeds, &[names::CHOSEN]).unwrap();
        let numbers = outputs.get(names::CHOSEN, rows.len()).unwrap().to_f32().unwrap().into_owned();
        numbers
            .chunks(if choice.candidates == 1 { 3 } else { 3 * choice.candidates + 1 })
            .map(<[f32]>::to_vec)
            .collect()
    }

    /// The log-probability of the token at `index`, in double precision.
    fn logprob(row: [f32; 5], index: usize) -> f32 {
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        (f64::from(row[index]) - sum.ln()) as f32
    }

    #[test]
    fn the_highest_logit_is_chosen_among_those_that_may_be() {
        let row = [1.0, 4.0, 4.0, 3.0, -2.0];
        let greedy = Choice { vocabulary: 5, candidates: 1, ends: vec![1, 2], ..Choice::default() };
        let found = chosen(&greedy, &[row, row], &[3, 3], &[3, 4]);
        let expected = [[1.0, logprob(row, 1), 1.0], [3.0, logprob(row, 3), 1.0]];
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, not {expected:?}");
        }
        let suppressed = Choice { ends: Vec::new(), suppressed: vec![1, 2, 3], ..greedy };
        assert!(chosen(&suppressed, &[row], &[], &[])[0][0].abs() < f32::EPSILON);
    }

    #[test]
    fn candidates_come_best_first_with_their_log_probabilities() {
        let (a, b) = ([1.0, 4.0, 2.0, 3.0, -2.0], [0.5, 0.25, 0.0, 1.0, 0.75]);
        let choice = Choice { vocabulary: 5, candidates: 3, ends: vec![3], suppressed: vec![1], ..Choice::default() };
        let found = chosen(&choice, &[a, b], &[0, 0], &[1, 0]);
        let of = |row: [f32; 5], tokens: [usize; 3]| -> Vec<f32> {
            let logprobs = tokens.map(|token| logprob(row, token));
            tokens.map(|token| token as f32).into_iter().chain(logprobs).chain(logprobs).chain([1.0]).collect()
        };
        for (found, expected) in found.iter().zip([of(a, [2, 0, 4]), of(b, [3, 4, 0])]) {
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn candidates_by_logits_have_them_and_banned_ones_the_lowest_number() {
        let row = [1.0, 4.0, 2.0, 3.0, -2.0];
        let choice =
            Choice { vocabulary: 5, candidates: 3, by_logits: true, suppressed: vec![0, 1, 2], ..Choice::default() };
        let found = chosen(&choice, &[row], &[], &[]).remove(0);
        assert_eq!((&found[..2], &found[6..8], found[9]), (&[3.0, 4.0][..], &[3.0, -2.0][..], 1.0), "{found:?}");
        assert!(found[8] < f32::MIN / 2.0, "the third candidate is banned: {found:?}");
        assert!((found[3] - logprob(row, 3)).abs() < 1e-6);
    }

    #[test]
    fn a_row_with_a_logit_that_is_not_finite_is_marked() {
        let choice = Choice { vocabulary: 5, candidates: 1, ..Choice::default() };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rows = [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, bad, 3.0, 4.0]];
            let marks: Vec<_> = chosen(&choice, &rows, &[], &[]).iter().map(|row| row[2]).collect();
            assert_eq!(marks, [1.0, 0.0], "{bad}");
        }
    }
}
