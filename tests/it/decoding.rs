//! The memory and time of decoding an image: memory is reserved before it is used, and small files that would take much of it are
//! refused.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use nightcap::preprocess::{DecodeLimits, ImageProcessor, JpegScale, Preprocessor, RgbImage, decode, memory_needed};
use nightcap::row::error::{ErrorKind, RowError};
use serde_json::{Value, json};

use crate::common::{Workplace, peak_memory, repo, strings, write_parquet};

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 100_000_000 };

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(repo("tests/fixtures/images").join(name)).unwrap()
}

fn refused(bytes: &[u8], limits: DecodeLimits) -> RowError {
    decode(bytes, limits).unwrap_err()
}

/// Samples that compress well, most of them zero.
fn samples(count: usize) -> Vec<u8> {
    let mut samples = vec![0; count];
    samples.iter_mut().step_by(4099).enumerate().for_each(|(at, sample)| *sample = at as u8);
    samples
}

fn png(width: u32, height: u32, color: ExtendedColorType, profile: Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::NoFilter);
    if let Some(profile) = profile {
        encoder.set_icc_profile(profile).unwrap();
    }
    let pixels = samples(usize::from(color.bits_per_pixel() / 8) * (width * height) as usize);
    encoder.write_image(&pixels, width, height, color).unwrap();
    bytes
}

fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_raw(width, height, samples(3 * (width * height) as usize)).unwrap();
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn tiff16(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = samples(6 * (width * height) as usize);
    image::codecs::tiff::TiffEncoder::new(&mut bytes)
        .write_image(&pixels, width, height, ExtendedColorType::Rgb16)
        .unwrap();
    bytes.into_inner()
}

fn jpeg(width: usize, height: usize, progressive: bool) -> Vec<u8> {
    let pixels = samples(3 * width * height);
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(progressive).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    compressor.compress_to_vec(image).unwrap()
}

/// The same with an EXIF orientation of 90 degrees.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

fn gif(side: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, side, side, &[0; 6]).unwrap();
    let indices = vec![0; usize::from(side) * usize::from(side)];
    encoder.write_frame(&gif::Frame::from_indexed_pixels(side, side, indices, None)).unwrap();
    drop(encoder);
    bytes
}

/// A classic TIFF file of one strip or tile, `data`; tags with one value each, and the tag for the offset of the data (273 or 324).
fn tiff(tags: &[(u16, u32)], place: u16, data: &[u8]) -> Vec<u8> {
    let mut tags: Vec<(u16, u32)> = tags.to_vec();
    let end = 8 + 2 + 12 * (tags.len() + 2) + 4;
    tags.extend([(place, end as u32), (if place == 273 { 279 } else { 325 }, data.len() as u32)]);
    tags.sort_unstable();
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, value) in tags {
        let kind = if u16::try_from(value).is_ok() { 3 } else { 4u16 };
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([1, value].map(u32::to_le_bytes).concat());
    }
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

/// Runs a job over these images with 16 MiB of `runtime.prefetch_bytes`. All rows must be ok; the most memory it had, in bytes.
fn peak_of_run(images: &[&[u8]], threads: usize) -> u64 {
    let workplace = Workplace::with_images(0, 100);
    let names: Vec<String> = (0..images.len()).map(|row| format!("photos/{row}")).collect();
    for (name, bytes) in names.iter().zip(images) {
        std::fs::write(workplace.path(name), bytes).unwrap();
    }
    let columns = || names.iter().map(Some);
    let columns = vec![("id", strings(columns())), ("image", strings(columns())), ("title", strings(columns()))];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    let threads = format!("runtime.threads={threads}");
    let mut command = workplace.command("run", &["--set", &threads, "--set", "runtime.prefetch_bytes=16777216"]);
    let (status, peak) = peak_memory(command.stderr(std::process::Stdio::null()).spawn().unwrap());
    assert!(status.success());
    let rows = workplace.rows("out", None);
    let errors = rows.text("error_message");
    assert!(rows.len() == images.len() && errors.iter().all(Option::is_none), "{errors:?}");
    peak
}

#[test]
fn images_are_decoded_within_the_memory_budget() {
    // Each takes 128 MB as it is decoded; four threads would take four times as much.
    let large = png(4000, 4000, ExtendedColorType::Rgba16, None);
    assert!(large.len() < 8_000_000, "{}", large.len());
    let idle = peak_of_run(&[&fixture("rgb8.png")], 4);
    let peak = peak_of_run(&[large.as_slice(); 6], 4) - idle;
    assert!(peak < 200_000_000, "{peak} bytes beside the {idle} of a run over one small image");
}

