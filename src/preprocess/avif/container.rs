//! AVIF bytes in; out: where the AV1 data of the picture lie, and what the file says of it, as libavif 1.4 reads files for Pillow. The
//! picture is the primary item, one image or a grid of them; that of a sequence is read by `track`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::boxes::{Kind, Reader, damaged, unsupported};
use super::picture::{Avif, Layer};
use super::properties::{Properties, Property};
use super::track;
use crate::row::error::RowError;

/// The shortest side of an image of a grid, in pixels.
const LEAST_TILE: u32 = 64;

/// Whether bytes begin as AVIF; files of other formats that share its container do not.
pub(in crate::preprocess) fn is_avif(bytes: &[u8]) -> bool {
    let Ok(Some((kind, brands))) = Reader::new(bytes).next_box(true) else { return false };
    let mut brands = brands.bytes.chunks_exact(4);
    let is_known = |brand: &[u8]| matches!(brand, b"avif" | b"avis");
    let Some(major) = brands.next() else { return false };
    &kind == b"ftyp" && (is_known(major) || matches!(major, b"mif1" | b"msf1") && brands.skip(1).any(is_known))
}

/// Where the AV1 data of the picture lie.
pub(super) fn read(bytes: &[u8]) -> Result<Avif<'_>, RowError> {
    let mut file = Reader::new(bytes);
    let (mut meta, mut movie) = (None, None);
    let brands = match file.next_box(true)? {
        Some((kind, brands)) if &kind == b"ftyp" && brands.bytes.len() >= 8 => brands.bytes,
        _ => return Err(damaged("its first box is not ftyp")),
    };
    let has = |brand: &[u8]| brands.chunks_exact(4).enumerate().any(|(at, found)| at != 1 && found == brand);
    if !has(b"avif") && !has(b"avis") {
        return Err(unsupported("a file that does not say that it is AVIF"));
    }
    while has(b"avif") && meta.is_none() || has(b"avis") && movie.is_none() {
        match file.next_box(true)? {
            Some((kind, payload)) if &kind == b"meta" => meta = meta.or(Some(payload)),
            Some((kind, payload)) if &kind == b"moov" => movie = movie.or(Some(payload)),
            Some(_) => {}
            None => return Err(damaged("there is no box with its items")),
        }
    }
    match (meta, movie) {
        (_, Some(movie)) if !brands.starts_with(b"avif") => track::read(bytes, movie),
        (Some(meta), _) => Items::read(bytes, meta)?.primary(),
        _ => Err(damaged("there is no box with its items")),
    }
}

/// An item of a file.
#[derive(Default)]
struct Item {
    id: u64,
    kind: Kind,
    /// Of text items.
    content_type: Vec<u8>,
    /// Whether its extents are those of the file (0) or of the items' own data (1).
    construction: u64,
    /// Begin and length in bytes; a length of 0 reaches to the end.
    extents: Vec<(u64, u64)>,
    /// Positions in the list of properties, from 1, and whether a reader must know them.
    properties: Vec<(usize, bool)>,
}

/// The items of a file.
struct Items<'a> {
    file: &'a [u8],
    data: &'a [u8],
    primary: u64,
    by_number: BTreeMap<u64, Item>,
    properties: Vec<Property<'a>>,
    /// Kind, from, and to.
    references: Vec<(Kind, u64, Vec<u64>)>,
}

