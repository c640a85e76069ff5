//! The report of an OUTPUT. In: the rows to show, a run, the rows before it, and a way to get pictures. Out: one HTML file.

use std::collections::BTreeSet;

use minijinja::{Value, context};

use super::cards::{Pictures, Rows};
use super::differences::{CHANGES, Differences, differences};
use super::gather::{
    COPIES, EMPTY, FAILURES_OF_A_KIND, Gathered, MEASURES, Place, REPEATED, REPEATING, SAMPLED, Shared, UNLIKE, gather,
};
use super::page::render;
use super::pairs::{Alike, PAIRS, alike};
use super::plots::{count, histogram, number};
use super::what_ran::what_ran;
use crate::output::OutputError;
use crate::output::records::published::Published;
use crate::output::view::View;

/// The numbers of the views among those of a page.
const ALL: usize = 0;
const AFTER: usize = 1;

/// The rows of a run beside those before it.
#[derive(Debug)]
pub struct Comparison {
    /// The rows of the run.
    pub after: View,
    /// The rows that it is compared with.
    pub before: View,
    /// What these are, in words.
    pub against: String,
}

/// What a report is about.
pub struct Report<'a> {
    /// The rows that are counted and shown.
    pub view: &'a View,
    /// What these are, in words.
    pub scope: String,
    /// The run that is described.
    pub run: &'a Published,
    /// Every run that counts, oldest first.
    pub runs: &'a [Published],
    /// None: there is nothing to compare with.
    pub comparison: Option<&'a Comparison>,
    /// Gives pictures.
    pub pictures: &'a Pictures<'a>,
    /// The time that the page names.
    pub written: String,
}

/// One gallery of a page.
struct Section {
    id: &'static str,
    title: String,
    count: String,
    lead: String,
    plot: Option<(String, String)>,
    entries: Vec<Value>,
}

impl Section {
    fn value(&self) -> Value {
        context! {
            id => self.id, title => &self.title, count => &self.count, lead => &self.lead,
            plot_name => self.plot.as_ref().map(|(name, _)| name.clone()),
            plot => self.plot.as_ref().map(|(_, svg)| Value::from_safe_string(svg.clone())),
            entries => self.entries.iter().cloned().collect::<Value>(),
        }
    }
}

impl Report<'_> {
    /// The page.
    ///
    /// # Errors
    /// [`OutputError`] when records or parts cannot be read.
    pub fn html(&self) -> Result<String, OutputError> {
        let gathered = gather(self.view)?;
        let alike = alike(self.view)?;
        let changes = self.comparison.map(|compared| differences(&compared.after, &compared.before)).transpose()?;
        let mut rows = Rows::default();
        rows.read(ALL, self.view, &places(&gathered, alike.as_ref()), self.pictures)?;
        if let (Some(changes), Some(compared)) = (&changes, self.comparison) {
            let places = changes.examples.iter().map(|change| change.place).collect();
            rows.read(AFTER, &compared.after, &places, self.pictures)?;
        }
        let mut sections = Vec::new();
        if let (Some(changes), Some(compared)) = (&changes, self.comparison) {
            sections.push(changed(changes, &compared.against, &rows));
        }
        sections.extend(galleries(&gathered, &rows));
        sections.extend(pairs(&gathered, alike.as_ref(), &rows));
        sections.extend(failures(&gathered, &rows));
        let plots = MEASURES.iter().zip(&gathered.tallies).filter_map(|((name, _, unit), tally)| {
            let svg = histogram(name, tally)?;
            Some(context! { name => *name, unit => *unit, svg => Value::from_safe_string(svg) })
        });
        let cards = sections.iter().map(|section| section.entries.len()).sum();
        let location = self.view.store().location().to_string();
        let values = context! {
            title => format!("{location} - nightcap"),
            output => location,
            scope => &self.scope,
            written => &self.written,
            numbers => numbers(&gathered),
            plots => plots.collect::<Value>(),
            sections => sections.iter().map(Section::value).collect::<Value>(),
            ..what_ran(self.view.store(), self.run, self.runs)?
        };
        render("report.html", &rows.json(), cards, values)
    }
}

