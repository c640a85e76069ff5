//! Manifests, and the texts of a job that are evaluated on their rows.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::{Outcome, scratch};
use crate::job::Job;
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::row::ImageSource;
use crate::manifest::{Manifest, ManifestError, filter};
use crate::storage::{Storage, byte_range};

thread_local! {
    static FOLDER: TempDir = scratch();
    static STORAGE: Arc<Storage> = Arc::new(Storage::from_environment());
    /// A folder with a manifest of every type of column.
    static PLAIN: TempDir = plain().expect("a manifest");
}

/// A manifest file, with every column that it may have in use, then with fewer.
pub(super) fn manifest(input: &[u8]) -> Outcome {
    FOLDER.with(|folder| {
        std::fs::write(folder.path().join("m.parquet"), input).expect("a manifest");
        let mut outcome = Outcome::ok();
        for columns in [
            "image = \"image\"\ntext = \"title\"\nsignature = [\"n\"]",
            "image = \"bytes\"",
            "image = \"pair\"",
            "text = \"id\"",
        ] {
            let read = read(folder.path(), "m.parquet", columns, "", None, "id");
            outcome.signature += &Outcome::of(&read).signature;
        }
        let selected = read(folder.path(), "m.parquet", "text = \"id\"", "", Some("id > 'a'"), "id");
        outcome.signature += &Outcome::of(&selected).signature;
        outcome
    })
}

/// Tokens of `csv` and `jsonl`.
pub(super) const ROWS: &[&str] = &[
    "id",
    "image",
    ",",
    "\"",
    "\"\"",
    ";",
    "\t",
    "\r\n",
    "\n",
    "true",
    "1e300",
    "-1",
    "18446744073709551616",
    "007",
    "null",
    "NaN",
    "-Infinity",
    "{\"id\": 1}\n",
    "[1, {}]",
    "\u{feff}",
    "#bytes=1-2",
    "\\u0000",
];

/// A CSV file.
pub(super) fn csv(input: &[u8]) -> Outcome {
    file("m.csv", "id", "image", input)
}

/// A file of JSON Lines.
pub(super) fn json_lines(input: &[u8]) -> Outcome {
    file("m.jsonl", "id", "image", input)
}

/// An archive of samples.
pub(super) fn shard(input: &[u8]) -> Outcome {
    file("m.tar", "key", "image", input)
}

/// An Arrow file.
pub(super) fn arrow(input: &[u8]) -> Outcome {
    file("m.arrow", "id", "pair", input)
}

/// A manifest that is converted, with the column `image` in use or not. What names images as parts of the file names parts of it.
fn file(name: &str, key: &str, image: &str, input: &[u8]) -> Outcome {
    FOLDER.with(|folder| {
        std::fs::write(folder.path().join(name), input).expect("a manifest");
        let mut outcome = Outcome::ok();
        for columns in [format!("image = \"{image}\"\nsignature = [\"{key}\"]"), format!("text = \"{key}\"")] {
            let read = read(folder.path(), name, &columns, "", None, key);
            outcome.signature += &Outcome::of(&read).signature;
        }
        outcome
    })
}

/// `input.where`.
pub(super) fn predicate(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::ok() };
    PLAIN.with(|folder| Outcome::of(&read(folder.path(), "m.parquet", "image = \"image\"", "", Some(text), "id")))
}

/// `generation.prompt`, rendered for every row.
pub(super) fn prompt(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::ok() };
    let prompt = format!("[generation]\nprompt = {}\n", toml::Value::String(text.to_owned()));
    PLAIN.with(|folder| Outcome::of(&read(folder.path(), "m.parquet", "image = \"image\"", &prompt, None, "id")))
}

/// Reads every selected row of the manifest in `folder` as planning and as a run does. The number of rows.
fn read(
    folder: &Path,
    file: &str,
    columns: &str,
    more: &str,
    predicate: Option<&str>,
    key: &str,
) -> Result<usize, ManifestError> {
    let text = format!(
        "[input]\nmanifest = \"{file}\"\nkey = \"{key}\"\n{columns}\n[model]\npath = \"m\"\n[output]\npath = \"o\"\n{more}"
    );
    let Ok(job) = Job::parse(&text, "job.toml", folder, &[]) else { return Ok(0) };
    let manifest = STORAGE.with(|storage| Manifest::open(&job, storage))?;
    let selected = filter::select(&manifest, predicate)?;
    let wanted: u64 = selected.iter().map(roaring::RoaringBitmap::len).sum();
    let _ = manifest.may_mix_paths_and_bytes();
    let mut rows = 0;
    for projection in [Projection::PlanWithImages, Projection::Rows] {
        rows = 0;
        for batch in ManifestReader::new(&manifest, selected.clone(), projection) {
            let batch = batch?;
            for index in 0..batch.len() {
                let row = batch.row(index);
                if let ImageSource::Uri(uri) = &row.image
                    && let (of, Some(part)) = byte_range::split(uri)
                    && of == folder.join(file).to_str().unwrap_or_default()
                {
                    let length = std::fs::metadata(of).expect("the manifest").len();
                    assert!(part.end <= length, "{uri} of {length} bytes");
                }
                let _ = (
                    row.text_hash(),
                    batch.image_hash(index),
                    batch.image_bytes(index),
                    batch.signature_columns(index),
                );
                if let Some(Err(why)) = &row.prompt {
                    super::short(why);
                }
                assert!(
                    row.prompt.is_none_or(|prompt| prompt.is_err() || prompt.is_ok_and(|text| text.len() < 2 << 20))
                );
            }
            rows += batch.len();
        }
        assert!(rows as u64 <= wanted, "{rows} rows of {wanted}");
    }
    Ok(rows)
}

/// Three rows of every type that `where` is used on, the last with nulls.
fn plain() -> Result<TempDir, Box<dyn std::error::Error>> {
    let folder = scratch();
    let columns: [(&str, ArrayRef); 10] = [
        ("id", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("image", Arc::new(StringArray::from(vec!["a.jpg", "b.jpg", "c.jpg"]))),
        ("title", Arc::new(StringArray::from(vec![Some("a dog"), Some(""), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(1), Some(i64::MIN), None]))),
        ("f", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(20_000), Some(-1), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_000), Some(i64::MAX), None]))),
        ("price", Arc::new(Decimal128Array::from(vec![Some(199), Some(-1), None]).with_precision_and_scale(10, 2)?)),
        ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\xff\xd8"), Some(b""), None]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))?;
    let file = std::fs::File::create(folder.path().join("m.parquet"))?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(folder)
}
