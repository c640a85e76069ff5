//! Pictures of every format and variant, whole and damaged, against Pillow: see `tests/goldens/make_pictures.py`. Each has Pillow's
//! pixels or an error, and where the two disagree, `tests/goldens/pictures/differences.txt` says how: in one of the ways that
//! `docs/output.md` lists.
//!
//! `cargo test` takes the pictures and a few damaged copies of each, `make pictures` (`NIGHTCAP_PICTURES=all`) all copies.
//! `NIGHTCAP_PICTURES=write` writes the list of differences; look at `git diff`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;

use arrow::array::{Array, AsArray, RecordBatch};
use nightcap::preprocess::{DecodeLimits, decode};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::common::repo;

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 1 << 22 };
/// Damaged copies of each picture that a plain run takes.
const SOME: usize = 8;
const LIST: &str = "# What differs from Pillow: format, picture, damaged copy (0: the picture itself) and the way, which docs/output.md explains.\n";
const FORMATS: [&str; 7] = ["jpeg", "png", "gif", "webp", "bmp", "tiff", "avif"];

/// `xorshift64*`, as `Numbers` in `make_pictures.py`.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x0123_4567))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

/// As `damaged` in `make_pictures.py`.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut data = bytes.to_vec();
    for _ in 0..=numbers.below(3) {
        let size = data.len();
        if size < 8 {
            break;
        }
        let at = if numbers.below(2) == 0 { numbers.below(size.min(96)) } else { numbers.below(size) };
        match numbers.below(12) {
            0..=2 => data[at] ^= 1 << numbers.below(8),
            3 | 4 => data[at] = numbers.below(256) as u8,
            5 => data[at] = [0, 1, 2, 4, 8, 16, 127, 128, 254, 255][numbers.below(10)],
            6 => data.truncate(size - 1 - numbers.below(size / 2)),
            7 => data.truncate(size - 1 - numbers.below((size / 2).min(40))),
            8 => {
                let end = size.min(at + 1 + numbers.below(8));
                data.drain(at..end);
            }
            9 => {
                let value = numbers.below(256) as u8;
                let count = 1 + numbers.below(8);
                drop(data.splice(at..at, std::iter::repeat_n(value, count)));
            }
            10 => {
                let end = size.min(at + 1 + numbers.below(16));
                data[at..end].fill(0);
            }
            _ => {
                let value = numbers.below(256) as u8;
                let count = 1 + numbers.below(64);
                data.extend(std::iter::repeat_n(value, count));
            }
        }
    }
    if data.starts_with(b"\x89PNG") && numbers.below(2) == 0 {
        let mut at = 8;
        while at + 12 <= data.len() {
            let length = u32::from_be_bytes(data[at..at + 4].try_into().unwrap()) as usize;
            let end = at + 8 + length;
            if end + 4 > data.len() {
                break;
            }
            let sum = crc32(&data[at + 4..end]);
            data[end..end + 4].copy_from_slice(&sum.to_be_bytes());
            at = end + 4;
        }
    }
    data
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn found(bytes: &[u8]) -> Result<String, String> {
    let image = decode(bytes, LIMITS).map_err(|error| error.to_string())?;
    let mut hash = blake3::Hasher::new();
    hash.update(format!("{} {}\n", image.width, image.height).as_bytes()).update(&image.pixels);
    Ok(hash.finalize().to_hex()[..12].to_owned())
}

fn pictures(format: &str) -> RecordBatch {
    let file = File::open(repo("tests/goldens/pictures").join(format!("{format}.parquet"))).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .with_batch_size(10_000)
        .build()
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
}

/// The lines of differences.txt: format, picture and copy, with the way in which it differs.
fn listed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(repo("tests/goldens/pictures/differences.txt")).unwrap_or_default();
    let line = |line: &str| line.rsplit_once(' ').map(|(key, way)| (key.to_owned(), way.to_owned()));
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// The way in which a copy differs from Pillow, by what both make of it and of the whole picture.
fn way(expected: &str, found: &Result<String, String>, whole: (&str, &Result<String, String>)) -> Option<&'static str> {
    let is_variant = |error: &str| error.starts_with("unsupported_format");
    Some(match (expected, found) {
        ("-", Err(_)) => return None,
        // Pillow refuses all copies, or the damage is where no pixel is.
        ("-", Ok(_)) if whole.0 == "-" && whole.1.is_ok() || found == whole.1 => "harmless",
        ("-", Ok(_)) => "damage_shown",
        (_, Err(error)) if is_variant(error) && whole.1.as_ref().is_err_and(|error| is_variant(error)) => "variant",
        (_, Err(_)) => "damage_refused",
        (expected, Ok(found)) if expected != found => "other_pixels",
        _ => return None,
    })
}

/// What differs from Pillow in the first `copies` copies: its key, the way, and what was found.
fn differences(format: &str, copies: usize) -> Vec<(String, &'static str, Result<String, String>)> {
    let batch = pictures(format);
    let names = batch.column(0).as_string::<i32>();
    let bytes = batch.column(1).as_binary::<i32>();
    let results = batch.column(2).as_list::<i32>();
    let mut different = Vec::new();
    for row in 0..batch.num_rows() {
        let results = results.value(row);
        let results = results.as_string::<i32>();
        let whole = found(bytes.value(row));
        for copy in 0..results.len().min(copies.saturating_add(1)) {
            let data = match copy {
                0 => bytes.value(row).to_vec(),
                copy => damaged(bytes.value(row), (row * 1000 + copy) as u64),
            };
            let found = found(&data);
            if let Some(way) = way(results.value(copy), &found, (results.value(0), &whole)) {
                different.push((format!("{format} {} {copy}", names.value(row)), way, found));
            }
        }
    }
    different
}

#[test]
fn pictures_are_pillows() {
    let mode = std::env::var("NIGHTCAP_PICTURES").unwrap_or_default();
    let formats: Vec<&str> = match std::env::var("NIGHTCAP_PICTURES_FORMAT") {
        Ok(only) => FORMATS.into_iter().filter(|format| *format == only).collect(),
        Err(_) => FORMATS.to_vec(),
    };
    let copies = if mode.is_empty() { SOME } else { usize::MAX };
    let listed = listed();
    let document = std::fs::read_to_string(repo("docs/output.md")).unwrap();
    let (mut wrong, mut lines) = (String::new(), LIST.to_owned());
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = formats.iter().map(|format| scope.spawn(move || differences(format, copies))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for (key, way, found) in found {
        writeln!(lines, "{key} {way}").unwrap();
        assert!(document.contains(&format!("| `{way}` |")), "docs/output.md does not explain {way}");
        if listed.get(&key).map(String::as_str) != Some(way) {
            let found = found.unwrap_or_else(|error| error.lines().next().unwrap_or_default().to_owned());
            writeln!(wrong, "{key}: {way}: {found}").unwrap();
        }
    }
    if mode == "write" {
        let kept = listed.iter().filter(|(key, _)| !formats.iter().any(|format| key.starts_with(format)));
        kept.for_each(|(key, way)| writeln!(lines, "{key} {way}").unwrap());
        std::fs::write(repo("tests/goldens/pictures/differences.txt"), lines).unwrap();
    }
    assert!(
        wrong.is_empty() || mode == "write",
        "differences from Pillow that differences.txt does not list:\n{wrong}"
    );
}
