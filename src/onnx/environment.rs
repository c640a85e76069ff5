//! The one ONNX Runtime environment of the process. In: the places of [`super::library`]. Out: a loaded library, or an
//! error that lists every place. A failed load can be tried again; a loaded library stays for the life of the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::error::{OnnxError, OnnxErrorKind};
use super::library::{Attempt, LibraryError, Place, libraries_in, places};

/// The loaded ONNX Runtime.
#[derive(Debug)]
pub struct Runtime {
    library: PathBuf,
    environment: Environment,
}

impl Runtime {
    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// ONNX Runtime's own description of its build: version, commit, compiler flags.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// The loaded ONNX Runtime; the first call looks for the library and loads it.
///
/// # Errors
/// [`OnnxErrorKind::Library`] when no usable library was found; lists every place looked at.
pub fn runtime() -> Result<&'static Runtime, OnnxError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let loaded = load(places())?;
    Ok(RUNTIME.get_or_init(|| loaded))
}

fn load(places: impl Iterator<Item = Place>) -> Result<Runtime, OnnxError> {
    let mut attempts = Vec::new();
    for place in places {
        let (name, path, files) = match place {
            Place::File(name, path) => (name, path.clone(), vec![path]),
            Place::Folder(name, path) => {
                let files = libraries_in(&path);
                (name, path, files)
            }
        };
        if files.is_empty() {
            let found = if path.is_dir() { "no libonnxruntime in this folder" } else { "no such folder" };
            attempts.push(Attempt { place: name.clone(), path, found: found.into() });
        }
        for file in files {
            match ort::init_from(&file) {
                Ok(builder) => {
                    let environment = builder
                        .with_name("nightcap")
                        .with_telemetry(false)
                        .with_logger(Arc::new(log))
                        .build()
                        .map_err(|error| {
                            OnnxError::from_ort(OnnxErrorKind::Library, &file.display().to_string(), &error)
                        })?;
                    environment.set_log_level(LogLevel::Warning);
                    tracing::debug!(library = %file.display(), "loaded ONNX Runtime");
                    return Ok(Runtime { library: file, environment });
                }
                Err(error) => attempts.push(Attempt { place: name.clone(), path: file, found: reason(&error) }),
            }
        }
    }
    Err(LibraryError { attempts }.into())
}

fn reason(error: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError as E;
    match error {
        E::Dlopen { path, .. } if path.is_absolute() && !path.exists() => "no such file".into(),
        E::Dlopen { error, .. } => format!("cannot be loaded: {}", chain(error)),
        E::MissingApi { .. } => "a library, but not ONNX Runtime (it has no OrtGetApiBase)".into(),
        E::InvalidVersionString => "its version cannot be read".into(),
        E::BadVersion { version_str, .. } => {
            format!("version {version_str}, but 1.{} or newer is needed", ort::MINOR_VERSION)
        }
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// ONNX Runtime's own messages, passed on to the program's log.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(category, location, "{message}"),
        LogLevel::Warning => tracing::debug!(category, location, "{message}"),
        // repeated in the error of the call that failed
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(category, location, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::LibraryError;

    #[test]
    fn the_hint_names_the_version_that_is_needed() {
        assert!(LibraryError::HINT.contains(&format!("1.{} or newer", ort::MINOR_VERSION)));
    }
}
