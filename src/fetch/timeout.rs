//! The time limit of one attempt to read an image, `limits.fetch_timeout_ms`.

use std::fmt::Display;
use std::time::Duration;

use crate::row::error::{ErrorKind, RowError, Stage};

/// The result of `work`, or the error `timeout` of the image `shown` if it takes longer.
pub(super) async fn within<T>(
    timeout: Duration,
    shown: &impl Display,
    work: impl Future<Output = Result<T, RowError>>,
) -> Result<T, RowError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let limit_ms = timeout.as_millis();
        let message = format!("{shown}: no answer within {limit_ms} ms (`limits.fetch_timeout_ms`)");
        Err(RowError::new(Stage::Fetch, ErrorKind::Timeout, message))
    })
}