impl<'a> Items<'a> {
    fn read(file: &'a [u8], mut meta: Reader<'a>) -> Result<Self, RowError> {
        let none =
            || Self { file, data: &[], primary: 0, by_number: BTreeMap::new(), properties: vec![], references: vec![] };
        let mut all = none();
        meta.version_0()?;
        let boxes = meta.boxes()?;
        match boxes.first() {
            Some((kind, payload)) if kind == b"hdlr" && is_picture(payload.bytes) => {}
            _ => return Err(damaged("its items are not those of a picture")),
        }
        for (kind, mut payload) in boxes {
            match &kind {
                b"pitm" => {
                    let (version, _) = payload.version()?;
                    all.primary = payload.integer(if version == 0 { 2 } else { 4 })?;
                }
                b"iloc" => all.read_places(payload)?,
                b"iinf" => all.read_kinds(payload)?,
                b"iref" => {
                    let (version, _) = payload.version()?;
                    let bytes = if version == 0 { 2 } else { 4 };
                    for (kind, mut reference) in payload.boxes()? {
                        let from = reference.integer(bytes)?;
                        let count = reference.integer(2)?;
                        let to = (0..count).map(|_| reference.integer(bytes)).collect::<Result<_, _>>()?;
                        all.references.push((kind, from, to));
                    }
                }
                b"iprp" => {
                    for (kind, payload) in payload.boxes()? {
                        match &kind {
                            b"ipco" => all.properties = Property::list(payload)?,
                            b"ipma" => all.read_associations(payload)?,
                            _ => {}
                        }
                    }
                }
                b"idat" => all.data = payload.bytes,
                _ => {}
            }
        }
        Ok(all)
    }

    fn item(&mut self, id: u64) -> &mut Item {
        self.by_number.entry(id).or_insert_with(|| Item { id, ..Item::default() })
    }

    fn read_places(&mut self, mut places: Reader<'a>) -> Result<(), RowError> {
        let (version, _) = places.version()?;
        let sizes = places.integer(2)?;
        let [offset_bytes, length_bytes, base_bytes, index_bytes] =
            [12, 8, 4, 0].map(|shift| (sizes >> shift & 15) as usize);
        let index_bytes = if version == 0 { 0 } else { index_bytes };
        if version > 2 || [offset_bytes, length_bytes, base_bytes, index_bytes].iter().any(|n| ![0, 4, 8].contains(n)) {
            return Err(damaged("the places of its items are damaged"));
        }
        let id_bytes = if version < 2 { 2 } else { 4 };
        for _ in 0..places.integer(id_bytes)? {
            let id = places.integer(id_bytes)?;
            let construction = if version == 0 { 0 } else { places.integer(2)? & 15 };
            places.integer(2)?;
            let base = places.integer(base_bytes)?;
            let mut extents = Vec::new();
            for _ in 0..places.integer(2)? {
                places.integer(index_bytes)?;
                let offset = places.integer(offset_bytes)?;
                extents.push((base.saturating_add(offset), places.integer(length_bytes)?));
            }
            let item = self.item(id);
            if !item.extents.is_empty() {
                return Err(damaged("an item has two places"));
            }
            (item.construction, item.extents) = (construction, extents);
        }
        Ok(())
    }

    fn read_kinds(&mut self, mut kinds: Reader<'a>) -> Result<(), RowError> {
        let (version, _) = kinds.version()?;
        kinds.integer(if version == 0 { 2 } else { 4 })?;
        for (kind, mut entry) in kinds.boxes()? {
            let (version, _) = entry.version()?;
            if &kind != b"infe" || !matches!(version, 2 | 3) {
                return Err(damaged("the list of its items is damaged"));
            }
            let id = entry.integer(if version == 2 { 2 } else { 4 })?;
            entry.integer(2)?;
            let kind = entry.kind()?;
            let mut texts = entry.bytes.split(|byte| *byte == 0).skip(1);
            let content_type = if &kind == b"mime" { texts.next().unwrap_or_default().to_vec() } else { Vec::new() };
            let item = self.item(id);
            (item.kind, item.content_type) = (kind, content_type);
        }
        Ok(())
    }

