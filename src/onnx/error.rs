//! Failures of ONNX Runtime or a graph: which graph, what happened, what to do. In: ONNX Runtime's messages. Out: an [`OnnxError`]. A
//! single bad row is never one of these.

use std::fmt;

/// What kind of failure an [`OnnxError`] is, for callers that react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnnxErrorKind {
    /// The ONNX Runtime library could not be loaded.
    Library,
    /// A graph file could not be read or opened.
    Load,
    /// A graph did not run, or its outputs were not what the model directory promises.
    Run,
    /// Memory ran out during a run. The graph works again afterwards, for instance with a smaller batch.
    OutOfMemory,
    /// The device failed during a run, or is gone, or its work was ended. No graph works on it any more in this process.
    Device,
}

/// A failure of ONNX Runtime: which graph, what was expected and found, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnnxError {
    /// The kind, for callers that react to it.
    pub kind: OnnxErrorKind,
    /// The graph's file, where one graph is concerned.
    pub graph: Option<String>,
    /// Lower-case sentence: what was expected, what was found.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl OnnxError {
    /// A failure of `kind` in `graph`.
    pub fn new(kind: OnnxErrorKind, graph: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, graph: Some(graph.into()), what: what.into(), hint: None }
    }

    /// A run that is not possible or whose outputs are not usable, if no single graph is the cause.
    pub fn of_run(what: impl Into<String>) -> Self {
        Self { kind: OnnxErrorKind::Run, graph: None, what: what.into(), hint: None }
    }

    /// A failure of the tokenizer during a run.
    pub fn of_tokenizer(error: &dyn fmt::Display) -> Self {
        Self::of_run(format!("the tokenizer failed: {error}"))
    }

    /// The same failure with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// ONNX Runtime's words for a run that another thread has ended.
    pub(crate) const INTERRUPTED: &str = "terminate flag";

    /// A failure of `kind` that ONNX Runtime reported for `graph`. Out of memory is recognised by the message, because ONNX Runtime has
    /// no code for it.
    pub(crate) fn from_ort<R>(kind: OnnxErrorKind, graph: &str, error: &ort::Error<R>) -> Self {
        const OUT_OF_MEMORY: [&str; 7] = [
            "Failed to allocate memory",
            "std::bad_alloc",
            "is smaller than requested bytes of",
            // a GPU's memory, allocated by a CUDA library
            "CUDA failure 2:",
            "CUBLAS failure 3:",
            "_ALLOC_FAILED",
            "_ALLOCATION_FAILED",
        ];
        // errors of the CUDA libraries other than out of memory: after most of them, every further call fails
        const DEVICE: [&str; 5] =
            ["CUDA failure ", "CUBLAS failure ", "CUDNN failure ", "CUFFT failure ", "CUDA error "];
        let message = error.message();
        if OUT_OF_MEMORY.iter().any(|text| message.contains(text)) {
            return Self::new(OnnxErrorKind::OutOfMemory, graph, format!("out of memory: {message}"))
                .with_hint("a smaller batch needs less memory");
        }
        if message.contains(Self::INTERRUPTED) {
            let what = "the run was ended early, because another part of the job failed";
            return Self::new(OnnxErrorKind::Device, graph, what);
        }
        if message.contains("Could not find an implementation") {
            let hint = "the device has no kernel for this operator and element type; graphs in bfloat16 need a GPU";
            let what = format!("onnx runtime has no kernel for an operator of this graph: {message}");
            return Self::new(kind, graph, what).with_hint(hint);
        }
        let sentence = match kind {
            OnnxErrorKind::Load => "onnx runtime cannot open this graph",
            OnnxErrorKind::Run => "onnx runtime cannot run this graph",
            _ => "onnx runtime failed",
        };
        let is_device = kind == OnnxErrorKind::Run && DEVICE.iter().any(|text| message.contains(text));
        let kind = if is_device { OnnxErrorKind::Device } else { kind };
        let error = Self::new(kind, graph, format!("{sentence}: {message}"));
        let hints = [
            (
                ["is not a registered function/op", "No Op registered for"],
                "the graph has an operator that this onnx runtime does not have; a newer one may have it",
            ),
            (
                ["Unsupported model IR version", "opset"],
                "the graph was made for a newer onnx runtime than this one; install that, or export it again with an older opset",
            ),
            (
                ["Protobuf parsing failed", "ModelProto does not have a graph"],
                "the file is damaged or no ONNX graph; copy it again",
            ),
            (
                ["Got invalid dimensions", "indices element out of data bounds"],
                "the graph was exported for other sizes; `nightcap model inspect` shows what it takes",
            ),
        ];
        match hints.iter().find(|(signs, _)| signs.iter().any(|sign| message.contains(sign))) {
            Some((_, hint)) => error.with_hint(*hint),
            None => error,
        }
    }
}

impl fmt::Display for OnnxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(graph) = &self.graph {
            write!(f, "{graph}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for OnnxError {}

#[cfg(test)]
mod tests {
    use super::{OnnxError, OnnxErrorKind};

    #[test]
    fn memory_and_device_are_told_from_other_failures() {
        // the first as ONNX Runtime 1.31 said it on an H100; those of CUDA as others report them
        let out_of_memory = [
            "Non-zero status code returned while running Gemm node. Status Message: bfc_arena.cc:360 void* \
             onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for \
             requested buffer of size 309854208",
            "std::bad_alloc",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; file=cuda_stream_handle.cc ; expr=cublasCreate(&cublas_handle_);",
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaHostAlloc((void**)&p, size, 0);",
            "CUDNN failure 4005: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
        ];
        let kind = |message: &str| {
            OnnxError::from_ort(OnnxErrorKind::Run, "decoder.onnx", &ort::Error::<()>::new(message)).kind
        };
        for message in out_of_memory {
            assert_eq!(kind(message), OnnxErrorKind::OutOfMemory, "{message}");
        }
        assert_eq!(kind("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0"), OnnxErrorKind::Device);
        assert_eq!(kind("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), OnnxErrorKind::Device);
        assert_eq!(kind("indices element out of data bounds, idx=9 must be within [-4,3]"), OnnxErrorKind::Run);
        let load = OnnxError::from_ort(OnnxErrorKind::Load, "a.onnx", &ort::Error::<()>::new("CUDA failure 100: none"));
        assert_eq!(load.kind, OnnxErrorKind::Load, "a job that names a device which is not there is wrong");
    }
}
