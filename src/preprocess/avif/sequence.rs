//! The sequence header of AV1 data (section 5.5 of its specification): what a decoder's pictures are. The decoder is another one;
//! this header is read before it, so that memory can be counted, and for colours that the file itself does not state.

use super::boxes::damaged;
use crate::row::error::RowError;

/// What a sequence header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Bits of a sample: 8, 10 or 12.
    pub(super) depth: u32,
    pub(super) is_monochrome: bool,
    /// Whether chroma has half the columns, and half the rows.
    pub(super) subsampling: (bool, bool),
    pub(super) primaries: u16,
    pub(super) matrix: u16,
    pub(super) is_full_range: bool,
    /// Whether pictures may have film grain, which a decoder puts on a copy of them.
    pub(super) has_grain: bool,
}

const SEQUENCE_HEADER: u8 = 1;

impl Sequence {
    /// The one header of `data`; an error where a later one differs.
    pub(super) fn of(data: &[u8]) -> Result<Self, RowError> {
        let (mut rest, mut found) = (data, None);
        while let Some((kind, payload)) = next_unit(&mut rest) {
            if kind != SEQUENCE_HEADER {
                continue;
            }
            let header = Self::read(&mut Bits { bytes: payload, at: 0 });
            let header = header.ok_or_else(|| damaged("the sequence header is damaged"))?;
            if *found.get_or_insert(header) != header {
                return Err(damaged("its sequence headers differ"));
            }
        }
        found.ok_or_else(|| damaged("there is no sequence header"))
    }

    fn read(bits: &mut Bits) -> Option<Self> {
        let profile = bits.take(3)?;
        bits.take(1)?;
        let is_reduced = bits.flag()?;
        if is_reduced {
            bits.take(5)?;
        } else {
            skip_operating_points(bits)?;
        }
        let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
        bits.take(width_bits)?;
        bits.take(height_bits)?;
        if !is_reduced && bits.flag()? {
            bits.take(7)?;
        }
        bits.take(3)?;
        if !is_reduced {
            bits.take(4)?;
            let has_order_hint = bits.flag()?;
            if has_order_hint {
                bits.take(2)?;
            }
            let forces_screen_content = if bits.flag()? { 2 } else { bits.take(1)? };
            if forces_screen_content > 0 && !bits.flag()? {
                bits.take(1)?;
            }
            if has_order_hint {
                bits.take(3)?;
            }
        }
        bits.take(3)?;
        let is_deep = bits.flag()?;
        let depth = match (is_deep, profile) {
            (false, _) => 8,
            (true, 2) if bits.flag()? => 12,
            _ => 10,
        };
        let is_monochrome = profile != 1 && bits.flag()?;
        let has_colors = bits.flag()?;
        let [primaries, transfer, matrix] =
            if has_colors { [bits.take(8)?, bits.take(8)?, bits.take(8)?] } else { [2; 3] };
        let is_srgb = !is_monochrome && (primaries, transfer, matrix) == (1, 13, 0);
        let is_full_range = is_srgb || bits.flag()?;
        let subsampling = match profile {
            _ if is_monochrome => (true, true),
            _ if is_srgb => (false, false),
            0 => (true, true),
            1 => (false, false),
            _ if depth == 12 => {
                let across = bits.flag()?;
                (across, across && bits.flag()?)
            }
            _ => (true, false),
        };
        if !is_monochrome {
            let positions = if !is_srgb && subsampling == (true, true) { 2 } else { 0 };
            bits.take(positions + 1)?;
        }
        let has_grain = bits.flag()?;
        let (primaries, matrix) = (primaries as u16, matrix as u16);
        Some(Self { depth, is_monochrome, subsampling, primaries, matrix, is_full_range, has_grain })
    }

    /// Bytes of a pixel of a decoded picture, doubled: half a byte counts.
    pub(super) fn doubled_pixel_bytes(&self) -> u64 {
        let samples = match (self.is_monochrome, self.subsampling) {
            (true, _) => 2,
            (false, (true, true)) => 3,
            (false, (true, false)) => 4,
            _ => 6,
        };
        if self.depth > 8 { samples * 2 } else { samples }
    }
}

fn skip_operating_points(bits: &mut Bits) -> Option<()> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.take(32)?;
        bits.take(32)?;
        if bits.flag()? {
            let zeros = (0..32).take_while(|_| bits.take(1) == Some(0)).count() as u32;
            bits.take(zeros)?;
        }
        if bits.flag()? {
            delay_bits = Some(bits.take(5)? + 1);
            bits.take(32)?;
            bits.take(10)?;
        }
    }
    let has_display_delay = bits.flag()?;
    for _ in 0..=bits.take(5)? {
        bits.take(12)?;
        if bits.take(5)? > 7 {
            bits.take(1)?;
        }
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.take(delay_bits)?;
            bits.take(delay_bits)?;
            bits.take(1)?;
        }
        if has_display_delay && bits.flag()? {
            bits.take(4)?;
        }
    }
    Some(())
}

/// The kind and the payload of the next unit (OBU); None at the end or where its length is damaged.
fn next_unit<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (header, mut bytes) = rest.split_first()?;
    if header & 4 != 0 {
        bytes = bytes.get(1..)?;
    }
    let mut size = bytes.len();
    if header & 2 != 0 {
        let mut stated = 0_u64;
        for number in 0..8 {
            let (byte, after) = bytes.split_first()?;
            bytes = after;
            stated |= u64::from(byte & 0x7f) << (7 * number);
            if byte & 0x80 == 0 {
                break;
            }
        }
        size = usize::try_from(stated).ok()?;
    }
    let (payload, after) = bytes.split_at_checked(size)?;
    *rest = after;
    Some((header >> 3 & 15, payload))
}

/// The bits of a unit, the highest of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        self.take(1).map(|bit| bit == 1)
    }
}
