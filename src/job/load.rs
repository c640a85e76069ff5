//! Reads a job file. In: TOML text. Out: a [`Job`]. Keys are checked first (so that an unknown key is named with its line), then types,
//! then ranges.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::file::{
    BatchSize, EmbeddingFile, InputFile, JobFile, LimitsFile, ModelFile, OneOrMany, OutputFile, RuntimeFile,
};
use super::{Embedding, FailureLimits, Input, Job, JobFileError, Limits, Model, Output, Runtime, VectorType, keys};
use crate::onnx::Device;
use crate::storage::{DEFAULT_RETRIES, DEFAULT_TIMEOUT, Location, NotALocation, PrivateHosts};
use crate::support::regular_file;

/// The most bytes of a job file.
const MOST_BYTES: u64 = 4 << 20;
/// Each has its copy of the models and its threads.
const MOST_DEVICES: usize = 64;

impl Job {
    /// Reads the job file at `path` and applies `overrides`, each `section.key=value` with a TOML value or a bare string.
    ///
    /// Relative paths in the job file, overrides included, are relative to the job file's folder.
    ///
    /// # Errors
    /// Any [`JobFileError`]: unreadable, not TOML, unknown or unsupported keys, missing keys, values out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, JobFileError> {
        let unreadable = |source| JobFileError::Unreadable { path: path.to_owned(), source };
        let text = regular_file::read_text(path, MOST_BYTES).map_err(unreadable)?;
        // The folder's links are resolved, the file's are not: a mounted job file is often a link into a hidden folder.
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        let folder = std::fs::canonicalize(absolute.parent().unwrap_or(Path::new("/"))).map_err(unreadable)?;
        Self::parse(&text, &path.display().to_string(), &folder, overrides)
    }

    /// Like [`Job::load`] for text in memory; `name` is its name in messages.
    ///
    /// # Errors
    /// As [`Job::load`].
    pub fn parse(text: &str, name: &str, folder: &Path, overrides: &[String]) -> Result<Self, JobFileError> {
        let syntax = |error: &toml::de::Error| not_toml(text, name, error);
        check_keys(text, name).map_err(|error| error.unwrap_or_else(|error| syntax(&error)))?;
        let mut table: toml::Table = toml::from_str(text).map_err(|error| syntax(&error))?;
        for assignment in overrides {
            apply(&mut table, assignment)
                .map_err(|error| JobFileError::At { origin: argument(assignment), error: Box::new(error) })?;
        }
        let file: JobFile = table.try_into().map_err(|error: toml::de::Error| {
            let message = error.to_string();
            let is_at_fault =
                |assignment: &&String| key_of(assignment).is_some_and(|key| message.contains(&format!("in `{key}`")));
            let origin = overrides.iter().rfind(is_at_fault).map_or_else(|| name.to_owned(), |set| argument(set));
            JobFileError::Syntax { origin, message: without_secret(&in_plain_words(message.trim_end())) }
        })?;
        file.validate(folder).map_err(|error| JobFileError::At { origin: name.to_owned(), error: Box::new(error) })
    }
}

/// A file that is not TOML. The TOML library would show the line, which may hold a secret.
fn not_toml(text: &str, name: &str, error: &toml::de::Error) -> JobFileError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    JobFileError::Syntax { origin: format!("{name}:{line}:{column}"), message: error.message().trim_end().to_owned() }
}

/// The key that a `--set` argument sets.
fn key_of(assignment: &str) -> Option<&str> {
    assignment.split_once('=').map(|(key, _)| key.trim())
}

/// A `--set` argument in messages: its key. The value may be a secret, also under a key that does not exist.
fn argument(assignment: &str) -> String {
    key_of(assignment).map_or_else(|| "--set".to_owned(), |key| format!("--set `{key}`"))
}

/// serde's message about a value of `[storage]` without the value, which may be a secret in the wrong place.
fn without_secret(message: &str) -> String {
    let found = message.contains("in `storage").then(|| message.split_once("string \"")).flatten();
    let rest = found.and_then(|(_, value)| value.rfind(", expected").map(|end| &value[end..]));
    match (found, rest) {
        (Some((before, _)), Some(rest)) => format!("{before}a string{rest}"),
        _ => message.to_owned(),
    }
}

