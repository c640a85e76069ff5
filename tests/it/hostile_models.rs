//! Model directories, job files and configurations that are made to hang nightcap, to take its memory or to end it: each is refused with
//! status 2 and one sentence that names the file.

use std::io::{Read, Seek};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nightcap::model::ModelDirectory;
use serde_json::{Value, json};

use crate::common::{Workplace, nightcap, repo};
use crate::graph_writer::{bytes, model, node, number, port, text};
use crate::model_directory::{copy, write};

/// More than any of these takes, and less than an hour.
const LONGEST: Duration = Duration::from_secs(100);

/// Runs `command`, which must end by itself within [`LONGEST`], with 4 GB of address space.
fn ended(command: &Command) -> Output {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 4194304; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    // files, since a pipe that nobody reads would stop a process that says much
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let (to_stdout, to_stderr) = (stdout.try_clone().unwrap(), stderr.try_clone().unwrap());
    let mut child = limited.stdin(Stdio::null()).stdout(to_stdout).stderr(to_stderr).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > LONGEST {
            child.kill().unwrap();
            panic!("it does not end: {:.2000}", format!("{command:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let content = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    Output { status, stdout: content(&mut stdout), stderr: content(&mut stderr) }
}

/// What `command` says when it is refused.
fn refused(command: &Command) -> String {
    let output = ended(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {said:.2000}");
    assert!(said.len() < 3000, "{} bytes: {said:.2000}", said.len());
    said
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A workplace of two images and a model whose `tokenizer.json` is changed by `change`.
fn with_tokenizer(change: impl FnOnce(&mut Value)) -> (Workplace, tempfile::TempDir) {
    let (workplace, model) = (Workplace::with_images(2, 2), copy(&[]));
    let path = model.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut tokenizer);
    std::fs::write(path, tokenizer.to_string()).unwrap();
    (workplace, model)
}

/// `run` of the workplace's job with `model` and a text that the tokenizer gets.
fn run_with(workplace: &Workplace, model: &Path) -> Command {
    let set = format!("model.path={}", model.display());
    workplace.command(
        "run",
        &[
            "--run-id",
            "night",
            "--set",
            &set,
            "--set",
            "generation.prompt=\"a dog on the beach with a ball\"",
            "--set",
            "generation.max_new_tokens=4",
        ],
    )
}

#[test]
fn tokenizers_that_blow_a_text_up_are_refused() {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let doubles = || replace(json!({"String": "a"}), "aa");
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    let byte_level =
        || json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
    let nested = |depth: usize, inner: Value| (0..depth).fold(inner, |inner, _| sequence(vec![inner.clone(), inner]));
    let template = |pieces: Vec<Value>| {
        json!({"type": "TemplateProcessing", "single": pieces, "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
               "special_tokens": {}})
    };
    let of_text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let cases: Vec<(&str, Value, &str)> = vec![
        ("normalizer", sequence((0..40).map(|_| doubles()).collect()), "bytes of a text"),
        ("normalizer", nested(5, doubles()), "bytes of a text"),
        ("normalizer", nested(12, doubles()), "at most 64 steps, found 4096"),
        ("normalizer", sequence((0..30).map(|_| replace(json!({"Regex": ""}), "x")).collect()), "bytes of a text"),
        (
            "normalizer",
            sequence((0..9).map(|_| replace(json!({"String": "a"}), &"a".repeat(1000))).collect()),
            "bytes of a text",
        ),
        (
            "normalizer",
            sequence((0..2).map(|_| json!({"type": "Prepend", "prepend": "x".repeat(20_000_000)})).collect()),
            "bytes of a text",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": (0..60).map(|_| byte_level()).collect::<Vec<_>>()}),
            "bytes of a text",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(a|aa|[a-z ]+)+Q"}, "behavior": "Isolated", "invert": false}),
            "retry-limit-in-match over",
        ),
        ("post_processor", template(vec![of_text.clone(); 100_000]), "at most 4 repetitions"),
        (
            "post_processor",
            json!({"type": "Sequence", "processors": vec![template(vec![of_text.clone(); 4]); 30]}),
            "at most 4 repetitions",
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": (0..40).map(|_| doubles()).collect::<Vec<_>>()}),
            "at most 1024 times longer",
        ),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}),
            "found at most 0",
        ),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 1_u64 << 60}),
            "stride",
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": 1_u64 << 60}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
            "padded to at most 65536",
        ),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "tokenizer.json"),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(".repeat(100_000)}, "content": ""}),
            "tokenizer.json",
        ),
        (
            "model",
            json!({"type": "WordPiece", "unk_token": "x", "continuing_subword_prefix": "#", "max_input_chars_per_word": 1_u64 << 40, "vocab": {"x": 0}}),
            "max_input_chars_per_word",
        ),
    ];
    for (key, value, expected) in cases {
        let shown: String = format!("{key} = {value}").chars().take(120).collect();
        let (workplace, model) = with_tokenizer(|tokenizer| tokenizer[key] = value);
        let said = refused(&run_with(&workplace, model.path()));
        assert!(said.contains("tokenizer") && said.contains(expected), "{shown}: {said}");
        assert!(workplace.published("out").is_empty(), "{shown}");
    }
}

