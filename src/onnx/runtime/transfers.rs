//! Counts what crosses between the memories of host and device. In: each tensor that does, where it does. Out: numbers of runs, copies
//! and bytes. Counting is two additions without a lock, so that it is always on.
//!
//! A tensor of the host that a run on a device takes counts as copied, also a small one that ONNX Runtime leaves on the host because it
//! is a shape or an axis.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many runs were made, and what they and the copies between them moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Transfers {
    /// Runs of graphs.
    pub(crate) runs: u64,
    /// From the host's memory to the device's.
    pub(crate) to_device: Copies,
    /// From the device's memory to the host's.
    pub(crate) to_host: Copies,
}

/// Copied tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    /// How many.
    pub(crate) count: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Sub for Copies {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { count: self.count - before.count, bytes: self.bytes - before.bytes }
    }
}

impl Sub for Transfers {
    type Output = Self;

    /// What was added to `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            runs: self.runs - before.runs,
            to_device: self.to_device - before.to_device,
            to_host: self.to_host - before.to_host,
        }
    }
}

/// The direction of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToDevice,
    ToHost,
}

/// Counters, added to from any thread.
#[derive(Debug, Default)]
pub(super) struct TransferCounters {
    runs: AtomicU64,
    to_device: CopyCounters,
    to_host: CopyCounters,
}

#[derive(Debug, Default)]
struct CopyCounters {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl TransferCounters {
    pub(super) fn add_run(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, direction: Direction, bytes: usize) {
        let copies = match direction {
            Direction::ToDevice => &self.to_device,
            Direction::ToHost => &self.to_host,
        };
        copies.count.fetch_add(1, Ordering::Relaxed);
        copies.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The numbers so far.
    pub(super) fn read(&self) -> Transfers {
        let copies = |CopyCounters { count, bytes }: &CopyCounters| Copies {
            count: count.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        };
        Transfers {
            runs: self.runs.load(Ordering::Relaxed),
            to_device: copies(&self.to_device),
            to_host: copies(&self.to_host),
        }
    }
}
