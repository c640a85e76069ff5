//! A graph that the text encoder and the decoder's token embedder share. In: an opened graph. Out: one user at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::onnx::{OnnxError, Outputs, Session, SessionInput};

/// A graph that text encoder and token embedder share.
#[derive(Debug, Clone)]
pub(crate) struct SharedGraph(Arc<Mutex<Session>>);

impl SharedGraph {
    pub(crate) fn new(graph: Session) -> Self {
        Self(Arc::new(Mutex::new(graph)))
    }

    pub(crate) fn run(&self, inputs: &[(&str, SessionInput<'_>)]) -> Result<Outputs, OnnxError> {
        self.graph().run(inputs)
    }

    /// The graph, locked.
    pub(crate) fn graph(&self) -> MutexGuard<'_, Session> {
        // a session has no state that a panic during a run could leave inconsistent
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
