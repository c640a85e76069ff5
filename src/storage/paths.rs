//! Local paths as users write them: relative, absolute, or `file://` URIs.

use std::io;
use std::path::{Component, Path, PathBuf};

use url::Url;

/// Why a text is not a local path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotLocal {
    /// A URI of this scheme.
    Scheme(String),
    /// A `file:` URI without a path on this machine, or an empty text.
    Invalid,
}

/// The path `text`, relative to `folder`; `.` and `..` are resolved by name, without following links.
pub(crate) fn local(folder: &Path, text: &str) -> Result<PathBuf, NotLocal> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("file") => Url::parse(text)
            .ok()
            .and_then(|uri| uri.to_file_path().ok())
            .map(|path| clean(&path))
            .ok_or(NotLocal::Invalid),
        Some(scheme) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            Err(NotLocal::Scheme(scheme.to_owned()))
        }
        _ if text.trim().is_empty() => Err(NotLocal::Invalid),
        _ => Ok(clean(&folder.join(text))),
    }
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
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

/// `path` as a file in the folder `base` has to write it: relative if `path` is below `base` (empty if they are the same), otherwise
/// absolute. Links are resolved on the way to `path`, but not `path` itself, so that a link may later lead elsewhere.
///
/// # Errors
/// When `base` or the folder of `path` cannot be found.
pub(crate) fn relative_to(base: &Path, path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let real = match (absolute.parent(), absolute.file_name()) {
        (Some(folder), Some(name)) => std::fs::canonicalize(folder)?.join(name),
        _ => std::fs::canonicalize(&absolute)?,
    };
    Ok(real.strip_prefix(std::fs::canonicalize(base)?).map(Path::to_owned).unwrap_or(real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_files_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(folder.join("data/photos")).unwrap();
        std::os::unix::fs::symlink("data", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("/tmp", folder.join("data/elsewhere")).unwrap();
        let seen = |base: &str, path: &str| relative_to(&folder.join(base), &folder.join(path)).unwrap();
        assert_eq!(seen("", "data/photos"), PathBuf::from("data/photos"));
        assert_eq!(seen("data/photos", "data/photos/"), PathBuf::new());
        assert_eq!(seen("data/photos/..", "link/photos"), PathBuf::from("photos"));
        assert_eq!(seen("data", "data/photos/.."), PathBuf::new());
        assert_eq!(seen("data", "data/elsewhere"), PathBuf::from("elsewhere"), "the link, not what it leads to");
        assert_eq!(seen("data/photos", "data"), folder.join("data"));
        assert_eq!(seen("data", "/"), PathBuf::from("/"));
    }

    #[test]
    fn paths_and_uris() {
        let local = |text: &str| local(Path::new("/data/sets"), text);
        let path = |text: &str| Ok(PathBuf::from(text));
        assert_eq!(local("a/../b 100%.jpg"), path("/data/sets/b 100%.jpg"));
        assert_eq!(local("../c.jpg"), path("/data/c.jpg"));
        assert_eq!(local("/d.jpg"), path("/d.jpg"));
        assert_eq!(local("file:///e/a%20b.jpg"), path("/e/a b.jpg"));
        assert_eq!(local("FILE://localhost/f.jpg"), path("/f.jpg"));
        assert_eq!(local("file://elsewhere/f.jpg"), Err(NotLocal::Invalid));
        assert_eq!(local("s3://bucket/key"), Err(NotLocal::Scheme("s3".to_owned())));
        assert_eq!(local(" "), Err(NotLocal::Invalid));
    }
}
