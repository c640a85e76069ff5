//! The compressions of strips and tiles of TIFF files, by their numbers. In: the bytes of one of them. Out: those of its samples.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::Read;

use fax::decoder::{DecodeStatus, Group4Decoder};

pub(super) const RAW: u64 = 1;
pub(super) const CCITT_4: u64 = 4;
pub(super) const LZW: u64 = 5;
/// The JPEG compression of TIFF's technical note 2.
pub(super) const JPEG: u64 = 7;
pub(super) const DEFLATE: u64 = 8;
pub(super) const OLD_DEFLATE: u64 = 32946;
pub(super) const PACKBITS: u64 = 32773;
pub(super) const ZSTD: u64 = 50000;

/// The longest distance to earlier bytes that is taken in zstd, in bytes: what its levels up to 19 use.
pub(super) const ZSTD_WINDOW: u64 = 1 << 23;

/// `length` bytes out of compressed ones, rows of `width` samples; None if they are damaged or too few.
pub(super) fn decompress(compression: u64, data: &[u8], length: usize, width: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; length];
    match compression {
        LZW => {
            let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(weezl::BitOrder::Msb, 8);
            let (mut read, mut written) = (0, 0);
            while written < length {
                let step = decoder.decode_bytes(&data[read..], &mut out[written..]);
                (read, written) = (read + step.consumed_in, written + step.consumed_out);
                match step.status {
                    Ok(weezl::LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
                    _ if written == length => {}
                    _ => return None,
                }
            }
        }
        CCITT_4 => unpack_ccitt_4(data, width, &mut out)?,
        ZSTD => {
            let mut decoder = zstd::stream::read::Decoder::new(data).ok()?;
            decoder.window_log_max(ZSTD_WINDOW.ilog2()).ok()?;
            decoder.read_exact(&mut out).ok()?;
        }
        DEFLATE | OLD_DEFLATE => flate2::read::ZlibDecoder::new(data).read_exact(&mut out).ok()?,
        _ => {
            let (mut data, mut at) = (data, 0);
            while at < length {
                let (control, rest) = data.split_first()?;
                data = rest;
                match usize::from(*control) {
                    128 => {}
                    count @ 129.. => {
                        let (value, rest) = data.split_first()?;
                        data = rest;
                        let end = length.min(at + 257 - count);
                        out[at..end].fill(*value);
                        at = end;
                    }
                    count => {
                        let count = (count + 1).min(length - at);
                        let (literal, rest) = data.split_at_checked(count)?;
                        data = rest;
                        out[at..at + count].copy_from_slice(literal);
                        at += count;
                    }
                }
            }
        }
    }
    Some(out)
}

/// Rows of black and white in the compression of fax machines. The decoder goes on after damage, and what it makes of it ends elsewhere
/// than the data: behind the last row, their end or padding must follow.
fn unpack_ccitt_4(data: &[u8], width: usize, out: &mut [u8]) -> Option<()> {
    let read = Cell::new(0);
    let bytes = data.iter().map(|byte| {
        read.set(read.get() + 1);
        Ok::<u8, Infallible>(*byte)
    });
    let mut decoder = Group4Decoder::new(bytes, u16::try_from(width).ok()?).ok()?;
    for row in out.chunks_exact_mut(width.div_ceil(8)) {
        match decoder.advance() {
            Ok(DecodeStatus::Incomplete) => {}
            _ => return None,
        }
        for black in decoder.transition().chunks(2) {
            let end = black.get(1).map_or(width, |end| usize::from(*end));
            for x in usize::from(black[0])..end {
                row[x / 8] |= 0x80 >> (x % 8);
            }
        }
    }
    match decoder.advance() {
        Ok(DecodeStatus::End) => Some(()),
        Err(_) if data[read.get()..].iter().all(|byte| *byte == 0) => Some(()),
        _ => None,
    }
}
