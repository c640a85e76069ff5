//! `nightcap search`: the rows whose vectors are nearest to those of queries.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::context::{Context, print, to_json};
use super::mixed_vectors::{cannot_be_compared, where_most};
use super::pictures::{CARD, pictures};
use super::query_encoder::{QueryEncoder, read_argument};
use super::report::{write_page, written};
use super::shown_rows::{RowsAt, json_row, rows_at, shown_columns, table, terminal_width, text_value, words_column};
use crate::cli::{SearchArgs, SearchFormat};
use crate::error::{Error, ExitStatus};
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::output::view::{View, Which};
use crate::report::Hits;
use crate::search::scan::key_of;
use crate::search::{Hit, Key, Scan, search};
use crate::support::redact::lines;
use crate::support::untrusted_parquet::guarded;

/// What is searched for.
struct Queries {
    /// As shown.
    names: Vec<String>,
    vectors: Vec<Vec<f32>>,
    /// The row that the query was taken from.
    own: Option<Key>,
    encoder: Option<QueryEncoder>,
}

pub(super) fn execute(args: &SearchArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let view = View::open(OutputStore::from_argument(&args.output)?, args.r#where.as_deref())?;
    let column = vector_column(&view, args.column.as_deref())?;
    let queries = queries(args, &view, &column)?;
    let scan = Scan {
        view: &view,
        column: &column,
        queries: &queries.vectors,
        top: args.top as usize,
        without: queries.own.as_ref(),
    };
    let (hits, fingerprints) = search(&scan)?;
    check_fingerprints(&view, &column, &queries, &fingerprints)?;
    let rows = || rows_at(&view, hits.iter().flatten().map(|hit| (hit.part, hit.row)), &shown_columns(view.schema()));
    let text = match args.format {
        SearchFormat::Json => as_json(&view, &queries, &hits, &rows()?)?,
        SearchFormat::Table => lines(&as_tables(&view, &queries, &hits, &rows()?, terminal_width(context))),
        SearchFormat::Html => as_html(args, &view, &column, &queries, &hits)?,
    };
    match &args.file {
        Some(file) => write_page(file, &text)?,
        None => print(context, &text)?,
    }
    Ok(ExitStatus::Done)
}

/// The most hits of a page.
const MOST_ON_PAGE: usize = 500;

fn as_html(
    args: &SearchArgs,
    view: &View,
    column: &str,
    queries: &Queries,
    hits: &[Vec<Hit>],
) -> Result<String, Error> {
    let found: usize = hits.iter().map(Vec::len).sum();
    if found > MOST_ON_PAGE {
        return Err(Error::Unfit(format!(
            "--format html: expected at most {MOST_ON_PAGE} hits, found {found}\nhint: ask for fewer by --top, or use --format json"
        )));
    }
    let places = |hits: &Vec<Hit>| hits.iter().map(|hit| (hit.score, (hit.part, hit.row))).collect();
    let queries = queries.names.iter().map(String::as_str).zip(hits.iter().map(places)).collect();
    let condition = args.r#where.as_ref().map(|sql| format!(", where {sql}")).unwrap_or_default();
    let pictures = pictures(args.job.as_deref(), CARD)?;
    let scope = format!("nearest by the cosine with {column}{condition}");
    Ok(Hits { view, queries, scope, pictures: &*pictures, written: written() }.html()?)
}

/// The column that is asked for, or the usual one.
pub(super) fn vector_column(view: &View, asked: Option<&str>) -> Result<String, Error> {
    let schema = view.schema();
    let vectors = schema.fields().iter().filter(|field| matches!(field.data_type(), DataType::FixedSizeList(_, _)));
    let names: Vec<&str> = vectors.map(|field| field.name().as_str()).collect();
    let usual = ["image_embedding", "text_embedding"].into_iter().find(|name| names.contains(name));
    match asked.or(usual) {
        Some(name) if names.contains(&name) => Ok(name.to_owned()),
        Some(name) => {
            Err(Error::Unfit(format!("--column: expected one of the columns {}, found {name:?}", names.join(", "))))
        }
        None => Err(Error::Unfit(format!(
            "{}: expected a column of vectors, found none\nhint: run a job whose model makes embeddings",
            view.store().location()
        ))),
    }
}

fn queries(args: &SearchArgs, view: &View, column: &str) -> Result<Queries, Error> {
    if let Some(key) = &args.like {
        let (own, vector) = vector_of(view, column, key)?;
        return Ok(Queries { names: vec![key.clone()], vectors: vec![vector], own: Some(own), encoder: None });
    }
    let encoder = QueryEncoder::open(view, args.model.as_deref())?;
    let (names, vectors) = if let Some(image) = &args.image {
        (vec![image.display().to_string()], vec![encoder.image(&read_argument("--image", image)?)?])
    } else if let Some(file) = &args.queries {
        let (names, texts) = read_queries(file)?;
        (names, encoder.texts(&texts)?)
    } else {
        let words = args.words.clone().unwrap_or_default();
        let vectors = encoder.texts(std::slice::from_ref(&words))?;
        (vec![words], vectors)
    };
    Ok(Queries { names, vectors, own: None, encoder: Some(encoder) })
}

/// The newest vector of the row of this key. Vectors are read only of the part that has the row.
fn vector_of(view: &View, column: &str, wanted: &str) -> Result<(Key, Vec<f32>), Error> {
    for part in view.parts().into_iter().rev() {
        let key = view.run_of(part).key.clone();
        for batch in view.read(part, &[&key], Which::Ok)? {
            let batch = batch?;
            let Some(keys) = batch.rows.column_by_name(&key) else { continue };
            let texts = cast(keys, &DataType::Utf8).map_err(|error| unfit(&error))?;
            let texts = texts.as_string::<i32>();
            let row = batch.mask.values().set_indices().find(|row| texts.is_valid(*row) && texts.value(*row) == wanted);
            let Some(row) = row else { continue };
            let found = view.take(part, &[batch.first + row as u32], &[column])?;
            let vectors = found.column_by_name(column).and_then(|vectors| vectors.as_fixed_size_list_opt());
            let Some(vectors) = vectors.filter(|vectors| vectors.is_valid(0)) else {
                return Err(Error::Unfit(format!("--like {wanted}: this row has no {column}")));
            };
            return Ok((key_of(keys, row).map_err(|error| unfit(&error))?, values(vectors, 0)?));
        }
    }
    Err(Error::Unfit(format!(
        "--like {wanted}: expected the key of a row that is ok, found none\nhint: keys are in the column `{}`",
        view.key()
    )))
}

fn values(vectors: &FixedSizeListArray, row: usize) -> Result<Vec<f32>, Error> {
    let wide = cast(&vectors.value(row), &DataType::Float32).map_err(|error| unfit(&error))?;
    Ok(wide.as_primitive::<Float32Type>().values().to_vec())
}

fn unfit(error: &dyn std::fmt::Display) -> Error {
    Error::Output(OutputError::View { message: error.to_string() })
}

/// The names and texts of a file of queries.
fn read_queries(file: &Path) -> Result<(Vec<String>, Vec<String>), Error> {
    let bytes = read_argument("--queries", file)?;
    let refuse = |why: String| Error::Unfit(format!("--queries {}: {why}", file.display()));
    let reader = guarded(|| ParquetRecordBatchReaderBuilder::try_new(bytes)?.build());
    let reader = reader.map_err(|error| refuse(format!("expected a Parquet file: {error}")))?;
    let (mut names, mut texts) = (Vec::new(), Vec::new());
    for batch in reader {
        let batch = batch.map_err(|error| refuse(error.to_string()))?;
        let text = batch.column_by_name("text").and_then(|column| cast(column, &DataType::Utf8).ok());
        let text = text.ok_or_else(|| refuse("expected a column `text`, found none".to_owned()))?;
        let ids = batch.column_by_name("id");
        for (row, text) in text.as_string::<i32>().iter().enumerate() {
            names.push(ids.map_or_else(|| names.len().to_string(), |ids| text_value(ids, row)));
            texts.push(
                text.ok_or_else(|| refuse(format!("expected a text in row {}, found null", names.len() - 1)))?
                    .to_owned(),
            );
        }
    }
    Ok((names, texts))
}

/// Refuses to compare vectors of several models, or of another model than the query's.
fn check_fingerprints(
    view: &View,
    column: &str,
    queries: &Queries,
    fingerprints: &BTreeMap<String, u64>,
) -> Result<(), Error> {
    let half = view.schema().field_with_name(column).is_ok_and(|field| {
        matches!(field.data_type(), DataType::FixedSizeList(element, _) if *element.data_type() == DataType::Float16)
    });
    match (fingerprints.len(), fingerprints.keys().next(), &queries.encoder) {
        (0 | 1, Some(fingerprint), Some(encoder)) => encoder.check(fingerprint, half),
        (0 | 1, _, _) => Ok(()),
        _ => Err(Error::Unfit(format!(
            "{}\nhint: choose one by {}, or run the job with --full",
            cannot_be_compared(fingerprints),
            where_most(fingerprints)
        ))),
    }
}

fn as_json(view: &View, queries: &Queries, hits: &[Vec<Hit>], rows: &RowsAt) -> Result<String, Error> {
    let hit = |hit: &Hit| {
        let mut object = serde_json::Map::new();
        object.insert("score".to_owned(), Value::from(hit.score));
        object.insert("run".to_owned(), Value::from(view.run_of(hit.part).run.clone()));
        if let Some((batch, row)) = rows.get(&(hit.part, hit.row)) {
            object.extend(json_row(batch, *row));
        }
        Value::Object(object)
    };
    let queries = queries.names.iter().zip(hits);
    let found: Vec<Value> =
        queries.map(|(name, hits)| json!({"query": name, "hits": hits.iter().map(hit).collect::<Vec<_>>()})).collect();
    to_json(&found)
}

fn as_tables(view: &View, queries: &Queries, hits: &[Vec<Hit>], rows: &RowsAt, width: usize) -> String {
    let words = words_column(view.schema());
    let row = |(rank, hit): (usize, &Hit)| {
        let cell = |name: Option<&str>| {
            let (batch, row) = rows.get(&(hit.part, hit.row))?;
            let column: &ArrayRef = batch.column_by_name(name?)?;
            Some(text_value(column, *row))
        };
        let key = cell(Some(view.key())).unwrap_or_default();
        vec![(rank + 1).to_string(), format!("{:.4}", hit.score), key, cell(words).unwrap_or_default()]
    };
    let several = queries.names.len() > 1;
    let mut text = String::new();
    for (name, hits) in queries.names.iter().zip(hits) {
        if several {
            text += if text.is_empty() { "" } else { "\n" };
            text += name;
            text.push('\n');
        }
        text += &table(
            &["rank", "score", view.key(), words.unwrap_or("")],
            &hits.iter().enumerate().map(row).collect::<Vec<_>>(),
            width,
        );
    }
    text
}
