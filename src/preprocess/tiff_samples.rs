//! The bytes of a TIFF page in, RGB out, as Pillow's table of layouts (`OPEN_INFO` in its `TiffImagePlugin`) reads them. A layout
//! that is not in the table is refused.

use super::jpeg;

/// What the samples of a pixel mean.
#[derive(Clone, Copy)]
pub(super) enum Meaning {
    /// Of 1, 2, 4 or 8 bits; inverted where white is zero.
    Gray {
        inverted: bool,
    },
    /// Of more bits, which Pillow clips at 255: signed or not, or floating point.
    Wide(Number),
    Rgb {
        premultiplied: bool,
    },
    Palette,
    Cmyk,
}

/// A number of 12, 16 or 32 bits.
#[derive(Clone, Copy)]
pub(super) enum Number {
    U12,
    U16,
    I16,
    I32,
    F32,
}

/// The samples of a page.
pub(super) struct Samples {
    pub(super) meaning: Meaning,
    /// Of every sample: 1, 2, 4, 8, 12, 16 or 32.
    pub(super) bits: usize,
    /// Of a pixel.
    pub(super) count: usize,
    pub(super) palette: Vec<[u8; 3]>,
}

/// What the tags say of samples.
pub(super) struct Tags<'a> {
    pub(super) is_little_endian: bool,
    pub(super) photometric: u64,
    pub(super) formats: &'a [u64],
    pub(super) is_reversed: bool,
    pub(super) bits: &'a [u64],
    pub(super) extra: &'a [u64],
}

impl Tags<'_> {
    #[allow(clippy::match_same_arms, reason = "a table, in the order of Pillow's")]
    /// The meaning of samples with these tags; None if Pillow's table lacks them.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        let format = *self.formats.first()?;
        if self.formats.iter().any(|other| *other != format) {
            return None;
        }
        let little = self.is_little_endian;
        let bits = *self.bits.first()?;
        if self.bits.iter().any(|other| *other != bits) {
            return None;
        }
        // The first extra sample may be alpha, the others mean nothing.
        let (first, others) =
            self.extra.split_first().map_or((None, &[][..]), |(first, others)| (Some(*first), others));
        let plain = others.iter().all(|kind| *kind == 0);
        Some(match (self.photometric, format, bits, self.bits.len()) {
            (0, 1, 1 | 2 | 4 | 8, 1) if first.is_none() => Meaning::Gray { inverted: true },
            (1, 1, 1 | 2 | 4 | 8, 1) if first.is_none() => Meaning::Gray { inverted: false },
            (1, 2, 8, 1) if first.is_none() && !self.is_reversed => Meaning::Gray { inverted: false },
            (1, 1, 8, 2) if matches!(first, Some(0 | 2)) && others.is_empty() && !self.is_reversed => {
                Meaning::Gray { inverted: false }
            }
            (1, 1, 12, 1) if little && first.is_none() && !self.is_reversed => Meaning::Wide(Number::U12),
            (_, _, 16 | 32, 1) if self.is_reversed || first.is_some() => return None,
            (1, 1, 16, 1) => Meaning::Wide(Number::U16),
            (0, 1, 16, 1) if little => Meaning::Wide(Number::U16),
            (1, 2, 16, 1) => Meaning::Wide(Number::I16),
            (1, 1, 32, 1) if little => Meaning::Wide(Number::I32),
            (1, 2, 32, 1) => Meaning::Wide(Number::I32),
            (0 | 1, 3, 32, 1) => Meaning::Wide(Number::F32),
            (2, 1, 8, 3) if first.is_none() => Meaning::Rgb { premultiplied: false },
            (2, 1, 8 | 16, _) if self.is_reversed => return None,
            (2, 1, 16, 3) if first.is_none() => Meaning::Rgb { premultiplied: false },
            (2, 1, 8 | 16, 4) if matches!(first, None | Some(0 | 2)) && others.is_empty() => {
                Meaning::Rgb { premultiplied: false }
            }
            (2, 1, 8, 4) if first == Some(999) && others.is_empty() => Meaning::Rgb { premultiplied: false },
            (2, 1, 16, 4) if first == Some(1) && others.is_empty() => Meaning::Rgb { premultiplied: true },
            (2, 1, 8, 4..=6) if plain && self.bits.len() == 3 + self.extra.len() => match first? {
                0 | 2 => Meaning::Rgb { premultiplied: false },
                1 => Meaning::Rgb { premultiplied: true },
                _ => return None,
            },
            (3, 1, 1 | 2 | 4 | 8, 1) if first.is_none() => Meaning::Palette,
            (3, 1, 8, 2) if matches!(first, Some(0 | 2)) && others.is_empty() && !self.is_reversed => Meaning::Palette,
            (5, 1, 8 | 16, 4) if first.is_none() && !self.is_reversed => Meaning::Cmyk,
            (5, 1, 8, 5 | 6) if !self.is_reversed && self.extra.iter().all(|kind| *kind == 0) => {
                (self.bits.len() == 4 + self.extra.len()).then_some(Meaning::Cmyk)?
            }
            _ => return None,
        })
    }
}