#[test]
fn colour_profiles_are_not_unpacked() {
    let bomb = png(8, 8, ExtendedColorType::Rgb8, Some(vec![0; 256 << 20]));
    assert!(bomb.len() < 2_000_000, "{}", bomb.len());
    let idle = peak_of_run(&[&fixture("rgb8.png")], 1);
    let peak = peak_of_run(&[&bomb], 1).saturating_sub(idle);
    assert!(peak < 32_000_000, "{peak} bytes beside the {idle} of a run over one small image");
    let plain = png(8, 8, ExtendedColorType::Rgb8, None);
    assert_eq!(decode(&bomb, LIMITS).unwrap(), decode(&plain, LIMITS).unwrap());
}

#[test]
fn the_memory_counted_before_decoding_is_what_decoding_takes() {
    let photo = jpeg(4000, 3000, false);
    let images = [
        ("16-bit PNG", png(4000, 3000, ExtendedColorType::Rgba16, None)),
        ("gray PNG", png(4000, 3000, ExtendedColorType::L8, None)),
        ("progressive JPEG", jpeg(4000, 3000, true)),
        ("turned JPEG", turned(&photo)),
        ("JPEG", photo),
        ("WebP", encoded(4000, 3000, ImageFormat::WebP)),
        ("BMP", encoded(4000, 3000, ImageFormat::Bmp)),
        ("16-bit TIFF", tiff16(4000, 3000)),
        ("GIF", gif(4000)),
        ("AVIF", std::fs::read(repo("tests/fixtures/large.avif")).unwrap()),
    ];
    let idle = peak_of_run(&[&fixture("rgb8.png")], 1);
    for (name, bytes) in images {
        let counted = memory_needed(&bytes, LIMITS, |_, _| JpegScale::Full).bytes;
        let taken = peak_of_run(&[&bytes], 1).saturating_sub(idle).saturating_sub(bytes.len() as u64);
        assert!(taken < counted + 8_000_000, "{name}: {counted} bytes were counted, {taken} taken");
        assert!(counted < taken * 2 + 8_000_000, "{name}: {counted} bytes were counted, only {taken} taken");
    }
}

#[test]
fn damaged_png_files_are_failed_rows_without_a_crash() {
    let png = fixture("gray4.png");
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let checked = [&kind[..], data].concat();
        let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        let crc = !checked.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
        [&(data.len() as u32).to_be_bytes()[..], &checked, &crc.to_be_bytes()].concat()
    };
    let pixels = memchr::memmem::find(&png, b"IDAT").unwrap() - 4;
    let palette = fixture("palette.png");
    let after = memchr::memmem::find(&palette, b"IDAT").unwrap() - 4;
    let with_palette = |length| [&palette[..33], &chunk(b"PLTE", &vec![9; length]), &palette[after..]].concat();
    // Pixels whose colour the palette has, as Pillow counts them; the others are black.
    for (length, known) in [(3, 278), (4, 278), (73, 7566), (768, 19200)] {
        let image = decode(&with_palette(length), LIMITS).unwrap();
        let count = |value: u8| image.pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [value; 3]).count();
        assert_eq!((count(9), count(0)), (known, 160 * 120 - known), "{length} bytes");
    }
    for length in [0, 1, 2, 3 * 257] {
        let error = refused(&with_palette(length), LIMITS);
        assert_eq!(error.kind, ErrorKind::CorruptImage);
        assert!(error.message.contains(&format!("found {length} bytes")), "{error}");
    }
    // The decoder sees no metadata, wherever it stands: memory is reserved for the header that it sees.
    let metadata = chunk(b"tEXt", &[0xff; 13]);
    let behind = [&png[..8], &metadata, &png[8..pixels], &png[pixels..]].concat();
    let image = decode(&behind, LIMITS).unwrap();
    let memory = memory_needed(&behind, LIMITS, |_, _| JpegScale::Full);
    assert_eq!((memory.width, memory.height), (image.width, image.height));
    assert_eq!(image, decode(&png, LIMITS).unwrap());
}

