//! Graphs of one or two nodes for cases that the tiny model does not have: NaN logits, ties, outputs with a wrong batch, weights in
//! other files.

use std::sync::Arc;

use nightcap::engine::{
    Engine, EngineOptions, Finish, GenerationOverrides, GenerationSettings, ImageFeatures, RowInput,
};
use nightcap::model::{ModelDirectory, Role};
use nightcap::onnx::{
    DataType, GraphHeader, GraphOptions, GraphSource, OnnxErrorKind, Port, RowGather, SessionInput, Tensor,
};
use nightcap::preprocess::PixelValues;
use nightcap::row::error::{ErrorKind, Stage};
use tempfile::TempDir;

use crate::common::BATCH;
use crate::graph_writer::{attribute, bytes, constant, directory, model, node, number, port, port_of_any_size, text};

/// Vision gives the mean over the channels of a `1 x 4` image as one state of width 4, called `state`.
fn vision(state: &str) -> Vec<u8> {
    let axes = [attribute("axes", 7, &number(8, 1)), attribute("keepdims", 2, &number(3, 0))].concat();
    model(&[
        node("ReduceMean", &["pixel_values"], state, &axes),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, state, 1, &[0, 0, 4]),
    ])
}

/// The decoder's logits are the roots of the image's state: every caption is four pixels, and negative ones are NaN.
fn decoder(state: &str) -> Vec<u8> {
    model(&[
        node("Sqrt", &[state], "logits", &[]),
        port(11, "input_ids", 7, &[0, 0]),
        port(11, state, 1, &[0, 0, 4]),
        port(12, "logits", 1, &[0, 0, 4]),
    ])
}

fn captioner(vision_state: &str, decoder_state: &str) -> TempDir {
    directory(&[("vision_model.onnx", vision(vision_state)), ("decoder_with_past_model.onnx", decoder(decoder_state))])
}

fn engine(folder: &TempDir) -> Engine {
    let directory = ModelDirectory::open(folder.path(), None).unwrap();
    let resolve = || GenerationSettings::resolve(&directory, &GenerationOverrides::default()).unwrap();
    let generation = directory.can_caption().then(resolve);
    Engine::load(&directory, EngineOptions { threads: 1, generation, ..EngineOptions::default() }).unwrap()
}

/// A `3 x 1 x 4` image.
fn pixel_values(data: Vec<f32>) -> PixelValues {
    PixelValues { data: data.into(), height: 1, width: 4, grid: None }
}

/// A `3 x 1 x 4` image whose channels are all `pixels`.
pub(crate) fn encode(engine: &mut Engine, images: &[[f32; 4]]) -> Vec<Arc<ImageFeatures>> {
    let images: Vec<_> = images.iter().map(|pixels| pixel_values(pixels.repeat(3))).collect();
    engine.encode_images(&images.iter().collect::<Vec<_>>()).unwrap()
}