impl Samples {
    /// The pixels of `row`, in native byte order, into `out`.
    pub(super) fn unpack(&self, row: &[u8], out: &mut [[u8; 3]]) {
        let bytes = self.bits / 8;
        // The high byte of a sample.
        let high = |pixel: &[u8], sample: usize| {
            pixel[sample * bytes + if cfg!(target_endian = "little") { bytes - 1 } else { 0 }]
        };
        let pixels = row.chunks_exact((bytes * self.count).max(1));
        match self.meaning {
            Meaning::Gray { .. } | Meaning::Palette => {
                for (x, pixel) in out.iter_mut().enumerate() {
                    let index = if self.bits == 8 {
                        row[x * self.count]
                    } else {
                        row[x * self.bits / 8] >> (8 - self.bits - x * self.bits % 8) & (0xff >> (8 - self.bits))
                    };
                    *pixel = if let Meaning::Gray { inverted } = self.meaning {
                        let shade = (u32::from(index) * 255 / (0xff >> (8 - self.bits))) as u8;
                        [if inverted { !shade } else { shade }; 3]
                    } else {
                        self.palette.get(usize::from(index)).copied().unwrap_or_default()
                    };
                }
            }
            Meaning::Wide(Number::U12) => {
                for (x, pixel) in out.iter_mut().enumerate() {
                    let at = x / 2 * 3;
                    let [high, low] = if x % 2 == 0 {
                        [row[at] >> 4, row[at] << 4 | row[at + 1] >> 4]
                    } else {
                        [row[at + 1] & 15, row[at + 2]]
                    };
                    *pixel = [if high > 0 { 255 } else { low }; 3];
                }
            }
            Meaning::Wide(number) => {
                for (pixel, stored) in out.iter_mut().zip(pixels) {
                    *pixel = [number.clipped(stored); 3];
                }
            }
            Meaning::Rgb { premultiplied } => {
                for (pixel, stored) in out.iter_mut().zip(pixels) {
                    *pixel = [0, 1, 2].map(|sample| high(stored, sample));
                    if premultiplied {
                        let alpha = u32::from(high(stored, 3));
                        *pixel =
                            pixel.map(|value| (u32::from(value) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8);
                    }
                }
            }
            Meaning::Cmyk => {
                for (pixel, stored) in out.iter_mut().zip(pixels) {
                    *pixel = jpeg::inverted_cmyk_to_rgb([0, 1, 2, 3].map(|sample| !high(stored, sample)));
                }
            }
        }
    }
}

impl Number {
    fn clipped(self, bytes: &[u8]) -> u8 {
        match (self, bytes) {
            (Self::U16, [a, b, ..]) => u16::from_ne_bytes([*a, *b]).min(255) as u8,
            (Self::I16, [a, b, ..]) => i16::from_ne_bytes([*a, *b]).clamp(0, 255) as u8,
            (Self::I32, [a, b, c, d, ..]) => i32::from_ne_bytes([*a, *b, *c, *d]).clamp(0, 255) as u8,
            // `as` goes to zero, and NaN becomes 0.
            (Self::F32, [a, b, c, d, ..]) => f32::from_ne_bytes([*a, *b, *c, *d]) as u8,
            _ => 0,
        }
    }
}
