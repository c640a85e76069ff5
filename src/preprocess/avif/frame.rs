//! AV1 data in, rows of samples out, decoded by rav1d. An image in a grid of tiles looks like one image here.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Settings};

use super::boxes::damaged;
use super::picture::Layer;
use super::sequence::Sequence;
use crate::row::error::RowError;

/// A plane of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Luma,
    U,
    V,
}

/// How many samples of chroma there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// None (4:0:0).
    Gray,
    /// Half the columns and half the rows (4:2:0).
    Quarter,
    /// Half the columns (4:2:2).
    Half,
    /// All (4:4:4).
    Full,
}

/// A decoded image. Sizes in pixels.
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    sequence: Sequence,
    columns: usize,
    tile: (usize, usize),
    tiles: Vec<Picture>,
}

impl Frame {
    /// Decodes every tile.
    pub(super) fn decode(layer: &Layer) -> Result<Self, RowError> {
        let (width, height) = layer.tile;
        let tile = (width as usize, height as usize);
        let mut sequence = None;
        let mut tiles = Vec::new();
        for data in &layer.tiles {
            let found = Sequence::of(data)?;
            if *sequence.get_or_insert(found) != found {
                return Err(damaged("the images of a grid differ in their samples"));
            }
            let picture = decode(data, layer)?;
            if (picture.width(), picture.height()) != (width, height) {
                let found = format!("{} x {}", picture.width(), picture.height());
                return Err(damaged(format!("its item has {width} x {height} pixels, its AV1 data have {found}")));
            }
            tiles.push(picture);
        }
        let sequence = sequence.ok_or_else(|| damaged("there are no AV1 data"))?;
        let frame = Self {
            width: layer.width as usize,
            height: layer.height as usize,
            sequence,
            columns: layer.columns,
            tile,
            tiles,
        };
        if frame.tiles.iter().any(|picture| layout(picture) != frame.layout()) {
            return Err(damaged("its AV1 data are not of the layout that their header states"));
        }
        let odd = |side: usize, tile: usize| side % 2 == 1 || tile % 2 == 1;
        let (across, down) = frame.sequence.subsampling;
        let is_odd = across && odd(frame.width, tile.0) || down && odd(frame.height, tile.1);
        if frame.tiles.len() > 1 && is_odd && frame.layout() != Layout::Gray {
            return Err(damaged("the images of a grid have odd sides and fewer samples of chroma"));
        }
        Ok(frame)
    }

    /// Decodes the alpha of `color`.
    pub(super) fn decode_alpha(layer: &Layer, color: &Self) -> Result<Self, RowError> {
        let alpha = Self::decode(layer)?;
        if (alpha.width, alpha.height, alpha.depth()) != (color.width, color.height, color.depth()) {
            return Err(damaged("its alpha is of another size or depth than its colours"));
        }
        Ok(alpha)
    }

    pub(super) const fn layout(&self) -> Layout {
        match (self.sequence.is_monochrome, self.sequence.subsampling) {
            (true, _) => Layout::Gray,
            (false, (true, true)) => Layout::Quarter,
            (false, (true, false)) => Layout::Half,
            _ => Layout::Full,
        }
    }

    /// Bits of a sample: 8, 10 or 12.
    pub(super) const fn depth(&self) -> u32 {
        self.sequence.depth
    }

    pub(super) const fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Samples of chroma in a row.
    pub(super) const fn chroma_width(&self) -> usize {
        match self.layout() {
            Layout::Gray => 0,
            Layout::Full => self.width,
            _ => self.width.div_ceil(2),
        }
    }

    /// Row `y` of a plane, as long as `out`.
    pub(super) fn row(&self, component: Component, y: usize, out: &mut [u16]) {
        let is_luma = component == Component::Luma;
        let halved = |side: usize, is_halved: bool| if is_halved && !is_luma { side.div_ceil(2) } else { side };
        let (across, down) = self.sequence.subsampling;
        let (width, height) = (halved(self.tile.0, across), halved(self.tile.1, down));
        let plane = match component {
            Component::Luma => PlanarImageComponent::Y,
            Component::U => PlanarImageComponent::U,
            Component::V => PlanarImageComponent::V,
        };
        let tiles = &self.tiles[y / height * self.columns..];
        for (picture, out) in tiles.iter().zip(out.chunks_mut(width)) {
            let stride = picture.stride(plane) as usize;
            let samples = picture.plane(plane);
            let row = &samples[y % height * stride..];
            if self.sequence.depth > 8 {
                for (sample, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                    *sample = u16::from_ne_bytes(*bytes);
                }
            } else {
                for (sample, byte) in out.iter_mut().zip(row) {
                    *sample = u16::from(*byte);
                }
            }
        }
    }
}

fn layout(picture: &Picture) -> Layout {
    match picture.pixel_layout() {
        PixelLayout::I400 => Layout::Gray,
        PixelLayout::I420 => Layout::Quarter,
        PixelLayout::I422 => Layout::Half,
        PixelLayout::I444 => Layout::Full,
    }
}

/// The first picture of `data`, which has no more pixels than a tile of `layer`.
fn decode(data: &[u8], layer: &Layer) -> Result<Picture, RowError> {
    let refuse = |error: Error| damaged(format!("its AV1 data are damaged: {error}"));
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    settings.set_operating_point(u32::from(layer.operating_point));
    settings.set_frame_size_limit(layer.tile.0.saturating_mul(layer.tile.1));
    let mut decoder = Decoder::with_settings(&settings).map_err(refuse)?;
    let mut sent = decoder.send_data(data.to_vec(), None, None, None);
    loop {
        match decoder.get_picture() {
            Err(Error::Again) => {}
            result => return result.map_err(refuse),
        }
        match sent {
            Err(Error::Again) => sent = decoder.send_pending_data(),
            Err(error) => return Err(refuse(error)),
            Ok(()) => return Err(damaged("its AV1 data hold no picture")),
        }
    }
}
