//! `nightcap init`: from a manifest or a folder to a job file that runs.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, StructArray};
use arrow::datatypes::{DataType, Field};
use nightcap::engine::GenerationSettings;
use nightcap::job::Job;
use nightcap::model::ModelDirectory;

use crate::common::{Workplace, nightcap, png_image, read_parquet, repo, strings, write_parquet};
use crate::manifest_command::{manifest, said};

fn init(workplace: &Workplace, arguments: &[&str]) -> Command {
    let mut command = nightcap();
    command.arg("init").args(arguments).current_dir(workplace.folder.path());
    command
}

/// A workplace with a folder of images and, at `model/`, the tiny model.
fn with_photos() -> Workplace {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("photos")).unwrap();
    for row in 0..3 {
        std::fs::write(workplace.path(&format!("photos/{row}.png")), png_image(row)).unwrap();
    }
    std::os::unix::fs::symlink(repo("tests/fixtures/tiny_model"), workplace.path("model")).unwrap();
    workplace
}

/// Runs `job.toml`, whose three rows must come out well.
fn run(workplace: &Workplace) {
    let output = nightcap().args(["run", "job.toml"]).current_dir(workplace.folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("status"), vec![Some("ok".to_owned()); 3]);
    assert!(rows.text("caption").iter().all(Option::is_some));
}

