//! Where the ONNX Runtime library may be. In: the environment (`ORT_DYLIB_PATH`, `VIRTUAL_ENV`, `CONDA_PREFIX`, `PATH`) and this
//! binary's folder. Out: candidates in the order in which they are tried. Nothing is loaded here, and nothing is ever looked for
//! in the current folder: others may be able to write there, and a library is code that is run.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::onnx::error::{OnnxError, OnnxErrorKind};

/// A candidate that was not usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryAttempt {
    /// Where the candidate comes from, e.g. `VIRTUAL_ENV`.
    pub source: String,
    /// The file or folder.
    pub path: PathBuf,
    /// What was there: nothing, another version, a file that is no library.
    pub found: String,
}

/// No usable ONNX Runtime library; lists every candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryError {
    /// The candidates, in the order in which they were tried.
    pub attempts: Vec<LibraryAttempt>,
}

impl LibraryError {
    /// What a user can do about it.
    pub const HINT: &str =
        "`pip install onnxruntime`, or set ORT_DYLIB_PATH to the file libonnxruntime.so of ONNX Runtime 1.24 or newer";
}

impl fmt::Display for LibraryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no usable ONNX Runtime library found; looked at:")?;
        for attempt in &self.attempts {
            write!(f, "\n  {} ({}): {}", attempt.path.display(), attempt.source, attempt.found)?;
        }
        Ok(())
    }
}

impl std::error::Error for LibraryError {}

impl From<LibraryError> for OnnxError {
    fn from(error: LibraryError) -> Self {
        Self {
            kind: OnnxErrorKind::Library,
            graph: None,
            what: error.to_string(),
            hint: Some(LibraryError::HINT.into()),
        }
    }
}

/// A file or folder where the library may be.
#[derive(Debug, Clone)]
pub(crate) struct LibraryCandidate {
    /// Where it comes from, e.g. `VIRTUAL_ENV`.
    pub(crate) source: &'static str,
    pub(crate) path: PathBuf,
    /// The library files, the highest version first, or why there are none.
    pub(crate) files: Result<Vec<PathBuf>, &'static str>,
}

impl LibraryCandidate {
    /// The file `path`, or a name for the system's loader.
    fn file(source: &'static str, path: PathBuf) -> Self {
        Self { source, files: Ok(vec![path.clone()]), path }
    }

    /// The library files of the folder `path`.
    fn folder(source: &'static str, path: PathBuf) -> Self {
        let files = if path.is_relative() {
            Err("a relative path, which is not searched; expected an absolute one")
        } else {
            Some(libraries_in(&path)).filter(|files| !files.is_empty()).ok_or(if path.is_dir() {
                "no libonnxruntime in this folder"
            } else {
                "no such folder"
            })
        };
        Self { source, path, files }
    }
}

/// The candidates in the order in which they are tried. If `ORT_DYLIB_PATH` is set, it is the only one: a library that the user names is
/// not silently replaced by another. The iterator is lazy, so that Python is run only if no earlier candidate has a library.
pub(crate) fn candidates() -> Box<dyn Iterator<Item = LibraryCandidate>> {
    if let Some(path) = variable("ORT_DYLIB_PATH") {
        const SOURCE: &str = "ORT_DYLIB_PATH";
        let folder = Some(&path).filter(|path| path.is_dir()).and_then(|path| std::path::absolute(path).ok());
        let named = match folder {
            Some(folder) => LibraryCandidate::folder(SOURCE, folder),
            None => LibraryCandidate::file(SOURCE, path),
        };
        return Box::new(std::iter::once(named));
    }
    let near = near_binary().into_iter().chain(virtual_environment()).chain(conda_environment());
    let python = std::iter::once_with(python_packages).flatten();
    let system = SYSTEM_NAMES.iter().map(|name| LibraryCandidate::file("the system's loader", PathBuf::from(name)));
    let mut seen = HashSet::new();
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    Box::new(near.chain(python).chain(system).filter(move |candidate| seen.insert(resolved(&candidate.path))))
}

/// The path in the environment variable `name`, unless that is empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The library files of `folder`, the highest version first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_library_name))
        .collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    // links to one file are tried once
    let mut seen = HashSet::new();
    files.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    files
}

/// `libonnxruntime.so`, `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`, `onnxruntime.dll`; none of the
/// `libonnxruntime_providers_*` beside them.
fn is_library_name(name: &str) -> bool {
    name == "onnxruntime.dll"
        || name.strip_prefix("libonnxruntime.").is_some_and(|rest| {
            rest == "so"
                || rest.starts_with("so.")
                || Path::new(name).extension().is_some_and(|ending| ending == "dylib")
        })
}

