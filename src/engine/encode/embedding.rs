//! Embeddings. In: a graph's outputs. Out: L2-normalised vectors, and their cosines. No graph is run here. Outputs that are
//! normalised already stay as they are up to rounding; those of split CLIP exports are not. States become one vector as the model
//! directory says.

use super::finite::is_finite;
use crate::model::{EmbeddingPort, Pooling};
use crate::onnx::{OnnxError, Outputs};

impl EmbeddingPort {
    /// One vector of length 1 for each of `batch` rows; a vector that is not finite stays as it is. `mask` says which states of a text
    /// are no padding, `[batch, states]`; without it, all states count.
    pub(crate) fn read(
        &self,
        outputs: &Outputs,
        batch: usize,
        mask: Option<&[i64]>,
    ) -> Result<Vec<Vec<f32>>, OnnxError> {
        let value = outputs.get(&self.output, batch)?;
        let (values, shape) = (value.to_f32()?, value.shape());
        let refuse = |expected: &str| {
            let (name, width) = (&self.output, self.width);
            Err(OnnxError::of_run(format!("expected {name:?} of shape {expected} of width {width}, found {shape:?}")))
        };
        let mut rows: Vec<Vec<f32>> = match (self.pooling, shape.as_slice()) {
            (Pooling::Vector, _) if values.len() == batch * self.width => {
                values.chunks_exact(self.width.max(1)).map(<[f32]>::to_vec).collect()
            }
            (Pooling::Vector, _) => return refuse("[batch, width]"),
            (Pooling::Mean, [_, width, rows, columns]) if *width == self.width && rows * columns > 0 => {
                let places = rows * columns;
                let mean = |channel: &[f32]| (sum(channel.iter().copied()) / places as f64) as f32;
                let rows = values.chunks_exact(width * places);
                rows.map(|row| row.chunks_exact(places).map(mean).collect()).collect()
            }
            (_, [_, states, width]) if *width == self.width && *states > 0 => {
                let masks = mask.filter(|mask| mask.len() == batch * states);
                let mask = |row: usize| masks.map(|mask| &mask[row * states..(row + 1) * states]);
                let rows = values.chunks_exact(states * width).enumerate();
                rows.map(|(row, values)| pool(self.pooling, values, *width, mask(row))).collect()
            }
            _ => return refuse("[batch, states, width]"),
        };
        rows.iter_mut().filter(|row| is_finite(row)).for_each(|row| normalize(row));
        Ok(rows)
    }
}

/// The vector of one row of states, `[states, width]`, of which those count that `mask` has no 0 for.
fn pool(pooling: Pooling, states: &[f32], width: usize, mask: Option<&[i64]>) -> Vec<f32> {
    let counts = |state: &usize| mask.is_none_or(|mask| mask[*state] != 0);
    let counted = || (0..states.len() / width.max(1)).filter(counts);
    let state = |index: usize| states[index * width..(index + 1) * width].to_vec();
    match pooling {
        Pooling::Mean => {
            let count = counted().count().max(1) as f64;
            let mean = |column: usize| (sum(counted().map(|index| states[index * width + column])) / count) as f32;
            (0..width).map(mean).collect()
        }
        Pooling::Eos => state(counted().next_back().unwrap_or(0)),
        Pooling::Cls | Pooling::Vector => state(counted().next().unwrap_or(0)),
    }
}

fn sum(values: impl Iterator<Item = f32>) -> f64 {
    values.map(f64::from).sum()
}

/// Scales `vector` to length 1; as torch's `normalize`, a length below 1e-12 counts as 1e-12.
fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    for x in vector {
        *x = (f64::from(*x) / length) as f32;
    }
}

/// The cosine of two vectors of length 1 and of equal width.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() as f32
}
