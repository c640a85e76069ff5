//! `jobs/kubernetes`: the manifests as `kubectl kustomize` renders them, against the API's schema and for what it does not say; the
//! Dockerfile by hadolint; and what a pod runs, as process 1 of a PID namespace, as in a container. There is no API server here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nightcap::job::Job;
use rustix::process::Signal;
use serde_json::Value;

use super::engine::{Held, Process, path_with, processes, program, succeed, wait_for};
use super::workload::Workload;
use crate::common::{png_image, repo, said};

/// The rendered objects of a folder, by kind.
fn rendered(folder: &str) -> Option<BTreeMap<String, Vec<Value>>> {
    let kubectl = program("kubectl")?;
    let text = succeed(Command::new(kubectl).arg("kustomize").arg(repo("jobs/kubernetes").join(folder)));
    let python = program("python")?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.yaml");
    std::fs::write(&path, &text).unwrap();
    // Every field is known, and has a value of its type.
    let validate = program("kubernetes-validate")?;
    succeed(Command::new(&validate).args(["--strict", "--kubernetes-version", "1.33"]).arg(&path));
    let unknown = folder.path().join("unknown.yaml");
    std::fs::write(&unknown, text.replace("completionMode:", "completionMood:")).unwrap();
    let refused = Command::new(&validate).args(["--strict", "-k", "1.33"]).arg(&unknown).output().unwrap();
    assert!(!refused.status.success(), "an unknown field is refused");
    let to_json = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let all: Vec<Value> =
        serde_json::from_str(&succeed(Command::new(python).args(["-c", to_json]).arg(&path))).unwrap();
    let mut by_kind: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for object in all {
        by_kind.entry(object["kind"].as_str().unwrap().to_owned()).or_default().push(object);
    }
    Some(by_kind)
}

