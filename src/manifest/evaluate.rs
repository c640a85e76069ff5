//! Evaluates a predicate on rows in memory, by polars.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use polars::error::set_warning_function;
use polars::prelude::{DataType, Expr, IdxCa, IntoLazy, PolarsError, col};

use super::frame::frame;
use super::predicate::plain;
use crate::support::unwind::caught;

/// The name of the row number while a predicate is evaluated.
const ROW: &str = "__nightcap_row";
/// The stack on which predicates are parsed and evaluated: polars recurses as deep as an expression is.
const STACK_BYTES: usize = 256 << 20;

/// The numbers of the rows of `batches`, counted through, for which `predicate` is true; null counts as false, as in SQL.
///
/// # Errors
/// What polars says, and when the predicate gives something else than true or false.
pub(super) fn true_rows(schema: &SchemaRef, batches: &[RecordBatch], predicate: &Expr) -> Result<Vec<u32>, String> {
    let polars = |error: PolarsError| plain(&error.to_string());
    let rows = frame(schema, batches).map_err(polars)?.lazy();
    let mut checked = rows.clone().select([predicate.clone().alias("predicate")]);
    let kind = checked.collect_schema().map_err(polars)?.get("predicate").cloned();
    if !matches!(kind, Some(DataType::Boolean | DataType::Null)) {
        let found = kind.map_or_else(|| "nothing".to_owned(), |kind| kind.to_string());
        return Err(format!("expected true or false, found {found}"));
    }
    let kept = rows.with_row_index(ROW, None).filter(predicate.clone()).select([col(ROW)]).collect();
    let kept = kept.map_err(polars)?;
    let numbers: &IdxCa = kept.column(ROW).and_then(|column| column.idx()).map_err(polars)?;
    Ok(numbers.into_no_null_iter().collect())
}

/// Runs `work`, which parses or evaluates predicates, on a thread with a large stack.
///
/// # Errors
/// The panic of `work` as text, or that no thread could be started.
pub(super) fn with_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    // They would be printed: about what polars itself makes of a predicate, and between lines of JSON.
    set_warning_function(|warning, _| tracing::debug!("polars: {warning}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("where".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, move || caught(work)) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err("it ended early".to_owned())),
            Err(error) => Err(format!("cannot start a thread: {error}")),
        }
    })
}
