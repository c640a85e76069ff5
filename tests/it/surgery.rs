//! Graphs that are taken apart when they are opened: decoders whose keys and values of cross-attention are computed once,
//! and the image and text parts of a joint graph. Each is compared with the whole graph, bit for bit; decoders whose sizes are
//! folded too, which moves a rounding, within 4e-6 (float16: 2e-3).

use std::path::{Path, PathBuf};

use nightcap::engine::{Engine, EngineOptions, RowInput};
use nightcap::model::{ModelDirectory, Role};
use nightcap::onnx::{
    DataType, DecoderGraph, Device, GraphHeader, GraphOptions, GraphSource, HoistedGraph, Outputs, ProbeInputs,
    Session, SessionInput, Tensor, open_subgraph,
};

use crate::common::{BATCH, nightcap, repo};
use crate::graph_writer::{directory, model, node, port};

const OPTIONS: GraphOptions = GraphOptions { device: Device::Cpu, threads: 1, dynamic_shapes: false, repeatable: true };
const STATES: &str = "encoder_hidden_states";

fn vit_gpt2(file: &str) -> PathBuf {
    repo("tests/fixtures/models/vit_gpt2").join(file)
}

/// Numbers without a pattern between -1 and 1.
fn noise(size: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..size).map(|_| next()).collect()
}

/// The logits of `steps` steps of a ViT-GPT2 decoder over a batch of 3, whose inputs `invariants` are the same in all steps.
fn logits(step: &mut Session, invariants: &[(String, Tensor)], dtype: DataType, steps: i64) -> Vec<Vec<f32>> {
    let states = ["past_key_values.0.key", "past_key_values.0.value"];
    let mut past: Vec<Tensor> = states.iter().map(|_| Tensor::zeros(dtype, &[3, 2, 0, 16]).unwrap()).collect();
    let mut all = Vec::new();
    for token in 0..steps {
        let tokens = Tensor::from_i64(&[3, 1], vec![token, token + 40, 2 * token + 7]).unwrap();
        let mut feeds = vec![("input_ids", SessionInput::Owned(tokens))];
        feeds.extend(invariants.iter().map(|(name, value)| (name.as_str(), SessionInput::Shared(value))));
        feeds.extend(states.into_iter().zip(past.drain(..).map(SessionInput::Owned)));
        let mut outputs = step.run(&feeds).unwrap();
        past = vec![outputs.take("present.0.key", 3).unwrap(), outputs.take("present.0.value", 3).unwrap()];
        all.push(outputs.take("logits", 3).unwrap().to_f32().unwrap().into_owned());
    }
    all
}

/// Compares the decoder in `file` with its two parts.
fn assert_equal_in_two_parts(file: &Path, dtype: DataType) {
    let source = GraphSource::file(file);
    let states = || Tensor::from_f32(dtype, &[3, 17, 32], noise(3 * 17 * 32)).unwrap();
    let mut whole = source.open(OPTIONS).unwrap();
    let expected = logits(&mut whole, &[(STATES.to_owned(), states())], dtype, 6);
    assert!(expected.iter().flatten().all(|logit| logit.is_finite()) && expected[0] != expected[1]);

    let stepped = DecoderGraph::open(&source, &[STATES], Vec::new(), OPTIONS).unwrap();
    let hoisted = stepped.hoisted.as_ref().unwrap();
    assert_eq!(hoisted.outputs.len(), 3, "a key, a value and their length for the one layer: {:?}", hoisted.outputs);
    assert_eq!(hoisted.session.inputs().iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), [STATES]);
    assert_eq!(stepped_logits(stepped, &states(), dtype), expected);

    let stepped = DecoderGraph::open(&source, &[STATES], probes(dtype), OPTIONS).unwrap();
    let values = &stepped.hoisted.as_ref().unwrap().outputs;
    let scaled = values.iter().any(|name| name.contains("/Mul"));
    assert!(
        stepped.folded_sizes > 100 && scaled,
        "{} sizes; the key is scaled once, too: {values:?}",
        stepped.folded_sizes
    );
    let found = stepped_logits(stepped, &states(), dtype);
    // the scale of attention is multiplied in at another place
    let most = if dtype == DataType::F16 { 2e-3 } else { 4e-6 };
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() <= most, "{found} {expected}");
    }
}

