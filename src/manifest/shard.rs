//! Tar archives of samples, as webdataset and img2dataset write them. In: an archive. Out: a row for each sample, whose image is named by its
//! place in the archive. Never here: the bytes of images, which stay where they are.
//!
//! Members are grouped as by webdataset: those of one folder whose names are equal up to the first dot, next to each other. Other than
//! there, two samples of one key in an archive are refused, since they are the halves of one.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde_json::{Map, Value};
use tar::{Archive, Entry, EntryType};

use super::folder::LeftOut;
use super::rows::lenient_json;
use super::source::{Source, SourceRead};
use crate::preprocess::has_image_extension;
use crate::row::signature::KeyHash;
use crate::storage::byte_range;

/// The most bytes of the texts of one sample.
const MOST_TEXT: u64 = 16 << 20;
/// Fields that `img2dataset` writes and that are columns of OUTPUT.
const OF_OUTPUT: [&str; 3] = ["caption", "status", "error_message"];
/// How compressed files begin.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];
const NAMES: [&str; 7] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4"];

/// How an archive is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    /// Its path or URI, of which images are named as parts.
    pub(super) uri: &'a str,
    /// Its name without folders and extension.
    pub(super) stem: &'a str,
}

/// A sample: the columns of its row.
pub(super) type Sample = Map<String, Value>;

/// Whether a file of this name is an archive, a compressed one included, which is refused when it is read.
pub(super) fn is_shard(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|end| name.ends_with(end))
}

/// The name of an archive without its extension.
pub(super) fn stem(name: &str) -> &str {
    name.len().checked_sub(4).filter(|_| is_shard(name)).and_then(|at| name.get(..at)).unwrap_or(name)
}

/// Shows `see` the samples of the archive `source`, in its order.
///
/// # Errors
/// What was expected and found, with the member.
pub(super) fn each_sample(
    source: &Source,
    name: Name<'_>,
    left_out: &mut LeftOut,
    see: &mut dyn FnMut(Sample) -> Result<(), String>,
) -> Result<(), String> {
    let length = source.len();
    check_start(source, length)?;
    let mut archive = Archive::new(Reading { source, at: 0, open: None });
    let (mut current, mut seen): (Option<Open>, HashSet<u128>) = (None, HashSet::new());
    for entry in archive.entries_with_seek().map_err(|error| damaged(&error))? {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        let Member { path, key, extension } = match Member::of(&mut entry, length)? {
            Ok(member) => member,
            Err(what) => {
                left_out.add(what);
                continue;
            }
        };
        if current.as_ref().is_none_or(|open| open.key != key) {
            current.take().map_or(Ok(()), |open| see(open.close(name)))?;
            if !seen.insert(KeyHash::new(&key).0) {
                return Err(format!(
                    "expected the members of a sample next to each other, found {path} apart from others of its key\nhint: GNU tar writes them in order with --sort=name"
                ));
            }
            current = Some(Open::new(key));
        }
        let Some(open) = &mut current else { continue };
        open.add(&mut entry, &path, extension, name, left_out)?;
    }
    current.map_or(Ok(()), |open| see(open.close(name)))
}

fn check_start(source: &Source, length: u64) -> Result<(), String> {
    let start = source.get_bytes(0, length.min(8) as usize).map_err(|error| error.to_string())?;
    if start.is_empty() {
        return Err("expected a tar archive, found an empty file".to_owned());
    }
    match COMPRESSED.iter().find(|(mark, _)| start.starts_with(mark)) {
        Some((_, kind)) => Err(format!(
            "expected a tar archive, found one compressed by {kind}, whose images cannot be read in place\nhint: decompress it; images are compressed already"
        )),
        None => Ok(()),
    }
}

fn damaged(error: &io::Error) -> String {
    // Of storage, not of the archive.
    if let Some(inner) = error.get_ref()
        && inner.is::<ParquetError>()
    {
        return error.to_string();
    }
    format!("expected a whole tar archive: {error}")
}

/// A file in an archive that belongs to a sample.
struct Member {
    path: String,
    key: String,
    /// What follows the first dot of its name, in lower case.
    extension: String,
}

