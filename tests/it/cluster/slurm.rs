//! `jobs/slurm` on real Slurm: a controller and two nodes on loopback, as Debian packages them (`slurm-wlm`, `munge`).

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use rustix::process::Signal;
use tokio::net::TcpSocket;

use super::engine::{Held, Process, path_with, processes, succeed, wait_for};
use super::workload::{PARTS, Workload};
use crate::common::{repo, said, skip};
use crate::seaweed::hold_ports;

/// A running cluster. Its processes end with the test.
struct Slurm {
    daemons: Held,
    /// No other process takes a port of the daemons before they listen there.
    _held: [TcpSocket; 3],
}

impl Slurm {
    fn start() -> Option<Self> {
        for program in ["slurmctld", "slurmd", "sbatch", "munged"] {
            let known = |folder: &str| Path::new(folder).join(program).exists();
            if !["/usr/sbin", "/usr/bin"].into_iter().any(known) {
                skip(&format!("{program} is missing: apt-get install slurm-wlm munge"));
                return None;
            }
        }
        if !Held::possible() {
            return None;
        }
        // munged wants a folder that nobody else can write to.
        let folder = tempfile::tempdir().unwrap().keep();
        let held: [TcpSocket; 3] = hold_ports();
        let [controller, first, second] = held.each_ref().map(|socket| socket.local_addr().unwrap().port());
        let host = succeed(Command::new("hostname").arg("-s"));
        let (dir, host) = (folder.display(), host.trim());
        for name in ["state", "spool.n1", "spool.n2"] {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        let mut key = [0; 128];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut key).unwrap();
        std::fs::write(folder.join("munge.key"), key).unwrap();
        succeed(Command::new("chmod").arg("0400").arg(folder.join("munge.key")));
        let node = |name: &str, port: u16| {
            format!(
                "NodeName={name} NodeHostname={host} NodeAddr={} Port={port} CPUs=2 RealMemory=4000 Gres=gpu:1",
                Ipv4Addr::LOCALHOST
            )
        };
        // Preempted jobs get SIGTERM, and GraceTime seconds later they are requeued. A requeued job waits for cred_expire, at first 120 s.
        let configuration = format!(
            "ClusterName=test\nSlurmctldHost={host}({local})\nSlurmctldPort={controller}\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={dir}/munge.sock,cred_expire=5\nCredType=cred/munge\n\
             StateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool.%n\n\
             SlurmctldPidFile={dir}/slurmctld.pid\nSlurmdPidFile={dir}/slurmd.%n.pid\n\
             SlurmctldLogFile={dir}/slurmctld.log\nSlurmdLogFile={dir}/slurmd.%n.log\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nMpiDefault=none\nSwitchType=switch/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nSchedulerType=sched/backfill\n\
             SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0\n\
             CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\nGresTypes=gpu\n\
             PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n\
             ReturnToService=2\nSlurmdTimeout=5\nKillWait=8\nMinJobAge=600\nJobRequeue=1\nSlurmdParameters=config_overrides\n\
             {}\n{}\n\
             PartitionName=night Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10\n\
             PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=2\n",
            node("n1", first),
            node("n2", second),
            local = Ipv4Addr::LOCALHOST,
        );
        std::fs::write(folder.join("slurm.conf"), configuration).unwrap();
        // Only handed out by number; nothing opens it.
        std::fs::write(folder.join("gres.conf"), "NodeName=n[1-2] Name=gpu File=/dev/null\n").unwrap();
        let script = format!(
            "export PATH=$PATH:/usr/sbin SLURM_CONF={dir}/slurm.conf\n\
             munged --foreground --force --key-file={dir}/munge.key --socket={dir}/munge.sock --pid-file={dir}/munged.pid \
             --log-file={dir}/munged.log --seed-file={dir}/munged.seed &\n\
             while [ ! -S {dir}/munge.sock ]; do sleep 0.1; done\n\
             slurmctld -D & slurmd -D -N n1 & slurmd -D -N n2 &"
        );
        let cluster = Self { daemons: Held::start(folder, &script), _held: held };
        cluster.is_idle();
        Some(cluster)
    }