#[test]
fn the_steps_of_a_tokenizer_change_no_token() {
    // a text of three words through every kind of step that grows it: as the library alone gives it
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    ]});
    // a pattern of 10^12 letters that nothing matches
    let never = json!({"type": "Replace", "pattern": {"Regex": "((a{9999}){9999}){9999}"}, "content": ""});
    for normalizer in [normalizer, never] {
        let (workplace, model) = with_tokenizer(|tokenizer| tokenizer["normalizer"] = normalizer);
        let output = ended(&run_with(&workplace, model.path()));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn pipes_devices_and_endless_files_are_refused_wherever_a_file_is_named() {
    let workplace = Workplace::with_images(1, 1);
    mkfifo(&workplace.path("pipe"));
    symlink("/dev/zero", workplace.path("zero")).unwrap();
    std::fs::create_dir(workplace.path("folder")).unwrap();
    std::fs::File::create(workplace.path("sparse")).unwrap().set_len(5 << 30).unwrap();
    for name in ["pipe", "zero", "folder", "sparse"] {
        let path = workplace.path(name);
        let mut job = nightcap();
        job.arg("run").arg(&path);
        let said = refused(&job);
        assert!(
            said.contains("cannot read the job file") && said.contains(name) && said.contains("expected a"),
            "{said}"
        );
        if name == "folder" {
            continue;
        }
        let set = format!("input.manifest={}", path.display());
        let said = refused(&workplace.command("plan", &["--set", &set]));
        assert!(said.contains(name), "{said}");
        let mut keys = nightcap();
        keys.args(["compact", "out", "--keep-keys"])
            .arg(&path)
            .args(["--key", "id"])
            .current_dir(workplace.folder.path());
        std::fs::create_dir_all(workplace.path("out")).unwrap();
        assert!(ended(&keys).status.code().is_some());
        let files = [
            "config.json",
            "tokenizer.json",
            "nightcap.toml",
            "chat_template.jinja",
            "text_model.onnx",
            "preprocessor_config.json",
        ];
        for file in files {
            let model = copy(&[file]);
            symlink(&path, model.path().join(file)).unwrap();
            let said = refused(&run_with(&workplace, model.path()));
            let (stem, _) = file.split_once('.').unwrap();
            assert!(said.contains(stem) || said.contains("text graph"), "{file} {name}: {said}");
        }
    }
}

#[test]
fn text_that_is_nested_without_end_is_refused() {
    let workplace = Workplace::with_images(1, 1);
    let deep = 1_000_000;
    let json = format!("{{\"a\": {}{}}}", "[".repeat(deep), "]".repeat(deep));
    for file in ["config.json", "tokenizer_config.json", "preprocessor_config.json", "tokenizer.json"] {
        let model = copy(&[]);
        write(&model, file, &json);
        let said = refused(&run_with(&workplace, model.path()));
        assert!(said.contains(file), "{file}: {said}");
    }
    let tables = format!("{}a = 1\n", "a.".repeat(100_000));
    let arrays = format!("a = {}{}\n", "[".repeat(deep), "]".repeat(deep));
    let inline = format!("a = {}{}\n", "{a=".repeat(deep), "}".repeat(deep));
    let header = format!("[{}a]\n", "a.".repeat(100_000));
    for toml in [tables, arrays, inline, header] {
        let model = copy(&[]);
        write(&model, "nightcap.toml", &toml);
        let said = refused(&run_with(&workplace, model.path()));
        assert!(said.contains("nightcap.toml"), "{said}");
        std::fs::write(workplace.path("deep.toml"), &toml).unwrap();
        let mut job = nightcap();
        job.arg("plan").arg(workplace.path("deep.toml"));
        assert_eq!(ended(&job).status.code(), Some(2));
        let set = format!("input.where={:.50000}", &toml[4..]);
        assert_eq!(ended(&workplace.command("plan", &["--set", &set])).status.code(), Some(2));
    }
}

#[test]
fn chat_templates_without_end_are_refused_by_a_run() {
    let model = tempfile::tempdir().unwrap();
    let fixture = repo("tests/fixtures/models/smolvlm");
    for entry in std::fs::read_dir(&fixture).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "chat_template.jinja" {
            symlink(entry.path(), model.path().join(entry.file_name())).unwrap();
        }
    }
    // its graphs are in a folder of its own, not behind a link
    std::fs::remove_file(model.path().join("onnx")).unwrap();
    std::fs::create_dir(model.path().join("onnx")).unwrap();
    for entry in std::fs::read_dir(fixture.join("onnx")).unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), model.path().join("onnx").join(entry.file_name())).unwrap();
    }
    let workplace = Workplace::with_images(1, 1);
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
    for template in [endless.to_owned(), format!("{{{{ {}1 }}}}", "-".repeat(100_000)), "{{ 'x' * 10**9 }}".to_owned()]
    {
        std::fs::write(model.path().join("chat_template.jinja"), &template).unwrap();
        let said = refused(&run_with(&workplace, model.path()));
        assert!(said.contains("chat template in chat_template.jinja"), "{said}");
    }
    // the template of a job, over columns
    for prompt in [endless.to_owned(), "{{ title }}".to_owned() + &"{% if title %}".repeat(5000)] {
        let set = format!("generation.prompt={prompt:?}");
        let model_path = format!("model.path={}", repo("tests/fixtures/tiny_model").display());
        assert!(ended(&workplace.command("run", &["--set", &model_path, "--set", &set])).status.code().is_some());
    }
}

