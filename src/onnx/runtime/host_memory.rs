//! Memory of the host that a device copies from fastest. In: a device, then how many values. Out: memory for them: page-locked for a
//! GPU, ordinary otherwise. What the values are is not known here.

use ort::memory::Allocator;
use ort::value::Tensor as OrtTensor;

use super::device::Device;
use super::session::Session;
use super::tensor::Element;

/// Gives memory of the host. It is not sent between threads; the memory that it gives may be.
#[derive(Debug, Default)]
pub(crate) struct HostMemory {
    /// The allocator of page-locked memory, with the session that owns it.
    locked: Option<(Allocator, Session)>,
}

/// Values in memory of the host.
#[derive(Debug)]
pub(crate) enum HostValues<T: Element> {
    Ordinary(Vec<T>),
    Locked(OrtTensor<T>),
}

impl HostMemory {
    /// Page-locked memory for `device`, on which `session` runs; ordinary memory, [`Default`], if there is none.
    pub(crate) fn locked(device: Device, session: Session) -> Self {
        let locked = {
            let allocator = device.host_memory().and_then(|memory| session.allocator(memory));
            let warn =
                |error: &_| tracing::warn!("no page-locked memory, so that copies to {device} are slower: {error}");
            allocator.inspect_err(warn).ok().map(|allocator| (allocator, session))
        };
        Self { locked }
    }

    /// Memory for `length` values, which are zeros; ordinary memory if there is no other.
    pub(crate) fn zeros<T: Element>(&self, length: usize) -> HostValues<T> {
        let locked = self.locked.as_ref().filter(|_| length > 0);
        match locked.map(|(allocator, _)| OrtTensor::<T>::new(allocator, [length])) {
            Some(Ok(tensor)) if tensor.memory_info().is_cpu_accessible() => HostValues::Locked(tensor),
            Some(Err(error)) => {
                tracing::debug!(length, "no page-locked memory: {error}");
                HostValues::Ordinary(vec![T::default(); length])
            }
            _ => HostValues::Ordinary(vec![T::default(); length]),
        }
    }
}

impl<T: Element> AsRef<[T]> for HostValues<T> {
    fn as_ref(&self) -> &[T] {
        match self {
            Self::Ordinary(values) => values,
            Self::Locked(tensor) => tensor.try_extract_tensor::<T>().map_or(&[], |(_, values)| values),
        }
    }
}

impl<T: Element> AsMut<[T]> for HostValues<T> {
    fn as_mut(&mut self) -> &mut [T] {
        match self {
            Self::Ordinary(values) => values,
            Self::Locked(tensor) => tensor.try_extract_tensor_mut::<T>().map_or(&mut [], |(_, values)| values),
        }
    }
}
