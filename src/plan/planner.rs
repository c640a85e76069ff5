//! One planner for many shards: of the shards that start together one claims the planning, the others wait for its plan.
//!
//! ```text
//! _nightcap/runs/<run id>/planner-<number>    put conditionally by the process that plans, renewed while it does
//! ```
//!
//! The claim with the highest number counts. While its record is fresh the others wait; when it is not, because its process has
//! died or is suspended, one of them puts the next number. A claim is never removed: in the end it says how planning ended.
//! A planner that is resumed after it was replaced does no harm: the plan is a conditional put too, and every process uses the
//! plan that was put first.

use std::time::Duration;

use super::PlanError;
use crate::output::format::claim_format;
use crate::output::heartbeat::{Beat, Ended, Heartbeat, is_fresh, planner_number, planner_path};
use crate::output::records::plan::{Plan, load_plan};
use crate::output::store::{OutputStore, Put};
use crate::output::{OutputError, json, run_folder};
use crate::support::failpoint;

/// The first pause between two requests for the plan; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A signal is noticed within this time.
const SIGNAL: Duration = Duration::from_millis(100);
/// How often a waiting process asks the storage whether the claim is fresh.
const FRESHNESS: Duration = Duration::from_secs(15);
/// After this time another process plans too, in case the planner hangs.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Which process plans a run.
pub(super) enum Planner {
    /// This process.
    This(PlanningClaim),
    /// Another one has planned it: this is its plan.
    Other(Box<Plan>),
    /// Another one; a stop was requested while this one waited.
    Stopped,
}

/// The right to plan a run, for which other processes wait. Dropped, it says that planning failed.
pub struct PlanningClaim {
    /// None: the process waited for a planner that failed, and plans on its own account.
    claim: Option<(String, Heartbeat)>,
}

impl PlanningClaim {
    /// Says that there is a plan.
    pub(super) fn planned(self) {
        if let Some((_, heartbeat)) = self.claim {
            heartbeat.end(Ended::Done);
        }
    }
}

