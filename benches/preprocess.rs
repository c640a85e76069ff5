//! Decoding and processing one photo of 640 x 427 pixels, given by the environment variable `PHOTO`, else made from a fixture; and
//! decoding one of 12 megapixels, given by `LARGE_PHOTO`, else the fixture enlarged, at full size and as `input.jpeg_scaling` does.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may panic; criterion_group! writes undocumented items"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use image::imageops::FilterType;
use nightcap::preprocess::{DecodeLimits, ImageProcessor, decode, decode_scaled};
use serde_json::json;

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 50_000_000 };

fn photo() -> Vec<u8> {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/photo.jpg");
    std::fs::read(std::env::var("PHOTO").unwrap_or_else(|_| fixture.to_owned())).unwrap()
}

/// A JPEG of 4000 x 3000 pixels with chroma subsampling, as cameras write it.
fn large_photo() -> Vec<u8> {
    if let Ok(path) = std::env::var("LARGE_PHOTO") {
        return std::fs::read(path).unwrap();
    }
    let photo = decode(&photo(), LIMITS).unwrap();
    let photo = image::RgbImage::from_raw(photo.width, photo.height, photo.pixels).unwrap();
    let large = image::imageops::resize(&photo, 4000, 3000, FilterType::CatmullRom);
    let (pixels, format) = (large.as_raw().as_slice(), turbojpeg::PixelFormat::RGB);
    let image = turbojpeg::Image { pixels, width: 4000, pitch: 3 * 4000, height: 3000, format };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2).unwrap().to_vec()
}

fn processor(class: &str) -> ImageProcessor {
    ImageProcessor::from_config(&json!({"image_processor_type": format!("{class}ImageProcessor")})).unwrap()
}

fn preprocess(criterion: &mut Criterion) {
    let bytes = photo();
    let image = decode(&bytes, LIMITS).unwrap();
    let mut group = criterion.benchmark_group(format!("preprocess {}x{}", image.width, image.height));
    group.bench_function("decode", |b| b.iter(|| decode(&bytes, LIMITS).unwrap()));
    for (name, class) in [
        ("vit bilinear 224", "ViT"),
        ("siglip bicubic 224", "Siglip"),
        ("clip bicubic 224 crop", "CLIP"),
        ("blip bicubic 384", "Blip"),
    ] {
        let processor = processor(class);
        group.bench_function(format!("process {name}"), |b| b.iter(|| processor.process(&image)));
    }
    group.finish();
}

fn scaled(criterion: &mut Criterion) {
    let bytes = large_photo();
    let full = decode(&bytes, LIMITS).unwrap();
    let mut group = criterion.benchmark_group(format!("preprocess {}x{}", full.width, full.height));
    group.sample_size(20);
    group.bench_function("decode", |b| b.iter(|| decode(&bytes, LIMITS).unwrap()));
    for (name, class) in [("224", "ViT"), ("384", "Blip")] {
        let processor = processor(class);
        let scale = |width, height| processor.jpeg_scale(width, height);
        let divisor = scale(full.width, full.height).divisor();
        let smaller = decode_scaled(&bytes, LIMITS, scale).unwrap().image;
        group.bench_function(format!("decode at 1/{divisor}, for {name}"), |b| {
            b.iter(|| decode_scaled(&bytes, LIMITS, scale).unwrap());
        });
        group.bench_function(format!("process to {name}"), |b| b.iter(|| processor.process(&full)));
        group.bench_function(format!("process to {name} from 1/{divisor}"), |b| b.iter(|| processor.process(&smaller)));
    }
    group.finish();
}

criterion_group!(benches, preprocess, scaled);
criterion_main!(benches);