    fn read_associations(&mut self, mut associations: Reader<'a>) -> Result<(), RowError> {
        let (version, flags) = associations.version()?;
        let wide = flags & 1 == 1;
        for _ in 0..associations.integer(4)? {
            let id = associations.integer(if version == 0 { 2 } else { 4 })?;
            let mut properties = Vec::new();
            for _ in 0..associations.integer(1)? {
                let value = associations.integer(if wide { 2 } else { 1 })?;
                let essential = 1 << if wide { 15 } else { 7 };
                properties.push(((value & (essential - 1)) as usize, value & essential != 0));
            }
            self.item(id).properties.extend(properties);
        }
        Ok(())
    }

    fn find(&self, id: u64) -> Result<&Item, RowError> {
        self.by_number.get(&id).ok_or_else(|| damaged("an item is missing"))
    }

    fn properties(&self, item: &Item) -> Result<Properties, RowError> {
        let mut all = Properties::default();
        for (at, is_essential) in item.properties.iter().filter(|(at, _)| *at > 0) {
            let property = self.properties.get(at - 1).ok_or_else(|| damaged("a property is missing"))?;
            all.add(property, *is_essential)?;
        }
        Ok(all)
    }

    /// Items that refer to `id`.
    fn referring(&self, kind: Kind, id: u64) -> impl Iterator<Item = u64> {
        let matching = move |reference: &&(Kind, u64, Vec<u64>)| reference.0 == kind && reference.2.contains(&id);
        self.references.iter().filter(matching).map(|reference| reference.1)
    }

