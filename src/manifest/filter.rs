//! `input.where`: polars evaluates the predicate into a row mask. The only place that hands manifests to polars.

use std::path::Path;

use arrow::datatypes::DataType as ArrowType;
use polars::io::HiveOptions;
use polars::prelude::{DataType, Expr, IdxCa, LazyFrame, PolarsError, ScanArgsParquet, col};
use roaring::RoaringBitmap;

use super::{Manifest, ManifestError};

/// Rows that polars looks at in one go, so that memory stays flat.
const SLICE_ROWS: u32 = 1 << 20;
/// The name of the row number while the predicate is evaluated.
const ROW: &str = "__nightcap_row";

/// The rows of every manifest file for which `predicate` is true (null counts as false, as in SQL); without one, all rows.
///
/// # Errors
/// [`ManifestError::Predicate`] with polars' reason.
pub fn select(manifest: &Manifest, predicate: Option<&str>) -> Result<Vec<RoaringBitmap>, ManifestError> {
    let select_file = |file: &super::ManifestFile| {
        let rows = u32::try_from(file.snapshot.rows).unwrap_or(u32::MAX);
        let mut selected = RoaringBitmap::new();
        let Some(predicate) = predicate else {
            selected.insert_range(0..rows);
            return Ok(selected);
        };
        let refuse = |message: String| ManifestError::Predicate {
            predicate: predicate.to_owned(),
            path: file.snapshot.path.clone(),
            message,
        };
        if let Some(field) = manifest.schema.fields().iter().find(|field| holds_half_floats(field.data_type())) {
            return Err(refuse(format!("column `{}` holds 16-bit floats, which polars cannot read", field.name())));
        }
        for first in (0..rows).step_by(SLICE_ROWS as usize) {
            let length = SLICE_ROWS.min(rows - first);
            let slice = select_slice(&file.snapshot.path, predicate, first, length, &mut selected);
            // What follows an empty line is polars' query plan.
            slice.map_err(|error| refuse(error.to_string().split("\n\n").next().unwrap_or_default().to_owned()))?;
        }
        Ok(selected)
    };
    manifest.files.iter().map(select_file).collect()
}

fn select_slice(
    path: &Path,
    predicate: &str,
    first: u32,
    length: u32,
    selected: &mut RoaringBitmap,
) -> Result<(), PolarsError> {
    let predicate = row_predicate(predicate)?;
    // A folder named `lang=en` above the manifest must not hide its own column `lang`.
    let hive_options = HiveOptions::new_disabled();
    let options = ScanArgsParquet { glob: false, hive_options, ..ScanArgsParquet::default() };
    let path = path.to_str().ok_or_else(|| PolarsError::ComputeError("the path is not UTF-8".into()))?;
    let rows = LazyFrame::scan_parquet(path.into(), options)?.slice(i64::from(first), length);
    let mut checked = rows.clone().select([predicate.clone().alias("predicate")]);
    let kind = checked.collect_schema()?.get("predicate").cloned();
    if !matches!(kind, Some(DataType::Boolean | DataType::Null)) {
        let found = kind.map_or_else(|| "nothing".to_owned(), |kind| kind.to_string());
        return Err(PolarsError::ComputeError(format!("expected true or false, found {found}").into()));
    }
    let kept = rows.with_row_index(ROW, None).filter(predicate).select([col(ROW)]).collect()?;
    let numbers: &IdxCa = kept.column(ROW)?.idx()?;
    selected.extend(numbers.into_no_null_iter().map(|number| first + number));
    Ok(())
}

/// Parses a predicate that looks at one row at a time: what looks at many would change with the slices and files it sees.
fn row_predicate(text: &str) -> Result<Expr, PolarsError> {
    let predicate = polars::sql::sql_expr(text)?;
    let looks_at_many = |expression: &Expr| {
        matches!(
            expression,
            Expr::Agg(_)
                | Expr::Len
                | Expr::Over { .. }
                | Expr::Sort { .. }
                | Expr::SortBy { .. }
                | Expr::Gather { .. }
                | Expr::Slice { .. }
                | Expr::Explode { .. }
                | Expr::Filter { .. }
        )
    };
    if predicate.into_iter().any(looks_at_many) {
        let message = "expected a condition on one row, found an aggregate or window over many";
        return Err(PolarsError::ComputeError(message.into()));
    }
    Ok(predicate)
}

fn holds_half_floats(kind: &ArrowType) -> bool {
    match kind {
        ArrowType::Float16 => true,
        ArrowType::List(child) | ArrowType::LargeList(child) | ArrowType::FixedSizeList(child, _) => {
            holds_half_floats(child.data_type())
        }
        ArrowType::Struct(fields) => fields.iter().any(|field| holds_half_floats(field.data_type())),
        _ => false,
    }
}
