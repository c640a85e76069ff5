//! Memory that rows take before they use it.
//!
//! The ingest stage has two budgets, each of `runtime.prefetch_bytes`:
//! - for rows that are fetched or wait to join a batch: their encoded bytes and pixel values. Rows take it in manifest order, by
//!   their [`Turn`]. If a later row could take the last memory while an earlier one waits for it, the later one would never be
//!   handed on (rows leave in order) and nothing would move again;
//! - for decoding: what a worker needs while it decodes and resizes one image. It is taken in any order: who has it needs nothing
//!   else to finish and to give it back.
//!
//! One image larger than a whole budget takes all of it, so that every image passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Bytes that one permit of the semaphore stands for.
const UNIT_BYTES: u64 = 1024;

/// Bytes of memory that may be in use at the same time.
pub(super) struct MemoryBudget {
    semaphore: Arc<Semaphore>,
    units: u32,
}

/// Memory in use until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes as u64 / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        // A semaphore has fewer permits than a usize has values, and more than a u32 has on 64 bits.
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` are free and takes them; of more than the whole budget, all of it. Who came first is served first.
    pub(super) async fn reserve(&self, bytes: u64) -> Reservation {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        Reservation(self.semaphore.clone().acquire_many_owned(units).await.ok())
    }
}

/// Gives rows their turns, in manifest order.
pub(super) struct TurnQueue {
    ended: Arc<watch::Sender<EndedTurns>>,
    next: u64,
}

/// One row's turn to take memory. It ends when this is dropped; the next row's comes when those of all rows before have ended.
pub(super) struct Turn {
    ended: Arc<watch::Sender<EndedTurns>>,
    number: u64,
}

/// Which turns have ended.
#[derive(Default)]
struct EndedTurns {
    /// All before this one.
    before: u64,
    /// And these behind it.
    behind: BTreeSet<u64>,
}

impl TurnQueue {
    pub(super) fn new() -> Self {
        Self { ended: Arc::new(watch::Sender::default()), next: 0 }
    }

    /// The next row's turn.
    pub(super) fn turn(&mut self) -> Turn {
        let number = self.next;
        self.next += 1;
        Turn { ended: self.ended.clone(), number }
    }
}

impl Turn {
    /// Waits for this turn and then for `bytes` of `budget`, and ends the turn.
    pub(super) async fn reserve(self, budget: &MemoryBudget, bytes: u64) -> Reservation {
        // Fails only without a sender, and this turn has one.
        let _ = self.ended.subscribe().wait_for(|ended| ended.before == self.number).await;
        budget.reserve(bytes).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.ended.send_modify(|ended| {
            ended.behind.insert(self.number);
            while ended.behind.remove(&ended.before) {
                ended.before += 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn let_others_run() {
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn rows_take_memory_in_order_and_a_giant_takes_all() {
        let budget = Arc::new(MemoryBudget::new(10 * UNIT_BYTES as usize));
        let mut turns = TurnQueue::new();
        let (first, second, third) = (turns.turn(), turns.turn(), turns.turn());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { second.reserve(&budget, 100 * UNIT_BYTES).await }
        });
        let_others_run().await;
        assert_eq!(
            budget.semaphore.available_permits(),
            10,
            "the second row waits for the first, though memory is free"
        );
        let small = first.reserve(&budget, UNIT_BYTES).await;
        let_others_run().await;
        assert!(!waiting.is_finished(), "the second row waits for the whole budget");
        drop(small);
        let giant = waiting.await.unwrap();
        assert_eq!(budget.semaphore.available_permits(), 0);
        drop(giant);
        let _nothing = third.reserve(&budget, 0).await;
        assert_eq!(budget.semaphore.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_row_that_takes_no_memory_does_not_let_later_rows_overtake() {
        let budget = Arc::new(MemoryBudget::new(10 * UNIT_BYTES as usize));
        let mut turns = TurnQueue::new();
        let (first, failed, third) = (turns.turn(), turns.turn(), turns.turn());
        drop(failed);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { third.reserve(&budget, 10 * UNIT_BYTES).await }
        });
        let_others_run().await;
        assert!(!waiting.is_finished(), "the third row waits for the first");
        drop(first.reserve(&budget, 10 * UNIT_BYTES).await);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn without_turns_who_waits_for_much_is_not_passed_by() {
        let budget = Arc::new(MemoryBudget::new(10 * UNIT_BYTES as usize));
        let first = budget.reserve(6 * UNIT_BYTES).await;
        let wait = |units: u64| {
            let budget = budget.clone();
            tokio::spawn(async move { budget.reserve(units * UNIT_BYTES).await })
        };
        let large = wait(8);
        let_others_run().await;
        let small = wait(2);
        let_others_run().await;
        assert!(!large.is_finished() && !small.is_finished());
        drop(first);
        let (_large, _small) = (large.await.unwrap(), small.await.unwrap());
        assert_eq!(budget.semaphore.available_permits(), 0);
    }
}
