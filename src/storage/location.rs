//! A location as users write it: a local path, or a URI of an object store or web server.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use url::Url;

use super::hidden_parents::climbs;
use super::paths::{self, NotLocal};
use crate::support::redact;

/// The kinds of object store that have buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cloud {
    /// Amazon S3 and compatible services.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Cloud {
    const ALL: [Self; 3] = [Self::S3, Self::Gs, Self::Az];

    /// The scheme of its URIs.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// The location of a file, an object or a folder. [`fmt::Display`] never shows a credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// A path of this machine.
    Local(PathBuf),
    /// An object, or the prefix of many.
    Object {
        /// Which kind of store.
        cloud: Cloud,
        /// Bucket or container.
        bucket: String,
        /// Key as stored, without a leading slash; nothing in it is percent-encoded.
        key: String,
    },
    /// On a web server.
    Http(Url),
}

/// Why a text is not a location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotALocation {
    /// A scheme that is not supported.
    #[error("expected a local path or a file://, s3://, gs://, az://, http:// or https:// URI, found {0}://")]
    Scheme(String),
    /// A path or URI of a supported scheme that is not complete.
    #[error("expected {0}")]
    Invalid(&'static str),
}

impl Location {
    /// The location `text`, relative to the folder `self`; `.` and `..` are resolved by name.
    ///
    /// # Errors
    /// [`NotALocation`], whose message shows nothing of `text` but the scheme, since a URI may hold a credential.
    pub fn resolve(&self, text: &str) -> Result<Self, NotALocation> {
        let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        match scheme {
            Some((scheme, rest)) if scheme != "file" && is_scheme(&scheme) => absolute(&scheme, rest, text),
            Some(_) => local(Path::new("/"), text),
            None => match without_slashes(text) {
                Some(expected) => Err(NotALocation::Invalid(expected)),
                None => self.below(text),
            },
        }
    }

    /// The glob pattern `text`, relative to the local folder `folder`. The name of the folder is not part of the glob.
    ///
    /// # Errors
    /// As [`Location::resolve`].
    pub fn pattern(folder: &Path, text: &str) -> Result<Self, NotALocation> {
        let location = Self::Local(folder.to_owned()).resolve(text)?;
        let Self::Local(path) = &location else { return Ok(location) };
        let is_glob = !path.exists() && text.contains(['*', '?', '[']);
        match (is_glob, path.strip_prefix(folder)) {
            (true, Ok(below)) => {
                let escaped = format!("{}/{}", glob::Pattern::escape(&folder.to_string_lossy()), below.display());
                Ok(Self::Local(escaped.into()))
            }
            _ => Ok(location),
        }
    }

    /// The location of the path `text`, which may be relative to the folder `self`.
    fn below(&self, text: &str) -> Result<Self, NotALocation> {
        match self {
            Self::Local(folder) => local(folder, text),
            _ if text.starts_with('/') => local(Path::new("/"), text),
            _ if text.trim().is_empty() => Err(NotALocation::Invalid("a path or URI, found nothing")),
            Self::Object { cloud, bucket, key } => {
                let mut segments: Vec<&str> =
                    if key.is_empty() { Vec::new() } else { key.strip_suffix('/').unwrap_or(key).split('/').collect() };
                for segment in text.split('/') {
                    match segment {
                        // An empty one belongs to the key: without it, the key is that of another object.
                        "." => {}
                        ".." => drop(segments.pop()),
                        other => segments.push(other),
                    }
                }
                Ok(Self::Object { cloud: *cloud, bucket: bucket.clone(), key: segments.join("/") })
            }
            Self::Http(url) => {
                let mut url = url.clone();
                url.set_query(None);
                let segments = url.path_segments_mut();
                let mut segments = segments.map_err(|()| NotALocation::Invalid("a URL with a path"))?;
                segments.pop_if_empty();
                for segment in text.split('/') {
                    match segment {
                        "" | "." => {}
                        ".." => drop(segments.pop()),
                        other => drop(segments.push(other)),
                    }
                }
                drop(segments);
                Ok(Self::Http(url))
            }
        }
    }

    /// What follows the last slash of its path or key.
    #[must_use]
    pub fn file_name(&self) -> String {
        let path = match self {
            Self::Local(path) => path.to_string_lossy(),
            Self::Object { key, .. } => key.into(),
            Self::Http(url) => url.path().into(),
        };
        path.rsplit_once('/').map_or(path.as_ref(), |(_, name)| name).to_owned()
    }

