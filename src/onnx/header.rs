//! What a graph file declares: inputs, outputs, and the files its weights lie in. In: a path. Out: a [`GraphHeader`].
//! No weights are read and no ONNX Runtime is needed, so planning and `inspect` stay quick. Message and field numbers:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use super::error::{OnnxError, OnnxErrorKind};
use super::port::{DataType, Dim, Port};
use super::protobuf::{Field, Walker, malformed};

/// The declarations of one graph file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphHeader {
    /// The inputs that must be fed (initializers listed among the inputs are not).
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
    /// Files beside the graph that hold weights, relative to its folder.
    pub external_files: BTreeSet<String>,
}

impl GraphHeader {
    /// Reads the declarations of the graph file at `path`.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Load`] if the file cannot be read or is no ONNX graph.
    pub fn read(path: &Path) -> Result<Self, OnnxError> {
        let fail = |error: &io::Error| {
            let error =
                OnnxError::new(OnnxErrorKind::Load, path.display().to_string(), format!("not readable: {error}"));
            match std::fs::metadata(path) {
                Ok(file) if file.len() < 1024 => {
                    error.with_hint("a very small file may be a Git LFS pointer: run `git lfs pull`")
                }
                _ => error,
            }
        };
        let file = File::open(path).map_err(|error| fail(&error))?;
        let length = file.metadata().map_err(|error| fail(&error))?.len();
        let mut reader =
            Reader { walker: Walker::new(BufReader::with_capacity(1 << 16, file)), header: Self::default() };
        reader.model(length).map_err(|error| fail(&error))?;
        Ok(reader.header)
    }

    /// The input called `name`.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }
}

/// Which nested messages can hold tensors, and under which field numbers: only these are entered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Node,
    Attribute,
    Subgraph,
    Tensor,
    SparseTensor,
    Function,
}

impl Message {
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Subgraph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Attribute, 5 | 10) | (Self::Subgraph, 5) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Attribute, 6 | 11) => Some(Self::Subgraph),
            (Self::Attribute, 22 | 23) | (Self::Subgraph, 15) => Some(Self::SparseTensor),
            _ => None,
        }
    }
}

struct Reader<R> {
    walker: Walker<R>,
    header: GraphHeader,
}

impl<R: BufRead + Seek> Reader<R> {
    fn model(&mut self, end: u64) -> io::Result<()> {
        let mut has_graph = false;
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match number {
                7 => {
                    has_graph = true;
                    self.graph(length)?;
                }
                25 => self.weights(Message::Function, length)?,
                _ => self.walker.skip(length)?,
            }
        }
        if has_graph { Ok(()) } else { Err(malformed("not an ONNX graph")) }
    }

    fn graph(&mut self, length: u64) -> io::Result<()> {
        let end = self.walker.position() + length;
        let mut initializers = BTreeSet::new();
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match number {
                5 => {
                    if let Some(name) = self.tensor(length)? {
                        initializers.insert(name);
                    }
                }
                11 => {
                    let port = self.port(length)?;
                    self.header.inputs.push(port);
                }
                12 => {
                    let port = self.port(length)?;
                    self.header.outputs.push(port);
                }
                other => match Message::Subgraph.child(other) {
                    Some(message) => self.weights(message, length)?,
                    None => self.walker.skip(length)?,
                },
            }
        }
        self.header.inputs.retain(|port| !initializers.contains(&port.name));
        Ok(())
    }

    /// Looks for external files anywhere below `message`.
    fn weights(&mut self, message: Message, length: u64) -> io::Result<()> {
        if message == Message::Tensor {
            return self.tensor(length).map(|_| ());
        }
        let end = self.walker.position() + length;
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match message.child(number) {
                Some(child) => self.weights(child, length)?,
                None => self.walker.skip(length)?,
            }
        }
        Ok(())
    }

    /// Reads one tensor's name and external file; its data is skipped.
    fn tensor(&mut self, length: u64) -> io::Result<Option<String>> {
        let end = self.walker.position() + length;
        let mut name = None;
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match number {
                8 => name = Some(self.walker.text(length)?),
                13 => {
                    let (key, value) = self.entry(length)?;
                    if key == "location" {
                        self.header.external_files.insert(value);
                    }
                }
                _ => self.walker.skip(length)?,
            }
        }
        Ok(name)
    }

    fn entry(&mut self, length: u64) -> io::Result<(String, String)> {
        let end = self.walker.position() + length;
        let (mut key, mut value) = (String::new(), String::new());
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match number {
                1 => key = self.walker.text(length)?,
                2 => value = self.walker.text(length)?,
                _ => self.walker.skip(length)?,
            }
        }
        Ok((key, value))
    }

    /// `ValueInfoProto`: a name (1) and a type (2).
    fn port(&mut self, length: u64) -> io::Result<Port> {
        let end = self.walker.position() + length;
        let mut port = Port { name: String::new(), dtype: DataType::Other("not a tensor"), shape: None };
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            match number {
                1 => port.name = self.walker.text(length)?,
                2 => self.tensor_type(length, &mut port)?,
                _ => self.walker.skip(length)?,
            }
        }
        Ok(port)
    }

    /// `TypeProto`: a tensor type (1), which is an element type (1) and a shape (2).
    fn tensor_type(&mut self, length: u64, port: &mut Port) -> io::Result<()> {
        let end = self.walker.position() + length;
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            if number != 1 {
                self.walker.skip(length)?;
                continue;
            }
            let end = self.walker.position() + length;
            while let Some((number, field)) = self.walker.next(end)? {
                match (number, field) {
                    (1, Field::Varint(code)) => port.dtype = DataType::from_onnx(code),
                    (2, Field::Bytes(length)) => port.shape = Some(self.shape(length)?),
                    (_, Field::Bytes(length)) => self.walker.skip(length)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `TensorShapeProto`: axes (1), each a number (1) or a name (2).
    fn shape(&mut self, length: u64) -> io::Result<Vec<Dim>> {
        let end = self.walker.position() + length;
        let mut dims = Vec::new();
        while let Some((number, field)) = self.walker.next(end)? {
            let Field::Bytes(length) = field else { continue };
            if number != 1 {
                self.walker.skip(length)?;
                continue;
            }
            let end = self.walker.position() + length;
            let mut dim = Dim::Any(String::new());
            while let Some((number, field)) = self.walker.next(end)? {
                match (number, field) {
                    (1, Field::Varint(size)) => {
                        // a negative number, as some exporters write, means any size
                        dim = usize::try_from(size as i64).map_or(Dim::Any(String::new()), Dim::Fixed);
                    }
                    (2, Field::Bytes(length)) => dim = Dim::Any(self.walker.text(length)?),
                    (_, Field::Bytes(length)) => self.walker.skip(length)?,
                    _ => {}
                }
            }
            dims.push(dim);
        }
        Ok(dims)
    }
}
