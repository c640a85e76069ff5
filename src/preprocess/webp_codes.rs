//! The memory of the prefix codes in lossless WebP data. In: the data of a `VP8L` chunk, or of a compressed `ALPH` chunk. Out: the bytes
//! that the decoder takes for the tables of these codes. Never here: pixels.
//!
//! Images of any size may have 65536 groups of five codes, and a code of 12 bytes makes a table of 4 KB: a file of 4 MB may take
//! 1.3 GB. The codes are read here as the decoder reads them, but no tables are made; the images before them, parameters of
//! transforms for instance, are skipped. <https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification>,
//! sections 4 to 6.

/// Bits that a table of the decoder resolves at once; it has nodes for longer codes.
const TABLE_BITS: usize = 10;
/// Bytes of one entry of a table, of the nodes for one longer code, and of a code itself in a list that grows by doubling.
const ENTRY_BYTES: u64 = 4;
const NODE_BYTES: u64 = 32;
const CODE_BYTES: u64 = 192;
/// Bits of the longest code.
const MOST_BITS: usize = 15;
/// Symbols of green (those of the colour cache come on top), red, blue, alpha and distances.
const ALPHABETS: [usize; 5] = [GREENS + LENGTHS, 256, 256, 256, 40];
const GREENS: usize = 256;
/// Symbols that are lengths of copies.
const LENGTHS: usize = 24;
/// The order in which the lengths of the code for lengths are stored.
const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Bytes of the tables of an image of `width` x `height`; the count ends when it is above `most`. In damaged data, those before the
/// damage.
pub(super) fn table_bytes(data: &[u8], (width, height): (u32, u32), most: u64) -> u64 {
    let mut codes = CodeReader { data, at: 0, tables: 0 };
    // None: the data ends, or is damaged.
    let _ = codes.main_image(width, height, most);
    codes.tables
}

/// Reads bits and codes. None means that the data ends or is damaged.
struct CodeReader<'a> {
    data: &'a [u8],
    /// Bits that were read.
    at: usize,
    /// Bytes of tables that the decoder keeps.
    tables: u64,
}

/// A prefix code.
struct Code {
    /// How many codes have each length.
    counts: [usize; MOST_BITS + 1],
    /// In the order of their codes.
    symbols: Vec<usize>,
}

