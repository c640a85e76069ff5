//! How far a converted model differs. In: two model directories, and a sample of images. Out: how much their captions and vectors differ.
//! Both are computed by a run, as for any job, into a temporary folder.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Float32Type;
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use tempfile::TempDir;

use super::context::Context;
use super::{manifest, run};
use crate::cli::{JobArgs, RunArgs, WatchArgs};
use crate::error::{Error, ExitStatus};
use crate::job::JobTemplate;
use crate::manifest::usual_names::{Given, JobColumns};
use crate::manifest::{ManifestError, read_schema};
use crate::output::part::reader::read_part;
use crate::output::part_path;
use crate::output::records::published::present_parts;
use crate::output::store::OutputStore;
use crate::storage::{Location, Storage};
use crate::support::whole_file::{self, Existing};

/// The name of both runs.
const RUN: &str = "sample";
const VECTORS: [&str; 3] = ["image_embedding", "text_embedding", "fused_embedding"];
const STATUS: &str = "status";
const CAPTION: &str = "caption";

/// A sample that can be run.
pub(super) struct Sample {
    work: TempDir,
    template: JobTemplate,
    set: Vec<String>,
}

/// How far two models differ on a sample.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    /// Rows of the sample.
    rows: usize,
    /// Rows that both models could process.
    compared: usize,
    vectors: Vec<VectorDifference>,
    captions: Option<CaptionDifference>,
}

/// How far the vectors of one kind differ.
#[derive(Debug, Serialize)]
struct VectorDifference {
    column: &'static str,
    rows: usize,
    cosine_min: f64,
    cosine_mean: f64,
}

/// How many captions differ.
#[derive(Debug, Serialize)]
struct CaptionDifference {
    rows: usize,
    changed: usize,
}

impl Sample {
    /// The images of `source`, a manifest or a folder; `set` are keys of the job.
    pub(super) fn open(source: &Path, set: &[String], context: &Context<'_>) -> Result<Self, Error> {
        let unfit = |what: &dyn fmt::Display| Error::Unfit(format!("--sample {}: {what}", source.display()));
        let work = tempfile::tempdir().map_err(|error| unfit(&error))?;
        let here =
            std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
        let text = source.to_str().ok_or_else(|| unfit(&"expected UTF-8"))?;
        if !text.contains("://") && !text.contains(['*', '?', '[', '{']) && !source.exists() {
            return Err(unfit(&"expected a manifest or a folder of images, found nothing"));
        }
        let location = Location::pattern(&here, text).map_err(|error| unfit(&error))?;
        let storage = Arc::new(Storage::from_environment());
        let (manifest, (first, schema)) = match read_schema(std::slice::from_ref(&location), &storage) {
            Ok(schema) => {
                (if text.contains("://") { text.to_owned() } else { here.join(text).display().to_string() }, schema)
            }
            Err(ManifestError::NotFound { .. }) if source.is_dir() => {
                let file = work.path().join("manifest.parquet");
                if manifest::make(source, &file, false, context)? != ExitStatus::Done {
                    return Err(unfit(&"stopped"));
                }
                let schema = read_schema(&[Location::Local(file.clone())], &storage)?;
                (file.display().to_string(), schema)
            }
            Err(error) => return Err(error.into()),
        };
        let columns = JobColumns::choose(&schema, &first.to_string(), Given { key: None, image: None, text: None })?;
        let template = JobTemplate {
            origin: None,
            manifest,
            key: columns.key.column,
            image: columns.image.map(|choice| choice.column),
            text: columns.text.map(|choice| choice.column),
            model: None,
        };
        Ok(Self { work, template, set: set.to_vec() })
    }

    /// How far `converted`, whose graphs are of `precision`, differs from `original`.
    pub(super) fn difference(
        &self,
        original: &Path,
        converted: &Path,
        precision: &str,
        context: &mut Context<'_>,
    ) -> Result<Difference, Error> {
        let before = self.rows(original, "fp32", context)?;
        let after = self.rows(converted, precision, context)?;
        Ok(compare(&before, &after))
    }