/// The logits of 6 steps of a decoder in two parts.
fn stepped_logits(stepped: DecoderGraph, states: &Tensor, dtype: DataType) -> Vec<Vec<f32>> {
    let DecoderGraph { hoisted, mut step, .. } = stepped;
    let HoistedGraph { mut session, outputs: names } = hoisted.unwrap();
    let mut outputs: Outputs = session.run(&[(STATES, SessionInput::Shared(states))]).unwrap();
    let mut invariants: Vec<_> = names.iter().map(|name| (name.clone(), outputs.remove(name).unwrap())).collect();
    if step.inputs().iter().any(|port| port.name == STATES) {
        // their shape may still be looked at; what is in them is not
        invariants.push((STATES.to_owned(), Tensor::zeros(dtype, &states.shape()).unwrap()));
    }
    logits(&mut step, &invariants, dtype, 6)
}

/// Inputs of three sizes for a ViT-GPT2 decoder.
fn probes(dtype: DataType) -> Vec<ProbeInputs> {
    let probe = |(rows, past, attended, tokens): (usize, usize, usize, usize)| {
        let ones = |name: &str, dtype, shape: &[usize]| (name.to_owned(), Tensor::ones(dtype, shape).unwrap());
        vec![
            ones("input_ids", DataType::I64, &[rows, tokens]),
            ones(STATES, dtype, &[rows, attended, 32]),
            ones("past_key_values.0.key", dtype, &[rows, 2, past, 16]),
            ones("past_key_values.0.value", dtype, &[rows, 2, past, 16]),
        ]
    };
    [(2, 3, 5, 1), (3, 5, 8, 1), (4, 10, 17, 2)].map(probe).into()
}

#[test]
fn a_decoder_in_two_parts_gives_the_same_logits() {
    assert_equal_in_two_parts(&vit_gpt2("decoder_with_past_model.onnx"), DataType::F32);
}

