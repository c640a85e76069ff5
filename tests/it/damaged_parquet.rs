//! Parquet files with flipped bits: manifests and parts are read to the end, or refused with an error that names them. Never a panic, and
//! never more memory than the file can fill: every sweep runs in a process of its own, with a limit on its address space.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Int32Array, Int64Array, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::record_batch::RecordBatch;
use nightcap::job::Job;
use nightcap::manifest::reader::{ManifestReader, Projection};
use nightcap::manifest::{Manifest, ManifestError, filter};
use nightcap::storage::{DEFAULT_RETRIES, DEFAULT_TIMEOUT, Location, Storage, StorageSettings};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::common::{Workplace, nightcap};

/// The address space of a sweep: threads and the library take most of it.
const ADDRESS_SPACE_KB: u64 = 3 << 20;

fn batch(rows: i32) -> RecordBatch {
    let text = |prefix: &str| StringArray::from_iter_values((0..rows).map(|row| format!("{prefix}-{row:03}")));
    let sparse: StringArray = (0..rows).map(|row| (row % 3 == 0).then(|| "a dog on the beach".to_owned())).collect();
    let bytes = BinaryArray::from_iter_values((0..rows).map(|row| vec![row as u8; 9]));
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), Arc::new(bytes) as ArrayRef),
        (Arc::new(Field::new("path", DataType::Utf8, true)), Arc::new(text("path")) as ArrayRef),
    ]);
    let dictionary: DictionaryArray<Int32Type> = (0..rows).map(|row| ["en", "de", "fr"][row as usize % 3]).collect();
    let mut tags = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    for row in 0..rows {
        for tag in 0..row % 3 {
            tags.values().append_value(format!("tag-{tag}"));
        }
        tags.append(row % 4 != 0);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(text("row"))),
        ("image", Arc::new(image)),
        ("title", Arc::new(sparse)),
        ("n", Arc::new(Int64Array::from_iter_values((0..rows).map(i64::from)))),
        ("i", Arc::new((0..rows).map(|row| (row % 2 == 0).then_some(row)).collect::<Int32Array>())),
        ("flag", Arc::new((0..rows).map(|row| Some(row % 5 == 0)).collect::<BooleanArray>())),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows).map(i64::from)).with_timezone("UTC"))),
        ("lang", Arc::new(dictionary)),
        ("tags", Arc::new(tags.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// Small manifests in every codec, page format and encoding.
fn manifests() -> Vec<(String, Vec<u8>)> {
    let codecs = [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4", Compression::LZ4_RAW),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
    ];
    let batch = batch(24);
    let mut made = Vec::new();
    for (number, (name, codec)) in codecs.into_iter().enumerate() {
        for (version, dictionary) in [(WriterVersion::PARQUET_1_0, true), (WriterVersion::PARQUET_2_0, false)] {
            let mut properties = WriterProperties::builder()
                .set_compression(codec)
                .set_writer_version(version)
                .set_dictionary_enabled(dictionary)
                .set_max_row_group_row_count(Some(16));
            if !dictionary && number % 2 == 0 {
                properties = properties
                    .set_column_encoding(ColumnPath::from("id"), Encoding::DELTA_BYTE_ARRAY)
                    .set_column_encoding(ColumnPath::from("title"), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_encoding(ColumnPath::from("n"), Encoding::DELTA_BINARY_PACKED)
                    .set_column_encoding(ColumnPath::from("i"), Encoding::BYTE_STREAM_SPLIT);
            }
            let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
            writer.write(&batch).unwrap();
            made.push((format!("{name}-{version:?}"), writer.into_inner().unwrap()));
        }
    }
    made
}

/// Pseudo-random numbers: the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Runs the test `name` again in a process of its own that may map `kb`; there `inside` is called.
fn confined(name: &str, kb: u64, inside: impl FnOnce()) {
    if std::env::var_os("NIGHTCAP_TEST_CONFINED").is_some_and(|value| value == name) {
        return inside();
    }
    let script = format!("ulimit -v {kb} && exec \"$0\" \"$@\"");
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", &script, program.to_str().unwrap(), "--exact", name, "--nocapture", "--test-threads=1"])
        .env("NIGHTCAP_TEST_CONFINED", name)
        .env("POLARS_MAX_THREADS", "1")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let tail: String = said.chars().skip(said.chars().count().saturating_sub(3000)).collect();
    assert!(output.status.success() && said.contains("1 passed"), "{:?}: {tail}", output.status);
}

fn job(folder: &Path, manifest: &Path) -> Job {
    let text = format!(
        "[input]\nmanifest = \"{}\"\nkey = \"id\"\nimage = \"image\"\ntext = \"title\"\nsignature = [\"n\", \"ts\"]\n[model]\npath = \"model\"\n[output]\npath = \"out\"\n\
         [generation]\nprompt = \"A photo of {{{{ title }}}} {{{{ i }}}} {{{{ flag }}}} {{{{ lang }}}}\"\n",
        manifest.display()
    );
    let path = folder.join("job.toml");
    std::fs::write(&path, text).unwrap();
    Job::load(&path, &[]).unwrap()
}

/// Reads a manifest as `run` and `plan` do; the rows that it has.
fn read(job: &Job, storage: &Arc<Storage>, predicate: Option<&str>) -> Result<usize, ManifestError> {
    let manifest = Manifest::open(job, storage)?;
    let _ = manifest.may_mix_paths_and_bytes();
    let selected = filter::select(&manifest, predicate)?;
    let mut rows = 0;
    for projection in [Projection::PlanWithImages, Projection::Rows] {
        for batch in ManifestReader::new(&manifest, selected.clone(), projection) {
            let batch = batch?;
            for index in 0..batch.len() {
                let row = batch.row(index);
                std::hint::black_box((row.text_hash(), batch.image_bytes(index), batch.signature_columns(index)));
            }
            rows += batch.len();
        }
    }
    Ok(rows)
}

/// Counts panics of any thread.
fn count_panics() -> Arc<std::sync::atomic::AtomicUsize> {
    let panics = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if std::env::var_os("NIGHTCAP_SHOW_PANICS").is_some() {
            before(panic);
        }
    }));
    panics
}

