//! One seed: an OUTPUT with a history, commands that meet on it in an order that the seed decides, and calm at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::commands::{Command, Ending, execute, output};
use super::ledger::{Broken, Fault};
use super::nights::{Night, nights};
use super::random::Random;
use super::world::{Answer, Effect, Operation, Phase, Verdict, World};

/// After so many turns the scheduler is kind, so that every scenario ends.
const MOST_TURNS: u64 = 4000;
/// The ids that users give.
const IDS: [&str; 3] = ["weekly", "half", "other"];
/// The most runs that it takes to finish what commands have left behind.
const MOST_LEFTOVERS: usize = 8;

/// What the commands of a scenario have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Compactions,
    /// Of one unfinished run.
    Endings,
    Shards,
    Nights,
    Any,
}

impl Theme {
    const ALL: [Self; 6] = [Self::Compactions, Self::Endings, Self::Endings, Self::Shards, Self::Nights, Self::Any];
}

/// The result of a seed.
pub struct Report {
    pub faults: Vec<Fault>,
    pub schedule: Vec<String>,
    pub turns: u64,
}

/// How often a scheduler does what, of 1000 turns.
struct Temper {
    /// Goes on with the same process.
    stay: u64,
    suspend: u64,
    crash: u64,
    lose: u64,
    jump: u64,
    land: u64,
}

impl Temper {
    fn draw(random: &mut Random) -> Self {
        Self {
            stay: *random.pick(&[0, 500, 800, 950]),
            suspend: *random.pick(&[0, 10, 30, 60]),
            crash: *random.pick(&[0, 0, 5, 15]),
            lose: *random.pick(&[0, 0, 10, 30]),
            jump: *random.pick(&[0, 5, 20]),
            land: *random.pick(&[20, 100]),
        }
    }
}

struct Scenario {
    world: Arc<World>,
    random: Random,
    /// How each process ended.
    endings: Vec<(String, Ending)>,
}

/// Plays the scenario of `seed`.
pub fn play(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let world = Arc::new(World::new(seed, random.chance(500)));
    let mut scenario = Scenario { world, random, endings: Vec::new() };
    let theme = *scenario.random.pick(&Theme::ALL);
    scenario.history(theme);
    let commands = scenario.commands(theme);
    let turns = scenario.race(&commands);
    scenario.calm();
    let mut state = scenario.world.lock();
    Report { faults: std::mem::take(&mut state.ledger.faults), schedule: std::mem::take(&mut state.schedule), turns }
}

impl Scenario {
    /// What happened on OUTPUT before: runs that were published, and perhaps one that was left unfinished.
    fn history(&mut self, theme: Theme) {
        let published = if theme == Theme::Compactions { 2 } else { self.random.below(3) };
        for night in &nights()[..published] {
            let id = *self.random.pick(&[None, None, Some("half"), Some("weekly")]);
            let _ = self.now(Command::Run { night, id });
        }
        if theme == Theme::Endings || self.random.chance(400) {
            let night = &nights()[published.min(2)];
            let id = *self.random.pick(&[Some("half"), Some("half"), Some("other"), None]);
            let steps = 25 + self.random.below(30);
            self.interrupted(Command::Run { night, id }, steps);
            self.world.advance(*self.random.pick(&[Duration::from_secs(5), Duration::from_mins(2)]));
        }
    }

    /// The commands that meet: several that fit together, or any.
    fn commands(&mut self, theme: Theme) -> Vec<Command> {
        let id = *self.random.pick(&IDS);
        let mut commands = Vec::new();
        for _ in 0..2 + self.random.below(3) {
            let night = self.night();
            let some = *self.random.pick(&[None, Some(id)]);
            let id = if self.random.chance(700) { "half" } else { id };
            let shard = Command::Shard { night, id, index: self.random.number() % 2, count: 2 };
            let choices = match theme {
                Theme::Compactions => {
                    vec![Command::Compact { id: some }, Command::Compact { id: some }, Command::Run { night, id: None }]
                }
                Theme::Endings => vec![
                    Command::Discard { id },
                    Command::Close { id },
                    Command::Run { night, id: Some(id) },
                    Command::Run { night, id: None },
                ],
                Theme::Shards => {
                    vec![shard, shard, Command::Finalize { id }, Command::Discard { id }, Command::Close { id }]
                }
                Theme::Nights => vec![
                    Command::Run { night, id: None },
                    Command::Run { night, id: some },
                    Command::Compact { id: None },
                ],
                Theme::Any => vec![
                    Command::Run { night, id: some },
                    shard,
                    Command::Finalize { id },
                    Command::Close { id },
                    Command::Discard { id },
                    Command::Compact { id: some },
                    Command::Status,
                    Command::Read,
                ],
            };
            commands.push(*self.random.pick(&choices));
        }
        commands
    }

