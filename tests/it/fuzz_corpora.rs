//! Makes the corpora of `tests/fuzz/corpus` and the OUTPUT of `tests/fuzz/output`: small valid files of every kind that is read. The
//! checkout must have them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};

use crate::common::{Workplace, nightcap, repo};

/// Longer files are no seeds.
const MOST_BYTES: usize = 10_000;

/// Fails when the checkout has other seeds than today's code makes: a format has changed, or there is a new kind of file. Then
/// `NIGHTCAP_FUZZ_CORPORA=write cargo test --test it fuzz_corpora` replaces them; look at `git diff`.
#[test]
fn the_checkout_has_the_corpora_of_today() {
    let folder = tempfile::tempdir().unwrap();
    let (made, kept) = (Corpora(folder.path().to_owned()), Corpora(repo("tests/fuzz")));
    made.make();
    #[allow(clippy::disallowed_methods, reason = "says what the test is to do")]
    if std::env::var("NIGHTCAP_FUZZ_CORPORA").as_deref() == Ok("write") {
        kept.replace(&made);
    }
    let (made, kept) = (made.seeds(), kept.seeds());
    let differ: Vec<&String> = made.symmetric_difference(&kept).collect();
    assert!(
        differ.is_empty(),
        "expected the seeds that this test makes in tests/fuzz, found differences: {differ:#?}\n\
         hint: NIGHTCAP_FUZZ_CORPORA=write cargo test --test it fuzz_corpora"
    );
}

/// A folder with the corpora in `corpus/TARGET`, and with `output`.
struct Corpora(PathBuf);

impl Corpora {
    fn make(&self) {
        images(self);
        models(self);
        manifests(self);
        texts(self);
        outputs(self);
    }

    /// Writes one seed of `target`.
    fn seed(&self, target: &str, name: &str, bytes: &[u8]) {
        let folder = self.0.join("corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        assert!(bytes.len() <= MOST_BYTES, "{target}/{name} has {} bytes", bytes.len());
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    /// Puts those of `other` in the place of these.
    fn replace(&self, other: &Self) {
        for name in PARTS {
            let folder = self.0.join(name);
            let _ = std::fs::remove_dir_all(&folder);
            for file in files(&other.0.join(name)) {
                let copy = folder.join(file.strip_prefix(other.0.join(name)).unwrap());
                std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
                std::fs::copy(file, copy).unwrap();
            }
        }
    }

    /// The name of every file, without the hash in it, and the format of OUTPUT. Contents may differ: encoders and run records are not
    /// the same each time.
    fn seeds(&self) -> BTreeSet<String> {
        let format = std::fs::read_to_string(self.0.join("output/_nightcap/format.json")).unwrap();
        let name = |file: PathBuf| {
            let name = file.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned();
            match name.rsplit_once('-') {
                Some((name, hash)) if hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                    name.to_owned()
                }
                _ => name,
            }
        };
        PARTS.iter().flat_map(|part| files(&self.0.join(part))).map(name).chain([format]).collect()
    }
}

/// The folders of [`Corpora`].
const PARTS: [&str; 2] = ["corpus", "output"];

/// Every file in `folder` and in the folders in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn images(corpora: &Corpora) {
    const FORMATS: [(&str, &str); 7] = [
        ("jpg", "jpeg"),
        ("png", "png"),
        ("gif", "gif"),
        ("webp", "webp"),
        ("bmp", "bmp"),
        ("tiff", "tiff"),
        ("avif", "avif"),
    ];
    for entry in std::fs::read_dir(repo("tests/fixtures/images")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let (name, extension) =
            (path.file_name().unwrap().to_str().unwrap(), path.extension().unwrap().to_str().unwrap());
        let target = FORMATS.iter().find(|(known, _)| *known == extension).unwrap().1;
        let kinds = [
            "orientation_6",
            "orientation_5.webp",
            "orientation_7.tiff",
            "orientation_xmp",
            "animated",
            "cmyk.tiff",
            "packbits",
            "lzw",
            "deflate",
            "interlaced",
        ];
        if kinds.iter().any(|kind| name.starts_with(kind)) && bytes.len() <= MOST_BYTES
            || bytes.len() <= 3500 && !name.starts_with("orientation_")
        {
            corpora.seed(target, name, &bytes);
        }
    }
    for (target, format) in
        [("png", ImageFormat::Png), ("webp", ImageFormat::WebP), ("bmp", ImageFormat::Bmp), ("tiff", ImageFormat::Tiff)]
    {
        for (name, color) in
            [("gray", ExtendedColorType::L8), ("rgb", ExtendedColorType::Rgb8), ("rgba", ExtendedColorType::Rgba8)]
        {
            corpora.seed(target, &format!("tiny_{name}"), &tiny(format, color));
        }
    }
    for (name, color) in [("gray16", ExtendedColorType::L16), ("rgba16", ExtendedColorType::Rgba16)] {
        corpora.seed("png", &format!("tiny_{name}"), &tiny(ImageFormat::Png, color));
    }
    let mut plain = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new_with_quality(
        &mut plain,
        image::codecs::png::CompressionType::Uncompressed,
        image::codecs::png::FilterType::Paeth,
    );
    encoder.write_image(&[7; 3 * 84], 12, 7, ExtendedColorType::Rgb8).unwrap();
    corpora.seed("png", "tiny_uncompressed", &plain);
    corpora.seed("tiff", "tiny_jpeg", &tiff_of_jpeg(&tiny_jpeg(false, turbojpeg::Subsamp::None)));
    for (name, progressive, subsampling) in [
        ("plain", false, turbojpeg::Subsamp::None),
        ("progressive", true, turbojpeg::Subsamp::Sub2x2),
        ("gray", false, turbojpeg::Subsamp::Gray),
    ] {
        corpora.seed("jpeg", &format!("tiny_{name}"), &tiny_jpeg(progressive, subsampling));
    }
}

