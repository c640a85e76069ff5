//! One pass over the newest rows of an OUTPUT. In: the columns that a report needs, part by part on all cores. Out: counts,
//! distributions, and which rows the galleries show. Memory: 32 bytes a row, and what the bounds below allow.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, Float32Array, Int32Array, StringArray};
use arrow::datatypes::{Float32Type, Int32Type};
use arrow::record_batch::RecordBatch;
use rayon::prelude::*;

use super::least::{Least, drawn};
use super::tally::Tally;
use crate::output::OutputError;
use crate::output::view::{View, ViewBatch, ViewPart, Which};
use crate::support::counts::Counts;

/// The most rows of a gallery.
pub(super) const SAMPLED: usize = 48;
pub(super) const UNLIKE: usize = 36;
pub(super) const REPEATED: usize = 24;
pub(super) const REPEATING: usize = 36;
pub(super) const EMPTY: usize = 24;
pub(super) const COPIES: usize = 18;
pub(super) const FAILURES_OF_A_KIND: usize = 6;
/// The most kinds of failures of which rows are shown; there are fewer.
const KINDS: usize = 40;
/// Parts that are read before they are added up.
const PARTS_AT_ONCE: usize = 64;

/// A row: its part, and its number there.
pub(super) type Place = (ViewPart, u32);

/// What is plotted, in the order of the page: the name, the width of a bin, and the unit.
pub(super) const MEASURES: [(&str, f64, &str); 7] = [
    ("Length of captions", 1.0, "words"),
    ("Tokens of captions", 1.0, "the last one included"),
    ("Log-probability of captions", 0.01, "per token"),
    ("Similarity of image and caption", 0.005, "cosine"),
    ("Similarity of image and text", 0.005, "cosine"),
    ("Match of image and text", 0.005, "probability"),
    ("Size of images", 8.0, "pixels of the longer side"),
];

/// Values that several rows share, most frequent first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) rows: u64,
    /// The first row, and the second.
    pub(super) first: Place,
    pub(super) second: Place,
}

/// What the pass found.
pub(super) struct Gathered {
    pub(super) counts: Counts,
    pub(super) tallies: [Tally; 7],
    /// Captions by `caption_finish`.
    pub(super) finish: BTreeMap<String, u64>,
    pub(super) sample: Vec<Place>,
    /// Worst first.
    pub(super) unlike: Vec<Place>,
    pub(super) repeating: Vec<Place>,
    pub(super) empty: Vec<Place>,
    /// By kind.
    pub(super) failures: BTreeMap<String, Vec<Place>>,
    /// Captions that several rows have, and how many rows those are in all.
    pub(super) repeated: Vec<Shared>,
    pub(super) repeated_rows: u64,
    /// Images that several rows have, and how many rows those are in all.
    pub(super) copies: Vec<Shared>,
    pub(super) copied_rows: u64,
}

/// An order of f32 that puts NaN last.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What some parts gave.
struct Found {
    counts: Counts,
    tallies: [Tally; 7],
    finish: BTreeMap<String, u64>,
    sample: Least<(u64, Place)>,
    unlike: Least<(Score, Place)>,
    repeating: Least<(u64, Place)>,
    empty: Least<(u64, Place)>,
    failures: BTreeMap<String, Least<(u64, Place)>>,
    /// Hashes of captions and of images, each with the row: number of the part, number of the row.
    captions: Vec<(u64, u32, u32)>,
    images: Vec<(u64, u32, u32)>,
}

impl Found {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            tallies: MEASURES.map(|(_, width, _)| Tally::new(width)),
            finish: BTreeMap::new(),
            sample: Least::new(SAMPLED),
            unlike: Least::new(UNLIKE),
            repeating: Least::new(REPEATING),
            empty: Least::new(EMPTY),
            failures: BTreeMap::new(),
            captions: Vec::new(),
            images: Vec::new(),
        }
    }

    fn merge(&mut self, other: Self) {
        self.counts.add(&other.counts);
        self.tallies.iter_mut().zip(other.tallies).for_each(|(ours, theirs)| ours.merge(theirs));
        other.finish.into_iter().for_each(|(name, rows)| *self.finish.entry(name).or_default() += rows);
        self.sample.merge(other.sample);
        self.unlike.merge(other.unlike);
        self.repeating.merge(other.repeating);
        self.empty.merge(other.empty);
        for (kind, rows) in other.failures {
            if self.failures.len() < KINDS || self.failures.contains_key(&kind) {
                self.failures.entry(kind).or_insert_with(|| Least::new(FAILURES_OF_A_KIND)).merge(rows);
            }
        }
        self.captions.extend(other.captions);
        self.images.extend(other.images);
    }
}

/// Reads every newest row of `view`.
///
/// # Errors
/// [`OutputError`] when a part cannot be read.
pub(super) fn gather(view: &View) -> Result<Gathered, OutputError> {
    let parts = view.parts();
    let mut found = Found::new();
    for (at, parts) in parts.chunks(PARTS_AT_ONCE).enumerate() {
        let first = at * PARTS_AT_ONCE;
        let read: Result<Vec<Found>, OutputError> =
            parts.par_iter().enumerate().map(|(at, part)| of_part(view, *part, first + at)).collect();
        read?.into_iter().for_each(|part| found.merge(part));
    }
    let places = |least: Least<(u64, Place)>| least.into_sorted().into_iter().map(|(_, place)| place).collect();
    let (repeated, repeated_rows) = shared(found.captions, &parts, REPEATED);
    let (copies, copied_rows) = shared(found.images, &parts, COPIES);
    Ok(Gathered {
        counts: found.counts,
        tallies: found.tallies,
        finish: found.finish,
        sample: places(found.sample),
        unlike: found.unlike.into_sorted().into_iter().map(|(_, place)| place).collect(),
        repeating: places(found.repeating),
        empty: places(found.empty),
        failures: found.failures.into_iter().map(|(kind, rows)| (kind, places(rows))).collect(),
        repeated,
        repeated_rows,
        copies,
        copied_rows,
    })
}

