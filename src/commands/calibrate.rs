//! `runtime.batch_size = "auto"`: measures batches of growing size before a run is planned. The plan stores the size, so that
//! all attempts and all shards of the run use the same.

use std::time::{Duration, Instant};

use itertools::Itertools;

use crate::engine::Models;
use crate::error::Error;
use crate::onnx::{Device, OnnxError, OnnxErrorKind};
use crate::pipeline::trial_row::TrialRow;
use crate::preprocess::Preprocessor;

/// The batch size of small runs, and the first that is measured.
const DEFAULT_SIZE: usize = 16;
/// Further sizes. On a CPU they are measured until one is not better than the one before; on a device, where the time of a batch may
/// grow in steps, all that fit are.
const LARGER_SIZES: [usize; 5] = [32, 64, 128, 256, 512];
/// A run with fewer batches of the default size uses that size without a measurement.
const MIN_BATCHES: u64 = 50;
/// A size is better if its time per row is at most this fraction of the best so far: a smaller gain is not worth the memory.
const MAX_TIME_RATIO: f64 = 0.95;
/// On a device, the smallest size is chosen whose time per row, multiplied by this, is at most the best one.
const NEAR_BEST_RATIO: f64 = 0.97;
/// A size is not measured if the run would have fewer batches of it: measuring would take longer than it saves.
const MIN_BATCHES_OF_SIZE: u64 = 20;
/// A size is not measured if one batch would take longer.
const MAX_BATCH_TIME: Duration = Duration::from_secs(20);
/// How often a batch of one size is run on a device. The first runs allocate memory and choose algorithms; the fastest counts.
const RUNS_ON_DEVICE: usize = 3;

/// A measured size, and how long one batch of it takes.
#[derive(Debug, Clone, Copy)]
struct Measured {
    size: usize,
    time: Duration,
}

impl Measured {
    fn seconds_per_row(self) -> f64 {
        self.time.as_secs_f64() / self.size as f64
    }

    /// Whether measuring a batch of `size` rows is worth its time in a run of `rows` rows.
    fn may_grow_to(self, size: usize, rows: u64) -> bool {
        let expected = self.time.mul_f64(size as f64 / self.size as f64);
        MIN_BATCHES_OF_SIZE * size as u64 <= rows && expected <= MAX_BATCH_TIME
    }
}

/// The batch size for a run of `rows` rows on `device` and others like it, if batches of `fits` rows fit its memory.
///
/// # Errors
/// When the model cannot run a batch of the default size.
pub(super) fn batch_size(
    models: &mut [Models],
    device: Device,
    preprocessor: Option<&Preprocessor>,
    rows: u64,
    fits: Option<usize>,
) -> Result<usize, Error> {
    tracing::debug!(rows, "choosing the batch size");
    if rows < MIN_BATCHES * DEFAULT_SIZE as u64 || fits.is_some_and(|fits| fits <= DEFAULT_SIZE) {
        return Ok(DEFAULT_SIZE);
    }
    // The plan has one size for all devices; the first is measured.
    let Some(models) = models.first_mut() else { return Ok(DEFAULT_SIZE) };
    let row = TrialRow::new(preprocessor, true);
    let mut batch_time = |size| {
        let started = Instant::now();
        row.run(models, size).map(|()| started.elapsed())
    };
    let best = if device == Device::Cpu { of_cpu(&mut batch_time, rows)? } else { of_device(&mut batch_time, rows)? };
    tracing::info!(rows = best.size, rows_per_second = 1.0 / best.seconds_per_row(), "measured the batch size");
    Ok(best.size)
}

/// The last size that is clearly better than the one before.
fn of_cpu(batch_time: &mut impl FnMut(usize) -> Result<Duration, OnnxError>, rows: u64) -> Result<Measured, OnnxError> {
    batch_time(DEFAULT_SIZE)?;
    let mut best = Measured { size: DEFAULT_SIZE, time: batch_time(DEFAULT_SIZE)? };
    for size in LARGER_SIZES {
        if !best.may_grow_to(size, rows) {
            break;
        }
        let is_better = |time: &Duration| {
            Measured { size, time: *time }.seconds_per_row() <= MAX_TIME_RATIO * best.seconds_per_row()
        };
        // The first batch of a size includes the allocation of its memory, so a slow one is measured again.
        let times = (0..2).map(|_| batch_time(size));
        let last = times.take_while_inclusive(|time| time.as_ref().is_ok_and(|time| !is_better(time))).last();
        match last {
            Some(Ok(time)) if is_better(&time) => best = Measured { size, time },
            Some(Err(error)) if error.kind != OnnxErrorKind::OutOfMemory => return Err(error),
            _ => break,
        }
    }
    Ok(best)
}

/// The smallest size that is nearly as good as the best.
fn of_device(
    batch_time: &mut impl FnMut(usize) -> Result<Duration, OnnxError>,
    rows: u64,
) -> Result<Measured, OnnxError> {
    let mut measure = |size| {
        let times = (0..RUNS_ON_DEVICE).map(|_| batch_time(size)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, OnnxError>(Measured { size, time: times.into_iter().min().unwrap_or_default() })
    };
    let mut all = vec![measure(DEFAULT_SIZE)?];
    for size in LARGER_SIZES {
        if all.last().is_some_and(|last| !last.may_grow_to(size, rows)) {
            break;
        }
        match measure(size) {
            Ok(measured) => {
                let rows_per_second = 1.0 / measured.seconds_per_row();
                tracing::debug!(rows = size, rows_per_second, "measured a batch size");
                all.push(measured);
            }
            Err(error) if error.kind == OnnxErrorKind::OutOfMemory => break,
            Err(error) => return Err(error),
        }
    }
    let best = all.iter().map(|measured| measured.seconds_per_row()).fold(f64::INFINITY, f64::min);
    let near = |measured: &&Measured| measured.seconds_per_row() * NEAR_BEST_RATIO <= best;
    all.iter().find(near).copied().ok_or_else(|| OnnxError::of_run("no batch size was measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device with these rates, in rows a second for each size in order, is given.
    fn chosen(rates: &[(usize, f64)], rows: u64) -> usize {
        let time = |size: usize| match rates.iter().find(|(of, _)| *of == size) {
            Some((_, rate)) => Ok(Duration::from_secs_f64(size as f64 / rate)),
            None => Err(OnnxError::new(OnnxErrorKind::OutOfMemory, "vision", "out of memory")),
        };
        of_device(&mut { time }, rows).unwrap().size
    }

    #[test]
    fn a_device_gets_the_smallest_size_that_is_nearly_as_fast_as_the_best() {
        let steps = [(16, 100.0), (32, 190.0), (64, 185.0), (128, 300.0), (256, 395.0), (512, 400.0)];
        assert_eq!(chosen(&steps, 1_000_000), 256, "64 is slower than 32, and that ends nothing");
        assert_eq!(chosen(&steps[..3], 1_000_000), 32, "larger ones do not fit");
        assert_eq!(chosen(&steps, 128 * 20), 128, "a run of few rows");
        let flat = [(16, 100.0), (32, 101.0), (64, 100.0), (128, 99.0), (256, 100.0), (512, 102.0)];
        assert_eq!(chosen(&flat, 1_000_000), 16);
        let slow = [(16, 2.0), (32, 2.2), (64, 8.0)];
        assert_eq!(chosen(&slow, 1_000_000), 32, "a batch of 64 might take more than 20 seconds");
    }
}