    /// The rows that a run of `model` gives.
    fn rows(&self, model: &Path, precision: &str, context: &mut Context<'_>) -> Result<RecordBatch, Error> {
        let unfit = |what: &dyn fmt::Display| {
            Error::Unfit(format!("the sample cannot be run with {}: {what}", model.display()))
        };
        let (job, output) = (self.work.path().join(format!("{precision}.toml")), self.work.path().join(precision));
        let model_path = model.canonicalize().map_err(|error| unfit(&error))?;
        let template = JobTemplate { model: Some(model_path.display().to_string()), ..self.template.clone() };
        whole_file::write(&job, template.render().as_bytes(), Existing::Replace).map_err(|error| unfit(&error))?;
        let string = |text: &str| toml::Value::String(text.to_owned()).to_string();
        // rows that fail, fail with both models
        let mut set = vec![
            format!("output.path={}", string(&output.display().to_string())),
            format!("model.precision={}", string(precision)),
            "limits.max_failed_fraction=1.0".to_owned(),
        ];
        set.extend(self.set.iter().cloned());
        let job = JobArgs { job, set, limit: None, retry_failed: false, full: false };
        let args = RunArgs { job, run_id: Some(RUN.to_owned()), shard: None, watch: WatchArgs::default() };
        // this run is nobody's shard
        let variable = std::mem::replace(&mut context.variable, |_| None);
        let status = run::execute(&args, context);
        context.variable = variable;
        match status? {
            ExitStatus::Done => {}
            status => return Err(unfit(&format!("it ended with status {}", status as u8))),
        }
        let storage = Arc::new(Storage::from_environment());
        let store = OutputStore::create(&Location::Local(output), &storage)?;
        let columns = [VECTORS.as_slice(), &[STATUS, CAPTION]].concat();
        let mut batches = Vec::new();
        for part in present_parts(&store, RUN)? {
            for batch in read_part(&store, &part_path(RUN, part), Some(&columns))? {
                batches.push(batch.map_err(|error| unfit(&error))?);
            }
        }
        let first = batches.first().ok_or_else(|| unfit(&"it has no rows"))?;
        concat_batches(&first.schema(), &batches).map_err(|error| unfit(&error))
    }
}

fn compare(before: &RecordBatch, after: &RecordBatch) -> Difference {
    let ok = |rows: &RecordBatch, row: usize| {
        let status = rows.column_by_name(STATUS).and_then(|column| column.as_string_opt::<i32>());
        status.is_some_and(|status| status.value(row) == "ok")
    };
    let rows = before.num_rows().min(after.num_rows());
    let compared: Vec<usize> = (0..rows).filter(|row| ok(before, *row) && ok(after, *row)).collect();
    let both = |name: &str| before.column_by_name(name).zip(after.column_by_name(name));
    let vectors = VECTORS.into_iter().filter_map(|column| {
        let (before, after) = both(column)?;
        vector_difference(column, before, after, &compared)
    });
    let captions = both(CAPTION).and_then(|(before, after)| {
        let (before, after) = (before.as_string_opt::<i32>()?, after.as_string_opt::<i32>()?);
        let changed = compared.iter().filter(|row| before.value(**row) != after.value(**row)).count();
        Some(CaptionDifference { rows: compared.len(), changed })
    });
    Difference { rows, compared: compared.len(), vectors: vectors.collect(), captions }
}

fn vector_difference(
    column: &'static str,
    before: &ArrayRef,
    after: &ArrayRef,
    rows: &[usize],
) -> Option<VectorDifference> {
    let (before, after) = (before.as_fixed_size_list_opt()?, after.as_fixed_size_list_opt()?);
    let rows: Vec<usize> = rows.iter().copied().filter(|row| before.is_valid(*row) && after.is_valid(*row)).collect();
    let cosines: Option<Vec<f64>> =
        rows.iter().map(|row| Some(cosine(&vector(before, *row)?, &vector(after, *row)?))).collect();
    let cosines = cosines.filter(|cosines| !cosines.is_empty())?;
    #[allow(clippy::cast_precision_loss, reason = "a number of images")]
    let cosine_mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let cosine_min = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    Some(VectorDifference { column, rows: cosines.len(), cosine_min, cosine_mean })
}

fn vector(column: &FixedSizeListArray, row: usize) -> Option<Vec<f64>> {
    let values = arrow::compute::cast(&column.value(row), &arrow::datatypes::DataType::Float32).ok()?;
    Some(values.as_primitive_opt::<Float32Type>()?.values().iter().map(|value| f64::from(*value)).collect())
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sample: {} of {} images compared with float32", self.compared, self.rows)?;
        for VectorDifference { column, rows, cosine_min, cosine_mean } in &self.vectors {
            writeln!(f, "{column}: cosine at least {cosine_min:.6}, mean {cosine_mean:.6} ({rows} vectors)")?;
        }
        self.captions
            .iter()
            .try_for_each(|CaptionDifference { rows, changed }| writeln!(f, "captions: {changed} of {rows} changed"))
    }
}
