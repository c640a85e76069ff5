//! Directories with one tower, or with two that are apart, in the layouts in which they are published, against `PyTorch`
//! (`tests/goldens/families/towers.py`); and what is said of directories that cannot run.

use std::path::Path;

use nightcap::engine::{Engine, EngineOptions, RowInput};
use nightcap::model::{ModelDirectory, Pooling, Role, inspect};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{Workplace, nightcap, repo};
use crate::families::{goldens, runs_over_the_sample_photographs, vectors_are_the_golden_ones};
use crate::generation::{fixture, strings};

/// A copy of the fixture `family`, folders included.
pub(crate) fn copy(family: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(&fixture(family), copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn write(copy: &TempDir, name: &str, text: &str) {
    std::fs::write(copy.path().join(name), text).unwrap();
}

/// What is wrong with a directory, which `inspect` says too.
fn refusal(folder: &Path) -> String {
    let error = ModelDirectory::open(folder, None).unwrap_err().to_string();
    let description = inspect(folder, None);
    for problem in &description.problems {
        assert!(error.contains(&problem.to_string()), "{error}\ninspect: {problem}");
    }
    assert!(!description.problems.is_empty(), "inspect finds nothing wrong, but: {error}");
    error.replace(&folder.display().to_string(), "DIR").lines().skip(1).collect::<Vec<_>>().join("\n")
}

fn taken(folder: &Path, role: Role) -> (String, Pooling, usize) {
    let directory = ModelDirectory::open(folder, None).unwrap();
    let port = directory.embedding(role).unwrap();
    (port.output.clone(), port.pooling, port.width)
}

#[test]
fn one_image_tower_is_what_its_library_takes() {
    assert_eq!(taken(&fixture("dinov2"), Role::Vision), ("last_hidden_state".to_owned(), Pooling::Cls, 24));
    assert_eq!(taken(&fixture("nomic_vision"), Role::Vision), ("last_hidden_state".to_owned(), Pooling::Cls, 24));
    assert_eq!(taken(&fixture("dinov3"), Role::Vision), ("pooler_output".to_owned(), Pooling::Vector, 24));
    assert_eq!(taken(&fixture("swin"), Role::Vision), ("pooler_output".to_owned(), Pooling::Vector, 24));
    assert_eq!(taken(&fixture("ijepa"), Role::Vision), ("last_hidden_state".to_owned(), Pooling::Mean, 24));
    assert_eq!(taken(&fixture("unicom"), Role::Vision), ("output".to_owned(), Pooling::Vector, 20));
    for family in ["dinov2", "dinov3", "ijepa", "swin", "resnet", "nomic_vision", "unicom"] {
        assert!(ModelDirectory::open(&fixture(family), None).unwrap().graph(Role::Text).is_none(), "{family}");
        vectors_are_the_golden_ones(family);
    }
    runs_over_the_sample_photographs("dinov2");
}

/// The resizing of the class that `DINOv3` is published with is torchvision's.
#[test]
fn the_image_processor_of_dinov3_is_refused_by_name() {
    let copy = copy("dinov3");
    let settings = json!({"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 32}});
    write(&copy, "preprocessor_config.json", &settings.to_string());
    let output = nightcap().args(["model", "inspect", copy.path().to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("DINOv3ViT") && said.contains("torchvision"), "{said}");
}

#[test]
fn siglip_2_of_one_image_size_has_texts_of_64_tokens_though_its_files_do_not_say_so() {
    let directory = ModelDirectory::open(&fixture("siglip2"), None).unwrap();
    assert_eq!(directory.config().max_text_tokens(), Some(64));
    for role in [Role::Vision, Role::Text] {
        assert_eq!(taken(&fixture("siglip2"), role), ("pooler_output".to_owned(), Pooling::Vector, 32));
    }
    vectors_are_the_golden_ones("siglip2");
    runs_over_the_sample_photographs("siglip2");
}

#[test]
fn both_towers_of_one_graph_are_found_by_the_names_of_their_outputs() {
    assert_eq!(taken(&fixture("jina_clip"), Role::Text).0, "text_embeddings");
    vectors_are_the_golden_ones("jina_clip");
}

#[test]
fn a_graph_with_a_batch_of_two_and_one_length_of_texts_runs() {
    let directory = ModelDirectory::open(&fixture("fixed_clip"), None).unwrap();
    assert_eq!(directory.fixed_batch(Role::Vision), Some(2));
    assert_eq!(directory.fixed_text_length(), Some(24));
    vectors_are_the_golden_ones("fixed_clip");
    let report = inspect(&fixture("fixed_clip"), None).to_string();
    assert!(report.contains("its batch is fixed: it runs on 2 rows at a time"), "{report}");
    assert!(report.contains("each is padded to 24 tokens"), "{report}");
}

#[test]
fn the_folders_of_immich_run_row_by_row_with_tokens_in_int32() {
    let directory = ModelDirectory::open(&fixture("immich"), None).unwrap();
    assert_eq!((directory.fixed_batch(Role::Vision), directory.fixed_batch(Role::Text)), (Some(1), Some(1)));
    assert!(directory.compares_images_with_texts());
    assert_eq!(directory.preprocessor().unwrap().source, "visual/preprocess_cfg.json");
    assert_eq!(directory.tokenizer().unwrap(), fixture("immich/textual/tokenizer.json"));
    let goldens = goldens("immich");
    let mut engine = Engine::load(&directory, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let texts = strings(&goldens["texts"]);
    let rows: Vec<_> = texts.into_iter().map(|text| RowInput { text: Some(text), ..RowInput::default() }).collect();
    texts_are_golden(&mut engine, &rows, &goldens["text_embeddings"]);
    // pixels as the file asks for them, in transformers' words
    let copy = copy("immich");
    let settings = std::fs::read(fixture("clip/preprocessor_config.json")).unwrap();
    std::fs::write(copy.path().join("visual/preprocessor_config.json"), settings).unwrap();
    crate::families::vectors_of("immich", copy.path());
}

fn texts_are_golden(engine: &mut Engine, rows: &[RowInput], golden: &serde_json::Value) {
    for size in [1, 3, 8] {
        let outputs = engine.run(rows, size).unwrap();
        assert_eq!(outputs.len(), golden.as_array().unwrap().len());
        for (output, golden) in outputs.into_iter().zip(golden.as_array().unwrap()) {
            let vector = output.unwrap().text_embedding.unwrap();
            let golden: Vec<f64> = serde_json::from_value(golden.clone()).unwrap();
            assert_eq!(vector.len(), golden.len());
            let worst = vector.iter().zip(&golden).map(|(found, golden)| (f64::from(*found) - golden).abs());
            let worst = worst.fold(0.0, f64::max);
            assert!(worst < 2e-5, "batches of {size}: {worst}");
        }
    }
}

#[test]
fn a_sentence_transformer_is_pooled_as_its_files_say() {
    let goldens = goldens("minilm");
    assert_eq!(taken(&fixture("minilm"), Role::Text), ("last_hidden_state".to_owned(), Pooling::Mean, 24));
    let directory = ModelDirectory::open(&fixture("minilm"), None).unwrap();
    assert!(!directory.takes_images());
    let mut engine = Engine::load(&directory, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let rows: Vec<_> = strings(&goldens["texts"])
        .into_iter()
        .map(|text| RowInput { text: Some(text), ..RowInput::default() })
        .collect();
    texts_are_golden(&mut engine, &rows, &goldens["text_embeddings"]);

    let copy = copy("minilm");
    let pooling = |key: &str| write(&copy, "1_Pooling/config.json", &json!({ key: true }).to_string());
    let before = ModelDirectory::open(copy.path(), None).unwrap().embedding_model_hash().unwrap();
    pooling("pooling_mode_lasttoken");
    assert_eq!(taken(copy.path(), Role::Text).1, Pooling::Eos);
    let after = ModelDirectory::open(copy.path(), None).unwrap().embedding_model_hash().unwrap();
    assert_ne!(before, after, "another pooling is another embedding");
    // as sentence-transformers 6 saves it
    let mode = |mode: serde_json::Value| {
        let settings = json!({"embedding_dimension": 24, "pooling_mode": mode, "include_prompt": true});
        write(&copy, "1_Pooling/config.json", &settings.to_string());
    };
    for (name, expected) in [("cls", Pooling::Cls), ("mean", Pooling::Mean), ("lasttoken", Pooling::Eos)] {
        mode(name.into());
        assert_eq!(taken(copy.path(), Role::Text).1, expected);
    }
    mode(json!(["mean", "max"]));
    let said = refusal(copy.path());
    assert!(said.contains("asks for pooling_mode \"mean\" and pooling_mode \"max\"; known are"), "{said}");
    pooling("pooling_mode_max_tokens");
    insta::assert_snapshot!(refusal(copy.path()), @r#"
    onnx/model.onnx: its states do not become the model's embedding here: 1_Pooling/config.json asks for pooling_mode_max_tokens; known are cls, mean and last token, one of them
      hint: export it with sentence-transformers (backend="onnx"), whose graph has an output sentence_embedding
    "#);
    pooling("pooling_mode_mean_tokens");
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules = json!([module("", "Transformer"), module("1_Pooling", "Pooling"), module("2_Dense", "Dense")]);
    write(&copy, "modules.json", &modules.to_string());
    assert!(refusal(copy.path()).contains("modules.json has the step Dense, which is not in the graph"));
    std::fs::remove_file(copy.path().join("modules.json")).unwrap();
    write(&copy, "config_sentence_transformers.json", &json!({"default_prompt_name": "query"}).to_string());
    assert!(refusal(copy.path()).contains("puts the prompt \"query\" before every text"), "{}", refusal(copy.path()));
    std::fs::remove_file(copy.path().join("config_sentence_transformers.json")).unwrap();
    std::fs::remove_dir_all(copy.path().join("1_Pooling")).unwrap();
    insta::assert_snapshot!(refusal(copy.path()), @r#"
    onnx/model.onnx: no graph uses its outputs (last_hidden_state), and there is no "text_embeds" among them: which one is the embedding of bert does not follow from the files
      hint: write in nightcap.toml, as the model's card says: [outputs] "text.embedding" = "last_hidden_state" with "text.pooling" = "cls" (or "mean", "eos")
    "#);
}

#[test]
fn a_choice_is_written_in_nightcap_toml() {
    let copy = copy("vit");
    insta::assert_snapshot!(refusal(copy.path()), @r#"
    model.onnx: no graph uses its outputs (last_hidden_state), and there is no "image_embeds" among them: which one is the embedding of vit does not follow from the files
      hint: write in nightcap.toml, as the model's card says: [outputs] "vision.embedding" = "last_hidden_state" with "vision.pooling" = "cls" (or "mean")
    "#);
    let choose = |lines: &str| write(&copy, "nightcap.toml", &format!("[outputs]\n{lines}\n"));
    let hash = || ModelDirectory::open(copy.path(), None).unwrap().embedding_model_hash().unwrap();
    choose("\"vision.pooling\" = \"mean\"");
    assert_eq!(taken(copy.path(), Role::Vision).1, Pooling::Mean);
    let mean = hash();
    choose("\"vision.embedding\" = \"last_hidden_state\"\n\"vision.pooling\" = \"cls\"");
    assert_ne!(mean, hash());
    crate::families::vectors_of("vit", copy.path());
    assert!(
        inspect(copy.path(), None)
            .to_string()
            .contains("last_hidden_state with pooling \"cls\" (nightcap.toml says so)")
    );
    for (lines, expected) in [
        ("\"vision.embedding\" = \"last_hiden_state\"", "did you mean \"last_hidden_state\"?"),
        ("\"vision.embedding\" = \"last_hidden_state\"", "\"vision.pooling\" = \"cls\" (the first)"),
        ("\"vision.pooling\" = \"max\"", "expected one of \"none\", \"cls\", \"mean\", \"eos\""),
        ("\"vision.poling\" = \"cls\"", "did you mean"),
        ("\"text.pooling\" = \"cls\"", "there is no text graph"),
        ("vision.width = -1", "expected a number of elements"),
    ] {
        choose(lines);
        assert!(refusal(copy.path()).contains(expected), "{lines}: {}", refusal(copy.path()));
    }
}

#[test]
fn towers_of_two_families_are_not_compared() {
    let copy = tempfile::tempdir().unwrap();
    for (family, folder) in [("dinov2", "vision"), ("minilm", "text")] {
        copy_into(&fixture(family), &copy.path().join(folder));
    }
    let directory = ModelDirectory::open(copy.path(), None).unwrap();
    assert_eq!(directory.image_embedding_dim(), directory.text_embedding_dim());
    assert!(!directory.compares_images_with_texts(), "both have 24 numbers, which say nothing of each other");
    copy_into(&fixture("dinov2"), &copy.path().join("visual"));
    assert!(refusal(copy.path()).contains("could be the vision graph"));
}

#[test]
fn families_that_cannot_run_are_named() {
    let named = |model_type: &str, architecture: &str| {
        let copy = copy("smolvlm");
        write(&copy, "config.json", &json!({"model_type": model_type, "architectures": [architecture]}).to_string());
        refusal(copy.path())
    };
    insta::assert_snapshot!(named("qwen2_vl", "Qwen2VLForConditionalGeneration"), @r#"
    config.json: Qwen2-VL (model_type "qwen2_vl") cannot run: the numbers of patches (image_grid_thw) that its image encoder takes, and its positions in three axes, are not supported
      hint: families that can: ViT-GPT2, TrOCR, BLIP, GIT, CoCa, Florence-2, SmolVLM, LLaVA, FastVLM, PaliGemma for captions; CLIP, SigLIP, jina-clip, DINOv2, nomic-embed, ResNet and sentence-transformers for vectors
    "#);
    for (model_type, name) in [
        ("gemma3", "Gemma 3"),
        ("internvl", "InternVL"),
        ("blip-2", "BLIP-2"),
        ("siglip2", "NaFlex"),
        ("llava_next", "LLaVA-NeXT"),
        ("moondream1", "Moondream"),
        ("whisper", "audio"),
        ("pixtral", "Pixtral"),
        ("multi_modality", "Janus"),
        ("molmo", "Molmo"),
    ] {
        assert!(named(model_type, "").contains(name), "{model_type}: {}", named(model_type, ""));
    }
    insta::assert_snapshot!(named("detr", "DetrForObjectDetection"), @r#"
    config.json: DetrForObjectDetection (model_type "detr") cannot run: it finds objects, and writes neither captions nor embeddings
      hint: families that can: ViT-GPT2, TrOCR, BLIP, GIT, CoCa, Florence-2, SmolVLM, LLaVA, FastVLM, PaliGemma for captions; CLIP, SigLIP, jina-clip, DINOv2, nomic-embed, ResNet and sentence-transformers for vectors
    "#);
}

#[test]
fn a_language_model_and_weights_of_pytorch_are_named() {
    let copy = copy("vit_gpt2");
    for file in ["encoder_model.onnx", "encoder_model_fp16.onnx"] {
        let _ = std::fs::remove_file(copy.path().join(file));
    }
    assert!(refusal(copy.path()).contains("there is no graph that takes images"), "{}", refusal(copy.path()));
    let causal = tempfile::tempdir().unwrap();
    let decoder = fixture("vit_gpt2").join("decoder_with_past_model.onnx");
    std::fs::copy(decoder, causal.path().join("model.onnx")).unwrap();
    write(&causal, "config.json", &json!({"model_type": "gpt2"}).to_string());
    let said = refusal(causal.path());
    assert!(said.contains("a language model alone") && !said.contains("nothing feeds"), "{said}");
    let weights = tempfile::tempdir().unwrap();
    write(
        &weights,
        "config.json",
        &json!({"model_type": "blip", "architectures": ["BlipForImageTextRetrieval"]}).to_string(),
    );
    write(&weights, "model.safetensors", "weights");
    insta::assert_snapshot!(refusal(weights.path()), @r#"
    .: no .onnx file in this directory or its onnx/ folder
      hint: model.safetensors holds PyTorch weights of "blip"; this makes the graphs: python jobs/export/blip_itm.py DIR OUT
    "#);
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(cache.path().join("snapshots/0123")).unwrap();
    assert!(refusal(cache.path()).contains("name the folder inside it"), "{}", refusal(cache.path()));
    assert!(repo("jobs/export/blip_itm.py").is_file());
}

/// `model inspect` and `run` say the same of a directory, with status 2 if it cannot run.
#[test]
fn inspect_refuses_what_run_refuses() {
    let workplace = Workplace::new();
    let inspected = |folder: &Path| {
        let output = nightcap().args(["model", "inspect", folder.to_str().unwrap()]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(inspected(&fixture("dinov2")).0, Some(0));
    let copy = copy("jina_clip");
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(copy.path().join("preprocessor_config.json")).unwrap()).unwrap();
    let manifest = repo("sample_data/manifest.parquet");
    let runs = || {
        workplace.job(&format!(
            "[input]\nmanifest = {:?}\nkey = \"id\"\nimage = \"image\"\n[model]\npath = {:?}\n[output]\npath = \"out\"\n",
            manifest,
            copy.path()
        ));
        let output = workplace.run(&["--limit", "1"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let mut resized = settings.clone();
    resized["crop_size"] = json!({"height": 48, "width": 48});
    let mut unknown = settings;
    unknown["image_processor_type"] = json!("NobodysImageProcessor");
    for (settings, expected) in [(resized, "48 x 48 pixels"), (unknown, "NobodysImageProcessor")] {
        write(&copy, "preprocessor_config.json", &settings.to_string());
        let (status, said) = inspected(copy.path());
        assert!(status == Some(2) && said.contains("this directory cannot run") && said.contains(expected), "{said}");
        let (status, said) = runs();
        assert!(status == Some(2) && said.contains(expected), "{said}");
    }
    std::fs::write(
        copy.path().join("preprocessor_config.json"),
        std::fs::read(fixture("jina_clip/preprocessor_config.json")).unwrap(),
    )
    .unwrap();
    write(&copy, "tokenizer.json", "{}");
    let (status, said) = inspected(copy.path());
    assert!(status == Some(2) && said.contains("tokenizer.json: not usable"), "{said}");
    assert_eq!(runs().0, Some(2));
}

/// `model prepare --precision` keeps the settings that are in folders.
#[test]
fn a_converted_directory_has_the_files_of_its_towers() {
    let work = tempfile::tempdir().unwrap();
    for (family, role) in [("immich", Role::Text), ("minilm", Role::Text), ("immich", Role::Vision)] {
        let target = work.path().join(format!("{family}-{role}"));
        let command =
            ["model", "prepare", fixture(family).to_str().unwrap(), "--precision", "fp16", "-o"].map(str::to_owned);
        let output = nightcap().args(command).arg(&target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (output, pooling, width) = taken(&fixture(family), role);
        assert_eq!(taken(&target, role), (output, pooling, width), "{family}");
    }
}
