//! Attention in graphs as exporters write them: every one is found, and nothing else is taken for one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::everywhere::find_everywhere;
use super::site::{AttentionSite, Heads, Mask, MaskKind};
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::port::{DataType, GraphSource};
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

fn softmaxes(graph: &GraphProto) -> usize {
    let here = graph.node.iter().filter(|node| node.op_type() == "Softmax").count();
    let inner = graph.node.iter().flat_map(|node| &node.attribute).flat_map(|a| a.g.iter().chain(&a.graphs));
    here + inner.map(softmaxes).sum::<usize>()
}

fn layouts(heads: &Heads) -> String {
    let mut found = Vec::new();
    found.extend(heads.flat.as_ref().map(|_| "flat"));
    found.extend(heads.heads_first.as_ref().map(|_| "heads"));
    found.extend(heads.rows_first.as_ref().map(|_| "rows"));
    found.extend(heads.joined.as_ref().map(|_| "joined"));
    found.extend(heads.transposed.as_ref().map(|_| "transposed"));
    let part = heads.packed.as_ref().map(|(_, part)| format!("packed{part}"));
    let mut found = found.join("<");
    found.extend(part.iter().map(|part| format!("+{part}")));
    if heads.repeats == 1 { found } else { format!("{found}x{}", heads.repeats) }
}

fn describe(site: &AttentionSite) -> String {
    let number = |number: Option<usize>| number.map_or("?".to_owned(), |number| number.to_string());
    let masks = site.masks.iter().map(|mask| match mask.applied {
        MaskKind::Added => " +mask".to_owned(),
        MaskKind::Hides(fill) => format!(" hides {fill}"),
        MaskKind::Keeps(fill) => format!(" keeps {fill}"),
    });
    format!(
        "{}/{} heads of {}, scale {}{}: {} | {} | {} -> {}",
        number(site.heads),
        number(site.key_heads),
        number(site.head_size),
        site.scale.map_or("?".to_owned(), |scale| format!("{scale:.4}")),
        masks.collect::<String>(),
        layouts(&site.query),
        layouts(&site.key),
        layouts(&site.value),
        layouts(&site.output),
    )
}

fn graphs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(graphs(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "onnx") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// The operator, inputs and output of a node.
type Step<'a> = (&'a str, &'a [&'a str], &'a str);

/// A graph `softmax(scale * q kT + mask) v` with the node `between` the scores and the softmax.
fn attention(between: &[Step<'_>]) -> GraphProto {
    let input = |name: &str| ValueInfoProto::tensor(name, DataType::F32, Some(4));
    let number = |name: &str, number: f32| TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(1),
        raw_data: Some(number.to_le_bytes().to_vec().into()),
        ..TensorProto::default()
    };
    let ends: [Step<'_>; 4] = [
        ("Transpose", &["k"], "kt"),
        ("MatMul", &["q", "kt"], "scores"),
        ("Softmax", &["masked"], "p"),
        ("MatMul", &["p", "v"], "out"),
    ];
    let nodes = ends[..2].iter().chain(between).chain(&ends[2..]);
    let node = |(op_type, input, output): &Step<'_>| {
        let mut node = NodeProto::of(op_type, input.iter().map(ToString::to_string).collect(), output);
        if *op_type == "Transpose" {
            let perm = AttributeProto { name: Some("perm".to_owned()), ..AttributeProto::default() };
            node.attribute.push(AttributeProto { ints: vec![0, 1, 3, 2], ..perm });
        }
        node
    };
    GraphProto {
        node: nodes.map(node).collect(),
        input: ["q", "k", "v", "mask"].into_iter().map(input).collect(),
        initializer: vec![number("half", 0.5), number("four", 4.0)],
        output: vec![ValueInfoProto::named("out")],
        ..GraphProto::default()
    }
}