impl Member {
    /// Or what it is instead.
    fn of(entry: &mut Entry<'_, impl Read>, length: u64) -> Result<Result<Self, &'static str>, String> {
        let path = entry.path_bytes().into_owned();
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let (kind, size) = (entry.header().entry_type(), entry.size());
        let mut is_sparse = kind == EntryType::GNUSparse;
        if let Some(extensions) = entry.pax_extensions().map_err(|error| damaged(&error))? {
            is_sparse |= extensions.flatten().any(|extension| extension.key_bytes().starts_with(b"GNU.sparse."));
        }
        if is_sparse {
            return Err(format!(
                "expected files without holes, found the sparse member {}\nhint: write the archive without --sparse",
                shown()
            ));
        }
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return Ok(Err(match kind {
                EntryType::Symlink | EntryType::Link => "links",
                EntryType::Directory => "folders",
                _ => "members that are no files",
            }));
        }
        let at = entry.raw_file_position();
        if at.checked_add(size).is_none_or(|end| end > length) {
            return Err(format!(
                "expected {size} bytes of {} at byte {at}, found the end of the archive at byte {length}\nhint: it was cut off; fetch or write it again",
                shown()
            ));
        }
        let Ok(path) = String::from_utf8(path) else { return Ok(Err("names that are not UTF-8")) };
        let first = path.split('/').next().unwrap_or_default();
        if first.len() >= 4 && first.starts_with("__") && first.ends_with("__") {
            return Ok(Err("members of metadata"));
        }
        let start = path.rfind('/').map_or(0, |at| at + 1);
        match path[start..].find('.') {
            Some(0) => Ok(Err("hidden files")),
            None => Ok(Err("without an extension")),
            Some(dot) => {
                let (key, extension) = path.split_at(start + dot);
                let (key, extension) = (key.to_owned(), extension[1..].to_lowercase());
                Ok(Ok(Self { path, key, extension }))
            }
        }
    }
}

/// A sample whose members are being read.
struct Open {
    key: String,
    extensions: Vec<String>,
    /// Bytes of its texts.
    text: u64,
    /// The fields of its JSON, which come out as `json_NAME` where another member has a column of that name.
    fields: Sample,
    /// What its other members say.
    own: Sample,
}

impl Open {
    fn new(key: String) -> Self {
        Self { key, extensions: Vec::new(), text: 0, fields: Sample::new(), own: Sample::new() }
    }

    fn add(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &str,
        extension: String,
        archive: Name<'_>,
        left_out: &mut LeftOut,
    ) -> Result<(), String> {
        if self.extensions.contains(&extension) {
            return Err(format!(
                "expected one member .{extension} of the sample {}, found two, the second of them {path}",
                self.key
            ));
        }
        let is_plain = !extension.contains('.');
        if has_image_extension(Path::new(path)) {
            let column = if is_plain { "image" } else { &extension };
            if self.own.contains_key(column) {
                left_out.add("further images of a sample");
            } else {
                let (at, size) = (entry.raw_file_position(), entry.size());
                let image = (size > 0).then(|| byte_range::join(archive.uri, &(at..at + size)));
                self.own.insert(column.to_owned(), image.into());
            }
        } else {
            match extension.as_str() {
                "txt" | "text" => {
                    let text = self.text(entry, path)?;
                    self.own.insert("text".to_owned(), text.into());
                }
                "cls" => {
                    let text = self.text(entry, path)?;
                    let text = text.trim();
                    let value = text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
                    self.own.insert(extension.clone(), value);
                }
                "json" => match lenient_json(self.text(entry, path)?.as_bytes()) {
                    Ok(Value::Object(fields)) => self.fields = fields,
                    Ok(other) => drop(self.own.insert(extension.clone(), other)),
                    Err(why) => return Err(format!("{path}: expected JSON: {why}")),
                },
                other => left_out.add_extension(other),
            }
        }
        self.extensions.push(extension);
        Ok(())
    }

    fn text(&mut self, entry: &mut Entry<'_, impl Read>, path: &str) -> Result<String, String> {
        self.text = self.text.saturating_add(entry.size());
        if self.text > MOST_TEXT {
            return Err(format!("{path}: expected at most {MOST_TEXT} bytes of text in a sample, found more"));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| format!("{path}: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{path}: expected UTF-8, found another encoding"))
    }

    fn close(self, archive: Name<'_>) -> Sample {
        let Self { key, fields, mut own, .. } = self;
        own.insert("shard_key".to_owned(), format!("{}/{key}", archive.stem).into());
        own.insert("key".to_owned(), key.into());
        own.entry("image").or_insert(Value::Null);
        let text = own.entry("text").or_insert_with(|| fields.get("text").cloned().unwrap_or_default()).clone();
        for (name, value) in fields {
            if !own.contains_key(&name) && !OF_OUTPUT.contains(&name.as_str()) {
                own.insert(name, value);
            } else if own.get(&name) != Some(&value) && !(name == "caption" && value == text) {
                own.insert(format!("json_{name}"), value);
            }
        }
        own
    }
}

/// Reads a source at any place.
struct Reading<'a> {
    source: &'a Source,
    at: u64,
    /// What reads on at `at`.
    open: Option<SourceRead>,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(self.source.get_read(self.at).map_err(io::Error::other)?),
        };
        let length = open.read(buffer)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reading<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
        };
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if at != self.at {
            (self.at, self.open) = (at, None);
        }
        Ok(at)
    }
}