/// serde's message about a value, with the kinds of numbers as a user knows them.
fn in_plain_words(message: &str) -> String {
    let types =
        [("u64", "a whole number"), ("u32", "a whole number"), ("usize", "a whole number"), ("f64", "a number")];
    types.iter().fold(message.to_owned(), |message, (name, words)| {
        message.replace(&format!("expected {name}"), &format!("expected {words}"))
    })
}

/// Checks every key of the file; the inner `Err` is a syntax error, the inner `Ok` the finding with its line.
fn check_keys(text: &str, name: &str) -> Result<(), Result<JobFileError, toml::de::Error>> {
    let document = DeTable::parse(text).map_err(Err)?;
    let at = |offset: usize, error| {
        let line = text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
        Ok(JobFileError::At { origin: format!("{name}:{line}"), error: Box::new(error) })
    };
    for (section, value) in document.get_ref() {
        keys::check(section.get_ref(), None).map_err(|error| at(section.span().start, error))?;
        let DeValue::Table(table) = value.get_ref() else {
            let section = section.get_ref();
            let expected = format!("a table, as in [{section}]");
            return Err(at(value.span().start, JobFileError::value(section, expected, value.get_ref().type_str())));
        };
        for key in table.keys() {
            keys::check(section.get_ref(), Some(key.get_ref())).map_err(|error| at(key.span().start, error))?;
        }
    }
    Ok(())
}

/// Sets one `section.key=value` in the parsed file.
fn apply(table: &mut toml::Table, assignment: &str) -> Result<(), JobFileError> {
    let shape = |found: &str| JobFileError::Value {
        key: "--set".to_owned(),
        expected: "section.key=value, as in runtime.batch_size=8".to_owned(),
        found: found.to_owned(),
    };
    let (path, value) = assignment.split_once('=').ok_or_else(|| shape("no `=`"))?;
    let (section, key) = path.trim().split_once('.').ok_or_else(|| shape("no section"))?;
    keys::check(section, Some(key))?;
    let value = value.trim();
    // Text that is not a TOML value (an unquoted path, say) is a string.
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    let parsed = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    section.as_table_mut().ok_or_else(|| shape("a section that is no table"))?.insert(key.to_owned(), parsed);
    Ok(())
}

impl JobFile {
    fn validate(self, folder: &Path) -> Result<Job, JobFileError> {
        let text_only = self.input.image.is_none();
        Ok(Job {
            input: self.input.validate(folder)?,
            model: self.model.validate(folder)?,
            generation: self.generation.validate(text_only)?,
            embedding: self.embedding.validate(folder)?,
            output: self.output.validate(folder)?,
            runtime: self.runtime.validate()?,
            limits: self.limits.validate(folder)?,
            storage: self.storage,
        })
    }
}

impl Limits {
    /// Those of a job file that says nothing of them but `limits.roots`.
    ///
    /// # Errors
    /// None of today's defaults is refused.
    pub fn within(roots: Vec<Location>) -> Result<Self, JobFileError> {
        Ok(Self { roots, ..LimitsFile::default().validate(Path::new("/"))? })
    }
}

impl InputFile {
    fn validate(self, folder: &Path) -> Result<Input, JobFileError> {
        let manifest = match self.manifest {
            Some(OneOrMany::One(one)) => vec![one],
            Some(OneOrMany::Many(many)) if !many.is_empty() => many,
            _ => {
                let what = "the Parquet file, glob or list of files that names the images";
                return Err(JobFileError::Missing { key: "input.manifest", what });
            }
        };
        let manifest = manifest
            .iter()
            .map(|text| Location::pattern(folder, text).map_err(|error| unclear("input.manifest", &error)));
        let manifest = manifest.collect::<Result<_, _>>()?;
        let key = self.key.ok_or(JobFileError::Missing { key: "input.key", what: "the column that names a row" })?;
        if self.image.is_none() && self.text.is_none() {
            let what = "the column with the images (or `input.text` alone, for a job that embeds texts)";
            return Err(JobFileError::Missing { key: "input.image", what });
        }
        let signature = self.signature.map(Vec::from).unwrap_or_default();
        let Self { image, text, predicate, on_duplicate_key, jpeg_scaling, .. } = self;
        Ok(Input { manifest, key, image, text, predicate, signature, on_duplicate_key, jpeg_scaling })
    }
}