/// What an API server would refuse, or what would go wrong at night, in a `CronJob` whose fields are known.
fn faults(cron_job: &Value, maps: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let (cron, job) = (&cron_job["spec"], &cron_job["spec"]["jobTemplate"]["spec"]);
    let pod = &job["template"]["spec"];
    let container = &pod["containers"][0];
    let one_of = |value: &Value, known: &[&str]| value.as_str().is_some_and(|value| known.contains(&value));
    let name = cron_job["metadata"]["name"].as_str().unwrap();

    // A Job is called by this name, a dash and at most 10 digits, which has to be a run id.
    let is_id = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    expect(is_id && name.len() <= 52, "name");
    expect(is_schedule(cron["schedule"].as_str().unwrap_or_default()), "schedule");
    expect(one_of(&cron["concurrencyPolicy"], &["Forbid"]), "concurrencyPolicy");
    expect(one_of(&job["completionMode"], &["Indexed"]), "completionMode");
    expect(one_of(&job["podReplacementPolicy"], &["Failed"]), "podReplacementPolicy");
    expect(one_of(&pod["restartPolicy"], &["Never"]), "restartPolicy");
    let completions = job["completions"].as_u64().unwrap_or(0);
    expect((1..=100_000).contains(&completions), "completions");
    expect(job["parallelism"].as_u64().is_some_and(|at_once| (1..=completions).contains(&at_once)), "parallelism");
    expect(job["backoffLimitPerIndex"].as_u64().is_some_and(|again| again >= 3), "backoffLimitPerIndex");
    expect(job["activeDeadlineSeconds"].as_u64().is_some_and(|seconds| seconds < 86400), "activeDeadlineSeconds");

    let rules: Vec<_> = job["podFailurePolicy"]["rules"].as_array().into_iter().flatten().collect();
    let exits = |action: &str| {
        let rules = rules.iter().filter(|rule| rule["action"] == action && rule["onExitCodes"]["operator"] == "In");
        rules.flat_map(|rule| rule["onExitCodes"]["values"].as_array().unwrap().clone()).collect::<Vec<_>>()
    };
    expect(exits("FailJob") == [2] && exits("FailIndex") == [1], "exit codes 1 and 2");
    expect(!rules.iter().any(|rule| rule.to_string().contains("75")), "75 counts as an attempt");
    let named = |rule: &Value| rule["onExitCodes"]["containerName"] == container["name"];
    expect(rules.iter().filter(|rule| !rule["onExitCodes"].is_null()).all(|rule| named(rule)), "containerName");
    let evicted = |rule: &Value| {
        rule["action"] == "Ignore"
            && rule["onPodConditions"][0] == serde_json::json!({"type": "DisruptionTarget", "status": "True"})
    };
    expect(rules.iter().any(|rule| evicted(rule)), "DisruptionTarget");

    let env = |name: &str| container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name);
    let job_name = "metadata.labels['batch.kubernetes.io/job-name']";
    expect(env("RUN_ID").is_some_and(|id| id["valueFrom"]["fieldRef"]["fieldPath"] == job_name), "RUN_ID");
    let map = |name: &Value| maps.iter().find(|map| map["metadata"]["name"] == *name);
    let settings = map(&container["envFrom"][0]["configMapRef"]["name"]);
    let shards = settings.and_then(|settings| settings["data"]["SHARDS"].as_str());
    expect(shards == Some(completions.to_string().as_str()), "SHARDS");

    let mounts: Vec<_> = container["volumeMounts"].as_array().unwrap().iter().collect();
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().collect();
    let mounted = |volume: &&&Value| mounts.iter().any(|mount| mount["name"] == volume["name"]);
    expect(volumes.len() == mounts.len() && volumes.iter().all(|volume| mounted(&volume)), "volumes");
    let writable = |path: &str| {
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
        mount.is_some_and(|mount| {
            volumes.iter().any(|volume| volume["name"] == mount["name"] && volume["emptyDir"].is_object())
        })
    };
    let value = |name: &str| env(name).and_then(|variable| variable["value"].as_str()).unwrap_or_default();
    expect(writable(value("TMPDIR")) && writable(value("XDG_CACHE_HOME")), "writable folders");
    let files = volumes.iter().find_map(|volume| map(&volume["configMap"]["name"]));
    let script = container["command"][1].as_str().and_then(|path| path.strip_prefix("/job/")).unwrap_or_default();
    let has = |file: &str| files.is_some_and(|files| files["data"][file].is_string());
    expect(has(script) && has("job.toml"), "files");

    let resources = &container["resources"];
    let bytes = |value: &Value| value.as_str().and_then(|value| value.strip_suffix("Gi")?.parse::<u32>().ok());
    for resource in ["memory", "ephemeral-storage"] {
        let (least, most) = (bytes(&resources["requests"][resource]), bytes(&resources["limits"][resource]));
        expect(least.is_some() && least <= most, resource);
    }
    expect(resources["requests"]["cpu"].is_string(), "cpu");
    let scratch: Option<u32> = volumes
        .iter()
        .filter(|volume| volume["emptyDir"].is_object())
        .map(|v| bytes(&v["emptyDir"]["sizeLimit"]))
        .sum();
    expect(
        scratch.is_some_and(|scratch| Some(scratch) <= bytes(&resources["limits"]["ephemeral-storage"])),
        "sizeLimit",
    );

    // What the level `restricted` of pod security asks for, and a root that cannot be written to.
    let (outer, inner) = (&pod["securityContext"], &container["securityContext"]);
    let restricted = outer["runAsNonRoot"] == true
        && outer["runAsUser"].as_u64().is_some_and(|user| user > 0)
        && outer["seccompProfile"]["type"] == "RuntimeDefault"
        && inner["allowPrivilegeEscalation"] == false
        && inner["capabilities"]["drop"] == serde_json::json!(["ALL"])
        && inner["readOnlyRootFilesystem"] == true
        && pod["automountServiceAccountToken"] == false;
    expect(restricted, "security");
    expect(pod["terminationGracePeriodSeconds"].as_u64().is_some_and(|seconds| seconds >= 10), "grace");
    faults
}

/// The `ConfigMap` with files, as a volume shows it.
fn files_of(maps: &[Value]) -> &serde_json::Map<String, Value> {
    maps.iter().filter_map(|map| map["data"].as_object()).find(|data| data.contains_key("job.toml")).unwrap()
}

/// Whether this is a time of cron, of numbers and stars.
fn is_schedule(text: &str) -> bool {
    let fields: Vec<_> = text.split(' ').collect();
    let ends = [0..=59, 0..=23, 1..=31, 1..=12, 0..=6];
    fields.len() == ends.len()
        && fields
            .iter()
            .zip(ends)
            .all(|(field, range)| *field == "*" || field.parse().is_ok_and(|at| range.contains(&at)))
}