/// 12 x 7 pixels.
fn tiny(format: ImageFormat, color: ExtendedColorType) -> Vec<u8> {
    let pixels: Vec<u8> = (0..usize::from(color.bits_per_pixel() / 8) * 84).map(|at| (at * at % 251) as u8).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    let written = match format {
        ImageFormat::Png => image::codecs::png::PngEncoder::new(&mut bytes).write_image(&pixels, 12, 7, color),
        ImageFormat::WebP => {
            image::codecs::webp::WebPEncoder::new_lossless(&mut bytes).write_image(&pixels, 12, 7, color)
        }
        ImageFormat::Bmp => image::codecs::bmp::BmpEncoder::new(&mut bytes).write_image(&pixels, 12, 7, color),
        _ => image::codecs::tiff::TiffEncoder::new(&mut bytes).write_image(&pixels, 12, 7, color),
    };
    written.unwrap();
    bytes.into_inner()
}

fn tiny_jpeg(progressive: bool, subsampling: turbojpeg::Subsamp) -> Vec<u8> {
    let pixels: Vec<u8> = (0..3 * 20 * 18).map(|at| (at * 7 % 256) as u8).collect();
    let format = turbojpeg::PixelFormat::RGB;
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(progressive).unwrap();
    compressor.set_subsamp(subsampling).unwrap();
    compressor
        .compress_to_vec(turbojpeg::Image { pixels: pixels.as_slice(), width: 20, pitch: 60, height: 18, format })
        .unwrap()
}

/// A strip of 20 x 18 pixels in JPEG.
fn tiff_of_jpeg(jpeg: &[u8]) -> Vec<u8> {
    let end = 8 + 2 + 12 * 9 + 4;
    let tags = [
        (256u16, 20),
        (257, 18),
        (258, 8),
        (259, 7),
        (262, 6),
        (273, end),
        (277, 3),
        (278, 18),
        (279, jpeg.len() as u32),
    ];
    let entry = |(tag, value): (u16, u32)| [&tag.to_le_bytes()[..], &[4, 0, 1, 0, 0, 0], &value.to_le_bytes()].concat();
    [&b"II*\0\x08\0\0\0\x09\0"[..], &tags.map(entry).concat(), &[0; 4], jpeg].concat()
}

