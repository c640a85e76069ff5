//! A bad job never starts: exit status 2 and a message that says what to do.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};

use crate::common::{Workplace, nightcap, repo, strings, write_parquet};

/// The exit status and stderr of a run, without the parts that differ between machines.
fn refusal(workplace: &Workplace, arguments: &[&str]) -> String {
    let output = workplace.run(arguments);
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    let folder = workplace.folder.path().canonicalize().unwrap();
    let text =
        text.replace(folder.to_str().unwrap(), "FOLDER").replace(workplace.folder.path().to_str().unwrap(), "FOLDER");
    let text = text.replace(repo("").to_str().unwrap(), "REPO/");
    // logged where the model is opened before the refusal
    let text: String = text.split_inclusive('\n').filter(|line| !line.contains("INFO loaded ONNX Runtime ")).collect();
    format!("exit {}\n{text}", output.status.code().unwrap())
}

#[test]
fn job_files() {
    let workplace = Workplace::with_images(2, 2);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("key = ", "kye = "));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r"
    exit 2
    error: FOLDER/job.toml:3: unknown key `input.kye`
    hint: did you mean `key`?
    ");
    workplace.job(&job.replace("[model]\n", ""));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r"
    exit 2
    error: FOLDER/job.toml:6: unknown key `input.path`
    hint: `path` is a key of [model] and [output]; is that line missing above it?
    ");
    workplace.job(&format!("{job}\n[outputs]\n"));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r"
    exit 2
    error: FOLDER/job.toml:15: unknown section [outputs]
    hint: did you mean [output]?
    ");
    workplace.job(&job.replace("part_rows = 2", "part_rows = \"two\""));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r#"
    exit 2
    error: FOLDER/job.toml: invalid type: string "two", expected a whole number
    in `output.part_rows`
    "#);
    workplace.job(&job);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "limits.max_failed_fraction=few"]), @r#"
    exit 2
    error: --set `limits.max_failed_fraction`: invalid type: string "few", expected a number
    in `limits.max_failed_fraction`
    "#);
    workplace.job(&job.replace("[input]", "[input"));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r"
    exit 2
    error: FOLDER/job.toml:1:7: unclosed table, expected `]`
    ");
    workplace.job(&job.replace("key = \"id\"\n", ""));
    insta::assert_snapshot!(refusal(&workplace, &[]), @r"
    exit 2
    error: FOLDER/job.toml: `input.key` is missing: the column that names a row
    ");
    workplace.job(&job);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "generation.num_beams=0"]), @r"
    exit 2
    error: FOLDER/job.toml: `generation.num_beams`: expected 1 to 64, found 0
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "generation.strategy=beams"]), @r#"
    exit 2
    error: FOLDER/job.toml: `generation.strategy`: expected one of "greedy", "beam", "sample", found "beams"
    "#);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "runtime.batch_size=0"]), @r"
    exit 2
    error: FOLDER/job.toml: `runtime.batch_size`: expected 1 to 4096, found 0
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "batch_size=8"]), @r"
    exit 2
    error: --set `batch_size`: `--set`: expected section.key=value, as in runtime.batch_size=8, found no section
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--shard", "0/2"]), @r"
    exit 2
    error: a shard needs --run-id, so that all shards work on one run
    hint: give every shard the same id, as in --run-id r20261123
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--run-id", "20261123"]), @r#"
    exit 2
    error: --run-id "20261123": expected a lower-case letter, then letters, digits, `_` or `-`, as in r20261123t041500z
    "#);
    assert!(!workplace.path("out").exists(), "nothing was written");
}

