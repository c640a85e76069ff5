//! An opened graph. In: a file, or an edited graph in memory; then tensors by input name. Out: tensors by output name. What the tensors
//! mean is not known here.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use half::f16;
use ort::ep::ExecutionProviderDispatch;
use ort::logging::LogLevel;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session as OrtSession, SessionInputValue};
use ort::value::{Outlet, TensorRef, ValueType};

use super::device::{AttentionKernels, Device};
use super::environment::runtime;
use super::run_context;
use super::tensor::{Tensor, data_type};
use super::transfers::Direction;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::{Dim, Port};

/// How a graph is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphOptions {
    /// Where it runs.
    pub device: Device,
    /// Threads that one run of this graph uses, the calling one included; 0 leaves it to ONNX Runtime (every core).
    pub threads: usize,
    /// Whether the shapes of its inputs change from run to run, as those of texts and of a decoder's steps do. ONNX Runtime's memory
    /// pattern is then off: it would allocate another block for each combination of shapes.
    pub dynamic_shapes: bool,
    /// Whether two runs give the same bytes. On a GPU, the fastest kernel of attention in float16 adds in another order each time.
    pub repeatable: bool,
}

impl Default for GraphOptions {
    /// On the CPU, with every core.
    fn default() -> Self {
        Self { device: Device::Cpu, threads: 0, dynamic_shapes: false, repeatable: true }
    }
}

/// An opened graph: one ONNX Runtime session. Its memory arena is kept between runs.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    device: Device,
    inner: OrtSession,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// What is fed to one input of a run.
