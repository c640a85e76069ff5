//! The first picture of an AVIF sequence: a movie box in, where the AV1 data of its first sample lie out.

use std::borrow::Cow;

use super::boxes::{Kind, Reader, damaged, unsupported};
use super::picture::{Avif, Layer};
use super::properties::{Properties, Property};
use crate::row::error::RowError;

/// Bytes of a visual sample entry before its boxes.
const ENTRY: usize = 78;

/// A track, as far as it is read.
#[derive(Default)]
struct Track {
    id: u64,
    width: u32,
    height: u32,
    /// Whether it holds pictures or their alpha in AV1.
    is_av1: bool,
    properties: Properties,
    /// Where the first chunk lies, and the bytes of the first sample.
    offset: Option<u64>,
    sample_bytes: Option<u64>,
    /// Tracks that this one refers to, and how.
    references: Vec<(Kind, u64)>,
    has_own_items: bool,
}

pub(super) fn read<'a>(file: &'a [u8], movie: Reader<'a>) -> Result<Avif<'a>, RowError> {
    let mut tracks = Vec::new();
    for (_, track) in movie.boxes()?.into_iter().filter(|(kind, _)| kind == b"trak") {
        let mut found = Track::default();
        found.read(track)?;
        tracks.push(found);
    }
    let refers = |track: &Track, kind: &Kind| track.references.iter().any(|(found, _)| found == kind);
    let color = tracks.iter().find(|track| track.id != 0 && track.is_av1 && !refers(track, b"auxl"));
    let color = color.ok_or_else(|| damaged("there is no track of pictures"))?;
    if color.has_own_items {
        return Err(unsupported("a sequence whose track has metadata"));
    }
    let is_alpha =
        |track: &&Track| track.is_av1 && track.properties.is_alpha && track.references.contains(&(*b"auxl", color.id));
    let alpha = tracks.iter().find(is_alpha);
    let is_premultiplied = alpha.is_some_and(|alpha| color.references.contains(&(*b"prem", alpha.id)));
    Ok(Avif {
        color: color.layer(file)?,
        alpha: alpha.map(|alpha| alpha.layer(file)).transpose()?,
        is_premultiplied,
        colors: color.properties.colors,
        orientation: color.properties.orientation(),
        exif: None,
        xmp: None,
    })
}

impl Track {
    fn read(&mut self, boxes: Reader) -> Result<(), RowError> {
        for (kind, mut payload) in boxes.boxes()? {
            match &kind {
                b"mdia" | b"minf" | b"stbl" => self.read(payload)?,
                b"tkhd" => {
                    let (version, _) = payload.version()?;
                    let long = if version == 1 { 8 } else { 4 };
                    payload.take(2 * long)?;
                    self.id = payload.integer(4)?;
                    payload.take(4 + long + 52)?;
                    (self.width, self.height) =
                        ((payload.integer(4)? >> 16) as u32, (payload.integer(4)? >> 16) as u32);
                }
                b"tref" => {
                    for (kind, mut payload) in payload.boxes()? {
                        while !payload.bytes.is_empty() {
                            self.references.push((kind, payload.integer(4)?));
                        }
                    }
                }
                b"meta" => self.has_own_items = true,
                b"stsd" => {
                    payload.version()?;
                    payload.integer(4)?;
                    if let Some((kind, mut entry)) = payload.next_box(false)?
                        && &kind == b"av01"
                    {
                        self.is_av1 = true;
                        entry.take(ENTRY)?;
                        for property in Property::list(entry)? {
                            self.properties.add(&property, false)?;
                        }
                    }
                }
                b"stco" | b"co64" => {
                    payload.version()?;
                    if payload.integer(4)? > 0 {
                        self.offset = Some(payload.integer(if &kind == b"stco" { 4 } else { 8 })?);
                    }
                }
                b"stsz" => {
                    payload.version()?;
                    let (every, count) = (payload.integer(4)?, payload.integer(4)?);
                    if count > 0 {
                        self.sample_bytes = Some(if every > 0 { every } else { payload.integer(4)? });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn layer<'a>(&self, file: &'a [u8]) -> Result<Layer<'a>, RowError> {
        self.properties.check_image()?;
        let place = self.offset.zip(self.sample_bytes).and_then(|(offset, length)| {
            let offset = usize::try_from(offset).ok()?;
            file.get(offset..)?.get(..usize::try_from(length).ok()?)
        });
        let data = place.ok_or_else(|| damaged("the first picture of the sequence lies behind the end of the file"))?;
        let (width, height) = (self.width, self.height);
        let tiles = vec![Cow::Borrowed(data)];
        Ok(Layer { width, height, columns: 1, tiles, tile: (width, height), operating_point: 0 })
    }
}
