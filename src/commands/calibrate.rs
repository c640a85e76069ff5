//! `runtime.batch_size = "auto"`: measures batches of growing size before a run is planned. The plan stores the size, so that
//! all attempts and all shards of the run use the same.

use std::time::{Duration, Instant};

use itertools::Itertools;

use crate::engine::Models;
use crate::error::Error;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::pipeline::trial_row::TrialRow;
use crate::preprocess::Preprocessor;

/// The batch size of small runs, and the first that is measured.
const DEFAULT_SIZE: usize = 16;
/// Further sizes, measured until one is not better than the one before.
const LARGER_SIZES: [usize; 5] = [32, 64, 128, 256, 512];
/// A run with fewer batches of the default size uses that size without a measurement.
const MIN_BATCHES: u64 = 50;
/// A size is better if its time per row is at most this fraction of the best so far: a smaller gain is not worth the memory.
const MAX_TIME_RATIO: f64 = 0.95;
/// A size is not measured if the run would have fewer batches of it: measuring would take longer than it saves.
const MIN_BATCHES_OF_SIZE: u64 = 20;
/// A size is not measured if one batch would take longer.
const MAX_BATCH_TIME: Duration = Duration::from_secs(20);

/// The batch size for a run of `rows` rows.
///
/// # Errors
/// When the model cannot run a batch of the default size.
pub(super) fn batch_size(
    models: &mut [Models],
    preprocessor: Option<&Preprocessor>,
    rows: u64,
) -> Result<usize, Error> {
    tracing::debug!(rows, "choosing the batch size");
    if rows < MIN_BATCHES * DEFAULT_SIZE as u64 {
        return Ok(DEFAULT_SIZE);
    }
    // The plan has one size for all devices; the first is measured.
    let Some(models) = models.first_mut() else { return Ok(DEFAULT_SIZE) };
    let row = TrialRow::new(preprocessor, true);
    batch_time(models, &row, DEFAULT_SIZE)?;
    let (mut best, mut best_time) = (DEFAULT_SIZE, batch_time(models, &row, DEFAULT_SIZE)?);
    for size in LARGER_SIZES {
        let expected_time = best_time.mul_f64(size as f64 / best as f64);
        if MIN_BATCHES_OF_SIZE * size as u64 > rows || expected_time > MAX_BATCH_TIME {
            break;
        }
        let is_better = |time: &Duration| {
            time.as_secs_f64() / size as f64 <= MAX_TIME_RATIO * best_time.as_secs_f64() / best as f64
        };
        // The first batch of a size includes the allocation of its memory, so a slow one is measured again.
        let times = (0..2).map(|_| batch_time(models, &row, size));
        let last = times.take_while_inclusive(|time| time.as_ref().is_ok_and(|time| !is_better(time))).last();
        match last {
            Some(Ok(time)) if is_better(&time) => (best, best_time) = (size, time),
            Some(Err(error)) if error.kind != OnnxErrorKind::OutOfMemory => return Err(error.into()),
            _ => break,
        }
    }
    tracing::info!(rows = best, rows_per_second = best as f64 / best_time.as_secs_f64(), "measured the batch size");
    Ok(best)
}

/// The time that one batch of `size` rows takes.
fn batch_time(models: &mut Models, row: &TrialRow, size: usize) -> Result<Duration, OnnxError> {
    let started = Instant::now();
    row.run(models, size)?;
    Ok(started.elapsed())
}
