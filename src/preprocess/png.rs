//! The few facts about a PNG file that the `image` crate does not give: metadata behind the pixels, and the gray of 16 bits.

use image::metadata::Orientation;

use super::orientation;

/// The chunks (type, data) of a PNG file, up to the first damaged one.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_at_checked(4)?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = after.get(4..)?; // the checksum is the decoder's business
        Some((kind, data))
    })
}

/// Orientation from `eXIf`, else from uncompressed XMP text.
pub(super) fn orientation(bytes: &[u8]) -> Orientation {
    let (mut exif, mut xmp) = (None, None);
    for (kind, data) in chunks(bytes) {
        match kind {
            b"eXIf" => exif = Some(data),
            b"iTXt" => xmp = data.strip_prefix(b"XML:com.adobe.xmp\0\0").or(xmp),
            _ => {}
        }
    }
    orientation::find(exif, xmp)
}

/// Whether the header says 16 bits of gray without an alpha channel.
pub(super) fn is_gray16(bytes: &[u8]) -> bool {
    chunks(bytes).next().is_some_and(|(_, header)| matches!(header, [_, _, _, _, _, _, _, _, 16, 0, ..]))
}
