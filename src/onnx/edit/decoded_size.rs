//! How much memory the messages of a graph file take once they are decoded. In: the bytes of the file. Out: an estimate, made before
//! anything is decoded. Two bytes of a file can be an empty node, which takes hundreds in memory. Weights are not counted: they stay in
//! the file.

use std::mem::size_of;

use crate::onnx::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};

/// The most bytes of decoded messages. Graphs of real models take a few megabytes.
const MOST_BYTES: usize = 512 << 20;
/// What a text, a number or other bytes take at most, besides what they are in the file.
const FIELD_BYTES: usize = 32;
/// Messages inside each other; `prost` decodes 100.
const MOST_DEPTH: usize = 100;

/// The messages that hold others or are large.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    Value,
    Type,
    TensorType,
    Shape,
    Other,
}

/// The message in field `number` of `message`, and the bytes of its struct.
fn inner(message: Message, number: u64) -> Option<(Message, usize)> {
    use Message::{Attribute, Function, Graph, Model, Node, Other, Shape, Sparse, Tensor, TensorType, Type, Value};
    Some(match (message, number) {
        (Model, 7) | (Attribute, 6 | 11) => (Graph, size_of::<GraphProto>()),
        (Model, 25) => (Function, size_of::<FunctionProto>()),
        (Graph, 1) | (Function, 7) => (Node, size_of::<NodeProto>()),
        (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => (Tensor, size_of::<TensorProto>()),
        (Graph, 11..=13) => (Value, size_of::<ValueInfoProto>()),
        (Graph, 15) | (Attribute, 22 | 23) => (Sparse, size_of::<SparseTensorProto>()),
        (Node, 5) | (Function, 11) => (Attribute, size_of::<AttributeProto>()),
        (Tensor, 13) => (Other, size_of::<StringStringEntryProto>()),
        (Value, 2) => (Type, 0),
        (Type, 1) => (TensorType, 0),
        (TensorType, 2) => (Shape, 0),
        (Shape, 1) => (Other, size_of::<DimensionProto>()),
        _ => return None,
    })
}

/// Whether the messages of the graph file `bytes` take at most [`MOST_BYTES`]. A file that is no graph may be anything: decoding it says
/// what is wrong.
///
/// # Errors
/// What was expected.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut left = MOST_BYTES;
    let fits = scan(Message::Model, bytes, &mut left, 0).is_some();
    if fits {
        Ok(())
    } else {
        Err(format!("expected a graph that takes at most {MOST_BYTES} bytes without its weights"))
    }
}

/// Takes what `bytes`, a `message`, takes from `left`; `None` if that is not enough. Stops where the bytes are no message.
fn scan(message: Message, mut bytes: &[u8], left: &mut usize, depth: usize) -> Option<()> {
    while let Some(key) = varint(&mut bytes) {
        *left = left.checked_sub(FIELD_BYTES)?;
        let skip = match key & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    break;
                }
                continue;
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut bytes).and_then(|length| usize::try_from(length).ok()) {
                Some(length) => length,
                None => break,
            },
            _ => break,
        };
        let Some((content, rest)) = bytes.split_at_checked(skip) else { break };
        bytes = rest;
        match inner(message, key >> 3).filter(|_| key & 7 == 2 && depth < MOST_DEPTH) {
            Some((message, size)) => {
                *left = left.checked_sub(size)?;
                scan(message, content, left, depth + 1)?;
            }
            // packed numbers of an attribute or a shape take 8 bytes for one
            None if matches!(
                (message, key >> 3),
                (Message::Attribute, 7 | 8) | (Message::Tensor | Message::Sparse, 1 | 3)
            ) =>
            {
                *left = left.checked_sub(content.len().saturating_mul(8))?;
            }
            None => {}
        }
    }
    Some(())
}

/// The next number of variable length.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}
