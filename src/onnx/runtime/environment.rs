//! The ONNX Runtime environment of the process. In: the candidates of [`super::library`]. Out: a loaded library, or an
//! error that lists every candidate. A failed load can be tried again; a loaded library stays for the life of the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::{Environment, EnvironmentBuilder};
use ort::logging::LogLevel;

use super::library::{LibraryAttempt, LibraryCandidate, LibraryError, candidates};
use crate::onnx::error::{OnnxError, OnnxErrorKind};

/// The loaded ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime {
    library: PathBuf,
    environment: Environment,
}

impl OnnxRuntime {
    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Its version, as far as the file's name says it.
    pub fn version(&self) -> String {
        version(&self.library)
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// The loaded ONNX Runtime; the first call looks for the library and loads it.
///
/// # Errors
/// [`OnnxErrorKind::Library`] when no usable library was found; lists every candidate.
pub fn runtime() -> Result<&'static OnnxRuntime, OnnxError> {
    static RUNTIME: OnceLock<OnnxRuntime> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let loaded = load(candidates())?;
    Ok(RUNTIME.get_or_init(|| loaded))
}

fn load(candidates: impl Iterator<Item = LibraryCandidate>) -> Result<OnnxRuntime, OnnxError> {
    let mut attempts = Vec::new();
    for LibraryCandidate { source, path, files } in candidates {
        let attempt = |path, found| LibraryAttempt { source: source.to_owned(), path, found };
        let files = match files {
            Ok(files) => files,
            Err(found) => {
                attempts.push(attempt(path, found.to_owned()));
                continue;
            }
        };
        for file in files {
            match ort::init_from(&file) {
                Ok(builder) => return start(builder, loaded_file(&file)),
                Err(error) => attempts.push(attempt(file, reason(&error))),
            }
        }
    }
    Err(LibraryError { attempts }.into())
}

/// Starts the library that was loaded from `library`.
fn start(builder: EnvironmentBuilder, library: PathBuf) -> Result<OnnxRuntime, OnnxError> {
    let named = builder.with_name("nightcap").with_telemetry(false).with_logger(Arc::new(log));
    let environment = named
        .build()
        .map_err(|error| OnnxError::from_ort(OnnxErrorKind::Library, &library.display().to_string(), &error))?;
    environment.set_log_level(LogLevel::Warning);
    tracing::info!(library = %library.display(), version = version(&library), "loaded ONNX Runtime");
    Ok(OnnxRuntime { library, environment })
}

/// The file that was loaded for `file`: where that is a name for the system's loader, Linux tells which one it found.
fn loaded_file(file: &Path) -> PathBuf {
    let by_loader = || {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let mut paths = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
        let is_library =
            |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"));
        paths.find(is_library).map(Path::to_path_buf)
    };
    let by_name = file.parent().is_none_or(|parent| parent.as_os_str().is_empty());
    by_name.then(by_loader).flatten().unwrap_or_else(|| file.to_path_buf())
}

/// The version in the name of the file that `library` leads to, as in `libonnxruntime.so.1.32.0`: ONNX Runtime's own description of
/// its build has none.
fn version(library: &Path) -> String {
    let file = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(".dylib");
    if digits.contains('.') { digits.to_owned() } else { format!("1.{} or newer", ort::MINOR_VERSION) }
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
    use std::path::Path;

    use super::{LibraryError, version};

    #[test]
    fn the_version_is_that_in_the_name_of_the_file() {
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so.1.32.0")), "1.32.0");
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.1.32.0.dylib")), "1.32.0");
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so")), format!("1.{} or newer", ort::MINOR_VERSION));
        assert_eq!(version(Path::new("/nowhere/libonnxruntime.so.1")), format!("1.{} or newer", ort::MINOR_VERSION));
    }

    #[test]
    fn the_hint_names_the_version_that_is_needed() {
        assert!(LibraryError::HINT.contains(&format!("1.{} or newer", ort::MINOR_VERSION)));
    }
}
