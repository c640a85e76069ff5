//! Runs of a graph on tensors that are bound to it once. In: a session, and a tensor for each input and output. Out: nothing; a run
//! reads and writes the tensors where they are, so that a step of a decoder allocates nothing and has the same addresses each time,
//! which CUDA graphs need (<https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html>).

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use ort::memory::Allocator;
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions};
use ort::value::{DynTensor, TensorElementType};

use super::device::{AttentionKernels, Device};
use super::run_context;
use super::session::{EditedGraph, GraphOptions, Session};
use super::tensor::Tensor;
use super::transfers::Direction;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::DataType;

/// The inputs and outputs of a graph, bound to tensors. The binding keeps the tensors alive.
pub(crate) struct BoundRun {
    binding: IoBinding,
    options: RunOptions<NoSelectedOutputs>,
}

impl fmt::Debug for BoundRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundRun").field("binding", &self.binding).finish_non_exhaustive()
    }
}

/// Whether the runs of a session are captured as CUDA graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    /// One graph for each [`BoundRun`], captured by its first run.
    EachBinding,
    /// Runs start one kernel after the other.
    Never,
}

/// The annotation of the next captured graph; 0 is ONNX Runtime's own. They are never used again: nothing checks that a graph is
/// replayed with the tensors that it was captured with.
static NEXT_GRAPH: AtomicU32 = AtomicU32::new(1);
/// The annotation of a run that is neither captured nor replayed.
const NO_GRAPH: &str = "-1";

impl Session {
    /// Opens a graph made from the file at `path`, whose runs are bound with [`bind`](Self::bind); its attention runs on `kernels`,
    /// unless runs may differ.
    ///
    /// # Errors
    /// As [`Session::open`]; also if it is to be captured and has nodes that run on the CPU.
    pub(crate) fn open_for_binding(
        path: &Path,
        edited: &EditedGraph,
        options: GraphOptions,
        kernels: AttentionKernels,
        capture: Capture,
    ) -> Result<Self, OnnxError> {
        let providers = options.device.providers(options.kernels(kernels), capture == Capture::EachBinding);
        Self::open_edited_on(path, edited, options, providers)
    }

    /// Binds every input and output of the graph to a tensor, by name; those of `in_place`, an input and an output each, to one tensor.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Run`] if ONNX Runtime refuses a tensor.
    pub(crate) fn bind(
        &self,
        inputs: &[(&str, &Tensor)],
        outputs: &mut [(&str, &mut Tensor)],
        in_place: &mut [([&str; 2], &mut Tensor)],
        capture: Capture,
    ) -> Result<BoundRun, OnnxError> {
        let bind = || -> ort::Result<BoundRun> {
            let mut binding = self.inner().create_binding()?;
            for (name, tensor) in inputs {
                if tensor.device().is_none() && self.device().has_memory() {
                    run_context::copied(Direction::ToDevice, tensor.bytes());
                }
                binding.bind_input(*name, tensor.value())?;
            }
            for (name, tensor) in outputs {
                binding.bind_output(*name, tensor.value_mut())?;
            }
            for ([input, output], tensor) in in_place {
                binding.bind_input(*input, tensor.value())?;
                binding.bind_output(*output, tensor.value_mut())?;
            }
            let mut options = RunOptions::new()?;
            if self.device().captures() {
                let graph = match capture {
                    Capture::EachBinding => NEXT_GRAPH.fetch_add(1, Ordering::Relaxed).to_string(),
                    Capture::Never => NO_GRAPH.to_owned(),
                };
                options.set("gpu_graph_id", graph)?;
            }
            Ok(BoundRun { binding, options })
        };
        bind().map_err(|error| self.failed(&error))
    }

    /// Runs the graph on the tensors of `bound`. On return they hold the results. The first run of a binding that is captured runs the
    /// graph several times, so that tensors that are inputs and outputs hold something else after it: its tensors have to be written
    /// afterwards.
    ///
    /// # Errors
    /// [`OnnxErrorKind::Run`] if an operator fails, [`OnnxErrorKind::OutOfMemory`].
    pub(crate) fn run_bound(&mut self, bound: &BoundRun) -> Result<(), OnnxError> {
        let session = self.inner_mut();
        // a captured run needs options of its own; it is short, and another thread cannot end it
        let ran = run_context::run(|_| session.run_binding_with_options(&bound.binding, &bound.options).map(drop));
        ran.map_err(|error| self.failed(&error))
    }

    /// A tensor of `shape` in the memory of the session's device. Its elements are undefined until a run or
    /// [`Tensor::copy_into`] has written them.
    ///
    /// # Errors
    /// [`OnnxErrorKind::OutOfMemory`].
    pub(crate) fn allocate(&self, dtype: DataType, shape: &[usize]) -> Result<Tensor, OnnxError> {
        let allocate = || -> ort::Result<Tensor> {
            let allocator = Allocator::new(self.inner(), self.device().memory()?)?;
            let tensor = DynTensor::new(&allocator, element_type(dtype), shape)?;
            Ok(Tensor::on_device(tensor.into_dyn(), self.device()))
        };
        allocate().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &ort::Error) -> OnnxError {
        OnnxError::from_ort(OnnxErrorKind::Run, &self.path().display().to_string(), error)
    }
}

impl Device {
    /// Whether runs on it can be captured as graphs. The stand-in for a GPU captures nothing, but is used as if it did.
    pub(crate) fn captures(self) -> bool {
        matches!(self, Self::Cuda(_) | Self::StandIn)
    }
}

/// ONNX Runtime's element type for `dtype`; float32 for a type that has no variant of its own.
fn element_type(dtype: DataType) -> TensorElementType {
    match dtype {
        DataType::F16 => TensorElementType::Float16,
        DataType::I64 => TensorElementType::Int64,
        DataType::Bool => TensorElementType::Bool,
        DataType::F32 | DataType::Other(_) => TensorElementType::Float32,
    }
}