/// Every row of the galleries.
fn places(gathered: &Gathered, alike: Option<&Alike>) -> BTreeSet<Place> {
    let Gathered { sample, unlike, repeating, empty, failures, repeated, copies, .. } = gathered;
    let lists = [sample, unlike, repeating, empty].into_iter().chain(failures.values());
    let shared = repeated.iter().map(|shared| shared.first);
    let copies = copies.iter().flat_map(|shared| [shared.first, shared.second]);
    let pairs = alike.iter().flat_map(|alike| &alike.pairs).flat_map(|(_, a, b)| [*a, *b]);
    lists.flatten().copied().chain(shared).chain(copies).chain(pairs).collect()
}

fn numbers(gathered: &Gathered) -> Value {
    let counts = &gathered.counts;
    let shown = [
        ("rows", counts.rows, false),
        ("ok", counts.ok, false),
        ("failed", counts.failed, counts.failed > 0),
        ("empty captions", counts.empty_captions, counts.empty_captions > 0),
        ("captions that repeat themselves", counts.repeating_captions, false),
        ("stopped at the token limit", gathered.finish.get("length").copied().unwrap_or(0), false),
    ];
    let has_captions = !gathered.finish.is_empty();
    shown
        .into_iter()
        .take(if has_captions { 6 } else { 3 })
        .map(|(name, rows, bad)| context! { name => name, count => count(rows), bad => bad })
        .collect()
}

/// The galleries of single rows.
fn galleries(gathered: &Gathered, rows: &Rows) -> Vec<Section> {
    let Gathered { counts, sample, unlike, repeating, empty, repeated, repeated_rows, .. } = gathered;
    let gallery = |id, title: &str, total: u64, lead: String, places: &[Place]| {
        let entry = |place: &Place| {
            let marks: Vec<String> = rows.similarity(ALL, *place).into_iter().collect();
            rows.entry(ALL, &[*place], &marks, "")
        };
        let entries = places.iter().filter_map(entry).collect();
        Section { id, title: title.to_owned(), count: count(total), lead, plot: None, entries }
    };
    let mut sections = vec![gallery(
        "sample",
        "Sample",
        sample.len() as u64,
        format!(
            "Rows drawn at random, always the same ones, at most {SAMPLED}. The number on a card is the similarity of image and words."
        ),
        sample,
    )];
    if !unlike.is_empty() {
        sections.push(gallery(
            "unlike",
            "Lowest similarity",
            unlike.len() as u64,
            format!("The rows whose words fit their image worst, at most {UNLIKE}."),
            unlike,
        ));
    }
    if !repeated.is_empty() {
        let entry = |Shared { rows: times, first, .. }: &Shared| {
            rows.entry(ALL, &[*first], &[format!("{} times", count(*times))], "")
        };
        sections.push(Section {
            id: "repeated",
            title: "Most repeated captions".to_owned(),
            count: count(repeated.len() as u64),
            lead: format!(
                "{} rows share their caption with another row. The most frequent captions, at most {REPEATED}, each with its first row.",
                count(*repeated_rows)
            ),
            plot: None,
            entries: repeated.iter().filter_map(entry).collect(),
        });
    }
    if !repeating.is_empty() {
        sections.push(gallery(
            "repeating",
            "Captions that repeat themselves",
            counts.repeating_captions,
            format!("Two or more words in a row occur twice, or one word twice in a row. Drawn at random, at most {REPEATING}."),
            repeating,
        ));
    }
    if !empty.is_empty() {
        let lead = format!("Drawn at random, at most {EMPTY}.");
        sections.push(gallery("empty", "Empty captions", counts.empty_captions, lead, empty));
    }
    sections
}

