//! Image processors by name, timm and `open_clip`, against transformers 4 and 5, and EXIF orientations against Pillow: see
//! `tests/goldens/make_processors.py` for how the goldens were made.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use nightcap::preprocess::{DecodeLimits, ImageProcessor, Preprocessor, RgbImage, decode, image_processor_table};
use serde_json::{Value, json};

use crate::common::{nightcap, repo};

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(repo("tests/goldens/preprocess").join(name)).unwrap()).unwrap()
}

/// The picture of this name, `WxH`.
fn picture(name: &str) -> RgbImage {
    let (width, height) =
        name.split_once('x').map(|(w, h)| (w.parse::<u32>().unwrap(), h.parse::<u32>().unwrap())).unwrap();
    let value = |x: u32, y: u32, c: u32| ((7 * x + 13 * y + 29 * c + 3 * x * y + x * x) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c)))).collect();
    RgbImage { width, height, pixels }
}

/// The processor of a directory with these files.
fn processor(files: &Value) -> ImageProcessor {
    let names = ["processor_config", "preprocessor_config", "open_clip_config", "config"];
    let file = names.iter().find_map(|name| files.get(*name)).unwrap();
    ImageProcessor::for_model(file, files["config"].as_object()).unwrap_or_else(|error| panic!("{files}: {error}"))
}

fn compare(name: &str) {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (setting, golden) in golden(name).as_object().unwrap() {
        let processor = processor(&golden["files"]);
        for (name, expected) in golden["pictures"].as_object().unwrap() {
            let values = processor.process(&picture(name));
            // Where transformers fails, one side would have no pixel.
            if expected.is_null() {
                continue;
            }
            seen += 1;
            let bytes: Vec<u8> = values.data.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect();
            let found = json!({
                "shape": [3, values.height, values.width], "blake3": blake3::hash(&bytes).to_hex().as_str(),
                "first": f64::from(values.data.to_f32()[0]),
            });
            if found["shape"] != expected["shape"] || found["blake3"] != expected["blake3"] {
                wrong.push(format!(
                    "{setting} {name}: {}\n  expected {expected}\n  found {found}",
                    processor.describe()
                ));
            }
            if let Some(size) = processor.output_size() {
                assert_eq!(size, (values.height, values.width));
            }
            assert!(processor.most_values().is_none_or(|most| most >= values.data.len()), "{setting} {name}");
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 400, "{seen}");
}

#[test]
fn pixels_are_those_of_transformers_4_timm_and_open_clip() {
    compare("processors_4.json");
}

#[test]
fn pixels_are_those_of_transformers_5() {
    compare("processors_5.json");
}

#[test]
fn orientations_are_pillows() {
    let photo = std::fs::read(repo("tests/fixtures/images/orientation_1.jpg")).unwrap();
    let limits = DecodeLimits { max_image_pixels: 1_000_000 };
    let bytes = |digits: &str| -> Vec<u8> {
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    // Without the segments before the first quantization table.
    let start = photo.windows(2).position(|marker| marker == [0xff, 0xdb]).unwrap();
    let with = |segments: &[Vec<u8>]| {
        let mut jpeg = vec![0xff, 0xd8];
        for segment in segments {
            jpeg.extend([0xff, 0xe1]);
            jpeg.extend((segment.len() as u16 + 2).to_be_bytes());
            jpeg.extend(segment);
        }
        decode(&[&jpeg, &photo[start..]].concat(), limits).unwrap()
    };
    let exif = |content: &[u8]| [b"Exif\0\0", content].concat();
    let plain: Vec<_> = (1..=8u8)
        .map(|number| {
            with(&[exif(
                &[b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[number, 0, 0, 0, 0, 0, 0, 0]].concat(),
            )])
        })
        .collect();
    let mut wrong = Vec::new();
    let cases = golden("orientations.json");
    for case in cases.as_array().unwrap() {
        let mut segments: Vec<_> = case["exif"].as_str().map(|digits| exif(&bytes(digits))).into_iter().collect();
        let xmp = |digits: &str| [b"http://ns.adobe.com/xap/1.0/\0".as_slice(), &bytes(digits)].concat();
        segments.extend(case["xmp"].as_str().map(xmp));
        let found = plain.iter().position(|image| *image == with(&segments)).map(|at| at + 1);
        if found != case["orientation"].as_u64().map(|number| number as usize) {
            wrong.push(format!("{}: expected {}, found {found:?}", case["name"], case["orientation"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.as_array().unwrap().len() > 120);
}

/// A copy of the fixture model `name` with this `preprocessor_config.json`.
fn model(name: &str, preprocessor: &Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let entries = |folder: std::path::PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    for entry in entries(repo("tests/fixtures/models").join(name)) {
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(copy.path().join(entry.file_name())).unwrap();
            for inner in entries(entry.path()) {
                std::fs::copy(inner.path(), copy.path().join(entry.file_name()).join(inner.file_name())).unwrap();
            }
        } else {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    std::fs::write(copy.path().join("preprocessor_config.json"), preprocessor.to_string()).unwrap();
    copy
}

#[test]
fn inspect_names_the_keys_that_are_not_read() {
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/fixtures/models/blip/preprocessor_config.json")).unwrap())
            .unwrap();
    config["do_pad"] = json!(true);
    config["size_divisor"] = json!(32);
    let copy = model("blip", &config);
    let output = nightcap().args(["model", "inspect"]).arg(copy.path()).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    let note = "(preprocessor_config.json; not read by this image processor)";
    for line in ["do_pad = true", "size_divisor = 32"] {
        assert!(shown.contains(&format!("  {line}  {note}")), "{shown}");
    }
    assert_eq!(shown.matches(note).count(), 2);
}

#[test]
fn the_model_type_stands_in_for_the_class_only_where_the_file_has_settings() {
    let model = json!({"model_type": "vit"});
    let read = |config: Value| ImageProcessor::for_model(&config, model.as_object());
    assert!(read(json!({"do_resize": true})).unwrap().describe().starts_with("resize 224x224 bilinear"));
    assert!(read(json!({"processor_class": "SomeProcessor"})).unwrap_err().to_string().contains("`size`"));
    let other = json!({"model_type": "somebody's"});
    assert!(ImageProcessor::for_model(&json!({"do_resize": true}), other.as_object()).is_err());
}

#[test]
fn the_documented_table_of_image_processors_is_true() {
    let (document, table) = (std::fs::read_to_string(repo("docs/models.md")).unwrap(), image_processor_table());
    assert!(document.contains(&table), "expected in docs/models.md:\n{table}");
}

#[test]
fn a_very_long_image_is_not_made_larger_in_between() {
    let limits = DecodeLimits { max_image_pixels: 20_000_000 };
    for config in [
        json!({"image_processor_type": "DonutImageProcessor", "size": {"height": 50, "width": 40}}),
        json!({"image_processor_type": "LlavaImageProcessor", "do_pad": true}),
    ] {
        let model = ImageProcessor::from_config(&config).unwrap();
        let preprocessor = Preprocessor { model, embedding: None, jpeg_scaling: false };
        let image = |width: u32| RgbImage { width, height: 1, pixels: vec![77; 3 * width as usize] };
        let error = preprocessor.process_within(limits, &image(60_000)).unwrap_err();
        assert!(error.message.contains("60000 x 1") && error.message.contains("max_image_pixels"), "{error}");
        assert!(preprocessor.process_within(limits, &image(100)).is_ok());
    }
}
