//! `nightcap eval`: scores an OUTPUT, or two, against reference captions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::context::{Context, print, to_json};
use super::eval_report::{Compared, Difference, Report, as_json, as_table};
use super::mixed_vectors::cannot_be_compared;
use super::query_encoder::QueryEncoder;
use super::shown_rows::terminal_width;
use crate::cli::{EvalArgs, TableFormat};
use crate::error::{Error, ExitStatus};
use crate::eval::Sentence;
use crate::eval::bootstrap::intervals;
use crate::eval::measured::{Measured, Score};
use crate::eval::references::References;
use crate::eval::retrieval::{Images, Ranks, Texts};
use crate::eval::rows::{OutputRows, VECTORS, read_vectors};
use crate::eval::words::Vocabulary;
use crate::output::store::OutputStore;
use crate::output::view::View;
use crate::storage::{Location, Storage};
use crate::support::progress::Progress;
use crate::support::redact::lines;

/// Texts that are encoded before the next are taken.
const TEXTS: usize = 1024;

/// An OUTPUT that is scored.
struct Output {
    view: View,
    rows: OutputRows,
}

pub(super) fn execute(args: &EvalArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let open = |folder: &Path| Ok::<_, Error>(View::open(OutputStore::from_argument(folder)?, None)?);
    let views = [Some(&args.output), args.against.as_ref()].into_iter().flatten().map(|folder| open(folder));
    let views = views.collect::<Result<Vec<View>, Error>>()?;
    let references = read_references(args, views[0].key())?;
    let read = |view: View| Ok::<_, Error>(Output { rows: OutputRows::read(&view, &references)?, view });
    let outputs = views.into_iter().map(read).collect::<Result<Vec<_>, Error>>()?;
    let in_all = |row: &u32| outputs.iter().all(|output| output.rows.rows[*row as usize].is_some());
    let compared: Vec<u32> = (0..references.captions.len() as u32).filter(in_all).collect();
    if compared.is_empty() {
        return Err(nothing_to_compare(args, &references, &outputs));
    }

    let mut vocabulary = Vocabulary::default();
    let mut sentences =
        |texts: &Vec<String>| -> Vec<Sentence> { texts.iter().map(|text| vocabulary.sentence(text)).collect() };
    let mut others: Vec<Vec<Sentence>> = references.captions.iter().map(&mut sentences).collect();
    let sentences: Vec<Vec<Sentence>> = compared.iter().map(|row| std::mem::take(&mut others[*row as usize])).collect();
    let (mut measured, mut reports) = (Vec::new(), Vec::new());
    for Output { view, rows } in &outputs {
        let of_rows = || compared.iter().filter_map(|row| rows.rows[*row as usize].as_ref());
        let mut found = Measured::new(compared.len());
        let mut left_out = Vec::new();
        if rows.has.captions {
            let captions: Vec<String> = of_rows().map(|row| row.caption.clone().unwrap_or_default()).collect();
            found = found.with_captions(&captions, &sentences, &others, &mut vocabulary);
        } else {
            left_out.push("captions: OUTPUT has no column `caption`".to_owned());
        }
        if rows.has.similarity {
            found = found.with_similarity(&of_rows().map(|row| row.similarity).collect::<Vec<_>>());
        }
        match retrieval(args, view, &references, &compared, context)? {
            Retrieval::Stopped => return Ok(ExitStatus::Stopped),
            Retrieval::LeftOut(why) => left_out.push(format!("retrieval: {why}")),
            Retrieval::Ranks { ranks, without_vector } => {
                if without_vector > 0 {
                    left_out.push(format!("retrieval: {without_vector} references that the model gives no vector"));
                }
                found = found.with_ranks(ranks);
            }
        }
        for what in &left_out {
            tracing::warn!("{}: left out: {what}", view.store().location());
        }
        reports.push(Compared {
            output: view.store().location().to_string(),
            ok: rows.ok,
            extra: rows.extra,
            missing: rows.rows.iter().filter(|row| row.is_none()).count() as u64,
            scores: found.scores(),
            left_out,
        });
        measured.push(found);
    }
    let differences =
        if let [first, second] = &measured[..] { differences(compared.len(), first, second) } else { vec![] };
    let report = Report {
        references: args.references.clone(),
        reference_rows: references.captions.len() as u64,
        without_captions: references.without,
        compared: compared.len() as u64,
        outputs: reports,
        differences,
    };
    let text = match args.format {
        TableFormat::Json => to_json(&as_json(&report))?,
        TableFormat::Table => lines(&as_table(&report, terminal_width(context))),
    };
    print(context, &text)?;
    Ok(ExitStatus::Done)
}

fn read_references(args: &EvalArgs, key: &str) -> Result<References, Error> {
    let folder =
        std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
    let unclear = |error| Error::Unfit(format!("--references: {error}"));
    let pattern = Location::pattern(&folder, &args.references).map_err(unclear)?;
    let storage = Arc::new(Storage::from_environment());
    let key = args.key.as_deref().unwrap_or(key);
    Ok(References::read(&pattern, key, args.captions.as_deref(), &storage)?)
}

