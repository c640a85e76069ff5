//! Batch sizes: measured before the plan is made, and halved when memory runs out.

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::common::{Workplace, largest_difference, repo, strings, write_parquet};

/// `nightcap.halved_batches` of a part, if its footer has it.
fn halved(workplace: &Workplace, part: &str) -> Option<String> {
    let file = std::fs::File::open(workplace.path(part)).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let entries = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
    entries.into_iter().find(|entry| entry.key == "nightcap.halved_batches").and_then(|entry| entry.value)
}

#[test]
fn a_batch_is_halved_when_memory_runs_out_and_the_run_goes_on() {
    let workplace = Workplace::with_images(9, 5);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=whole"]);
    let arguments = ["--run-id", "night", "--set", "output.path=halved"];
    let output = workplace.command("run", &arguments).env("NIGHTCAP_OUT_OF_MEMORY_ABOVE", "1").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("memory ran out; batches are halved from here on") && log.contains("now=1"), "{log}");
    let (whole, small) = (workplace.rows("whole", None), workplace.rows("halved", None));
    assert_eq!(whole.text("caption"), small.text("caption"));
    for column in ["image_embedding", "text_embedding", "fused_embedding"] {
        assert!(largest_difference(&whole.vectors(column), &small.vectors(column)) < 1e-5, "{column}");
    }
    let part = |output: &str, number: u32| halved(&workplace, &format!("{output}/run=night/part-{number:06}.parquet"));
    assert_eq!(part("halved", 0).as_deref(), Some("2"), "from 4 rows to 2, and to 1");
    assert_eq!((part("halved", 1), part("whole", 0)), (None, None), "what was halved stays so");

    let arguments = ["--run-id", "night", "--set", "output.path=none"];
    let output = workplace.command("run", &arguments).env("NIGHTCAP_OUT_OF_MEMORY_ABOVE", "0").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() != Some(0) && log.contains("out of memory"), "{log}");
    assert!(workplace.published("none").is_empty());
}

#[test]
fn memory_that_runs_out_while_slots_are_refilled_changes_no_caption() {
    let workplace = Workplace::with_images(9, 9);
    let model = repo("tests/fixtures/models/llava");
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    let (settings, text) = ("generation.prompt=Describe the picture.", "text = \"title\"\n");
    workplace.job(&job.replace(text, ""));
    let model = format!("model.path={}", model.display());
    let run = |output: &str, above: &str| {
        let output = format!("output.path={output}");
        let arguments = ["--run-id", "night", "--set", &model, "--set", settings, "--set", &output];
        let output = workplace.command("run", &arguments).env("NIGHTCAP_OUT_OF_MEMORY_ABOVE", above).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("whole", "100");
    run("halved", "3");
    let (whole, small) = (workplace.rows("whole", None), workplace.rows("halved", None));
    assert!(whole.text("caption").iter().flatten().any(|caption| !caption.is_empty()));
    assert_eq!(whole.text("caption"), small.text("caption"));
    assert_eq!(halved(&workplace, "halved/run=night/part-000000.parquet").as_deref(), Some("1"), "from 4 rows to 2");
}

#[test]
fn memory_that_runs_out_over_texts_halves_their_batch() {
    let workplace = Workplace::with_images(9, 9);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("image = \"image\"\n", ""));
    let output =
        workplace.command("run", &["--run-id", "night"]).env("NIGHTCAP_OUT_OF_MEMORY_ABOVE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(workplace.rows("out", None).len(), 9);
    assert_eq!(halved(&workplace, "out/run=night/part-000000.parquet").as_deref(), Some("2"));
}

#[test]
fn an_automatic_batch_size_is_tried_out_before_the_plan_and_kept_in_it() {
    let workplace = Workplace::with_images(1, 100);
    let ids = strings((0..1000).map(|row| Some(format!("row-{row}"))));
    let texts = strings((0..1000).map(|row| Some(format!("a dog number {row}"))));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", ids), ("title", texts)], 1000);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("image = \"image\"\n", "").replace("batch_size = 4", "batch_size = \"auto\""));
    let output = workplace.run(&["--run-id", "night"]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && log.contains("measured the batch size"), "{log}");
    let plan = std::fs::read(workplace.path("out/_nightcap/runs/night/plan.json")).unwrap();
    let planned = serde_json::from_slice::<Value>(&plan).unwrap()["batch_size"].as_u64().unwrap();
    assert!([16, 32, 64, 128].contains(&planned), "{planned}");
    assert!(log.contains(&format!("rows={planned}")), "{log}");

    let few = workplace.run(&["--run-id", "few", "--limit", "20", "--set", "output.path=few"]);
    assert!(!String::from_utf8_lossy(&few.stderr).contains("measured the batch size"), "twenty rows are not worth it");
    let refused = workplace.run(&["--set", "runtime.batch_size=fast"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("1 to 4096, or \"auto\""), "{said}");
}

