//! Bytes in flight: rows take room in manifest order and give it back when they join a batch.
//!
//! The order matters. If a later row could take the last room while an earlier one waits for it, the later one would never be
//! handed on (rows leave in order) and nothing would move again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Bytes that one permit of the semaphore stands for.
const UNIT_BYTES: usize = 1024;

/// Room for rows in memory.
pub(super) struct Budget {
    room: Arc<Semaphore>,
    units: usize,
    /// Resolves when the row before has taken its room.
    last: Option<oneshot::Receiver<()>>,
}

/// One row's place in the queue for room. Every row must [`Turn::end`] it, also one that needed no room: a place that just
/// vanished would let later rows overtake earlier ones.
pub(super) struct Turn {
    room: Arc<Semaphore>,
    units: usize,
    before: Option<oneshot::Receiver<()>>,
    /// Dropped when the next row may take its room.
    after: Option<oneshot::Sender<()>>,
}

/// Room that a row holds until this is dropped.
#[derive(Debug)]
pub(super) struct Room(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Budget {
    /// Room for `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT_BYTES).clamp(1, u32::MAX as usize);
        Self { room: Arc::new(Semaphore::new(units)), units, last: None }
    }

    /// The next row's place; called in manifest order.
    pub(super) fn turn(&mut self) -> Turn {
        let (after, next) = oneshot::channel();
        let before = self.last.replace(next);
        Turn { room: self.room.clone(), units: self.units, before, after: Some(after) }
    }
}

impl Turn {
    /// Waits for this row's turn and for room for `bytes`; a row larger than the whole budget takes all of it.
    pub(super) async fn take(&mut self, bytes: usize) -> Room {
        self.come().await;
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES).min(self.units)).unwrap_or(u32::MAX);
        let room = Room(self.room.clone().acquire_many_owned(units).await.ok());
        self.after = None;
        room
    }

    /// Lets the next row have its turn, once this one's has come.
    pub(super) async fn end(mut self) {
        self.come().await;
    }

    async fn come(&mut self) {
        if let Some(before) = &mut self.before {
            // An error says that the sender was dropped, which is how a turn ends.
            let _ = before.await;
            self.before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_take_room_in_order_and_a_giant_takes_all() {
        let mut budget = Budget::new(10 * UNIT_BYTES);
        let (mut first, mut second, mut third) = (budget.turn(), budget.turn(), budget.turn());
        let waiting = tokio::spawn(async move { second.take(100 * UNIT_BYTES).await });
        tokio::task::yield_now().await;
        assert_eq!(budget.room.available_permits(), 10, "the second row waits for the first, though there is room");
        let room = first.take(UNIT_BYTES).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the second row waits for the whole budget");
        drop(room);
        let giant = waiting.await.unwrap();
        assert_eq!(budget.room.available_permits(), 0);
        drop(giant);
        let _room = third.take(0).await;
        assert_eq!(budget.room.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_row_without_room_does_not_let_later_rows_overtake() {
        let mut budget = Budget::new(10 * UNIT_BYTES);
        let (mut first, failed, mut third) = (budget.turn(), budget.turn(), budget.turn());
        let failed = tokio::spawn(failed.end());
        let third = tokio::spawn(async move { third.take(10 * UNIT_BYTES).await });
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        assert!(!failed.is_finished() && !third.is_finished(), "both wait for the first row");
        drop(first.take(10 * UNIT_BYTES).await);
        failed.await.unwrap();
        third.await.unwrap();
    }
}