    /// The folder that it is in; the root of a store is its own folder.
    #[must_use]
    pub fn folder(&self) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.parent().unwrap_or(Path::new("/")).to_owned()),
            Self::Object { cloud, bucket, key } => {
                let key = key.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
                Self::Object { cloud: *cloud, bucket: bucket.clone(), key: key.to_owned() }
            }
            Self::Http(url) => {
                let mut url = url.clone();
                url.set_query(None);
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop_if_empty().pop();
                }
                Self::Http(url)
            }
        }
    }

    /// The same store's location at `key`, for a store that has keys.
    #[must_use]
    pub fn with_key(&self, new: &str) -> Self {
        match self {
            Self::Object { cloud, bucket, .. } => {
                Self::Object { cloud: *cloud, bucket: bucket.clone(), key: new.to_owned() }
            }
            other => other.clone(),
        }
    }

    /// The path, if it is one of this machine.
    #[must_use]
    pub fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            _ => None,
        }
    }

    /// What all locations of one store have in common: `s3://bucket`, `https://host:port`, or `/`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Local(_) => "/".to_owned(),
            Self::Object { cloud, bucket, .. } => format!("{}://{bucket}", cloud.scheme()),
            Self::Http(url) => url.origin().ascii_serialization(),
        }
    }

    /// Whether it is `root` or below it, by name.
    #[must_use]
    pub fn starts_with(&self, root: &Self) -> bool {
        let below = |key: &str, folder: &str| {
            let rest = key.strip_prefix(folder.strip_suffix('/').unwrap_or(folder));
            folder.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match (self, root) {
            (Self::Local(path), Self::Local(root)) => path.starts_with(root),
            (Self::Object { key, .. }, Self::Object { key: folder, .. }) => {
                self.authority() == root.authority() && below(key, folder)
            }
            (Self::Http(url), Self::Http(root)) => url.origin() == root.origin() && below(url.path(), root.path()),
            _ => false,
        }
    }

    /// Whether it is in one of `roots`, or `roots` is empty. A URL with a `..` that only servers resolve is in none.
    #[must_use]
    pub fn is_within(&self, roots: &[Self]) -> bool {
        let climbs = matches!(self, Self::Http(url) if climbs(url.path()));
        roots.is_empty() || (!climbs && roots.iter().any(|root| self.starts_with(root)))
    }

    /// The deepest folder that both are in, if they are in one store.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        if self.authority() != other.authority() {
            return None;
        }
        let mut folder = self.clone();
        while !other.starts_with(&folder) {
            let above = folder.folder();
            if above == folder {
                return None;
            }
            folder = above;
        }
        Some(folder)
    }
}

/// What was expected instead of `text`, if it starts like a URI and is none: as a path, it would show what a URI hides.
fn without_slashes(text: &str) -> Option<&'static str> {
    let (scheme, rest) = text.split_once(':')?;
    match scheme.trim_start().to_ascii_lowercase().as_str() {
        "data" if rest.contains(',') => Some("a path or URI of a file, found a data: URI"),
        "http" | "https" if rest.starts_with('/') || rest.contains('@') => {
            Some("an http(s) URL with two slashes after its scheme")
        }
        "s3" | "gs" | "az" if rest.starts_with('/') => Some("SCHEME://BUCKET/KEY with two slashes after the scheme"),
        _ => None,
    }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn local(folder: &Path, text: &str) -> Result<Location, NotALocation> {
    paths::local(folder, text).map(Location::Local).map_err(|error| match error {
        NotLocal::Scheme(scheme) => NotALocation::Scheme(scheme),
        NotLocal::Invalid => NotALocation::Invalid("a path or file:// URI of this machine"),
    })
}

fn absolute(scheme: &str, rest: &str, text: &str) -> Result<Location, NotALocation> {
    if matches!(scheme, "http" | "https") {
        let url = Url::parse(text).ok().filter(Url::has_host);
        let mut url = url.ok_or(NotALocation::Invalid("an http(s) URL with a host"))?;
        url.set_fragment(None);
        return Ok(Location::Http(url));
    }
    let cloud = Cloud::ALL.into_iter().find(|cloud| cloud.scheme() == scheme);
    let cloud = cloud.ok_or_else(|| NotALocation::Scheme(scheme.to_owned()))?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.$".contains(c);
    if bucket.trim_matches('.').is_empty() || !bucket.chars().all(fits) {
        return Err(NotALocation::Invalid("SCHEME://BUCKET/KEY with the plain name of a bucket"));
    }
    Ok(Location::Object { cloud, bucket: bucket.to_owned(), key: key.to_owned() })
}