    /// A command of Slurm.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("SLURM_CONF", self.daemons.folder.join("slurm.conf"));
        command
    }

    /// What such a command says.
    fn says(&self, words: &[&str]) -> String {
        succeed(self.command(words[0]).args(&words[1..]))
    }

    /// Waits until both nodes are up and without work.
    fn is_idle(&self) {
        let idle = || {
            let output =
                self.command("sinfo").args(["-h", "-N", "-p", "night", "-t", "idle", "-o", "%N"]).output().ok()?;
            (String::from_utf8_lossy(&output.stdout).lines().count() == 2).then_some(())
        };
        wait_for("two idle nodes", idle, || self.logs());
    }

    fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.daemons.folder.join(name)).unwrap_or_default();
        format!("{}\n{}\n{}\n{}", self.daemons.log(), log("slurmctld.log"), log("slurmd.n1.log"), log("slurmd.n2.log"))
    }

    /// A job's or task's line of `scontrol show job`.
    fn job(&self, id: &str) -> String {
        self.says(&["scontrol", "show", "job", "--oneliner", id])
    }

    /// The state of a job or task, and how often it was started again.
    fn state(&self, id: &str) -> (String, u32) {
        let job = self.job(id);
        let field = |name: &str| job.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap_or_default();
        (field("JobState=").to_owned(), field("Restarts=").parse().unwrap())
    }

    /// Waits until a job or task is over, and says in which state.
    fn is_over(&self, id: &str) -> String {
        let over = || {
            let (state, _) = self.state(id);
            // All others, such as SIGNALING, pass by.
            let ends =
                ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"];
            ends.contains(&state.as_str()).then_some(state)
        };
        wait_for(&format!("the end of job {id}"), over, || format!("{}\n{}", self.job(id), self.logs()))
    }

    /// Ends what runs on a node, and its daemons, as if its power had failed.
    fn kill_node(&self, node: &str) {
        let all = processes();
        let daemon = ["slurmd", "-D", "-N", node];
        let ours =
            |process: &&Process| process.environment("SLURM_CONF").is_some_and(|conf| conf == self.configuration());
        let here: Vec<_> = all.iter().filter(ours).collect();
        let tasks: Vec<_> =
            here.iter().filter(|process| process.environment("SLURMD_NODENAME").as_deref() == Some(node)).collect();
        let parents: Vec<_> = tasks.iter().map(|process| process.parent).collect();
        let stepd = |process: &&Process| process.words[0].starts_with("slurmstepd") && parents.contains(&process.id);
        assert!(!tasks.is_empty() && all.iter().any(|process| stepd(&process)), "nothing runs on {node}");
        for process in here.iter().filter(|process| process.words == daemon) {
            process.send(Signal::KILL);
        }
        for process in all.iter().filter(stepd) {
            process.send(Signal::KILL);
        }
        for process in tasks {
            process.send(Signal::KILL);
        }
    }

    fn configuration(&self) -> String {
        self.daemons.folder.join("slurm.conf").to_str().unwrap().to_owned()
    }
}

/// A night as a user submits it.
struct Night<'a> {
    slurm: &'a Slurm,
    workload: &'a Workload,
    output: &'a str,
}

/// The ids that `submit.sh` prints.
struct Submitted {
    array: String,
    finalize: String,
}

impl Submitted {
    /// Of the last line about a submission.
    fn read(text: &str) -> Self {
        let words: Vec<_> = text.lines().rfind(|line| line.starts_with("run ")).unwrap().split(' ').collect();
        Self { array: words[5].to_owned(), finalize: words[7].to_owned() }
    }

    fn task(&self, index: u32) -> String {
        format!("{}_{index}", self.array)
    }
}

impl Night<'_> {
    /// Calls `submit.sh` with these settings.
    fn call(&self, settings: &[(&str, &str)]) -> Output {
        let mut submit = Command::new(repo("jobs/slurm/submit.sh"));
        submit
            .current_dir(self.workload.workplace.folder.path())
            .env("PATH", path_with(&self.workload.bin()))
            .env("SLURM_CONF", self.slurm.configuration())
            .envs([("SHARDS", "4"), ("CPUS", "1"), ("MEMORY", "100"), ("TIME", "10"), ("OPTIONS", "--mem=100")])
            .env("OUTPUT", self.workload.path(self.output))
            .env("LOGS", self.workload.path(&format!("logs-{}", self.output)))
            .env("NAME", self.output)
            .envs(settings.iter().copied());
        submit.output().unwrap()
    }

    fn submit(&self, settings: &[(&str, &str)]) -> Submitted {
        let output = self.call(settings);
        assert!(output.status.success(), "{}", said(&output));
        Submitted::read(&String::from_utf8(output.stdout).unwrap())
    }

    /// Waits for the end of a job or task, which has to be this one.
    fn ends(&self, id: &str, expected: &str) {
        let state = self.slurm.is_over(id);
        let logs = || {
            let folder = self.workload.workplace.path(&format!("logs-{}", self.output));
            let logs =
                std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
            logs.collect::<Vec<_>>().join("\n")
        };
        assert!(state == expected, "{state}: {}\n{}", self.slurm.job(id), logs());
    }

    fn log(&self, name: &str) -> String {
        let path = self.workload.path(&format!("logs-{}/{name}.log", self.output));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until a worker on this shard has stopped itself.
    fn is_stopped(&self, shard: &str) {
        let words = ["--shard", shard];
        let stopped = |process: &Process| process.state == 'T' && process.words.windows(2).any(|two| two == words);
        let found = || processes().iter().any(|process| stopped(process) && self.is_worker(process)).then_some(());
        let index = shard.split('/').next().unwrap();
        wait_for(&format!("shard {shard} to stop"), found, || self.log(&format!("{}.{index}", self.output)));
    }

    fn is_worker(&self, process: &Process) -> bool {
        process.environment("OUTPUT").is_some_and(|output| output == self.workload.path(self.output))
    }
}