fn flips(predicate: Option<&'static str>, each: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.parquet");
    let job = job(folder.path(), &path);
    let storage = Arc::new(Storage::new(&StorageSettings::default(), DEFAULT_RETRIES, DEFAULT_TIMEOUT));
    let panics = count_panics();
    let (mut read_all, mut refused) = (0, 0);
    for (name, bytes) in manifests() {
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&job, &storage, None).unwrap(), 48, "{name}");
        let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize + 8;
        let mut numbers = Numbers(each as u64 + bytes.len() as u64);
        for flip in 0..each {
            // Half of them in the footer; the others in pages and their headers.
            let at = if flip % 2 == 0 {
                bytes.len() - 1 - numbers.below(footer)
            } else {
                numbers.below(bytes.len() - footer)
            };
            let bit = numbers.below(8);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            if flip % 7 == 0 {
                let other = numbers.below(bytes.len());
                damaged[other] ^= 1 << numbers.below(8);
            }
            std::fs::write(&path, &damaged).unwrap();
            println!("{name}: bit {bit} of byte {at} of {}", bytes.len());
            match read(&job, &storage, predicate) {
                Ok(rows) => {
                    assert!(rows <= 48, "{name} {at} {bit}: {rows} rows");
                    read_all += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("m.parquet") || text.contains("`input."), "{text}");
                    assert!(text.len() < 5000, "{} characters", text.len());
                    refused += 1;
                }
            }
        }
    }
    println!("{read_all} read, {refused} refused, {panics:?} panics caught");
    assert!(read_all > each && refused > each, "{read_all} read, {refused} refused");
}

#[test]
fn flipped_bits_of_a_manifest_are_errors() {
    confined("damaged_parquet::flipped_bits_of_a_manifest_are_errors", ADDRESS_SPACE_KB, || flips(None, 250));
}

