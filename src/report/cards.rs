//! Rows as cards: what is shown of each in a gallery, and all of its columns for those who click. In: places of rows. Out: values for
//! the templates, and JSON.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Int32Type};
use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::{Value, context};
use rayon::prelude::*;
use serde_json::json;

use super::cells::{shown, shown_columns, text_value};
use super::gather::Place;
use super::plots::number;
use crate::output::OutputError;
use crate::output::view::{View, ViewPart};

/// The most characters of a text on a card, of a value in a row's table, and of all values of a row.
const MOST_OF_CARD: usize = 400;
const MOST_OF_VALUE: usize = 2_000;
const MOST_OF_ROW: usize = 6_000;
/// The most bytes of all pictures of a page, as they are encoded there. The cards behind have none.
const MOST_OF_PICTURES: usize = 14 << 20;
/// The columns of a caption or text, the first that there is.
const WORDS: [&str; 3] = ["caption", "text", "title"];
/// A column that outputs of images have.
const IMAGE: &str = "content_hash";

/// What is shown of a row's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// The bytes of a JPEG.
    Jpeg(Vec<u8>),
    /// Why there is none.
    Missing(String),
    /// Rows of texts have none.
    Nothing,
}

/// Gives the pictures of rows, in their order.
pub type Pictures<'a> = dyn Fn(&View, &[Place]) -> Result<Vec<Picture>, OutputError> + 'a;

/// A row that is shown.
struct Row {
    key: String,
    words: String,
    /// The error of a failed row.
    failed: Option<String>,
    /// The names and values of its columns.
    fields: Vec<(String, String)>,
    similarity: Option<f32>,
    /// For each token.
    logprob: Option<f32>,
    picture: Picture,
}

/// The rows that a page shows, each once, however many galleries it is in.
#[derive(Default)]
pub(super) struct Rows {
    all: Vec<Row>,
    /// Bytes of the pictures on cards so far.
    bytes: Cell<usize>,
    /// By the number of the view and the place there.
    numbers: BTreeMap<(usize, Place), usize>,
}