#[test]
fn weights_that_lie_in_another_file_are_found_also_behind_links() {
    assert_equal_in_two_parts(&vit_gpt2("decoder_with_past_model_fp16.onnx"), DataType::F16);
    // as the cache of Hugging Face's hub lays files out
    let cache = tempfile::tempdir().unwrap();
    let [blobs, snapshot] = ["blobs", "snapshot"].map(|name| cache.path().join(name));
    std::fs::create_dir(&blobs).unwrap();
    std::fs::create_dir(&snapshot).unwrap();
    for (name, blob) in [
        ("decoder_with_past_model.onnx", "0a"),
        ("decoder_with_past_model_fp16.onnx", "1b"),
        ("decoder_with_past_model_fp16.onnx_data", "2c"),
    ] {
        std::fs::copy(vit_gpt2(name), blobs.join(blob)).unwrap();
        std::os::unix::fs::symlink(Path::new("../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    assert_equal_in_two_parts(&snapshot.join("decoder_with_past_model.onnx"), DataType::F32);
    assert_equal_in_two_parts(&snapshot.join("decoder_with_past_model_fp16.onnx"), DataType::F16);
}

#[test]
fn a_decoder_of_which_nothing_stays_the_same_is_left_whole() {
    let trocr = GraphSource::file(repo("tests/fixtures/models/trocr/decoder_with_past_model.onnx"));
    assert!(DecoderGraph::open(&trocr, &[], Vec::new(), OPTIONS).unwrap().hoisted.is_none());
    let merged = GraphSource::file(vit_gpt2("decoder_model_merged.onnx"));
    assert!(DecoderGraph::open(&merged, &[STATES], Vec::new(), OPTIONS).unwrap().hoisted.is_none());
}

#[test]
fn of_the_prefill_only_the_static_cache_is_computed() {
    let source = GraphSource::file(repo("tests/fixtures/models/trocr/decoder_model.onnx"));
    let mut whole = source.open(OPTIONS).unwrap();
    let width = whole.inputs().iter().find(|port| port.name == STATES).unwrap().fixed(2).unwrap();
    let tokens =
        |rows: usize, count: usize| Tensor::from_i64(&[rows, count], (5..).take(rows * count).collect()).unwrap();
    let states = |rows: usize, count: usize| {
        Tensor::from_f32(DataType::F32, &[rows, count, width], noise(rows * count * width)).unwrap()
    };
    let probes = || -> Vec<ProbeInputs> {
        let probe = |(rows, tokens_, attended)| {
            vec![("input_ids".to_owned(), tokens(rows, tokens_)), (STATES.to_owned(), states(rows, attended))]
        };
        [(2, 3, 5), (3, 4, 8), (1, 2, 7)].map(probe).into()
    };
    let open = |outputs: &[&str], probes| {
        let outputs: Vec<String> = outputs.iter().map(|&name| name.to_owned()).collect();
        open_subgraph(&source, &outputs, &[STATES], probes, OPTIONS).unwrap()
    };
    let kept = ["present.0.encoder.key", "present.0.encoder.value"];
    let mut part = open(&kept, probes()).unwrap();
    assert_eq!(part.inputs().iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), [STATES]);
    let (ids, attended) = (tokens(4, 2), states(4, 11));
    let expected =
        whole.run(&[("input_ids", SessionInput::Shared(&ids)), (STATES, SessionInput::Shared(&attended))]).unwrap();
    let found = part.run(&[(STATES, SessionInput::Shared(&attended))]).unwrap();
    for name in kept {
        let [expected, found] = [&expected, &found].map(|outputs| outputs.get(name, 4).unwrap());
        assert_eq!((found.shape(), found.to_f32().unwrap()), (expected.shape(), expected.to_f32().unwrap()));
    }
    // logits follow from tokens, and without probes it is not known that their batch size is that of the states
    assert!(open(&["logits"], probes()).is_none() && open(&kept, Vec::new()).is_none());
}

/// Three outputs that depend on the shape of the input only, whose width is always 4: the width plus the width, the lesser of
/// the length and 6, and the length times the batch, which are taken from the shape of something else.
fn sizes() -> Vec<u8> {
    use crate::graph_writer::{attribute, constant, number};
    let axis = |place| attribute("axis", 2, &number(3, place));
    model(&[
        constant("two", 2),
        constant("one", 1),
        constant("zero", 0),
        constant("six", 6),
        node("Shape", &["x"], "shape", &[]),
        node("Gather", &["shape", "two"], "width", &axis(0)),
        node("Add", &["width", "width"], "twice", &[]),
        node("Gather", &["shape", "one"], "length", &axis(0)),
        node("Min", &["length", "six"], "limited", &[]),
        node("Neg", &["x"], "y", &[]),
        node("Shape", &["y"], "shape of y", &[]),
        node("Gather", &["shape of y", "zero"], "batch", &axis(0)),
        node("Gather", &["shape of y", "one"], "length of y", &axis(0)),
        node("Mul", &["length of y", "batch"], "product", &[]),
        node("Identity", &["product"], "product out", &[]),
        node("Identity", &["limited"], "limited out", &[]),
        node("Identity", &["twice"], "twice out", &[]),
        port(11, "x", 1, &[0, 0, 4]),
        port(12, "product out", 7, &[1]),
        port(12, "limited out", 7, &[1]),
        port(12, "twice out", 7, &[1]),
    ])
}

#[test]
fn sizes_are_folded_only_where_no_other_size_can_change_them() {
    let folder = directory(&[("sizes.onnx", sizes())]);
    let source = GraphSource::file(folder.path().join("sizes.onnx"));
    let x = |rows: usize, length: usize| Tensor::ones(DataType::F32, &[rows, length, 4]).unwrap();
    let probe = |(rows, length)| vec![("x".to_owned(), x(rows, length))];
    // all of them longer than 6, so that the lesser is 6 in all
    let probes: Vec<_> = [(2, 7), (3, 9), (5, 8)].map(probe).into();
    let mut stepped = DecoderGraph::open(&source, &[], probes, OPTIONS).unwrap();
    // the width, two times twice it, and the shape and the length of y, which are those of x
    assert_eq!(stepped.folded_sizes, 5);
    for (rows, length) in [(2, 3), (3, 20), (1, 6)] {
        let mut outputs = stepped.step.run(&[("x", SessionInput::Owned(x(rows, length)))]).unwrap();
        let mut output = |name: &str| outputs.remove(name).unwrap().to_i64().unwrap().to_vec();
        assert_eq!(output("twice out"), [8]);
        assert_eq!(output("limited out"), [length.min(6) as i64]);
        assert_eq!(output("product out"), [(rows * length) as i64]);
    }
}

#[test]
fn copies_are_not_made() {
    use crate::graph_writer::{attribute, number};
    let copy = |from, to| node("Concat", &[from], to, &attribute("axis", 2, &number(3, 0)));
    let graph = model(&[
        copy("x", "first"),
        copy("first", "second"),
        node("Neg", &["second"], "less", &[]),
        copy("less", "again"),
        copy("again", "y"),
        copy("x", "z"),
        port(11, "x", 1, &[0, 2]),
        port(12, "y", 1, &[0, 2]),
        port(12, "z", 1, &[0, 2]),
    ]);
    let folder = directory(&[("copies.onnx", graph)]);
    let source = GraphSource::file(folder.path().join("copies.onnx"));
    let mut stepped = DecoderGraph::open(&source, &[], Vec::new(), OPTIONS).unwrap();
    // an output that is an input remains a copy
    assert_eq!(stepped.elided_copies, 4);
    let x = Tensor::from_f32(DataType::F32, &[2, 2], vec![1.0, -2.0, 3.0, 4.0]).unwrap();
    let mut outputs = stepped.step.run(&[("x", SessionInput::Owned(x))]).unwrap();
    let mut output = |name: &str| outputs.remove(name).unwrap().to_f32().unwrap().into_owned();
    assert_eq!(output("y"), [-1.0, 2.0, -3.0, -4.0]);
    assert_eq!(output("z"), [1.0, -2.0, 3.0, 4.0]);
}

#[test]
fn trials_that_do_not_fit_fold_nothing() {
    let source = GraphSource::file(vit_gpt2("decoder_with_past_model.onnx"));
    let mut probes = probes(DataType::F32);
    for probe in &mut probes {
        probe[0].1 = Tensor::ones(DataType::F32, &[1]).unwrap();
    }
    assert_eq!(DecoderGraph::open(&source, &[STATES], probes, OPTIONS).unwrap().folded_sizes, 0);
}

#[test]
fn prepare_says_what_is_done_to_each_graph() {
    let said = |family: &str| {
        let folder = repo("tests/fixtures/models").join(family);
        let output = nightcap().args(["model", "prepare"]).arg(folder).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split("; loaded in").next().unwrap()).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(said("vit_gpt2"), @r"
    vision: encoder_model.onnx: unchanged
      on a GPU one operator each: attention (1 of 1), sum and layer normalization (2)
    decoder: decoder_with_past_model.onnx: 150 shape values folded; 3 values computed once per batch
      its steps have one shape on a GPU; tokens are chosen on the device
    ");
    insta::assert_snapshot!(said("blip"), @r"
    vision: onnx/encoder_model.onnx: unchanged
      on a GPU one operator each: attention (2 of 2), sum and layer normalization (4)
    prefill: onnx/decoder_model.onnx: reduced to what computes present.0.encoder.key and 3 more
    decoder: onnx/decoder_with_past_model.onnx: 58 shape values folded; 5 copies removed
      its steps have one shape on a GPU; tokens are chosen on the device
    ");
    insta::assert_snapshot!(said("trocr").lines().last().unwrap(), @"  its steps have one shape on a GPU; tokens are selected by the host among the 49 best of each row (bad_words_ids of several tokens, forced_eos_token_id, begin_suppress_tokens)");
    insta::assert_snapshot!(said("coca").lines().last().unwrap(), @"  its steps on a GPU are those of the exported graph: it keeps no cache: each step processes all tokens so far");
    insta::assert_snapshot!(said("clip"), @r"
    vision: model.onnx: reduced to what computes image_embeds
      on a GPU one operator each: attention (1 of 1), sum and layer normalization (1)
    text: model.onnx: reduced to what computes text_embeds
      on a GPU one operator each: attention (1 of 1), sum and layer normalization (2)
    ");
    insta::assert_snapshot!(said("florence2").lines().take(3).collect::<Vec<_>>().join("\n"), @r"
    vision: onnx/vision_encoder.onnx: unchanged
      on a GPU one operator each: attention (2 of 4)
        attention that is not: expected a constant scale, found one that is computed
    ");
}

/// Image embeddings are means over the channels, text embeddings the tokens; both meet in one more output.
fn joint() -> Vec<u8> {
    use crate::graph_writer::{attribute, number};
    let axes = attribute("axes", 7, &[number(8, 1), number(8, 2)].concat());
    let axes = [axes, attribute("keepdims", 2, &number(3, 0))].concat();
    model(&[
        node("Cast", &["input_ids"], "text_embeds", &attribute("to", 2, &number(3, 1))),
        node("ReduceMean", &["pixel_values"], "image_embeds", &axes),
        node("Sub", &["image_embeds", "text_embeds"], "logits_per_image", &[]),
        port(11, "input_ids", 7, &[0, 0]),
        port(11, "pixel_values", 1, &[0, 3, 1, 4]),
        port(12, "logits_per_image", 1, &[0, 4]),
        port(12, "text_embeds", 1, &[0, 4]),
        port(12, "image_embeds", 1, &[0, 4]),
    ])
}

#[test]
fn a_joint_graph_is_an_image_graph_and_a_text_graph() {
    let folder = directory(&[("model.onnx", joint())]);
    let directory = ModelDirectory::open(folder.path(), None).unwrap();
    let ports = |role| {
        let header = &directory.graph(role).unwrap().header;
        let names = header.inputs.iter().chain(&header.outputs);
        names.map(|port| port.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(ports(Role::Vision), ["pixel_values", "image_embeds"]);
    assert_eq!(ports(Role::Text), ["input_ids", "text_embeds"]);
    assert!(directory.compares_images_with_texts());

    let mut engine = Engine::load(&directory, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap();
    let image = crate::small_graphs::encode(&mut engine, &[[2.0, 0.0, 1.0, 2.0]]).remove(0);
    assert_eq!(image.embedding, Some(vec![2.0 / 3.0, 0.0, 1.0 / 3.0, 2.0 / 3.0]));
    let text = Some("two one one two".to_owned());
    let output =
        engine.run(&[RowInput { image: Some(image), text, ..RowInput::default() }], BATCH).unwrap().remove(0).unwrap();
    let cosine = (2.0 * 2.0 + 1.0 + 2.0 * 2.0) / 3.0 / 10.0_f32.sqrt();
    assert!((output.image_text_similarity.unwrap() - cosine).abs() < 1e-6);
}

#[test]
fn a_joint_graph_without_an_embedding_is_refused() {
    let folder = directory(&[("model.onnx", joint())]);
    let path = folder.path().join("model.onnx");
    let error = GraphHeader::read(&GraphSource::subgraph(&path, vec!["pooled".into()])).unwrap_err();
    assert_eq!(error.what, "expected an output \"pooled\", found logits_per_image, text_embeds, image_embeds");
    let graph = model(&[
        node("Identity", &["input_ids"], "states", &[]),
        port(11, "input_ids", 7, &[0, 0]),
        port(12, "states", 7, &[0, 0]),
    ]);
    let folder = directory(&[("model.onnx", graph)]);
    let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
    assert!(
        said.contains("model.onnx: no graph uses its outputs (states)") && said.contains("which one is the embedding"),
        "{said}"
    );
}
