//! `nightcap compact`: the newest row of every key in one run, older ones gone.

use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Context, print, to_json};
use crate::cli::CompactArgs;
use crate::error::Error;
use crate::exit::Status;
use crate::output::compact::{KeepKeys, Outcome, Request, compact};
use crate::output::finalize::published_runs;
use crate::output::store::OutputStore;
use crate::plan::claim::check_run_id;
use crate::signature::KeyHash;

pub(super) fn execute(args: &CompactArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    args.run_id.as_deref().map(check_run_id).transpose()?;
    let store = OutputStore::from_argument(&args.output)?;
    let keep = match &args.keep_keys {
        Some(path) => {
            let column = match &args.key {
                Some(column) => Some(column.clone()),
                None => published_runs(&store)?.pop().map(|run| run.key),
            };
            column.map(|column| read_keys(path, &column)).transpose()?
        }
        None => None,
    };
    let request = Request { keep, run: args.run_id.clone() };
    let stop = context.stop.clone();
    match compact(&store, OutputStore::from_argument(&args.output)?, &request, &|| stop.requested())? {
        Outcome::Compacted(compaction) => print(context, &to_json(&compaction)?)?,
        Outcome::Nothing(why) => tracing::info!("{why}; there is nothing to do"),
        Outcome::Stopped => {
            tracing::warn!("stopped, and nothing was changed; run the same command again");
            return Ok(Status::Stopped);
        }
    }
    Ok(Status::Done)
}

/// The keys in `column` of a Parquet file, sorted; nulls are no keys.
fn read_keys(path: &Path, column: &str) -> Result<KeepKeys, Error> {
    let shown = path.display();
    let unfit = |what: &dyn std::fmt::Display| {
        Error::Unfit(format!(
            "--keep-keys {shown}: expected a Parquet file with the keys that stay in column `{column}`, found: {what}\n\
             hint: --key names the column; nothing was changed"
        ))
    };
    let file = std::fs::File::open(path).map_err(|error| unfit(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unfit(&error))?;
    let Ok(at) = builder.schema().index_of(column) else {
        let names: Vec<&str> = builder.schema().fields().iter().map(|field| field.name().as_str()).collect();
        return Err(unfit(&format!("columns {}", names.join(", "))));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
    let reader = builder.with_projection(mask).build().map_err(|error| unfit(&error))?;
    let mut keys = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| unfit(&error))?;
        // As planning turns keys into text.
        let column = cast(batch.column(0), &DataType::Utf8).map_err(|error| unfit(&error))?;
        keys.extend(column.as_string::<i32>().iter().flatten().map(KeyHash::new));
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(KeepKeys { source: shown.to_string(), keys })
}
