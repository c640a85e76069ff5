//! A condition on single rows, in SQL: parsed once, then evaluated on batches of rows in memory by polars.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use polars::error::set_warning_function;
use polars::prelude::{DataType, Expr, IdxCa, IntoLazy, PolarsError, col};

use super::frame::{frame, plain_batch, plain_field};
use super::predicate::{parse, plain as plain_message};
use crate::support::unwind::caught;

/// The name of the row number while a condition is evaluated.
const ROW: &str = "__nightcap_row";
/// The stack on which conditions are parsed and evaluated: polars recurses as deep as an expression is.
const STACK_BYTES: usize = 256 << 20;

/// A condition, with the columns that it reads.
#[derive(Debug, Clone)]
pub struct Condition {
    expression: Expr,
    /// The names of the columns.
    pub columns: Vec<String>,
}

impl Condition {
    /// Parses the condition `text` on rows of `schema`.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn parse(text: &str, schema: &Schema) -> Result<Self, String> {
        // They would be printed, between lines of JSON.
        set_warning_function(|warning, _| tracing::debug!("polars: {warning}"));
        let expression = deep(|| parse(text))?;
        let mut columns = Vec::new();
        for part in &expression {
            let Expr::Column(name) = part else { continue };
            if schema.index_of(name).is_err() {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                return Err(plain_message(&format!("expected one of the columns {}, found {name}", known.join(", "))));
            }
            if !columns.contains(&name.to_string()) {
                columns.push(name.to_string());
            }
        }
        if columns.is_empty() {
            return Err("expected a condition on a column, found none".to_owned());
        }
        Ok(Self { expression, columns })
    }

    /// For each row of `batch` whether the condition is true; null counts as false, as in SQL.
    ///
    /// # Errors
    /// What polars says.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let indexes: Result<Vec<usize>, _> = self.columns.iter().map(|name| batch.schema().index_of(name)).collect();
        let batch = indexes.and_then(|indexes| batch.project(&indexes)).map_err(|error| error.to_string())?;
        let fields: Vec<_> = batch.schema().fields().iter().map(|field| plain_field(field)).collect();
        let schema = Arc::new(Schema::new(fields));
        let plain = plain_batch(&schema, batch.columns()).map_err(|error| error.to_string())?;
        deep(|| {
            let polars = |error: PolarsError| plain_message(&error.to_string());
            let rows = frame(&schema, &[plain]).map_err(polars)?.lazy();
            let mut checked = rows.clone().select([self.expression.clone().alias("predicate")]);
            let kind = checked.collect_schema().map_err(polars)?.get("predicate").cloned();
            if !matches!(kind, Some(DataType::Boolean | DataType::Null)) {
                let found = kind.map_or_else(|| "nothing".to_owned(), |kind| kind.to_string());
                return Err(format!("expected true or false, found {found}"));
            }
            let kept = rows.with_row_index(ROW, None).filter(self.expression.clone()).select([col(ROW)]).collect();
            let kept = kept.map_err(polars)?;
            let numbers: &IdxCa = kept.column(ROW).and_then(|column| column.idx()).map_err(polars)?;
            let mut mask = vec![false; batch.num_rows()];
            numbers.into_no_null_iter().for_each(|row| mask[row as usize] = true);
            Ok(BooleanArray::new(BooleanBuffer::from(mask), None))
        })
    }
}

/// Runs `work` on a thread with a large stack; a panic is an error.
fn deep<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("where".to_owned()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, move || caught(work)) {
            Ok(thread) => thread.join().unwrap_or_else(|_| Err("it ended early".to_owned())).and_then(|found| found),
            Err(error) => Err(error.to_string()),
        }
    })
}
