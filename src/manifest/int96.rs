//! Times as Spark, Hive and Impala wrote them before Parquet had a type for times (`INT96`): a day and nanoseconds within it.
//!
//! The Parquet library reads them as nanoseconds since 1970, which only reach from 1677 to 2262; a later or earlier year would come out
//! as another one. Such columns are read as microseconds, unless some value has digits below them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::Int96;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::source::Source;
use crate::support::untrusted_parquet::guarded;

/// The Julian day of 1970-01-01.
const EPOCH: i64 = 2_440_588;
const NANOSECONDS_A_DAY: i128 = 86_400_000_000_000;
/// Values that are looked at at once.
const AT_ONCE: usize = 1 << 16;

/// What the values of some columns need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Some have digits below the microsecond.
    pub(super) nanoseconds: bool,
    /// Some are out of the reach of nanoseconds.
    pub(super) years: bool,
    /// Some are out of the reach of microseconds too.
    pub(super) unreachable: bool,
}

impl Needs {
    /// What both need.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds || other.nanoseconds,
            years: self.years || other.years,
            unreachable: self.unreachable || other.unreachable,
        }
    }

    fn add(&mut self, value: Int96) {
        let [low, high, day] = *value.data() else { return };
        let within = (u64::from(high) << 32 | u64::from(low)) as i64;
        let days = i128::from(i64::from(day as i32) - EPOCH);
        let nanoseconds = days * NANOSECONDS_A_DAY + i128::from(within);
        self.nanoseconds |= nanoseconds % 1000 != 0;
        self.years |= i64::try_from(nanoseconds).is_err();
        self.unreachable |= i64::try_from(nanoseconds / 1000).is_err();
    }
}

/// `schema`, with `INT96` columns as times of `unit`; None: there is no such column. Only those that lie in no other column.
pub(super) fn schema_with(
    schema: &Schema,
    metadata: &ParquetMetaData,
    unit: impl Fn(usize) -> TimeUnit,
) -> Option<SchemaRef> {
    let roots = metadata.file_metadata().schema_descr().root_schema().get_fields();
    let is_int96 = |root: usize| {
        roots.get(root).is_some_and(|root| root.is_primitive() && root.get_physical_type() == PhysicalType::INT96)
    };
    if !(0..roots.len()).any(is_int96) {
        return None;
    }
    let field = |(root, field): (usize, &Arc<Field>)| match field.data_type() {
        DataType::Timestamp(_, zone) if is_int96(root) => {
            let kind = DataType::Timestamp(unit(root), zone.clone());
            Arc::new(field.as_ref().clone().with_data_type(kind))
        }
        _ => field.clone(),
    };
    let fields: Vec<_> = schema.fields().iter().enumerate().map(field).collect();
    Some(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// What the `INT96` values in column `root` of a file need, wherever in it they lie; the second is whether the column itself is `INT96`.
pub(super) fn look(source: &Arc<Source>, metadata: &ParquetMetaData, root: usize) -> Result<Needs, ParquetError> {
    let schema = metadata.file_metadata().schema_descr();
    let mut needs = Needs::default();
    for (group, leaf) in
        metadata.row_groups().iter().flat_map(|group| (0..group.columns().len()).map(move |leaf| (group, leaf)))
    {
        let column = group.column(leaf);
        if schema.get_column_root_idx(leaf) != root || column.column_type() != PhysicalType::INT96 {
            continue;
        }
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        guarded(|| {
            let pages = SerializedPageReader::new(source.clone(), column, rows, None)?;
            let reader = get_column_reader(schema.column(leaf), Box::new(pages));
            let ColumnReader::Int96ColumnReader(mut reader) = reader else { return Ok(()) };
            let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
            loop {
                let (records, ..) =
                    reader.read_records(AT_ONCE, Some(&mut definition), Some(&mut repetition), &mut values)?;
                values.drain(..).for_each(|value| needs.add(value));
                definition.clear();
                repetition.clear();
                if records == 0 {
                    return Ok(());
                }
            }
        })?;
    }
    Ok(needs)
}

/// Whether column `root` holds `INT96` values, itself or within.
pub(super) fn is_in(metadata: &ParquetMetaData, root: usize) -> bool {
    let schema = metadata.file_metadata().schema_descr();
    (0..schema.num_columns()).any(|leaf| {
        schema.get_column_root_idx(leaf) == root && schema.column(leaf).physical_type() == PhysicalType::INT96
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_values_need() {
        let needs = |days: i64, within: u64| {
            let mut value = Int96::new();
            value.set_data(within as u32, (within >> 32) as u32, (days + EPOCH) as u32);
            let mut needs = Needs::default();
            needs.add(value);
            (needs.nanoseconds, needs.years, needs.unreachable)
        };
        assert_eq!(needs(0, 0), (false, false, false));
        assert_eq!(needs(-1, 86_399_999_999_000), (false, false, false));
        assert_eq!(needs(20_000, 1), (true, false, false));
        // 9999-12-31 and 0001-01-01
        assert_eq!(needs(2_932_896, 86_399_999_999_000), (false, true, false));
        assert_eq!(needs(-719_162, 1), (true, true, false));
        assert_eq!(needs(200_000_000, 0), (false, true, true));
    }
}