const SYSTEM_NAMES: &[&str] = if cfg!(target_os = "windows") {
    &["onnxruntime.dll"]
} else if cfg!(target_os = "macos") {
    &["libonnxruntime.dylib"]
} else {
    &["libonnxruntime.so", "libonnxruntime.so.1"]
};

/// The folders beside this binary, and the packages of the Python environment that it is installed in: pip and pipx put a wheel's binary
/// into `bin` of an environment, which need not be the active one.
fn near_binary() -> Vec<LibraryCandidate> {
    const SOURCE: &str = "beside the binary";
    // links are resolved: pipx links to the binary from another folder
    let binary = std::env::current_exe().and_then(|binary| binary.canonicalize());
    let Some(folder) = binary.ok().and_then(|binary| binary.parent().map(Path::to_path_buf)) else {
        return Vec::new();
    };
    let root = folder.parent().unwrap_or(&folder);
    let lib = root.join("lib");
    let near = [folder.clone(), folder.join("onnxruntime/capi"), lib.clone(), lib.join("onnxruntime/capi")];
    let packages = installed_packages(root);
    near.into_iter().chain(packages).map(|path| LibraryCandidate::folder(SOURCE, path)).collect()
}

/// The package of the active virtual environment.
fn virtual_environment() -> Vec<LibraryCandidate> {
    const SOURCE: &str = "VIRTUAL_ENV";
    let packages = variable(SOURCE).map(|root| packages_in(&root)).unwrap_or_default();
    packages.into_iter().map(|folder| LibraryCandidate::folder(SOURCE, folder)).collect()
}

/// The library that conda installs, and the package that pip installs into conda's environment.
fn conda_environment() -> Vec<LibraryCandidate> {
    const SOURCE: &str = "CONDA_PREFIX";
    let Some(root) = variable(SOURCE) else { return Vec::new() };
    let folders = std::iter::once(root.join("lib")).chain(packages_in(&root));
    folders.map(|folder| LibraryCandidate::folder(SOURCE, folder)).collect()
}

/// The folders of the package onnxruntime below the Python environment at `root`. If it has no packages, the folder where it would be,
/// for the error.
fn packages_in(root: &Path) -> Vec<PathBuf> {
    let packages = installed_packages(root);
    if packages.is_empty() { vec![root.join("lib/python3*/site-packages/onnxruntime/capi")] } else { packages }
}

/// The folders of the package onnxruntime below the Python environment at `root`, if it has packages. (Debian's Python has
/// `dist-packages`.)
fn installed_packages(root: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(root.join("lib")).into_iter().flatten().filter_map(Result::ok);
    let mut packages: Vec<PathBuf> = versions
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("python3")))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name)))
        .chain([root.join("Lib").join("site-packages")])
        .filter(|path| path.is_dir())
        .map(|path| path.join("onnxruntime/capi"))
        .collect();
    packages.sort_unstable();
    packages
}

/// The `onnxruntime` folders on the module path of the first `python3` on `PATH`. Nothing is looked up in the current folder: relative
/// and empty entries of `PATH` are left out, and Python is run in the root folder, since it resolves relative entries of `PYTHONPATH`,
/// and pyenv its version files, from the folder where it starts.
fn python_packages() -> Vec<LibraryCandidate> {
    const SCRIPT: &str = "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))";
    let name = format!("python3{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(&name));
    let run = |python: PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
        command.output().ok()
    };
    let Some(answer) = pythons.filter(|python| python.is_file()).find_map(run) else {
        let files = Err("no python3 in an absolute folder of PATH");
        return vec![LibraryCandidate { source: "PATH", path: PathBuf::from(name), files }];
    };
    String::from_utf8_lossy(&answer.stdout)
        .lines()
        .map(|line| LibraryCandidate::folder("python3", Path::new(line).join("onnxruntime/capi")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::is_library_name;

    #[test]
    fn provider_libraries_are_not_the_library() {
        assert!(is_library_name("libonnxruntime.so.1.32.0"));
        assert!(is_library_name("libonnxruntime.so"));
        assert!(is_library_name("libonnxruntime.1.32.0.dylib"));
        assert!(!is_library_name("libonnxruntime_providers_shared.so"));
        assert!(!is_library_name("libonnxruntime.txt"));
    }
}