#[test]
fn headers_tell_the_size_of_every_image() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/goldens/preprocess/decoded.json")).unwrap()).unwrap();
    let mut seen = 0;
    for name in golden.as_object().unwrap().keys() {
        let bytes = if name.contains('/') { std::fs::read(repo(name)).unwrap() } else { fixture(name) };
        for scale in [JpegScale::Full, JpegScale::Quarter] {
            let memory = memory_needed(&bytes, LIMITS, |_, _| scale);
            let image = nightcap::preprocess::decode_scaled(&bytes, LIMITS, |_, _| scale).unwrap().image;
            assert_eq!((memory.width, memory.height), (image.width, image.height), "{name}");
            let own = image.pixels.len() as u64;
            assert!((own..12 * own + 2 * bytes.len() as u64 + (2 << 20)).contains(&memory.bytes), "{name}: {memory:?}");
        }
        seen += 1;
    }
    assert!(seen > 100);
    let too_large = DecodeLimits { max_image_pixels: 1000 };
    for name in ["rgb8.png", "progressive.jpg", "still.gif", "lossy.webp", "rgb.bmp", "lzw.tiff", "lossy.avif"] {
        let memory = memory_needed(&fixture(name), too_large, |_, _| JpegScale::Full);
        assert_eq!(memory.bytes, 0, "{name} is refused before its pixels need memory");
    }
}

/// A progressive JPEG of 160 x 120 pixels with so many scans in all, the last ones the same.
fn with_scans(count: usize) -> Vec<u8> {
    let bytes = fixture("progressive.jpg");
    let starts: Vec<usize> = memchr::memmem::find_iter(&bytes, b"\xff\xda").collect();
    let (last, end) = (starts[starts.len() - 1], bytes.len() - 2);
    [&bytes[..last], &bytes[last..end].repeat(count + 1 - starts.len()), &bytes[end..]].concat()
}

#[test]
fn a_jpeg_of_more_scans_than_any_encoder_writes_is_refused() {
    let pixels = |max_image_pixels| DecodeLimits { max_image_pixels };
    assert!(decode(&with_scans(100), LIMITS).is_ok());
    let error = refused(&with_scans(2000), LIMITS);
    assert_eq!(error.kind, ErrorKind::CorruptImage);
    assert!(error.message.contains("at most 100 scans in 160 x 120 pixels, found 2000"), "{error}");
    // The largest images allowed may have fewer, and still more than encoders write.
    let largest = pixels(160 * 120);
    assert!(decode(&with_scans(32), largest).is_ok());
    assert!(refused(&with_scans(33), largest).message.contains("at most 32 scans"));
    assert!(decode(&with_scans(64), pixels(2 * 160 * 120)).is_ok());
    assert!(refused(&with_scans(65), pixels(2 * 160 * 120)).message.contains("at most 64 scans"));
}

#[test]
fn tiff_strips_and_tiles_are_no_larger_than_images() {
    let image = [(256, 8), (257, 8), (258, 8), (262, 2)];
    let tile = |side: u32| [&image[..], &[(277, 4), (338, 0), (322, side), (323, side)]].concat();
    decode(&tiff(&tile(16), 324, &[7; 16 * 16 * 4]), LIMITS).unwrap();
    for side in [1 << 16, u32::MAX - 15] {
        let error = refused(&tiff(&tile(side), 324, &[7; 1024]), LIMITS);
        assert_eq!(error.kind, ErrorKind::CorruptImage);
        assert!(error.message.contains(&format!("its tiles of {side} x {side} cover")), "{error}");
    }
    let strip = [&image[..], &[(259, 7), (277, 3)]].concat();
    decode(&tiff(&strip, 273, &jpeg(8, 8, false)), LIMITS).unwrap();
    let error = refused(&tiff(&strip, 273, &jpeg(3000, 3000, false)), LIMITS);
    assert!(error.message.contains("at most 8 x 8 pixels in a strip or tile, found 3000 x 3000"), "{error}");
}

#[test]
fn a_very_long_image_is_not_made_larger_than_images_may_be() {
    let config = json!({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false});
    let model = ImageProcessor::from_config(&config).unwrap();
    let preprocessor = Preprocessor { model, embedding: None, jpeg_scaling: false };
    let image = |width: u32| RgbImage { width, height: 1, pixels: vec![77; 3 * width as usize] };
    let error = preprocessor.process_within(LIMITS, &image(60_000)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooManyPixels);
    assert!(error.message.contains("60000 x 1") && error.message.contains("max_image_pixels"), "{error}");
    assert!(preprocessor.process_within(LIMITS, &image(10)).is_ok());
}
