//! Entry points of fuzzing: every kind of file and text that comes from outside, given to the code that reads it.
//!
//! In: bytes. Out: an [`Outcome`], or a panic: of the code under test, or of an assertion here that a bound was not kept. `driver` runs
//! the entry points in `cargo test` and `make fuzz`; `fuzz/` gives the same ones to libFuzzer. `mutate` makes inputs of other inputs.
//!
//! `images`, `models`, `tables`, `texts` and `outputs` hold the entry points. Each calls the code that commands call, on files where
//! that code reads files, and checks what is promised beyond "no panic": errors are short, memory is bounded, results fit together.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::missing_docs_in_private_items,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panicking, and writes the files that are read"
)]

#[cfg(test)]
mod driver;
mod images;
mod models;
pub mod mutate;
mod outputs;
mod tables;
mod texts;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use self::mutate::Syntax;
use crate::support::redact;

/// Memory that reading a small file may take, if the file's own numbers do not allow more.
const MEMORY: u64 = 256 << 20;

/// An entry point.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folders in `tests/fuzz/corpus` and `tests/fuzz/crashes`.
    pub name: &'static str,
    /// What its inputs look like.
    pub syntax: Syntax,
    /// Pieces of text that inputs are made of.
    pub tokens: &'static [&'static str],
    run: fn(&[u8]) -> Outcome,
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was said about the input, without its numbers. An input with an outcome that was not seen before is worth keeping.
    pub signature: String,
    /// The most bytes of memory that it may have taken.
    pub memory: u64,
}

/// Every entry point.
pub const TARGETS: [Target; 28] = [
    Target { name: "jpeg", syntax: Syntax::Bytes, tokens: images::JPEG, run: images::decode },
    Target { name: "png", syntax: Syntax::Png, tokens: images::PNG, run: images::decode },
    Target { name: "gif", syntax: Syntax::Bytes, tokens: &[], run: images::decode },
    Target { name: "webp", syntax: Syntax::Riff, tokens: images::WEBP, run: images::decode },
    Target { name: "bmp", syntax: Syntax::Bytes, tokens: &[], run: images::decode },
    Target { name: "tiff", syntax: Syntax::Bytes, tokens: &[], run: images::decode },
    Target { name: "avif", syntax: Syntax::Bytes, tokens: images::AVIF, run: images::decode },
    Target { name: "preprocessor", syntax: Syntax::Text, tokens: models::PREPROCESSOR, run: models::preprocessor },
    Target { name: "generation", syntax: Syntax::Text, tokens: models::GENERATION, run: models::generation },
    Target { name: "model_config", syntax: Syntax::Text, tokens: models::CONFIG, run: models::config },
    Target { name: "tokenizer_config", syntax: Syntax::Text, tokens: models::TOKENIZER, run: models::tokenizer_config },
    Target { name: "tokenizer", syntax: Syntax::Text, tokens: models::TOKENIZER, run: models::tokenizer },
    Target { name: "chat_template", syntax: Syntax::Text, tokens: texts::TEMPLATE, run: models::chat_template },
    Target { name: "bindings", syntax: Syntax::Text, tokens: models::BINDINGS, run: models::bindings },
    Target { name: "onnx", syntax: Syntax::Protobuf, tokens: models::ONNX, run: models::onnx },
    Target { name: "manifest", syntax: Syntax::Parquet, tokens: &[], run: tables::manifest },
    Target { name: "csv", syntax: Syntax::Text, tokens: tables::ROWS, run: tables::csv },
    Target { name: "jsonl", syntax: Syntax::Text, tokens: tables::ROWS, run: tables::json_lines },
    Target { name: "tar", syntax: Syntax::Tar, tokens: &[], run: tables::shard },
    Target { name: "arrow", syntax: Syntax::Bytes, tokens: &[], run: tables::arrow },
    Target { name: "where", syntax: Syntax::Text, tokens: texts::SQL, run: tables::predicate },
    Target { name: "prompt", syntax: Syntax::Text, tokens: texts::TEMPLATE, run: tables::prompt },
    Target { name: "job", syntax: Syntax::Text, tokens: texts::JOB, run: texts::job },
    Target { name: "setting", syntax: Syntax::Text, tokens: texts::JOB, run: texts::setting },
    Target { name: "location", syntax: Syntax::Text, tokens: texts::LOCATION, run: texts::location },
    Target { name: "redact", syntax: Syntax::Text, tokens: texts::SECRET, run: texts::redacted },
    Target { name: "record", syntax: Syntax::NamedText, tokens: outputs::RECORD, run: outputs::replaced },
    Target { name: "part", syntax: Syntax::Parquet, tokens: &[], run: outputs::part },
];

impl Target {
    /// The entry point called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Gives `input` to the code under test.
    #[must_use]
    pub fn run(&self, input: &[u8]) -> Outcome {
        (self.run)(input)
    }
}

impl Outcome {
    fn of<T, E: Display>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::ok(),
            Err(error) => Self::refused(error),
        }
    }

    fn ok() -> Self {
        Self { signature: "ok".to_owned(), memory: MEMORY }
    }

    fn refused(error: &impl Display) -> Self {
        Self { signature: shape(&short(error)), memory: MEMORY }
    }
}

/// The text of an error as it is shown, which is bounded.
fn short(error: &impl Display) -> String {
    let shown = redact::message(&error.to_string());
    let length = shown.chars().count();
    assert!(length <= redact::MOST_OF_MESSAGE, "an error of {length} characters: {shown}");
    shown
}

/// `text` without numbers and quoted values.
fn shape(text: &str) -> String {
    let mut quoted = false;
    let keep = |c: &char| {
        quoted ^= matches!(c, '"' | '`');
        !quoted && !c.is_numeric() && *c != '"'
    };
    text.chars().filter(keep).take(160).collect()
}

/// A file of this repository.
fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder of one's own for the files that are read.
fn scratch() -> TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// Copies the folder `from` to `to`, with everything in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry of a folder");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("a file to copy");
        }
    }
}