#[test]
fn two_devices_make_the_parts_of_one() {
    let workplace = Workplace::with_images(23, 3);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=one"]);
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=two", "--set", "runtime.devices=[\"cpu\", \"cpu\"]"]);
    assert_equal_parts(&workplace, "one", "two");
}

fn assert_equal_parts(workplace: &Workplace, one: &str, two: &str) {
    let (one, two) = (workplace.parts(one, "night"), workplace.parts(two, "night"));
    for (one, two) in one.iter().zip(&two) {
        assert!(one == two, "{} of {} bytes is not {} of {}", one.0, one.1.len(), two.0, two.1.len());
    }
    assert_eq!(one.len(), two.len());
}

/// The settings of a run of a captioner on as many stand-ins for GPUs.
fn on_stand_ins(count: usize) -> Vec<String> {
    let model = format!("model.path={}", repo("tests/fixtures/models/vit_gpt2").display());
    let devices = format!("runtime.devices=[{}]", vec!["\"stand-in\""; count].join(", "));
    vec!["--run-id".to_owned(), "night".to_owned(), "--set".to_owned(), model, "--set".to_owned(), devices]
}

/// A folder with images and a job without texts.
fn captioned_images(rows: u32, part_rows: u32) -> Workplace {
    let workplace = Workplace::with_images(rows, part_rows);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("text = \"title\"\n", ""));
    workplace
}

#[test]
fn two_devices_with_memories_of_their_own_make_the_parts_of_one() {
    let workplace = captioned_images(17, 3);
    for (output, count) in [("one", 1), ("two", 2)] {
        let mut command = workplace.command("run", &["--set", &format!("output.path={output}")]);
        let ran = command.args(on_stand_ins(count)).output().unwrap();
        let log = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success() && log.contains("MB from the host"), "{log}");
    }
    assert_equal_parts(&workplace, "one", "two");
}

#[test]
fn a_limit_of_device_memory_gives_smaller_batches_and_the_same_captions() {
    let workplace = captioned_images(9, 9);
    let run = |output: &str, bytes: Option<u64>| {
        let mut command = workplace.command("run", &["--set", &format!("output.path={output}")]);
        let bytes = bytes.map(|bytes| format!("runtime.device_memory_bytes={bytes}"));
        command.args(on_stand_ins(1)).args(bytes.iter().flat_map(|bytes| ["--set", bytes]));
        let ran = command.output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let planned = |output: &str| {
        let plan = std::fs::read(workplace.path(&format!("{output}/_nightcap/runs/night/plan.json"))).unwrap();
        serde_json::from_slice::<Value>(&plan).unwrap()["batch_size"].as_u64().unwrap()
    };
    assert_eq!(run("whole", None).0, Some(0));
    assert_eq!(planned("whole"), 4);
    let (status, log) = run("none", Some(1000));
    assert!(status == Some(2) && log.contains("`runtime.device_memory_bytes`: expected at least"), "{log}");
    assert!(log.contains("hint: give it more") && workplace.published("none").is_empty(), "{log}");
    let number = |after: &str| -> u64 {
        let rest = &log[log.find(after).unwrap() + after.len()..];
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let (one, weights) = (number("expected at least "), number("of which the weights are "));
    assert!(weights > 100_000 && one > weights + 1000, "{log}");
    let (status, log) = run("small", Some(one));
    assert!(status == Some(0) && log.contains("the batch size that fits `runtime.device_memory_bytes`"), "{log}");
    assert_eq!(planned("small"), 1);
    let (status, log) = run("large", Some(1 << 33));
    assert_eq!((status, planned("large")), (Some(0), 4), "{log}");
    let captions = |output: &str| workplace.rows(output, None).text("caption");
    assert!(captions("whole").iter().flatten().any(|caption| !caption.is_empty()));
    assert_eq!((captions("small"), captions("large")), (captions("whole"), captions("whole")));
    // the plan of a run decides, whatever the limit is when it goes on
    let (status, log) = run("small", Some(1 << 33));
    assert!(status == Some(0) && planned("small") == 1, "{log}");
}

#[test]
fn a_device_that_onnx_runtime_does_not_have_is_refused_before_anything_is_written() {
    let workplace = Workplace::with_images(1, 1);
    for device in ["cuda:0", "tensorrt:1"] {
        let output = workplace.run(&["--set", &format!("runtime.devices=[\"{device}\"]")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("{device} needs an ONNX Runtime with that execution provider")), "{said}");
    }
    assert!(!workplace.path("out").exists());
    let output = workplace.run(&["--set", "runtime.devices=[\"gpu\"]"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("\"cuda:0\" or \"tensorrt:0\""), "{said}");
}
