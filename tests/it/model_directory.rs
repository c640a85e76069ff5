//! Model directories: which are accepted, and the messages about those that are not.

use std::path::Path;

use nightcap::model::{ModelDirectory, ModelError, Role, inspect};
use tempfile::TempDir;

use crate::engine::tiny_model;

/// A copy of the tiny model without the files `without`.
pub(crate) fn copy(without: &[&str]) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny_model()).unwrap() {
        let entry = entry.unwrap();
        if !without.contains(&entry.file_name().to_str().unwrap()) {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

pub(crate) fn write(copy: &TempDir, name: &str, text: &str) {
    std::fs::write(copy.path().join(name), text).unwrap();
}

/// What opening `copy` says, with its path left out.
fn refusal(copy: &TempDir, precision: Option<&str>) -> String {
    let error = ModelDirectory::open(copy.path(), precision).unwrap_err();
    error.to_string().replace(&copy.path().display().to_string(), "DIR")
}

#[test]
fn the_whole_directory_is_understood() {
    let directory = ModelDirectory::open(&tiny_model(), None).unwrap();
    assert!(directory.can_caption() && directory.uses_side_text() && directory.takes_images());
    assert_eq!(directory.image_embedding_dim(), Some(16));
    assert_eq!(directory.text_embedding_dim(), Some(16));
    assert_eq!(directory.fused_embedding_dim(), Some(16));
    let preprocessor = directory.preprocessor().unwrap();
    assert_eq!(preprocessor.source, "preprocessor_config.json");
    assert_eq!(preprocessor.value["size"]["height"], 32);
    let fed: Vec<_> =
        directory.bindings().of(Role::Fusion).iter().map(|(name, from)| format!("{name} <- {from}")).collect();
    insta::assert_snapshot!(fed.join("\n"), @"
    image_hidden_states <- vision.last_hidden_state
    text_hidden_states <- text.last_hidden_state
    text_attention_mask <- tokens.attention_mask
    ");
}

#[test]
fn the_patch_size_is_that_of_the_image_encoder() {
    let found = |family: &str| {
        let folder = crate::common::repo("tests/fixtures/models").join(family);
        ModelDirectory::open(&folder, None).unwrap().config().patch_size()
    };
    assert_eq!(["siglip", "trocr", "coca", "florence2"].map(found), [Some(8), Some(8), None, None]);
}

#[test]
fn inspect_reports_everything() {
    let copy = copy(&[]);
    let report = inspect(copy.path(), None).to_string().replace(&copy.path().display().to_string(), "DIR");
    // the weights, and with them the fingerprints and sizes, may be made anew
    let report: Vec<_> = report.lines().filter(|line| !line.contains("fingerprint")).collect();
    insta::assert_snapshot!(report.join("\n"), @r#"
    DIR

    vision: vision_model.onnx (49000 bytes; its name is the standard one, vision_model.onnx)
      in   pixel_values  float32 [batch, 3, 32, 32]  <- pixel_values
      out  last_hidden_state  float32 [batch, LayerNormalizationlast_hidden_state_dim_1, LayerNormalizationlast_hidden_state_dim_2]  -> another graph
      out  image_embeds  float32 [batch, 16]  -> an embedding, normalised
      embedding: image_embeds (its name is the usual one)

    text: text_model.onnx (44282 bytes; its name is the standard one, text_model.onnx)
      in   input_ids  int64 [batch, text_length]  <- tokens.input_ids
      in   attention_mask  int64 [batch, text_length]  <- tokens.attention_mask
      out  last_hidden_state  float32 [batch, text_length, 24]  -> another graph
      out  text_embeds  float32 [batch, 16]  -> an embedding, normalised
      embedding: text_embeds (its name is the usual one)

    fusion: fusion.onnx (19094 bytes; its name is the standard one, fusion.onnx)
      in   image_hidden_states  float32 [batch, 16, 24]  <- vision.last_hidden_state
      in   text_hidden_states  float32 [batch, text_length, 24]  <- text.last_hidden_state
      in   text_attention_mask  int64 [batch, text_length]  <- tokens.attention_mask
      out  encoder_hidden_states  float32 [batch, LayerNormalizationencoder_hidden_states_dim_1, 24]  -> another graph
      out  fused_embeds  float32 [batch, 16]  -> an embedding, normalised
      embedding: fused_embeds (its name is the usual one)

    decoder: decoder_with_past_model.onnx (116005 bytes; its name is the standard one, decoder_with_past_model.onnx)
      in   input_ids  int64 [batch, sequence]  <- step.input_ids
      in   encoder_hidden_states  float32 [batch, states, 24]  <- fusion.encoder_hidden_states
      in   past_key_values.0.key  float32 [batch, 2, past, 12]  <- present.0.key of the previous step
      in   past_key_values.0.value  float32 [batch, 2, past, 12]  <- present.0.value of the previous step
      in   past_key_values.1.key  float32 [batch, 2, past, 12]  <- present.1.key of the previous step
      in   past_key_values.1.value  float32 [batch, 2, past, 12]  <- present.1.value of the previous step
      out  logits  float32 [batch, sequence, 134]  -> the next token
      out  present.0.key  float32 [batch, 2, total, 12]  -> the cache of the next step
      out  present.0.value  float32 [batch, 2, total, 12]  -> the cache of the next step
      out  present.1.key  float32 [batch, 2, total, 12]  -> the cache of the next step
      out  present.1.value  float32 [batch, 2, total, 12]  -> the cache of the next step

    captions: yes
    text of a row is fused with its image: yes
    image embedding: 16
    text embedding: 16
    fused embedding: 16
    decoding: decoder_with_past_model.onnx runs every step; cache entries: 4 growing
    tokenizer: tokenizer.json

    preprocessing:
      do_normalize = true  (preprocessor_config.json)
      do_rescale = true  (preprocessor_config.json)
      do_resize = true  (preprocessor_config.json)
      image_mean = [0.5,0.5,0.5]  (preprocessor_config.json)
      image_processor_type = "ViTImageProcessor"  (preprocessor_config.json)
      image_std = [0.5,0.5,0.5]  (preprocessor_config.json)
      resample = 3  (preprocessor_config.json)
      rescale_factor = 0.00392156862745098  (preprocessor_config.json)
      size = {"height":32,"width":32}  (preprocessor_config.json)

    generation:
      decoder_start_token_id = 2  (generation_config.json)
      bos_token_id = 2  (generation_config.json)
      eos_token_id = 3  (generation_config.json)
      pad_token_id = 0  (generation_config.json)
      max_new_tokens = 12  (generation_config.json)
      num_beams = 1  (generation_config.json)
    "#);
}

#[test]
fn inspect_of_a_broken_directory_says_what_is_missing() {
    let copy = copy(&["text_model.onnx", "tokenizer.json"]);
    let description = inspect(copy.path(), None);
    assert_eq!(description.graphs.len(), 3);
    let files: Vec<_> = description.problems.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(files, ["fusion.onnx", "tokenizer.json"]);
    assert!(description.to_string().contains("NOTHING FEEDS IT"));
    let json = serde_json::to_value(&description).unwrap();
    assert_eq!(json["graphs"][0]["role"], "vision");
}

#[test]
fn an_input_without_its_producer_is_named() {
    insta::assert_snapshot!(refusal(&copy(&["text_model.onnx"]), None), @r#"
    the model directory DIR cannot run:
    fusion.onnx: input "text_hidden_states": it is fed by text.last_hidden_state, but there is no text graph
      hint: add text_model.onnx, or bind the input to another output in nightcap.toml
    "#);
}

#[test]
fn an_unknown_input_is_named() {
    let copy = copy(&[]);
    write(&copy, "nightcap.toml", "[graphs]\ntext = \"vision_model.onnx\"\n");
    insta::assert_snapshot!(refusal(&copy, None), @r#"
    the model directory DIR cannot run:
    vision_model.onnx: nothing feeds input "pixel_values" (float32 [batch, 3, 32, 32])
      hint: bind it in nightcap.toml: [bind] "text.pixel_values" = "ROLE.OUTPUT"
    "#);
}

#[test]
fn a_decoder_without_logits_is_named() {
    let copy = copy(&["decoder_with_past_model.onnx"]);
    write(&copy, "nightcap.toml", "[graphs]\ndecoder = \"text_model.onnx\"\n");
    insta::assert_snapshot!(refusal(&copy, None), @r#"
    the model directory DIR cannot run:
    text_model.onnx: expected an output "logits", float [batch, tokens, vocabulary]; found last_hidden_state, text_embeds
    "#);
}

#[test]
fn missing_files_are_named() {
    insta::assert_snapshot!(refusal(&copy(&["tokenizer.json", "preprocessor_config.json"]), None), @"
    the model directory DIR cannot run:
    tokenizer.json: missing, but text_model.onnx works on tokens
      hint: save the fast tokenizer: transformers' AutoTokenizer.from_pretrained(...).save_pretrained(DIR) writes it
    preprocessor_config.json: missing, but vision_model.onnx takes images and nothing says their size and normalisation
      hint: copy it from the model's repository; transformers' AutoImageProcessor.from_pretrained(...).save_pretrained(DIR) writes it
    ");
}

#[test]
fn misspelt_keys_name_the_nearest_known_one() {
    let copy = copy(&[]);
    let toml = "[graph]\nx = 1\n[graphs]\nvison = \"a.onnx\"\ntext = \"text_modle.onnx\"\n[bind]\n\
                \"fusoin.text_hidden_states\" = \"text.last_hidden_state\"\n\
                \"fusion.text_hiden_states\" = \"text.last_hidden_state\"\n\
                \"fusion.image_hidden_states\" = \"vision.last_hiden_state\"\n\
                \"fusion.text_attention_mask\" = \"token.attention_mask\"\n";
    write(&copy, "nightcap.toml", toml);
    insta::assert_snapshot!(refusal(&copy, None), @r#"
    the model directory DIR cannot run:
    nightcap.toml: bind."fusion.text_attention_mask" = "token.attention_mask" names nothing that can feed a graph input
      hint: known are pixel_values, tokens.input_ids, tokens.attention_mask, tokens.token_type_ids, step.input_ids, and ROLE.OUTPUT with one of the roles vision, text, fusion
    nightcap.toml: bind."fusoin.text_hidden_states" names no graph input (expected "role.input")
      hint: did you mean "fusion"?
    nightcap.toml: unknown key "graph"
      hint: did you mean "graphs"?
    nightcap.toml: unknown key "graphs.vison"
      hint: did you mean "graphs.vision"?
    nightcap.toml: graphs.text = "text_modle.onnx", but there is no such file
      hint: did you mean "text_model.onnx"?
    nightcap.toml: bind."fusion.text_hiden_states": fusion.onnx has no input "text_hiden_states"
      hint: did you mean "text_hidden_states"?
    fusion.onnx: input "image_hidden_states": it is fed by vision.last_hiden_state, but vision_model.onnx has no output "last_hiden_state"
      hint: did you mean "last_hidden_state"?
    fusion.onnx: input "text_hidden_states": it is fed by text.last_hidden_state, but there is no text graph
      hint: add text_model.onnx, or bind the input to another output in nightcap.toml
    "#);
}

#[test]
fn graphs_that_nightcap_toml_names_are_below_the_directory() {
    let copy = copy(&[]);
    let outside = tempfile::tempdir().unwrap();
    let graph = outside.path().join("text_model.onnx");
    std::fs::copy(copy.path().join("text_model.onnx"), &graph).unwrap();
    let up = format!("../{}/text_model.onnx", outside.path().file_name().unwrap().to_str().unwrap());
    for name in [graph.to_str().unwrap(), &up, "onnx/../text_model.onnx"] {
        write(&copy, "nightcap.toml", &format!("[graphs]\ntext = {name:?}\n"));
        let said = refusal(&copy, None);
        let expected = format!("nightcap.toml: graphs.text = {name:?}: expected a file below the model directory");
        assert!(said.contains(&expected) && said.contains("without `..`"), "{said}");
    }
    write(&copy, "nightcap.toml", "[graphs]\ntext = \"./text_model.onnx\"\n");
    assert!(ModelDirectory::open(copy.path(), None).is_ok());
}

#[test]
fn files_that_are_no_regular_files_are_not_opened() {
    let names = [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "nightcap.toml",
        "tokenizer.json",
        "text_model.onnx",
    ];
    for name in names {
        let copy = copy(&[name]);
        // opening a pipe waits until somebody writes into it
        assert!(std::process::Command::new("mkfifo").arg(copy.path().join(name)).status().unwrap().success());
        let said = match ModelDirectory::open(copy.path(), None) {
            Ok(directory) => directory.caption_model_hash().unwrap(),
            Err(error) => error.to_string(),
        };
        match name {
            "tokenizer.json" => assert!(said.contains("tokenizer.json: missing"), "{said}"),
            "text_model.onnx" => assert!(said.contains("there is no text graph"), "{said}"),
            _ => assert!(said.contains(&format!("{name}: not readable: expected a regular file")), "{name}: {said}"),
        }
    }
}

#[test]
fn bindings_are_checked_for_type_and_rank() {
    let copy = copy(&[]);
    let toml = "[bind]\nfusion.image_hidden_states = \"vision.image_embeds\"\n\
                fusion.text_hidden_states = \"tokens.attention_mask\"\ndecoder.encoder_hidden_states = \"tokens.input_ids\"\n";
    write(&copy, "nightcap.toml", toml);
    insta::assert_snapshot!(refusal(&copy, None), @r#"
    the model directory DIR cannot run:
    fusion.onnx: input "image_hidden_states": vision.image_embeds gives float32 with 2 axes, but the graph declares float32 [batch, 16, 24]
    fusion.onnx: input "text_hidden_states": tokens.attention_mask gives int64, int32, bool or float with 2 axes, but the graph declares float32 [batch, text_length, 24]
    decoder_with_past_model.onnx: input "encoder_hidden_states": tokens.input_ids cannot feed a decoder graph
    "#);
}

#[test]
fn a_directory_whose_graphs_do_not_say_what_they_do_is_refused() {
    let copy = copy(&["vision_model.onnx", "text_model.onnx", "fusion.onnx", "decoder_with_past_model.onnx"]);
    write(&copy, "policy.onnx", "");
    insta::assert_snapshot!(refusal(&copy, None), @"
    the model directory DIR cannot run:
    .: no graph has a name that says what it does; found policy.onnx
      hint: supported are vision_model.onnx, vision_encoder.onnx, encoder_model.onnx, model.onnx, text_model.onnx, fusion.onnx, multimodal_encoder.onnx, embed_tokens.onnx, decoder_model.onnx, decoder_with_past_model.onnx, decoder_model_merged.onnx, multimodal_decoder.onnx (in the directory or its onnx/ folder, with a precision suffix if one is asked for); graphs that do the same under other names can be named in nightcap.toml
    ");
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(refusal(&empty, None), @"
    the model directory DIR cannot run:
    .: no .onnx file in this directory or its onnx/ folder
      hint: supported are vision_model.onnx, vision_encoder.onnx, encoder_model.onnx, model.onnx, text_model.onnx, fusion.onnx, multimodal_encoder.onnx, embed_tokens.onnx, decoder_model.onnx, decoder_with_past_model.onnx, decoder_model_merged.onnx, multimodal_decoder.onnx (in the directory or its onnx/ folder, with a precision suffix if one is asked for); graphs that do the same under other names can be named in nightcap.toml
    ");
}

#[test]
fn a_precision_that_is_not_there_names_what_is() {
    let copy = copy(&[]);
    assert!(refusal(&copy, Some("fp61")).contains("did you mean \"fp16\"?"));
    std::fs::rename(copy.path().join("text_model.onnx"), copy.path().join("text_model_fp16.onnx")).unwrap();
    let said = refusal(&copy, None);
    assert!(said.contains("text_model.onnx: missing; found text_model_fp16.onnx"), "{said}");
}

#[test]
fn graphs_may_be_in_the_onnx_folder() {
    let copy = copy(&[]);
    std::fs::create_dir(copy.path().join("onnx")).unwrap();
    for role in [Role::Vision, Role::Text, Role::Fusion, Role::Decoder] {
        let name = format!("{}.onnx", role.stem());
        std::fs::rename(copy.path().join(&name), copy.path().join("onnx").join(&name)).unwrap();
    }
    let directory = ModelDirectory::open(copy.path(), None).unwrap();
    assert_eq!(directory.graph(Role::Fusion).unwrap().file, "onnx/fusion.onnx");
}

#[test]
fn files_that_are_no_graphs_are_named() {
    let copy = copy(&[]);
    write(&copy, "vision_model.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n");
    let said = refusal(&copy, None);
    assert!(said.contains("vision_model.onnx: not readable") && said.contains("git lfs pull"), "{said}");
    let whole = std::fs::read(tiny_model().join("vision_model.onnx")).unwrap();
    std::fs::write(copy.path().join("vision_model.onnx"), &whole[..whole.len() - 10]).unwrap();
    let said = refusal(&copy, None);
    assert!(said.contains("is the file complete?"), "{said}");
}

#[test]
fn every_problem_is_an_error_of_the_directory() {
    let error = ModelDirectory::open(Path::new("/nowhere"), None).unwrap_err();
    assert!(matches!(&error, ModelError::Directory { problems, .. } if problems.len() == 1), "{error}");
}
