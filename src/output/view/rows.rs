//! Reads the newest rows of an OUTPUT, part by part: only the columns that are asked for.

use arrow::array::{AsArray, BooleanArray, UInt32Array};
use arrow::compute::{and, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::newest::Newest;
use crate::manifest::condition::Condition;
use crate::output::part::footer::{read_footer, wrong_part};
use crate::output::part::reader::{part_schema, read_rows};
use crate::output::part::rows::PartRows;
use crate::output::part::vectors::{Vectors, read_vectors};
use crate::output::publish::part_hashes::PartHashes;
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::{Published, published_runs};
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_path};

/// The newest rows of an OUTPUT.
#[derive(Debug)]
pub struct View {
    store: OutputStore,
    /// Oldest first.
    runs: Vec<Published>,
    hashes: Vec<PartHashes>,
    newest: Option<Newest>,
    schema: SchemaRef,
    condition: Option<Condition>,
}

/// A part of a published run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewPart {
    run: usize,
    part: u64,
}

/// Which of the newest rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All of them, failed ones included.
    Newest,
    /// Those that did not fail.
    Ok,
    /// Those that did not fail, and for which the condition of the view is true.
    Matching,
}

/// Consecutive rows of a part.
#[derive(Debug, Clone)]
pub struct ViewBatch {
    /// The columns that were asked for, and those that the choice of rows needs.
    pub rows: RecordBatch,
    /// Which rows count.
    pub mask: BooleanArray,
    /// The number of the first row in its part.
    pub first: u32,
}

impl ViewBatch {
    /// The rows that count.
    ///
    /// # Errors
    /// When arrow fails.
    pub fn filtered(&self) -> Result<RecordBatch, OutputError> {
        filter_record_batch(&self.rows, &self.mask).map_err(|error| OutputError::View { message: error.to_string() })
    }
}

impl View {
    /// Opens the published rows of `store`. `condition` is SQL on the columns of a row.
    ///
    /// # Errors
    /// [`OutputError`]; [`OutputError::View`] when no run is published, or the condition is not usable.
    pub fn open(store: OutputStore, condition: Option<&str>) -> Result<Self, OutputError> {
        let runs = published_runs(&store)?;
        Self::of_runs(store, runs, condition)
    }

    /// As [`View::open`], of these of the published runs only, oldest first.
    ///
    /// # Errors
    /// As [`View::open`].
    pub fn of_runs(store: OutputStore, runs: Vec<Published>, condition: Option<&str>) -> Result<Self, OutputError> {
        let newest = Newest::choose(&store, &runs)?;
        let hashes = runs.iter().map(|run| PartHashes::load(&store, run)).collect::<Result<Vec<_>, _>>()?;
        let first = runs.iter().rev().find_map(|run| Some((run, run.part_numbers().next()?)));
        let Some((run, part)) = first else {
            let message =
                format!("{}: expected rows of a published run, found none\nhint: run a job first", store.location());
            return Err(OutputError::View { message });
        };
        let schema = part_schema(&store, &part_path(&run.run, part))?;
        let parse = |text: &str| {
            let refuse = |message| OutputError::View { message: format!("--where: {message}") };
            Condition::parse(text, &schema).map_err(refuse)
        };
        let condition = condition.map(parse).transpose()?;
        Ok(Self { store, runs, hashes, newest, schema, condition })
    }

    /// The columns of every part.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The OUTPUT.
    #[must_use]
    pub fn store(&self) -> &OutputStore {
        &self.store
    }

    /// The name of the key column.
    #[must_use]
    pub fn key(&self) -> &str {
        self.runs.last().map_or("", |run| &run.key)
    }

    /// The published runs, oldest first.
    #[must_use]
    pub fn runs(&self) -> &[Published] {
        &self.runs
    }

    /// The plan of the newest run that read a manifest; compactions do not.
    ///
    /// # Errors
    /// [`OutputError`] when it cannot be read.
    pub fn newest_plan(&self) -> Result<Option<Plan>, OutputError> {
        let planned = self.runs.iter().rev().find(|run| run.supersedes.is_empty());
        planned.map(|run| load_plan(&self.store, &run.run)).transpose()
    }

    /// Every part, in the order of runs and parts.
    #[must_use]
    pub fn parts(&self) -> Vec<ViewPart> {
        let parts = self.runs.iter().enumerate();
        parts.flat_map(|(run, published)| published.part_numbers().map(move |part| ViewPart { run, part })).collect()
    }

    /// The run of a part.
    #[must_use]
    pub fn run_of(&self, part: ViewPart) -> &Published {
        &self.runs[part.run]
    }