#[test]
fn graphs_behind_a_folder_that_leads_out_are_refused() {
    let (model, outside) = (copy(&["text_model.onnx"]), tempfile::tempdir().unwrap());
    std::fs::copy(repo("tests/fixtures/tiny_model/text_model.onnx"), outside.path().join("text_model.onnx")).unwrap();
    let said = |model: &Path| ModelDirectory::open(model, None).unwrap_err().to_string();
    symlink(outside.path(), model.path().join("onnx")).unwrap();
    assert!(said(model.path()).contains("onnx/text_model.onnx: expected a file in a folder of the model directory"));
    symlink(outside.path(), model.path().join("other")).unwrap();
    write(&model, "nightcap.toml", "[graphs]\ntext = \"other/text_model.onnx\"\n");
    assert!(said(model.path()).contains("other/text_model.onnx: expected a file in a folder of the model directory"));
    // links of files, as in the cache of Hugging Face's hub, and of folders inside the directory
    std::fs::remove_file(model.path().join("onnx")).unwrap();
    std::fs::create_dir(model.path().join("onnx")).unwrap();
    symlink(outside.path().join("text_model.onnx"), model.path().join("onnx/text_model.onnx")).unwrap();
    std::fs::remove_file(model.path().join("other")).unwrap();
    symlink("onnx", model.path().join("other")).unwrap();
    ModelDirectory::open(model.path(), None).unwrap();
    // the directory itself may be a link
    let named = outside.path().join("named");
    symlink(model.path(), &named).unwrap();
    ModelDirectory::open(&named, None).unwrap();
}

#[test]
fn external_data_that_is_not_there_is_an_error_of_the_graph() {
    let workplace = Workplace::with_images(1, 1);
    for (offset, length) in
        [("0", "1000000"), ("999999999999", "8"), ("-8", "8"), ("0", "-1"), ("18446744073709551615", "8"), ("x", "y")]
    {
        let entry = |key: &str, value: &str| bytes(13, &[text(1, key), text(2, value)].concat());
        let place = [entry("location", "weights"), entry("offset", offset), entry("length", length)].concat();
        let weight = bytes(5, &[number(1, 2), number(2, 1), text(8, "w"), place, number(14, 1)].concat());
        let graph = model(&[
            node("Cast", &["input_ids"], "ids", &crate::graph_writer::attribute("to", 2, &number(3, 1))),
            weight,
            node("Add", &["ids", "w"], "text_embeds", &[]),
            port(11, "input_ids", 7, &[0, 2]),
            port(12, "text_embeds", 1, &[0, 2]),
        ]);
        let folder = copy(&["fusion.onnx", "decoder_with_past_model.onnx"]);
        std::fs::write(folder.path().join("text_model.onnx"), graph).unwrap();
        std::fs::write(folder.path().join("weights"), [0; 8]).unwrap();
        let set = format!("model.path={}", folder.path().display());
        let said = refused(&workplace.command("run", &["--set", &set]));
        assert!(said.contains("text_model.onnx"), "{offset} {length}: {said}");
    }
}

#[test]
fn shapes_that_no_memory_holds_are_refused() {
    for (dims, expected) in
        [(vec![1 << 40, 1 << 40], "elements"), (vec![0, 1 << 62], "elements"), (vec![0; 5000], "axes")]
    {
        let graph = model(&[
            node("Identity", &["input_ids"], "text_embeds", &[]),
            port(11, "input_ids", 7, &[0, 0]),
            port(12, "text_embeds", 1, &dims),
        ]);
        let folder = copy(&["fusion.onnx", "decoder_with_past_model.onnx"]);
        std::fs::write(folder.path().join("text_model.onnx"), graph).unwrap();
        let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
        assert!(said.contains("text_model.onnx") && said.contains(expected), "{said:.300}");
    }
}

#[test]
fn init_refuses_a_model_without_graphs() {
    let workplace = Workplace::with_images(1, 1);
    std::fs::create_dir(workplace.path("empty")).unwrap();
    std::fs::write(workplace.path("empty/config.json"), "{}").unwrap();
    let mut init = nightcap();
    init.args(["init", "manifest.parquet", "-o", "new.toml", "--model", "empty"]).current_dir(workplace.folder.path());
    let output = init.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--model empty: there is no .onnx file in it") && said.contains("model inspect"), "{said}");
    assert!(!workplace.path("new.toml").exists());
}
