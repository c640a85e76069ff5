//! Decoding and processing one photo of 640 x 427 pixels, given by the environment variable `PHOTO`, else made from a fixture.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may panic; criterion_group! writes undocumented items"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use nightcap::preprocess::{DecodeLimits, ImageProcessor, decode};
use serde_json::json;

fn photo() -> Vec<u8> {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/photo.jpg");
    std::fs::read(std::env::var("PHOTO").unwrap_or_else(|_| fixture.to_owned())).unwrap()
}

fn preprocess(criterion: &mut Criterion) {
    let limits = DecodeLimits { max_image_pixels: 50_000_000 };
    let bytes = photo();
    let image = decode(&bytes, limits).unwrap();
    let mut group = criterion.benchmark_group(format!("preprocess {}x{}", image.width, image.height));
    group.bench_function("decode", |b| b.iter(|| decode(&bytes, limits).unwrap()));
    for (name, class) in [
        ("vit bilinear 224", "ViT"),
        ("siglip bicubic 224", "Siglip"),
        ("clip bicubic 224 crop", "CLIP"),
        ("blip bicubic 384", "Blip"),
    ] {
        let config = json!({"image_processor_type": format!("{class}ImageProcessor")});
        let processor = ImageProcessor::from_config(&config).unwrap();
        group.bench_function(format!("process {name}"), |b| b.iter(|| processor.process(&image)));
    }
    group.finish();
}

criterion_group!(benches, preprocess);
criterion_main!(benches);