/// The `most` hashes that most rows share, and the number of all rows that share one.
fn shared(mut rows: Vec<(u64, u32, u32)>, parts: &[ViewPart], most: usize) -> (Vec<Shared>, u64) {
    rows.sort_unstable();
    let place = |(_, part, row): (u64, u32, u32)| (parts[part as usize], row);
    let (mut best, mut all) = (Least::new(most), 0);
    for group in rows.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        all += group.len() as u64;
        best.add((Reverse(group.len() as u64), place(group[0]), place(group[1])));
    }
    let named = |(Reverse(rows), first, second)| Shared { rows, first, second };
    (best.into_sorted().into_iter().map(named).collect(), all)
}

fn of_part(view: &View, part: ViewPart, number: usize) -> Result<Found, OutputError> {
    const COLUMNS: [&str; 13] = [
        "status",
        "error_kind",
        "caption",
        "caption_logprob",
        "caption_tokens",
        "caption_finish",
        "caption_similarity",
        "caption_repeats",
        "image_text_similarity",
        "image_text_match",
        "image_width",
        "image_height",
        "content_hash",
    ];
    let mut found = Found::new();
    for batch in view.read(part, &COLUMNS, Which::Newest)? {
        of_batch(&batch?, part, number, &mut found);
    }
    Ok(found)
}

/// The columns of a batch; those that the job did not make are None.
struct Columns<'a> {
    status: Option<&'a StringArray>,
    error_kind: Option<&'a StringArray>,
    caption: Option<&'a StringArray>,
    logprob: Option<&'a Float32Array>,
    tokens: Option<&'a Int32Array>,
    finish: Option<&'a StringArray>,
    repeats: Option<&'a BooleanArray>,
    cosines: [Option<&'a Float32Array>; 3],
    sides: [Option<&'a Int32Array>; 2],
    content: Option<&'a StringArray>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Self {
        let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let float = |name: &str| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float32Type>());
        let whole = |name: &str| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int32Type>());
        Self {
            status: text("status"),
            error_kind: text("error_kind"),
            caption: text("caption"),
            logprob: float("caption_logprob"),
            tokens: whole("caption_tokens"),
            finish: text("caption_finish"),
            repeats: rows.column_by_name("caption_repeats").and_then(|column| column.as_boolean_opt()),
            cosines: ["caption_similarity", "image_text_similarity", "image_text_match"].map(float),
            sides: ["image_width", "image_height"].map(whole),
            content: text("content_hash"),
        }
    }
}

fn text(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

fn float(column: Option<&Float32Array>, row: usize) -> Option<f32> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

fn whole(column: Option<&Int32Array>, row: usize) -> Option<i32> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

fn of_batch(batch: &ViewBatch, part: ViewPart, number: usize, found: &mut Found) {
    let columns = Columns::of(&batch.rows);
    for row in batch.mask.values().set_indices() {
        let place = (part, batch.first + row as u32);
        let chance = drawn(number, place.1);
        found.counts.rows += 1;
        if text(columns.status, row) != Some("ok") {
            let kind = text(columns.error_kind, row).unwrap_or("unknown").to_owned();
            found.counts.failed += 1;
            *found.counts.failures.entry(kind.clone()).or_default() += 1;
            let rows = found.failures.entry(kind).or_insert_with(|| Least::new(FAILURES_OF_A_KIND));
            rows.add((chance, place));
            continue;
        }
        found.counts.ok += 1;
        found.sample.add((chance, place));
        let caption = text(columns.caption, row);
        let tokens = whole(columns.tokens, row);
        let logprob = float(columns.logprob, row).zip(tokens).filter(|(_, tokens)| *tokens > 0);
        let longer = whole(columns.sides[0], row).zip(whole(columns.sides[1], row)).map(|(a, b)| a.max(b));
        let [similarity, text_similarity, text_match] = columns.cosines.map(|column| float(column, row));
        let measured = [
            caption.map(|caption| caption.split_whitespace().count() as f64),
            tokens.map(f64::from),
            logprob.map(|(sum, tokens)| f64::from(sum) / f64::from(tokens)),
            similarity.map(f64::from),
            text_similarity.map(f64::from),
            text_match.map(f64::from),
            longer.map(f64::from),
        ];
        found
            .tallies
            .iter_mut()
            .zip(measured)
            .for_each(|(tally, number)| number.into_iter().for_each(|n| tally.add(n)));
        if let Some(cosine) = similarity.or(text_similarity) {
            found.unlike.add((Score(cosine), place));
        }
        if let Some(finish) = text(columns.finish, row) {
            *found.finish.entry(finish.to_owned()).or_default() += 1;
        }
        if let Some(caption) = caption {
            if caption.trim().is_empty() {
                found.counts.empty_captions += 1;
                found.empty.add((chance, place));
            } else {
                found.captions.push((hash(caption), number as u32, place.1));
            }
        }
        if columns.repeats.is_some_and(|column| column.is_valid(row) && column.value(row)) {
            found.counts.repeating_captions += 1;
            found.repeating.add((chance, place));
        }
        if let Some(content) = text(columns.content, row) {
            found.images.push((hash(content), number as u32, place.1));
        }
    }
}

/// The first 64 bits of BLAKE3. Two of a hundred million texts have the same with a chance of one in 3,700.
pub(super) fn hash(text: &str) -> u64 {
    let bytes = blake3::hash(text.as_bytes());
    bytes.as_bytes().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
