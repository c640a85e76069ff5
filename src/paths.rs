//! Local paths as users write them.

use std::path::{Component, Path, PathBuf};

/// `path` as seen from `folder`, with `.` and `..` resolved by name: links stay as they are.
pub(crate) fn join(folder: &Path, path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}