fn models(corpora: &Corpora) {
    let fixtures = repo("tests/fixtures");
    let models =
        ["blip", "blip_itm", "clip", "coca", "florence2", "git", "llava", "siglip", "smolvlm", "trocr", "vit_gpt2"];
    let folders = models.iter().map(|name| (*name, fixtures.join("models").join(name)));
    for (name, folder) in folders.chain([("tiny", fixtures.join("tiny_model"))]) {
        let files = [
            ("preprocessor", "preprocessor_config.json"),
            ("generation", "generation_config.json"),
            ("model_config", "config.json"),
            ("tokenizer_config", "tokenizer_config.json"),
            ("chat_template", "chat_template.jinja"),
        ];
        for (target, file) in files {
            match std::fs::read(folder.join(file)) {
                Ok(bytes) if bytes.len() <= MOST_BYTES => corpora.seed(target, name, &bytes),
                _ => {}
            }
        }
        if let Ok(bytes) = std::fs::read(folder.join("tokenizer.json")) {
            corpora.seed("tokenizer", name, &smaller_tokenizer(&bytes));
        }
    }
    for (name, text) in [
        ("graphs", "[graphs]\nvision = \"vision_model.onnx\"\ntext = \"text_model.onnx\"\n"),
        ("bind", "[bind]\n\"fusion.image_states\" = \"vision.last_hidden_state\"\n"),
        ("nested", "[bind.fusion]\nimage_states = \"vision.last_hidden_state\"\n[graphs]\nfusion = \"fusion.onnx\"\n"),
        ("empty", ""),
    ] {
        corpora.seed("bindings", name, text.as_bytes());
    }
    for (name, node) in [
        ("concat", protobuf(&[(1, b"x"), (2, b"y"), (4, b"Concat")])),
        ("gather", protobuf(&[(1, b"w"), (1, b"x"), (2, b"y"), (4, b"Gather")])),
        ("if", protobuf(&[(1, b"x"), (2, b"y"), (4, b"If"), (5, &protobuf(&[(1, b"then"), (6, &graph(&[]))]))])),
    ] {
        let model = [&[8, 8][..], &protobuf(&[(7, &graph(&[&node])), (8, &[16, 17])])].concat();
        corpora.seed("onnx", name, &model);
    }
}

/// A graph of `nodes` with an input `x`, an output `y`, and the weights `w`, in the file, and `v`, beside it.
fn graph(nodes: &[&[u8]]) -> Vec<u8> {
    let value = |name: &[u8]| {
        protobuf(&[
            (1, name),
            (2, &protobuf(&[(1, &[&[8, 1][..], &protobuf(&[(2, &protobuf(&[(1, &[8, 2])]))])].concat())])),
        ])
    };
    let entry = |key: &[u8], value: &[u8]| protobuf(&[(1, key), (2, value)]);
    let weights = [&[8, 2, 8, 2, 16, 1][..], &protobuf(&[(8, b"w"), (9, &[0; 16])])].concat();
    let location = [entry(b"location", b"weights.data"), entry(b"offset", b"0"), entry(b"length", b"16")];
    let fields: Vec<(u8, &[u8])> = location.iter().map(|entry| (13, entry.as_slice())).collect();
    let external = [&[8, 4, 16, 1][..], &protobuf(&[(8, b"v")]), &protobuf(&fields), &[112, 1]].concat();
    let nodes: Vec<(u8, &[u8])> = nodes.iter().map(|node| (1, *node)).collect();
    let rest = protobuf(&[(2, b"graph"), (5, &weights), (5, &external), (11, &value(b"x")), (12, &value(b"y"))]);
    [protobuf(&nodes), rest].concat()
}

