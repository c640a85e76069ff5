//! Where the ONNX Runtime library may be. In: the environment (`ORT_DYLIB_PATH`, `VIRTUAL_ENV`), this binary's folder
//! and the Python installations around. Out: candidate paths in the order they are tried. Nothing is loaded here.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One place where the library was looked for, and what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Why this place was looked at, e.g. `VIRTUAL_ENV`.
    pub place: String,
    /// The file or folder.
    pub path: PathBuf,
    /// What was there: nothing, another version, a file that is no library.
    pub found: String,
}

/// No usable ONNX Runtime library; lists every place looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryError {
    /// The places, in the order they were tried.
    pub attempts: Vec<Attempt>,
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
            write!(f, "\n  {} ({}): {}", attempt.path.display(), attempt.place, attempt.found)?;
        }
        Ok(())
    }
}

impl std::error::Error for LibraryError {}

/// Where to look: the library files of a folder, or one file.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The newest `libonnxruntime*` of this folder.
    Folder(String, PathBuf),
    /// This file, or this name for the system's loader.
    File(String, PathBuf),
}

/// The places in the order they are tried. With `ORT_DYLIB_PATH` set there is no other: who names a library wants no
/// other one silently. Python is only asked when everything before it had no library, hence an iterator.
pub(super) fn places() -> Box<dyn Iterator<Item = Place>> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let place = "ORT_DYLIB_PATH".to_owned();
        let named = if path.is_dir() { Place::Folder(place, path) } else { Place::File(place, path) };
        return Box::new(std::iter::once(named));
    }
    let near = near_binary().into_iter().chain(virtual_environments());
    let system = SYSTEM_NAMES.iter().map(|name| Place::File("the system's loader".into(), PathBuf::from(name)));
    let python = std::iter::once_with(python_packages).flatten();
    let mut seen = HashSet::new();
    Box::new(near.chain(python).chain(system).filter(move |place| match place {
        Place::Folder(_, path) | Place::File(_, path) => {
            seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))
        }
    }))
}

/// The library files of `folder`, the highest version first.
pub(super) fn libraries_in(folder: &Path) -> Vec<PathBuf> {
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

fn near_binary() -> Vec<Place> {
    let Some(folder) = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)) else {
        return Vec::new();
    };
    let lib = folder.parent().unwrap_or(&folder).join("lib");
    [folder.clone(), folder.join("onnxruntime/capi"), lib.clone(), lib.join("onnxruntime/capi")]
        .map(|path| Place::Folder("beside the binary".into(), path))
        .into()
}

fn virtual_environments() -> Vec<Place> {
    let active = std::env::var_os("VIRTUAL_ENV").map(|root| ("VIRTUAL_ENV", PathBuf::from(root)));
    let local = (".venv", PathBuf::from(".venv"));
    let mut places = Vec::new();
    for (name, root) in active.into_iter().chain(std::iter::once(local)) {
        let mut packages: Vec<PathBuf> = std::fs::read_dir(root.join("lib"))
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path().join("site-packages")).collect())
            .unwrap_or_default();
        packages.push(root.join("Lib").join("site-packages"));
        packages.retain(|path| path.is_dir());
        packages.sort_unstable();
        if packages.is_empty() {
            packages.push(root.join("lib/python3*/site-packages"));
        }
        places.extend(packages.into_iter().map(|path| Place::Folder(name.into(), path.join("onnxruntime/capi"))));
    }
    places
}

/// The `onnxruntime` folders on the module path of `python3`; empty without a Python.
fn python_packages() -> Vec<Place> {
    let script = "import sys; print('\\n'.join(p for p in sys.path if p.endswith('-packages')))";
    let answer = Command::new("python3").args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let Ok(answer) = answer else { return Vec::new() };
    String::from_utf8_lossy(&answer.stdout)
        .lines()
        .map(|line| Place::Folder("python3".into(), Path::new(line).join("onnxruntime/capi")))
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