#[test]
fn manifests() {
    let workplace = Workplace::with_images(2, 2);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.image=picture"]), @r"
    exit 2
    error: `input.image` names column `picture`, which FOLDER/manifest.parquet does not have
    hint: its columns are id, image, title
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=nothing-*.parquet"]), @r"
    exit 2
    error: no manifest file matches FOLDER/nothing-*.parquet
    hint: relative paths in a job file start at its folder, those on the command line at the current one
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.where=\"wdith > 3\""]), @r#"
    exit 2
    error: `input.where` = "wdith > 3" cannot be evaluated on FOLDER/manifest.parquet: not found: unable to find column "wdith"; valid columns: ["id", "image", "title"]
    hint: it is a SQL expression over the manifest's columns that is true or false, as in "width >= 200 AND lang = 'en'"; write text in single quotes
    "#);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.where=\"id\""]), @r#"
    exit 2
    error: `input.where` = "id" cannot be evaluated on FOLDER/manifest.parquet: expected true or false, found str
    hint: it is a SQL expression over the manifest's columns that is true or false, as in "width >= 200 AND lang = 'en'"; write text in single quotes
    "#);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.columns=[\"nope\"]"]), @r"
    exit 2
    error: `output.columns` names column `nope`, which FOLDER/manifest.parquet does not have
    hint: its columns are id, image, title
    ");
    assert!(std::process::Command::new("mkfifo").arg(workplace.path("pipe.parquet")).status().unwrap().success());
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=pipe.parquet"]), @r"
    exit 2
    error: cannot read the manifest FOLDER/pipe.parquet: expected a regular file, found a named pipe
    ");
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let columns = || vec![("id", strings([Some("a"), Some("b")])), ("image", numbers.clone())];
    write_parquet(&workplace.path("numbers.parquet"), columns(), 10);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=numbers.parquet"]), @r"
    exit 2
    error: `input.image` names column `image` of FOLDER/numbers.parquet: expected a string column (paths), a binary column (image bytes) or a struct {bytes, path}, found Float64
    ");
    let mut colliding = columns();
    colliding[1] = ("image", strings([Some("photos/0.png"), Some("photos/1.png")]));
    colliding.push(("caption", strings([Some("a"), Some("b")])));
    write_parquet(&workplace.path("colliding.parquet"), colliding, 10);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=colliding.parquet"]), @r"
    exit 2
    error: the manifest's column `caption` has the name of another column of the output (upper and lower case count as the same)
    hint: leave it out with `output.columns`, or rename it in the manifest
    ");
    std::fs::write(workplace.path("text.parquet"), "id,image\n").unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "input.manifest=text.parquet"]), @r"
    exit 2
    error: the manifest FOLDER/text.parquet is not readable as Parquet: Parquet error: Invalid Parquet file. Corrupt footer
    hint: files named .csv, .tsv, .jsonl, .ndjson, .tar and .arrow are read as such; DuckDB converts other formats: COPY (FROM 'FILE') TO 'FILE.parquet'
    ");
    let twice = "input.manifest=[\"manifest.parquet\", \"man*.parquet\"]";
    insta::assert_snapshot!(refusal(&workplace, &["--set", twice]), @r"
    exit 2
    error: `input.manifest` names FOLDER/manifest.parquet twice, so each of its rows would come out twice
    hint: list every file once
    ");
    let both = "input.manifest=[\"manifest.parquet\", \"numbers.parquet\"]";
    insta::assert_snapshot!(refusal(&workplace, &["--set", both]), @r"
    exit 2
    error: FOLDER/numbers.parquet and FOLDER/manifest.parquet differ in column `image`: `image` Float64 against `image` Utf8
    hint: give files with the same columns, or leave the column out with `output.columns`
    ");
}

#[test]
fn models() {
    let workplace = Workplace::with_images(2, 2);
    insta::assert_snapshot!(refusal(&workplace, &["--set", "model.path=nowhere"]), @r"
    exit 2
    error: the model directory FOLDER/nowhere cannot run:
    .: expected a directory, found nothing
    ");
    let copy = workplace.path("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    std::fs::rename(copy.join("decoder_with_past_model.onnx"), workplace.path("decoder.onnx")).unwrap();
    let explicit = ["--set", "model.path=model", "--set", "generation.enabled=true"];
    insta::assert_snapshot!(refusal(&workplace, &explicit), @r"
    exit 2
    error: `generation.enabled` = true is not possible here: it needs a decoder graph
    hint: leave the key out to write what the model in FOLDER/model can make
    ");
    std::fs::rename(workplace.path("decoder.onnx"), copy.join("decoder_with_past_model.onnx")).unwrap();
    std::fs::remove_file(copy.join("text_model.onnx")).unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "model.path=model"]), @r#"
    exit 2
    error: the model directory FOLDER/model cannot run:
    fusion.onnx: input "text_hidden_states": it is fed by text.last_hidden_state, but there is no text graph
      hint: add text_model.onnx, or bind the input to another output in nightcap.toml
    "#);
    std::fs::remove_file(copy.join("tokenizer.json")).unwrap();
    let inspect = nightcap().args(["model", "inspect"]).arg(&copy).output().unwrap();
    assert_eq!(inspect.status.code(), Some(2));
    let text = String::from_utf8(inspect.stdout).unwrap();
    assert!(text.contains("tokenizer.json") && text.contains("text_hidden_states"), "{text}");
    let inspect = nightcap().args(["model", "inspect", "nowhere"]).output().unwrap();
    assert_eq!((inspect.status.code(), inspect.stdout.as_slice()), (Some(2), &b""[..]));
    insta::assert_snapshot!(String::from_utf8(inspect.stderr).unwrap(), @r"
    error: the model directory nowhere cannot run:
    .: expected a directory, found nothing
    ");
}

#[test]
fn outputs() {
    let workplace = Workplace::with_images(2, 2);
    for command in [&["status"][..], &["finalize", "--run-id", "r1"], &["discard", "--run-id", "r1"], &["compact"]] {
        let output = nightcap().args(command).arg("nowhere").current_dir(workplace.folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @r"
            error: expected an OUTPUT, found nothing: nowhere
            hint: give the folder that `output.path` of the job names; here, relative paths start at the current folder
            ");
        }
        assert!(!workplace.path("nowhere").exists(), "{command:?}");
    }
    std::fs::write(workplace.path("file"), "").unwrap();
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.path=file/out"]), @r"
    exit 2
    error: cannot use the output folder FOLDER/file/out: Not a directory (os error 20)
    hint: `output.path` must be a folder this user may create and write
    ");
    workplace.run_ok(&[]);
    let other_key = refusal(&workplace, &["--set", "input.key=image"]);
    let run = other_key.split_once("of run ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("none");
    insta::assert_snapshot!(other_key.replace(run, "RUN"), @r"
    exit 2
    error: this job's key is `image`, that of run RUN in OUTPUT is `id`
    hint: one OUTPUT has one key; give this job another `output.path`
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "embedding.dtype=f16"]), @r"
    exit 2
    error: this job's columns differ from those already in OUTPUT: `fused_embedding FixedSizeList(16 x non-null Float32, field: 'element')`, `image_embedding FixedSizeList(16 x non-null Float32, field: 'element')`, `text_embedding FixedSizeList(16 x non-null Float32, field: 'element')` there, `fused_embedding FixedSizeList(16 x non-null Float16, field: 'element')`, `image_embedding FixedSizeList(16 x non-null Float16, field: 'element')`, `text_embedding FixedSizeList(16 x non-null Float16, field: 'element')` here
    hint: one OUTPUT has one schema: write the manifest's columns as they are there, or choose them with `output.columns`; only another `output.path`, for which every row is computed again, may have others
    ");
    insta::assert_snapshot!(refusal(&workplace, &["--set", "output.columns=[\"id\"]"]), @r"
    exit 2
    error: this job's columns differ from those already in OUTPUT: `image Utf8`, `title Utf8` there, nothing here
    hint: one OUTPUT has one schema: write the manifest's columns as they are there, or choose them with `output.columns`; only another `output.path`, for which every row is computed again, may have others
    ");
}

#[test]
fn unknown_commands() {
    let refused = |arguments: &[&str]| {
        let output = nightcap().args(arguments).output().unwrap();
        assert!(output.stdout.is_empty());
        format!("exit {}\n{}", output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    insta::assert_snapshot!(refused(&["finalise", "out"]), @r"
    exit 2
    error: unrecognized subcommand 'finalise'

      tip: some similar subcommands exist: 'init', 'finalize'

    Usage: nightcap [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["vacuum", "out"]), @r"
    exit 2
    error: unrecognized subcommand 'vacuum'

    Usage: nightcap [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["model", "inspekt", "dir"]), @r"
    exit 2
    error: unrecognized subcommand 'inspekt'

      tip: a similar subcommand exists: 'inspect'

    Usage: nightcap model [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
}
