//! `runtime.batch_size = "auto"`: how many rows go through the model at once, tried out before a run is planned. The plan keeps
//! the answer, so that every attempt and every shard of the run has the same.

use std::time::{Duration, Instant};

use itertools::Itertools;

use crate::engine::Models;
use crate::error::Error;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::pipeline::trial_row::TrialRow;
use crate::preprocess::Preprocessor;

/// What a run has that is too small for trying to pay, and what trying begins with.
const USUAL: usize = 16;
/// Further sizes, as long as each is better than the one before.
const LARGER: [usize; 5] = [32, 64, 128, 256, 512];
/// Runs of fewer batches of the usual size than this are not worth trying.
const WORTHWHILE: u64 = 50;
/// A size is better if a row takes at most this much of the time: below that, memory is worth more.
const BETTER: f64 = 0.95;
/// No size is tried of which a run has fewer batches: trying it would take longer than it saves.
const FEWEST: u64 = 20;
/// No size is tried whose batch would take longer.
const LONGEST: Duration = Duration::from_secs(20);

/// The batch size for a run of `rows` rows.
///
/// # Errors
/// When the model does not run at all.
pub(super) fn batch_size(
    models: &mut [Models],
    preprocessor: Option<&Preprocessor>,
    rows: u64,
) -> Result<usize, Error> {
    tracing::debug!(rows, "choosing the batch size");
    if rows < WORTHWHILE * USUAL as u64 {
        return Ok(USUAL);
    }
    // devices are taken to be alike: the plan has one size for all
    let Some(models) = models.first_mut() else { return Ok(USUAL) };
    let row = TrialRow::new(preprocessor, true);
    time(models, &row, USUAL)?;
    let (mut best, mut of_best) = (USUAL, time(models, &row, USUAL)?);
    for size in LARGER {
        if FEWEST * size as u64 > rows || of_best.mul_f64(size as f64 / best as f64) > LONGEST {
            break;
        }
        let is_better =
            |tried: &Duration| tried.as_secs_f64() / size as f64 <= BETTER * of_best.as_secs_f64() / best as f64;
        // the first batch of a size also takes the memory for it
        let tried = (0..2).map(|_| time(models, &row, size));
        let tried = tried.take_while_inclusive(|tried| tried.as_ref().is_ok_and(|tried| !is_better(tried))).last();
        match tried {
            Some(Ok(tried)) if is_better(&tried) => (best, of_best) = (size, tried),
            Some(Err(error)) if error.kind != OnnxErrorKind::OutOfMemory => return Err(error.into()),
            _ => break,
        }
    }
    tracing::info!(rows = best, rows_per_second = best as f64 / of_best.as_secs_f64(), "batch size, tried out");
    Ok(best)
}

/// How long one batch of `size` rows takes.
fn time(models: &mut Models, row: &TrialRow, size: usize) -> Result<Duration, OnnxError> {
    let begun = Instant::now();
    row.run(models, size)?;
    Ok(begun.elapsed())
}