/// Fields of bytes.
fn protobuf(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let length = |bytes: &[u8]| match bytes.len() {
        short @ ..128 => vec![short as u8],
        long => vec![(long % 128) as u8 | 128, (long / 128) as u8],
    };
    fields.iter().flat_map(|(tag, bytes)| [&[tag << 3 | 2][..], &length(bytes), bytes].concat()).collect()
}

/// A tokenizer with a few of its words, merges and added tokens.
fn smaller_tokenizer(bytes: &[u8]) -> Vec<u8> {
    let mut tokenizer: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let special: Vec<String> = tokenizer["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .take(8)
        .map(|token| token["content"].as_str().unwrap().to_owned())
        .collect();
    tokenizer["added_tokens"].as_array_mut().unwrap().truncate(8);
    if let Some(vocab) = tokenizer["model"]["vocab"].as_object_mut() {
        let all = std::mem::take(vocab);
        vocab.extend(
            all.into_iter()
                .filter(|(word, id)| special.contains(word) || word.chars().count() == 1 || id.as_u64() < Some(20))
                .take(110),
        );
    } else if let Some(vocab) = tokenizer["model"]["vocab"].as_array_mut() {
        vocab.truncate(60);
    }
    if let Some(merges) = tokenizer["model"]["merges"].as_array_mut() {
        merges.clear();
    }
    let bytes = serde_json::to_vec(&tokenizer).unwrap();
    assert!(tokenizers::Tokenizer::from_bytes(&bytes).is_ok(), "{tokenizer}");
    bytes
}

fn manifests(corpora: &Corpora) {
    let codecs = [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
        ("lz4", Compression::LZ4_RAW),
    ];
    let bare =
        || WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).set_created_by("x".to_owned());
    for (name, codec) in codecs {
        corpora.seed("manifest", name, &parquet(&rows(false), bare().set_compression(codec)));
    }
    let encoded = |ids: Encoding, numbers: Encoding| {
        let columns = bare().set_dictionary_enabled(false).set_column_encoding("id".into(), ids);
        columns.set_column_encoding("n".into(), numbers)
    };
    let (delta, lengths) = (Encoding::DELTA_BYTE_ARRAY, Encoding::DELTA_LENGTH_BYTE_ARRAY);
    corpora.seed("manifest", "delta", &parquet(&rows(false), encoded(delta, Encoding::DELTA_BINARY_PACKED)));
    corpora.seed("manifest", "lengths", &parquet(&rows(false), encoded(lengths, Encoding::BYTE_STREAM_SPLIT)));
    corpora.seed(
        "manifest",
        "version_2",
        &parquet(&rows(false), bare().set_writer_version(WriterVersion::PARQUET_2_0)),
    );
    let pages = WriterProperties::builder()
        .set_created_by("x".to_owned())
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1);
    corpora.seed("manifest", "pages", &parquet(&rows(false), pages.set_bloom_filter_enabled(false)));
    corpora.seed("manifest", "categories", &parquet(&rows(true), bare()));
    for (name, dictionary) in [("plain", false), ("categories", true)] {
        let rows = rows(dictionary);
        let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).unwrap();
        writer.write(&rows).unwrap();
        corpora.seed("arrow", name, &writer.into_inner().unwrap());
    }
    for name in ["pairs-00001.tar", "ustar.tar"] {
        let shard = std::fs::read(repo("tests/goldens/manifests/shards").join(name)).unwrap();
        // Without the blocks of zeros behind the end.
        corpora.seed("tar", name, &shard[..MOST_BYTES / 512 * 512]);
    }
    // The long names of both formats.
    for name in ["odd-gnu.tar", "odd-pax.tar"] {
        let shard = std::fs::read(repo("tests/goldens/manifests/shards").join(name)).unwrap();
        let long =
            shard.chunks(512).position(|block| matches!(block[156], b'L' | b'x') && block[257..].starts_with(b"ustar"));
        corpora.seed("tar", name, &shard[long.unwrap() * 512..][..5120]);
    }
    for (name, text) in [
        ("commas", "id,image,n,flag\n1,a.png,0.5,true\n007,,-3,false\n"),
        ("quotes", "id;image\r\n\"a; \"\"b\"\"\n\";x\r\n"),
        ("tabs", "id\timage\timage\n1\t2\t3\n"),
    ] {
        corpora.seed("csv", name, text.as_bytes());
    }
    for (name, text) in [
        ("plain", "{\"id\": 1, \"image\": \"a.png\"}\n{\"id\": 2, \"image\": null, \"late\": [1, {\"a\": true}]}\n"),
        (
            "numbers",
            "{\"id\": \"x\", \"n\": NaN}\n\n{\"id\": \"y\", \"n\": 18446744073709551615}\n{\"id\": \"\", \"n\": -1e300}",
        ),
    ] {
        corpora.seed("jsonl", name, text.as_bytes());
    }
}

