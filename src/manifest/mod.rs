//! Manifests: Parquet files with one row for each image.
//!
//! In: the job's `[input]` and the files' footers. Out: a [`Manifest`] whose columns are known to exist with usable types,
//! a snapshot of the files for the plan, and their rows, streamed. Never here: image bytes from elsewhere than the manifest itself.
//!
//! Reading, in the order of the data: `listing` expands paths and globs, `source` opens a file, this file checks the columns, [`filter`]
//! evaluates `where` (`predicate` says what may stand in it, `frame` hands rows to polars), [`reader`] streams batches, [`row`] gives one row, `prompt` renders its
//! prompt, `unsigned` takes credentials out of carried URLs. Writing: [`folder`] finds the images
//! of a folder, [`mod@write`] makes a manifest of them, [`usual_names`] chooses the columns for a new job file.

mod arrow_file;
mod braces;
mod column_types;
pub mod condition;
mod error;
mod evaluate;
mod file;
pub mod filter;
pub mod folder;
mod frame;
mod int96;
mod job_columns;
mod listing;
mod open;
mod pages;
mod partition;
mod predicate;
mod prompt;
pub mod reader;
pub mod row;
mod rows;
mod saved;
mod shard;
pub mod shards;
mod source;
mod table;
mod text;
pub mod types;
mod unsigned;
pub mod usual_names;
pub mod write;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

pub use self::error::ManifestError;
pub use self::file::{FileSnapshot, ManifestFile};
pub use self::job_columns::ImageColumn;
use self::job_columns::{Columns, is_key, is_plain, is_string};
use self::listing::{Found, expand};
use self::open::{open_files, read_int96_exactly};
pub use self::prompt::PromptTemplate;
use self::table::Table;
use self::types::carried_field;
use crate::job::Job;
use crate::storage::{Location, Storage};

/// The manifest files of a job, opened, with the job's columns found in them.
#[derive(Debug)]
pub struct Manifest {
    /// In the order of the job, globs sorted by name.
    pub files: Vec<ManifestFile>,
    /// Index of the key column in the files' schema.
    pub key: usize,
    /// Index and kind of the image column.
    pub image: Option<(usize, ImageColumn)>,
    /// Index of the text column.
    pub text: Option<usize>,
    /// The template of the rows' prompts; None: all rows have the same prompt, or none.
    pub prompt: Option<Arc<PromptTemplate>>,
    /// Indexes of the columns that change when a row's content does; empty: the job names none.
    pub signature: Vec<usize>,
    /// Indexes of the columns carried into the output, in output order.
    pub carried: Vec<usize>,
    /// The columns of all files.
    pub schema: SchemaRef,
    table: Table,
    /// The fields as which columns are carried.
    carried_fields: Vec<Field>,
}