#[test]
fn manifests_are_as_kubernetes_wants_them() {
    for folder in ["base", "gpu"] {
        let Some(objects) = rendered(folder) else { return };
        let kinds: Vec<_> = objects.iter().map(|(kind, objects)| (kind.as_str(), objects.len())).collect();
        assert_eq!(kinds, [("ConfigMap", 2), ("CronJob", 1), ("Namespace", 1)]);
        let (cron_job, maps) = (&objects["CronJob"][0], &objects["ConfigMap"]);
        assert_eq!(faults(cron_job, maps), [""; 0], "{folder}");
        assert_eq!(objects["Namespace"][0]["metadata"]["name"], cron_job["metadata"]["namespace"]);
        let container = &cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let job = files_of(maps)["job.toml"].as_str().unwrap();
        Job::parse(job, "job.toml", &repo(""), &[]).unwrap_or_else(|error| panic!("{error}"));
        let gpus = &container["resources"]["limits"]["nvidia.com/gpu"];
        let image = container["image"].as_str().unwrap();
        assert_eq!(
            (gpus.as_u64(), image.ends_with("-cuda")),
            if folder == "gpu" { (Some(1), true) } else { (None, false) }
        );

        // The schema takes these; the checks above do not.
        for (right, wrong, found) in [
            (r#""completionMode":"Indexed""#, r#""completionMode":"Indexedd""#, "completionMode"),
            (r#""restartPolicy":"Never""#, r#""restartPolicy":"Always""#, "restartPolicy"),
            (r#""schedule":"0 22"#, r#""schedule":"61 22"#, "schedule"),
            (r#""completions":16"#, r#""completions":15"#, "SHARDS"),
            ("FailJob", "FailJobs", "exit codes 1 and 2"),
            ("DisruptionTarget", "Disrupted", "DisruptionTarget"),
            ("metadata.labels['batch.kubernetes.io/job-name']", "metadata.name", "RUN_ID"),
            (r#""memory":"8Gi""#, r#""memory":"2Gi""#, "memory"),
            (r#""runAsUser":65532"#, r#""runAsUser":0"#, "security"),
        ] {
            let changed = cron_job.to_string().replace(right, wrong);
            assert_ne!(changed, cron_job.to_string(), "{right}");
            assert_eq!(faults(&serde_json::from_str(&changed).unwrap(), maps), [found], "{wrong}");
        }
    }
}

/// The container of a pod of the rendered `CronJob`: its command and environment, in a process 1 of its own.
struct Pods {
    /// Pods end with it.
    node: Held,
    workload: Workload,
    /// Where the `ConfigMap` with the script is mounted.
    job: PathBuf,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    run: &'static str,
}

impl Pods {
    fn new(run: &'static str) -> Option<Self> {
        if !Held::possible() {
            return None;
        }
        let objects = rendered("base")?;
        let workload = Workload::new();
        let container = &objects["CronJob"][0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let job = workload.workplace.path("job");
        std::fs::create_dir(&job).unwrap();
        for (name, text) in files_of(&objects["ConfigMap"]) {
            std::fs::write(job.join(name), text.as_str().unwrap()).unwrap();
        }
        std::fs::copy(workload.workplace.path("job.toml"), workload.workplace.path("the-job.toml")).unwrap();
        let words = container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let command = words.map(|word| word.replace("/job/", &format!("{}/", job.display()))).collect();
        let environment = container["env"].as_array().unwrap().iter().map(|variable| {
            let value = variable["value"].as_str().map_or_else(|| run.to_owned(), str::to_owned);
            (variable["name"].as_str().unwrap().to_owned(), value)
        });
        let environment = environment.filter(|(name, _)| name == "RUN_ID").collect();
        let node = Held::start(tempfile::tempdir().unwrap().keep(), "");
        Some(Self { node, workload, job, command, environment, run })
    }

    fn start(&self, index: u32, shards: u32) -> Child {
        let mut pod = self.node.inside(Path::new("unshare"));
        pod.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).args(&self.command);
        pod.envs(self.environment.iter().cloned())
            .env("JOB_COMPLETION_INDEX", index.to_string())
            .env("SHARDS", shards.to_string())
            .env("OUTPUT", self.workload.path("out"))
            .env("JOB", self.workload.path("the-job.toml"))
            .env("PATH", path_with(&self.workload.bin()));
        pod.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// How a pod ends.
    fn ends(&self, index: u32, shards: u32) -> Output {
        self.start(index, shards).wait_with_output().unwrap()
    }

    /// Process 1 of a pod, and the stopped nightcap under it.
    fn stopped(&self) -> (Process, Process) {
        let output = format!("output.path={}", self.workload.path("out"));
        let worker = || processes().into_iter().find(|process| process.state == 'T' && process.words.contains(&output));
        let worker = wait_for("nightcap to stop", worker, String::new);
        let first = processes().into_iter().find(|process| process.id == worker.parent).unwrap();
        assert_eq!(first.words, self.command);
        (first, worker)
    }
}

#[test]
fn pods_make_a_night_and_the_last_one_publishes_it() {
    let Some(pods) = Pods::new("nightcap-29412345") else { return };
    assert!(pods.job.join("night.sh").exists());
    let tried = pods.workload.path("tried");
    pods.workload.nightcap_does(&format!(
        "case \"$1/$JOB_COMPLETION_INDEX\" in run/1) point=STOP_AT=before_part:2;; run/2) point=KILL_AT=after_part:1;; esac\n\
         if [ -n \"$point\" ] && mkdir {tried}.$JOB_COMPLETION_INDEX 2>/dev/null; then export NIGHTCAP_$point; fi"
    ));
    let status = |output: Output| {
        let code = output.status.code();
        (code, said(&output))
    };
    // The first of three: the others' parts are missing, which is no failure.
    let (code, text) = status(pods.ends(0, 3));
    assert!(code == Some(0) && text.contains("4 of 12 parts"), "{text}");
    // A node is drained: process 1 gets SIGTERM, and hands it on.
    let evicted = pods.start(1, 3);
    let (first, worker) = pods.stopped();
    first.send(Signal::TERM);
    worker.send(Signal::CONT);
    let (code, text) = status(evicted.wait_with_output().unwrap());
    assert!(code == Some(75) && text.contains("SIGTERM: stopping"), "{code:?} {text}");
    assert_eq!(status(pods.ends(1, 3)).0, Some(0));
    // Memory runs out.
    let (code, text) = status(pods.ends(2, 3));
    assert!(code == Some(128 + 9), "{code:?} {text}");
    assert!(pods.workload.workplace.published("out").is_empty());
    let (code, text) = status(pods.ends(2, 3));
    assert!(code == Some(0), "{text}");
    pods.workload.is_complete("out", pods.run);
    // A pod of a night that is published has nothing to do.
    assert_eq!(status(pods.ends(2, 3)).0, Some(0));
}

#[test]
fn the_first_pod_publishes_what_an_earlier_night_left() {
    let Some(pods) = Pods::new("nightcap-29412346") else { return };
    pods.workload.leaves("out", "nightcap-29412344", 4);
    pods.workload.leaves("out", "nightcap-29412345", 0);
    let ended = pods.ends(0, 1);
    assert_eq!(ended.status.code(), Some(0), "{}", said(&ended));
    assert_eq!(pods.workload.workplace.published("out"), ["nightcap-29412344", "nightcap-29412346"]);
    assert_eq!(pods.workload.workplace.rows("out", Some("nightcap-29412346")).len(), 16);
}

#[test]
fn pods_end_with_the_status_of_nightcap() {
    let Some(pods) = Pods::new("nightcap-29412347") else { return };
    let job = pods.workload.workplace.path("the-job.toml");
    let text = std::fs::read_to_string(&job).unwrap();
    std::fs::write(&job, text.replace("[model]\npath", "[model]\nprecision = \"fp99\"\npath")).unwrap();
    assert_eq!(pods.ends(0, 2).status.code(), Some(2));

    std::fs::write(&job, format!("{text}[limits]\nmax_failed_fraction = 0.0\nmin_failed_rows = 1\n")).unwrap();
    std::fs::write(pods.workload.workplace.path("photos/7.png"), &png_image(7)[..40]).unwrap();
    assert_eq!(pods.ends(0, 2).status.code(), Some(0));
    let last = pods.ends(1, 2);
    assert_eq!(last.status.code(), Some(1), "{}", said(&last));
}

#[test]
fn hadolint_takes_the_dockerfile() {
    let Some(hadolint) = program("hadolint") else { return };
    let dockerfile = repo("jobs/kubernetes/Dockerfile");
    succeed(Command::new(&hadolint).arg(&dockerfile));
    let text = std::fs::read_to_string(&dockerfile).unwrap();
    let changed = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(changed.path(), text.replace("cmake=3.25.*", "cmake")).unwrap();
    let refused = Command::new(&hadolint).arg(changed.path()).output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stdout).contains("DL3008"));
    for line in text.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let source = line.split(' ').nth(1).unwrap();
        assert!(repo(source).exists(), "{line}");
    }
}