#[derive(Debug)]
pub enum SessionInput<'a> {
    /// A tensor that is not needed after the run.
    Owned(Tensor),
    /// A tensor of another owner.
    Shared(&'a Tensor),
    /// Values in the host's memory, with their shape; not copied before the run.
    Floats(Vec<usize>, &'a [f32]),
    /// The same in float16.
    Halves(Vec<usize>, &'a [f16]),
}

/// An edited graph in memory; its weights are in files.
#[derive(Debug)]
pub(crate) struct EditedGraph {
    /// A `ModelProto`.
    pub(crate) bytes: Vec<u8>,
    /// The folder that the locations of its external data are relative to.
    pub(crate) folder: PathBuf,
}

/// The outputs of one run, by name.
#[derive(Debug)]
pub struct Outputs {
    graph: PathBuf,
    values: Vec<(String, Tensor)>,
}

impl GraphOptions {
    /// The execution providers of a graph that is not captured, whose attention has many queries.
    fn providers(self) -> Vec<ExecutionProviderDispatch> {
        self.device.providers(self.kernels(AttentionKernels::ManyQueries), false)
    }

    /// `repeatable`, unless runs may differ.
    pub(super) fn kernels(self, repeatable: AttentionKernels) -> AttentionKernels {
        if self.repeatable { repeatable } else { AttentionKernels::Fastest }
    }
}

impl Session {
    /// ONNX Runtime's key for the folder that the locations of external data are relative to.
    const WEIGHTS: &str = "session.model_external_initializers_file_folder_path";

    /// How long an idle thread of ONNX Runtime spins before it sleeps, in microseconds. A step of a decoder is more than a thousand short
    /// operations, and waking a thread costs more than some of them. Longer spinning would take cores from the threads that decode
    /// images. ONNX Runtime before 1.26 has no such setting: its threads spin until the run ends.
    const SPIN_MICROSECONDS: &str = "50";

    /// Opens the graph of the file at `path` as it is. [`GraphSource::open`](crate::onnx::GraphSource::open) opens subgraphs, too, and files
    /// behind links.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Library`] without an ONNX Runtime, [`OnnxErrorKind::Load`] if the file cannot be read or ONNX Runtime
    /// refuses it, [`OnnxErrorKind::OutOfMemory`].
    pub fn open(path: &Path, options: GraphOptions) -> Result<Self, OnnxError> {
        Self::commit(path, options, options.providers(), |mut builder| builder.commit_from_file(path))
    }

    /// Opens a graph made from the file at `path`.
    pub(crate) fn open_edited(path: &Path, edited: &EditedGraph, options: GraphOptions) -> Result<Self, OnnxError> {
        Self::open_edited_on(path, edited, options, options.providers())
    }

    /// Opens a graph made from the file at `path`, to be run by `providers`.
    pub(super) fn open_edited_on(
        path: &Path,
        edited: &EditedGraph,
        options: GraphOptions,
        providers: Vec<ExecutionProviderDispatch>,
    ) -> Result<Self, OnnxError> {
        let folder = edited.folder.to_string_lossy();
        Self::commit(path, options, providers, |builder| {
            builder.with_config_entry(Self::WEIGHTS, folder.as_ref())?.commit_from_memory(&edited.bytes)
        })
    }

    /// Opens a graph made from the file at `path` for a few probe runs on small inputs: on the CPU, without graph optimizations and
    /// prepacked weights, so that opening is fast and runs are slow.
    pub(crate) fn open_for_probes(path: &Path, edited: &EditedGraph, options: GraphOptions) -> Result<Self, OnnxError> {
        let folder = edited.folder.to_string_lossy();
        Self::commit(path, GraphOptions { device: Device::Cpu, ..options }, Vec::new(), |builder| {
            let mut builder = builder
                .with_optimization_level(GraphOptimizationLevel::Disable)?
                .with_prepacking(false)?
                // a graph that fails on the probe inputs is used unedited; nothing of that is logged
                .with_log_level(LogLevel::Fatal)?
                .with_config_entry(Self::WEIGHTS, folder.as_ref())?;
            builder.commit_from_memory(&edited.bytes)
        })
    }

    fn commit(
        path: &Path,
        options: GraphOptions,
        providers: Vec<ExecutionProviderDispatch>,
        commit: impl FnOnce(SessionBuilder) -> ort::Result<OrtSession>,
    ) -> Result<Self, OnnxError> {
        let environment = runtime()?.environment();
        let session = (|| -> ort::Result<OrtSession> {
            let builder: SessionBuilder = OrtSession::builder(environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(options.threads)?
                .with_inter_threads(1)?
                .with_memory_pattern(!options.dynamic_shapes)?
                .with_intra_op_spinning(true)?
                .with_config_entry("session.intra_op.spin_duration_us", Self::SPIN_MICROSECONDS)?
                .with_config_entry("session.force_spinning_stop", "1")?
                .with_execution_providers(providers)?;
            commit(builder)
        })()
        .map_err(|error| {
            let error = OnnxError::from_ort(OnnxErrorKind::Load, &path.display().to_string(), &error);
            match options.device {
                device @ (Device::Cuda(_) | Device::TensorRt(_)) if error.kind == OnnxErrorKind::Load => error.with_hint(format!(
                    "{device} needs an ONNX Runtime with that execution provider (the package onnxruntime-gpu, named by \
                     ORT_DYLIB_PATH) and its CUDA libraries (in folders that LD_LIBRARY_PATH names) beside the driver; devices = [\"cpu\"] \
                     does without"
                )),
                _ => error,
            }
        })?;
        let inputs = session.inputs().iter().map(port).collect();
        let outputs = session.outputs().iter().map(port).collect();
        Ok(Self { path: path.to_path_buf(), device: options.device, inner: session, inputs, outputs })
    }

    /// Where it runs.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn inner(&self) -> &OrtSession {
        &self.inner
    }

    pub(super) fn inner_mut(&mut self) -> &mut OrtSession {
        &mut self.inner
    }

    /// The graph's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The inputs, as ONNX Runtime sees them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, as ONNX Runtime sees them.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Gives memory of the kind `memory`, which belongs to the session's device.
    pub(super) fn allocator(&self, memory: MemoryInfo<'_>) -> ort::Result<Allocator> {
        Allocator::new(&self.inner, memory)
    }

    /// Runs the graph on `inputs`, which name each declared input once. The outputs are in the host's memory.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Run`] if ONNX Runtime refuses a value or an operator fails, [`OnnxErrorKind::OutOfMemory`].
    pub fn run(&mut self, inputs: &[(&str, SessionInput<'_>)]) -> Result<Outputs, OnnxError> {
        let Self { path, device, inner, .. } = self;
        let mut run = || {
            for (_, input) in inputs {
                input.count(*device);
            }
            let feeds = inputs.iter().map(|(name, input)| Ok((Cow::Borrowed(*name), input.feed()?)));
            let feeds = feeds.collect::<ort::Result<Vec<_>>>()?;
            run_context::run(|options| {
                let outputs = match options {
                    Some(options) => inner.run_with_options(feeds, options)?,
                    None => inner.run(feeds)?,
                };
                Ok(outputs.into_iter().map(|(name, value)| (name.to_owned(), Tensor::from_ort(value))).collect())
            })
        };
        let outputs = Outputs::of(path, run())?;
        outputs.count(*device);
        Ok(outputs)
    }

    /// Runs the graph as [`run`](Self::run) does, but leaves outputs of floats in the memory of its device, if that has one of its own,
    /// except for the outputs named in `read`. Inputs that are in that memory are not copied.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_on_device(&mut self, inputs: &[(&str, SessionInput<'_>)], read: &[&str]) -> Result<Outputs, OnnxError> {
        if !self.device.has_memory() {
            return self.run(inputs);
        }
        let Self { path, device, inner, outputs, .. } = self;
        let stays = |name: &str| {
            let port = outputs.iter().find(|port| port.name == name);
            !read.contains(&name) && port.is_some_and(|port| port.dtype.is_float())
        };
        let mut run = || {
            // a binding that is used again would overwrite the outputs of the previous run
            let mut binding = inner.create_binding()?;
            for (name, input) in inputs {
                input.count(*device);
                match input.copied(*device)? {
                    Some(copy) => binding.bind_input(*name, &*copy.as_input()?)?,
                    None => binding.bind_input(*name, &*input.feed()?)?,
                }
            }
            let (host_memory, device_memory) = (device.host_memory()?, device.memory()?);
            for port in outputs.iter() {
                binding
                    .bind_output_to_device(&port.name, if stays(&port.name) { &device_memory } else { &host_memory })?;
            }
            let value = |name: &str, found| {
                if stays(name) { Tensor::on_device(found, *device) } else { Tensor::from_ort(found) }
            };
            run_context::run(|options| {
                let ran = match options {
                    Some(options) => inner.run_binding_with_options(&binding, options)?,
                    None => inner.run_binding(&binding)?,
                };
                Ok(ran.into_iter().map(|(name, found)| (name.to_owned(), value(name, found))).collect())
            })
        };
        let outputs = Outputs::of(path, run())?;
        outputs.count(*device);
        Ok(outputs)
    }
}

impl SessionInput<'_> {
    /// A copy of values that are not a tensor, for a device that shares the host's memory: `ort` itself would copy them, with a session
    /// whose lock it holds already. Another device copies them to its own memory.
    fn copied(&self, device: Device) -> ort::Result<Option<Tensor>> {
        let copy = match (device, self) {
            (Device::Cpu | Device::StandIn, Self::Floats(shape, values)) => {
                Tensor::from_values(shape, values.to_vec())?
            }
            (Device::Cpu | Device::StandIn, Self::Halves(shape, values)) => {
                Tensor::from_values(shape, values.to_vec())?
            }
            _ => return Ok(None),
        };
        Ok(Some(copy))
    }

    /// Counts the copy to the memory of `device`, if it has one and the values are not there.
    fn count(&self, device: Device) {
        let bytes = match self {
            Self::Owned(value) if value.device().is_none() => value.bytes(),
            Self::Shared(value) if value.device().is_none() => value.bytes(),
            Self::Owned(_) | Self::Shared(_) => return,
            Self::Floats(_, values) => size_of_val(*values),
            Self::Halves(_, values) => size_of_val(*values),
        };
        if device.has_memory() {
            run_context::copied(Direction::ToDevice, bytes);
        }
    }

    fn feed(&self) -> ort::Result<SessionInputValue<'_>> {
        match self {
            Self::Owned(value) => value.as_input(),
            Self::Shared(value) => value.as_input(),
            Self::Floats(shape, values) => TensorRef::from_array_view((shape.clone(), *values)).map(Into::into),
            Self::Halves(shape, values) => TensorRef::from_array_view((shape.clone(), *values)).map(Into::into),
        }
    }
}

impl Outputs {
    fn of(graph: &Path, ran: ort::Result<Vec<(String, Tensor)>>) -> Result<Self, OnnxError> {
        let fail = |error: ort::Error| OnnxError::from_ort(OnnxErrorKind::Run, &graph.display().to_string(), &error);
        Ok(Self { graph: graph.to_path_buf(), values: ran.map_err(fail)? })
    }

    /// The outputs of several runs of one graph as those of one: `join` gets the values of an output in all of them; where it gives none,
    /// the first one is taken.
    pub(crate) fn join(
        runs: Vec<Self>,
        mut join: impl FnMut(&[&Tensor]) -> Result<Option<Tensor>, OnnxError>,
    ) -> Result<Self, OnnxError> {
        let mut joined = Vec::new();
        for (name, _) in runs.first().into_iter().flat_map(|run| &run.values) {
            let values = runs.iter().map(|run| run.any(name)).collect::<Result<Vec<_>, _>>()?;
            joined.push(join(&values)?);
        }
        let Some(first) = runs.into_iter().next() else { return Err(OnnxError::of_run("no row to run a graph on")) };
        let values = first.values.into_iter().zip(joined);
        let values = values.map(|((name, value), joined)| (name, joined.unwrap_or(value))).collect();
        Ok(Self { graph: first.graph, values })
    }

    /// Counts the outputs that a run on `device` gave to the host.
    fn count(&self, device: Device) {
        let on_host = self.values.iter().filter(|(_, value)| device.has_memory() && value.device().is_none());
        on_host.for_each(|(_, value)| run_context::copied(Direction::ToHost, value.bytes()));
    }

    /// The output called `name`, whose axis 0 must have size `batch`.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Run`] if there is no such output (any more), or if axis 0 has another size.
    pub fn get(&self, name: &str, batch: usize) -> Result<&Tensor, OnnxError> {
        self.find_rows(name, batch).map(|index| &self.values[index].1)
    }

    /// Removes and returns the output called `name`, whose axis 0 must have size `batch`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn take(&mut self, name: &str, batch: usize) -> Result<Tensor, OnnxError> {
        self.find_rows(name, batch).map(|index| self.values.swap_remove(index).1)
    }

    /// Removes and returns the output called `name`, whatever its shape.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Run`] if there is no such output (any more).
    pub fn remove(&mut self, name: &str) -> Result<Tensor, OnnxError> {
        self.find(name).map(|index| self.values.swap_remove(index).1)
    }

    /// The output called `name`, whatever its shape.
    pub(crate) fn any(&self, name: &str) -> Result<&Tensor, OnnxError> {
        self.find(name).map(|index| &self.values[index].1)
    }

    fn find(&self, name: &str) -> Result<usize, OnnxError> {
        self.values.iter().position(|(output, _)| output == name).ok_or_else(|| {
            let graph = self.graph.display().to_string();
            OnnxError::new(OnnxErrorKind::Run, graph, format!("gave no output {name:?}"))
        })
    }

    fn find_rows(&self, name: &str, batch: usize) -> Result<usize, OnnxError> {
        let graph = || self.graph.display().to_string();
        let index = self.find(name)?;
        let shape = self.values[index].1.shape();
        if shape.first() == Some(&batch) {
            return Ok(index);
        }
        let what = format!("output {name:?} has shape {shape:?} for a batch of {batch} rows");
        Err(OnnxError::new(OnnxErrorKind::Run, graph(), what)
            .with_hint("export the graph with a dynamic batch axis, the first of every input and output"))
    }
}

fn port(outlet: &Outlet) -> Port {
    let shape = match outlet.dtype() {
        ValueType::Tensor { shape, dimension_symbols, .. } => Some(
            shape
                .iter()
                .enumerate()
                .map(|(axis, &size)| match usize::try_from(size) {
                    Ok(size) => Dim::Fixed(size),
                    Err(_) => Dim::Any(dimension_symbols.get(axis).cloned().unwrap_or_default()),
                })
                .collect(),
        ),
        _ => None,
    };
    Port { name: outlet.name().to_owned(), dtype: data_type(outlet.dtype()), shape }
}