impl ModelFile {
    fn validate(self, folder: &Path) -> Result<Model, JobFileError> {
        let what = "the model directory\nhint: write path = \"DIR\" below [model]; `nightcap model inspect DIR` says what a directory can do";
        let path = self.path.ok_or(JobFileError::Missing { key: "model.path", what })?;
        Ok(Model { path: location("model.path", &path, folder)?, precision: self.precision })
    }
}

impl EmbeddingFile {
    fn validate(self, folder: &Path) -> Result<Embedding, JobFileError> {
        Ok(Embedding {
            image: self.image,
            text: self.text,
            fused: self.fused,
            caption_similarity: self.caption_similarity,
            dtype: self.dtype.unwrap_or(VectorType::F32),
            model: self.model.map(|path| location("embedding.model", &path, folder)).transpose()?,
        })
    }
}

impl OutputFile {
    fn validate(self, folder: &Path) -> Result<Output, JobFileError> {
        let path = self.path.ok_or(JobFileError::Missing { key: "output.path", what: "the folder for the results" })?;
        let part_rows = self.part_rows.unwrap_or(1000);
        if !(1..=1_000_000).contains(&part_rows) {
            return Err(JobFileError::value("output.part_rows", "1 to 1000000", part_rows));
        }
        let (columns, reuse_by_content) = (self.columns, self.reuse_by_content);
        Ok(Output { path: location("output.path", &path, folder)?, columns, part_rows, reuse_by_content })
    }
}

