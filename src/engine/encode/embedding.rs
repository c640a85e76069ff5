//! Embeddings. In: a graph's outputs. Out: L2-normalised vectors, and their cosines. No graph is run here. Outputs that are
//! normalised already stay as they are up to rounding; those of split CLIP exports are not.

use super::finite::is_finite;
use crate::model::EmbeddingPort;
use crate::onnx::{OnnxError, Outputs};

impl EmbeddingPort {
    /// One vector of length 1 for each of `batch` rows; a vector that is not finite stays as it is.
    pub(crate) fn read(&self, outputs: &Outputs, batch: usize) -> Result<Vec<Vec<f32>>, OnnxError> {
        let value = outputs.get(&self.output, batch)?;
        let values = value.to_f32()?;
        if values.len() != batch * self.width {
            let (expected, found) = ([batch, self.width], value.shape());
            let what = format!("expected {:?} of shape {expected:?}, found {found:?}", self.output);
            return Err(OnnxError::of_run(what));
        }
        let mut rows: Vec<_> = values.chunks_exact(self.width.max(1)).map(<[f32]>::to_vec).collect();
        rows.iter_mut().filter(|row| is_finite(row)).for_each(|row| normalize(row));
        Ok(rows)
    }
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
