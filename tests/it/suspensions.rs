//! A command that is suspended anywhere, as its machine would be, while other commands work on the same OUTPUT, and that goes on
//! when they have ended: on disk and on S3, nothing that was published is lost, and every row is read once.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output};

use crate::common::{Workplace, go_on, killed_at, rounds, try_stopped_at};
use crate::place::{IMPATIENT, Place, ended, succeeded};
use crate::readers::python;
use crate::storage::text;
use crate::views::{Readers, Seen};

/// Rows of the manifest, in parts of two.
const ROWS: u32 = 12;
/// The settings of another job on the same OUTPUT.
const OTHER_JOB: [&str; 2] = ["--set", "generation.max_new_tokens=3"];
/// Every place in a command that changes OUTPUT; a command reaches some of them, each several times. The number says which time is
/// tried first where not every one is.
const POINTS: [(&str, usize); 7] = [
    ("after_published_listing", 2),
    ("before_put", 1),
    ("after_put", 3),
    ("before_delete", 2),
    ("before_index", 1),
    ("before_publish", 1),
    ("before_part", 1),
];

/// A command on an OUTPUT of this name.
type On<'a> = &'a dyn Fn(&Place, &str) -> Command;

/// A place, the readers, and what was seen of the suspensions in it.
struct Scene {
    place: Place,
    readers: Readers,
    /// The captions of an undisturbed run.
    expected: BTreeMap<String, Option<String>>,
    /// Every so manieth place is tried.
    stride: usize,
    hit: usize,
    faults: Vec<String>,
}

impl Scene {
    /// With two outputs to copy: `nights`, two published runs; and `half`, one published run and the run `half`, which was killed
    /// after three of its six parts. None if readers are missing.
    fn new(remote: Option<&str>) -> Option<Self> {
        let readers = Readers::start(&python()?);
        let workplace = Workplace::with_images(ROWS, 2);
        let place = Place::new(workplace, remote);
        // `make torture` tries every place.
        let stride = rounds(if place.is_remote() { 15 } else { 7 }, 0).max(1);
        let mut scene = Self { place, readers, expected: BTreeMap::new(), stride, hit: 0, faults: Vec::new() };
        let run = |name: &str, arguments: &[&str]| succeeded(&mut scene.place.run(name, arguments));
        run("nights", &["--run-id", "monday"]);
        run("nights", &["--run-id", "tuesday", "--full", "--limit", "5"]);
        run("half", &["--run-id", "monday", "--limit", "4"]);
        killed_at(&mut scene.place.run("half", &HALF), "after_part:3");
        let (nights, half) = (scene.look("nights"), scene.look("half"));
        assert_eq!((nights.faults(), nights.newest.len()), (Vec::new(), ROWS as usize));
        assert_eq!((half.faults(), half.newest.len()), (Vec::new(), 4), "the run `half` is not published");
        scene.expected = nights.captions();
        Some(scene)
    }

    fn look(&mut self, name: &str) -> Seen {
        let folder = self.place.snapshot(name);
        self.readers.look(&folder)
    }

    /// Suspends `slow` at every place that it reaches on a copy of the OUTPUT `from`, lets `others` happen, lets `slow` go on if
    /// they have not done so, and checks the OUTPUT. `others` may say what is wrong with how they, or `slow`, ended.
    fn suspend(
        &mut self,
        from: &str,
        what: &str,
        slow: On<'_>,
        others: &dyn Fn(&mut Self, &str, Child) -> Vec<String>,
    ) {
        let before = self.hit;
        for (point, first) in POINTS {
            for count in (first.min(self.stride)..).step_by(self.stride) {
                let (at, output) = (format!("{point}:{count}"), format!("{what}-{point}-{count}").replace(' ', "-"));
                self.place.copy(from, &output);
                let then = self.look(&output);
                let Ok(suspended) = try_stopped_at(&mut slow(&self.place, &output), &at) else {
                    self.place.forget(&output);
                    break;
                };
                self.hit += 1;
                let mut faults = others(self, &output, suspended);
                faults.extend(self.settled(&output, &then));
                self.faults.extend(faults.into_iter().map(|fault| format!("{what}, suspended at {at}: {fault}")));
                self.place.forget(&output);
            }
        }
        assert!(self.hit > before, "{what}: it was never suspended");
    }