/// Four rows with every form of image column.
fn rows(dictionary: bool) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d"]));
    let images: ArrayRef = Arc::new(StringArray::from(vec![Some("a.jpg"), None, Some("c.jpg"), Some("a.jpg")]));
    let titles: ArrayRef = Arc::new(StringArray::from(vec![Some("a dog"), Some("a dog"), Some(""), None]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(i64::MAX)]));
    let bytes: ArrayRef =
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\xff\xd8\xff"), None, Some(b""), Some(b"GIF89a")]));
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let pair: ArrayRef = Arc::new(StructArray::from(vec![
        (field("bytes", &bytes), bytes.clone()),
        (field("path", &images), images.clone()),
    ]));
    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let titles = if dictionary { cast(&titles, &kind).unwrap() } else { titles };
    let columns = [("id", ids), ("image", images), ("title", titles), ("n", numbers), ("bytes", bytes), ("pair", pair)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// A Parquet file in two row groups; only that of a dictionary column says which types it was written from.
fn parquet(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut bytes = Vec::new();
    let properties = properties.set_max_row_group_row_count(Some(3)).build();
    let options = parquet::arrow::arrow_writer::ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(batch.schema().field(2).data_type() == &DataType::Utf8);
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn texts(corpora: &Corpora) {
    let sample = std::fs::read_to_string(repo("jobs/sample.toml")).unwrap();
    corpora.seed("job", "sample", sample.as_bytes());
    corpora.seed("job", "texts", &std::fs::read(repo("jobs/texts.toml")).unwrap());
    corpora.seed("job", "template", &std::fs::read(repo("src/job/template.toml")).unwrap());
    let job = "[input]\nmanifest = [\"a.parquet\", \"s3://b/*.parquet\"]\nkey = \"id\"\nimage = \"image\"\nwhere = \"n > 1\"\n\
               signature = \"etag\"\n[model]\npath = \"m\"\nprecision = \"fp16\"\n[generation]\nstrategy = \"beam\"\nnum_beams = 4\n\
               early_stopping = \"never\"\nstop = [\"\\n\"]\nprompt = \"{{ title }}\"\n[embedding]\nimage = true\ndtype = \"f16\"\n[output]\n\
               path = \"o\"\npart_rows = 10\ncolumns = [\"id\"]\n[runtime]\ndevices = [\"cpu\"]\nbatch_size = \"auto\"\nthreads = 2\n[limits]\n\
               roots = [\"/data\"]\nretries = 3\nmax_failed_fraction = 0.5\n[storage]\nregion = \"eu\"\n";
    corpora.seed("job", "every_section", job.as_bytes());
    for (number, setting) in [
        "runtime.batch_size=8",
        "input.where=\"n > 1\"",
        "output.path=a b",
        "limits.roots=[\"a\"]",
        "generation.stop=['x']",
        "storage.region=eu",
    ]
    .into_iter()
    .enumerate()
    {
        corpora.seed("setting", &number.to_string(), setting.as_bytes());
    }
    let conditions = [
        "id IN ('a', 'b') AND n > 1",
        "title LIKE 'a%' OR title IS NULL",
        "day >= DATE '2024-01-01' AND at < TIMESTAMP '2026-01-01 00:00:00'",
        "CASE WHEN flag THEN f ELSE 0.0 END > price",
        "length(title) BETWEEN 1 AND 5 AND NOT flag",
        "substr(title, 1, 2) = upper(id) || 'b'",
        "CAST(n AS VARCHAR) = '1' AND round(f, 2) < abs(n)",
        "day + INTERVAL '1 day' > day AND extract(year FROM at) = 2023",
        "regexp_like(title, '^a.*$') AND coalesce(n, 1) % 2 = 1",
        "true",
    ];
    for (number, condition) in conditions.into_iter().enumerate() {
        corpora.seed("where", &number.to_string(), condition.as_bytes());
    }
    let prompts = [
        "a photo of {{ title }}",
        "{% if title %}{{ title | upper }}{% else %}{{ n + 1 }}{% endif %}",
        "{% for i in range(3) %}{{ id }}{{ loop.index }}{% endfor %}",
        "{% set a = f * 2 %}{{ a | round(1) }} {{ flag }}",
        "{{ title | default('none') | replace('a', 'b') | truncate(3) if title else id[0] }}",
    ];
    for (number, prompt) in prompts.into_iter().enumerate() {
        corpora.seed("prompt", &number.to_string(), prompt.as_bytes());
        corpora.seed("chat_template", &format!("prompt_{number}"), format!("{prompt}<image>").as_bytes());
    }
    let locations = [
        "a/b.jpg",
        "../c d%20.jpg",
        "/data/images/e.jpg",
        "file:///data/images/f.jpg",
        "s3://bucket/images/a/../b.jpg",
        "gs://b",
        "https://user:pw@a.example:8443/images/x.jpg?X-Amz-Signature=1#f",
        "http://[::1]/images/%2e%2e/y.jpg",
        "images/**/[ab]?.jpg",
        "az://c/k",
    ];
    for (number, location) in locations.into_iter().enumerate() {
        corpora.seed("location", &number.to_string(), location.as_bytes());
    }
    let secrets = [
        "see https://me:hunter2@host/a?b=c and 'http://host/a?sig=hunter2', b",
        "s3://b/a?X-Amz-Signature=hunter2&size=2 is forbidden\nhint: secret_access_key = \"hunter2\"",
        "authorization: Bearer hunter2 data:image/png;base64,hunter2=",
        "cannot read /a/b.parquet: expected a regular file",
        "https://me:hunter2@host/a?size=2&sig=hunter2\tand a text&se=1#access_token=hunter2",
    ];
    for (number, text) in secrets.into_iter().enumerate() {
        corpora.seed("redact", &number.to_string(), text.as_bytes());
    }
}

/// An OUTPUT of two published runs and one that is not, and its records as seeds.
fn outputs(corpora: &Corpora) {
    let workplace = Workplace::with_images(4, 2);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(
        &job.replace(
            "[output]\n",
            "[embedding]\nfused = false\n[output]\nreuse_by_content = true\ncolumns = [\"id\"]\n",
        ),
    );
    workplace.run_ok(&["--run-id", "first", "--limit", "2"]);
    workplace.run_ok(&["--run-id", "second"]);
    let mut half = workplace.command("run", &["--run-id", "half", "--full", "--shard", "0/2"]);
    assert!(half.output().unwrap().status.success());
    assert!(nightcap().args(["status", "--check"]).arg(workplace.path("out")).status().unwrap().success());
    copy(&workplace.path("out"), corpora);
}

/// Copies OUTPUT; every record and part in it is a seed.
fn copy(from: &Path, corpora: &Corpora) {
    for file in files(from) {
        let below = file.strip_prefix(from).unwrap();
        // What differs from run to run.
        let name = below.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("heartbeat-") || name.starts_with("stages-") {
            continue;
        }
        let to = corpora.0.join("output").join(below);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, &to).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let path = below.to_str().unwrap();
        let flat = path.replace('/', "-");
        if path.ends_with(".parquet") {
            corpora.seed("part", &flat, &bytes);
        } else {
            corpora.seed("record", &flat, &[path.as_bytes(), b"\n", &bytes].concat());
        }
    }
}