/// The galleries of pairs.
fn pairs(gathered: &Gathered, alike: Option<&Alike>, rows: &Rows) -> Vec<Section> {
    let mut sections = Vec::new();
    if !gathered.copies.is_empty() {
        let entry = |Shared { rows: times, first, second }: &Shared| {
            rows.entry(ALL, &[*first, *second], &[], &format!("{} rows have this image", count(*times)))
        };
        sections.push(Section {
            id: "copies",
            title: "The same image".to_owned(),
            count: count(gathered.copies.len() as u64),
            lead: format!(
                "{} rows have an image with the same bytes as another row (`content_hash`). The most frequent images, at most {COPIES}, each with its first two rows.",
                count(gathered.copied_rows)
            ),
            plot: None,
            entries: gathered.copies.iter().filter_map(entry).collect(),
        });
    }
    if let Some(Alike { rows: compared, parts, pairs }) = alike.filter(|alike| !alike.pairs.is_empty()) {
        let entry = |(cosine, a, b): &(f32, Place, Place)| {
            rows.entry(ALL, &[*a, *b], &[], &format!("cosine {}", number(f64::from(*cosine))))
        };
        sections.push(Section {
            id: "alike",
            title: "Look alike".to_owned(),
            count: count(pairs.len() as u64),
            lead: format!(
                "The nearest pairs by the cosine of their vectors, at most {PAIRS}, among a sample of {} rows from {} parts.",
                count(*compared as u64),
                count(*parts as u64)
            ),
            plot: None,
            entries: pairs.iter().filter_map(entry).collect(),
        });
    }
    sections
}

fn failures(gathered: &Gathered, rows: &Rows) -> Option<Section> {
    let Gathered { counts, failures, .. } = gathered;
    if counts.failed == 0 {
        return None;
    }
    let kinds: Vec<String> = counts.failures.iter().map(|(kind, rows)| format!("{} {kind}", count(*rows))).collect();
    let entries = failures.iter().flat_map(|(kind, places)| {
        let of_kind = counts.failures.get(kind).copied().unwrap_or(0);
        places.iter().filter_map(move |place| rows.entry(ALL, &[*place], &[], &format!("{} of {kind}", count(of_kind))))
    });
    Some(Section {
        id: "failures",
        title: "Failures".to_owned(),
        count: count(counts.failed),
        lead: format!("{}. Of each kind, rows drawn at random, at most {FAILURES_OF_A_KIND}.", kinds.join(", ")),
        plot: None,
        entries: entries.collect(),
    })
}

fn changed(changes: &Differences, against: &str, rows: &Rows) -> Section {
    let Differences { rows: both, captions, changed, failed_now, ok_now, examples, drift, other_model } = changes;
    let mut lead = vec![format!("Compared with {against}: {} rows were there before", count(*both))];
    if *captions > 0 {
        lead.push(format!(", and {} of {} captions changed", count(*changed), count(*captions)));
    }
    for (rows, what) in [(*failed_now, "failed now"), (*ok_now, "are ok now and were not")] {
        if rows > 0 {
            lead.push(format!("; {} {what}", count(rows)));
        }
    }
    lead.push(".".to_owned());
    if !examples.is_empty() {
        lead.push(format!(" Changed captions drawn at random, at most {CHANGES}."));
    }
    let plot = histogram("Cosine of the vectors before and after", drift);
    if plot.is_some() {
        let moved = count(drift.rows());
        lead.push(format!(" Vectors are compared where the image is the same, in a sample of {moved} rows."));
        if *other_model > 0 {
            lead.push(format!(
                " {} of these have another embedding_fingerprint than before: their vectors are of two spaces, which cannot be searched together.",
                count(*other_model)
            ));
        }
    }
    let entry = |change: &super::differences::Change| rows.change(AFTER, change.place, &change.before);
    Section {
        id: "changes",
        title: "Changes".to_owned(),
        count: count(*changed),
        lead: lead.concat(),
        plot: plot.map(|svg| ("Cosine of the vectors before and after".to_owned(), svg)),
        entries: examples.iter().filter_map(entry).collect(),
    }
}
