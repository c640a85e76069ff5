//! Reference captions: a table with a key and captions, a list of them or one in a row. In: what `input.manifest` takes. Out: the captions
//! of each key, in the order in which keys come.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::{Manifest, ManifestError, filter};
use crate::row::signature::KeyHash;
use crate::storage::{Location, Storage};

/// Usual names of the column with the captions, the likeliest first.
const CAPTIONS: [&str; 4] = ["captions", "references", "sentences", "caption"];

/// Reference captions by key.
#[derive(Debug, Default)]
pub struct References {
    /// The number of each key's captions in `captions`.
    rows: HashMap<KeyHash, u32>,
    /// By row: at least one caption, none of them blank.
    pub captions: Vec<Vec<String>>,
    /// Keys without a caption, and rows without a key.
    pub without: u64,
}

impl References {
    /// Reads the files that `pattern` names: the column `key`, and the column `captions` or one with a usual name.
    ///
    /// # Errors
    /// When there is no such file or column, or one of them cannot be read.
    pub fn read(
        pattern: &Location,
        key: &str,
        captions: Option<&str>,
        storage: &Arc<Storage>,
    ) -> Result<Self, ManifestError> {
        let manifest = Manifest::open_keys(std::slice::from_ref(pattern), "--key", key, storage)?;
        let column = captions.map_or_else(|| usual_column(&manifest.schema), str::to_owned);
        let manifest =
            manifest.carrying("--captions", &column, "a column of texts or of lists of texts", is_captions)?;
        let rows = filter::select(&manifest, None)?;
        let mut found = Self::default();
        let mut empty = Vec::new();
        for batch in ManifestReader::new(&manifest, rows, Projection::Rows) {
            let batch = batch?;
            let texts = Texts::of(batch.carried.column(0))
                .map_err(|error| ManifestError::Inexact { path: pattern.to_string(), message: error.to_string() })?;
            for row in 0..batch.len() {
                let captions: Vec<String> =
                    texts.of_row(row).filter(|text| !text.trim().is_empty()).map(str::to_owned).collect();
                let Some(key) = batch.row(row).key.map(|key| KeyHash::new(&key)) else {
                    found.without += 1;
                    continue;
                };
                if captions.is_empty() {
                    empty.push(key);
                } else {
                    found.add(key, captions);
                }
            }
        }
        empty.sort_unstable();
        empty.dedup();
        found.without += empty.iter().filter(|key| !found.rows.contains_key(key)).count() as u64;
        Ok(found)
    }

    fn add(&mut self, key: KeyHash, captions: Vec<String>) {
        if let Some(row) = self.rows.get(&key) {
            self.captions[*row as usize].extend(captions);
        } else {
            self.rows.insert(key, self.captions.len() as u32);
            self.captions.push(captions);
        }
    }

    /// The row of the references of a key.
    #[must_use]
    pub fn row(&self, key: &str) -> Option<u32> {
        self.rows.get(&KeyHash::new(key)).copied()
    }
}

fn usual_column(schema: &Schema) -> String {
    let usual = CAPTIONS.into_iter().find(|name| schema.index_of(name).is_ok());
    usual.unwrap_or(CAPTIONS[0]).to_owned()
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_captions(kind: &DataType) -> bool {
    match kind {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _) => is_text(child.data_type()),
        kind => is_text(kind),
    }
}

/// The texts of the rows of a batch.
enum Texts {
    One(StringArray),
    /// The texts of all rows, and the first of each row.
    Several(StringArray, Vec<usize>),
}

impl Texts {
    fn of(column: &ArrayRef) -> Result<Self, ArrowError> {
        if is_text(column.data_type()) {
            return Ok(Self::One(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()));
        }
        let lists = cast(column, &DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))))?;
        let lists = lists.as_list::<i32>();
        // A null list may have values under it, which do not count.
        let mut texts: Vec<Option<String>> = Vec::new();
        let mut starts = vec![0];
        for row in 0..lists.len() {
            if lists.is_valid(row) {
                let values = lists.value(row);
                texts.extend(values.as_string::<i32>().iter().map(|text| text.map(str::to_owned)));
            }
            starts.push(texts.len());
        }
        Ok(Self::Several(StringArray::from(texts), starts))
    }

    /// Those of a row that are not null.
    fn of_row(&self, row: usize) -> impl Iterator<Item = &str> {
        let (texts, range) = match self {
            Self::One(texts) => (texts, row..row + 1),
            Self::Several(texts, starts) => (texts, starts[row]..starts[row + 1]),
        };
        range.filter(|at| texts.is_valid(*at)).map(|at| texts.value(at))
    }
}
