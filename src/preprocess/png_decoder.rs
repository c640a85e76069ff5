//! The `png` crate's decoder as the `image` crate's trait has it, but for one thing: the checksum of the pixels must hold, as in zlib,
//! which decodes them for Pillow. It is the only one that damaged pixels have, and the `image` crate does not look at it.

use std::io::{BufRead, Seek};

use image::error::{DecodingError, ImageFormatHint, LimitError, LimitErrorKind, UnsupportedError};
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult};
use png::{BitDepth, DecodeOptions, Decoder, Limits, Reader, Transformations};

pub(super) struct PngDecoder<R: BufRead + Seek> {
    reader: Reader<R>,
    color: ColorType,
}

impl<R: BufRead + Seek> PngDecoder<R> {
    /// Reads up to the pixels, with at most `bytes` of memory beside them.
    ///
    /// # Errors
    /// The header is damaged, or needs more memory.
    pub(super) fn new(file: R, bytes: u64) -> ImageResult<Self> {
        let mut options = DecodeOptions::default();
        options.set_ignore_adler32(false);
        let mut decoder = Decoder::new_with_options(file, options);
        decoder.set_limits(Limits { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) });
        decoder.set_transformations(Transformations::EXPAND);
        let reader = decoder.read_info().map_err(refused)?;
        let color = match reader.output_color_type() {
            (png::ColorType::Grayscale, BitDepth::Eight) => ColorType::L8,
            (png::ColorType::Grayscale, BitDepth::Sixteen) => ColorType::L16,
            (png::ColorType::GrayscaleAlpha, BitDepth::Eight) => ColorType::La8,
            (png::ColorType::GrayscaleAlpha, BitDepth::Sixteen) => ColorType::La16,
            (png::ColorType::Rgb, BitDepth::Eight) => ColorType::Rgb8,
            (png::ColorType::Rgb, BitDepth::Sixteen) => ColorType::Rgb16,
            (png::ColorType::Rgba, BitDepth::Eight) => ColorType::Rgba8,
            (png::ColorType::Rgba, BitDepth::Sixteen) => ColorType::Rgba16,
            _ => return Err(ImageError::Unsupported(UnsupportedError::from(hint()))),
        };
        Ok(Self { reader, color })
    }
}

impl<R: BufRead + Seek> ImageDecoder for PngDecoder<R> {
    fn dimensions(&self) -> (u32, u32) {
        self.reader.info().size()
    }

    fn color_type(&self) -> ColorType {
        self.color
    }

    fn read_image(mut self, samples: &mut [u8]) -> ImageResult<()> {
        self.reader.next_frame(samples).map_err(refused)?;
        if self.reader.output_color_type().1 == BitDepth::Sixteen {
            for sample in samples.as_chunks_mut::<2>().0 {
                *sample = u16::from_be_bytes(*sample).to_ne_bytes();
            }
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, samples: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(samples)
    }
}

fn hint() -> ImageFormatHint {
    ImageFormatHint::Exact(ImageFormat::Png)
}

fn refused(error: png::DecodingError) -> ImageError {
    match error {
        png::DecodingError::IoError(error) => ImageError::IoError(error),
        png::DecodingError::LimitsExceeded => {
            ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
        }
        error => ImageError::Decoding(DecodingError::new(hint(), error)),
    }
}