#[test]
fn three_commands_from_images_to_captions() {
    let workplace = with_photos();
    assert!(manifest(&workplace, &["photos", "-o", "manifest.parquet"]).status().unwrap().success());
    let output = init(&workplace, &["manifest.parquet"]).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r#"
    exit 0
    INFO key = "id": found by its name; it holds text
    INFO image = "image": found by its name; it holds text
    INFO model = "model": found there
    INFO wrote the job; next: nightcap run job.toml file=job.toml
    "#);
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    insta::assert_snapshot!(text.split("[generation]").next().unwrap(), @r#"
    # A nightcap job, for `nightcap run`. Paths are relative to this file's folder.
    # A line that begins with # shows the key's default, or an example where it says so.

    [input]
    manifest = "manifest.parquet"         # a file, folder, glob or URI, or a list: Parquet, CSV, JSON Lines, tar shards, images
    key = "id"                            # the column that names a row: text or whole numbers, each value once
    image = "image"                       # the column with paths (relative to the manifest), URIs, image bytes, or the struct {bytes, path}
    # text = "title"                      # (example) a text that comes with the image and helps its caption
    # where = "lang = 'en'"               # (example) a SQL condition on the manifest's columns
    # signature = ["etag"]                # (example) columns that change when the row's content does; default: size and time as the storage lists them
    # on_duplicate_key = "error"          # or "first": take the first row of a key, leave the others out
    # jpeg_scaling = false                # true: large JPEGs are decoded at 1/2, 1/4 or 1/8 where that is twice the size the model resizes to

    [model]
    path = "model"                        # a model directory; `nightcap model inspect DIR` says what it can do
    # precision = "fp16"                  # (example) take NAME_fp16.onnx instead of NAME.onnx

    # Names and meanings are those of transformers. A default applies if the model's generation_config.json says nothing.
    "#);
    run(&workplace);
}

#[test]
fn a_folder_of_images_gets_its_manifest_too() {
    let workplace = with_photos();
    let output = init(&workplace, &["photos"]).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r#"
    exit 0
    INFO wrote the manifest images=3 bytes=10665 file=manifest.parquet
    INFO key = "id": found by its name; it holds text
    INFO image = "image": found by its name; it holds text
    INFO model = "model": found there
    INFO wrote the job; next: nightcap run job.toml file=job.toml
    "#);
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    assert!(
        text.contains("# To list new images in manifest.parquet: nightcap manifest \"photos\" -o manifest.parquet\n"),
        "{text}"
    );
    run(&workplace);
    // A folder of manifests is one manifest.
    std::fs::remove_file(workplace.path("job.toml")).unwrap();
    assert!(init(&workplace, &["."]).status().unwrap().success());
    let job = Job::load(&workplace.path("job.toml"), &[]).unwrap();
    assert_eq!(job.input.manifest[0].local(), Some(&*workplace.folder.path().canonicalize().unwrap()));
}

#[test]
fn nothing_is_overwritten() {
    let workplace = with_photos();
    std::fs::write(workplace.path("job.toml"), "mine").unwrap();
    insta::assert_snapshot!(said(&workplace, &init(&workplace, &["photos"]).output().unwrap()), @r"
    exit 2
    error: job.toml exists already, and nothing was written
    hint: give another name with -o, or remove it first
    ");
    assert_eq!(std::fs::read(workplace.path("job.toml")).unwrap(), b"mine");
    assert!(!workplace.path("manifest.parquet").exists());
    std::fs::write(workplace.path("manifest.parquet"), "mine").unwrap();
    insta::assert_snapshot!(said(&workplace, &init(&workplace, &["photos", "-o", "new.toml"]).output().unwrap()), @r#"
    exit 2
    error: manifest.parquet exists already, and nothing was written
    hint: to use it: nightcap init manifest.parquet
    "#);
    assert_eq!(std::fs::read(workplace.path("manifest.parquet")).unwrap(), b"mine");
    assert!(!workplace.path("new.toml").exists());
}

#[test]
fn without_a_model_the_job_says_what_to_fill_in() {
    let workplace = with_photos();
    std::fs::remove_file(workplace.path("model")).unwrap();
    let output = init(&workplace, &["photos"]).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r#"
    exit 0
    INFO wrote the manifest images=3 bytes=10665 file=manifest.parquet
    INFO key = "id": found by its name; it holds text
    INFO image = "image": found by its name; it holds text
    WARN found no model directory in model/ or sample_data/model/: fill in `path` below [model] before the run, or name it with --model DIR
    INFO wrote the job; next: fill in the model, then nightcap run job.toml file=job.toml
    "#);
    insta::assert_snapshot!(said(&workplace, &workplace.run(&[])), @r#"
    exit 2
    error: FOLDER/job.toml: `model.path` is missing: the model directory
    hint: write path = "DIR" below [model]; `nightcap model inspect DIR` says what a directory can do
    "#);
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&text.replace("# path = \"DIR\"", &format!("path = {:?}", repo("tests/fixtures/tiny_model"))));
    run(&workplace);
}

#[test]
fn paths_are_those_of_the_job_files_folder() {
    let workplace = with_photos();
    for folder in ["jobs", "data"] {
        std::fs::create_dir(workplace.path(folder)).unwrap();
    }
    assert!(manifest(&workplace, &["photos", "-o", "data/a.parquet"]).status().unwrap().success());
    let folder = workplace.folder.path().canonicalize().unwrap();
    let load = |arguments: &[&str], file: &str| {
        let output = init(&workplace, arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&workplace, &output));
        let text = std::fs::read_to_string(workplace.path(file)).unwrap();
        let written = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        let manifest = written("manifest = ").split("  # ").next().unwrap().trim().to_owned();
        (Job::load(&workplace.path(file), &[]).unwrap(), manifest)
    };
    let (job, manifest) = load(&["data/a.parquet", "-o", "one.toml"], "one.toml");
    assert_eq!(manifest, "\"data/a.parquet\"");
    assert_eq!(job.model.path.local(), Some(&*folder.join("model")));
    let (job, manifest) = load(&["data/a.parquet", "-o", "jobs/two.toml", "--model", "model"], "jobs/two.toml");
    assert_eq!(manifest, format!("{:?}", folder.join("data/a.parquet")));
    assert_eq!(job.model.path.local(), Some(&*folder.join("model")));
    assert_eq!(job.output.path.local(), Some(&*folder.join("jobs/out")));
    let (_, manifest) = load(&["data/*.parquet", "-o", "three.toml"], "three.toml");
    assert_eq!(manifest, "\"data/*.parquet\"");
    let (_, manifest) = load(&["data/*.parquet", "-o", "jobs/four.toml", "--model", "model"], "jobs/four.toml");
    assert!(manifest.ends_with("/data/*.parquet\"") && manifest.starts_with("\"/"), "{manifest}");
    for job in ["jobs/two.toml", "three.toml", "jobs/four.toml"] {
        let plan = nightcap().arg("plan").arg(workplace.path(job)).output().unwrap();
        assert!(String::from_utf8_lossy(&plan.stdout).contains("3 selected"), "{job}: {plan:?}");
    }
}

#[test]
fn the_struct_of_hugging_face() {
    let workplace = with_photos();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..3).map(png_image)));
    let path = strings([None::<&str>; 3]);
    let field = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    let image: ArrayRef = Arc::new(StructArray::from(vec![
        (field("bytes", DataType::Binary), bytes),
        (field("path", DataType::Utf8), path),
    ]));
    let names = strings([Some("a"), Some("b"), Some("c")]);
    write_parquet(&workplace.path("hf.parquet"), vec![("image", image), ("file_name", names)], 10);
    let output = init(&workplace, &["hf.parquet"]).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r#"
    exit 0
    INFO key = "file_name": found by its name; it holds text
    INFO image = "image": found by its name; it holds the struct {bytes, path}
    INFO model = "model": found there
    INFO wrote the job; next: nightcap run job.toml file=job.toml
    "#);
    run(&workplace);
}

#[test]
fn paths_can_be_keys_and_images_at_once() {
    let workplace = with_photos();
    let paths = strings((0..3).map(|row| Some(format!("photos/{row}.png"))));
    write_parquet(&workplace.path("paths.parquet"), vec![("path", paths)], 10);
    assert!(init(&workplace, &["paths.parquet"]).status().unwrap().success());
    run(&workplace);
}

