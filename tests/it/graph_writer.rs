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

/// A copy of the encoded model `model` whose inputs have `size` on `axis`, where they have that axis and its size has a name; of those that
/// `chosen` is true for, called with an input's name and number of axes.
pub(crate) fn with_fixed_axis(model: &[u8], axis: usize, size: u64, chosen: impl Fn(&str, usize) -> bool) -> Vec<u8> {
    let input = |input: &[u8]| {
        let name = fields(input).find(|field| field.number == 1).map(|field| field.content).unwrap_or_default();
        let name = std::str::from_utf8(name).unwrap();
        // ValueInfoProto.type, TypeProto.tensor_type, Tensor.shape
        edited(input, &[2, 1, 2], &|shape| {
            let axes = fields(shape).count();
            let fixed = |(index, field): (usize, Field<'_>)| {
                let has_name = fields(field.content).any(|size| size.number == 2);
                let is_it = index == axis && has_name && chosen(name, axes);
                if is_it { bytes(1, &number(1, size)) } else { field.whole.to_vec() }
            };
            fields(shape).enumerate().flat_map(fixed).collect()
        })
    };
    // ModelProto.graph, GraphProto.input
    edited(model, &[7, 11], &input)
}

/// `message` with what is at `path`, field numbers from the outside in, replaced.
fn edited(message: &[u8], path: &[u64], change: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let [first, rest @ ..] = path else { return change(message) };
    let field = |field: Field<'_>| {
        if field.number == *first { bytes(*first, &edited(field.content, rest, change)) } else { field.whole.to_vec() }
    };
    fields(message).flat_map(field).collect()
}

/// A field of a message.
struct Field<'a> {
    number: u64,
    /// Empty unless it has a length.
    content: &'a [u8],
    whole: &'a [u8],
}

fn fields(mut message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    fn read(message: &[u8], at: &mut usize) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = message[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let mut at = 0;
        let key = read(message, &mut at);
        let mut content = 0..0;
        match key & 7 {
            0 => drop(read(message, &mut at)),
            1 => at += 8,
            2 => {
                let length = read(message, &mut at) as usize;
                content = at..at + length;
                at += length;
            }
            5 => at += 4,
            kind => panic!("wire type {kind}"),
        }
        let (whole, rest) = message.split_at(at);
        message = rest;
        Some(Field { number: key >> 3, content: &whole[content], whole })
    })
}
