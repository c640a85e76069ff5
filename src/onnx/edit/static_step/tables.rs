//! Rotary angles as tables. In: a step that computes sines and cosines of positions. Out: the step that takes them from tables, one row for
//! each position, which are computed here once.
//!
//! Besides some twenty small operators a step this saves `Sin` and `Cos`, whose definition of opset 22 not every ONNX Runtime has for CUDA: one
//! operator on the host in the middle of a step would keep it from being captured as a CUDA graph.

use std::collections::HashSet;

use super::counted::refused;
use super::outcome::NotStatic;
use super::step::{LENGTHS, POSITIONS, TABLE};
use crate::onnx::edit::extract::{extract, uses};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::error::OnnxError;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use crate::onnx::runtime::session::{GraphOptions, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// `graph`, made from that of `file`, with tables for `positions` positions.
///
/// # Errors
/// When memory ran out.
pub(super) fn with_tables(
    file: &OnnxFile,
    mut graph: GraphProto,
    positions: usize,
    options: GraphOptions,
) -> Result<Result<GraphProto, NotStatic>, OnnxError> {
    let angles: Vec<String> = angles(&graph).into_iter().map(str::to_owned).collect();
    if angles.is_empty() {
        return Ok(Ok(graph));
    }
    let asked = extract(&graph, angles.iter().map(|name| ValueInfoProto::named(name)).collect(), Vec::new());
    let opened = Session::open_for_probes(file.path(), &file.encode(asked)?, options);
    let mut session = match refused(opened)? {
        Ok(session) => session,
        Err(not) => return Ok(Err(not)),
    };
    let all = (0..positions as i64).collect();
    let lengths = SessionInput::Owned(Tensor::from_i64(&[positions], all)?);
    let outputs = match refused(session.run(&[(LENGTHS, lengths)]))? {
        Ok(outputs) => outputs,
        Err(not) => return Ok(Err(not)),
    };
    for (number, name) in angles.iter().enumerate() {
        let value = outputs.any(name)?;
        let Some(tensor) = value.to_tensor().filter(|_| value.shape().first() == Some(&positions)) else {
            let what = format!("its angles {name:?} are {} of shape {:?}", value.dtype(), value.shape());
            return Ok(Err(NotStatic::because(what)));
        };
        let table = format!("{TABLE}{number}");
        graph.initializer.push(TensorProto { name: Some(table.clone()), ..tensor });
        for node in graph.node.iter_mut().filter(|node| node.output.first() == Some(name)) {
            let row = NodeProto::of("Gather", vec![table.clone(), LENGTHS.to_owned()], name);
            *node = row.with(AttributeProto::int("axis", 0));
        }
    }
    let wanted = graph.output.clone();
    Ok(Ok(extract(&graph, wanted, Vec::new())))
}

/// How many positions a table has, if the model says nothing.
pub(super) fn positions(known: Option<usize>) -> usize {
    known.unwrap_or(POSITIONS).min(POSITIONS)
}

/// The values of `graph` that follow from sines and cosines of the rows' lengths and from nothing else that changes, and that are used
/// together with other values.
fn angles(graph: &GraphProto) -> Vec<&str> {
    let mut constant: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let (mut counted, mut turned) = (HashSet::from([LENGTHS]), HashSet::new());
    let (mut found, mut taken) = (Vec::new(), HashSet::new());
    for node in &graph.node {
        let used = uses(node);
        let outputs = node.output.iter().map(String::as_str);
        if used.iter().all(|name| constant.contains(name)) {
            constant.extend(outputs);
        } else if used.iter().all(|name| counted.contains(name) || constant.contains(name)) {
            if matches!(node.op_type(), "Sin" | "Cos") || used.iter().any(|name| turned.contains(name)) {
                turned.extend(outputs.clone());
            }
            counted.extend(outputs);
        } else {
            found.extend(used.into_iter().filter(|name| turned.contains(name) && taken.insert(*name)));
        }
    }
    found
}
