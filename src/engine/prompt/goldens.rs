//! Prompts, templates and special tokens against what transformers makes of them (`tests/goldens/make_prompts.py`).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and writes files")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chat_template::ChatTemplate;
use super::expand::Prompt;
use super::format::{PromptFormat, question_of};
use crate::engine::encode::tokenizer::TextTokenizer;
use crate::model::ModelDirectory;

fn goldens() -> Value {
    serde_json::from_str(include_str!("../../../tests/goldens/prompts.json")).unwrap()
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// A copy of the model `name` with `files` in it.
fn model_with(name: &str, files: &[(&str, String)]) -> (tempfile::TempDir, ModelDirectory) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    let is_given = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("tokenizer");
    for inner in ["", "onnx"] {
        let entries = std::fs::read_dir(models().join(name).join(inner)).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        for path in paths.filter(|path| path.is_file() && !is_given(path)) {
            std::fs::copy(&path, folder.path().join(inner).join(path.file_name().unwrap())).unwrap();
        }
    }
    for (name, content) in files {
        std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let directory = ModelDirectory::open(folder.path(), None).unwrap();
    (folder, directory)
}

#[test]
fn chat_templates_are_rendered_as_transformers_does_it() {
    let goldens = goldens();
    let tokens = goldens["tokens"].as_object().unwrap();
    let config = Value::Object(tokens.clone()).to_string().replace(r#""image_token":"<image>","#, "");
    let config = config.replacen('{', r#"{"extra_special_tokens":{"image_token":"<image>"},"#, 1);
    let files = [("tokenizer.json", goldens["tokenizer"].to_string()), ("tokenizer_config.json", config)];
    let (_folder, directory) = model_with("clip", &files);
    let mut wrong = Vec::new();
    for case in goldens["templates"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap().to_owned();
        let mut template = ChatTemplate::new(template, "here".to_owned(), directory.config().special_tokens());
        template.set_time(goldens["now"].as_str().unwrap().parse().unwrap());
        let said = template.render(goldens["question"].as_str().unwrap());
        let right = match (&said, case["text"].as_str()) {
            (Ok(text), Some(expected)) => text == expected,
            (Err(error), None) => error.contains(case["error"].as_str().unwrap()),
            _ => false,
        };
        if !right {
            wrong.push(format!("{}\n  expected {:?}\n  found    {said:?}", case["name"], case["text"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tasks_of_florence2_become_its_questions() {
    for case in goldens()["florence2"].as_array().unwrap() {
        let said = question_of(case["prompt"].as_str().unwrap());
        assert_eq!(said.ok().as_deref(), case["text"].as_str(), "{case}");
    }
}

#[test]
fn special_tokens_are_those_of_all_files() {
    let goldens = goldens();
    for case in goldens["special_tokens"].as_array().unwrap() {
        let mut files = vec![("tokenizer.json", goldens["tokenizer"].to_string())];
        files.extend(
            case["files"].as_object().unwrap().iter().map(|(name, content)| (name.as_str(), content.to_string())),
        );
        let (_folder, directory) = model_with("clip", &files);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let ids: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"].as_str().unwrap().trim(), "{case}");
        let encoded: Vec<i64> = serde_json::from_value(case["encoded"].clone()).unwrap();
        assert_eq!(tokenizer.encode_whole(goldens["text"].as_str().unwrap(), false).unwrap(), encoded, "{case}");
        let variables = directory.config().special_tokens().variables().into_iter();
        let variables = variables.map(|(name, value)| (name, value.map_or_else(Value::from, Value::from)));
        assert_eq!(Value::Object(variables.collect()), case["variables"], "{case}");
    }
}

#[test]
fn chat_templates_are_found_in_the_order_of_the_processors() {
    let json = |text: &str| serde_json::json!({ "chat_template": text }).to_string();
    let named = serde_json::json!({ "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "4"}] });
    let mut files = vec![
        ("chat_template.json", json("1")),
        ("chat_template.jinja", "2".to_owned()),
        ("processor_config.json", json("3")),
        ("tokenizer_config.json", named.to_string()),
    ];
    let tokenizer = ("tokenizer.json", goldens()["tokenizer"].to_string());
    for expected in ["1", "2", "3", "4"] {
        let all: Vec<_> = files.iter().cloned().chain([tokenizer.clone()]).collect();
        let (_folder, directory) = model_with("clip", &all);
        let found = directory.config().chat_template().map(|template| template.value.as_str());
        assert_eq!(found, Some(expected));
        files.remove(0);
    }
    let others = [("additional_chat_templates/default.jinja", "5".to_owned()), tokenizer.clone()];
    let (_folder, directory) = model_with("clip", &others);
    assert_eq!(directory.config().chat_template().map(|template| template.value.as_str()), Some("5"));
}

/// The files of the fixture `name` with the changes of `change` in its `config.json`.
fn changed(name: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, ModelDirectory) {
    let read = |file: &str| std::fs::read_to_string(models().join(name).join(file)).ok();
    let mut config: Value = serde_json::from_str(&read("config.json").unwrap()).unwrap();
    change(&mut config);
    let mut files = vec![("config.json", config.to_string())];
    let others = ["tokenizer.json", "tokenizer_config.json"];
    files.extend(others.into_iter().filter_map(|file| Some((file, read(file)?))));
    model_with(name, &files)
}

#[test]
fn a_start_token_goes_before_a_prompt_where_transformers_puts_it() {
    for (encoder, alone) in [("deit", false), ("donut-swin", true)] {
        let (_folder, directory) = changed("trocr", |config| config["encoder"]["model_type"] = encoder.into());
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let words = tokenizer.encode_whole("ku baba", false).unwrap();
        let first = words[0];
        // a start token that is not the first of the prompt, then one that is
        for (start, expected) in [(first + 1, [vec![first + 1], words.clone()].concat()), (first, words.clone())] {
            let format = PromptFormat::of(&directory, &tokenizer, Some(start)).unwrap();
            let expected = if alone { words.clone() } else { expected };
            assert_eq!(format.fill(&tokenizer, "ku baba"), Ok(Prompt::Tokens(expected)), "{encoder}");
            assert_eq!(format.fill(&tokenizer, ""), Ok(Prompt::Tokens(vec![start])), "{encoder}");
        }
    }
}

/// What is changed in a config.json.
type Change = dyn Fn(&mut Value);

#[test]
fn a_model_whose_prompts_are_not_known_is_refused_by_name() {
    let pixtral = |config: &mut Value| config["vision_config"]["model_type"] = "pixtral".into();
    let mystery = |config: &mut Value| config["model_type"] = "mystery_vl".into();
    let none = |config: &mut Value| drop(config.as_object_mut().unwrap().remove("model_type"));
    let cases: [(&Change, &str); 3] =
        [(&pixtral, "\"pixtral\""), (&mystery, "\"mystery_vl\""), (&none, "no model_type")];
    for (change, named) in cases {
        let (_folder, directory) = changed("llava", change);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let error = PromptFormat::of(&directory, &tokenizer, None).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("paligemma") && error.contains("hint:"), "{error}");
    }
}

#[test]
fn the_prompt_of_paligemma_is_that_of_its_processor() {
    let (_folder, directory) = changed("paligemma", |_| {});
    let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
    let format = PromptFormat::of(&directory, &tokenizer, None).unwrap();
    let text = std::fs::read_to_string(models().join("../../goldens/families/paligemma.json")).unwrap();
    let goldens: Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<i64> = serde_json::from_value(goldens["prefix_tokens"][0].clone()).unwrap();
    for prompt in ["Describe the picture.", "<image>Describe the picture."] {
        let prompt = format.fill(&tokenizer, prompt).unwrap();
        assert_eq!(prompt.tokenize(&tokenizer, 16, None).unwrap().ids, expected);
    }
    assert!(format.fill(&tokenizer, "<image> and <image>").is_err());
}

#[test]
fn texts_of_siglip_are_padded_to_the_length_that_its_class_has() {
    let read = |name: &str| std::fs::read_to_string(models().join("siglip").join(name)).unwrap();
    let mut config: Value = serde_json::from_str(&read("config.json")).unwrap();
    config["text_config"].as_object_mut().unwrap().remove("max_position_embeddings");
    let mut tokenizer: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
    tokenizer["model_max_length"] = serde_json::json!(1e30);
    for (kind, side, first) in [("siglip", "right", 1), ("siglip", "left", 0)] {
        config["model_type"] = kind.into();
        tokenizer["padding_side"] = side.into();
        let files = [
            ("config.json", config.to_string()),
            ("tokenizer.json", read("tokenizer.json")),
            ("tokenizer_config.json", tokenizer.to_string()),
        ];
        let (_folder, directory) = model_with("siglip", &files);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        let long = "baba ".repeat(200);
        for text in ["baba di", &long] {
            let batch = tokenizer.pad(&[tokenizer.encode(text).unwrap().unwrap()]);
            assert_eq!(batch.length, 64, "{kind}");
            assert!(text.len() > 100 || batch.attention_mask[0] == first, "{kind}, {side}");
        }
    }
}

/// The classes of transformers change what `tokenizer.json` says (`tests/goldens/make_tokenizers.py`).
#[test]
fn tokenizers_are_what_their_classes_make_of_the_files() {
    let goldens: Value = serde_json::from_str(include_str!("../../../tests/goldens/tokenizers.json")).unwrap();
    let texts: Vec<&str> = goldens["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for golden in goldens["tokenizers"].as_array().unwrap() {
        for case in golden["cases"].as_array().unwrap() {
            let mut files = golden["files"].clone();
            let settings = files["tokenizer_config.json"].as_object_mut().unwrap();
            settings.extend(case["settings"].as_object().unwrap().clone());
            let files: Vec<_> =
                files.as_object().unwrap().iter().map(|(name, content)| (name.as_str(), content.to_string())).collect();
            let (_folder, directory) = model_with("clip", &files);
            let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
            let what = format!("{} {}, {}", golden["name"], golden["edition"], case["settings"]);
            for (at, text) in texts.iter().enumerate() {
                seen += 1;
                let ids = |key: &str| serde_json::from_value::<Vec<i64>>(case[key][at].clone()).unwrap();
                let found = [true, false].map(|special| tokenizer.encode_whole(text, special).unwrap());
                if found != [ids("ids"), ids("plain")] {
                    wrong.push(format!("{what}: {text:?}: expected {:?}, found {found:?}", [ids("ids"), ids("plain")]));
                }
                let (decoded, expected) =
                    (tokenizer.decode(&ids("ids")).unwrap(), case["decoded"][at].as_str().unwrap());
                if decoded != expected.trim() {
                    wrong.push(format!("{what}: {text:?}: expected {expected:?}, found {decoded:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 900, "{seen}");
}

/// The files of all-MiniLM-L6-v2 have three lengths; `tokenizer.json` says 128 and counts nowhere.
#[test]
fn a_text_is_as_long_as_tokenizer_config_says_and_not_tokenizer_json() {
    let goldens: Value = serde_json::from_str(include_str!("../../../tests/goldens/tokenizers.json")).unwrap();
    let files = &goldens["tokenizers"][0]["files"];
    let mut tokenizer = files["tokenizer.json"].clone();
    tokenizer["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0});
    let length = |limit: Option<u64>| {
        let mut config = files["tokenizer_config.json"].clone();
        config["model_max_length"] = limit.into();
        let files = [("tokenizer.json", tokenizer.to_string()), ("tokenizer_config.json", config.to_string())];
        let (_folder, directory) = model_with("clip", &files);
        let tokenizer = TextTokenizer::load(&directory).unwrap().unwrap();
        tokenizer.pad(&[tokenizer.encode(&"dog ".repeat(40)).unwrap().unwrap()]).length
    };
    assert_eq!(length(Some(12)), 12);
    assert_eq!(length(None), 24, "the positions of the text encoder");
}