impl Location {
    /// As text from which [`Location::resolve`] makes it again; None where it has no such text, or one that looks as if it held a
    /// password, which is not written down.
    #[must_use]
    pub fn to_record(&self) -> Option<String> {
        let record = self.to_string();
        let is_read = Self::Local("/".into()).resolve(&record).ok().as_ref() == Some(self);
        (is_read && redact::text(&record) == record).then_some(record)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::Object { cloud, bucket, key } => write!(f, "{}://{bucket}/{key}", cloud.scheme()),
            Self::Http(url) => {
                // A name and password, or a signature in the query, are credentials.
                write!(f, "{}{}", url.origin().ascii_serialization(), url.path())?;
                if url.query().is_some() { f.write_str("?...") } else { Ok(()) }
            }
        }
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_relative_to_folders() {
        let seen = |folder: &str, text: &str| {
            let folder = Location::Local("/".into()).resolve(folder).unwrap();
            folder.resolve(text).map(|location| location.to_string())
        };
        let is = |text: &str| Ok(text.to_owned());
        assert_eq!(seen("/data/sets", "../a b.jpg"), is("/data/a b.jpg"));
        assert_eq!(seen("/data", "s3://bucket/a b#1.png"), is("s3://bucket/a b#1.png"));
        assert_eq!(seen("s3://bucket/sets", "photos/./../c%20d.jpg"), is("s3://bucket/sets/c%20d.jpg"));
        assert_eq!(seen("s3://bucket/sets/", "a//b.jpg"), is("s3://bucket/sets/a//b.jpg"));
        assert_eq!(seen("s3://bucket", "a/./b.jpg/"), is("s3://bucket/a/b.jpg/"));
        assert_eq!(seen("s3://bucket/sets", "/e.jpg"), is("/e.jpg"));
        assert_eq!(seen("https://host/sets/", "f g.jpg"), is("https://host/sets/f%20g.jpg"));
        assert_eq!(
            seen("/", "https://me:secret@host:8000/h.jpg?signature=secret#x"),
            is("https://host:8000/h.jpg?...")
        );
        assert_eq!(seen("/", "ftp://host/a"), Err(NotALocation::Scheme("ftp".to_owned())));
        for wrong in ["s3://", "s3://../bucket/a", "s3://me:secret@bucket/a", "file://elsewhere/a", " ", "http://"] {
            let error = seen("/", wrong).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn folders_and_the_locations_in_them() {
        let location = |text: &str| Location::Local("/".into()).resolve(text).unwrap();
        for (inside, root) in [
            ("/a/b", "/a"),
            ("s3://b/x/y", "s3://b/x"),
            ("s3://b/x", "s3://b"),
            ("http://h/a/b", "http://h/a"),
            ("s3://b/x//y", "s3://b/x//"),
        ] {
            assert!(location(inside).starts_with(&location(root)), "{inside}");
            let folder = location(inside).common(&location(root)).unwrap();
            assert!(location(inside).starts_with(&folder) && location(root).starts_with(&folder), "{inside}: {folder}");
        }
        for (outside, root) in [
            ("/ab", "/a"),
            ("s3://b/xy", "s3://b/x"),
            ("gs://b/x", "s3://b/x"),
            ("http://g/a", "http://h"),
            ("s3://b/x", "s3://b//"),
            ("s3://b/x/y", "s3://b/x//"),
        ] {
            assert!(!location(outside).starts_with(&location(root)), "{outside}");
        }
        assert_eq!(location("s3://b/x/1/a").common(&location("s3://b/x/2/a")), Some(location("s3://b/x")));
        assert_eq!(location("s3://b/x").folder().folder(), location("s3://b"));
    }

    #[test]
    fn spellings_that_do_not_leave_a_root() {
        let location = |text: &str| Location::Local("/".into()).resolve(text).unwrap();
        let within = |text: &str, root: &str| location(text).is_within(&[location(root)]);
        for (inside, root) in [
            ("http://H:80/a/b", "http://h/a"),
            ("https://h:443/a/b", "https://h/a/"),
            ("http://[0:0::1]/a", "http://[::1]/"),
            ("http://127.1/a", "http://127.0.0.1/"),
            ("http://me:secret@h/a", "http://h"),
            ("http://h/a/../b/..%20", "http://h/b"),
            ("http://h/b/...;x/a..b", "http://h/b"),
            ("http://h/b/%C0%C1%u/100%/%u00/%c3%80.png", "http://h/b"),
            ("s3://b/x/..%2fy", "s3://b/x"),
            ("file:///a/%2e/b", "/a"),
        ] {
            assert!(within(inside, root), "{inside}");
        }
        for (outside, root) in [
            ("http://h:81/a", "http://h/a"),
            ("https://h/a", "http://h/a"),
            ("http://h./a", "http://h/a"),
            ("http://h@g/a", "http://h/a"),
            ("http://h/a/%2E%2e/b", "http://h/a"),
            ("http://h/a/..%2Fb", "http://h/a"),
            ("http://h/a/%2e.%5cb", "http://h/a"),
            ("http://h/a/..%3b/b", "http://h/a"),
            ("http://h/a/%25%32%65%252e%252fb", "http://h/a"),
            ("http://h/a/%252e%252e", "http://h/a"),
            ("http://h/a/..%00/b", "http://h/a"),
            ("http://h/a/..%3f/b", "http://h/a"),
            ("http://h/a/%c0%ae%c0%ae%c0%afb", "http://h/a"),
            ("http://h/a/%E0%80%AE./b", "http://h/a"),
            ("http://h/a/%u002e%u002e/b", "http://h/a"),
            ("http://h/a/%uff0e./b", "http://h/a"),
            ("http://h/a/%25u002e./b", "http://h/a"),
            ("http://h/a/\u{ff0e}\u{ff0e}\u{ff0f}b", "http://h/a"),
            ("http://h/a/..%c1%9cb", "http://h/a"),
            ("s3://B/x/y", "s3://b/x"),
            ("file:///a/%2e%2e/b", "/a"),
        ] {
            assert!(!within(outside, root), "{outside}");
        }
        assert!(location("http://h/a/..%2Fb").is_within(&[]));
    }
}
