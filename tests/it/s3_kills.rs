//! Runs on S3 that are killed at any point and resumed: the same objects. The same for two workers on one shard, and compactions.

use std::process::Stdio;

use crate::common::{Workplace, go_on, kill_at_random, nightcap, png_image, rounds, stopped_at};
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::{on_s3, run, run_command, text};

#[test]
fn killed_on_s3_at_every_fail_point_and_resumed() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(9, 3));
    let mut settings = on_s3(&workplace, server, "killed");
    settings[1] = "output.path=s3://night/killed/undisturbed".to_owned();
    assert_eq!(run(&workplace, server, &settings, &["--run-id", "night"]).status.code(), Some(0));
    let expected = server.objects("killed/undisturbed/run=night");
    assert_eq!(expected.len(), 3);
    // Puts: format (twice), schema, run_seq, selection, signatures, plan, three parts, index, reuse index, part hashes, published record.
    let puts = (1..=14).flat_map(|put| [format!("before_put:{put}"), format!("after_put:{put}")]);
    let named = ["before_plan:1", "before_part:1", "after_part:2", "before_index:1", "before_publish:1"];
    for (index, point) in puts.chain(named.map(str::to_owned)).enumerate() {
        settings[1] = format!("output.path=s3://night/killed/out-{index}");
        let killed = run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "night"])
            .env("NIGHTCAP_KILL_AT", &point)
            .output()
            .unwrap();
        assert_eq!(killed.status.code(), None, "{point}: {}", text(&killed.stderr));
        let before = server.objects(&format!("killed/out-{index}/run=night"));
        assert!(before.iter().all(|part| expected.contains(part)), "{point}: a part is visible that is not whole");
        let resumed = run(&workplace, server, &settings, &["--run-id", "night"]);
        assert_eq!(resumed.status.code(), Some(0), "{point}: {}", text(&resumed.stderr));
        assert!(server.objects(&format!("killed/out-{index}/run=night")) == expected, "{point}: other parts");
        assert_eq!(server.objects(&format!("killed/out-{index}/_nightcap/published")).len(), 1, "{point}");
    }
}

#[test]
fn killed_on_s3_at_random_moments() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(40, 2));
    let mut settings = on_s3(&workplace, server, "random");
    settings[1] = "output.path=s3://night/random/undisturbed".to_owned();
    let started = std::time::Instant::now();
    assert_eq!(run(&workplace, server, &settings, &["--run-id", "night"]).status.code(), Some(0));
    let whole_run = started.elapsed();
    let expected = server.objects("random/undisturbed/run=night");
    assert_eq!(expected.len(), 20);
    let on = |round| [settings[0].clone(), format!("output.path=s3://night/random/out-{round}")];
    let start = |round| {
        let mut command = run_command(&workplace, &server.endpoint(), &on(round), &["--run-id", "night"]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let complete = |round| {
        let resumed = run(&workplace, server, &on(round), &["--run-id", "night"]);
        assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
        assert!(server.objects(&format!("random/out-{round}/run=night")) == expected, "other parts in round {round}");
    };
    kill_at_random(20_261_124, rounds(3, 4), whole_run, start, complete);
}

#[test]
fn two_processes_on_one_shard_on_s3() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(24, 2));
    let settings = on_s3(&workplace, server, "twice");
    let command =
        |shard: &str| run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "night", "--shard", shard]);
    let start = |shard: &str| command(shard).stderr(Stdio::piped()).spawn().unwrap();
    // One stands still before a part, which another one of the same shard makes.
    let slow = stopped_at(&mut command("0/2"), "before_part:2");
    let others = [start("1/2"), start("0/2")].map(|child| child.wait_with_output().unwrap());
    for outcome in others.into_iter().chain([go_on(slow)]) {
        assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    }
    assert_eq!(server.objects("twice/out/run=night").len(), 12);
    assert_eq!(server.objects("twice/out/_nightcap/seq").len(), 1, "one run, one number");
    let mut finalize = nightcap();
    finalize.args(["finalize", "s3://night/twice/out", "--run-id", "night"]);
    let finalized = with_s3(&mut finalize, &server.endpoint()).output().unwrap();
    assert!(finalized.status.success(), "{}", text(&finalized.stderr));
    assert_eq!(server.objects("twice/out/_nightcap/published").len(), 1);
}

#[test]
fn a_compaction_killed_on_s3_and_run_again() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(4, 2));
    let settings = on_s3(&workplace, server, "compacted");
    assert!(run(&workplace, server, &settings, &["--run-id", "monday"]).status.success());
    server.put("compacted/photos/1.png", &png_image(90)).unwrap();
    assert!(run(&workplace, server, &settings, &["--run-id", "tuesday"]).status.success());
    let published = server.objects("compacted/out");
    let restore = |output: &str| {
        for (key, bytes) in &published {
            server.put(&format!("compacted/{output}/{key}"), bytes).unwrap();
        }
    };
    let on = |command: &str, output: &str, arguments: &[&str], kill_at: Option<&str>| {
        let mut command_line = nightcap();
        command_line.args([command, &format!("s3://night/compacted/{output}")]).args(arguments);
        command_line.envs(kill_at.map(|point| ("NIGHTCAP_KILL_AT", point)));
        with_s3(&mut command_line, &server.endpoint()).output().unwrap()
    };
    let expected = {
        restore("undisturbed");
        assert!(on("compact", "undisturbed", &["--grace", "0", "--run-id", "all"], None).status.success());
        server.objects("compacted/undisturbed/run=all")
    };
    assert_eq!(expected.len(), 2);
    let mut kills = 0;
    for point in ["before_put", "after_put", "before_delete"] {
        for count in 1.. {
            let (place, output) = (format!("{point}:{count}"), format!("{point}-{count}"));
            restore(&output);
            let ended = on("compact", &output, &["--grace", "0", "--run-id", "all"], Some(&place));
            if ended.status.success() {
                break;
            }
            assert_eq!(ended.status.code(), None, "{place}: {}", text(&ended.stderr));
            kills += 1;
            // A compaction that was killed before it was published starts again.
            let again = on("compact", &output, &["--grace", "0"], None);
            assert!(again.status.success(), "{place}: {}", text(&again.stderr));
            let published = server.objects(&format!("compacted/{output}/_nightcap/published"));
            assert_eq!(published.len(), 1, "{place}");
            let run = published[0].0.strip_suffix(".json").unwrap();
            let check = on("status", &output, &["--check"], None);
            assert!(check.status.success(), "{place}: {}", text(&check.stdout));
            let parts = server.objects(&format!("compacted/{output}/run={run}"));
            assert_eq!(parts.len(), 2, "{place}");
            assert!(run != "all" || parts == expected, "{place}: other parts");
            for gone in ["monday", "tuesday"] {
                assert!(server.objects(&format!("compacted/{output}/run={gone}")).is_empty(), "{place}");
                assert!(server.objects(&format!("compacted/{output}/_nightcap/runs/{gone}")).is_empty(), "{place}");
            }
        }
    }
    // Six puts, each with two points, and the objects of two runs.
    assert!(kills > 20, "{kills}");
}