#[test]
fn flipped_bits_of_a_filtered_manifest_are_errors() {
    let predicate = Some("n >= 0 AND id <> 'x' AND length(title) > 0 OR flag");
    confined("damaged_parquet::flipped_bits_of_a_filtered_manifest_are_errors", ADDRESS_SPACE_KB, || {
        flips(predicate, 40);
    });
}

/// Every command that reads parts, on parts with flipped bits in footers, page headers and pages.
#[test]
fn flipped_bits_of_a_part_are_found_or_harmless() {
    let workplace = Workplace::with_images(12, 6);
    workplace.run_ok(&["--run-id", "night"]);
    workplace.run_ok(&["--run-id", "later", "--full"]);
    let half = workplace.run(&["--run-id", "half", "--full", "--shard", "0/2"]);
    assert!(half.status.success());
    let output = workplace.path("out");
    let part = |run: &str| output.join(format!("run={run}/part-000000.parquet"));
    let on = |command: &str, arguments: &[&str]| {
        let said = nightcap().arg(command).arg(&output).args(arguments).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(!text.contains("panic") && !text.contains("internal error"), "{command}: {text}");
        assert!(matches!(said.status.code(), Some(0 | 2)), "{command}: {:?} {text}", said.status);
        (said.status.code(), text)
    };
    for run in ["night", "half"] {
        let whole = std::fs::read(part(run)).unwrap();
        let footer = u32::from_le_bytes(whole[whole.len() - 8..whole.len() - 4].try_into().unwrap()) as usize + 8;
        let mut numbers = Numbers(whole.len() as u64);
        for flip in 0..40 {
            let mut damaged = whole.clone();
            let at = if flip % 2 == 0 { whole.len() - 1 - numbers.below(footer) } else { numbers.below(whole.len()) };
            damaged[at] ^= 1 << numbers.below(8);
            std::fs::write(part(run), damaged).unwrap();
            if run == "night" {
                on("status", &["--check"])
            } else {
                on("status", &[])
            };
        }
        std::fs::write(part(run), whole).unwrap();
    }
    assert_eq!(on("status", &["--check"]).0, Some(0));
}

/// A Parquet file with `edit` applied to the thrift bytes of its footer.
fn with_footer(bytes: &[u8], edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let start = bytes.len() - 8 - length;
    let mut footer = bytes[start..bytes.len() - 8].to_vec();
    edit(&mut footer);
    let length = (footer.len() as u32).to_le_bytes();
    [&bytes[..start], &footer, &length, b"PAR1"].concat()
}

