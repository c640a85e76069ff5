//! `nightcap sample`: the captions of some of the newest rows, as a table. Which rows depends on their keys and the seed only.

use std::collections::BinaryHeap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use super::context::{Context, print};
use super::pictures::pictures;
use super::shown_rows::{rows_at, table, terminal_width, text_value, words_column};
use super::terminal_pictures::protocol;
use crate::cli::SampleArgs;
use crate::error::{Error, ExitStatus};
use crate::output::OutputError;
use crate::output::store::OutputStore;
use crate::output::view::{View, ViewPart, Which};
use crate::report::Picture;
use crate::search::Key;
use crate::search::scan::key_of;
use crate::support::redact::lines;

/// The most pixels of a side of a picture.
const SIDE: u32 = 192;
/// The columns that a table shows beside key and words.
const SHOWN: [&str; 4] = ["status", "error_kind", "error_message", "caption_similarity"];

/// A row that may be shown: those with the smallest `place` are.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chosen {
    place: u64,
    part: ViewPart,
    row: u32,
    key: Key,
}

/// The rows that are shown, and how many there are.
struct Choice {
    rows: Vec<Chosen>,
    ok: u64,
    failed: u64,
}

pub(super) fn execute(args: &SampleArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let protocol = args.pictures.map(|asked| protocol(asked, &context.variable)).transpose()?;
    let view = View::open(OutputStore::from_argument(&args.output)?, None)?;
    let chosen = choose(&view, args.n as usize, args.seed)?;
    let words = words_column(view.schema());
    let columns: Vec<&str> = [view.key()].into_iter().chain(words).chain(SHOWN).collect();
    let found = rows_at(&view, chosen.rows.iter().map(|row| (row.part, row.row)), &columns)?;
    let rows = chosen.rows.iter().filter_map(|row| found.get(&(row.part, row.row)));
    let mut rows: Vec<Vec<String>> = rows.map(|(batch, row)| cells(view.key(), batch, *row, words)).collect();
    let (ok, failed) = (chosen.ok, chosen.failed);
    let mut text = format!("{} rows, {ok} ok, {failed} failed; {} of them:\n\n", ok + failed, rows.len());
    let (heading, width) = ([view.key(), "similarity", words.unwrap_or("")], terminal_width(context));
    let Some(protocol) = protocol else {
        text += &table(&heading, &rows, width);
        print(context, &lines(&text))?;
        return Ok(ExitStatus::Done);
    };
    print(context, &lines(&text))?;
    let places: Vec<(ViewPart, u32)> = chosen.rows.iter().map(|row| (row.part, row.row)).collect();
    let pictures = pictures(args.job.as_deref(), SIDE)?(&view, &places)?;
    // The line of each row, without the heading, and the picture below it.
    for (row, picture) in rows.iter_mut().zip(pictures) {
        let codes = match picture {
            Picture::Jpeg(jpeg) => protocol.show(&jpeg).ok_or_else(|| "it cannot be decoded".to_owned()),
            Picture::Missing(why) => Err(why),
            Picture::Nothing => Ok(String::new()),
        };
        if let (Err(why), Some(words)) = (&codes, row.last_mut()) {
            *words = format!("{words} [no picture: {why}]");
        }
        let row = table(&heading, std::slice::from_ref(row), width);
        let row: Vec<&str> = row.lines().skip(2).collect();
        print(context, &lines(&(row.join("\n") + "\n")))?;
        print(context, &codes.unwrap_or_default())?;
    }
    Ok(ExitStatus::Done)
}

/// Chooses `most` of the newest rows, in the order of their keys.
fn choose(view: &View, most: usize, seed: u64) -> Result<Choice, OutputError> {
    let refuse = |message: String| OutputError::View { message };
    let (mut heap, mut ok, mut failed) = (BinaryHeap::<Chosen>::new(), 0, 0);
    for part in view.parts() {
        let key = view.run_of(part).key.clone();
        for batch in view.read(part, &[&key], Which::Newest)? {
            let batch = batch?;
            let column =
                |name: &str| batch.rows.column_by_name(name).ok_or_else(|| refuse(format!("no column `{name}`")));
            let keys = column(&key)?;
            let texts = cast(keys, &DataType::Utf8).map_err(|error| refuse(error.to_string()))?;
            let (texts, status) = (texts.as_string::<i32>(), column("status")?.as_string_opt::<i32>());
            let status = status.ok_or_else(|| refuse("`status` is no text".to_owned()))?;
            for row in batch.mask.values().set_indices() {
                *(if status.value(row) == "ok" { &mut ok } else { &mut failed }) += 1;
                let place = place(texts.is_valid(row).then(|| texts.value(row)), batch.first + row as u32, seed);
                if heap.len() < most || heap.peek().is_some_and(|last| place <= last.place) {
                    let key = key_of(keys, row).map_err(refuse)?;
                    heap.push(Chosen { place, part, row: batch.first + row as u32, key });
                    if heap.len() > most {
                        heap.pop();
                    }
                }
            }
        }
    }
    let mut rows = heap.into_vec();
    rows.sort_unstable_by(|a, b| a.key.cmp(&b.key).then_with(|| a.cmp(b)));
    Ok(Choice { rows, ok, failed })
}

/// A number that looks random, from the key; of a row without a key from its number.
fn place(key: Option<&str>, row: u32, seed: u64) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    match key {
        Some(key) => hash.update(key.as_bytes()),
        None => hash.update(&row.to_le_bytes()),
    };
    hash.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Key, similarity, and the caption or what went wrong.
fn cells(key: &str, rows: &RecordBatch, row: usize, words: Option<&str>) -> Vec<String> {
    let cell = |name: &str| rows.column_by_name(name).map(|column| text_value(column, row)).unwrap_or_default();
    let similarity = cell("caption_similarity").parse::<f32>().map(|value| format!("{value:.3}")).unwrap_or_default();
    let said = match cell("status").as_str() {
        "ok" => words.map(cell).unwrap_or_default(),
        _ => format!("[{}] {}", cell("error_kind"), cell("error_message")),
    };
    vec![cell(key), similarity, said]
}