impl Rows {
    /// Reads the rows at `places` of `view`, which has the number `number` among the views of a page.
    ///
    /// # Errors
    /// [`OutputError`] when a part cannot be read.
    pub(super) fn read(
        &mut self,
        number: usize,
        view: &View,
        places: &BTreeSet<Place>,
        pictures: &Pictures<'_>,
    ) -> Result<(), OutputError> {
        let columns = shown_columns(view.schema());
        let mut wanted: BTreeMap<ViewPart, Vec<u32>> = BTreeMap::new();
        for (part, row) in places {
            wanted.entry(*part).or_default().push(*row);
        }
        let wanted: Vec<(ViewPart, Vec<u32>)> = wanted.into_iter().collect();
        let read: Result<Vec<RecordBatch>, OutputError> =
            wanted.par_iter().map(|(part, rows)| view.take(*part, rows, &columns)).collect();
        // The places are sorted by part and row, as the batches are.
        let rows: Vec<(RecordBatch, usize)> =
            read?.into_iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch.clone(), row))).collect();
        let places: Vec<Place> = places.iter().copied().collect();
        let has_images = view.schema().index_of(IMAGE).is_ok();
        let pictures = if has_images { pictures(view, &places)? } else { vec![Picture::Nothing; places.len()] };
        for (((batch, row), place), picture) in rows.iter().zip(places).zip(pictures) {
            let key = &view.run_of(place.0).key;
            self.numbers.insert((number, place), self.all.len());
            self.all.push(Row::of(batch, *row, key, &view.run_of(place.0).run, picture));
        }
        Ok(())
    }

    /// A card of one row.
    pub(super) fn card(&self, view: usize, place: Place, marks: &[String], before: Option<&str>) -> Option<Value> {
        let number = *self.numbers.get(&(view, place))?;
        let row = self.all.get(number)?;
        let (image, missing) = match &row.picture {
            Picture::Jpeg(bytes) if self.bytes.get() < MOST_OF_PICTURES => {
                let uri = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(bytes));
                self.bytes.set(self.bytes.get() + uri.len());
                (uri, String::new())
            }
            Picture::Jpeg(_) => (String::new(), "left out, so that the page stays small".to_owned()),
            Picture::Missing(why) => (String::new(), shown(why, MOST_OF_CARD)),
            Picture::Nothing => Default::default(),
        };
        let shown_row = context! {
            number => number, key => &row.key, caption => shown(&row.words, MOST_OF_CARD),
            failed => row.failed.clone(), image => image, missing => missing,
        };
        let marks: Value = marks.iter().map(String::as_str).collect();
        Some(context! { row => shown_row, marks => marks, before => before.map(|text| shown(text, MOST_OF_CARD)) })
    }

    /// An entry of a gallery: one card, or two that belong together. It is ordered by the first.
    pub(super) fn entry(&self, view: usize, places: &[Place], marks: &[String], label: &str) -> Option<Value> {
        let cards: Option<Vec<Value>> = places.iter().map(|place| self.card(view, *place, marks, None)).collect();
        self.entry_of(view, *places.first()?, cards?, label)
    }

    /// An entry of a caption that was `before`.
    pub(super) fn change(&self, view: usize, place: Place, before: &str) -> Option<Value> {
        let before = if before.trim().is_empty() { "(empty)" } else { before };
        let card = self.card(view, place, &[], Some(before))?;
        self.entry_of(view, place, vec![card], "")
    }

    fn entry_of(&self, view: usize, first: Place, cards: Vec<Value>, label: &str) -> Option<Value> {
        let row = self.all.get(*self.numbers.get(&(view, first))?)?;
        let text = |value: Option<f32>| value.map(|value| value.to_string()).unwrap_or_default();
        Some(context! {
            cards => cards.into_iter().collect::<Value>(), label => label, key => &row.key,
            similarity => text(row.similarity), logprob => text(row.logprob), length => row.words.chars().count(),
        })
    }

    /// The similarity of a row, for a mark.
    pub(super) fn similarity(&self, view: usize, place: Place) -> Option<String> {
        let row = self.all.get(*self.numbers.get(&(view, place))?)?;
        row.similarity.map(|cosine| number(f64::from(cosine)))
    }

    /// The rows as JSON that can stand within HTML: `[{key, fields: [[name, value]]}]`.
    pub(super) fn json(&self) -> String {
        let rows: Vec<serde_json::Value> =
            self.all.iter().map(|row| json!({"key": row.key, "fields": row.fields})).collect();
        let text = serde_json::Value::from(rows).to_string();
        // These occur within strings only.
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    }
}

impl Row {
    fn of(batch: &RecordBatch, row: usize, key: &str, run: &str, picture: Picture) -> Self {
        let schema = batch.schema();
        let value = |name: &str| {
            batch.column_by_name(name).filter(|column| column.is_valid(row)).map(|column| text_value(column, row))
        };
        let float = |name: &str| {
            let column = batch.column_by_name(name)?.as_primitive_opt::<Float32Type>()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let tokens = batch.column_by_name("caption_tokens").and_then(|column| column.as_primitive_opt::<Int32Type>());
        let tokens = tokens.filter(|column| column.is_valid(row)).map(|column| column.value(row));
        let words = WORDS.into_iter().find_map(|name| schema.index_of(name).is_ok().then(|| value(name)));
        let failed = (value("status").as_deref() == Some("failed")).then(|| {
            let [kind, message] = ["error_kind", "error_message"].map(|name| value(name).unwrap_or_default());
            shown(&format!("{kind}: {message}"), MOST_OF_CARD)
        });
        let mut left = MOST_OF_ROW;
        let mut fields = vec![("run".to_owned(), run.to_owned())];
        for field in schema.fields() {
            let Some(text) = value(field.name()).filter(|_| left > 0) else { continue };
            let text = shown(&text, MOST_OF_VALUE.min(left));
            left = left.saturating_sub(text.chars().count() + field.name().chars().count());
            fields.push((shown(field.name(), MOST_OF_CARD), text));
        }
        Self {
            key: value(key).map_or_else(|| "(no key)".to_owned(), |key| shown(&key, MOST_OF_CARD)),
            words: words.flatten().unwrap_or_default(),
            failed,
            fields,
            similarity: float("caption_similarity").or_else(|| float("image_text_similarity")),
            logprob: float("caption_logprob")
                .zip(tokens)
                .filter(|(_, tokens)| *tokens > 0)
                .map(|(sum, tokens)| sum / tokens as f32),
            picture,
        }
    }
}
