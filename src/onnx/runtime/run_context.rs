//! What the runs of one thread have in common: another thread can end them, and their time and transfers are counted. In: a context,
//! entered by the thread that runs graphs. Out: an error of the run at hand once the context is interrupted; the time and the transfers of
//! all runs.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ort::session::{NoSelectedOutputs, RunOptions};

use super::environment::runtime;
use super::transfers::{Direction, TransferCounters, Transfers};
use crate::onnx::error::{OnnxError, OnnxErrorKind};

/// The options of a run that another thread can end.
pub(super) type Options = RunOptions<NoSelectedOutputs>;

thread_local! {
    /// The context that this thread is in.
    static CURRENT: RefCell<Option<RunContext>> = const { RefCell::new(None) };
}

/// The context of the runs of a thread.
#[derive(Clone)]
pub(crate) struct RunContext(Arc<Shared>);

struct Shared {
    options: Options,
    interrupted: AtomicBool,
    run_ns: AtomicU64,
    transfers: TransferCounters,
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").field("interrupted", &self.0.interrupted).finish_non_exhaustive()
    }
}

impl RunContext {
    /// A context without runs.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Library`] without an ONNX Runtime; when memory ran out.
    pub(crate) fn new() -> Result<Self, OnnxError> {
        runtime()?;
        let options = Options::new().map_err(|error| OnnxError::from_ort(OnnxErrorKind::Run, "a run", &error))?;
        let (interrupted, run_ns, transfers) = (AtomicBool::new(false), AtomicU64::new(0), TransferCounters::default());
        Ok(Self(Arc::new(Shared { options, interrupted, run_ns, transfers })))
    }

    /// Does `work` in this context.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let done = work();
        CURRENT.set(before);
        done
    }

    /// Ends the run at hand at its next operator, and all later ones at once.
    pub(crate) fn interrupt(&self) {
        self.0.interrupted.store(true, Ordering::Release);
        if let Err(error) = self.0.options.terminate() {
            tracing::debug!("a run cannot be ended early: {error}");
        }
    }

    /// How long runs have taken.
    pub(crate) fn run_time(&self) -> Duration {
        Duration::from_nanos(self.0.run_ns.load(Ordering::Relaxed))
    }

    /// How many runs were made, and what crossed between host and device.
    pub(crate) fn transfers(&self) -> Transfers {
        self.0.transfers.read()
    }
}

/// Makes one run in the context of this thread, if it is in one: with its options, unless the run needs options of its own.
pub(super) fn run<T>(run: impl FnOnce(Option<&Options>) -> ort::Result<T>) -> ort::Result<T> {
    let Some(RunContext(shared)) = CURRENT.with_borrow(Clone::clone) else { return run(None) };
    if shared.interrupted.load(Ordering::Acquire) {
        return Err(ort::Error::new(OnnxError::INTERRUPTED));
    }
    let started = Instant::now();
    shared.transfers.add_run();
    let done = run(Some(&shared.options));
    shared.run_ns.fetch_add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    done
}

/// Counts a copy of `bytes` bytes in the context of this thread, if it is in one.
pub(super) fn copied(direction: Direction, bytes: usize) {
    CURRENT.with_borrow(|context| {
        if let Some(RunContext(shared)) = context {
            shared.transfers.add(direction, bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{DataType, Device, GraphOptions, RowGather, Tensor};

    #[test]
    fn another_thread_ends_the_runs_of_a_context() {
        let context = RunContext::new().unwrap();
        let runs = |device| {
            let mut gather =
                RowGather::new(GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true });
            let tensor = Tensor::zeros(DataType::F32, &[1000, 1000]).unwrap();
            let rows: Vec<_> = (0..1000).collect();
            move || gather.gather(&tensor, &rows).map(drop)
        };
        let (started, start) = std::sync::mpsc::channel();
        let ended = std::thread::scope(|scope| {
            let lanes: Vec<_> = [Device::Cpu, Device::StandIn]
                .into_iter()
                .map(|device| {
                    let (context, mut run, started) = (context.clone(), runs(device), started.clone());
                    scope.spawn(move || {
                        context.enter(|| {
                            run().unwrap();
                            started.send(()).unwrap();
                            // without an end from outside, this never ends
                            loop {
                                if let Err(error) = run() {
                                    return error;
                                }
                            }
                        })
                    })
                })
                .collect();
            for _ in &lanes {
                start.recv().unwrap();
            }
            context.interrupt();
            lanes.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
        });
        for error in ended {
            assert_eq!(error.kind, OnnxErrorKind::Device, "{error}");
            assert!(error.what.contains("ended early"), "{error}");
        }
        assert!(context.run_time() > Duration::ZERO);
        let mut later = runs(Device::Cpu);
        assert!(context.enter(&mut later).is_err(), "later runs of the context end at once");
        assert!(later().is_ok(), "runs outside it go on");
    }
}
