//! Local paths as users write them: relative, absolute, or `file://` URIs.

use std::path::{Component, Path, PathBuf};

use url::Url;

/// Why a text names no local path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotLocal {
    /// A URI of this scheme.
    Scheme(String),
    /// A `file:` URI that names no file of this machine, or nothing at all.
    Invalid,
}

/// The path that `text` names, seen from `folder`, with `.` and `..` resolved by name: links stay as they are.
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

#[cfg(test)]
mod tests {
    use super::*;

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