    /// What is wrong with an OUTPUT after all commands on it have ended.
    fn settled(&mut self, output: &str, then: &Seen) -> Vec<String> {
        let now = self.look(output);
        let mut faults = [now.faults(), now.lost_since(then)].concat();
        let ends =
            |mut command: Command, what: &str| ended(&format!("afterwards, {what}"), &command.output().unwrap(), &[0]);
        faults.extend(ends(self.place.on(output, "status", &["--check"]), "`status --check`"));
        // It takes longer than everything else.
        if self.stride > 1 && !self.hit.is_multiple_of(3) {
            return faults;
        }
        faults.extend(ends(self.place.run(output, &[]), "`run`"));
        faults.extend(ends(self.place.on(output, "status", &["--check"]), "`status --check` of the complete"));
        let complete = self.look(output);
        faults.extend([complete.faults(), complete.lost_since(&now)].concat());
        if complete.captions() != self.expected {
            faults.push(format!("afterwards, `run` has not made every row: {} of {ROWS}", complete.newest.len()));
        }
        faults
    }
}

/// The run `half`: all rows once more.
const HALF: [&str; 3] = ["--run-id", "half", "--full"];

/// A command for which every process that stands still is dead.
fn impatient(mut command: Command) -> Output {
    command.env(IMPATIENT.0, IMPATIENT.1).output().unwrap()
}