/// Claims the planning of `run`, or waits until another process has planned it.
///
/// # Errors
/// Failures to read or write OUTPUT.
pub(super) fn claim_planning(store: &OutputStore, run: &str, stop: &dyn Fn() -> bool) -> Result<Planner, PlanError> {
    claim_format(store)?;
    let mut waiting: Option<Waiting> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(plan) = planned(store, run)? {
            return Ok(Planner::Other(Box::new(plan)));
        }
        let newest = newest_claim(store, run)?;
        let (number, beat) = newest.unwrap_or((0, None));
        waiting = waiting.filter(|waiting| waiting.number == number);
        let mut next = next(store.process().elapsed(), store, beat.as_ref(), waiting.as_ref());
        let asked = next == Next::Ask;
        if asked {
            next = if is_fresh(store, &planner_path(run, number))? { Next::Wait } else { Next::Claim };
        }
        match next {
            Next::Claim => {
                let (path, beat) = (planner_path(run, number + 1), Beat::this(store));
                if store.put_new(&path, json(&beat, &path)?)? == Put::Created {
                    let heartbeat = Heartbeat::of_planner(store, path.clone())?;
                    let claim = PlanningClaim { claim: Some((path, heartbeat)) };
                    // The planner before may have put its plan since the check above.
                    if let Some(plan) = planned(store, run)? {
                        claim.planned();
                        return Ok(Planner::Other(Box::new(plan)));
                    }
                    failpoint::hit("after_planning_claim");
                    return Ok(Planner::This(claim));
                }
            }
            Next::PlanAlone => return Ok(Planner::This(PlanningClaim { claim: None })),
            Next::Ask | Next::Wait => {
                let waiting = waiting.get_or_insert_with(|| {
                    let (pid, host) =
                        beat.as_ref().map_or((0, "?"), |beat| (beat.worker.pid, beat.worker.host.as_str()));
                    tracing::info!(run, "waiting for process {pid} on {host}, which plans this run");
                    Waiting { number, since: store.process().elapsed(), asked: store.process().elapsed() }
                });
                if asked {
                    waiting.asked = store.process().elapsed();
                }
                if !sleep(store, pause, stop) {
                    return Ok(Planner::Stopped);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What this process waits for.
struct Waiting {
    /// The number of the claim.
    number: u32,
    /// Since when, by the clock of this process.
    since: Duration,
    /// When the storage was last asked whether the claim is fresh.
    asked: Duration,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// No process plans: put the next claim.
    Claim,
    /// The planner that was waited for has failed, perhaps for a reason that this process does not share: find out.
    PlanAlone,
    /// A process plans, if its claim is fresh: ask the storage.
    Ask,
    /// A process plans.
    Wait,
}

/// What to do at `now`, given the newest claim.
fn next(now: Duration, store: &OutputStore, newest: Option<&Beat>, waiting: Option<&Waiting>) -> Next {
    let since = |moment: Duration| now.saturating_sub(moment);
    match (newest, waiting) {
        (None, _) => Next::Claim,
        (Some(beat), Some(_)) if beat.ended == Some(Ended::Failed) => Next::PlanAlone,
        (Some(beat), _) if beat.is_over(store) => Next::Claim,
        (Some(_), None) => Next::Ask,
        (Some(_), Some(waiting)) if since(waiting.since) > LONGEST_WAIT => Next::Claim,
        (Some(_), Some(waiting)) if since(waiting.asked) > FRESHNESS => Next::Ask,
        (Some(_), Some(_)) => Next::Wait,
    }
}

fn planned(store: &OutputStore, run: &str) -> Result<Option<Plan>, OutputError> {
    match load_plan(store, run) {
        Ok(plan) => Ok(Some(plan)),
        Err(OutputError::NoSuchRun { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The claim that counts, with its number; its record is None when it is damaged.
fn newest_claim(store: &OutputStore, run: &str) -> Result<Option<(u32, Option<Beat>)>, OutputError> {
    let numbers = store.files(&run_folder(run))?;
    let Some(number) = numbers.iter().filter_map(|name| planner_number(name)).max() else { return Ok(None) };
    Ok(Some((number, Beat::read(store, &planner_path(run, number))?)))
}

/// Sleeps; false when a stop was requested.
fn sleep(store: &OutputStore, pause: Duration, stop: &dyn Fn() -> bool) -> bool {
    let end = store.process().elapsed() + pause;
    while !stop() {
        let Some(left) = end.checked_sub(store.process().elapsed()).filter(|left| !left.is_zero()) else { return true };
        store.process().sleep(left.min(SIGNAL));
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::{Location, Storage};

    #[test]
    fn a_claim_counts_until_its_planner_has_ended_or_takes_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Local(folder.path().to_owned());
        let store = OutputStore::open(&location, &Arc::new(Storage::from_environment())).unwrap();
        let next = |beat: Option<&Beat>, waiting: Option<&Waiting>| {
            // Long after the start of this process.
            super::next(Duration::from_hours(10), &store, beat, waiting)
        };
        let mut beat = Beat::this(&store);
        assert_eq!(next(None, None), Next::Claim);
        assert_eq!(next(Some(&beat), None), Next::Ask, "its age is not known yet");
        let waiting = |since: Duration, asked: Duration| {
            let ago = |time: Duration| Duration::from_hours(10).saturating_sub(time);
            Waiting { number: 1, since: ago(since), asked: ago(asked) }
        };
        let second = Duration::from_secs(1);
        let expected =
            [(second, second, Next::Wait), (60 * second, 20 * second, Next::Ask), (3700 * second, second, Next::Claim)];
        for (since, asked, expected) in expected {
            assert_eq!(next(Some(&beat), Some(&waiting(since, asked))), expected, "{since:?}");
        }
        beat.ended = Some(Ended::Failed);
        let just_now = waiting(Duration::ZERO, Duration::ZERO);
        assert_eq!(next(Some(&beat), None), Next::Claim, "an earlier attempt failed");
        assert_eq!(next(Some(&beat), Some(&just_now)), Next::PlanAlone);
        beat.ended = Some(Ended::Done);
        assert_eq!(next(Some(&beat), Some(&just_now)), Next::Claim);
    }
}