#[test]
fn nan_logits_fail_their_row_alone_and_ties_go_to_the_lowest_token() {
    let folder = captioner("last_hidden_state", "encoder_hidden_states");
    let mut engine = engine(&folder);
    let images =
        encode(&mut engine, &[[0.0, 1.0, 4.0, 4.0], [1.0, 1.0, -1.0, 1.0], [9.0, 9.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]);
    let rows: Vec<_> =
        images.into_iter().map(|image| RowInput { image: Some(image), text: None, ..RowInput::default() }).collect();
    let outputs = engine.run(&rows, BATCH).unwrap();
    let caption = |row: usize| outputs[row].as_ref().unwrap().caption.as_ref().unwrap();
    assert_eq!((caption(0).text.as_str(), caption(0).tokens, caption(0).finish), ("two two two", 3, Finish::Length));
    let one_token = 2.0 - (1.0_f64 + 1.0_f64.exp() + 2.0 * 2.0_f64.exp()).ln();
    assert!((f64::from(caption(0).logprob) - 3.0 * one_token).abs() < 1e-5);
    let error = outputs[1].as_ref().unwrap_err();
    assert_eq!((error.stage, error.kind), (Stage::Generate, ErrorKind::NonFiniteOutput));
    assert_eq!((caption(2).text.as_str(), caption(2).tokens, caption(2).finish), ("", 1, Finish::Eos));
    assert_eq!(caption(3).text, "three three three");
}

/// Logits are the recurrent state, to which every step adds the image's state.
fn recurrent(hidden: &[u64]) -> Vec<u8> {
    model(&[
        node("Add", &["past_hidden.0", "encoder_hidden_states"], "present_hidden.0", &[]),
        node("Identity", &["present_hidden.0"], "logits", &[]),
        port(11, "input_ids", 7, &[0, 0]),
        port(11, "encoder_hidden_states", 1, &[0, 0, 4]),
        port(11, "past_hidden.0", 1, hidden),
        port(12, "logits", 1, &[0, 0, 4]),
        port(12, "present_hidden.0", 1, hidden),
    ])
}

#[test]
fn texts_of_a_graph_without_a_mask_are_all_padded_to_its_length() {
    let graph = model(&[
        node("Cast", &["input_ids"], "text_embeds", &attribute("to", 2, &number(3, 1))),
        port(11, "input_ids", 7, &[0, 0]),
        port(12, "text_embeds", 1, &[0, 4]),
    ]);
    let folder = directory(&[("text_model.onnx", graph)]);
    let config = r#"{"pad_token_id": 3, "text_config": {"max_position_embeddings": 4}}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let rows = ["one", "two two one one two"].map(|text| RowInput { text: Some(text.into()), ..RowInput::default() });
    let embeddings = |rows: &[RowInput]| -> Vec<Vec<f32>> {
        let outputs = engine(&folder).run(rows, BATCH).unwrap();
        outputs.into_iter().map(|output| output.unwrap().text_embedding.unwrap()).collect()
    };
    let alone = embeddings(&rows[..1]).remove(0);
    let length = 28.0_f32.sqrt();
    let expected = [1.0 / length, 3.0 / length, 3.0 / length, 3.0 / length];
    assert!(alone.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{alone:?}");
    assert_eq!(embeddings(&rows)[0], alone);
}

#[test]
fn a_recurrent_state_is_replaced_in_every_step() {
    let graphs = |hidden: &[u64]| {
        directory(&[
            ("vision_model.onnx", vision("last_hidden_state")),
            ("decoder_with_past_model.onnx", recurrent(hidden)),
        ])
    };
    let folder = graphs(&[0, 1, 4]);
    let mut engine = engine(&folder);
    let pixels = [0.0, 1.0, 0.5, 0.0];
    let image = Some(encode(&mut engine, &[pixels]).remove(0));
    let output = engine.run(&[RowInput { image, ..RowInput::default() }], BATCH).unwrap().remove(0).unwrap();
    let expected: f64 = (1..=3)
        .map(|step| {
            let logits = pixels.map(|pixel| f64::from(pixel) * f64::from(step));
            logits[1] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
        })
        .sum();
    let caption = output.caption.unwrap();
    assert_eq!(caption.text, "one one one");
    assert!((f64::from(caption.logprob) - expected).abs() < 1e-5, "{} {expected}", caption.logprob);
    let said = ModelDirectory::open(graphs(&[0, 0, 4]).path(), None).unwrap_err().to_string();
    assert!(said.contains("input \"past_hidden.0\": expected numbers for every axis but the first"), "{said}");
}

#[test]
fn rows_join_a_running_batch_of_a_recurrent_decoder() {
    let folder = directory(&[
        ("vision_model.onnx", vision("last_hidden_state")),
        ("decoder_with_past_model.onnx", recurrent(&[0, 1, 4])),
    ]);
    let mut engine = engine(&folder);
    assert!(engine.supports_continuous_batching());
    // the highest first pixel is the end token at once, the others go on for three tokens
    let end = [2.0, 1.0, 0.0, 0.0];
    let pictures =
        [[0.0, 1.0, 0.5, 0.0], end, [0.3, 0.1, 0.9, 0.2], end, end, [0.1, 0.2, 0.3, 1.4], [0.0, 0.8, 0.1, 0.6]];
    let images = encode(&mut engine, &pictures);
    let rows: Vec<_> = images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
    let alone = engine.run(&rows, 1).unwrap();
    let tokens = |row: usize| alone[row].as_ref().unwrap().caption.as_ref().unwrap().tokens;
    assert_eq!((0..rows.len()).map(tokens).collect::<Vec<_>>(), [3, 1, 3, 1, 1, 3, 3]);
    for slots in [2, 3, 4] {
        assert_eq!(engine.run(&rows, slots).unwrap(), alone, "{slots} slots");
    }
}

/// A decoder that appends the tokens to a cache. Its logits are the mean of the cache (of the row's own tokens if `reads_mask`) plus
/// the row's position if `reads_positions`, otherwise the length of the batch. Its inputs are of the integer type `kind`.
pub(crate) fn cached_decoder(reads_mask: bool, reads_positions: bool, kind: u64) -> Vec<u8> {
    let cast = attribute("to", 2, &number(3, 1));
    let axis = |axis: u64| attribute("axis", 2, &number(3, axis));
    let mean = if reads_mask {
        vec![
            node("Mul", &["present.0.key", "mask"], "seen", &[]),
            node("ReduceSum", &["seen", "two"], "sum", &[]),
            node("Div", &["sum", "count"], "mean", &[]),
        ]
    } else {
        let axes = attribute("axes", 7, &number(8, 2));
        vec![
            node("ReduceMean", &["present.0.key"], "of all", &axes),
            node("Sub", &["count", "count"], "nothing", &[]),
            node("Add", &["of all", "nothing"], "mean", &[]),
        ]
    };
    let place = if reads_positions {
        vec![node("Add", &["squeezed", "position"], "logits", &[])]
    } else {
        vec![
            node("Shape", &["attention_mask"], "shape", &[]),
            node("Gather", &["shape", "one"], "length", &[]),
            node("Cast", &["length"], "float length", &cast),
            node("Sub", &["position", "position"], "no position", &[]),
            node("Add", &["squeezed", "no position"], "unplaced", &[]),
            node("Add", &["unplaced", "float length"], "logits", &[]),
        ]
    };
    let tokens = [
        node("Cast", &["input_ids"], "float ids", &cast),
        node("Unsqueeze", &["float ids", "one"], "ids with heads", &[]),
        node("Unsqueeze", &["ids with heads", "three"], "key", &[]),
        node("Concat", &["key", "key", "key", "key"], "wide", &axis(3)),
        node("Concat", &["past_key_values.0.key", "wide"], "present.0.key", &axis(2)),
        node("Cast", &["attention_mask"], "float mask", &cast),
        node("Unsqueeze", &["float mask", "one"], "mask with heads", &[]),
        node("Unsqueeze", &["mask with heads", "three"], "mask", &[]),
        node("ReduceSum", &["mask", "two"], "count", &[]),
        node("Cast", &["position_ids"], "float position", &cast),
        node("Unsqueeze", &["float position", "two"], "position", &[]),
    ];
    let squeeze = [node("Squeeze", &["mean", "one"], "squeezed", &[])];
    let ends = [
        port_of_any_size(11, "input_ids", kind, &[0, 0]),
        port_of_any_size(11, "attention_mask", kind, &[0, 0]),
        port_of_any_size(11, "position_ids", kind, &[0, 0]),
        port_of_any_size(11, "past_key_values.0.key", 1, &[0, 1, 0, 4]),
        port_of_any_size(12, "logits", 1, &[0, 0, 4]),
        port_of_any_size(12, "present.0.key", 1, &[0, 1, 0, 4]),
        constant("one", 1),
        constant("two", 2),
        constant("three", 3),
    ];
    model(&[&tokens[..], &mean, &squeeze, &place, &ends].concat())
}

#[test]
fn rows_join_a_cache_only_if_mask_and_positions_are_read() {
    let axes = [attribute("axes", 7, &[number(8, 1), number(8, 2)].concat()), attribute("keepdims", 2, &number(3, 0))];
    let vision = model(&[
        node("ReduceMean", &["pixel_values"], "image_embeds", &axes.concat()),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_embeds", 1, &[0, 4]),
    ]);
    for (reads_mask, reads_positions) in [(true, true), (false, true), (true, false)] {
        let folder = directory(&[
            ("vision_model.onnx", vision.clone()),
            ("decoder_with_past_model.onnx", cached_decoder(reads_mask, reads_positions, 7)),
        ]);
        let joins = engine(&folder).supports_continuous_batching();
        assert_eq!(joins, reads_mask && reads_positions, "mask {reads_mask}, positions {reads_positions}");
    }
}

#[test]
fn a_run_takes_the_rows_that_are_left_of_a_tensor() {
    for (dtype, kind) in [(DataType::F32, 1), (DataType::F16, 10), (DataType::I64, 7)] {
        let graph =
            model(&[node("Identity", &["x"], "y", &[]), port(11, "x", kind, &[0, 2]), port(12, "y", kind, &[0, 2])]);
        let folder = directory(&[("graph.onnx", graph)]);
        let source = GraphSource::file(folder.path().join("graph.onnx"));
        let mut graph = source.open(GraphOptions::default()).unwrap();
        let mut x = match dtype {
            DataType::I64 => Tensor::from_i64(&[3, 2], (0..6).collect()).unwrap(),
            _ => Tensor::from_f32(dtype, &[3, 2], (0..6_u8).map(f32::from).collect()).unwrap(),
        };
        RowGather::new(GraphOptions::default()).gather_in_place(&mut x, &[0, 2]).unwrap();
        let y = graph.run(&[("x", SessionInput::Owned(x))]).unwrap().take("y", 2).unwrap();
        match dtype {
            DataType::I64 => assert_eq!(y.to_i64().unwrap(), [0, 1, 4, 5]),
            _ => assert_eq!(*y.to_f32().unwrap(), [0.0, 1.0, 4.0, 5.0]),
        }
    }
}

#[test]
fn a_state_with_another_batch_is_refused() {
    let constant = [number(1, 1), number(1, 1), number(1, 1), number(1, 2), number(2, 1), bytes(9, &[0; 8])].concat();
    let decoder = model(&[
        node("Sqrt", &["encoder_hidden_states"], "logits", &[]),
        node("Constant", &[], "present.0.key", &attribute("value", 4, &bytes(5, &constant))),
        port(11, "input_ids", 7, &[0, 0]),
        port(11, "encoder_hidden_states", 1, &[0, 0, 4]),
        port(11, "past_key_values.0.key", 1, &[0, 1, 0, 2]),
        port(12, "logits", 1, &[0, 0, 4]),
        port(12, "present.0.key", 1, &[0, 1, 0, 2]),
    ]);
    let folder =
        directory(&[("vision_model.onnx", vision("last_hidden_state")), ("decoder_with_past_model.onnx", decoder)]);
    let mut engine = engine(&folder);
    let images = encode(&mut engine, &[[0.0, 0.0, 1.0, 0.0]; 2]);
    let rows: Vec<_> = images.into_iter().map(|image| RowInput { image: Some(image), ..RowInput::default() }).collect();
    assert!(engine.run(&rows[..1], BATCH).unwrap()[0].is_ok());
    let error = engine.run(&rows, BATCH).unwrap_err();
    assert!(error.what.contains("output \"present.0.key\" has shape [1, 1, 1, 2] for a batch of 2 rows"), "{error}");
}

#[test]
fn a_decoder_input_takes_the_output_of_its_name() {
    let said = ModelDirectory::open(captioner("last_hidden_state", "cross").path(), None).unwrap_err().to_string();
    assert!(said.contains("nothing feeds input \"cross\""), "{said}");
    let folder = captioner("cross", "cross");
    let bindings = ModelDirectory::open(folder.path(), None).unwrap().bindings().of(Role::Decoder).to_vec();
    assert_eq!(bindings[1].1.to_string(), "vision.cross");
    let mut engine = engine(&folder);
    let image = Some(encode(&mut engine, &[[0.0, 0.0, 1.0, 0.0]]).remove(0));
    let output =
        engine.run(&[RowInput { image, text: None, ..RowInput::default() }], BATCH).unwrap().remove(0).unwrap();
    assert_eq!(output.caption.unwrap().text, "two two two");
}

#[test]
fn several_inputs_of_a_vision_graph_take_the_pixels() {
    let one = vision("last_hidden_state");
    let axes = [attribute("axes", 7, &number(8, 1)), attribute("keepdims", 2, &number(3, 0))].concat();
    let two = model(&[
        node("Add", &["pixel_values", "again"], "sum", &[]),
        node("ReduceMean", &["sum"], "last_hidden_state", &axes),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(11, "again", 1, &[0, 3, 0, 0]),
        port(12, "last_hidden_state", 1, &[0, 0, 4]),
    ]);
    let hidden = |vision: Vec<u8>, bound: &str| {
        let folder = directory(&[
            ("vision_model.onnx", vision),
            ("decoder_with_past_model.onnx", decoder("encoder_hidden_states")),
        ]);
        std::fs::write(folder.path().join("nightcap.toml"), bound).unwrap();
        encode(&mut engine(&folder), &[[0.0, 1.0, 2.0, 4.0]])[0].hidden.clone().unwrap()
    };
    let states = hidden(one, "");
    let bound = "[bind]\n\"vision.again\" = \"pixel_values\"\n";
    let twice = hidden(two, bound);
    let values: Vec<_> = states.values().unwrap().iter().map(|value| 2.0 * value).collect();
    assert_eq!((twice.values(), twice.shape()), (Some(values.as_slice()), states.shape()));
}

#[test]
fn infinite_pixels_fail_their_row_alone() {
    let folder = captioner("last_hidden_state", "encoder_hidden_states");
    let mut engine = engine(&folder);
    let images = encode(&mut engine, &[[0.0, f32::INFINITY, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);
    let rows: Vec<_> =
        images.into_iter().map(|image| RowInput { image: Some(image), text: None, ..RowInput::default() }).collect();
    let outputs = engine.run(&rows, BATCH).unwrap();
    assert_eq!(outputs[0].as_ref().unwrap_err().stage, Stage::Encode);
    assert_eq!(outputs[1].as_ref().unwrap().caption.as_ref().unwrap().text, "two two two");
}

#[test]
fn an_output_with_another_batch_is_refused() {
    let constant: Vec<u8> = [number(1, 1), number(1, 2), number(2, 1), bytes(9, &[0; 8])].concat();
    let graph = model(&[
        node("Constant", &[], "image_embeds", &attribute("value", 4, &bytes(5, &constant))),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_embeds", 1, &[0, 2]),
    ]);
    let folder = directory(&[("vision_model.onnx", graph)]);
    let mut engine = engine(&folder);
    let image = pixel_values(vec![0.0; 12]);
    assert_eq!(engine.encode_images(&[&image]).unwrap()[0].embedding, Some(vec![0.0, 0.0]));
    let error = engine.encode_images(&[&image, &image]).unwrap_err();
    assert_eq!(error.kind, OnnxErrorKind::Run);
    assert!(error.what.contains("output \"image_embeds\" has shape [1, 2] for a batch of 2 rows"), "{error}");
}

#[test]
fn the_width_of_embeddings_must_be_known_and_kept() {
    let constant: Vec<u8> = [number(1, 1), number(1, 2), number(2, 1), bytes(9, &[0; 8])].concat();
    let graph = model(&[
        node("Constant", &[], "image_embeds", &attribute("value", 4, &bytes(5, &constant))),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_embeds", 1, &[0, 0]),
    ]);
    let folder = directory(&[("vision_model.onnx", graph)]);
    let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
    assert!(said.contains("declares no width") && said.contains("projection_dim in config.json"), "{said}");
    std::fs::write(folder.path().join("config.json"), r#"{"projection_dim": 3}"#).unwrap();
    let error = engine(&folder).encode_images(&[&pixel_values(vec![0.0; 12])]).unwrap_err();
    assert!(
        error.what.contains("expected \"image_embeds\" of shape [batch, width] of width 3, found [1, 2]"),
        "{error}"
    );
}

#[test]
fn weights_in_other_files_are_found_and_initializers_are_no_inputs() {
    let external = |file: &str| {
        let entry = |key: &str, value: &str| bytes(13, &[text(1, key), text(2, value)].concat());
        [number(1, 2), number(2, 1), entry("location", file), entry("offset", "0"), number(14, 1)].concat()
    };
    let weight = [external("vision_model.onnx_data"), text(8, "weight")].concat();
    let graph = model(&[
        bytes(5, &weight),
        node("Constant", &[], "other", &attribute("value", 4, &bytes(5, &external("more.data")))),
        node("Identity", &["pixel_values"], "image_embeds", &[]),
        port(11, "weight", 1, &[2]),
        port(11, "pixel_values", 1, &[0, 3, 0, 0]),
        port(12, "image_embeds", 1, &[0, 2]),
    ]);
    let folder = directory(&[("vision_model.onnx", graph)]);
    let header = GraphHeader::read(&GraphSource::file(folder.path().join("vision_model.onnx"))).unwrap();
    assert_eq!(
        header.external_files.iter().map(String::as_str).collect::<Vec<_>>(),
        ["more.data", "vision_model.onnx_data"]
    );
    assert_eq!(header.inputs.iter().map(Port::describe).collect::<Vec<_>>(), ["float32 [any, 3, any, any]"]);

    let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
    assert!(said.contains("vision_model.onnx: its weights lie in") && said.contains("which is missing"), "{said}");
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("more.data", "weights");
    write("vision_model.onnx_data", "weights");
    let fingerprint = || ModelDirectory::open(folder.path(), None).unwrap().embedding_model_hash().unwrap();
    let before = fingerprint();
    assert_eq!(before, fingerprint());
    write("more.data", "Weights");
    assert_ne!(before, fingerprint(), "weights in other files count");
}

#[test]
fn an_engine_can_be_moved_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Engine>();
}