impl CodeReader<'_> {
    /// Up to the pixels of the image.
    fn main_image(&mut self, mut width: u32, height: u32, most: u64) -> Option<()> {
        let in_blocks = |side: u32, bits: usize| side.div_ceil(1 << bits);
        while self.bits(1)? == 1 {
            match self.bits(2)? {
                0 | 1 => {
                    let bits = self.bits(3)? + 2;
                    self.inner_image(in_blocks(width, bits), in_blocks(height, bits))?;
                }
                2 => {}
                _ => {
                    let colors = self.bits(8)? + 1;
                    self.inner_image(colors as u32, 1)?;
                    let bits_of_pixels =
                        [(2, 3), (4, 2), (16, 1), (256, 0)].iter().find(|(most, _)| colors <= *most)?.1;
                    width = in_blocks(width, bits_of_pixels);
                }
            }
        }
        let alphabets = self.alphabets()?;
        let mut groups = 1;
        if self.bits(1)? == 1 {
            let bits = self.bits(3)? + 2;
            groups += self.inner_image(in_blocks(width, bits), in_blocks(height, bits))?;
        }
        for _ in 0..groups {
            for alphabet in alphabets {
                self.tables += self.code(alphabet)?.table_bytes();
            }
            if self.tables > most {
                break;
            }
        }
        Some(())
    }

    /// Skips an image of parameters. The largest number in the red and green of its pixels: copies and cached colours are repetitions of
    /// pixels that are spelled out.
    fn inner_image(&mut self, width: u32, height: u32) -> Option<usize> {
        let [green, red, blue, alpha, distance] = self.alphabets()?.map(|alphabet| self.code(alphabet));
        let (green, red, blue, alpha, distance) = (green?, red?, blue?, alpha?, distance?);
        let (mut largest, mut left) = (0, width as usize * height as usize);
        while left > 0 {
            let before = self.at;
            let symbol = self.symbol(&green)?;
            left -= if symbol < GREENS {
                largest = largest.max(self.symbol(&red)? << 8 | symbol);
                self.symbol(&blue)?;
                self.symbol(&alpha)?;
                // Pixels that take no bits are all the same.
                if self.at == before { left } else { 1 }
            } else if symbol < GREENS + LENGTHS {
                let length = self.length(symbol - GREENS)?;
                let distance = self.symbol(&distance)?;
                self.length(distance)?;
                length.min(left)
            } else {
                1
            };
        }
        Some(largest)
    }

    /// The number of symbols of each code of a group, after the size of the colour cache.
    fn alphabets(&mut self) -> Option<[usize; 5]> {
        let cache = if self.bits(1)? == 1 { 1 << self.bits(4)? } else { 0 };
        let [green, others @ ..] = ALPHABETS;
        let [red, blue, alpha, distance] = others;
        Some([green + cache, red, blue, alpha, distance])
    }

    /// A code of `alphabet` symbols. None if it names others, as the decoder refuses it too.
    fn code(&mut self, alphabet: usize) -> Option<Code> {
        if self.bits(1)? == 1 {
            let two = self.bits(1)? == 1;
            let bits = if self.bits(1)? == 1 { 8 } else { 1 };
            let first = self.bits(bits)?;
            let symbols = if two { vec![first, self.bits(8)?] } else { vec![first] };
            return symbols.iter().all(|symbol| *symbol < alphabet).then(|| Code::simple(symbols));
        }
        let mut lengths = [0; ORDER.len()];
        for index in ORDER.into_iter().take(self.bits(4)? + 4) {
            lengths[index] = self.bits(3)?;
        }
        let code = Code::of(&lengths)?;
        let mut left = if self.bits(1)? == 1 {
            let bits = 2 + 2 * self.bits(3)?;
            self.bits(bits)? + 2
        } else {
            alphabet
        };
        let (mut lengths, mut previous) = (Vec::with_capacity(alphabet), 8);
        while lengths.len() < alphabet && left > 0 {
            left -= 1;
            let (length, times) = match self.symbol(&code)? {
                length @ ..16 => (length, 1),
                16 => (previous, self.bits(2)? + 3),
                17 => (0, self.bits(3)? + 3),
                _ => (0, self.bits(7)? + 11),
            };
            previous = if length == 0 { previous } else { length };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        (lengths.len() <= alphabet).then(|| Code::of(&lengths))?
    }

    /// The next symbol in `code`; without reading a bit where that has a single one.
    fn symbol(&mut self, code: &Code) -> Option<usize> {
        if let [only] = code.symbols[..] {
            return Some(only);
        }
        // As in zlib's `puff`: codes of one length are consecutive numbers.
        let (mut value, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            value |= self.bits(1)?;
            if value < first + count {
                return code.symbols.get(index + value.checked_sub(first)?).copied();
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        None
    }

    /// A length or distance, whose symbol has extra bits.
    fn length(&mut self, symbol: usize) -> Option<usize> {
        if symbol < 4 {
            return Some(symbol + 1);
        }
        let extra = (symbol - 2) >> 1;
        Some(((2 + (symbol & 1)) << extra) + self.bits(extra)? + 1)
    }

    /// The next `count` bits, at most 24, the lowest first.
    fn bits(&mut self, count: usize) -> Option<usize> {
        let bytes = self.data.get(self.at / 8..).unwrap_or_default();
        let word = bytes.iter().take(4).rev().fold(0, |word, byte| word << 8 | usize::from(*byte));
        if self.at + count > 8 * self.data.len() {
            return None;
        }
        let bits = (word >> (self.at % 8)) & ((1 << count) - 1);
        self.at += count;
        Some(bits)
    }
}

impl Code {
    /// One symbol, or two of one bit each.
    fn simple(symbols: Vec<usize>) -> Self {
        let mut counts = [0; MOST_BITS + 1];
        counts[usize::from(symbols.len() > 1)] = symbols.len();
        Self { counts, symbols }
    }

    /// The canonical code in which the symbol `i` has `lengths[i]` bits; 0: it has no code. None if none has.
    fn of(lengths: &[usize]) -> Option<Self> {
        let mut counts = [0; MOST_BITS + 1];
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        for symbol in &symbols {
            *counts.get_mut(lengths[*symbol])? += 1;
        }
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        (!symbols.is_empty()).then_some(Self { counts, symbols })
    }

    /// Bytes of the decoder's table for this code.
    fn table_bytes(&self) -> u64 {
        if self.symbols.len() < 2 {
            return CODE_BYTES;
        }
        let longest = self.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let longer: usize = self.counts[TABLE_BITS + 1..].iter().sum();
        CODE_BYTES + (ENTRY_BYTES << longest.min(TABLE_BITS)) + NODE_BYTES * (longer as u64 + 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits, the lowest first.
    #[derive(Default)]
    struct Bits(Vec<bool>);

    impl Bits {
        fn put(&mut self, value: usize, count: usize) {
            self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
        }

        fn put_all(&mut self, numbers: &[(usize, usize)]) {
            for (value, count) in numbers {
                self.put(*value, *count);
            }
        }

        /// A code of one symbol.
        fn single(&mut self, symbol: usize) {
            self.put_all(&[(1, 1), (0, 1), (1, 1), (symbol, 8)]);
        }

        /// A code of 11 symbols, the longest of ten bits.
        fn long(&mut self) {
            self.put(0, 1);
            self.put(14 - 4, 4);
            // Lengths 1 to 6 have codes of three bits, 7 to 10 of four.
            let lengths = [0, 0, 0, 3, 3, 3, 3, 3, 0, 3, 4, 4, 4, 4];
            self.put_all(&lengths.map(|length| (length, 3)));
            self.put_all(&[(1, 1), (1, 3), (11 - 2, 4)]);
            for length in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10] {
                let (code, bits) = if length < 7 { (length - 1, 3) } else { (12 + length - 7, 4) };
                (0..bits).rev().for_each(|bit| self.put(code >> bit & 1, 1));
            }
        }

        fn bytes(self) -> Vec<u8> {
            let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
            self.0.chunks(8).map(byte).collect()
        }
    }

    /// Data of a 5 x 1 image with so many groups of five long codes.
    fn with_groups(groups: usize) -> Vec<u8> {
        let mut bits = Bits::default();
        // No transform, no cache, an image of group numbers in blocks of four, without a cache.
        bits.put_all(&[(0, 1), (0, 1), (1, 1), (0, 3), (0, 1)]);
        for value in [(groups - 1) & 0xff, (groups - 1) >> 8, 0, 0, 0] {
            bits.single(value);
        }
        (0..groups * 5).for_each(|_| bits.long());
        // The pixels have codes of one bit.
        bits.put(0, 5 * 4);
        bits.bytes()
    }

    /// A file of that data.
    fn file(groups: usize) -> Vec<u8> {
        let mut bits = Bits::default();
        bits.put_all(&[(0x2f, 8), (4, 14), (0, 14), (0, 1), (0, 3)]);
        let data = [bits.bytes(), with_groups(groups)].concat();
        let chunk = [&b"VP8L"[..], &(data.len() as u32).to_le_bytes(), &data, &[0][..data.len() % 2]].concat();
        [&b"RIFF"[..], &(chunk.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunk].concat()
    }

    #[test]
    fn tables_are_counted_before_they_are_made() {
        use crate::preprocess::{DecodeLimits, JpegScale, decode, memory_needed};
        use crate::row::error::ErrorKind;
        let groups = 1000;
        let one = CODE_BYTES + 4096 + 3 * NODE_BYTES;
        assert_eq!(table_bytes(&with_groups(groups), (5, 1), u64::MAX), 5 * groups as u64 * one);
        assert_eq!(table_bytes(&with_groups(groups), (5, 1), 1 << 20), 5 * one * (1_u64 << 20).div_ceil(5 * one));
        assert_eq!(table_bytes(&[], (5, 1), u64::MAX), 0);

        let limits = DecodeLimits { max_image_pixels: 1 << 20 };
        let small = file(groups);
        assert!(decode(&small, limits).is_ok(), "{:?}", decode(&small, limits));
        let needed = memory_needed(&small, limits, |_, _| JpegScale::Full).bytes;
        assert!((20_000_000..25_000_000).contains(&needed), "{needed}");
        // A file of 240 KB that would take 82 MB for 5 pixels.
        let large = file(4000);
        assert!(large.len() < 260_000);
        let error = decode(&large, limits).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TooManyPixels);
        assert!(error.message.contains("more memory than limits.max_image_pixels allows"), "{error}");
        assert_eq!(memory_needed(&large, limits, |_, _| JpegScale::Full).bytes, 0);
        let larger = DecodeLimits { max_image_pixels: 1 << 23 };
        assert!(decode(&large, larger).is_ok());
    }
}