fn one_column(column: ArrayRef, properties: WriterProperties) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter([("id", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// Reads the keys of the file at `path`.
fn read_keys(path: &Path) -> Result<usize, ManifestError> {
    let storage = Arc::new(Storage::new(&StorageSettings::default(), DEFAULT_RETRIES, DEFAULT_TIMEOUT));
    let manifest = Manifest::open_keys(&[Location::Local(PathBuf::from(path))], "input.key", "id", &storage)?;
    let selected = filter::select(&manifest, None)?;
    ManifestReader::new(&manifest, selected, Projection::Plan).map(|batch| batch.map(|batch| batch.len())).sum()
}

#[test]
fn bombs_take_no_memory() {
    confined("damaged_parquet::bombs_take_no_memory", ADDRESS_SPACE_KB, || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.parquet");
        let try_it = |name: &str, bytes: Vec<u8>| {
            println!("{name}: {} bytes", bytes.len());
            std::fs::write(&path, bytes).unwrap();
            let outcome = read_keys(&path);
            println!("{name}: {:?}", outcome.as_ref().map_err(ToString::to_string));
            if let Err(error) = &outcome {
                assert!(error.to_string().contains("m.parquet"), "{error}");
            }
            outcome
        };
        let plain = || WriterProperties::builder().set_dictionary_enabled(false);
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..24).map(|row| format!("row-{row:03}"))));
        let small = one_column(keys.clone(), plain().build());
        // One value of 4 MB that a dictionary gives to every one of 1,000 rows: 4 GB.
        let large = "x".repeat(4 << 20);
        let once: ArrayRef = Arc::new(StringArray::from(vec![large.as_str()]));
        let bomb = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0; 1000]), once);
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let packed = |column: ArrayRef, limit: usize| {
            one_column(
                column,
                WriterProperties::builder().set_compression(zstd).set_dictionary_page_size_limit(limit).build(),
            )
        };
        try_it("dictionary", packed(Arc::new(bomb), 1 << 30)).unwrap();
        let text: StringArray = std::iter::repeat_n(Some(&large[..1 << 16]), 400).collect();
        try_it("text dictionary", packed(Arc::new(text), 1 << 30)).unwrap();
        // Footers that claim more than the file holds: the value of field 3 (num_rows), zigzag varint.
        for (rows, everywhere) in
            [1_u64 << 40, 1 << 62, u64::from(u32::MAX)].into_iter().flat_map(|rows| [(rows, false), (rows, true)])
        {
            let claim = with_footer(&small, |footer| {
                // The footer begins with the version, the schema (its root has one child), then `num_rows` = 24 as 0x16 0x30.
                let places: Vec<usize> =
                    footer.windows(2).enumerate().filter(|(_, pair)| *pair == [0x16, 0x30]).map(|(at, _)| at).collect();
                let mut number = Vec::new();
                let mut left = rows << 1;
                while left >= 0x80 {
                    number.push(left as u8 | 0x80);
                    left >>= 7;
                }
                number.push(left as u8);
                // From the end, so that the other places stay where they are. With `everywhere`, row groups and columns claim the same.
                for at in places.iter().rev().filter(|at| everywhere || **at == places[0]) {
                    footer.splice(at + 1..at + 2, number.iter().copied());
                }
            });
            assert!(try_it("rows", claim).is_err());
        }
        // Thrift lists that claim 2^31 elements at every place of the footer.
        for at in 0..small.len().min(300) {
            let claim = with_footer(&small, |footer| {
                if at < footer.len() {
                    footer.splice(at..=at, [0xfc, 0xff, 0xff, 0xff, 0xff, 0x07]);
                }
            });
            let _ = try_it("list", claim);
        }
        // Page headers that claim sizes of nearly 2^31.
        for codec in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            zstd,
            Compression::LZ4_RAW,
            Compression::GZIP(GzipLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
        ] {
            let bytes = one_column(keys.clone(), plain().set_compression(codec).build());
            for at in 4..60.min(bytes.len()) {
                let mut damaged = bytes.clone();
                for (index, byte) in [0xfe, 0xff, 0xff, 0xff, 0x0f].into_iter().enumerate() {
                    damaged[at + index] = byte;
                }
                let _ = try_it("page", damaged);
            }
        }
        let mut huge = small.clone();
        let length = huge.len();
        huge[length - 8..length - 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(try_it("footer length", huge).is_err());
    });
}

#[test]
fn deep_schemas_and_large_metadata_are_refused() {
    confined("damaged_parquet::deep_schemas_and_large_metadata_are_refused", ADDRESS_SPACE_KB, || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.parquet");
        for depth in [50, 500, 20_000] {
            // A thrift footer by hand: version, schema (a chain of groups), rows, no row group.
            let mut footer = vec![0x15, 2, 0x19, 0xfc];
            let mut count = depth as u32 + 2;
            while count >= 0x80 {
                footer.push(count as u8 | 0x80);
                count >>= 7;
            }
            footer.push(count as u8);
            for _ in 0..=depth {
                // name (field 4) and one child (field 5).
                footer.extend([0x48, 1, b'a', 0x15, 2, 0]);
            }
            // A leaf: type 1 (int32), repetition 3 (optional), name.
            footer.extend([0x15, 2, 0x25, 2, 0x18, 1, b'b', 0]);
            footer.extend([0x16, 0, 0x19, 0x0c, 0]);
            let length = (footer.len() as u32).to_le_bytes();
            std::fs::write(&path, [&b"PAR1"[..], &footer, &length, b"PAR1"].concat()).unwrap();
            let outcome = read_keys(&path);
            println!("{depth}: {:?}", outcome.as_ref().map_err(ToString::to_string));
            assert!(outcome.unwrap_err().to_string().len() < 4000);
        }
    });
}
