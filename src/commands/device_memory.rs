//! `runtime.device_memory_bytes`: how many rows a batch may have on a GPU. In: the loaded models. Out: the most rows for which weights,
//! caches and states fit. The plan gets at most as many, so that all attempts and all shards of the run use the same batch size.

use super::prepare::PreparedJob;
use crate::engine::Models;
use crate::error::Error;
use crate::job::Job;
use crate::model::{ModelDirectory, Role};
use crate::pipeline::trial_row::TrialRow;
use crate::pipeline::{BATCHES_TO_REFILL, most_state_bytes};

/// The most rows of a batch.
const MOST_ROWS: usize = 4096;
/// Batches of pixels: the one that is encoded, and the next one.
const PIXEL_BATCHES: usize = 2;

/// What a batch needs of a device's memory, in bytes.
struct Needed<'a> {
    models: &'a Models,
    weights: usize,
    /// States of images that are kept.
    kept: usize,
    /// Pixels and states of a row.
    row: usize,
}

impl Needed<'_> {
    fn of_rows(&self, rows: usize) -> usize {
        self.weights + self.kept + self.models.device_bytes(rows) + rows * self.row
    }
}

/// The most rows of a batch that fit; `None` without a device that has a memory of its own, or without a limit of it.
///
/// # Errors
/// [`Error::Unfit`] if not even one row fits; when the model fails.
pub(super) fn most_rows(prepared: &PreparedJob, models: &mut [Models]) -> Result<Option<usize>, Error> {
    let Job { runtime, output, input, .. } = &prepared.job;
    let device = runtime.devices.iter().find(|device| device.has_memory());
    let (Some(device), Some(budget), Some(models)) = (device, runtime.device_memory_bytes, models.first_mut()) else {
        return Ok(None);
    };
    let trial = TrialRow::new(prepared.processor.as_deref(), input.text.is_some());
    let [pixels, states] = trial.measure(models)?;
    let part_rows = usize::try_from(output.part_rows).unwrap_or(usize::MAX);
    let needed = Needed {
        models,
        weights: std::iter::once(&prepared.model).chain(&prepared.embedder).map(weights).sum(),
        kept: states.saturating_mul(part_rows).min(most_state_bytes(*device)),
        // the images of batches that wait for the decoder, and of the one that is encoded
        row: PIXEL_BATCHES * pixels + (BATCHES_TO_REFILL + 1) * states,
    };
    let (one, weights) = (needed.of_rows(1), needed.weights);
    if one > budget {
        return Err(Error::Unfit(format!(
            "`runtime.device_memory_bytes`: expected at least {one} bytes for one row on {device}, of which the weights are {weights}, found {budget}\n\
             hint: give it more, or take a smaller model, such as `model.precision` = \"fp16\""
        )));
    }
    // it needs more for each further row
    let (mut fits, mut too_many) = (1, MOST_ROWS + 1);
    while too_many - fits > 1 {
        let middle = usize::midpoint(fits, too_many);
        if needed.of_rows(middle) <= budget {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    tracing::debug!(rows = fits, bytes = needed.of_rows(fits), "the largest batch that fits the device's memory");
    Ok(Some(fits))
}

/// The bytes of the graphs of `directory`; twice for the decoder, of which a device has a step of its own.
fn weights(directory: &ModelDirectory) -> usize {
    let graphs = Role::ALL.into_iter().filter_map(|role| Some((role, directory.graph(role)?.bytes)));
    let bytes = graphs.map(|(role, bytes)| if role == Role::Decoder { 2 * bytes } else { bytes });
    usize::try_from(bytes.sum::<u64>()).unwrap_or(usize::MAX)
}
