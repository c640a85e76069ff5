//! A bad job never starts: exit status 2 and a message that a stranger can act on.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};

use crate::common::{Workplace, nightcap, repo, strings, write_parquet};

/// The exit status and stderr of a run, without the parts that differ between machines.
fn refusal(workplace: &Workplace, arguments: &[&str]) -> String {
    let output = workplace.run(arguments);
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    let folder = workplace.folder.path().canonicalize().unwrap();
    let text = text.replace(folder.to_str().unwrap(), "FOLDER").replace(workplace.folder.path().to_str().unwrap(), "FOLDER");
    let text = text.replace(repo("").to_str().unwrap(), "REPO/");
    format!("exit {}\n{text}", output.status.code().unwrap())
}

#[test]
fn job_files() {
    let workplace = Workplace::with_pictures(2, 2);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("key = ", "kye = "));
    insta::assert_snapshot!(refusal(&workplace, &[]), @"");
    workplace.job(&format!("{job}\n[outputs]\n"));
    insta::assert_snapshot!(refusal(&workplace, &[]), @"");
    workplace.job(&job.replace("part_rows = 2", "part_rows = \"two\""));
    insta::assert_snapshot!(refusal(&workplace, &[]), @"");
    workplace.job(&job.replace("[input]", "[input"));
    insta::assert_snapshot!(refusal(&workplace, &[]), @"");
    workplace.job(&job.replace("key = \"id\"\n", ""));
    insta::assert_snapshot!(refusal(&workplace, &[]), @"");
    workplace.job(&job);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "generation.num_beams=3"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "generation.strategy=beam"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "runtime.batch_size=0"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "batch_size=8"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--full"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--shard", "0/2"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--run-id", "20261123"]), @"");
    assert!(!workplace.path("out").exists(), "nothing was written");
}

#[test]
fn manifests() {
    let workplace = Workplace::with_pictures(2, 2);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.image=picture"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=nothing-*.parquet"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.where=\"wdith > 3\""]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.where=\"id\""]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.columns=[\"nope\"]"]), @"");
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let columns = || vec![("id", strings([Some("a"), Some("b")])), ("image", numbers.clone())];
    write_parquet(&workplace.path("numbers.parquet"), columns(), 10);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=numbers.parquet"]), @"");
    let mut colliding = columns();
    colliding[1] = ("image", strings([Some("photos/0.png"), Some("photos/1.png")]));
    colliding.push(("caption", strings([Some("a"), Some("b")])));
    write_parquet(&workplace.path("colliding.parquet"), colliding, 10);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=colliding.parquet"]), @"");
    std::fs::write(workplace.path("text.parquet"), "id,image\n").unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=text.parquet"]), @"");
    let both = "input.manifest=[\"manifest.parquet\", \"numbers.parquet\"]";
    insta::assert_snapshot!(refusal(&workplace, &["--set", both]), @"");
}

#[test]
fn models() {
    let workplace = Workplace::with_pictures(2, 2);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "model.path=nowhere"]), @"");
    let copy = workplace.path("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    std::fs::remove_file(copy.join("text_model.onnx")).unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "model.path=model"]), @"");
    std::fs::remove_file(copy.join("tokenizer.json")).unwrap();
    let inspect = nightcap().args(["model", "inspect"]).arg(&copy).output().unwrap();
    assert_eq!(inspect.status.code(), Some(2));
    let text = String::from_utf8(inspect.stdout).unwrap();
    assert!(text.contains("tokenizer.json") && text.contains("text_hidden_states"), "{text}");
}

#[test]
fn runtimes() {
    let workplace = Workplace::with_pictures(2, 2);
    let output = workplace.command("run", &[]).env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nowhere/libonnxruntime.so") && text.contains("pip install onnxruntime"), "{text}");
}

#[test]
fn outputs() {
    let workplace = Workplace::with_pictures(2, 2);
    std::fs::write(workplace.path("file"), "").unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.path=file/out"]), @"");
    workplace.run_ok(&[]);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "embedding.dtype=f16"]), @"");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.columns=[\"id\"]"]), @"");
}

#[test]
fn commands_that_are_not_built_yet() {
    for command in [&["discard", "out", "--run-id", "r"][..], &["compact", "out"], &["search", "out", "dogs"], &["report", "out"], &["eval", "out"], &["model", "prepare", "dir"]] {
        let output = nightcap().args(command).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text.contains("is not supported yet"), "{command:?}: {text}");
    }
    let output = nightcap().args(["finalise", "out"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @"");
}