/// The first attempts of these tasks (a pattern of bash) stop themselves before their second part.
fn first_attempts_stop(tasks: &str) -> String {
    format!(
        "case \"${{SLURM_ARRAY_TASK_ID:-}}/${{SLURM_RESTART_COUNT:-0}}/${{ROUND:-}}\" in {tasks}/0/1) export NIGHTCAP_STOP_AT=before_part:2;; esac"
    )
}

#[test]
fn slurm() {
    let Some(slurm) = Slurm::start() else { return };
    a_job_that_is_wrong_ends_at_once(&slurm);
    what_an_earlier_night_left_is_published_first(&slurm);
    a_preempted_task_goes_on_later(&slurm);
    a_cancelled_array_stays_cancelled(&slurm);
    killed_tasks_and_a_lost_node_leave_no_gap(&slurm);
}

/// On nodes whose GPU is only a number, `runtime.devices = ["cuda:0"]` is a wrong job.
fn a_job_that_is_wrong_ends_at_once(slurm: &Slurm) {
    let workload = Workload::new();
    let night = Night { slurm, workload: &workload, output: "gpus" };
    workload.nightcap_does(&format!("echo \"GPU $CUDA_VISIBLE_DEVICES: $*\" >>{}", workload.path("calls")));
    let submitted = night.submit(&[("RUN_ID", "gpus"), ("GPUS", "1"), ("SHARDS", "2")]);
    night.ends(&submitted.finalize, "FAILED");
    assert!(slurm.job(&submitted.finalize).contains("ExitCode=2:0"), "{}", slurm.job(&submitted.finalize));
    for task in [0, 1] {
        assert_eq!(slurm.state(&submitted.task(task)), ("FAILED".to_owned(), 0));
        assert!(slurm.job(&submitted.task(task)).contains("ExitCode=2:0"));
    }
    let calls = std::fs::read_to_string(workload.path("calls")).unwrap();
    assert_eq!(calls.matches("--set runtime.devices=[\"cuda:0\"]").count(), 2, "{calls}");
    assert_eq!(calls.matches("GPU 0: run").count(), 2, "{calls}");
    assert!(!night.log("gpus.finalize").contains("round 2"), "a wrong job is not submitted again");
}

fn what_an_earlier_night_left_is_published_first(slurm: &Slurm) {
    let workload = Workload::new();
    workload.has_a_bad_image();
    workload.leaves("second", "monday", 4);
    workload.leaves("second", "sunday", 0);
    let night = Night { slurm, workload: &workload, output: "second" };
    let submitted = night.submit(&[]);
    night.ends(&submitted.finalize, "COMPLETED");
    let published = workload.workplace.published("second");
    assert_eq!((published.len(), published[0].as_str()), (2, "monday"));
    let rows = |run: &str| workload.workplace.rows("second", Some(run)).len();
    assert_eq!((rows("monday"), rows(&published[1])), (8, 2 * PARTS - 8));
}

fn a_preempted_task_goes_on_later(slurm: &Slurm) {
    let workload = Workload::new();
    let night = Night { slurm, workload: &workload, output: "preempted" };
    workload.nightcap_does(&first_attempts_stop("[01]"));
    let submitted = night.submit(&[("RUN_ID", "preempted"), ("SHARDS", "2"), ("CPUS", "2")]);
    night.is_stopped("0/2");
    night.is_stopped("1/2");
    let again = night.call(&[("RUN_ID", "other")]);
    assert!(again.status.code() == Some(75) && said(&again).contains("still in the queue"), "{}", said(&again));
    let urgent = ["sbatch", "--parsable", "-p", "urgent", "-N2", "-n2", "-c2", "--output=/dev/null", "--wrap", "true"];
    let urgent = slurm.says(&urgent);
    assert_eq!(slurm.is_over(urgent.trim()), "COMPLETED");
    night.ends(&submitted.task(0), "COMPLETED");
    night.ends(&submitted.task(1), "COMPLETED");
}