    /// The bytes of an item. In total they are no more than the file has.
    fn content(&self, item: &Item) -> Result<Cow<'a, [u8]>, RowError> {
        let from = match item.construction {
            0 => self.file,
            1 => self.data,
            _ => return Err(damaged("the place of an item is of an unknown kind")),
        };
        let mut parts = Vec::new();
        for (begin, length) in &item.extents {
            let begin = usize::try_from(*begin).unwrap_or(usize::MAX);
            let rest = from.get(begin..).ok_or_else(|| damaged("an item lies behind the end of the file"))?;
            let length = if *length == 0 { rest.len() } else { usize::try_from(*length).unwrap_or(usize::MAX) };
            parts.push(rest.get(..length).ok_or_else(|| damaged("an item reaches behind the end of the file"))?);
        }
        match parts[..] {
            [] => Err(damaged("an item has no place")),
            [part] => Ok(Cow::Borrowed(part)),
            _ if parts.iter().map(|part| part.len()).sum::<usize>() > self.file.len() => {
                Err(damaged("the parts of an item overlap"))
            }
            _ => Ok(Cow::Owned(parts.concat())),
        }
    }

    /// The AV1 data of an image or of a grid.
    fn layer(&self, item: &Item, properties: &Properties) -> Result<Layer<'a>, RowError> {
        let (width, height) = properties.size.ok_or_else(|| damaged("an item has no size"))?;
        let layer = |width, height, columns, tiles, tile, operating_point| {
            Ok(Layer { width, height, columns, tiles, tile, operating_point })
        };
        match &item.kind {
            b"av01" => {
                properties.check_image()?;
                let tiles = vec![self.content(item)?];
                layer(width, height, 1, tiles, (width, height), properties.operating_point)
            }
            b"grid" => {
                let content = self.content(item)?;
                let mut grid = Reader::new(&content);
                let (version, flags) = (grid.integer(1)?, grid.integer(1)?);
                let (rows, columns) = (grid.integer(1)? as usize + 1, grid.integer(1)? as usize + 1);
                let bytes = if flags & 1 == 1 { 4 } else { 2 };
                let (width, height) = (grid.integer(bytes)?, grid.integer(bytes)?);
                let is_grid = |reference: &&(Kind, u64, Vec<u64>)| &reference.0 == b"dimg" && reference.1 == item.id;
                let parts = self.references.iter().find(is_grid).map_or(&[][..], |reference| &reference.2);
                if version != 0 || parts.len() != rows * columns {
                    return Err(damaged("a grid of images is damaged"));
                }
                let (mut tiles, mut tile) = (Vec::new(), None);
                for part in parts {
                    let item = self.find(*part)?;
                    let properties = self.properties(item)?;
                    properties.check_image()?;
                    let size = properties.size.ok_or_else(|| damaged("an item has no size"))?;
                    if &item.kind != b"av01" || *tile.get_or_insert(size) != size {
                        return Err(damaged("the images of a grid are not of one kind and size"));
                    }
                    tiles.push(self.content(item)?);
                }
                let tile = tile.unwrap_or_default();
                if tile.0.min(tile.1) < LEAST_TILE
                    || tiles.iter().map(|tile| tile.len()).sum::<usize>() > self.file.len()
                {
                    return Err(damaged("the images of a grid are too small, or overlap in the file"));
                }
                let covered = |tile: u32, count: usize| u64::from(tile) * count as u64;
                let fits =
                    |side: u64, tile: u32, count| covered(tile, count) >= side && covered(tile, count - 1) < side;
                if !fits(width, tile.0, columns) || !fits(height, tile.1, rows) {
                    return Err(damaged("the images of a grid do not cover it"));
                }
                layer(width as u32, height as u32, columns, tiles, tile, 0)
            }
            _ => Err(unsupported("a primary item of another kind")),
        }
    }

    fn primary(&self) -> Result<Avif<'a>, RowError> {
        let item = self.find(self.primary)?;
        let properties = self.properties(item)?;
        let color = self.layer(item, &properties)?;
        if properties.size != Some((color.width, color.height)) {
            return Err(damaged("a grid is not of the size of its item"));
        }
        let mut alpha = None;
        for id in self.referring(*b"auxl", self.primary) {
            let item = self.find(id)?;
            let properties = self.properties(item)?;
            if properties.is_alpha {
                alpha = Some((id, self.layer(item, &properties)?));
                break;
            }
        }
        if alpha.is_none() && &item.kind == b"grid" && self.has_alpha_of_tiles() {
            return Err(unsupported("a grid of images each of which has its own alpha"));
        }
        let is_premultiplied = alpha.as_ref().is_some_and(|(id, _)| {
            let is_prem = |reference: &(Kind, u64, Vec<u64>)| {
                &reference.0 == b"prem" && reference.1 == self.primary && reference.2.contains(id)
            };
            self.references.iter().any(is_prem)
        });
        let (mut exif, mut xmp) = (None, None);
        for id in self.referring(*b"cdsc", self.primary) {
            let item = self.find(id)?;
            match (&item.kind, &item.content_type[..]) {
                (b"Exif", _) => exif = Some(without_offset(self.content(item)?)?),
                (b"mime", b"application/rdf+xml") => xmp = Some(self.content(item)?),
                _ => {}
            }
        }
        let alpha = alpha.map(|(_, layer)| layer);
        let (colors, orientation) = (properties.colors, properties.orientation());
        Ok(Avif { color, alpha, is_premultiplied, colors, orientation, exif, xmp })
    }

    /// Whether an image of the primary grid has an alpha item.
    fn has_alpha_of_tiles(&self) -> bool {
        let grid = self.references.iter().filter(|reference| &reference.0 == b"dimg" && reference.1 == self.primary);
        grid.flat_map(|reference| &reference.2).any(|id| self.referring(*b"auxl", *id).next().is_some())
    }
}

/// Whether a handler box is that of pictures, of version 0 and without a number before the name.
fn is_picture(handler: &[u8]) -> bool {
    handler.first() == Some(&0) && handler.get(4..12) == Some(b"\0\0\0\0pict")
}

/// EXIF begins with the offset of its TIFF header.
fn without_offset(exif: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, RowError> {
    if exif.len() < 4 {
        return Err(damaged("its EXIF is damaged"));
    }
    Ok(match exif {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[4..]),
        Cow::Owned(bytes) => Cow::Owned(bytes[4..].to_vec()),
    })
}
