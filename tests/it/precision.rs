//! `nightcap model prepare DIR --precision P -o DIR2`: converted directories run, and differ by rounding only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use nightcap::model::{ModelDirectory, Role};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Workplace, nightcap, repo, said};

/// A copy of the fixture `model` with `files` of its graphs (none: all in float32).
fn source(model: &str, files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_tree(&repo("tests/fixtures").join(model), folder.path(), &|name| {
        let is_graph = name.contains(".onnx");
        !is_graph || if files.is_empty() { !name.contains("_fp16") } else { files.contains(&name) }
    });
    folder
}

fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            copy_tree(&path, &to.join(&name), wanted);
        } else if wanted(&name) {
            std::fs::copy(path, to.join(name)).unwrap();
        }
    }
}

fn prepare(from: &Path, to: &Path, precision: &str, more: &[&str]) -> Output {
    let mut command = nightcap();
    command.args(["model", "prepare"]).arg(from).args(["--precision", precision, "-o"]).arg(to).args(more);
    command.output().unwrap()
}

/// Converts `from` to float16 and gives the report.
fn converted(from: &Path, to: &Path, more: &[&str]) -> Value {
    let ended = prepare(from, to, "fp16", &[&["--json"], more].concat());
    assert!(ended.status.success(), "{}", said(&ended));
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// A folder with so many of the sample photographs.
fn photographs(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut photos: Vec<_> =
        std::fs::read_dir(repo("sample_data/photos")).unwrap().map(|entry| entry.unwrap().path()).collect();
    photos.sort();
    for photo in photos.iter().filter(|photo| photo.extension().is_some_and(|kind| kind == "jpg")).take(count) {
        std::fs::copy(photo, folder.path().join(photo.file_name().unwrap())).unwrap();
    }
    folder
}

/// The files of a folder by their paths in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries =
        walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    entries
        .map(|entry| (entry.path().strip_prefix(folder).unwrap().to_owned(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn families_differ_by_rounding_only() {
    let photos = photographs(6);
    let photos = photos.path().to_str().unwrap();
    let asked = ["--set", "generation.prompt=\"Describe this image.\"", "--set", "generation.max_new_tokens=10"];
    let merged = ["encoder_model.onnx", "decoder_model_merged.onnx"];
    for (model, graphs, more) in [
        ("models/vit_gpt2", &[][..], &[][..]),
        ("models/vit_gpt2", &merged, &[]),
        ("models/blip", &[], &[]),
        ("models/clip", &[], &[]),
        ("models/smolvlm", &[], &asked),
        ("models/llava", &[], &asked),
        ("models/florence2", &[], &["--set", "generation.prompt=\"<CAPTION>\""]),
    ] {
        let (from, work) = (source(model, graphs), tempfile::tempdir().unwrap());
        let report = converted(from.path(), &work.path().join("half"), &[&["--sample", photos], more].concat());
        let difference = &report["difference"];
        assert_eq!((&difference["rows"], &difference["compared"]), (&6.into(), &6.into()), "{model}");
        for vectors in difference["vectors"].as_array().unwrap() {
            assert!(vectors["cosine_min"].as_f64().unwrap() > 0.9999, "{model}: {vectors}");
        }
        let captions = &difference["captions"];
        assert_eq!(captions.is_null(), model == "models/clip", "{model}");
        // the logits differ by 0.2 % of their range; with random weights, the two largest often differ by less
        assert!(captions["changed"].as_u64().unwrap_or(0) <= 2, "{model}: {captions}");
        for graph in report["graphs"].as_array().unwrap() {
            let (nodes, in_float32) = (graph["nodes"].as_u64().unwrap(), graph["in_float32"].as_u64().unwrap());
            assert!(in_float32 * 2 < nodes, "{model}: {graph}");
        }
    }
}

#[test]
fn a_converted_directory_runs_with_and_without_its_precision() {
    let (from, work) = (source("tiny_model", &[]), tempfile::tempdir().unwrap());
    let half = work.path().join("half");
    converted(from.path(), &half, &[]);
    let workplace = Workplace::with_images(5, 5);
    let model = format!("model.path={:?}", half.display().to_string());
    workplace.run_ok(&["--run-id", "single"]);
    workplace.run_ok(&["--run-id", "half", "--set", &model, "--set", "output.path=half"]);
    workplace.run_ok(&[
        "--run-id",
        "half",
        "--set",
        &model,
        "--set",
        "model.precision=fp16",
        "--set",
        "output.path=named",
    ]);
    assert_eq!(workplace.parts("half", "half"), workplace.parts("named", "half"));
    let (single, half) = (workplace.rows("out", Some("single")), workplace.rows("half", None));
    for column in ["image_embedding", "text_embedding", "fused_embedding"] {
        let (one, other) = (single.vectors(column), half.vectors(column));
        for (one, other) in one.iter().zip(&other).filter_map(|(one, other)| one.as_ref().zip(other.as_ref())) {
            let cosine: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.9999, "{column}: {cosine}");
        }
    }
    assert_ne!(single.text("caption_fingerprint"), half.text("caption_fingerprint"), "another model");
    // float32 is still what was asked for
    let refused = workplace.run(&["--set", &model, "--set", "model.precision=fp32"]);
    assert!(said(&refused).contains("precision = \"fp16\" takes what is there"), "{}", said(&refused));
}

#[test]
fn a_gpu_gets_the_same_operators() {
    let report = |folder: &Path, precision: &str| -> Vec<Value> {
        let mut command = nightcap();
        let ended =
            command.args(["model", "prepare", "--json", "--precision", precision]).arg(folder).output().unwrap();
        serde_json::from_slice(&ended.stdout).unwrap()
    };
    for model in ["models/vit_gpt2", "models/blip", "models/clip", "models/smolvlm", "models/blip_itm", "tiny_model"] {
        let (from, work) = (source(model, &[]), tempfile::tempdir().unwrap());
        let half = work.path().join("half");
        converted(from.path(), &half, &[]);
        let (before, after) = (report(from.path(), "fp32"), report(&half, "fp16"));
        assert!(!before.is_empty() && before.len() == after.len());
        for (before, after) in before.iter().zip(&after) {
            for key in ["role", "static_step", "not_static", "fused_operators", "hoisted_values", "elided_copies"] {
                assert_eq!(before[key], after[key], "{model}, {}: {key}", before["role"]);
            }
        }
    }
}

#[test]
fn the_same_model_gives_the_same_files() {
    let (from, work) = (source("models/clip_split", &[]), tempfile::tempdir().unwrap());
    std::fs::write(from.path().join("LICENSE"), "free").unwrap();
    std::fs::write(from.path().join("model.safetensors"), "weights of another framework").unwrap();
    std::fs::write(from.path().join(".gitattributes"), "hidden").unwrap();
    let [one, other] = ["one", "other"].map(|name| work.path().join(name));
    std::fs::create_dir(&other).unwrap(); // an empty folder is free
    converted(from.path(), &one, &[]);
    converted(from.path(), &other, &[]);
    let made = files(&one);
    assert_eq!(made, files(&other));
    let names: Vec<_> = made.keys().map(|path| path.to_str().unwrap()).collect();
    insta::assert_snapshot!(names.join(" "), @"LICENSE config.json preprocessor_config.json text_model_fp16.onnx tokenizer.json tokenizer_config.json vision_model_fp16.onnx");
    let left = std::fs::read_dir(work.path()).unwrap().count();
    assert_eq!(left, 2, "nothing else is left behind");
    let directory = ModelDirectory::open(&one, None).unwrap();
    assert_eq!(directory.graph(Role::Vision).unwrap().file, "vision_model_fp16.onnx");
}

#[test]
fn graphs_that_nightcap_toml_names_keep_their_names() {
    let (from, work) = (source("models/clip_split", &[]), tempfile::tempdir().unwrap());
    std::fs::rename(from.path().join("vision_model.onnx"), from.path().join("tower.onnx")).unwrap();
    std::fs::write(from.path().join("nightcap.toml"), "[graphs]\nvision = \"tower.onnx\"\n").unwrap();
    let half = work.path().join("half");
    converted(from.path(), &half, &[]);
    let directory = ModelDirectory::open(&half, Some("fp16")).unwrap();
    let file = |role: Role| directory.graph(role).unwrap().file.clone();
    assert_eq!((file(Role::Vision), file(Role::Text)), ("tower.onnx".to_owned(), "text_model_fp16.onnx".to_owned()));
    assert!(directory.pixel_type().unwrap().is_float());
}

#[test]
fn bfloat16_is_written_for_gpus() {
    let (from, work) = (source("models/clip_split", &[]), tempfile::tempdir().unwrap());
    let half = work.path().join("half");
    let ended = prepare(from.path(), &half, "bf16", &["--sample", "nothing"]);
    assert!(said(&ended).contains("hint: on a GPU: --set 'runtime.devices=[\"cuda:0\"]'"), "{}", said(&ended));
    assert!(ended.status.code() == Some(2) && !half.exists());
    let ended = prepare(from.path(), &half, "bf16", &[]);
    assert!(ended.status.success() && said(&ended).contains("this model runs on a GPU only"), "{}", said(&ended));
    // its inputs and outputs are float32
    assert!(ModelDirectory::open(&half, Some("bf16")).is_ok());
    let ended = nightcap().args(["model", "prepare"]).arg(&half).output().unwrap();
    assert!(said(&ended).contains("hint: the device has no kernel"), "{}", said(&ended));
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is_done() {
    let (from, work) = (source("models/clip_split", &[]), tempfile::tempdir().unwrap());
    let half = work.path().join("half");
    let refused = |from: &Path, to: &Path, precision: &str| {
        let ended = prepare(from, to, precision, &[]);
        assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
        let text = said(&ended).replace(from.to_str().unwrap(), "DIR").replace(work.path().to_str().unwrap(), "WORK");
        text.lines().filter(|line| !line.contains(" INFO ")).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(refused(from.path(), Path::new("s3://bucket/half"), "fp16"), @"
    error: -o s3://bucket/half: expected a local folder, found a URI
    hint: write to a local folder, and copy that
    ");
    insta::assert_snapshot!(refused(from.path(), &half, "int8"), @"
    error: --precision int8: expected fp16 or bf16 to convert to with -o
    hint: jobs/export/quantize.py makes int8 graphs
    ");
    insta::assert_snapshot!(refused(from.path(), work.path().join("no/half").as_path(), "fp16"), @"error: -o WORK/no/half: expected a new folder in an existing one, found no folder WORK/no");
    insta::assert_snapshot!(refused(from.path(), from.path(), "fp16"), @"
    error: -o DIR: expected no such folder or an empty one, found something
    hint: name a folder that does not exist; nothing is replaced
    ");
    let rename = |from: &Path, suffix: &str| {
        for graph in ["vision_model", "text_model"] {
            let files = [String::new(), suffix.to_owned()].map(|suffix| from.join(format!("{graph}{suffix}.onnx")));
            std::fs::rename(&files[0], &files[1]).unwrap();
        }
    };
    std::fs::copy(from.path().join("text_model.onnx"), from.path().join("text_model_fp16.onnx")).unwrap();
    insta::assert_snapshot!(refused(from.path(), &half, "fp16"), @r#"
    error: the model directory DIR cannot run:
    text_model_fp16.onnx: the directory holds fp16 graphs already
      hint: use it: precision = "fp16" below [model]; or convert a copy without it
    "#);
    std::fs::remove_file(from.path().join("text_model_fp16.onnx")).unwrap();
    rename(from.path(), "_int8");
    insta::assert_snapshot!(refused(from.path(), &half, "fp16"), @"
    error: the model directory DIR cannot run:
    text_model_int8.onnx: expected float32 graphs, found int8 graphs only
      hint: convert the float32 model that it was made from
    ");
    assert!(!half.exists() && std::fs::read_dir(work.path()).unwrap().next().is_none(), "nothing is left behind");
}

/// Another converter's graphs, in `tests/fixtures`, give the captions that ours give.
#[test]
fn captions_are_those_of_another_converter() {
    let (from, work, photos) = (source("models/vit_gpt2", &[]), tempfile::tempdir().unwrap(), photographs(6));
    let ours = work.path().join("ours");
    converted(from.path(), &ours, &[]);
    let workplace = Workplace::new();
    let manifest = workplace.path("photos.parquet");
    assert!(nightcap().arg("manifest").arg(photos.path()).arg("-o").arg(&manifest).status().unwrap().success());
    let captions = |model: &Path, output: &str| {
        workplace.job(&format!(
            "[input]\nmanifest = \"photos.parquet\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"{}\"\nprecision = \"fp16\"\n\
             [output]\npath = \"{output}\"\n[runtime]\nthreads = 1\nbatch_size = 3\n",
            model.display()
        ));
        workplace.run_ok(&["--run-id", "night"]);
        workplace.rows(output, None).text("caption")
    };
    let (ours, theirs) = (captions(&ours, "ours"), captions(&repo("tests/fixtures/models/vit_gpt2"), "theirs"));
    assert_eq!(ours.len(), 6);
    let same = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours == theirs).count();
    assert!(same >= 5, "{ours:?} {theirs:?}");
}