fn a_cancelled_array_stays_cancelled(slurm: &Slurm) {
    let workload = Workload::new();
    let night = Night { slurm, workload: &workload, output: "cancelled" };
    workload.nightcap_does(&first_attempts_stop("[01]"));
    let submitted = night.submit(&[("RUN_ID", "cancelled"), ("SHARDS", "2")]);
    night.is_stopped("0/2");
    slurm.says(&["scancel", &submitted.array]);
    night.ends(&submitted.finalize, "FAILED");
    assert!(slurm.job(&submitted.finalize).contains("ExitCode=75:0"));
    assert_eq!(slurm.state(&submitted.task(0)), ("CANCELLED".to_owned(), 0));
    assert!(!night.log("cancelled.finalize").contains("round 2"), "{}", night.log("cancelled.finalize"));
    assert_eq!(slurm.says(&["squeue", "--noheader", "--name=cancelled,cancelled-finalize"]), "");
}

/// Five shards of one night: a worker whose node is lost, one that is killed as if memory had run out, a task killed with its script, one
/// that gets the signal before its time is over, and one without trouble.
fn killed_tasks_and_a_lost_node_leave_no_gap(slurm: &Slurm) {
    let workload = Workload::new();
    let night = Night { slurm, workload: &workload, output: "night" };
    let killed = "case \"${SLURM_ARRAY_TASK_ID:-}/${SLURM_RESTART_COUNT:-0}/${ROUND:-}\" in 1/0/1) export NIGHTCAP_KILL_AT=after_part:1;; esac";
    workload.nightcap_does(&format!("{}\n{killed}", first_attempts_stop("[023]")));
    let submitted = night.submit(&[("RUN_ID", "night"), ("SHARDS", "5")]);
    for shard in ["0/5", "2/5", "3/5"] {
        night.is_stopped(shard);
    }

    // Everything of a task is killed at once, its script too, as where the memory of its cgroup runs out.
    let all = processes();
    let of_task = |process: &&Process| {
        process.environment("SLURM_ARRAY_TASK_ID").as_deref() == Some("2") && night.is_worker(process)
    };
    let script = |process: &&Process| process.words.last().is_some_and(|word| word.ends_with("/slurm_script"));
    let task: Vec<_> = all.iter().filter(of_task).collect();
    let script = task.iter().copied().find(script).expect("the script of task 2");
    script.send(Signal::STOP);
    for process in task {
        process.send(Signal::KILL);
    }
    night.ends(&submitted.task(2), "FAILED");
    // As Slurm does it at the end of a task's time, --signal=TERM@60.
    slurm.says(&["scancel", "--signal=TERM", &submitted.task(3)]);
    slurm.says(&["scancel", "--signal=CONT", &submitted.task(3)]);
    let signalled = Instant::now();
    night.ends(&submitted.task(3), "COMPLETED");
    let seconds = signalled.elapsed().as_secs_f32();
    println!("Slurm has made the shard of a task that requeued itself {seconds:.0} s later, with cred_expire=5");
    night.ends(&submitted.task(1), "COMPLETED");
    let node = slurm.says(&["squeue", "--noheader", "-o", "%N", "-j", &submitted.task(0)]);
    slurm.kill_node(node.trim());
    let killed = Instant::now();
    night.ends(&submitted.task(0), "COMPLETED");
    let seconds = killed.elapsed().as_secs_f32();
    println!("Slurm has made the shard of a lost node {seconds:.0} s later, with SlurmdTimeout=5 and cred_expire=5");
    night.ends(&submitted.finalize, "COMPLETED");
    for (task, starts_again) in [(0, 1), (1, 1), (2, 0), (3, 1), (4, 0)] {
        let (state, restarts) = slurm.state(&submitted.task(task));
        assert_eq!(restarts, starts_again, "task {task}: {state}\n{}", night.log(&format!("night.{task}")));
    }

    // The gap of task 2 was submitted again, with all others, which had nothing to do.
    let second = Submitted::read(&night.log("night.finalize"));
    night.ends(&second.finalize, "COMPLETED");
    assert!(night.log("night.0").ends_with("shard=0 of=5\n"), "{}", night.log("night.0"));
    workload.is_complete("night", "night");
}
