//! How many requests each web server has to answer at the same time, `limits.requests_per_host`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::storage::Location;

/// The web servers that images come from.
#[derive(Debug)]
pub(super) struct Hosts {
    requests: usize,
    patience: Duration,
    free: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Hosts {
    /// `requests` at a time to each; a request is made all the same after a wait of `patience`.
    pub(super) fn new(requests: usize, patience: Duration) -> Self {
        Self { requests, patience, free: Mutex::default() }
    }

    /// Waits until another request for `image` may be made. It ends when this is dropped. None: there is no limit.
    ///
    /// Images get their turn in the order in which they ask. A row that has its turn waits for memory, which rows get in manifest
    /// order; if rows ever asked in another order, they could wait for each other, so that the wait has an end.
    pub(super) async fn turn(&self, image: &Location) -> Option<OwnedSemaphorePermit> {
        if !matches!(image, Location::Http(_)) {
            return None;
        }
        let host = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(image.authority()).or_insert_with(|| Arc::new(Semaphore::new(self.requests))).clone()
        };
        tokio::time::timeout(self.patience, host.acquire_owned()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_server_has_turns_of_its_own_and_a_wait_ends() {
        let image = |text: &str| Location::Local("/".into()).resolve(text).unwrap();
        let hosts = Hosts::new(1, Duration::from_millis(20));
        let first = hosts.turn(&image("http://a.example/1.png")).await;
        assert!(first.is_some() && hosts.turn(&image("http://b.example/1.png")).await.is_some());
        assert!(hosts.turn(&image("s3://a/1.png")).await.is_none());
        assert!(hosts.turn(&image("http://a.example/2.png")).await.is_none(), "the wait has an end");
        drop(first);
        assert!(hosts.turn(&image("http://a.example/2.png")).await.is_some());
    }
}
