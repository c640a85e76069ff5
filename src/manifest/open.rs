//! Opens what a location names: a Parquet file as it is, a file of text or a folder of images as the Parquet file that it stands for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef, TimeUnit};
use parquet::file::reader::{ChunkReader, Length};

use super::arrow_file::{convert as convert_arrow, is_arrow};
use super::error::ManifestError;
use super::file::{FileSnapshot, ManifestFile};
use super::folder::FolderListing;
use super::int96;
use super::listing::{Found, expand};
use super::rows::{Format, convert};
use super::shards::{Indexed, index};
use super::source::{FileVersion, Source, stat};
use super::table::{Table, schema_of};
use super::write::encode;
use crate::preprocess::has_image_extension;
use crate::storage::{Location, Storage};
use crate::support::redact;

/// Opens every file that `patterns` name: at least one.
pub(super) fn open_files(
    patterns: &[Location],
    storage: &Arc<Storage>,
) -> Result<(Vec<ManifestFile>, Table), ManifestError> {
    let files = expand(patterns, storage)?.into_iter();
    let open = |found| match found {
        Found::Images(folder) => open_folder(folder, storage),
        Found::Shards(shards) => open_shards(&shards, storage),
        Found::File(file) => match Format::of(&file) {
            Some(format) => open_rows(file, format, storage),
            None if is_arrow(&file) => open_arrow(file, storage),
            None => open_file(file, storage),
        },
    };
    let mut files = files.map(open).collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() {
        return Err(ManifestError::NotFound { pattern: "an empty list".to_owned() });
    }
    let opened: Vec<_> = files.iter().map(|file| (&file.location, &file.metadata)).collect();
    let (table, columns) = Table::of(&opened);
    files.iter_mut().zip(columns).for_each(|(file, columns)| file.columns = columns);
    Ok((files, table))
}

/// Has the `INT96` columns among `columns` read in a unit of time that holds every value of them; the schema, with these types.
pub(super) fn read_int96_exactly(
    files: &mut [ManifestFile],
    schema: &SchemaRef,
    columns: &BTreeSet<usize>,
) -> Result<SchemaRef, ManifestError> {
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    for &column in columns {
        let of_file = |file: &ManifestFile| {
            file.columns.root(column).filter(|root| int96::is_in(file.metadata.metadata(), *root))
        };
        let (mut needs, mut is_nested) = (int96::Needs::default(), false);
        let mut example = None;
        for file in files.iter() {
            let Some(root) = of_file(file) else { continue };
            let pages = Arc::new(file.reopen(Vec::new())?);
            let found =
                int96::look(&pages, file.metadata.metadata(), root).map_err(|source| file.unreadable(source))?;
            needs = needs.and(found);
            is_nested |= file.metadata.schema().field(root).data_type().is_nested();
            example = example.or_else(|| (needs.years).then(|| file.location.to_string()));
        }
        if needs.unreachable || needs.years && (needs.nanoseconds || is_nested) {
            return Err(ManifestError::Years {
                column: fields[column].name().clone(),
                path: example.unwrap_or_default(),
            });
        }
        if !needs.nanoseconds {
            continue;
        }
        for file in files.iter_mut() {
            let Some(wanted) = of_file(file) else { continue };
            file.read_int96(|root| if root == wanted { Some(TimeUnit::Nanosecond) } else { None })?;
            fields[column] =
                fields[column].clone().with_data_type(file.metadata.schema().field(wanted).data_type().clone());
        }
    }
    Ok(schema_of(fields))
}

fn open_file(location: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let snapshot = FileSnapshot::unread(&location, version.bytes, version.mark.clone());
    ManifestFile::new(location, snapshot, source, version)
}

/// Opens a file of text as the Parquet file that it is converted into.
fn open_rows(location: Location, format: Format, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let refuse = |why: String| ManifestError::Rows { path: location.to_string(), why };
    let converted = temporary().map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    let whole = Range { start: 0, end: source.len() };
    let open = || {
        let again = source.reopen(&location, &version, vec![whole.clone()]).map_err(|error| error.to_string())?;
        again.get_read(0).map_err(|error| error.to_string())
    };
    let again = converted.try_clone().map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    convert(format, open, again).map_err(refuse)?;
    // Not another version: what was read may be of both.
    source.reopen(&location, &version, Vec::new())?;
    let snapshot = FileSnapshot::unread(&location, version.bytes, version.mark);
    of_temporary(location, snapshot, converted)
}