/// Where each test is made.
fn on_both(name: &str, test: impl Fn(&mut Scene)) {
    let mut wrong = Vec::new();
    for remote in [None, Some(name)] {
        let Some(mut scene) = Scene::new(remote) else { return };
        test(&mut scene);
        let (place, faults) = (if remote.is_some() { "S3" } else { "disk" }, scene.faults);
        println!("{name}: {} suspensions on {place}, {} faults", scene.hit, faults.len());
        wrong.extend(faults.into_iter().map(|fault| format!("on {place}: {fault}")));
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_compaction_while_another_one_of_its_name_is_made() {
    on_both("compact-twice", |scene| {
        for id in [&["--run-id", "weekly"][..], &[]] {
            let slow = |place: &Place, output: &str| place.on(output, "compact", id);
            scene.suspend("nights", &format!("compact{}", id.len()), &slow, &|scene, output, slow| {
                let second = impatient(scene.place.on(output, "compact", id));
                let statuses = if id.is_empty() { &[0, 75][..] } else { &[0, 2, 75] };
                let mut faults = ended("the second `compact`", &second, statuses);
                faults.extend(scene.look(output).faults());
                faults.extend(ended("the suspended `compact`", &go_on(slow), statuses));
                faults
            });
        }
    });
}

#[test]
fn a_compaction_while_a_run_is_made_and_compacted() {
    on_both("compact-run", |scene| {
        let slow = |place: &Place, output: &str| place.on(output, "compact", &[]);
        scene.suspend("nights", "compact", &slow, &|scene, output, slow| {
            let run = impatient(scene.place.run(output, &["--full", "--limit", "3"]));
            let second = impatient(scene.place.on(output, "compact", &[]));
            let mut faults = ended("`run`", &run, &[0]);
            faults.extend(ended("the second `compact`", &second, &[0, 75]));
            faults.extend(ended("the suspended `compact`", &go_on(slow), &[0, 75]));
            faults
        });
    });
}

#[test]
fn a_discard_while_its_run_is_completed() {
    on_both("discard-run", |scene| {
        for run in [&HALF[..], &["--full"]] {
            let slow = |place: &Place, output: &str| place.on(output, "discard", &["--run-id", "half"]);
            scene.suspend("half", &format!("discard{}", run.len()), &slow, &|scene, output, slow| {
                let made = impatient(scene.place.run(output, run));
                // Under the name of a run that was discarded in the meantime, nothing is made.
                let mut faults = ended("`run`", &made, if run.len() == 1 { &[0][..] } else { &[0, 2] });
                faults.extend(scene.look(output).faults());
                faults.extend(ended("`discard`", &go_on(slow), &[0, 2, 75]));
                faults
            });
        }
    });
}

#[test]
fn finalize_partial_and_discard_of_one_run() {
    on_both("partial-discard", |scene| {
        let partial = |place: &Place, output: &str| place.on(output, "finalize", &["--run-id", "half", "--partial"]);
        let discard = |place: &Place, output: &str| place.on(output, "discard", &["--run-id", "half"]);
        let orders: [(&str, On<'_>, On<'_>); 2] = [("discard", &discard, &partial), ("partial", &partial, &discard)];
        for (what, slow, quick) in orders {
            scene.suspend("half", what, slow, &|scene, output, slow| {
                let quick = impatient(quick(&scene.place, output));
                let mut faults = ended("the other", &quick, &[0, 2, 75]);
                faults.extend(scene.look(output).faults());
                let slow = go_on(slow);
                faults.extend(ended("the suspended one", &slow, &[0, 2, 75]));
                if slow.status.success() && quick.status.success() {
                    faults.push("both say that they have done it".to_owned());
                }
                faults
            });
        }
    });
}

/// How a run is closed that a process works on: by another job, or by a person.
fn closers() -> [(&'static str, On<'static>); 2] {
    [
        ("job", &|place, output| place.run(output, &OTHER_JOB)),
        ("partial", &|place, output| place.on(output, "finalize", &["--run-id", "half", "--partial"])),
    ]
}

/// The workers of the run `half`: one that publishes it in the end, and a shard that has some of its parts to make.
const WORKERS: [&[&str]; 2] = [&[], &["--shard", "1/2"]];

#[test]
fn a_worker_while_its_run_is_closed() {
    on_both("late-parts", |scene| {
        for ((closer, close), shard) in closers().iter().flat_map(|closer| WORKERS.map(|shard| (closer, shard))) {
            let worker = |place: &Place, output: &str| place.run(output, &[&HALF[..], shard].concat());
            scene.suspend("half", &format!("{closer}{}", shard.len()), &worker, &|scene, output, slow| {
                let closed = impatient(close(&scene.place, output));
                let mut faults = ended("the closing command", &closed, &[0]);
                let then = scene.look(output);
                faults.extend(then.faults());
                faults.extend(ended("the late worker", &go_on(slow), &[0, 2, 75]));
                faults.extend(scene.look(output).lost_since(&then));
                faults
            });
        }
    });
}

#[test]
fn a_worker_that_is_killed_after_its_late_put() {
    on_both("late-killed", |scene| {
        for (closer, close) in closers() {
            for count in 1..=3 {
                // It is suspended before it puts a part, and killed as soon as it has.
                let worker = move |place: &Place, output: &str| {
                    let mut command = place.run(output, &HALF);
                    command.env("NIGHTCAP_KILL_AT", format!("after_put:{count}"));
                    command
                };
                let output = format!("killed-{closer}-{count}");
                scene.place.copy("half", &output);
                let then = scene.look(&output);
                let slow = try_stopped_at(&mut worker(&scene.place, &output), &format!("before_put:{count}")).unwrap();
                scene.hit += 1;
                let closed = impatient(close(&scene.place, &output));
                let mut faults = ended("the closing command", &closed, &[0]);
                let late = go_on(slow);
                assert_eq!(late.status.code(), None, "it was not killed: {}", text(&late.stderr));
                faults.extend(scene.settled(&output, &then));
                scene.faults.extend(faults.into_iter().map(|fault| format!("{output}: {fault}")));
            }
        }
    });
}

#[test]
fn a_closing_command_while_the_worker_goes_on() {
    on_both("closing", |scene| {
        for ((closer, close), shard) in closers().iter().flat_map(|closer| WORKERS.map(|shard| (closer, shard))) {
            let slow = |place: &Place, output: &str| {
                let mut command = close(place, output);
                command.env(IMPATIENT.0, IMPATIENT.1);
                command
            };
            let what = format!("{closer}{}", shard.len());
            scene.suspend("half", &what, &slow, &|scene, output, slow| {
                let worker = scene.place.run(output, &[&HALF[..], shard].concat()).output().unwrap();
                let mut faults = ended("the worker", &worker, &[0, 2, 75]);
                faults.extend(scene.look(output).faults());
                let statuses = if *closer == "job" { &[0, 75][..] } else { &[0, 2, 75] };
                faults.extend(ended("the closing command", &go_on(slow), statuses));
                faults
            });
        }
    });
}
