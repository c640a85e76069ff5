//! Runs of a graph that was exported for one number of rows. In: inputs with any number of rows. Out: outputs with as many. The graph runs
//! on that many rows at a time; where fewer are left, the last one is repeated, and what comes of its copies is dropped.

use super::gather::RowGather;
use crate::onnx::error::OnnxError;
use crate::onnx::runtime::device::Device;
use crate::onnx::runtime::session::{GraphOptions, Outputs, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// How many rows a graph takes, and what moves rows where these are not the rows of a run.
#[derive(Debug)]
pub struct FixedBatch {
    /// `None`: any number.
    batch: Option<usize>,
    on_device: RowGather,
    on_host: RowGather,
}

impl FixedBatch {
    /// For a graph that is opened with `options` and takes `batch` rows, any number if that is `None`.
    pub fn new(batch: Option<usize>, options: GraphOptions) -> Self {
        let on_host = RowGather::new(GraphOptions { device: Device::Cpu, ..options });
        Self { batch: batch.filter(|batch| *batch > 0), on_device: RowGather::new(options), on_host }
    }

    /// Runs `graph` as [`Session::run_on_device`] does, on `inputs` of `rows` rows. An input has rows on axis 0 if that has the size
    /// `rows`, and it is of floats or has more axes; other inputs are the same in every run. Of outputs that do not have a row for each row
    /// of a run, those of the first run are returned.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run(
        &mut self,
        graph: &mut Session,
        inputs: &[(&str, SessionInput<'_>)],
        rows: usize,
        read: &[&str],
    ) -> Result<Outputs, OnnxError> {
        let Some(batch) = self.batch.filter(|batch| *batch != rows && rows > 0) else {
            return graph.run_on_device(inputs, read);
        };
        let mut runs = Vec::with_capacity(rows.div_ceil(batch));
        for first in (0..rows).step_by(batch) {
            let taken: Vec<usize> = (first..first + batch).map(|row| row.min(rows - 1)).collect();
            let mut feeds = Vec::with_capacity(inputs.len());
            for (name, input) in inputs {
                feeds.push((*name, self.rows_of(input, rows, &taken)?));
            }
            runs.push(graph.run_on_device(&feeds, read)?);
        }
        let kept: Vec<Vec<usize>> =
            (0..rows).step_by(batch).map(|first| (0..batch.min(rows - first)).collect()).collect();
        Outputs::join(runs, |parts| {
            let by_row = |value: &&Tensor| value.dtype().is_float() && value.shape().first() == Some(&batch);
            if !parts.iter().all(by_row) {
                return Ok(None);
            }
            let parts: Vec<_> = parts.iter().copied().zip(kept.iter().map(Vec::as_slice)).collect();
            let first = parts.first().and_then(|(value, _)| value.device());
            self.gather_for(first).concat(&parts, None).map(Some)
        })
    }

    /// The rows `taken` of `input`, or all of it if it has no rows.
    fn rows_of<'a>(
        &mut self,
        input: &'a SessionInput<'_>,
        rows: usize,
        taken: &[usize],
    ) -> Result<SessionInput<'a>, OnnxError> {
        let value = match input {
            SessionInput::Owned(value) => value,
            SessionInput::Shared(value) => *value,
            SessionInput::Floats(shape, values) => return Ok(SessionInput::Floats(shape.clone(), values)),
            SessionInput::Halves(shape, values) => return Ok(SessionInput::Halves(shape.clone(), values)),
        };
        let shape = value.shape();
        if shape.first() != Some(&rows) || !(value.dtype().is_float() || shape.len() > 1) {
            return Ok(SessionInput::Shared(value));
        }
        self.gather_for(value.device()).gather(value, taken).map(SessionInput::Owned)
    }

    /// What moves rows of a tensor in the memory of `device`, or in the host's.
    fn gather_for(&mut self, device: Option<Device>) -> &mut RowGather {
        if device.is_some() { &mut self.on_device } else { &mut self.on_host }
    }
}