/// Opens an Arrow file as the Parquet file that it is converted into; images stay in the Arrow file.
fn open_arrow(location: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let (source, version) = Source::open(&location, storage)?;
    let path = || location.to_string();
    let to = temporary().map_err(|source| ManifestError::Io { path: path(), source })?;
    let again = to.try_clone().map_err(|source| ManifestError::Io { path: path(), source })?;
    convert_arrow(&source, &uri(&location), again).map_err(|why| ManifestError::Rows { path: path(), why })?;
    source.reopen(&location, &version, Vec::new())?;
    let snapshot = FileSnapshot::unread(&location, version.bytes, version.mark);
    of_temporary(location, snapshot, to)
}

/// A location as a row names it.
fn uri(location: &Location) -> String {
    match location {
        Location::Http(url) => url.to_string(),
        location => location.to_string(),
    }
}

/// Opens archives of samples as the Parquet file that `nightcap manifest` would write, with whole paths.
fn open_shards(shards: &[Location], storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let converted = temporary().map_err(|source| ManifestError::Io { path: shards[0].to_string(), source })?;
    let Indexed { versions, left_out } = index(shards, storage, uri, &converted)?;
    for what in left_out.missed() {
        tracing::warn!("left out: {what}");
    }
    for what in left_out.expected() {
        tracing::info!("left out: {what}");
    }
    let mut hasher = blake3::Hasher::new();
    for (shard, version) in shards.iter().zip(&versions) {
        for part in [&redact::uri(&shard.to_string()), version.bytes.to_string().as_str(), version.mark.as_str()] {
            hasher.update(part.as_bytes()).update(b"\n");
        }
    }
    let [location] = shards else {
        let folder = shards.iter().try_fold(shards[0].folder(), |folder, shard| folder.common(&shard.folder()));
        // Folders `name=value` above all of them are columns, as they are above one file.
        let location = folder.and_then(|folder| folder.resolve("*.tar").ok()).unwrap_or_else(|| shards[0].clone());
        return of_shards(location, &versions, &hasher, converted);
    };
    of_shards(location.clone(), &versions, &hasher, converted)
}

fn of_shards(
    location: Location,
    versions: &[FileVersion],
    hasher: &blake3::Hasher,
    converted: std::fs::File,
) -> Result<ManifestFile, ManifestError> {
    let snapshot = FileSnapshot::unread(
        &location,
        versions.iter().map(|version| version.bytes).sum(),
        hasher.finalize().to_hex()[..32].to_owned(),
    );
    of_temporary(location, snapshot, converted)
}

/// Opens a folder of images as the Parquet file that `nightcap manifest` would write, with whole paths.
fn open_folder(folder: Location, storage: &Arc<Storage>) -> Result<ManifestFile, ManifestError> {
    let path = folder.to_string();
    let listed = match folder.local() {
        Some(path) => FolderListing::local(path, has_image_extension, false, &|| false).map(Option::unwrap_or_default),
        None => FolderListing::remote(&folder, storage, has_image_extension),
    };
    let listed = listed.map_err(|source| ManifestError::Folder { source })?;
    for what in listed.left_out.missed() {
        tracing::warn!("left out: {what}");
    }
    let below = |image: &str| format!("{}/{image}", path.trim_end_matches('/'));
    let bytes =
        encode(&listed.images, below).map_err(|source| ManifestError::Parquet { path: path.clone(), source })?;
    let snapshot = FileSnapshot::unread(&folder, bytes.len() as u64, blake3::hash(&bytes).to_hex()[..32].to_owned());
    let io = |source| ManifestError::Io { path: path.clone(), source };
    let mut file = temporary().map_err(io)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
    of_temporary(folder, snapshot, file)
}

/// A file without a name, which is gone when it is closed.
fn temporary() -> std::io::Result<std::fs::File> {
    tempfile::tempfile()
}

fn of_temporary(
    location: Location,
    snapshot: FileSnapshot,
    file: std::fs::File,
) -> Result<ManifestFile, ManifestError> {
    let version = stat(&file).map_err(|source| ManifestError::Io { path: location.to_string(), source })?;
    ManifestFile::new(location, snapshot, Source::Local(file), version)
}