impl RuntimeFile {
    fn validate(self) -> Result<Runtime, JobFileError> {
        let named = self.devices.unwrap_or_else(|| vec!["cpu".to_owned()]);
        let device = |name: &String| {
            name.parse::<Device>()
                .map_err(|()| JobFileError::value("runtime.devices", Device::EXPECTED, format!("{name:?}")))
        };
        let devices = named.iter().map(device).collect::<Result<Vec<_>, _>>()?;
        if devices.is_empty() || devices.len() > MOST_DEVICES {
            return Err(JobFileError::value("runtime.devices", "1 to 64 devices", devices.len()));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let batch_size = match self.batch_size {
            None => None,
            Some(BatchSize::Rows(rows)) => Some(in_range("runtime.batch_size", rows, 1, 4096)?),
            Some(BatchSize::Named(name)) if name == "auto" => None,
            Some(BatchSize::Named(name)) => {
                return Err(JobFileError::value("runtime.batch_size", "1 to 4096, or \"auto\"", format!("{name:?}")));
            }
        };
        let threads = in_range("runtime.threads", self.threads.unwrap_or(cores), 1, 1024)?;
        let prefetch_bytes =
            in_range("runtime.prefetch_bytes", self.prefetch_bytes.unwrap_or(256 << 20), 1 << 20, 1 << 40)?;
        let repeatable = self.repeatable.unwrap_or(true);
        let device_memory_bytes = self.device_memory_bytes;
        let device_memory_bytes =
            device_memory_bytes.map(|bytes| in_range("runtime.device_memory_bytes", bytes, 1, 1 << 40)).transpose()?;
        Ok(Runtime { devices, batch_size, device_memory_bytes, prefetch_bytes, repeatable, threads })
    }
}

impl LimitsFile {
    fn validate(self, folder: &Path) -> Result<Limits, JobFileError> {
        let max_failed_fraction = self.max_failed_fraction.unwrap_or(0.05);
        if !(0.0..=1.0).contains(&max_failed_fraction) {
            return Err(JobFileError::value("limits.max_failed_fraction", "0.0 to 1.0", max_failed_fraction));
        }
        let roots = self.roots.unwrap_or_default().into_iter().map(|root| location("limits.roots", &root, folder));
        let roots = roots.collect::<Result<Vec<Location>, _>>()?;
        let retries = self.retries.unwrap_or(DEFAULT_RETRIES) as usize;
        let default_timeout_ms = u64::try_from(DEFAULT_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let at_least_1 = |key: &str, found: Option<u64>, default: u64| match found {
            Some(0) => Err(JobFileError::value(key, "at least 1", 0)),
            found => Ok(found.unwrap_or(default)),
        };
        Ok(Limits {
            failures: FailureLimits { max_failed_fraction, min_failed_rows: self.min_failed_rows.unwrap_or(10) },
            max_image_bytes: at_least_1("limits.max_image_bytes", self.max_image_bytes, 100 << 20)?,
            max_image_pixels: at_least_1("limits.max_image_pixels", self.max_image_pixels, 100_000_000)?,
            fetch_timeout_ms: at_least_1("limits.fetch_timeout_ms", self.fetch_timeout_ms, default_timeout_ms)?,
            retries: u32::try_from(in_range("limits.retries", retries, 0, 100)?).unwrap_or(DEFAULT_RETRIES),
            requests_per_host: in_range("limits.requests_per_host", self.requests_per_host.unwrap_or(8), 1, 1000)?,
            outage_after: self.outage_after.unwrap_or(20),
            allow_private_hosts: private_hosts(self.allow_private_hosts)?.with_addresses_of(&roots),
            roots,
        })
    }
}

/// The text of an entry that is wrong is not shown: a URI may hold a credential.
fn private_hosts(texts: Option<OneOrMany>) -> Result<PrivateHosts, JobFileError> {
    let mut hosts = PrivateHosts::default();
    for (index, text) in texts.map(Vec::from).unwrap_or_default().iter().enumerate() {
        if !hosts.add(text) {
            let found = format!("something else in entry {}", index + 1);
            return Err(JobFileError::value("limits.allow_private_hosts", PrivateHosts::EXPECTED, found));
        }
    }
    Ok(hosts)
}

fn in_range(key: &str, found: usize, least: usize, most: usize) -> Result<usize, JobFileError> {
    if (least..=most).contains(&found) {
        Ok(found)
    } else {
        Err(JobFileError::value(key, format!("{least} to {most}"), found))
    }
}

/// The location `text`. The error does not show the text, since a URI may hold a credential.
fn location(key: &str, text: &str, folder: &Path) -> Result<Location, JobFileError> {
    Location::Local(folder.to_owned()).resolve(text).map_err(|error| unclear(key, &error))
}

fn unclear(key: &str, error: &NotALocation) -> JobFileError {
    JobFileError::Unclear { key: key.to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_hosts_are_named() {
        let job = |hosts: &str| {
            let text = format!(
                "[input]\nmanifest = \"m\"\nkey = \"id\"\nimage = \"i\"\n[model]\npath = \"m\"\n[output]\npath = \"o\"\n\
                 [limits]\nroots = [\"http://127.0.0.1/a\", \"photos\"]\nallow_private_hosts = {hosts}\n"
            );
            Job::parse(&text, "job.toml", Path::new("/"), &[]).map(|job| job.limits.allow_private_hosts)
        };
        assert_eq!(job("[\"127.0.0.1\"]").unwrap().with_addresses_of(&[]), {
            let mut twice = PrivateHosts::default();
            assert!(twice.add("127.0.0.1") && twice.add("127.0.0.1"));
            twice
        });
        assert_ne!(job("\"images.example\"").unwrap(), job("[]").unwrap());
        let error = job("[\"10.0.0.1\", \"http://me:secret@host\"]").unwrap_err().to_string();
        assert_eq!(
            error,
            "job.toml: `limits.allow_private_hosts`: expected the name of a host, an IP address, or a network such as \
             10.1.0.0/16, found something else in entry 2"
        );
    }

    #[test]
    fn a_section_that_is_no_table() {
        let error = |text: &str| Job::parse(text, "job.toml", Path::new("/"), &[]).unwrap_err().to_string();
        let expected = "`input`: expected a table, as in [input], found";
        assert_eq!(error("\ninput = 3"), format!("job.toml:2: {expected} integer"));
        // serde also reads structs from lists, without keys that could be checked.
        assert_eq!(error("input = [\"m\", \"id\", \"image\"]"), format!("job.toml:1: {expected} array"));
        assert_eq!(error("[[input]]\nkey = \"id\""), format!("job.toml:1: {expected} array"));
    }
}
