//! How a command ends: its exit status, and the errors that end it early. A failed row is not one of them: see
//! [`crate::row::error::RowError`].

use crate::job::JobFileError;
use crate::manifest::ManifestError;
use crate::manifest::folder::FolderError;
use crate::model::ModelError;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::output::OutputError;
use crate::plan::PlanError;
use crate::preprocess::ConfigError;

/// How a command ended; the process's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Finished and published, or nothing to do.
    Done = 0,
    /// Finished and published, but more rows failed than `[limits]` allow.
    TooManyFailed = 1,
    /// The job, the model or the storage is wrong, nearly always before anything was run; also a damaged OUTPUT that `status` finds,
    /// and a fault of nightcap.
    Refused = 2,
    /// Stopped by a signal or an outage; run again to go on.
    Stopped = 75,
}

/// Any error that ends a command. Each message says what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The job file.
    #[error(transparent)]
    Job(#[from] JobFileError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A folder of images.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The model directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// ONNX Runtime.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The model's image preprocessing.
    #[error(transparent)]
    Preprocess(#[from] ConfigError),
    /// The output folder.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The plan.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// The job or an argument asks for something that is not possible.
    #[error("{0}")]
    Unfit(String),
    /// The storage or a device failed while parts were being made.
    #[error("{0}\nhint: the parts already written stay; run the same command again to go on")]
    Interrupted(Box<Self>),
    /// Another process ended the run while this one worked on it; the next start makes a new run.
    #[error("{0}\nhint: run the same command again; it starts a new run")]
    RunEnded(OutputError),
    /// The storage that images come from does not answer.
    #[error(
        "{failures} images could not be read (the last: {kind}), and their storage does not answer: {why}\nhint: nothing of the part they are in was written; when the storage is back, run the same command again to go on. If it is as it should be, `limits.outage_after = 0` makes failed rows of them"
    )]
    Outage {
        /// Images of the current part that could not be read.
        failures: usize,
        /// The error kind of the last one.
        kind: &'static str,
        /// How the request for their folder failed.
        why: String,
    },
    /// A fault of nightcap or of a library it uses.
    #[error(
        "internal error: {0}\nhint: this is a fault of nightcap; please report it with the log. Parts already written stay"
    )]
    Internal(String),
    /// The operating system refused an operation, such as starting a thread.
    #[error("cannot {action}: {source}")]
    System {
        /// The operation.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Manifest(error) => Self::Manifest(error),
            PlanError::Output(error) => Self::Output(error),
            error => Self::Plan(Box::new(error)),
        }
    }
}

impl Error {
    /// The exit status of a process that ends with this error.
    #[must_use]
    pub const fn status(&self) -> ExitStatus {
        match self {
            Self::Interrupted(_)
            | Self::RunEnded(_)
            | Self::Outage { .. }
            | Self::Output(
                OutputError::Alive { .. }
                | OutputError::Gone { .. }
                | OutputError::Incomplete { .. }
                | OutputError::Overtaken { .. },
            ) => ExitStatus::Stopped,
            _ => ExitStatus::Refused,
        }
    }

    /// This error of a run whose id the user did not choose: if another process has ended the run, the next start makes a new one.
    #[must_use]
    pub fn of_unnamed_run(self) -> Self {
        match self {
            Self::Output(
                ended @ (OutputError::Closed { .. }
                | OutputError::Discarded { .. }
                | OutputError::NameTaken { .. }
                | OutputError::SourceGone { .. }),
            ) => Self::RunEnded(ended),
            other => other,
        }
    }

    /// This error when some parts may have been made already: failures of storage or a device become [`Error::Interrupted`].
    #[must_use]
    pub fn while_making_parts(self) -> Self {
        match self {
            Self::Output(OutputError::Store { .. } | OutputError::Folder { .. })
            | Self::Manifest(ManifestError::Io { .. } | ManifestError::Storage { .. })
            | Self::Onnx(OnnxError { kind: OnnxErrorKind::Device, .. })
            | Self::System { .. } => Self::Interrupted(Box::new(self)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_interrupts_a_run_and_a_graph_that_fails_does_not() {
        let status =
            |kind| Error::from(OnnxError::new(kind, "decoder.onnx", "it failed")).while_making_parts().status();
        assert_eq!(status(OnnxErrorKind::Device), ExitStatus::Stopped);
        assert_eq!(status(OnnxErrorKind::Run), ExitStatus::Refused);
        assert_eq!(Error::Internal("a fault".to_owned()).while_making_parts().status(), ExitStatus::Refused);
    }
}
