//! Graphs that fail on some rows, on all rows, or on one of two devices; and a panic in nightcap itself.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::common::{Workplace, repo, strings, write_parquet};
use crate::graph_writer::{attribute, directory, model, node, number, port, table};

/// A copy of the tiny model whose tokenizer knows the word `zebra`, for which the text graph has no vector.
fn model_without_zebras(workplace: &Workplace) -> String {
    let folder = workplace.path("model");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
    let tokenizer = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
    let more = tokenizer.replace("\"up\":133}", "\"up\":133,\"zebra\":134}");
    assert_ne!(tokenizer, more);
    std::fs::write(folder.join("tokenizer.json"), more).unwrap();
    format!("model.path={}", folder.display())
}

/// Writes a manifest of `rows` images, of which those of `zebras` have a text that the model fails on.
fn write_manifest(workplace: &Workplace, rows: u32, zebras: &[u32], image: impl Fn(u32) -> String) {
    let title = |row| if zebras.contains(&row) { format!("a zebra and {row}") } else { format!("a dog {row}") };
    let columns = vec![
        ("id", strings((0..rows).map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings((0..rows).map(|row| Some(image(row))))),
        ("title", strings((0..rows).map(|row| Some(title(row))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
}

fn photo(row: u32) -> String {
    format!("photos/{row}.png")
}

fn log_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `nightcap.halved_batches` of a part.
fn halved(path: &Path) -> Option<String> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let entries = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
    entries.into_iter().find(|entry| entry.key == "nightcap.halved_batches").and_then(|entry| entry.value)
}

#[test]
fn rows_that_the_model_fails_on_are_failed_rows_and_the_others_have_their_results() {
    let workplace = Workplace::with_images(13, 6);
    let model = model_without_zebras(&workplace);
    let run = |output: &str, kill: Option<&str>| {
        let mut command = workplace.command("run", &["--run-id", "night", "--set", &model]);
        command.args(["--set", &format!("output.path={output}")]);
        if let Some(kill) = kill {
            command.env("NIGHTCAP_KILL_AT", kill);
        }
        command.output().unwrap()
    };
    // In the first batch of a part, in its last one of two rows, and the only row of the last part.
    let zebras = [1, 2, 11, 12];
    write_manifest(&workplace, 13, &zebras, photo);
    let output = run("out", None);
    let log = log_of(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains("4 model_error") && log.contains("to find those at fault"), "{log}");
    let failed = workplace.rows("out", None);
    let expected = |value: &str| (0..13).map(|row| zebras.contains(&row).then(|| value.to_owned())).collect::<Vec<_>>();
    assert_eq!(failed.text("error_kind"), expected("model_error"));
    assert_eq!(failed.text("error_stage"), expected("encode"));
    for message in failed.text("error_message").iter().flatten() {
        assert!(
            message.starts_with("text_model.onnx fails on this row: onnx runtime cannot run this graph:"),
            "{message}"
        );
        assert!(message.contains("134") && message.chars().count() <= 300, "{message}");
    }
    assert_eq!(halved(&workplace.path("out/run=night/part-000000.parquet")).as_deref(), Some("3"), "to [0 1] [2 3]");

    // The same bytes, however often it was interrupted.
    let killed = run("again", Some("after_part:1"));
    assert_eq!(killed.status.code(), None, "{}", log_of(&killed));
    let resumed = run("again", None);
    assert_eq!(resumed.status.code(), Some(0), "{}", log_of(&resumed));
    assert!(workplace.parts("out", "night") == workplace.parts("again", "night"));

    write_manifest(&workplace, 13, &[], photo);
    assert_eq!(run("good", None).status.code(), Some(0));
    let good = workplace.rows("good", None);
    for (row, (found, expected)) in failed.text("caption").iter().zip(good.text("caption")).enumerate() {
        let is_zebra = zebras.contains(&(row as u32));
        assert_eq!(found.is_none(), is_zebra, "row {row}");
        assert!(is_zebra || *found == expected, "row {row}: {found:?}, not {expected:?}");
    }
}

#[test]
fn a_full_batch_of_which_every_row_fails_ends_the_run_and_a_single_row_does_not() {
    let workplace = Workplace::with_images(8, 8);
    let model = model_without_zebras(&workplace);
    write_manifest(&workplace, 8, &[4, 5, 6, 7], photo);
    let output = workplace.run(&["--run-id", "night", "--set", &model]);
    let log = log_of(&output);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("each of 4 rows of a batch fails alone") && log.contains("hint:"), "{log}");
    assert!(workplace.published("out").is_empty() && workplace.parts("out", "night").is_empty());

    write_manifest(&workplace, 1, &[0], photo);
    let output = workplace.run(&["--set", &model, "--set", "output.path=one"]);
    assert_eq!(output.status.code(), Some(0), "{}", log_of(&output));
    assert_eq!(workplace.rows("one", None).text("error_kind"), [Some("model_error".to_owned())]);
}

/// A model directory whose vision graph has a vector for the images whose pixels are less than a quarter on average (`limit` 0), or
/// for none (`limit` 1): twice the mean of all pixels, rounded towards 0, is the row of a table that has one row.
fn vision_model(limit: i64) -> tempfile::TempDir {
    let axes = [number(8, 1), number(8, 2), number(8, 3)].concat();
    let attributes = [attribute("axes", 7, &axes), attribute("keepdims", 2, &number(3, 0))].concat();
    let graph = model(&[
        node("ReduceMean", &["pixel_values"], "mean", &attributes),
        node("Add", &["mean", "mean"], "twice", &[]),
        node("Cast", &["twice"], "index", &attribute("to", 2, &number(3, 7))),
        node("Add", &["index", "limit"], "row", &[]),
        node("Gather", &["vectors", "row"], "image_embeds", &[]),
        crate::graph_writer::constant("limit", limit),
        table("vectors", &[1, 4], &[1.0, 2.0, 3.0, 4.0]),
        port(11, "pixel_values", 1, &[0, 3, 8, 8]),
        port(12, "image_embeds", 1, &[0, 4]),
    ]);
    let folder = directory(&[("vision_model.onnx", graph)]);
    let config = r#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5]}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), config).unwrap();
    folder
}

/// A workplace for images only, two of which are white, with one of them in a second row.
fn with_white_images() -> Workplace {
    let workplace = Workplace::with_images(9, 100);
    for (name, side) in [("2", 8), ("6", 9)] {
        let white = image::RgbImage::from_pixel(side, side, image::Rgb([255; 3]));
        white.save(workplace.path(&format!("photos/{name}.png"))).unwrap();
    }
    let columns = vec![
        ("id", strings((0..10).map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings((0..10).map(|row| Some(photo(if row == 9 { 2 } else { row }))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("text = \"title\"\n", ""));
    workplace
}

#[test]
fn images_that_the_encoder_fails_on_are_failed_rows() {
    let (workplace, model) = (with_white_images(), vision_model(0));
    let output = workplace.run(&["--set", &format!("model.path={}", model.path().display())]);
    assert_eq!(output.status.code(), Some(0), "{}", log_of(&output));
    let rows = workplace.rows("out", None);
    let white = |row: u32| [2, 6, 9].contains(&row);
    let expected: Vec<_> = (0..10).map(|row| white(row).then(|| "model_error".to_owned())).collect();
    assert_eq!(rows.text("error_kind"), expected, "{:?}", rows.text("error_message"));
    assert_eq!(rows.vectors("image_embedding").iter().filter(|vector| vector.is_some()).count(), 7);
    assert_eq!(rows.text("error_stage").iter().flatten().collect::<Vec<_>>(), ["encode"; 3]);
}

#[test]
fn a_broken_graph_makes_no_failed_row() {
    let (workplace, model) = (with_white_images(), vision_model(1));
    let model = format!("model.path={}", model.path().display());
    for limit in ["10", "3", "1"] {
        let output = workplace.run(&["--run-id", "night", "--limit", limit, "--set", &model]);
        let log = log_of(&output);
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains("it fails without any row of the job too"), "{log}");
        assert!(workplace.parts("out", "night").is_empty());
        std::fs::remove_dir_all(workplace.path("out")).unwrap();
    }
}

#[test]
fn one_device_that_fails_stops_the_others_at_once() {
    let workplace = Workplace::with_images(8, 4);
    let model = model_without_zebras(&workplace);
    // The first image of the first device never arrives, and its timeout is longer than this test.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}/never.png", server.local_addr().unwrap());
    write_manifest(&workplace, 8, &[4, 5, 6, 7], |row| if row == 0 { silent.clone() } else { photo(row) });
    for device in ["cpu", "stand-in"] {
        let devices = format!("runtime.devices=[\"{device}\", \"{device}\"]");
        let output = format!("output.path={device}");
        let mut command = workplace.command("run", &["--run-id", "night", "--set", &model, "--set", &devices]);
        command.args(["--set", "limits.fetch_timeout_ms=600000", "--set", &output]);
        command.args(["--set", "limits.allow_private_hosts=127.0.0.1"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_mins(2) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let log = log_of(&output);
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains("stopping the work on all devices") && log.contains("lane=1"), "{log}");
        assert!(log.contains("each of 4 rows of a batch fails alone"), "{log}");
        assert!(workplace.published(device).is_empty());
    }
}

#[test]
fn a_panic_of_any_thread_ends_the_command_with_a_status_that_schedulers_know() {
    let workplace = Workplace::with_images(4, 2);
    // In the thread that plans, and in the one that writes.
    for (point, thread) in [("before_compare:1", "the command"), ("before_part:2", "write")] {
        let mut command = nightcap_json(&workplace);
        let output = command.env("NIGHTCAP_PANIC_AT", point).output().unwrap();
        let log = log_of(&output);
        assert_eq!(output.status.code(), Some(2), "{point}: {log}");
        assert!(log.contains(&format!("internal error: {thread} panicked")) && log.contains("failpoint.rs"), "{log}");
        for line in log.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "every line is JSON: {line}");
        }
        assert!(workplace.published("out").is_empty());
    }
    assert_eq!(workplace.parts("out", "night").len(), 1, "what was written before stays");
    workplace.run_ok(&["--run-id", "night"]);
    assert_eq!(workplace.rows("out", None).len(), 4);
}

fn nightcap_json(workplace: &Workplace) -> std::process::Command {
    let mut command = crate::common::nightcap();
    command.args(["--log-format", "json", "run"]).arg(workplace.path("job.toml")).args(["--run-id", "night"]);
    command
}
