//! The columns of all files of a manifest as one table: by name, whatever their order and Arrow type in each file.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use super::error::ManifestError;
use super::partition::{self, partitions};
use super::types::{is_same_kind, wider, with_logical_type};
use crate::storage::Location;

/// Where a file has the values of a column.
#[derive(Debug, Clone)]
enum FileColumn {
    /// In this one of its own columns.
    Root(usize),
    /// In its path: the same in every row; None: null.
    Partition(Option<String>),
    /// Nowhere.
    Absent,
}

/// Two files that differ in a column.
#[derive(Debug, Clone)]
struct Difference {
    path: String,
    first: String,
    found: String,
    expected: String,
}

/// The columns of a manifest.
#[derive(Debug)]
pub(super) struct Table {
    /// All of them: those of the first file, in its order, then those that only later files have.
    pub(super) schema: SchemaRef,
    /// What stands against the use of a column, if anything does.
    differences: Vec<Option<Difference>>,
    /// Whether a column is in the paths of files, not in the files.
    pub(super) in_paths: Vec<bool>,
}

impl Table {
    /// Makes a table of `files`, of which there is at least one, and tells for each where it has the columns.
    pub(super) fn of(files: &[(&Location, &ArrowReaderMetadata)]) -> (Self, Vec<FileColumns>) {
        let mut columns = Vec::new();
        // By name and, if a file has several columns of one name, by their order.
        let mut known: BTreeMap<(String, usize), usize> = BTreeMap::new();
        for (number, &(location, metadata)) in files.iter().enumerate() {
            let mut same: BTreeMap<String, usize> = BTreeMap::new();
            for (place, name, field) in own_columns(metadata).into_iter().chain(path_columns(location)) {
                let same = same.entry(name.clone()).or_default();
                // What the file itself says counts.
                if *same > 0 && matches!(place, FileColumn::Partition(_)) {
                    continue;
                }
                *same += 1;
                let index = *known.entry((name, *same)).or_insert_with(|| {
                    columns.push(Column { places: Vec::new(), fields: Vec::new() });
                    columns.len() - 1
                });
                let column: &mut Column = &mut columns[index];
                column.places.resize(number, FileColumn::Absent);
                column.places.push(place);
                column.fields.push((number, field));
            }
        }
        for column in &mut columns {
            column.places.resize(files.len(), FileColumn::Absent);
        }
        let in_paths =
            columns.iter().map(|column| column.places.iter().any(|place| matches!(place, FileColumn::Partition(_))));
        let in_paths = in_paths.collect();
        let (fields, differences): (Vec<_>, Vec<_>) = columns.iter().map(|column| column.unify(files)).unzip();
        let of_file = |number: usize| FileColumns(columns.iter().map(|column| column.places[number].clone()).collect());
        let of_files = (0..files.len()).map(of_file).collect();
        (Self { schema: Arc::new(Schema::new(fields)), differences, in_paths }, of_files)
    }

    /// Refuses the use of a column in which files differ, and of a name that several columns have.
    pub(super) fn check(&self, column: usize) -> Result<(), ManifestError> {
        let name = self.schema.field(column).name();
        match &self.differences[column] {
            None => Ok(()),
            Some(Difference { path, first, found, expected }) => Err(ManifestError::Mixed {
                path: path.clone(),
                first: first.clone(),
                column: name.clone(),
                found: found.clone(),
                expected: expected.clone(),
            }),
        }
    }

    /// Whether another column has the name of this one.
    pub(super) fn is_ambiguous(&self, column: usize) -> bool {
        let name = self.schema.field(column).name();
        self.schema.fields().iter().filter(|field| field.name() == name).count() > 1
    }
}

/// A column with its place and its field in every file that has it.
struct Column {
    places: Vec<FileColumn>,
    fields: Vec<(usize, Field)>,
}

impl Column {
    fn unify(&self, files: &[(&Location, &ArrowReaderMetadata)]) -> (Field, Option<Difference>) {
        let (first, field) = &self.fields[0];
        let path = |file: usize| files[file].0.to_string();
        let show = |field: &Field| format!("`{}` {}", field.name(), field.data_type());
        let absent = || "no such column".to_owned();
        let partitions = self.places.iter().filter_map(|place| match place {
            FileColumn::Partition(value) => Some(value.as_deref()),
            _ => None,
        });
        if partitions.clone().count() == files.len() {
            let kind = partition::kind_of(&partitions.flatten());
            return (field.clone().with_data_type(kind), None);
        }
        let mut whole = field.clone().with_nullable(true);
        let mut difference = (*first > 0).then(|| Difference {
            path: path(*first),
            first: path(0),
            found: show(field),
            expected: absent(),
        });
        for number in 0..files.len() {
            let found = self.fields.iter().find(|(file, _)| *file == number).map(|(_, field)| field);
            match found {
                Some(found) if is_same_kind(whole.data_type(), found.data_type()) => {
                    let kind = wider(whole.data_type(), found.data_type());
                    whole = whole.with_data_type(kind);
                }
                _ if difference.is_some() => {}
                found => {
                    let found = found.map_or_else(absent, show);
                    difference =
                        Some(Difference { path: path(number), first: path(*first), found, expected: show(&whole) });
                }
            }
        }
        (whole, difference)
    }
}

fn own_columns(metadata: &ArrowReaderMetadata) -> Vec<(FileColumn, String, Field)> {
    let roots = metadata.metadata().file_metadata().schema_descr().root_schema().get_fields();
    let fields = metadata.schema().fields().iter().zip(roots).enumerate();
    let column = |(root, (field, parquet)): (usize, (&Arc<Field>, &parquet::schema::types::TypePtr))| {
        (FileColumn::Root(root), field.name().clone(), with_logical_type(field, parquet))
    };
    fields.map(column).collect()
}

fn path_columns(file: &Location) -> Vec<(FileColumn, String, Field)> {
    let column = |(name, value): (String, Option<String>)| {
        let field = Field::new(&name, DataType::Utf8, true);
        (FileColumn::Partition(value), name, field)
    };
    partitions(file).into_iter().map(column).collect()
}

/// Where one file has the columns of a table.
#[derive(Debug, Default)]
pub(super) struct FileColumns(Vec<FileColumn>);

impl FileColumns {
    /// The index in the file of the table's column `column`, if the file itself has it.
    pub(super) fn root(&self, column: usize) -> Option<usize> {
        match self.0.get(column) {
            Some(FileColumn::Root(root)) => Some(*root),
            _ => None,
        }
    }

    /// The file's own columns among `columns` of the table, by their indexes in the file.
    pub(super) fn roots(&self, columns: &[usize]) -> Vec<usize> {
        let mut roots: Vec<usize> = columns.iter().filter_map(|column| self.root(*column)).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// The `columns` of the table `schema` in `batch`, which holds [`Self::roots`] of the file; each has the type that the file has.
    pub(super) fn arrange(&self, schema: &Schema, columns: &[usize], batch: &RecordBatch) -> Vec<ArrayRef> {
        let roots = self.roots(columns);
        let values = |column: &usize| {
            let kind = schema.field(*column).data_type();
            let read = match self.0.get(*column) {
                Some(FileColumn::Root(root)) => roots.binary_search(root).ok().and_then(|at| batch.columns().get(at)),
                Some(FileColumn::Partition(value)) => {
                    return partition::column(value.as_deref(), kind, batch.num_rows());
                }
                _ => None,
            };
            read.cloned().unwrap_or_else(|| new_null_array(kind, batch.num_rows()))
        };
        columns.iter().map(values).collect()
    }
}

/// A schema of these fields.
pub(super) fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(Fields::from(fields)))
}