    fn night(&mut self) -> &'static Night {
        self.random.pick(nights())
    }

    /// Runs `command` alone, to its end.
    fn now(&mut self, command: Command) -> Result<Ending, String> {
        let process = self.world.add(&command.to_string());
        let name = format!("P{process} {command}");
        self.world.lock().note(&name, "starts");
        let store = output(&self.world, process);
        let ending = execute(command, &store).map_err(|error| error.to_string());
        self.world.end(process, &format!("{ending:?}"));
        ending
    }

    /// Runs `command` alone until it is killed after `steps` turns.
    fn interrupted(&mut self, command: Command, steps: usize) {
        let (process, thread) = self.start(command);
        for _ in 0..steps {
            self.world.settle();
            if self.turn_of(process).is_none() {
                break;
            }
            self.world.grant(process, Verdict::DO);
        }
        if self.turn_of(process).is_some() {
            self.world.grant(process, Verdict::DEAD);
        }
        self.world.settle();
        self.endings.extend(thread.join().unwrap());
    }

    fn turn_of(&self, process: usize) -> Option<Operation> {
        match &self.world.lock().processes[process].phase {
            Phase::Waiting(operation) => Some(operation.clone()),
            _ => None,
        }
    }

    fn start(&self, command: Command) -> (usize, std::thread::JoinHandle<Option<(String, Ending)>>) {
        let process = self.world.add(&command.to_string());
        let (world, name) = (self.world.clone(), format!("P{process} {command}"));
        let thread = std::thread::spawn(move || {
            world.turn(process, Operation::Start);
            let work = || {
                let store = output(&world, process);
                execute(command, &store).map_err(|error| error.to_string().replace('\n', " "))
            };
            let ending = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("a panic".to_owned()));
            world.end(process, &format!("{ending:?}"));
            let crashed = world.lock().processes[process].crashed;
            ending.ok().filter(|_| !crashed).map(|ending| (name, ending))
        });
        (process, thread)
    }

    /// Lets `commands` meet; returns the number of turns.
    fn race(&mut self, commands: &[Command]) -> u64 {
        let temper = Temper::draw(&mut self.random);
        let started: Vec<_> = commands.iter().map(|command| self.start(*command)).collect();
        let (processes, threads): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let (mut turns, mut last) = (0, None);
        loop {
            self.world.settle();
            turns += 1;
            let alive: Vec<usize> = processes.iter().copied().filter(|one| self.turn_of(*one).is_some()).collect();
            if alive.is_empty() {
                break;
            }
            self.wake(&alive, turns);
            let awake: Vec<usize> =
                alive.into_iter().filter(|one| self.world.lock().processes[*one].suspended.is_none()).collect();
            let calm = turns > MOST_TURNS;
            if !calm && self.disturb(&temper, &awake, turns) {
                continue;
            }
            let stays = last.filter(|last| awake.contains(last) && self.random.chance(temper.stay));
            let process = stays.unwrap_or_else(|| *self.random.pick(&awake));
            last = Some(process);
            let Some(operation) = self.turn_of(process) else { continue };
            let verdict = if calm { Verdict::DO } else { self.verdict(&temper, &operation) };
            self.world.advance(operation.time());
            if matches!(operation, Operation::Start | Operation::Sleep(_)) && verdict != Verdict::DEAD {
                self.world.grant(process, Verdict::DO);
            } else {
                self.world.grant(process, verdict);
            }
        }
        for thread in threads {
            self.endings.extend(thread.join().unwrap());
        }
        turns
    }

    /// Ends suspensions whose time has come; if all processes are suspended, one of them.
    fn wake(&mut self, alive: &[usize], turn: u64) {
        let mut state = self.world.lock();
        for &process in alive {
            if state.processes[process].suspended.is_some_and(|until| until <= turn) {
                state.processes[process].suspended = None;
                let name = state.processes[process].name.clone();
                state.note(&name, "goes on");
            }
        }
        if alive.iter().all(|one| state.processes[*one].suspended.is_some()) {
            let process = alive[self.random.below(alive.len())];
            state.processes[process].suspended = None;
            let name = state.processes[process].name.clone();
            state.note(&name, "goes on");
        }
    }

    /// Perhaps something else than an operation happens.
    fn disturb(&mut self, temper: &Temper, awake: &[usize], turn: u64) -> bool {
        if self.random.chance(temper.suspend) {
            let process = *self.random.pick(awake);
            let until = turn + 5 + self.random.below(250) as u64;
            {
                let mut state = self.world.lock();
                state.processes[process].suspended = Some(until);
                let name = state.processes[process].name.clone();
                state.note(&name, "is suspended");
            }
            let pause = *self.random.pick(&[Duration::ZERO, Duration::from_secs(70), Duration::from_hours(2)]);
            self.world.advance(pause);
            return true;
        }
        if self.random.chance(temper.jump) {
            let time = *self.random.pick(&[1, 20, 70, 3000]);
            self.world.lock().note("time", &format!("{time} s pass"));
            self.world.advance(Duration::from_secs(time));
            return true;
        }
        let late = self.world.lock().late.len();
        if late > 0 && self.random.chance(temper.land) {
            let request = self.world.lock().late.swap_remove(self.random.below(late));
            self.world.land(request);
            return true;
        }
        false
    }

    fn verdict(&mut self, temper: &Temper, operation: &Operation) -> Verdict {
        let effect = *self.random.pick(&[Effect::Now, Effect::Never, Effect::Later]);
        let writes = matches!(operation, Operation::Put(_) | Operation::Delete(_));
        let effect = if writes { effect } else { Effect::Never };
        if self.random.chance(temper.crash) {
            return Verdict { effect, answer: Answer::Crash };
        }
        if writes && self.random.chance(temper.lose) {
            return Verdict { effect, answer: Answer::Timeout };
        }
        Verdict::DO
    }

    /// Everything has ended; what is still on its way arrives. Then a run makes what is missing, twice, with a compaction between.
    fn calm(&mut self) {
        self.world.advance(Duration::from_hours(3));
        loop {
            let Some(request) = self.world.lock().late.pop() else { break };
            self.world.land(request);
        }
        self.world.advance(Duration::from_hours(3));
        self.compare_endings();
        let night = self.night();
        let run = Command::Run { night, id: None };
        // Each run may go on with, or close, an unfinished one that is older than what was published since.
        let is_over = (0..MOST_LEFTOVERS).any(|_| self.succeeds(run) == Some(Ending::Nothing));
        if !is_over {
            self.fault(Broken::NotUpToDate, "", format!("{MOST_LEFTOVERS} runs did not finish what was left over"));
        }
        self.compare_with(night);
        self.succeeds(Command::Compact { id: None });
        self.compare_with(night);
        if self.succeeds(run) != Some(Ending::Nothing) {
            self.fault(Broken::NotUpToDate, "compaction", "rows are new again after a compaction".to_owned());
        }
        match self.now(Command::Status) {
            Ok(Ending::Nothing) => {}
            found => self.fault(Broken::CheckFinds, "", format!("status --check: {found:?}")),
        }
    }

    /// Runs a command alone, as often as it says that it can succeed later.
    fn succeeds(&mut self, command: Command) -> Option<Ending> {
        let mut ending = self.now(command);
        for _ in 0..2 {
            if ending.is_err() {
                self.world.advance(Duration::from_mins(5));
                ending = self.now(command);
            }
        }
        let error = match ending {
            Ok(ending) => return Some(ending),
            Err(error) => error,
        };
        let compacts = matches!(command, Command::Compact { .. });
        let kind = if compacts { Broken::CompactFails } else { Broken::RunFails };
        self.fault(kind, "", format!("{command}: {error}"));
        None
    }

    fn fault(&self, kind: Broken, subject: &str, what: String) {
        let mut state = self.world.lock();
        let step = state.schedule.len();
        state.ledger.fault(kind, subject, what, step);
    }

    /// Every row of the manifest is in the views, up to date.
    fn compare_with(&self, night: &Night) {
        let newest = self.world.lock().ledger.newest();
        for (key, text) in night.rows() {
            let found = newest.get(*key).map(|row| row.text.clone());
            if found.as_deref() != Some(*text) {
                let what = format!("the newest row of {key} has the text {found:?}, the manifest {text:?}");
                self.fault(Broken::NotUpToDate, "", what);
            }
        }
    }

    /// What commands have told their users is true, and the same for all.
    fn compare_endings(&mut self) {
        for (name, ending) in std::mem::take(&mut self.endings) {
            let (run, said) = match ending {
                Ending::Lost(what) => {
                    self.fault(Broken::ReaderLost, "", format!("{name} did not find {what}"));
                    continue;
                }
                Ending::Published(run) => (run, "published"),
                Ending::Closed(run) => (run, "partial"),
                Ending::Discarded(run) => (run, "discarded"),
                Ending::Nothing | Ending::Findings(_) => continue,
            };
            let (counted, decided) = {
                let ledger = &self.world.lock().ledger;
                (ledger.counted(&run), ledger.outcome(&run))
            };
            if counted == (said == "discarded") {
                let what = format!("{name} said that {run} is {said}; whether it was ever published: {counted}");
                self.fault(Broken::Contradiction, &run, what);
            }
            // A closed run whose parts have all arrived is published whole.
            let agrees = |decided: &str| (decided == "discarded") == (said == "discarded");
            if !decided.as_deref().is_some_and(agrees) {
                let what = format!("{name} said that {run} is {said}, the outcome is {decided:?}");
                self.fault(Broken::NotDecided, &run, what);
            }
        }
    }
}
