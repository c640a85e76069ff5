//! The properties of AVIF items and tracks: boxes in, what they say of a picture out.

use super::boxes::{Kind, Reader, damaged, unsupported};
use crate::row::error::RowError;

/// Colours as an `nclx` box states them, by the numbers of ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colors {
    pub(super) primaries: u16,
    pub(super) matrix: u16,
    pub(super) is_full_range: bool,
}

/// A property box.
pub(super) struct Property<'a> {
    kind: Kind,
    payload: Reader<'a>,
}

impl<'a> Property<'a> {
    pub(super) fn list(boxes: Reader<'a>) -> Result<Vec<Self>, RowError> {
        Ok(boxes.boxes()?.into_iter().map(|(kind, payload)| Self { kind, payload }).collect())
    }
}

/// What the properties of an item say.
#[derive(Default)]
pub(super) struct Properties {
    /// Width and height in pixels.
    pub(super) size: Option<(u32, u32)>,
    /// The first statement of colours counts.
    pub(super) colors: Option<Colors>,
    pub(super) is_alpha: bool,
    pub(super) operating_point: u8,
    /// Bits of a sample, by the decoder's configuration.
    depth: Option<u32>,
    /// Bits of a sample of every channel, where the file states them.
    stated_depths: Vec<u8>,
    /// Quarters of a turn, against the clock.
    angle: Option<u8>,
    /// Whether the mirror is a vertical axis.
    mirror: Option<bool>,
}

impl Properties {
    /// The first property of a kind counts.
    pub(super) fn add(&mut self, property: &Property, is_essential: bool) -> Result<(), RowError> {
        let mut payload = property.payload;
        match &property.kind {
            b"ispe" if self.size.is_none() => {
                payload.version_0()?;
                let (width, height) = (payload.integer(4)?, payload.integer(4)?);
                self.size = Some((width as u32, height as u32));
            }
            b"pixi" if self.stated_depths.is_empty() => {
                payload.version_0()?;
                let channels = payload.integer(1)? as usize;
                self.stated_depths = payload.take(channels)?.to_vec();
            }
            b"av1C" if self.depth.is_none() => {
                let (marker, _, flags) = (payload.integer(1)?, payload.integer(1)?, payload.integer(1)?);
                if marker != 0x81 {
                    return Err(damaged("the configuration of its decoder is of another version"));
                }
                self.depth = Some(if flags & 0x40 == 0 {
                    8
                } else if flags & 0x20 == 0 {
                    10
                } else {
                    12
                });
            }
            b"colr" if self.colors.is_none() && payload.bytes.starts_with(b"nclx") => {
                payload.take(4)?;
                let (primaries, _, matrix) = (payload.integer(2)?, payload.integer(2)?, payload.integer(2)?);
                let is_full_range = payload.integer(1)? & 0x80 != 0;
                self.colors = Some(Colors { primaries: primaries as u16, matrix: matrix as u16, is_full_range });
            }
            b"auxC" | b"auxi" => {
                payload.version()?;
                let name = payload.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                self.is_alpha |=
                    matches!(name, b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha" | b"urn:mpeg:hevc:2015:auxid:1");
            }
            b"irot" if self.angle.is_none() => self.angle = Some((payload.integer(1)? & 3) as u8),
            b"imir" if self.mirror.is_none() => self.mirror = Some(payload.integer(1)? & 1 == 1),
            b"a1op" => self.operating_point = payload.integer(1)? as u8,
            b"lsel" if payload.integer(2)? != 0xffff => return Err(unsupported("one layer of a picture in layers")),
            b"ispe" | b"pixi" | b"av1C" | b"colr" | b"irot" | b"imir" | b"lsel" | b"pasp" | b"clap" | b"a1lx"
            | b"clli" => {}
            _ if is_essential => return Err(unsupported("a property that a reader must know")),
            _ => {}
        }
        Ok(())
    }

    /// Refuses an image without a decoder's configuration, or with one of other bits than are stated.
    pub(super) fn check_image(&self) -> Result<(), RowError> {
        let depth = self.depth.ok_or_else(|| damaged("an image has no configuration of its decoder"))?;
        if self.stated_depths.iter().any(|stated| u32::from(*stated) != depth) {
            return Err(damaged("the bits of its samples are stated twice, and differ"));
        }
        Ok(())
    }

    /// The number that EXIF has for the rotation and, after it, the mirror, as Pillow maps them.
    pub(super) fn orientation(&self) -> u8 {
        match (self.angle.unwrap_or(0), self.mirror) {
            (1, None) => 8,
            (1, Some(true)) | (3, Some(false)) => 7,
            (1, Some(false)) | (3, Some(true)) => 5,
            (2, None) => 3,
            (2, Some(true)) | (0, Some(false)) => 4,
            (2, Some(false)) | (0, Some(true)) => 2,
            (3, None) => 6,
            _ => 1,
        }
    }
}
