//! Where graphs run. In: a device's name in a job, such as `cuda:0`. Out: a [`Device`], which a graph is opened for.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ort::ep::cuda::{AttentionBackend, ConvAlgorithmSearch};
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

/// The most bytes of a device's memory that the arena of one graph takes; 0: as many as there are.
static MEMORY_LIMIT: AtomicUsize = AtomicUsize::new(0);

/// No graph that is opened from now on takes more than `bytes` bytes of a device's memory for its tensors.
pub fn limit_device_memory(bytes: usize) {
    MEMORY_LIMIT.store(bytes, Ordering::Relaxed);
}

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, through the CUDA execution provider.
    Cuda(i32),
    /// The NVIDIA GPU of this number, through the `TensorRT` execution provider; operators that it lacks run through CUDA's.
    TensorRt(i32),
    /// The CPU, with tensors bound and moved as in a GPU's memory. For tests on machines without a GPU.
    StandIn,
}

/// Which kernels compute attention in half precision on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AttentionKernels {
    /// Flash attention, else the memory-efficient one, else matrix products: fast for many queries. Two runs give the same bytes.
    #[default]
    ManyQueries,
    /// Matrix products: fast for a single query over many keys, as in a decoder's step. Two runs give the same bytes.
    OneQuery,
    /// Whatever ONNX Runtime takes first. That is cuDNN, which is the fastest but does not add in the same order in every run.
    Fastest,
}

impl AttentionKernels {
    /// The value of the provider option `sdpa_kernel`, if it is set.
    fn backend(self) -> Option<AttentionBackend> {
        use AttentionBackend as B;
        match self {
            Self::ManyQueries => Some(B::FLASH_ATTENTION | B::EFFICIENT_ATTENTION | B::MATH),
            Self::OneQuery => Some(B::MATH),
            Self::Fastest => None,
        }
    }
}

impl Device {
    /// The names of devices, for messages.
    pub const EXPECTED: &str = "\"cpu\", \"cuda:0\" or \"tensorrt:0\", with any GPU's number";

    /// Whether it has a memory of its own, where tensors stay between runs.
    pub fn has_memory(self) -> bool {
        self != Self::Cpu
    }

    /// Whether steps of one shape run on it: `TensorRT` would build an engine for every number of rows.
    pub(crate) fn takes_static_steps(self) -> bool {
        self.has_memory() && !matches!(self, Self::TensorRt(_))
    }

    /// The host's memory that the device writes fastest: for a GPU, pinned pages.
    pub(crate) fn host_memory(self) -> ort::Result<MemoryInfo<'static>> {
        match self {
            Self::Cpu | Self::StandIn => self.memory(),
            Self::Cuda(number) | Self::TensorRt(number) => {
                MemoryInfo::new(AllocationDevice::CUDA_PINNED, number, AllocatorType::Device, MemoryType::CPUOutput)
            }
        }
    }

    /// The memory where tensors stay between runs.
    pub(crate) fn memory(self) -> ort::Result<MemoryInfo<'static>> {
        let (device, number) = match self {
            Self::Cpu | Self::StandIn => (AllocationDevice::CPU, 0),
            Self::Cuda(number) | Self::TensorRt(number) => (AllocationDevice::CUDA, number),
        };
        MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::Default)
    }

    /// The execution providers to ask ONNX Runtime for, the preferred one first. A missing one is an error; by default ONNX Runtime
    /// would silently use the CPU.
    pub(crate) fn providers(self, kernels: AttentionKernels, captured: bool) -> Vec<ExecutionProviderDispatch> {
        // by default, CUDA's provider multiplies float32 as TensorFloat-32, with 10 bits of mantissa, and picks the convolution algorithm
        // that is fastest at that moment, so that results differ from run to run
        let cuda = |number| {
            let provider = CUDA::default().with_device_id(number).with_tf32(false);
            let provider = provider.with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
            let provider = provider.with_cuda_graph(captured);
            let provider = match MEMORY_LIMIT.load(Ordering::Relaxed) {
                0 => provider,
                bytes => provider.with_memory_limit(bytes),
            };
            match kernels.backend() {
                Some(backend) => provider.with_attention_backend(backend).build().error_on_failure(),
                None => provider.build().error_on_failure(),
            }
        };
        match self {
            Self::Cpu | Self::StandIn => Vec::new(),
            Self::Cuda(number) => vec![cuda(number)],
            Self::TensorRt(number) => {
                vec![TensorRT::default().with_device_id(number).build().error_on_failure(), cuda(number)]
            }
        }
    }
}

impl FromStr for Device {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        let number = || number.parse::<u16>().map(i32::from).map_err(|_| ());
        match kind {
            "cpu" if kind == name => Ok(Self::Cpu),
            // for tests; release builds do not know it
            "stand-in" if kind == name && cfg!(debug_assertions) => Ok(Self::StandIn),
            "cuda" => number().map(Self::Cuda),
            "tensorrt" => number().map(Self::TensorRt),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::StandIn => f.write_str("a stand-in for a GPU"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::TensorRt(number) => write!(f, "tensorrt:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["cpu", "cuda:0", "cuda:7", "tensorrt:1"] {
            assert_eq!(name.parse::<Device>().map(|device| device.to_string()), Ok(name.to_owned()));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for name in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "CUDA:0"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
    }
}
