//! Published rows whose results are copied into a part.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

/// The published row whose results are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopySource {
    /// Number of the run among those that the plan allows to copy from, newest first.
    pub(in crate::output) run: usize,
    /// Number of the part.
    pub(in crate::output) part: u32,
    /// Row of the part, from 0.
    pub(in crate::output) row: u32,
}

/// The copied columns of published rows, for the rows of a part.
#[derive(Debug)]
pub struct Copies {
    pub(in crate::output) batches: Vec<RecordBatch>,
    /// For each row of the part the row of `batches` that it copies.
    pub(in crate::output) of: Vec<Option<usize>>,
    /// Rows of all `batches`.
    pub(crate) rows: usize,
}

impl Copies {
    /// `computed`, the column `name` of the part, with the copied rows in it.
    pub(in crate::output) fn over(&self, name: &str, computed: ArrayRef) -> Result<ArrayRef, ArrowError> {
        let Some(first) = self.batches.first() else { return Ok(computed) };
        // The reader adds metadata of each part to its schema.
        let field = first.schema().field_with_name(name)?.clone();
        let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
        let column = |batch: &RecordBatch| {
            let column = batch.column_by_name(name).cloned();
            let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no column `{name}`")))?;
            RecordBatch::try_new(schema.clone(), vec![column])
        };
        let columns = self.batches.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let copied = concat_batches(&schema, &columns)?;
        let pick = |(row, copy): (usize, &Option<usize>)| copy.map_or((0, row), |copy| (1, copy));
        let picks: Vec<(usize, usize)> = self.of.iter().enumerate().map(pick).collect();
        interleave(&[&*computed, &**copied.column(0)], &picks)
    }
}
