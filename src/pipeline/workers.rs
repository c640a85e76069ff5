//! The threads that decode and resize images, with a budget for the memory that they use at the same time.

use tokio::sync::oneshot;

use super::budget::MemoryBudget;
use crate::error::Error;

/// A pool of threads with a memory budget.
pub(super) struct Workers {
    threads: rayon::ThreadPool,
    memory: MemoryBudget,
}

impl Workers {
    /// Starts `threads` threads, which may use `memory_bytes` together.
    ///
    /// # Errors
    /// [`Error::System`] if the threads cannot be started.
    pub(super) fn start(threads: usize, memory_bytes: usize) -> Result<Self, Error> {
        let action = "start the preprocessing threads";
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("preprocess-{index}"))
            .build()
            .map_err(|error| Error::System { action, source: std::io::Error::other(error) })?;
        Ok(Self { threads, memory: MemoryBudget::new(memory_bytes) })
    }

    /// Runs `work` on one of the threads, once the `memory_bytes` that it takes are free. None if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        memory_bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let reservation = self.memory.reserve(memory_bytes).await;
        let (done, outcome) = oneshot::channel();
        self.threads.spawn(move || {
            let result = work();
            drop(reservation);
            // If the run was stopped, nothing waits for the answer.
            let _ = done.send(result);
        });
        outcome.await.ok()
    }
}