fn nothing_to_compare(args: &EvalArgs, references: &References, outputs: &[Output]) -> Error {
    let ok =
        outputs.iter().map(|output| format!("the {} ok rows of {}", output.rows.ok, output.view.store().location()));
    Error::Unfit(format!(
        "--references {}: expected captions for {}, found {} keys with captions and none that matches\n\
         hint: --key names the column with the keys of {}, --captions the one with the captions",
        args.references,
        ok.collect::<Vec<_>>().join(" and "),
        references.captions.len(),
        args.output.display()
    ))
}

/// How the vectors of an OUTPUT were compared with those of the references.
enum Retrieval {
    Ranks { ranks: Ranks, without_vector: u64 },
    LeftOut(String),
    Stopped,
}

/// Encodes the references of the compared rows by the model that made the vectors, and ranks both. Without a usable model, retrieval is
/// left out, unless `--model` names one.
fn retrieval(
    args: &EvalArgs,
    view: &View,
    references: &References,
    compared: &[u32],
    context: &Context<'_>,
) -> Result<Retrieval, Error> {
    let Ok(field) = view.schema().field_with_name(VECTORS) else {
        return Ok(Retrieval::LeftOut(format!("OUTPUT has no column `{VECTORS}`")));
    };
    let half =
        matches!(field.data_type(), DataType::FixedSizeList(element, _) if *element.data_type() == DataType::Float16);
    let number = |row: u32| compared.binary_search(&row).ok().map(|number| number as u32);
    let (images, fingerprints) = read_vectors(view, references, number)?;
    let fingerprint = match one_fingerprint(&fingerprints) {
        Ok(fingerprint) => fingerprint,
        Err(why) => return Ok(Retrieval::LeftOut(why)),
    };
    let open = || {
        let encoder = QueryEncoder::open(view, args.model.as_deref())?;
        encoder.check(fingerprint, half)?;
        encoder.open_texts()
    };
    let mut encoder = match open() {
        Ok(encoder) => encoder,
        Err(error) if args.model.is_none() => return Ok(Retrieval::LeftOut(error.to_string())),
        Err(error) => return Err(error),
    };
    let all: Vec<(usize, &String)> = texts(&images, references, compared);
    let progress = Progress::new(&context.terminal, all.len() as u64);
    let system = |source| Error::System { action: "keep vectors in a temporary file", source };
    let (mut added, mut without_vector) = (Texts::new(&images).map_err(system)?, 0);
    for some in all.chunks(TEXTS) {
        if context.stop.requested() {
            progress.finish();
            return Ok(Retrieval::Stopped);
        }
        let captions: Vec<String> = some.iter().map(|(_, text)| (*text).clone()).collect();
        for ((image, _), vector) in some.iter().zip(encoder.encode(&captions)?) {
            let vector = vector.ok().flatten().filter(|vector| vector.len() == images.width);
            match &vector {
                Some(vector) => added.add(*image, vector).map_err(system)?,
                None => without_vector += 1,
            }
            progress.row(vector.is_none());
        }
    }
    progress.finish();
    if added.is_empty() {
        return Ok(Retrieval::LeftOut("the model gives none of the references a vector".to_owned()));
    }
    let ranks = added.ranks(&|| context.stop.requested()).map_err(system)?;
    Ok(ranks.map_or(Retrieval::Stopped, |ranks| Retrieval::Ranks { ranks, without_vector }))
}

/// The references of each image, by its number.
fn texts<'a>(images: &Images, references: &'a References, compared: &[u32]) -> Vec<(usize, &'a String)> {
    let of_image = |(image, number): (usize, &u32)| {
        let row = compared[*number as usize];
        references.captions[row as usize].iter().map(move |caption| (image, caption))
    };
    images.rows.iter().enumerate().flat_map(of_image).collect()
}

fn one_fingerprint(fingerprints: &BTreeMap<String, u64>) -> Result<&str, String> {
    match (fingerprints.len(), fingerprints.keys().next()) {
        (1, Some(fingerprint)) => Ok(fingerprint),
        (0, _) | (_, None) => Err(format!("no compared row has a {VECTORS}")),
        _ => Err(cannot_be_compared(fingerprints)),
    }
}

/// The scores of `first` less those of `second`, where both have them; with intervals where rows can be drawn again.
fn differences(rows: usize, first: &Measured, second: &Measured) -> Vec<Difference> {
    let value = |scores: &[Score], name: &str| {
        scores.iter().find(|score| score.name == name).map_or(f64::NAN, |score| score.value)
    };
    let (ours, theirs) = (first.scores(), second.scores());
    let names: Vec<String> = ours
        .iter()
        .map(|score| &score.name)
        .filter(|name| theirs.iter().any(|score| score.name == **name))
        .cloned()
        .collect();
    let drawn = |weights: &[u32]| {
        let (ours, theirs) = (first.weighted(weights), second.weighted(weights));
        names.iter().map(|name| value(&ours, name) - value(&theirs, name)).collect()
    };
    let found = names.iter().zip(intervals(rows, drawn));
    found
        .map(|(name, interval)| Difference {
            name: name.clone(),
            value: value(&ours, name) - value(&theirs, name),
            interval,
        })
        .collect()
}
