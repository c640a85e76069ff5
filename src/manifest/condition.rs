//! A condition on single rows, in SQL: parsed once, then evaluated on batches of rows in memory by polars.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use polars::prelude::Expr;

use super::evaluate::{true_rows, with_large_stack};
use super::frame::{plain_batch, plain_field};
use super::predicate::{parse, plain as plain_message};

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
        let expression = with_large_stack(|| parse(text))??;
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
        let rows = with_large_stack(|| true_rows(&schema, &[plain], &self.expression))??;
        let mut mask = vec![false; batch.num_rows()];
        for row in rows {
            mask[row as usize] = true;
        }
        Ok(BooleanArray::new(BooleanBuffer::from(mask), None))
    }
}
