//! Memory budgets: rows reserve memory before they use it.
//!
//! The ingest stage has two budgets, each of `runtime.prefetch_bytes`:
//! - for rows that are fetched or wait to join a batch: their encoded bytes and pixel values. Rows reserve it in manifest order, by
//!   their [`Ticket`]. Otherwise a later row could reserve the last memory while an earlier one waits for it: a deadlock, since rows
//!   leave the stage in order;
//! - for decoding: what a worker needs while it decodes and resizes one image. It is reserved in any order, since a worker that has
//!   it waits for nothing else.
//!
//! An image larger than a whole budget reserves all of it, so that no image is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Bytes for each permit of the semaphore.
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
        // `acquire_many_owned` takes a u32, and a semaphore has a maximum of its own.
        let units = units.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self { semaphore: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` are free and reserves them, or all of the budget if it is smaller. Requests are served in order.
    pub(super) async fn reserve(&self, bytes: u64) -> Reservation {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        Reservation(self.semaphore.clone().acquire_many_owned(units).await.ok())
    }
}

/// Issues tickets, in manifest order.
pub(super) struct TicketQueue {
    released: Arc<watch::Sender<ReleasedTickets>>,
    next: u64,
}

/// The right of one row to reserve memory, once all tickets before it are released. Dropping a ticket releases it.
pub(super) struct Ticket {
    released: Arc<watch::Sender<ReleasedTickets>>,
    number: u64,
}

/// The tickets that were released.
#[derive(Default)]
struct ReleasedTickets {
    /// All below this number.
    before: u64,
    /// These above it.
    behind: BTreeSet<u64>,
}

impl TicketQueue {
    pub(super) fn new() -> Self {
        Self { released: Arc::new(watch::Sender::default()), next: 0 }
    }

    /// The ticket of the next row.
    pub(super) fn ticket(&mut self) -> Ticket {
        let number = self.next;
        self.next += 1;
        Ticket { released: self.released.clone(), number }
    }
}

impl Ticket {
    /// Waits until all tickets before this one are released, then for `bytes` of `budget`, and releases this one.
    pub(super) async fn reserve(self, budget: &MemoryBudget, bytes: u64) -> Reservation {
        // Fails only without a sender, and this ticket holds one.
        let _ = self.released.subscribe().wait_for(|released| released.before == self.number).await;
        budget.reserve(bytes).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.released.send_modify(|released| {
            released.behind.insert(self.number);
            while released.behind.remove(&released.before) {
                released.before += 1;
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
    async fn rows_reserve_memory_in_order_and_a_large_one_reserves_all() {
        let budget = Arc::new(MemoryBudget::new(10 * UNIT_BYTES as usize));
        let mut tickets = TicketQueue::new();
        let (first, second, third) = (tickets.ticket(), tickets.ticket(), tickets.ticket());
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
        let mut tickets = TicketQueue::new();
        let (first, failed, third) = (tickets.ticket(), tickets.ticket(), tickets.ticket());
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
    async fn without_tickets_a_large_reservation_is_not_overtaken() {
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
