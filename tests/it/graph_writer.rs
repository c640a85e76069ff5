//! ONNX graphs and model directories for tests, written byte by byte: one function for each message of the protobuf format. Field
//! numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use tempfile::TempDir;

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub(crate) fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

pub(crate) fn text(field: u64, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

/// A declared input or output; an axis of 0 stands for a dynamic one. `kind`: 1 float32, 7 int64.
pub(crate) fn port(field: u64, name: &str, kind: u64, axes: &[u64]) -> Vec<u8> {
    port_with(field, name, kind, axes, |_| "any".to_owned())
}

/// A port each of whose dynamic axes has a name of its own: ONNX Runtime takes those of one name to be of one size.
pub(crate) fn port_of_any_size(field: u64, name: &str, kind: u64, axes: &[u64]) -> Vec<u8> {
    port_with(field, name, kind, axes, |axis| format!("{name} {axis}"))
}

fn port_with(field: u64, name: &str, kind: u64, axes: &[u64], call: impl Fn(usize) -> String) -> Vec<u8> {
    let axis = |(axis, &size): (usize, &u64)| bytes(1, &if size == 0 { text(2, &call(axis)) } else { number(1, size) });
    let shape: Vec<u8> = axes.iter().enumerate().flat_map(axis).collect();
    let tensor = [number(1, kind), bytes(2, &shape)].concat();
    bytes(field, &[text(1, name), bytes(2, &bytes(1, &tensor))].concat())
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str, attribute: &[u8]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|input| text(1, input)).collect();
    bytes(1, &[inputs, text(2, output), text(4, operator), attribute.to_vec()].concat())
}

/// An int64 `[1]` that is part of the graph.
pub(crate) fn constant(name: &str, value: i64) -> Vec<u8> {
    bytes(5, &[number(1, 1), number(2, 7), text(8, name), bytes(9, &value.to_le_bytes())].concat())
}

/// A float32 tensor that is part of the graph.
pub(crate) fn table(name: &str, shape: &[u64], values: &[f32]) -> Vec<u8> {
    let shape: Vec<u8> = shape.iter().flat_map(|&size| number(1, size)).collect();
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes(5, &[shape, number(2, 1), text(8, name), bytes(9, &values)].concat())
}

pub(crate) fn attribute(name: &str, kind: u64, value: &[u8]) -> Vec<u8> {
    bytes(5, &[text(1, name), number(20, kind), value.to_vec()].concat())
}

pub(crate) fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 8), bytes(8, &number(2, 13)), bytes(7, &[graph.concat(), text(2, "graph")].concat())].concat()
}

/// A model directory with `graphs` and a tokenizer of four words.
pub(crate) fn directory(graphs: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "</s>", "special": true, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false}], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"</s>": 0, "one": 1, "two": 2, "three": 3}, "unk_token": "one"}}"#;
    for (name, content) in [
        ("tokenizer.json", tokenizer),
        ("preprocessor_config.json", "{}"),
        ("generation_config.json", r#"{"decoder_start_token_id": 0, "eos_token_id": 0, "max_new_tokens": 3}"#),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    for (name, content) in graphs {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}
