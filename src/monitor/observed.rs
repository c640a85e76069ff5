//! What the monitor knows of a command.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::support::counts::Counts;
use crate::support::metrics::Metrics;
use crate::support::nvidia_smi::GpuMemory;

/// What is known of the command.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) started_at: SystemTime,
    pub(super) started: Instant,
    /// The exit status, at the end.
    pub(super) status: Option<u8>,
    pub(super) run: Option<RunProgress>,
    /// The GPUs of the machine, if the run uses any.
    pub(super) gpus: Vec<GpuMemory>,
}

/// What is known of the run that the command works on.
#[derive(Debug, Clone, Default)]
pub struct RunProgress {
    /// The run id.
    pub run: String,
    /// Rows that this process is to make or has published.
    pub planned_rows: u64,
    /// Parts likewise.
    pub planned_parts: u64,
    /// Rows of a run that was complete or has been published.
    pub published: Option<Counts>,
    /// The counters of the stages; None: nothing is computed.
    pub metrics: Option<Arc<Metrics>>,
    /// Whether models run on GPUs.
    pub uses_gpus: bool,
}
