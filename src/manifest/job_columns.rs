//! The columns that a job names, looked up in the manifest's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};

use super::error::ManifestError;
use super::prompt::PromptTemplate;
use super::table::Table;
use super::types::not_carried;
use crate::storage::Location;

/// The form of the image column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageColumn {
    /// Paths or URIs, relative to the manifest file's folder.
    Uri,
    /// The encoded bytes themselves.
    Bytes,
    /// The Hugging Face struct `{bytes, path}`.
    Struct,
}

/// Looks the job's columns up in one schema.
pub(super) struct Columns<'a> {
    pub(super) path: &'a Location,
    pub(super) schema: &'a Arc<Schema>,
    pub(super) table: &'a Table,
}

impl Columns<'_> {
    pub(super) fn find(&self, setting: &'static str, column: &str) -> Result<usize, ManifestError> {
        self.schema.index_of(column).map_err(|_| ManifestError::MissingColumn {
            setting,
            column: column.to_owned(),
            path: self.path.to_string(),
            available: self.schema.fields().iter().map(|field| field.name().clone()).collect(),
        })
    }

    pub(super) fn check(
        &self,
        index: usize,
        setting: &'static str,
        expected: &'static str,
        fits: fn(&DataType) -> bool,
    ) -> Result<(), ManifestError> {
        let field = self.schema.field(index);
        if self.table.is_ambiguous(index) {
            let (column, path) = (field.name().clone(), self.path.to_string());
            return Err(ManifestError::Ambiguous { setting, column, path });
        }
        if fits(field.data_type()) {
            return self.table.check(index);
        }
        Err(ManifestError::ColumnType {
            setting,
            column: field.name().clone(),
            path: self.path.to_string(),
            expected,
            found: field.data_type().clone(),
        })
    }

    pub(super) fn image(&self, name: &str) -> Result<(usize, ImageColumn), ManifestError> {
        let index = self.find("input.image", name)?;
        let kind = match self.schema.field(index).data_type() {
            kind if is_string(kind) => ImageColumn::Uri,
            kind if is_binary(kind) => ImageColumn::Bytes,
            _ => ImageColumn::Struct,
        };
        let expected = "a string column (paths), a binary column (image bytes) or a struct {bytes, path}";
        self.check(index, "input.image", expected, is_image)?;
        Ok((index, kind))
    }

    pub(super) fn prompt(&self, template: &str) -> Result<PromptTemplate, ManifestError> {
        const SETTING: &str = "generation.prompt";
        let find = |name: &str| {
            let index = self.find(SETTING, name)?;
            self.check(index, SETTING, "a column of text, numbers, times or booleans", is_plain)?;
            Ok(index)
        };
        PromptTemplate::new(template, find, |why| ManifestError::Prompt { template: template.to_owned(), why })
    }

    /// The job's `output.columns` (or every column but image bytes), with the key in any case.
    pub(super) fn carried(
        &self,
        asked: Option<&[String]>,
        key: usize,
        image: Option<(usize, ImageColumn)>,
    ) -> Result<Vec<usize>, ManifestError> {
        let is_carried = |kind: &DataType| not_carried(kind).is_none();
        let Some(asked) = asked else {
            let image_bytes = image.filter(|(_, kind)| *kind != ImageColumn::Uri).map(|(index, _)| index);
            // The folder that nightcap itself writes its parts into, when OUTPUT is the manifest of another job.
            let is_run = |index: usize| self.table.in_paths[index] && self.schema.field(index).name() == "run";
            let all = (0..self.schema.fields().len()).filter(|&index| Some(index) != image_bytes && !is_run(index));
            let (carried, not): (Vec<usize>, Vec<usize>) =
                all.partition(|&index| is_carried(self.schema.field(index).data_type()));
            for index in not {
                let field = self.schema.field(index);
                let why = not_carried(field.data_type()).unwrap_or_default();
                tracing::warn!(
                    "column `{}` of the manifest is not carried: it holds {why}; `output.columns` says which columns are",
                    field.name()
                );
            }
            carried.iter().try_for_each(|&index| self.table.check(index))?;
            return Ok(carried);
        };
        let mut carried = Vec::new();
        for name in asked {
            let index = self.find("output.columns", name)?;
            let expected = "a type that Arrow and Parquet hold without loss";
            self.check(index, "output.columns", expected, |kind| not_carried(kind).is_none())?;
            if !carried.contains(&index) {
                carried.push(index);
            }
        }
        if !carried.contains(&key) {
            carried.insert(0, key);
        }
        Ok(carried)
    }
}

pub(super) fn is_string(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_string(value),
        _ => false,
    }
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Whether a value can be an image: its path or URI, its bytes, or the Hugging Face struct `{bytes, path}`.
pub(super) fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => {
            fields.iter().any(|field| field.name() == "bytes" && is_binary(field.data_type()))
                && fields.iter().all(|field| field.name() != "path" || is_string(field.data_type()))
        }
        other => is_string(other) || is_binary(other),
    }
}

/// Whether a value can be compared as text.
pub(super) fn is_plain(kind: &DataType) -> bool {
    match kind {
        DataType::Interval(_) => false,
        kind => is_string(kind) || kind.is_numeric() || kind.is_temporal() || *kind == DataType::Boolean,
    }
}

pub(super) fn is_key(kind: &DataType) -> bool {
    is_string(kind) || kind.is_integer()
}
