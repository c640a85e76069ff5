//! Commands that meet on one OUTPUT, started, suspended and killed at random: nothing that was published is lost, at any moment, and
//! a calm `run` afterwards completes what is left. `make torture` makes many more rounds than `make test`.
//!
//! Every round has a number, from which it is made: `NIGHTCAP_TORTURE_ROUND=17 cargo test --test it -- commands_that_meet_on_disk` makes
//! round 17 alone. Places named by failpoints are the same each time; moments are as near as two runs of a machine are.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{Dice, Workplace, killed_at, rounds, send, state};
use crate::place::{IMPATIENT, Place, ended, succeeded};
use crate::readers::python;
use crate::views::{Readers, Seen};

/// Rows of the manifest, in parts of two.
const ROWS: u32 = 10;
/// The outputs that rounds begin with.
const BEGINNINGS: [&str; 5] = ["empty", "nights", "half", "other-half", "compacting"];
/// The most that may be done to the processes of a round before all are let go.
const MOST_EVENTS: usize = 12;
/// Longer than any command takes that is not suspended.
const PATIENCE: Duration = Duration::from_mins(2);
/// The settings of another job on the same OUTPUT.
const OTHER: [&str; 2] = ["--set", "generation.max_new_tokens=3"];
/// A place at which a process can be suspended or killed by name, and how many times it may be passed before.
type Point = (&'static str, usize);
const OF_RUN: [Point; 11] = [
    ("before_put", 12),
    ("after_put", 12),
    ("before_part", 4),
    ("after_part", 4),
    ("before_plan", 1),
    ("before_compare", 1),
    ("before_close", 1),
    ("after_close", 1),
    ("before_index", 1),
    ("before_publish", 1),
    ("after_published_listing", 6),
];
const OF_COMPACT: [Point; 6] = [
    ("before_put", 12),
    ("after_put", 12),
    ("before_delete", 12),
    ("before_index", 1),
    ("before_publish", 1),
    ("after_published_listing", 6),
];
const OF_FINALIZE: [Point; 5] =
    [("before_put", 4), ("after_put", 4), ("before_index", 1), ("before_publish", 1), ("after_published_listing", 2)];
const OF_DISCARD: [Point; 4] =
    [("before_put", 2), ("after_put", 2), ("before_delete", 8), ("after_published_listing", 2)];

/// One of the commands that meet: its name and arguments.
type Action = (&'static str, &'static [&'static str]);
const ACTIONS: [Action; 16] = [
    ("run", &[]),
    ("run", &["--full"]),
    ("run", &OTHER),
    ("run", &["--run-id", "half", "--full"]),
    ("run", &["--run-id", "half", "--full", "--shard", "0/2"]),
    ("run", &["--run-id", "half", "--full", "--shard", "1/2"]),
    ("run", &["--run-id", "half", "--full", "--set", "generation.max_new_tokens=3"]),
    ("finalize", &["--run-id", "half"]),
    ("finalize", &["--run-id", "half", "--partial"]),
    ("finalize", &["--run-id", "half", "--partial"]),
    ("discard", &["--run-id", "half"]),
    ("discard", &["--run-id", "half"]),
    ("discard", &["--run-id", "weekly"]),
    ("compact", &[]),
    ("compact", &["--run-id", "weekly"]),
    ("compact", &["--run-id", "weekly"]),
];

/// A process of a round.
struct Actor {
    what: String,
    /// It was given no run id.
    anonymous: bool,
    child: Child,
    log: std::path::PathBuf,
    killed: bool,
    stopped: bool,
}

/// How often something really happened.
#[derive(Debug, Default)]
struct Hits {
    rounds: usize,
    commands: usize,
    /// Suspended in mid-work.
    suspended: usize,
    /// Killed in mid-work.
    killed: usize,
    /// Commands that did all of their work while another one stood still in mid-work.
    overtaken: usize,
    /// Moments at which everything stood still and readers looked.
    looks: usize,
}

struct Arena {
    place: Place,
    readers: Readers,
    expected: BTreeMap<String, Option<String>>,
    hits: Hits,
}

impl Arena {
    /// None if readers are missing.
    fn new(remote: Option<&str>) -> Option<Self> {
        let readers = Readers::start(&python()?);
        let workplace = Workplace::with_images(ROWS, 2);
        let place = Place::new(workplace, remote);
        let mut arena = Self { place, readers, expected: BTreeMap::new(), hits: Hits::default() };
        let place = &arena.place;
        succeeded(&mut place.run("nights", &["--run-id", "monday", "--limit", "6"]));
        succeeded(&mut place.run("nights", &["--run-id", "tuesday", "--full", "--limit", "3"]));
        let half = ["--run-id", "half", "--full"];
        place.copy("nights", "half");
        killed_at(&mut place.run("half", &half), "after_part:2");
        place.copy("nights", "other-half");
        killed_at(&mut place.run("other-half", &[&half[..], &OTHER].concat()), "after_part:2");
        place.copy("half", "compacting");
        killed_at(&mut place.on("compacting", "compact", &["--run-id", "weekly"]), "after_put:4");
        succeeded(&mut place.run("calm", &[]));
        let calm = arena.look("calm");
        assert_eq!((calm.faults(), calm.newest.len()), (Vec::new(), ROWS as usize));
        arena.expected = calm.captions();
        Some(arena)
    }

    fn look(&mut self, name: &str) -> Seen {
        let folder = self.place.snapshot(name);
        self.readers.look(&folder)
    }

    /// Starts one of the commands on `output`, with a fault or none.
    fn start(&self, output: &str, number: usize, actions: &[Action], dice: &mut Dice) -> Actor {
        let (name, arguments) = *dice.one_of(actions);
        let mut command = match name {
            "run" => self.place.run(output, arguments),
            name => self.place.on(output, name, arguments),
        };
        let (point, most) = *match name {
            "run" => dice.one_of(&OF_RUN),
            "compact" => dice.one_of(&OF_COMPACT),
            "finalize" => dice.one_of(&OF_FINALIZE),
            _ => dice.one_of(&OF_DISCARD),
        };
        let at = format!("{point}:{}", 1 + dice.below(most));
        let fault = match dice.below(100) {
            0..60 => Some("NIGHTCAP_STOP_AT"),
            60..75 => Some("NIGHTCAP_KILL_AT"),
            _ => None,
        };
        command.envs(fault.map(|fault| (fault, &at)));
        let impatient = dice.percent(70);
        if impatient {
            command.env(IMPATIENT.0, IMPATIENT.1);
        }
        let log = self.place.workplace.path(&format!("log-{output}-{number}"));
        let child = command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let fault = fault.map(|fault| format!(" {fault}={at}")).unwrap_or_default();
        let patience = if impatient { ", impatient" } else { "" };
        let what = format!("{name} {}{fault}{patience}", arguments.join(" "));
        let anonymous = !arguments.contains(&"--run-id");
        Actor { what, anonymous, child, log, killed: false, stopped: false }
    }

    /// Round `number`; what was wrong in it.
    fn round(&mut self, number: usize) -> Vec<String> {
        let (mut dice, output) = (Dice::new(number as u64), format!("round-{number}"));
        // Most rounds are about one run, so that commands meet.
        let (actions, beginnings) = match dice.below(4) {
            0 | 1 => (&ACTIONS[3..11], &BEGINNINGS[2..4]),
            2 => (&ACTIONS[11..], &BEGINNINGS[1..]),
            _ => (&ACTIONS[..], &BEGINNINGS[..]),
        };
        let beginning = *dice.one_of(beginnings);
        if beginning == "empty" {
            std::fs::create_dir_all(self.place.workplace.path(&output)).unwrap();
        } else {
            self.place.copy(beginning, &output);
        }
        let mut seen = self.look(&output);
        let (mut faults, mut story) = (Vec::new(), vec![format!("begins with `{beginning}`")]);
        let (mut actors, mut done): (Vec<Actor>, Vec<(Actor, char)>) = (Vec::new(), Vec::new());
        let mut left = 2 + dice.below(3);
        for event in 0.. {
            if left > 0 && (actors.is_empty() || event >= MOST_EVENTS || dice.percent(60)) {
                left -= 1;
                let actor = self.start(&output, left, actions, &mut dice);
                story.push(format!("{left}: {}", actor.what));
                actors.push(actor);
                self.hits.commands += 1;
            }
            std::thread::sleep(Duration::from_millis(dice.below(80) as u64));
            self.notice(&mut actors, &mut done);
            if left == 0 && (actors.is_empty() || event >= MOST_EVENTS) {
                break;
            }
            match dice.below(100) {
                0..25 => Self::signal(&mut actors, &mut dice, Signal::STOP, &mut story),
                25..32 => Self::signal(&mut actors, &mut dice, Signal::KILL, &mut story),
                32..50 => Self::signal(&mut actors, &mut dice, Signal::CONT, &mut story),
                50..65 => self.freeze(&output, &mut actors, &mut seen, &mut faults),
                _ => {}
            }
        }
        self.let_go(&mut actors, &mut done, &mut dice, &mut faults);
        for (actor, _) in &mut done {
            faults.extend(judge(actor));
        }
        faults.extend(self.calm(&output, &seen));
        self.hits.rounds += 1;
        self.place.forget(&output);
        let logs = || done.iter().map(|(actor, _)| format!("\n    {}\n{}", actor.what, indented(&actor.log)));
        if !faults.is_empty() {
            faults.push(format!("it {}{}", story.join("; "), logs().collect::<String>()));
        }
        for (actor, _) in &done {
            let _ = std::fs::remove_file(&actor.log);
        }
        faults
    }

    /// Looks which processes have ended or stand still.
    fn notice(&mut self, actors: &mut Vec<Actor>, done: &mut Vec<(Actor, char)>) {
        let standing = actors.iter().filter(|actor| actor.stopped).count();
        for place in (0..actors.len()).rev() {
            match state(&actors[place].child) {
                'T' if !actors[place].stopped => {
                    actors[place].stopped = true;
                    self.hits.suspended += 1;
                }
                'Z' => {
                    let mut actor = actors.remove(place);
                    let status = actor.child.wait().unwrap();
                    actor.killed = status.code().is_none();
                    self.hits.killed += usize::from(actor.killed);
                    self.hits.overtaken += usize::from(status.success() && standing > usize::from(actor.stopped));
                    done.push((actor, 'Z'));
                }
                _ => {}
            }
        }
    }

    /// Sends a signal to one of the processes that it concerns.
    fn signal(actors: &mut [Actor], dice: &mut Dice, signal: Signal, story: &mut Vec<String>) {
        let standing = signal == Signal::CONT;
        let mut concerned: Vec<_> = actors.iter_mut().filter(|actor| actor.stopped == standing).collect();
        if concerned.is_empty() {
            return;
        }
        let place = dice.below(concerned.len());
        let actor = &mut *concerned[place];
        send(&actor.child, signal);
        if standing {
            actor.stopped = false;
        }
        story.push(format!("{signal:?} to {}", actor.what));
    }

    /// Suspends everything for a moment, in which each published row has to be readable.
    fn freeze(&mut self, output: &str, actors: &mut [Actor], seen: &mut Seen, faults: &mut Vec<String>) {
        let running: Vec<_> = actors.iter().filter(|actor| !actor.stopped).collect();
        for actor in &running {
            send(&actor.child, Signal::STOP);
        }
        let begun = Instant::now();
        while !running.iter().all(|actor| ['T', 'Z'].contains(&state(&actor.child))) {
            assert!(begun.elapsed() < PATIENCE, "a process cannot be suspended");
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.place.is_remote() {
            // What was sent before may still be on its way.
            std::thread::sleep(Duration::from_millis(30));
        }
        let folder = self.place.snapshot(output);
        let now = self.readers.look(&folder);
        for actor in &running {
            send(&actor.child, Signal::CONT);
        }
        self.hits.looks += 1;
        faults.extend(
            [now.faults(), now.lost_since(seen)].concat().into_iter().map(|fault| format!("on the way, {fault}")),
        );
        *seen = now;
    }

    /// Lets every process go on to its end, those that stand still one after the other.
    fn let_go(
        &mut self,
        actors: &mut Vec<Actor>,
        done: &mut Vec<(Actor, char)>,
        dice: &mut Dice,
        faults: &mut Vec<String>,
    ) {
        let begun = Instant::now();
        let mut since = Instant::now();
        while !actors.is_empty() {
            let busy = actors.iter().any(|actor| !actor.stopped);
            if !busy || since.elapsed() > Duration::from_secs(1) {
                Self::signal(actors, dice, Signal::CONT, &mut Vec::new());
                since = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(2));
            self.notice(actors, done);
            if begun.elapsed() > PATIENCE {
                for mut actor in actors.drain(..) {
                    faults.push(format!("`{}` does not end", actor.what));
                    actor.child.kill().unwrap();
                    actor.child.wait().unwrap();
                }
            }
        }
    }

    /// What is wrong with an OUTPUT after all commands on it have ended, and after the calm ones that follow.
    fn calm(&mut self, output: &str, then: &Seen) -> Vec<String> {
        let now = self.look(output);
        let mut faults = [now.faults(), now.lost_since(then)].concat();
        let ends =
            |mut command: Command, what: &str| ended(&format!("afterwards, {what}"), &command.output().unwrap(), &[0]);
        faults.extend(ends(self.place.run(output, &[]), "`run`"));
        faults.extend(ends(self.place.on(output, "status", &["--check"]), "`status --check`"));
        let complete = self.look(output);
        faults.extend([complete.faults(), complete.lost_since(&now)].concat());
        if complete.captions() != self.expected {
            faults.push(format!("afterwards, `run` has not made every row: {} of {ROWS}", complete.newest.len()));
        }
        if self.hits.rounds.is_multiple_of(4) {
            faults.extend(ends(self.place.run(output, &[]), "`run` once more"));
            if self.look(output).runs() != complete.runs() {
                faults.push("`run` once more publishes a run, though nothing is new".to_owned());
            }
        }
        faults.extend(ends(self.place.on(output, "compact", &[]), "`compact`"));
        faults.extend(ends(self.place.on(output, "status", &["--check"]), "`status --check` of the compacted"));
        let compacted = self.look(output);
        faults.extend([compacted.faults(), compacted.lost_since(&complete)].concat());
        if compacted.newest != complete.newest {
            faults.push("`compact` has changed the newest rows".to_owned());
        }
        faults
    }
}

fn indented(log: &std::path::Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.lines().flat_map(|line| ["        ", line, "\n"]).collect()
}

/// What is wrong with how a process ended.
fn judge(actor: &mut Actor) -> Option<String> {
    if actor.killed {
        return None;
    }
    // It was waited for; this gives the same status again.
    let (status, log) = (actor.child.wait().unwrap(), std::fs::read_to_string(&actor.log).unwrap());
    let code = status.code().unwrap();
    let allowed: &[i32] = if actor.anonymous { &[0, 75] } else { &[0, 2, 75] };
    let wrong = if !allowed.contains(&code) {
        format!("ends with {code}")
    } else if log.contains("panicked") || log.contains("internal error") {
        "panics".to_owned()
    } else if actor.anonymous && log.contains("another --run-id") {
        "asks for another --run-id, though it was given none".to_owned()
    } else {
        return None;
    };
    let error = log.lines().find(|line| line.starts_with("error")).unwrap_or_default();
    Some(format!("`{}` {wrong}: {error}", actor.what))
}

/// So many rounds, or the one that is asked for; fails if one of them went wrong, or if too little happened in them.
fn torture(remote: Option<&str>, count: usize) {
    let Some(mut arena) = Arena::new(remote) else { return };
    let begun = Instant::now();
    let asked = std::env::var("NIGHTCAP_TORTURE_ROUND").ok().map(|round| round.parse::<usize>().unwrap());
    let numbers = asked.map_or(0..count, |round| round..round + 1);
    let mut wrong = Vec::new();
    for number in numbers {
        let faults = arena.round(number);
        if !faults.is_empty() {
            wrong.push(format!("round {number}:\n  {}", faults.join("\n  ")));
        }
    }
    let hits = arena.hits;
    println!("{}: {hits:?} in {:.0?}", if remote.is_some() { "S3" } else { "disk" }, begun.elapsed());
    assert!(wrong.is_empty(), "{} of {} rounds went wrong\n{}", wrong.len(), hits.rounds, wrong.join("\n"));
    if asked.is_none() {
        // Of few rounds, only the first is certain.
        let often = hits.suspended >= count.div_ceil(2) && hits.killed >= count / 8 && hits.overtaken >= count / 8;
        assert!(often && hits.looks >= count / 8, "too little happened: {hits:?}");
    }
}

#[test]
fn commands_that_meet_on_disk() {
    torture(None, rounds(6, 20));
}

#[test]
fn commands_that_meet_on_s3() {
    torture(Some("torture"), rounds(2, 6));
}