impl Manifest {
    /// Opens every file that `patterns` name, for the column `key` only; `setting` is the option that names the column.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn open_keys(
        patterns: &[Location],
        setting: &'static str,
        key: &str,
        storage: &Arc<Storage>,
    ) -> Result<Self, ManifestError> {
        let (files, table) = open_files(patterns, storage)?;
        let schema = table.schema.clone();
        let columns = Columns { path: &files[0].location, schema: &schema, table: &table };
        let key = columns.find(setting, key)?;
        columns.check(key, setting, "a string or integer column", is_key)?;
        let (image, text, prompt) = (None, None, None);
        let (signature, carried, carried_fields) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { files, key, image, text, prompt, signature, carried, schema, table, carried_fields })
    }

    /// This manifest, opened for its keys, with `column` as the only one that is carried; `setting` is the option that names it, and
    /// `fits` tells the types that are `expected`.
    ///
    /// # Errors
    /// When there is no such column, it has another type, or files differ in it.
    pub fn carrying(
        self,
        setting: &'static str,
        column: &str,
        expected: &'static str,
        fits: fn(&DataType) -> bool,
    ) -> Result<Self, ManifestError> {
        let columns = Columns { path: &self.files[0].location, schema: &self.schema, table: &self.table };
        let index = columns.find(setting, column)?;
        columns.check(index, setting, expected, fits)?;
        let carried_fields = vec![carried_field(self.schema.field(index))];
        Ok(Self { carried: vec![index], carried_fields, ..self })
    }

    /// Of a manifest that was opened for its keys only: reads the images of the column `name` too.
    ///
    /// # Errors
    /// [`ManifestError`] when there is no such column, or it cannot hold images.
    pub fn with_images(mut self, name: &str) -> Result<Self, ManifestError> {
        let columns = Columns { path: &self.files[0].location, schema: &self.schema, table: &self.table };
        self.image = Some(columns.image(name)?);
        Ok(self)
    }

    /// Opens every file that `job.input.manifest` names and finds the job's columns.
    ///
    /// # Errors
    /// Any [`ManifestError`] but [`ManifestError::Predicate`].
    pub fn open(job: &Job, storage: &Arc<Storage>) -> Result<Self, ManifestError> {
        let Self { mut files, key, schema, table, .. } =
            Self::open_keys(&job.input.manifest, "input.key", &job.input.key, storage)?;
        let columns = Columns { path: &files[0].location, schema: &schema, table: &table };
        let image = match &job.input.image {
            None => None,
            Some(name) => Some(columns.image(name)?),
        };
        let text = match &job.input.text {
            None => None,
            Some(name) => {
                let index = columns.find("input.text", name)?;
                columns.check(index, "input.text", "a string column", is_string)?;
                Some(index)
            }
        };
        let signature = job.input.signature.iter().map(|name| {
            let index = columns.find("input.signature", name)?;
            let expected = "a column of text, numbers, times or booleans";
            columns.check(index, "input.signature", expected, is_plain)?;
            Ok(index)
        });
        let signature = signature.collect::<Result<_, ManifestError>>()?;
        let template = job.generation.prompt_template();
        let prompt = template.map(|template| columns.prompt(template).map(Arc::new)).transpose()?;
        let carried = columns.carried(job.output.columns.as_deref(), key, image)?;
        let read = carried.iter().chain(&signature).copied();
        let read = read.chain(prompt.iter().flat_map(|prompt| prompt.columns.iter().map(|(_, index)| *index)));
        let schema = read_int96_exactly(&mut files, &schema, &read.collect())?;
        let carried_fields = carried.iter().map(|&index| carried_field(schema.field(index))).collect();
        Ok(Self { files, key, image, text, prompt, signature, carried, schema, table, carried_fields })
    }

    /// Carries what an OUTPUT with the columns `recorded` has, in its order and with its types; each is a name and a type as Arrow writes
    /// it. Which columns are left out because OUTPUT does not have them.
    pub fn fit(&mut self, recorded: &[String]) -> Vec<String> {
        let found = |column: &String, field: &Field| {
            let kind = column.strip_prefix(field.name().as_str())?.strip_prefix(' ')?;
            let theirs = kind.trim_end_matches(" not null").parse::<DataType>().ok();
            let word = |kind: &str| kind.split(['(', ' ']).next().map(str::to_owned);
            // A name may hold blanks, and end with what looks like a type.
            (theirs.is_some() || word(kind) == word(&field.data_type().to_string())).then_some(theirs)
        };
        let place = |field: &Field| recorded.iter().position(|column| found(column, field).is_some());
        let columns = std::mem::take(&mut self.carried).into_iter().zip(std::mem::take(&mut self.carried_fields));
        let (mut kept, left_out): (Vec<_>, Vec<_>) =
            columns.partition(|(index, field)| *index == self.key || place(field).is_some());
        // The key comes first where OUTPUT does not have it, which is refused later.
        kept.sort_by_key(|(_, field)| place(field));
        for (index, field) in &mut kept {
            let source = self.schema.field(*index).data_type();
            let theirs = recorded.iter().find_map(|column| found(column, field)).flatten();
            if let Some(theirs) = theirs.filter(|theirs| types::is_same_kind(source, theirs)) {
                *field = field.clone().with_data_type(theirs);
            }
        }
        (self.carried, self.carried_fields) = kept.into_iter().unzip();
        left_out.into_iter().map(|(_, field)| field.name().clone()).collect()
    }

    /// Refuses column `index` if the manifest's files differ in it, or if it has the name of another.
    fn check_use(&self, index: usize) -> Result<(), ManifestError> {
        self.table.check(index)
    }

    /// Whether, by the statistics of the files, some rows may hold a path and others image bytes.
    #[must_use]
    pub fn may_mix_paths_and_bytes(&self) -> bool {
        let Some((index, ImageColumn::Struct)) = self.image else { return false };
        let name = self.schema.field(index).name();
        let chunks = self
            .files
            .iter()
            .flat_map(|file| file.metadata.metadata().row_groups())
            .flat_map(RowGroupMetaData::columns);
        let mut bytes = chunks
            .filter(|chunk| matches!(chunk.column_path().parts(), [root, leaf] if root == name && leaf == "bytes"));
        bytes.any(|chunk| chunk.statistics().and_then(Statistics::null_count_opt) != Some(0))
    }

    /// The fields of the carried columns. Always nullable: one file's columns may have nulls where another's are declared to have none.
    #[must_use]
    pub fn carried_fields(&self) -> Vec<Field> {
        self.carried_fields.clone()
    }
}

/// The schema of the files that `patterns` name, and the first of them; a folder of images is none.
///
/// # Errors
/// As [`Manifest::open_keys`].
pub fn read_schema(patterns: &[Location], storage: &Arc<Storage>) -> Result<(Location, SchemaRef), ManifestError> {
    if let Some(Found::Images(folder)) =
        expand(patterns, storage)?.iter().find(|found| matches!(found, Found::Images(_)))
    {
        return Err(ManifestError::NotFound { pattern: folder.to_string() });
    }
    let (mut files, table) = open_files(patterns, storage)?;
    Ok((files.swap_remove(0).location, table.schema))
}
