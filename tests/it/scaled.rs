//! `input.jpeg_scaling`: large JPEGs decoded at a fraction of their size, bit for bit as after Pillow's `draft`
//! (`tests/goldens/make_preprocess.py`), and what a job with it writes.

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use nightcap::job::Job;
use nightcap::preprocess::{DecodeLimits, ImageProcessor, JpegScale, Preprocessor, decode, decode_scaled};
use nightcap::row::error::ErrorKind;
use serde_json::{Value, json};

use crate::common::{Rows, Workplace, repo, strings, write_parquet};

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 50_000_000 };
const SCALING: [&str; 2] = ["--set", "input.jpeg_scaling=true"];

/// A fixture by its file name, or a sample photograph by its path in the repository.
fn read(name: &str) -> Vec<u8> {
    let path = if name.contains('/') { name.to_owned() } else { format!("tests/fixtures/images/{name}") };
    std::fs::read(repo(&path)).unwrap()
}

fn processor(config: &Value) -> ImageProcessor {
    ImageProcessor::from_config(config).unwrap()
}

fn vit(height: u32, width: u32) -> ImageProcessor {
    processor(&json!({"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}))
}

/// The same JPEG with an EXIF orientation.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff =
        [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat();
    let segment = [b"\xff\xe1\0\x22Exif\0\0", tiff.as_slice()].concat();
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

#[test]
fn scaled_pixels_and_tensors_are_those_of_pillow_and_transformers() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/goldens/preprocess/scaled.json")).unwrap()).unwrap();
    let (mut wrong, mut seen) = (Vec::new(), [0; 9]);
    for (setting, golden) in golden.as_object().unwrap() {
        let processor = processor(&golden["config"]);
        for (name, expected) in golden["files"].as_object().unwrap() {
            let bytes = read(name);
            let mut divisor = 0;
            let decoded = decode_scaled(&bytes, LIMITS, |width, height| {
                let scale = processor.jpeg_scale(width, height);
                divisor = scale.divisor();
                scale
            });
            let decoded = decoded.unwrap_or_else(|error| panic!("{setting} {name}: {error}"));
            seen[divisor as usize] += 1;
            let full = decode(&bytes, LIMITS).unwrap();
            assert_eq!((decoded.full_width, decoded.full_height), (full.width, full.height), "{setting} {name}");
            assert_eq!(decoded.image.width, full.width.div_ceil(divisor), "{setting} {name}");
            let tensor: Vec<u8> =
                processor.process(&decoded.image).data.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect();
            let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
            let found = json!({
                "size": [decoded.image.width, decoded.image.height],
                "pixels": hash(&decoded.image.pixels),
                "tensor": hash(&tensor),
            });
            if &found != expected {
                wrong.push(format!("{setting} {name} at 1/{divisor}: expected {expected}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!([1, 2, 4, 8].iter().all(|divisor| seen[*divisor] > 20), "{seen:?}");
}

#[test]
fn twice_the_size_is_left() {
    let scale = |full, target| JpegScale::between(full, target).divisor();
    assert_eq!(scale((4000, 3000), (224, 224)), 4);
    assert_eq!(scale((3584, 3584), (224, 224)), 8);
    assert_eq!(scale((3583, 3584), (224, 224)), 4);
    assert_eq!(scale((1791, 1792), (224, 224)), 2);
    assert_eq!(scale((895, 4000), (224, 224)), 1);
    assert_eq!(scale((896, 4000), (224, 224)), 2);
    assert_eq!(scale((1, 1), (u32::MAX, 1)), 1);
    assert_eq!(scale((u32::MAX, u32::MAX), (1, 1)), 8);
}

#[test]
fn the_model_that_needs_more_decides() {
    let preprocessor = |jpeg_scaling, embedding| Preprocessor { model: vit(224, 224), embedding, jpeg_scaling };
    assert_eq!(preprocessor(true, None).jpeg_scale(4000, 3600), JpegScale::Eighth);
    assert_eq!(preprocessor(true, Some(vit(384, 384))).jpeg_scale(4000, 3600), JpegScale::Quarter);
    assert_eq!(preprocessor(true, Some(vit(64, 64))).jpeg_scale(4000, 3600), JpegScale::Eighth);
    assert_eq!(preprocessor(false, None).jpeg_scale(4000, 3600), JpegScale::Full);
    let keeps_size = json!({"image_processor_type": "CLIPImageProcessor", "do_resize": false});
    assert_eq!(preprocessor(true, Some(processor(&keeps_size))).jpeg_scale(4000, 3600), JpegScale::Full);
    let tiles = |resizes: bool| json!({"image_processor_type": "SmolVLMImageProcessor", "do_resize": resizes});
    assert_eq!(processor(&tiles(true)).jpeg_scale(12000, 9000), JpegScale::Quarter);
    assert_eq!(processor(&tiles(false)).jpeg_scale(12000, 9000), JpegScale::Full);
}

#[test]
fn other_formats_come_as_they_are() {
    for name in ["rgb8.png", "still.gif", "lossy.webp", "rgb.bmp", "lzw.tiff", "orientation_5.webp"] {
        let bytes = read(name);
        let decoded = decode_scaled(&bytes, LIMITS, |_, _| JpegScale::Eighth).unwrap();
        assert_eq!(decoded.image, decode(&bytes, LIMITS).unwrap(), "{name}");
        assert_eq!((decoded.full_width, decoded.full_height), (decoded.image.width, decoded.image.height), "{name}");
    }
}

#[test]
fn limits_and_damage_are_judged_as_at_full_size() {
    let bytes = read("photo.jpg");
    let decode = |bytes: &[u8], max_image_pixels| {
        decode_scaled(bytes, DecodeLimits { max_image_pixels }, |_, _| JpegScale::Eighth)
    };
    assert!(decode(&bytes, 420 * 300).is_ok());
    assert_eq!(decode(&bytes, 420 * 300 - 1).unwrap_err().kind, ErrorKind::TooManyPixels);
    for length in (0..bytes.len()).step_by(509) {
        let error = decode(&bytes[..length], 420 * 300).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::CorruptImage | ErrorKind::UnsupportedFormat), "{length}: {error}");
    }
}

/// A job over two photographs, of which one is rotated by EXIF and one is small; its model takes images of 32 x 32.
fn photographs() -> Workplace {
    let workplace = Workplace::with_images(0, 10);
    let photo = read("photo.jpg");
    for (name, bytes) in [("large", &photo), ("turned", &turned(&photo, 6)), ("small", &read("orientation_6.jpg"))] {
        std::fs::write(workplace.path(&format!("photos/{name}.jpg")), bytes).unwrap();
    }
    let names = ["large", "turned", "small"].map(Some);
    let columns = vec![
        ("id", strings(names)),
        ("image", strings(names.map(|name| name.map(|name| format!("photos/{name}.jpg"))))),
        ("title", strings(names.map(|name| name.map(|name| format!("a {name} picture"))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    workplace
}

/// The half of a column's fingerprints that names the model, and the one that names the settings.
fn fingerprint(rows: &Rows, column: &str) -> (String, String) {
    let all = rows.text(column);
    assert!(all.iter().all(|fingerprint| fingerprint == &all[0]));
    let (model, settings) = all[0].as_deref().unwrap().split_once('-').unwrap();
    (model.to_owned(), settings.to_owned())
}

#[test]
fn a_job_scales_pixels_says_full_sizes_and_has_other_fingerprints() {
    let workplace = photographs();
    let run = |output: &str, arguments: &[&str]| {
        let output_path = format!("output.path={output}");
        workplace.run_ok(&[&["--set", &output_path], arguments].concat());
        workplace.rows(output, None)
    };
    let (full, scaled) = (run("full", &[]), run("scaled", &SCALING));
    for column in ["image_width", "image_height", "content_hash", "content_signature"] {
        assert_eq!(full.column(column), scaled.column(column), "{column}");
    }
    let sizes =
        ["image_width", "image_height"].map(|name| scaled.column(name).as_primitive::<Int32Type>().values().to_vec());
    assert_eq!(sizes, [[420, 300, 37], [300, 420, 53]]);
    let (before, after) = (full.vectors("image_embedding"), scaled.vectors("image_embedding"));
    assert!(before[0] != after[0] && before[1] != after[1], "large images differ");
    assert_eq!(before[2], after[2], "a small image is the same");
    for column in ["caption_fingerprint", "embedding_fingerprint"] {
        let ((model, settings), (same_model, others)) = (fingerprint(&full, column), fingerprint(&scaled, column));
        assert!(model == same_model && settings != others, "{column}");
    }
    let off = run("off", &["--set", "input.jpeg_scaling=false"]);
    for column in ["caption_fingerprint", "embedding_fingerprint", "image_embedding"] {
        assert_eq!(full.column(column), off.column(column), "{column}");
    }
    // A text row has the embedding fingerprint of the images whose vectors it can be compared with.
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("image = \"image\"\n", ""));
    let texts = run("texts", &SCALING);
    assert_eq!(texts.column("embedding_fingerprint"), scaled.column("embedding_fingerprint"));
}

#[test]
fn switching_it_on_is_a_changed_setting() {
    let workplace = photographs();
    workplace.run_ok(&[]);
    let plan =
        |arguments: &[&str]| String::from_utf8(workplace.command("plan", arguments).output().unwrap().stdout).unwrap();
    assert!(!plan(&[]).contains("settings changed"));
    let said = plan(&SCALING);
    assert!(said.contains("settings changed"), "{said}");
}

#[test]
fn a_job_without_it_is_the_same_run_as_before_it_existed() {
    let input = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        serde_json::to_value(Job::load(&repo("jobs/sample.toml"), &set).unwrap().input).unwrap()
    };
    assert!(input(&[]).get("jpeg_scaling").is_none());
    assert_eq!(input(&["input.jpeg_scaling=false"]), input(&[]));
    assert_eq!(input(&["input.jpeg_scaling=true"])["jpeg_scaling"], true);
}