    /// Reads `columns` of a part, in batches. Of the newest rows of their keys, those count that `which` says.
    ///
    /// # Errors
    /// [`OutputError`] when the part cannot be read.
    pub fn read(
        &self,
        part: ViewPart,
        columns: &[&str],
        which: Which,
    ) -> Result<impl Iterator<Item = Result<ViewBatch, OutputError>> + '_, OutputError> {
        let run = &self.runs[part.run];
        let path = part_path(&run.run, part.part);
        let mut wanted: Vec<&str> = columns.to_vec();
        if self.newest.is_some() {
            wanted.extend(PartRows::columns(&run.key));
        }
        wanted.push("status");
        wanted.extend(self.condition.iter().flat_map(|condition| &condition.columns).map(String::as_str));
        let footer = read_footer(&self.store, &path, Some(self.hashes[part.run].of(run, part.part)?))?;
        let reader = read_rows(&self.store, &path, footer, Some(&wanted))?;
        let mut first = 0;
        Ok(reader.map(move |rows| {
            let rows = rows.map_err(|error| wrong_part(&path, &error))?;
            let mask = self.mask(part, &rows, which).map_err(|found| wrong_part(&path, &found))?;
            first += rows.num_rows() as u32;
            Ok(ViewBatch { first: first - rows.num_rows() as u32, rows, mask })
        }))
    }

    /// Calls `each` with the vectors of consecutive rows of a part, from its column `column`. Rows are not chosen: [`View::read`] says which
    /// count.
    ///
    /// # Errors
    /// [`OutputError`] when the part cannot be read, [`OutputError::View`] when the column holds no vectors, and what `each` returns. An
    /// error that the column was changed comes after its last vector.
    pub fn read_vectors(
        &self,
        part: ViewPart,
        column: &str,
        each: &mut dyn FnMut(&Vectors<'_>) -> Result<(), OutputError>,
    ) -> Result<(), OutputError> {
        let field = self.schema.field_with_name(column).ok();
        let width = match field.map(Field::data_type) {
            Some(DataType::FixedSizeList(_, width)) => usize::try_from(*width).ok().filter(|width| *width > 0),
            _ => None,
        };
        let Some(width) = width else {
            return Err(OutputError::View { message: format!("`{column}` is no column of vectors") });
        };
        let run = &self.runs[part.run];
        let path = part_path(&run.run, part.part);
        let footer = read_footer(&self.store, &path, Some(self.hashes[part.run].of(run, part.part)?))?;
        read_vectors(&self.store, &path, &footer, (column, width), each)
    }

    fn mask(&self, part: ViewPart, rows: &RecordBatch, which: Which) -> Result<BooleanArray, String> {
        let mut mask = match &self.newest {
            None => BooleanArray::from(vec![true; rows.num_rows()]),
            Some(newest) => {
                let keys = PartRows::new(rows, &self.runs[part.run].key)?;
                let is_newest =
                    |row| Ok::<_, String>(newest.has(keys.key(row, keys.signature(row)?), keys.run_seq(row), part.run));
                BooleanArray::from((0..keys.len()).map(is_newest).collect::<Result<Vec<bool>, _>>()?)
            }
        };
        if which == Which::Newest {
            return Ok(mask);
        }
        let status = rows.column_by_name("status").and_then(|column| column.as_string_opt::<i32>());
        let status = status.ok_or("no column `status`")?;
        let ok = BooleanArray::from(status.iter().map(|status| status == Some("ok")).collect::<Vec<bool>>());
        mask = and(&mask, &ok).map_err(|error| error.to_string())?;
        if let Some(condition) = self.condition.as_ref().filter(|_| which == Which::Matching) {
            mask = and(&mask, &condition.evaluate(rows)?).map_err(|error| error.to_string())?;
        }
        Ok(mask)
    }

    /// Reads `columns` of single rows of a part, by their numbers in it and in their order.
    ///
    /// # Errors
    /// [`OutputError`] when the part cannot be read, or has no such row.
    pub fn take(&self, part: ViewPart, rows: &[u32], columns: &[&str]) -> Result<RecordBatch, OutputError> {
        let run = &self.runs[part.run];
        let path = part_path(&run.run, part.part);
        let footer = read_footer(&self.store, &path, Some(self.hashes[part.run].of(run, part.part)?))?;
        let reader = read_rows(&self.store, &path, footer, Some(columns))?;
        // Without the metadata of the part, so that rows of several parts fit together.
        let schema = SchemaRef::new(Schema::new(reader.schema().fields().clone()));
        let (mut first, mut found) = (0_u32, Vec::new());
        let arrow = |error: arrow::error::ArrowError| wrong_part(&path, &error);
        for batch in reader {
            let batch =
                RecordBatch::try_new(schema.clone(), batch.map_err(arrow)?.columns().to_vec()).map_err(arrow)?;
            let end = first + batch.num_rows() as u32;
            let within: Vec<usize> = (0..rows.len()).filter(|at| (first..end).contains(&rows[*at])).collect();
            if !within.is_empty() {
                let numbers: UInt32Array = within.iter().map(|at| rows[*at] - first).collect();
                found.push((within, take_record_batch(&batch, &numbers).map_err(arrow)?));
            }
            first = end;
        }
        let order: Vec<usize> = found.iter().flat_map(|(within, _)| within.iter().copied()).collect();
        if order.len() != rows.len() {
            return Err(wrong_part(&path, &format!("{first} rows, fewer than were there before")));
        }
        let batches: Vec<RecordBatch> = found.into_iter().map(|(_, batch)| batch).collect();
        let all = concat_batches(&schema, &batches).map_err(arrow)?;
        let mut place = vec![0_u32; order.len()];
        (0..).zip(&order).for_each(|(from, to)| place[*to] = from);
        take_record_batch(&all, &UInt32Array::from(place)).map_err(arrow)
    }
}