#[test]
fn refusals() {
    let workplace = with_photos();
    let column = || strings([Some("a")]);
    write_parquet(&workplace.path("odd.parquet"), vec![("sku", column()), ("front", column())], 10);
    std::fs::write(workplace.path("list.csv"), "id,image\n").unwrap();
    let refused = |arguments: &[&str]| said(&workplace, &init(&workplace, arguments).output().unwrap());
    insta::assert_snapshot!(refused(&["odd.parquet"]), @r#"
    exit 2
    error: cannot tell which column of FOLDER/odd.parquet has the images: expected a string column (paths), a binary column (image bytes) or a struct {bytes, path} with a usual name
    hint: name it with --image COLUMN; the columns are sku (text), front (text)
    "#);
    insta::assert_snapshot!(refused(&["odd.parquet", "--image", "front"]), @r#"
    exit 2
    error: cannot tell which column of FOLDER/odd.parquet has the keys: expected a string or integer column with a usual name
    hint: name it with --key COLUMN; the columns are sku (text), front (text)
    "#);
    insta::assert_snapshot!(refused(&["odd.parquet", "--image", "back", "--key", "sku"]), @r#"
    exit 2
    error: `--image` names column `back`, which FOLDER/odd.parquet does not have
    hint: its columns are sku, front
    "#);
    insta::assert_snapshot!(refused(&["nowhere.parquet"]), @r#"
    exit 2
    error: expected a manifest or a folder of images, found nothing: nowhere.parquet
    "#);
    insta::assert_snapshot!(refused(&["nowhere-*.parquet"]), @r#"
    exit 2
    error: no manifest file matches FOLDER/nowhere-*.parquet
    hint: relative paths in a job file start at its folder, those on the command line at the current one
    "#);
    insta::assert_snapshot!(refused(&["list.csv"]), @r#"
    exit 2
    error: the manifest FOLDER/list.csv is not readable: expected rows below a line with the names of the columns, found none
    "#);
    insta::assert_snapshot!(refused(&["photos", "--model", "nowhere"]), @r"
    exit 2
    error: --model nowhere: there is no such directory
    hint: `nightcap model inspect DIR` says whether a directory can run
    ");
    insta::assert_snapshot!(refused(&["photos", "-o", "nowhere/job.toml"]), @r"
    exit 2
    error: -o nowhere/job.toml: cannot use its folder: No such file or directory (os error 2)
    ");
    assert!(!workplace.path("job.toml").exists() && !workplace.path("manifest.parquet").exists());
    assert!(init(&workplace, &["odd.parquet", "--image", "front", "--key", "sku"]).status().unwrap().success());
}

/// The keys of a section that are shown with a default, each as a line.
fn defaults(section: &str) -> Vec<String> {
    let workplace = with_photos();
    assert!(init(&workplace, &["photos"]).status().unwrap().success());
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    let begin = text.split(&format!("[{section}]\n")).nth(1).unwrap();
    let lines = begin.lines().take_while(|line| !line.starts_with('[') && !line.is_empty());
    let lines = lines.filter(|line| line.contains(" = ") && !line.contains("# (example)"));
    lines.map(|line| line.trim_start_matches("# ").to_owned()).collect()
}

#[test]
fn the_defaults_of_generation_are_those_of_a_model_that_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let ids = r#"{"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}"#;
    std::fs::write(folder.path().join("generation_config.json"), ids).unwrap();
    // Room for the default of 20 tokens.
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let config = config.replace("\"max_position_embeddings\": 16", "\"max_position_embeddings\": 64");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let model = ModelDirectory::open(folder.path(), None).unwrap();
    let resolve = |lines: &str| {
        let text = format!(
            "[input]\nmanifest = \"m\"\nkey = \"k\"\nimage = \"i\"\n[model]\npath = \"m\"\n[output]\npath = \"o\"\n\
             [generation]\n{lines}\n"
        );
        let job = Job::parse(&text, "job.toml", Path::new("/"), &[]).ok()?;
        GenerationSettings::resolve(&model, &job.generation.overrides).ok()
    };
    let lines = defaults("generation");
    assert!(lines.len() > 10, "{lines:?}");
    for line in lines.iter().filter(|line| !line.starts_with("enabled")) {
        // A key of one strategy is refused by the others.
        let strategies = ["", "strategy = \"beam\"\nnum_beams = 2", "strategy = \"sample\""];
        let accepted =
            strategies.iter().filter_map(|strategy| Some((strategy, resolve(&format!("{strategy}\n{line}"))?)));
        let mut count = 0;
        for (strategy, settings) in accepted {
            assert_eq!(Some(settings), resolve(strategy), "{line}");
            count += 1;
        }
        assert!(count > 0, "{line} is refused by every strategy");
    }
}

#[test]
fn what_the_model_can_is_the_default() {
    let workplace = with_photos();
    assert!(manifest(&workplace, &["photos", "-o", "manifest.parquet"]).status().unwrap().success());
    let images = read_parquet(&workplace.path("manifest.parquet"));
    let columns =
        vec![("id", images.column(0).clone()), ("image", images.column(1).clone()), ("title", strings([Some("a"); 3]))];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    assert!(init(&workplace, &["manifest.parquet"]).status().unwrap().success());
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    let plan = |text: &str| {
        workplace.job(text);
        let output = workplace.command("plan", &[]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = plan(&text);
    assert!(expected.contains("caption_similarity") && expected.contains("fused_embedding"), "{expected}");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("true if the model can")).collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        assert_eq!(plan(&text.replace(line, line.trim_start_matches("# "))), expected, "{line}");
    }
}