#[test]
fn scale_and_mask_are_read_in_their_order() {
    let graph = attention(&[
        ("Div", &["scores", "four"], "divided"),
        ("Mul", &["half", "divided"], "scaled"),
        ("Add", &["mask", "scaled"], "masked"),
    ]);
    let found = find_everywhere(&graph);
    let [site] = found[0].sites.as_slice() else { panic!("{found:?}") };
    assert_eq!(site.scale, Some(0.125));
    assert_eq!(site.masks, [Mask { value: "mask".to_owned(), applied: MaskKind::Added }]);
    let name = |name: &str| Some(name.to_owned());
    let firsts = [&site.query, &site.key, &site.value, &site.output].map(|heads| heads.heads_first.clone());
    assert_eq!(firsts, [name("q"), name("k"), name("v"), name("out")]);
}

#[test]
fn what_is_calculated_otherwise_is_no_attention() {
    let cases: [(&[Step<'_>], &str); 4] = [
        (&[("Tanh", &["scores"], "masked")], "found Tanh"),
        (&[("Add", &["scores", "mask"], "added"), ("Mul", &["added", "half"], "masked")], "found one before"),
        (&[("Div", &["four", "scores"], "masked")], "found Div"),
        (&[("Add", &["scores", "scores"], "masked")], "the sum of two products"),
    ];
    for (between, reason) in cases {
        let found = find_everywhere(&attention(between));
        assert!(found[0].sites.is_empty(), "{found:?}");
        assert!(found[0].others[0].reason.contains(reason), "{found:?}");
    }
}

#[test]
fn operators_that_are_attention_already_are_named() {
    let fused =
        NodeProto { domain: Some("com.microsoft".to_owned()), ..NodeProto::of("GroupQueryAttention", vec![], "out") };
    let found = find_everywhere(&GraphProto { node: vec![fused], ..GraphProto::default() });
    let named: Vec<_> = found[0].fused.iter().map(|fused| fused.operator.as_str()).collect();
    assert_eq!(named, ["com.microsoft.GroupQueryAttention"]);
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn every_attention_of_every_export_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut table = String::new();
    for folder in ["tests/fixtures/models", "tests/fixtures/tiny_model", "sample_data/model"] {
        for path in graphs(&root.join(folder)) {
            let file = OnnxFile::read(&GraphSource::file(&path)).unwrap();
            let found = find_everywhere(&file.graph);
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let sites: Vec<_> = found.iter().flat_map(|found| &found.sites).collect();
            let others: Vec<_> = found.iter().flat_map(|found| &found.others).collect();
            // Recurrent decoders attend by sums instead of products, softmax(v tanh(W h + U s)); the default model's names are softmax(W x).
            let has_others = ["recipe_gru/decoder", "recipe_lstm/decoder", "sample_data/model/vision_model"];
            let has_others = has_others.iter().any(|start| name.contains(start));
            assert!(others.is_empty() != has_others, "{name}: {others:?}");
            let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
            for site in &sites {
                *kinds.entry(describe(site)).or_default() += 1;
            }
            writeln!(table, "{name}: {} of {}", sites.len(), softmaxes(&file.graph)).unwrap();
            for (kind, count) in &kinds {
                writeln!(table, "    {count} x {kind}").unwrap();
            }
        }
    }
    insta::assert_snapshot!(table, @r"
    tests/fixtures/models/blip/onnx/decoder_model.onnx: 4 of 4
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        2 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | heads | heads -> heads<rows<joined
    tests/fixtures/models/blip/onnx/decoder_with_past_model.onnx: 4 of 4
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        2 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | heads | heads -> heads<rows<joined
    tests/fixtures/models/blip/onnx/encoder_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500: heads+packed0 | heads+packed1 | heads+packed2 -> heads<rows<joined
    tests/fixtures/models/blip_itm/onnx/multimodal_encoder.onnx: 4 of 4
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        2 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/blip_itm/onnx/text_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/blip_itm/onnx/vision_model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads+packed0 | heads+packed1 | heads+packed2 -> heads<rows<joined
    tests/fixtures/models/clip/model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/clip_split/text_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/clip_split/vision_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/coca/onnx/multimodal_decoder.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/coca/onnx/text_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/coca/onnx/vision_model.onnx: 2 of 2
        1 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/dinov2/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/dinov3/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads | heads | heads<rows<joined -> heads<rows
    tests/fixtures/models/fastvlm/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 4/2 heads of 8, scale 0.3536 +mask: heads | headsx2 | headsx2 -> heads<rows<joined
    tests/fixtures/models/fastvlm/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/fastvlm/onnx/vision_encoder.onnx: 2 of 2
        2 x 1/1 heads of 32, scale 0.1768: heads+packed0 | heads+packed1 | heads+packed2 -> heads<rows<joined
    tests/fixtures/models/fixed_clip/onnx/model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/florence2/onnx/decoder_model_merged.onnx: 8 of 8
        8 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
    tests/fixtures/models/florence2/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/florence2/onnx/encoder_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/florence2/onnx/vision_encoder.onnx: 4 of 4
        1 x 2/2 heads of 16, scale 0.2500: heads+packed0 | heads+packed1 | heads+packed2 -> heads<rows<joined
        1 x 2/2 heads of 8, scale 0.3536: heads+packed0 | heads+packed1 | heads+packed2 -> heads<rows<joined
        2 x 2/2 heads of ?, scale ?: heads | heads | heads -> heads
    tests/fixtures/models/git/onnx/decoder_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
    tests/fixtures/models/git/onnx/decoder_with_past_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
    tests/fixtures/models/git/onnx/encoder_model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/idefics3/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 4/2 heads of 8, scale 0.3536 +mask: heads | headsx2 | headsx2 -> heads<rows<joined
    tests/fixtures/models/idefics3/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/idefics3/onnx/vision_encoder.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/ijepa/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/immich/textual/model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/immich/visual/model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/jina_clip/onnx/model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/llava/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads | heads | heads -> heads<rows<joined
    tests/fixtures/models/llava/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/llava/onnx/vision_encoder.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/llava_siglip/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads | heads | heads -> heads<rows<joined
    tests/fixtures/models/llava_siglip/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/llava_siglip/onnx/vision_encoder.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/minilm/onnx/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/nomic_vision/onnx/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/paligemma/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 2/1 heads of 16, scale 0.2500 +mask: heads | headsx2 | headsx2 -> heads<rows<joined
    tests/fixtures/models/paligemma/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/paligemma/onnx/vision_encoder.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/recipe_autoencoder/decoder_with_past_model.onnx: 2 of 2
        1 x 2/2 heads of 12, scale 0.2887 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        1 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/recipe_autoencoder/fusion.onnx: 1 of 1
        1 x ?/? heads of 24, scale 0.2041 +mask: flat | flat | flat -> flat
    tests/fixtures/models/recipe_autoencoder/text_model.onnx: 0 of 0
    tests/fixtures/models/recipe_autoencoder/vision_model.onnx: 1 of 1
        1 x 2/2 heads of 8, scale 0.3536: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/recipe_gru/decoder_with_past_model.onnx: 0 of 1
    tests/fixtures/models/recipe_gru/fusion.onnx: 0 of 0
    tests/fixtures/models/recipe_gru/text_model.onnx: 1 of 1
        1 x 2/2 heads of 8, scale 0.3536 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/recipe_gru/vision_model.onnx: 1 of 1
        1 x 2/2 heads of 8, scale 0.3536: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/recipe_lstm/decoder_with_past_model.onnx: 0 of 1
    tests/fixtures/models/recipe_lstm/fusion.onnx: 0 of 0
    tests/fixtures/models/recipe_lstm/text_model.onnx: 0 of 0
    tests/fixtures/models/recipe_lstm/vision_model.onnx: 1 of 1
        1 x 2/2 heads of 8, scale 0.3536: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/resnet/model.onnx: 0 of 0
    tests/fixtures/models/siglip/model.onnx: 3 of 3
        2 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x ?/? heads of ?, scale 0.2500: flat |  | flat -> flat
    tests/fixtures/models/siglip2/onnx/text_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/siglip2/onnx/vision_model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x ?/? heads of ?, scale 0.2500: flat |  | flat -> flat
    tests/fixtures/models/smolvlm/onnx/decoder_model_merged.onnx: 2 of 2
        2 x 4/2 heads of 8, scale 0.3536 +mask: heads | headsx2 | headsx2 -> heads<rows<joined
    tests/fixtures/models/smolvlm/onnx/embed_tokens.onnx: 0 of 0
    tests/fixtures/models/smolvlm/onnx/vision_encoder.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/swin/model.onnx: 2 of 2
        1 x 2/2 heads of 12, scale 0.2887 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
        1 x 2/2 heads of 6, scale 0.4082 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/trocr/decoder_model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 1.0000 +mask: flat<heads<rows<joined | flat<heads<rows<joined | flat<heads<rows<joined -> flat<heads<rows<joined
        1 x 2/2 heads of 16, scale 1.0000: flat<heads<rows<joined | flat<heads<rows<joined | flat<heads<rows<joined -> flat<heads<rows<joined
    tests/fixtures/models/trocr/decoder_model_merged.onnx: 4 of 4
        1 x 2/2 heads of 16, scale 1.0000 +mask: flat<heads<rows<joined | flat<heads<rows<joined | flat<heads<rows<joined -> flat<heads<rows<joined
        2 x 2/2 heads of 16, scale 1.0000: flat<heads<rows<joined | flat<heads | flat<heads -> flat<heads<rows<joined
        1 x 2/2 heads of 16, scale 1.0000: flat<heads<rows<joined | flat<heads<rows<joined | flat<heads<rows<joined -> flat<heads<rows<joined
    tests/fixtures/models/trocr/decoder_with_past_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 1.0000: flat<heads<rows<joined | flat<heads | flat<heads -> flat<heads<rows<joined
    tests/fixtures/models/trocr/encoder_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/unicom/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: flat<heads | flat<heads | flat<heads -> heads
    tests/fixtures/models/vit/model.onnx: 2 of 2
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/decoder_model.onnx: 2 of 2
        2 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/decoder_model_merged.onnx: 4 of 4
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        3 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/decoder_with_past_model.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/decoder_with_past_model_fp16.onnx: 2 of 2
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        1 x 2/2 heads of 16, scale 0.2500 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/encoder_model.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/models/vit_gpt2/encoder_model_fp16.onnx: 1 of 1
        1 x 2/2 heads of 16, scale 0.2500: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/tiny_model/decoder_with_past_model.onnx: 4 of 4
        2 x 2/2 heads of 12, scale 0.2887 hides -1000000000: heads<rows<joined | heads | heads -> heads<rows<joined
        2 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/tiny_model/fusion.onnx: 1 of 1
        1 x 2/2 heads of 12, scale 0.2887 hides -1000000000: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/tiny_model/text_model.onnx: 1 of 1
        1 x 2/2 heads of 12, scale 0.2887 hides -1000000000: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    tests/fixtures/tiny_model/vision_model.onnx: 1 of 1
        1 x 2/2 heads of 12, scale 0.2887: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    sample_data/model/decoder_with_past_model.onnx: 4 of 4
        2 x 12/12 heads of 32, scale 0.1768 +mask: heads<rows<joined | heads | heads -> heads<rows<joined
        2 x 12/12 heads of 32, scale 0.1768: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    sample_data/model/fusion.onnx: 1 of 1
        1 x 12/12 heads of 32, scale 0.1768 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    sample_data/model/text_model.onnx: 6 of 6
        6 x 12/12 heads of 32, scale 0.1768 +mask: heads<rows<joined | rows<joined | heads<rows<joined -> heads<rows<joined
    sample_data/model/vision_model.onnx: 0 of 1
    ");
}
