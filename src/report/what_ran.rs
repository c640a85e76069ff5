//! What is known of a run: its records, as names and values, a table of runs, and a picture of where its time went.

use chrono::{DateTime, Utc};
use minijinja::{Value, context};

use super::cells::shown;
use super::plots::{count, stages};
use crate::output::OutputError;
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::Published;
use crate::output::records::stage_times::stage_times;
use crate::output::store::OutputStore;

/// The most runs in the table, files of a manifest in a fact, and characters of a fact and of the settings.
const RUNS: usize = 12;
const FILES: usize = 3;
const MOST_OF_FACT: usize = 500;
const MOST_OF_SETTINGS: usize = 20_000;

/// The values of the template for `run`, which is one of `runs`.
///
/// # Errors
/// [`OutputError`] when a record cannot be read.
pub(super) fn what_ran(store: &OutputStore, run: &Published, runs: &[Published]) -> Result<Value, OutputError> {
    let plan = match load_plan(store, &run.run) {
        Ok(plan) => Some(plan),
        Err(OutputError::NoSuchRun { .. }) => None,
        Err(error) => return Err(error),
    };
    let settings = plan.as_ref().map(|plan| serde_json::to_string_pretty(&plan.identity).unwrap_or_default());
    let row = |run: &Published| {
        context! {
            run => &run.run, published => minute(&run.published_at), rows => count(run.counts.rows),
            ok => count(run.counts.ok), failed => count(run.counts.failed),
        }
    };
    Ok(context! {
        facts => facts(run, plan.as_ref()).into_iter()
            .map(|(name, text)| context! { name => name, text => shown(&text, MOST_OF_FACT) }).collect::<Value>(),
        stages => stages(&stage_times(store, &run.run)?).map(Value::from_safe_string),
        runs => runs.iter().rev().take(RUNS).map(row).collect::<Value>(),
        more_runs => runs.len().saturating_sub(RUNS),
        settings => settings.map(|settings| shown(&settings, MOST_OF_SETTINGS)),
    })
}

/// A time of a record, to the minute.
fn minute(text: &str) -> String {
    text.parse::<DateTime<Utc>>().map_or_else(|_| shown(text, 40), |time| time.format("%Y-%m-%d %H:%M").to_string())
}

fn facts(run: &Published, plan: Option<&Plan>) -> Vec<(&'static str, String)> {
    let mut facts = vec![("run", format!("{}, number {}", run.run, run.run_seq))];
    let mut fact = |name, text: String| facts.push((name, text));
    let Some(plan) = plan else {
        fact("published", minute(&run.published_at));
        return facts;
    };
    if plan.supersedes.is_empty() {
        let mut files: Vec<String> = plan.manifest.iter().take(FILES).map(|file| file.uri.clone()).collect();
        if plan.manifest.len() > FILES {
            files.push(format!("and {} more files", plan.manifest.len() - FILES));
        }
        fact("manifest", files.join("\n"));
        let reasons: Vec<String> = plan.reasons.named().map(|(name, rows)| format!("{} {name}", count(rows))).collect();
        fact("rows", format!("{} selected: {}", count(plan.rows), reasons.join(", ")));
    } else {
        fact("compaction", format!("of {} runs", plan.supersedes.len()));
    }
    if let Some(model) = &plan.vector_model {
        let precision = model.precision.as_ref().map(|precision| format!(", {precision}")).unwrap_or_default();
        fact("model of vectors", format!("{}{precision}", model.uri));
    }
    for (name, fingerprint) in
        [("captions made with", &plan.caption_fingerprint), ("vectors made with", &plan.embedding_fingerprint)]
    {
        fact(name, fingerprint.clone().unwrap_or_else(|| "none were made".to_owned()));
    }
    fact("parts", format!("{} of {} rows, batches of {}", count(plan.parts), count(plan.part_rows), plan.batch_size));
    fact("planned", format!("{} UTC", minute(&plan.created_at)));
    let took = run.published_at.parse::<DateTime<Utc>>().map(|published| published - plan.created());
    let took = took.ok().map(|took| took.num_seconds()).filter(|seconds| *seconds >= 0);
    let took = took.map(|seconds| format!(", {} later", duration(seconds))).unwrap_or_default();
    fact("published", format!("{} UTC{took}", minute(&run.published_at)));
    fact("planned by", format!("nightcap {}", plan.version));
    facts
}

/// Seconds in the two largest units.
fn duration(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!(
            [5, 60, 3599, 3600, 90_061].map(duration),
            ["5 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 1 min"]
        );
    }
}
