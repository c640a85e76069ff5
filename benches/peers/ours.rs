//! Our side of preprocess.py: `ours STEP CLASS FILE COUNT RESULT` times one step on the JPEG in FILE, COUNT times, prints the median
//! in seconds and writes what the step makes to RESULT (interleaved RGB, or little-endian f32). STEP is `decode`, `process` (of the
//! decoded image) or `both`; `scaled-decode` and `scaled-both` decode as `input.jpeg_scaling` does for the image processor CLASS.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark may panic, and prints"
)]

use std::time::Instant;

use nightcap::preprocess::{DecodeLimits, ImageProcessor, PixelValues, RgbImage, decode, decode_scaled};
use serde_json::json;

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 50_000_000 };

/// The median duration of `count` calls in seconds, and what the last one made.
fn time<T>(count: usize, step: impl Fn() -> T) -> (f64, T) {
    let once = || {
        let begun = Instant::now();
        let made = step();
        (begun.elapsed().as_secs_f64(), made)
    };
    let (mut seconds, mut last) = (Vec::with_capacity(count), once().1);
    for _ in 0..count {
        let (took, made) = once();
        seconds.push(took);
        last = made;
    }
    seconds.sort_by(f64::total_cmp);
    (seconds[count / 2], last)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As a bench without arguments, by `cargo test --all-targets`, there is nothing to do.
    let [step, class, file, count, result] = arguments.as_slice() else {
        eprintln!("usage: ours STEP CLASS FILE COUNT RESULT; see benches/peers/preprocess.py");
        return;
    };
    let (bytes, count) = (std::fs::read(file).unwrap(), count.parse().unwrap());
    let config = json!({"image_processor_type": format!("{class}ImageProcessor")});
    let processor = ImageProcessor::from_config(&config).unwrap();
    let full = || decode(&bytes, LIMITS).unwrap();
    let scaled = || decode_scaled(&bytes, LIMITS, |width, height| processor.jpeg_scale(width, height)).unwrap().image;
    let pixels = |(seconds, image): (f64, RgbImage)| (seconds, image.pixels);
    let tensor = |(seconds, values): (f64, PixelValues)| {
        (seconds, values.data.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect())
    };
    let (seconds, made): (f64, Vec<u8>) = match step.as_str() {
        "decode" => pixels(time(count, full)),
        "scaled-decode" => pixels(time(count, scaled)),
        "process" => {
            let image = full();
            tensor(time(count, || processor.process(&image)))
        }
        "both" => tensor(time(count, || processor.process(&full()))),
        "scaled-both" => tensor(time(count, || processor.process(&scaled()))),
        other => panic!("expected a step, found {other}"),
    };
    std::fs::write(result, made).unwrap();
    println!("{seconds:.9}");
}
