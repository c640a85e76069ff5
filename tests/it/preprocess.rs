//! Preprocessing against Pillow and transformers: see `tests/goldens/make_preprocess.py` for how the goldens were made.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test fails by panicking, and equal means equal bits"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use half::f16;
use nightcap::preprocess::{ConfigError, DecodeLimits, ImageProcessor, JpegScale, RgbImage, decode, memory_needed};
use nightcap::row::error::{ErrorKind, RowError, Stage};
use proptest::prelude::*;
use serde_json::{Value, json};

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 50_000_000 };

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// A fixture by its file name, or a sample photograph by its path in the repository.
fn read(name: &str) -> Vec<u8> {
    let folder = if name.contains('/') { Path::new(env!("CARGO_MANIFEST_DIR")).to_owned() } else { images() };
    std::fs::read(folder.join(name)).unwrap()
}

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/preprocess").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn decode_file(name: &str) -> RgbImage {
    decode(&read(name), LIMITS).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn error_of(bytes: &[u8]) -> RowError {
    let error = decode(bytes, LIMITS).unwrap_err();
    assert_eq!(error.stage, Stage::Preprocess);
    error
}

#[test]
fn every_fixture_has_a_golden() {
    let files: BTreeSet<String> =
        std::fs::read_dir(images()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let (decoded, errors) = (golden("decoded.json"), golden("errors.json"));
    let listed: BTreeSet<String> =
        decoded.as_object().unwrap().keys().chain(errors.as_object().unwrap().keys()).cloned().collect();
    let (photos, listed): (BTreeSet<String>, BTreeSet<String>) =
        listed.into_iter().partition(|name| name.contains('/'));
    assert_eq!(files, listed);
    assert!(files.len() > 80 && photos.len() > 30);
}

#[test]
fn decoded_pixels_are_pillows() {
    let mut wrong = Vec::new();
    for (name, expected) in golden("decoded.json").as_object().unwrap() {
        match decode(&read(name), LIMITS) {
            Ok(image) => {
                let hash = blake3::hash(&image.pixels).to_hex().to_string();
                let found = json!({"width": image.width, "height": image.height, "blake3": hash});
                if &found != expected {
                    wrong.push(format!("{name}: expected {expected}, found {found}"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tensors_are_transformers() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (setting, golden) in golden("tensors.json").as_object().unwrap() {
        let processor = ImageProcessor::from_config(&golden["config"]).unwrap();
        for (name, expected) in golden["files"].as_object().unwrap() {
            let values = processor.process(&decode_file(name));
            seen += 1;
            let bytes: Vec<u8> = values.data.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect();
            let shape = json!([3, values.height, values.width]);
            if shape != expected["shape"] {
                wrong.push(format!("{setting} {name}: expected shape {}, found {shape}", expected["shape"]));
            } else if blake3::hash(&bytes).to_hex().as_str() != expected["blake3"] {
                let samples: Vec<_> = expected["samples"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|sample| {
                        let index = sample[0].as_u64().unwrap() as usize;
                        format!("[{index}] expected {} found {}", sample[1], values.data.to_f32()[index])
                    })
                    .collect();
                wrong.push(format!("{setting} {name}: other bits, e.g. {}", samples.join(", ")));
            }
            if let Some(size) = processor.output_size() {
                assert_eq!(size, (values.height, values.width));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 200);
}

#[test]
fn bad_files_fail_with_their_kind() {
    for (name, kind) in golden("errors.json").as_object().unwrap() {
        let error = error_of(&read(name));
        assert_eq!(error.kind.as_str(), kind, "{name}: {error}");
        assert!(
            !error.message.is_empty() && !nightcap::row::error::ErrorKind::is_transient_name(error.kind.as_str()),
            "{name}"
        );
    }
}

#[test]
fn messages_say_what_was_expected_and_found() {
    assert!(error_of(b"").message.contains("the file is empty"));
    let text = error_of(&read("error_text.jpg")).message;
    assert!(text.contains("54 68 69 73") && text.contains("This") && text.contains("expected JPEG"), "{text}");
    let bomb = error_of(&read("error_bomb.png")).message;
    assert!(bomb.contains("20000 x 20000 = 400000000") && bomb.contains("50000000"), "{bomb}");
    assert!(error_of(&read("error_truncated.jpg")).message.contains("truncated"));
    assert!(error_of(&read("error_jpeg2000.jpg")).message.contains("JPEG 2000"));
}

#[test]
fn the_pixel_limit_is_inclusive() {
    let bytes = read("rgb8.png");
    let limit = |max_image_pixels| decode(&bytes, DecodeLimits { max_image_pixels });
    assert!(limit(160 * 120).is_ok());
    assert_eq!(limit(160 * 120 - 1).unwrap_err().kind, ErrorKind::TooManyPixels);
}

#[test]
fn any_cut_of_a_jpeg_is_an_error() {
    let bytes = read("photo_420_odd.jpg");
    for length in (0..bytes.len()).step_by(61).chain(bytes.len() - 64..bytes.len()) {
        let error = error_of(&bytes[..length]);
        assert!(matches!(error.kind, ErrorKind::CorruptImage | ErrorKind::UnsupportedFormat), "{length}: {error}");
    }
}

fn refused(config: &Value) -> String {
    ImageProcessor::from_config(config).unwrap_err().to_string()
}

/// Without a type, so that every key has to be there.
fn unnamed() -> Value {
    json!({
        "size": {"shortest_edge": 30, "longest_edge": 40}, "resample": 3, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    })
}

const STEPS: [(&str, bool); 6] = [
    ("do_pad", true),
    ("do_image_splitting", true),
    ("do_thumbnail", true),
    ("do_align_long_axis", true),
    ("do_flip_channel_order", true),
    ("do_something_new", true),
];

#[test]
fn without_a_type_keys_that_would_change_pixels_are_refused() {
    let numbers = [("size_divisor", json!(32)), ("crop_pct", json!(0.875)), ("offset", json!(true))];
    for (key, value) in STEPS.map(|(key, value)| (key, json!(value))).into_iter().chain(numbers) {
        let mut config = unnamed();
        config[key] = value;
        let error = ImageProcessor::from_config(&config).unwrap_err();
        assert!(matches!(&error, ConfigError::Unsupported { key: found, .. } if found == key), "{error}");
        config[key] = json!(false);
        assert!(ImageProcessor::from_config(&config).is_ok());
    }
}

#[test]
fn keys_that_a_class_does_not_read_are_named() {
    let plain = ImageProcessor::from_config(&json!({"image_processor_type": "ViTImageProcessor"})).unwrap();
    assert!(plain.ignored().is_empty());
    for (key, value) in STEPS.map(|(key, value)| (key, json!(value))).into_iter().chain([("crop_size", json!("none"))])
    {
        let config = json!({"image_processor_type": "ViTImageProcessor", key: value, "do_convert_rgb": null, "processor_class": "X"});
        let processor = ImageProcessor::from_config(&config).unwrap();
        assert_eq!(processor.ignored(), [key]);
        assert_eq!(processor.describe(), plain.describe());
    }
    // Of the class, but not possible here: images that are not resized may be larger than what they are padded to.
    let donut = json!({"image_processor_type": "DonutImageProcessor", "do_resize": false});
    assert!(matches!(ImageProcessor::from_config(&donut).unwrap_err(), ConfigError::Unsupported { .. }));
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (key, value) in [
        ("size", json!({"height": 0, "width": 4})),
        ("size", json!({"height": 4})),
        ("size", json!({"shortest_edge": 4})),
        ("size", json!({"width": 4, "height": 5, "depth": 6})),
        ("size", json!(-3)),
        ("size", json!("224")),
        ("resample", json!(6)),
        ("resample", json!("bicubic")),
        ("rescale_factor", json!("1/255")),
        ("image_mean", json!([0.5, 0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
        ("image_std", json!([0.5, 1e-60, 0.5])),
        ("do_resize", json!(1)),
        ("image_processor_type", json!("Siglip2ImageProcessor")),
        ("image_processor_type", json!("DINOv3ViTImageProcessorFast")),
    ] {
        let mut config = json!({"image_processor_type": "ViTImageProcessor"});
        config[key] = value;
        let message = refused(&config);
        assert!(message.contains(&format!("`{key}`")) && message.contains("expected"), "{message}");
    }
    assert!(refused(&json!([])).contains("object"));
}

#[test]
fn nothing_is_guessed_without_a_type() {
    let full = unnamed();
    let processor = ImageProcessor::from_config(&full).unwrap();
    assert_eq!(processor.output_size(), None);
    let image = RgbImage { width: 200, height: 100, pixels: vec![128; 60_000] };
    let values = processor.process(&image);
    assert_eq!((values.height, values.width), (20, 40));
    for key in ["size", "resample", "image_mean", "image_std"] {
        let mut part = full.clone();
        part.as_object_mut().unwrap().remove(key);
        assert!(refused(&part).contains(&format!("`{key}`")));
    }
    let nested = ImageProcessor::from_config(&json!({"image_processor": full})).unwrap();
    assert_eq!(nested.describe(), processor.describe());
    let mut longest = full.clone();
    longest["size"] = json!({"longest_edge": 50});
    let values = ImageProcessor::from_config(&longest).unwrap().process(&image);
    assert_eq!((values.height, values.width), (25, 50));
}

#[test]
fn describe_is_one_line_for_people() {
    let describe = |config| ImageProcessor::from_config(&config).unwrap().describe();
    assert_eq!(
        describe(json!({"image_processor_type": "ViTImageProcessor"})),
        "resize 224x224 bilinear, rescale 1/255, mean [0.5, 0.5, 0.5] std [0.5, 0.5, 0.5]"
    );
    let clip = describe(json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "do_normalize": false}));
    assert_eq!(clip, "resize shortest edge 224 bicubic, center crop 224x224, rescale 1/255");
}

#[test]
fn a_very_long_image_needs_no_memory_beyond_its_crop() {
    let processor = ImageProcessor::from_config(&json!({"image_processor_type": "CLIPImageProcessor"})).unwrap();
    let image = RgbImage { width: 60_000, height: 1, pixels: vec![77; 180_000] };
    let values = processor.process(&image);
    assert_eq!((values.height, values.width), (224, 224));
    assert!(values.data.to_f32().chunks(224 * 224).all(|plane| plane.iter().all(|value| value == &plane[0])));
}

#[test]
fn pixels_for_a_float16_graph_are_the_same_values_rounded() {
    let settings = [
        json!({"image_processor_type": "ViTImageProcessor"}),
        json!({"image_processor_type": "CLIPImageProcessor"}),
        json!({"image_processor_type": "CLIPImageProcessor", "do_resize": false, "crop_size": 900}),
        json!({"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 512}}),
    ];
    for config in settings {
        let processor = ImageProcessor::from_config(&config).unwrap();
        let half = processor.clone().with_half_precision();
        assert_eq!(half.most_bytes().unwrap() * 2, processor.most_bytes().unwrap());
        let image = decode_file("sample_data/photos/coffee.jpg");
        let (whole, rounded) = (processor.process(&image), half.process(&image));
        assert_eq!((whole.height, whole.width, whole.grid), (rounded.height, rounded.width, rounded.grid));
        assert_eq!(whole.data.bytes(), 2 * rounded.data.bytes());
        let expected: Vec<_> = whole.data.to_f32().iter().map(|&value| f16::from_f32(value)).collect();
        assert!(rounded.data == expected.into(), "{config}");
    }
}

/// Files to mutate: each format and each decoding path.
const SEEDS: [&str; 16] = [
    "photo_420_odd.jpg",
    "progressive.jpg",
    "cmyk_adobe.jpg",
    "orientation_6.jpg",
    "interlaced.png",
    "palette_alpha.png",
    "orientation_8_behind_pixels.png",
    "gray16.png",
    "animated.gif",
    "frame_inside_screen.gif",
    "lossy_alpha.webp",
    "animated_alpha.webp",
    "orientation_5.webp",
    "palette.bmp",
    "lzw.tiff",
    "orientation_7.tiff",
];

/// How the formats begin.
const STARTS: [&[u8]; 8] = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    b"II*\0",
    b"MM\0*",
    b"",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes make decoding panic, and what it returns is whole.
    #[test]
    fn decoding_damaged_files_returns(
        seed in proptest::sample::select(&SEEDS[..]),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        early_edits in proptest::collection::vec((0usize..200, any::<u8>()), 0..4),
        keep in prop_oneof![3 => Just(1.0f64), 1 => 0.0..1.0],
    ) {
        let mut bytes = read(seed);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for (at, value) in early_edits {
            let at = at.min(bytes.len() - 1);
            bytes[at] = value;
        }
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        let limits = DecodeLimits { max_image_pixels: 1_000_000 };
        let memory = memory_needed(&bytes, limits, |_, _| JpegScale::Full);
        match decode(&bytes, limits) {
            Ok(image) => {
                prop_assert_eq!(image.pixels.len(), 3 * image.width as usize * image.height as usize);
                prop_assert!(image.pixels.len() as u64 <= memory.bytes, "{:?}", memory);
            }
            Err(error) => prop_assert!(!error.message.is_empty()),
        }
    }

    /// Bytes that only begin like an image.
    #[test]
    fn decoding_noise_returns(
        start in proptest::sample::select(&STARTS[..]),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &noise].concat();
        let _ = memory_needed(&bytes, DecodeLimits { max_image_pixels: 1_000_000 }, |_, _| JpegScale::Full);
        if let Ok(image) = decode(&bytes, DecodeLimits { max_image_pixels: 1_000_000 }) {
            prop_assert_eq!(image.pixels.len(), 3 * image.width as usize * image.height as usize);
        }
    }

    /// Any image and any size give a finite tensor of the promised shape.
    #[test]
    fn processing_keeps_its_shape(
        width in 1u32..70, height in 1u32..70, to_width in 1u32..90, to_height in 1u32..90,
        crop in (1u32..90, 1u32..90), resample in 0u32..6, value in any::<u8>(),
    ) {
        let image = RgbImage { width, height, pixels: vec![value; (3 * width * height) as usize] };
        let config = json!({
            "image_processor_type": "CLIPImageProcessor", "size": {"height": to_height, "width": to_width}, "resample": resample,
            "crop_size": {"height": crop.0, "width": crop.1}, "do_normalize": false, "do_rescale": false,
        });
        let values = ImageProcessor::from_config(&config).unwrap().process(&image);
        prop_assert_eq!((values.height, values.width), crop);
        prop_assert_eq!(values.data.len(), (3 * crop.0 * crop.1) as usize);
        // An image of one colour keeps it under every filter; the padding of a crop is black.
        let covered = crop.0.min(to_height) * crop.1.min(to_width);
        let own = values.data.to_f32().iter().filter(|found| **found == f32::from(value)).count();
        prop_assert!(own >= 3 * covered as usize, "{} of {} pixels", own, covered);
    }
}
