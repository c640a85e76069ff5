//! Rewrite: copies the rows that stay from the parts of several runs into the parts of a new one, one part at a time.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::winners::Winners;
use crate::output::part::footer::{part_summary, wrong_part};
use crate::output::part::reader::read_part;
use crate::output::part::rows::PartRows;
use crate::output::part::writer::{PartFooter, encode_batch};
use crate::output::records::plan::Plan;
use crate::output::records::published::Published;
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, part_path};

/// Puts the parts of `plan`, rows in the order of `sources`, their parts, and rows therein; false when stopped before the
/// last.
pub(crate) fn rewrite(
    store: &OutputStore,
    plan: &Plan,
    sources: &[Published],
    winners: &Winners,
    stop: &dyn Fn() -> bool,
) -> Result<bool, OutputError> {
    let mut writer = PartWriter::new(store, plan);
    for (source, run) in sources.iter().enumerate() {
        for part in run.part_numbers() {
            if stop() {
                return Ok(false);
            }
            let path = part_path(&run.run, part);
            let reader = read_part(store, &path, None)?;
            let schema = writer.expect_schema(&path, &reader.schema())?;
            for batch in reader {
                let batch = batch.map_err(|error| wrong_part(&path, &error))?;
                let kept = keep_rows(&schema, &batch, &plan.key, source as u32, winners);
                writer.add(kept.map_err(|found| wrong_part(&path, &found))?)?;
            }
        }
    }
    writer.finish()?;
    Ok(true)
}

fn keep_rows(
    schema: &SchemaRef,
    batch: &RecordBatch,
    key: &str,
    source: u32,
    winners: &Winners,
) -> Result<RecordBatch, String> {
    let rows = PartRows::new(batch, key)?;
    let keeps = |index: usize| {
        let key = rows.key(index, rows.signature(index)?);
        Ok::<_, String>(winners.keeps(source, key, rows.run_seq(index)))
    };
    let mask = (0..rows.len()).map(keeps).collect::<Result<Vec<bool>, _>>()?;
    let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec());
    batch.and_then(|batch| filter_record_batch(&batch, &BooleanArray::from(mask))).map_err(|error| error.to_string())
}

/// Cuts rows into parts and puts each as soon as it is full.
struct PartWriter<'a> {
    store: &'a OutputStore,
    plan: &'a Plan,
    digest: String,
    /// The schema of the first part that was read.
    schema: Option<SchemaRef>,
    waiting: Vec<RecordBatch>,
    /// Rows of `waiting`.
    rows: u64,
    /// Number of the next part.
    part: u64,
    /// Rows in parts.
    written: u64,
}

impl<'a> PartWriter<'a> {
    fn new(store: &'a OutputStore, plan: &'a Plan) -> Self {
        Self { store, plan, digest: plan.digest(), schema: None, waiting: Vec::new(), rows: 0, part: 0, written: 0 }
    }

    /// The schema without the metadata of each part, which the reader adds.
    fn expect_schema(&mut self, path: &str, found: &Schema) -> Result<SchemaRef, OutputError> {
        let found = Arc::new(Schema::new(found.fields().clone()));
        let expected = self.schema.get_or_insert_with(|| found.clone());
        if *expected == found {
            return Ok(found);
        }
        let columns = |schema: &Schema| {
            let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
            columns.collect::<Vec<_>>().join(", ")
        };
        let expected = format!("the columns of the first part ({})", columns(expected));
        Err(OutputError::WrongPart { path: path.to_owned(), expected, found: columns(&found) })
    }

    fn add(&mut self, batch: RecordBatch) -> Result<(), OutputError> {
        self.rows += batch.num_rows() as u64;
        self.waiting.push(batch);
        while self.rows >= self.plan.part_rows {
            self.put(self.plan.part_rows)?;
        }
        Ok(())
    }

    /// Puts the first `rows` of the waiting ones as the next part.
    fn put(&mut self, rows: u64) -> Result<(), OutputError> {
        let Some(schema) = &self.schema else { return Ok(()) };
        let (part, path) = (self.part, part_path(&self.plan.run, self.part));
        let encode = |source: parquet::errors::ParquetError| OutputError::Encode { part, source };
        let waiting = concat_batches(schema, &self.waiting).map_err(|error| encode(error.into()))?;
        let (batch, rest) =
            (waiting.slice(0, rows as usize), waiting.slice(rows as usize, (self.rows - rows) as usize));
        let counts = PartRows::new(&batch, &self.plan.key).map_err(|found| wrong_part(&path, &found))?.count();
        let footer = PartFooter { run: &self.plan.run, plan_digest: &self.digest, part, counts: &counts, halved: 0 };
        let bytes = encode_batch(&batch, &footer).map_err(encode)?;
        if self.store.put_new(&path, bytes)? == Put::Exists {
            let found = part_summary(self.store, &path)?.plan_digest;
            return Err(OutputError::ForeignPart { path, found, expected: self.digest.clone() });
        }
        self.waiting = vec![rest];
        self.rows -= rows;
        self.written += rows;
        self.part += 1;
        Ok(())
    }

    /// Puts the last part, and checks that no row is missing or too many.
    fn finish(mut self) -> Result<(), OutputError> {
        if self.rows > 0 {
            self.put(self.rows)?;
        }
        if self.written == self.plan.rows {
            return Ok(());
        }
        let (expected, found) = (self.plan.rows, self.written);
        let found = format!("by the indexes {expected} rows stay, but the parts hold {found} of them");
        Err(OutputError::CannotCompact { found })
    }
}
