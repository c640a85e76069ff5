//! Odd numbers and types for every key that nightcap reads from a model's configuration files: the model works, or is refused in a
//! sentence; nothing panics, hangs or takes much memory. The table runs in a process of its own, whose memory is limited.

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nightcap::engine::{Engine, EngineOptions, GenerationOverrides, GenerationSettings, RowInput};
use nightcap::model::ModelDirectory;
use nightcap::preprocess::{ImageProcessor, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::repo;

/// What runs the table instead of starting a process that does.
const INSIDE: &str = "NIGHTCAP_TEST_ODD_VALUES";
/// Address space of that process; ONNX Runtime and the test itself take about 1 GB of it.
const ADDRESS_SPACE_KB: u64 = 6 << 20;
/// Memory that it may use at most.
const MEMORY_KB: u64 = 1_500_000;

const CONFIG: [&str; 20] = [
    "model_type",
    "max_position_embeddings",
    "n_positions",
    "vocab_size",
    "hidden_size",
    "projection_dim",
    "image_text_hidden_size",
    "image_token_id",
    "image_token_index",
    "patch_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "max_length",
    "text_config",
    "vision_config",
    "decoder",
    "generator",
    "encoder",
];
const GENERATION: [&str; 26] = [
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "num_beams",
    "do_sample",
    "length_penalty",
    "early_stopping",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "stop_strings",
    "guidance_scale",
    "num_return_sequences",
];
const PREPROCESSOR: [&str; 16] = [
    "image_processor_type",
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "max_image_size",
    "do_image_splitting",
    "do_pad",
    "patch_size",
    "image_processor",
];
const TOKENIZER: [&str; 7] = [
    "model_max_length",
    "pad_token",
    "bos_token",
    "eos_token",
    "clean_up_tokenization_spaces",
    "chat_template",
    "padding_side",
];

/// As they are written in JSON, since some are no values of it.
fn odd_values() -> Vec<String> {
    let mut nested = json!(1);
    for _ in 0..100 {
        nested = json!([nested]);
    }
    let numbers = [
        "0",
        "-1",
        "1",
        "3",
        "0.5",
        "-0.0",
        "65535",
        "65536",
        "1000000000",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "1e18",
        "1e300",
        "-1e300",
        "1e-300",
        "1e400",
        "NaN",
        "Infinity",
        "-Infinity",
    ];
    let others = [
        "true",
        "null",
        "\"\"",
        "\"x\"",
        "\"never\"",
        "[]",
        "{}",
        "[0]",
        "[-1, 0, 18446744073709551615]",
        "[0, 0, 0]",
        "[1e300, 1e300, 1e300]",
        "[0.5, 0.5]",
        "[1e-300, 1, 1]",
        "[[]]",
        "[[0], [-5], [1e9]]",
        "[\"\", \"x\"]",
        "{\"height\": 0, \"width\": 0}",
        "{\"height\": 65535, \"width\": 65535}",
        "{\"height\": 1, \"width\": 65535}",
        "{\"shortest_edge\": 65535}",
        "{\"longest_edge\": 65535}",
        "{\"longest_edge\": 1}",
        "{\"shortest_edge\": 1, \"longest_edge\": 65535}",
        "{\"height\": 1000000000, \"width\": 1}",
        "{\"max_position_embeddings\": 0}",
        "{\"patch_size\": 0}",
        "{\"content\": \"\"}",
    ];
    numbers.into_iter().chain(others).map(str::to_owned).chain([nested.to_string()]).collect()
}

/// A folder with links to all files of `model` but `without`.
fn linked(model: &Path, without: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "onnx" {
            std::fs::create_dir(folder.path().join("onnx")).unwrap();
            for graph in std::fs::read_dir(entry.path()).unwrap() {
                let graph = graph.unwrap();
                symlink(graph.path(), folder.path().join("onnx").join(graph.file_name())).unwrap();
            }
        } else if entry.file_name() != without {
            symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// The text of the JSON object `object` with `key` set to the text `value`.
fn with(object: &Value, key: &str, value: &str) -> String {
    let mut object = object.clone();
    object[key] = json!("VALUE");
    object.to_string().replace("\"VALUE\"", value)
}

/// Does what a job does with the model in `folder`, to the end if its settings are none of those in `seen`; an error's message is checked.
/// Whether it was run.
fn work(folder: &Path, seen: Option<&mut HashSet<String>>) -> Result<bool, String> {
    let said = |error: &dyn std::fmt::Display| {
        let said = error.to_string();
        assert!(said.len() > 20 && said.len() < 5000, "a message of {} bytes: {:.300}", said.len(), said);
        said
    };
    let directory = ModelDirectory::open(folder, None).map_err(|error| said(&error))?;
    let processor = match directory.preprocessor() {
        Some(file) => Some(ImageProcessor::from_config(&file.value).map_err(|error| said(&error))?),
        None => None,
    };
    let prompt = directory.bindings().prompt_holds_image().then(|| "What is it?".to_owned());
    let overrides = GenerationOverrides { prompt, ..GenerationOverrides::default() };
    let resolve = || GenerationSettings::resolve(&directory, &overrides).map_err(|error| said(&error));
    let generation = directory.can_caption().then(resolve).transpose()?;
    let Some(seen) = seen else { return Ok(false) };
    let config = directory.config();
    let pad = (config.setting("pad_token_id"), config.special_token("pad_token"));
    let settings = (
        &generation,
        processor.as_ref().map(ImageProcessor::describe),
        config.max_text_tokens(),
        pad,
        directory.text_embedding_dim(),
    );
    if !seen.insert(format!("{settings:?}")) {
        return Ok(false);
    }
    // as a job: sizes that differ from image to image are not taken
    let Some(processor) = processor.filter(|processor| processor.output_size().is_some()) else {
        return Err("no size".to_owned());
    };
    let longest = generation.as_ref().map_or(0, |generation| generation.max_new_tokens);
    let options = EngineOptions { threads: 1, generation, wants_fused: true, ..EngineOptions::default() };
    let mut engine = Engine::load(&directory, options).map_err(|error| said(&error))?;
    let image = RgbImage { width: 9, height: 7, pixels: vec![77; 9 * 7 * 3] };
    let pixels = processor.process(&image);
    let image = engine.encode_images(&[&pixels]).map_err(|error| said(&error))?.remove(0);
    // a tiny model that never ends generates as many tokens as it may
    if longest <= 100 {
        let text = Some("a dog on the beach".to_owned());
        let row = RowInput { image: Some(image), text, ..RowInput::default() };
        let outputs = engine.run(&[row], 4).map_err(|error| said(&error))?;
        if let Err(error) = &outputs[0] {
            said(error);
        }
    }
    Ok(true)
}

fn table() {
    let files: [(&str, &[&str]); 4] = [
        ("config.json", &CONFIG),
        ("generation_config.json", &GENERATION),
        ("preprocessor_config.json", &PREPROCESSOR),
        ("tokenizer_config.json", &TOKENIZER),
    ];
    let models = ["tiny_model", "models/smolvlm", "models/siglip"];
    let (mut cases, mut worked, mut ran, mut seen) = (0, 0, 0, HashSet::new());
    for model in models {
        // every value with some keys, and every key with some values
        let every = if model == "tiny_model" { 5 } else { 20 };
        let started = Instant::now();
        let path = repo("tests/fixtures").join(model);
        for (file, keys) in files {
            let folder = linked(&path, file);
            let whole = std::fs::read(path.join(file))
                .map_or_else(|_| json!({}), |text| serde_json::from_slice(&text).unwrap());
            for key in keys {
                let all = odd_values();
                let always = ["0", "-1", "18446744073709551615", "1e300"];
                let some = all.iter().map(String::as_str).skip(cases % every).step_by(every);
                for value in always.into_iter().chain(some) {
                    std::fs::write(folder.path().join(file), with(&whole, key, value)).unwrap();
                    let began = Instant::now();
                    println!("{model} {file} {key} = {value:.80}");
                    let done = work(folder.path(), (model == "tiny_model").then_some(&mut seen));
                    worked += usize::from(done.is_ok());
                    ran += usize::from(done == Ok(true));
                    cases += 1;
                    assert!(began.elapsed().as_secs() < 60, "it took {:?}", began.elapsed());
                }
            }
        }
        eprintln!("{model}: {:?}", started.elapsed());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    eprintln!("{worked} of {cases} worked, {ran} of {} settings ran, {peak} kB of memory", seen.len());
    assert!(peak.parse::<u64>().unwrap() < MEMORY_KB, "{peak} kB");
    assert!(worked > cases / 10 && worked < cases, "{worked} of {cases} worked");
    assert!(ran > 10, "{ran} ran");
}

#[test]
fn odd_values_in_configuration_files_are_refused_or_harmless() {
    if std::env::var_os(INSIDE).is_some() {
        return table();
    }
    let name = "odd_values::odd_values_in_configuration_files_are_refused_or_harmless";
    let limited = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KB}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&limited.stdout), String::from_utf8_lossy(&limited.stderr));
    let last = said.lines().rev().take(3).collect::<Vec<_>>().join("\n");
    assert!(limited.status.success(), "{last}\n{log}");
    let summary =
        log.lines().find(|line| line.contains("worked")).unwrap_or_else(|| panic!("the table did not run: {log}"));
    eprintln!("{summary}");
}
