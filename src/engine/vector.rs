//! Arithmetic on embeddings.

/// Scales `vector` to length 1 (torch's `normalize`: a length below 1e-12 counts as 1e-12).
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    for x in vector {
        *x = (f64::from(*x) / length) as f32;
    }
}

/// The cosine of two vectors of length 1 and of equal width.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() as f32
}

/// Whether no element is NaN or infinite.
pub(super) fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// Cuts `values` into `rows` vectors and normalises each; a vector that is not finite stays as it is.
pub(super) fn embeddings(values: &[f32], rows: usize) -> Vec<Vec<f32>> {
    let width = values.len() / rows.max(1);
    values
        .chunks_exact(width.max(1))
        .map(|row| {
            let mut row = row.to_vec();
            if is_finite(&row) {
                normalize(&mut row);
            }
            row
        })
        .collect()
}
