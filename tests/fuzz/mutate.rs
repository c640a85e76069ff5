//! Inputs made of other inputs: changed bytes, values at their extremes, pieces taken away, repeated and put together. Formats with
//! lengths and checksums get them right again most of the time, so that readers look further than the first of them.

use std::ops::Range;

/// What inputs look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Anything.
    Bytes,
    /// Chunks with lengths and checksums.
    Png,
    /// Chunks with lengths, the first of which is the whole file.
    Riff,
    /// Text with values and brackets: JSON, TOML, SQL, templates.
    Text,
    /// A line, then text.
    NamedText,
    /// Tagged fields, some of them with fields inside.
    Protobuf,
    /// A footer with its length behind it.
    Parquet,
    /// Blocks of 512 bytes, of which headers have checksums.
    Tar,
}

/// Pseudorandom numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.any() % bound as u64) as usize }
    }

    /// One of `items`.
    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    fn happens(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// A part of `0..length`, short ones more often than long ones.
    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length);
        let most = 1 << self.below(12);
        start..(start + 1 + self.below(most)).min(length)
    }
}

/// Numbers at which something may overflow.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32_767,
    32_768,
    65_535,
    65_536,
    0x7fff_fffe,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Values of JSON, TOML, SQL and templates that readers stumble over.
const VALUES: [&str; 34] = [
    "0",
    "1",
    "-1",
    "2",
    "255",
    "65536",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0.0",
    "-0.0",
    "1e-320",
    "1e308",
    "1e400",
    "1e99999",
    "NaN",
    "null",
    "true",
    "false",
    "\"\"",
    "''",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "\"\\u0000\"",
    "\"\u{fffd}\u{202e}\"",
];

/// An input like `seed`, perhaps with pieces of `other`, made of `tokens`, of at most `most` bytes.
#[must_use]
pub fn mutate(syntax: Syntax, tokens: &[&str], seed: &[u8], other: &[u8], most: usize, random: &mut Random) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..1 << random.below(4) {
        input = match syntax {
            Syntax::Bytes => bytes(input, tokens, other, random),
            Syntax::Png => png(&input, tokens, other, random),
            Syntax::Riff => riff(bytes(input, tokens, other, random), random),
            Syntax::Text => text(input, tokens, other, random),
            Syntax::NamedText => named(&input, tokens, other, random),
            Syntax::Protobuf => protobuf(&input, tokens, other, random, 0),
            Syntax::Parquet => parquet(input, tokens, other, random),
            Syntax::Tar => tar(bytes(input, tokens, other, random), random),
        };
        input.truncate(most);
    }
    input
}

/// One change that knows nothing of the format.
fn bytes(mut input: Vec<u8>, tokens: &[&str], other: &[u8], random: &mut Random) -> Vec<u8> {
    let length = input.len();
    let range = random.range(length);
    match random.below(14) {
        0..=2 => {
            if let Some(byte) = input.get_mut(range.start) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => input.iter_mut().skip(range.start).take(1).for_each(|byte| *byte = random.any() as u8),
        4 => {
            if let Some(byte) = input.get_mut(range.start) {
                *byte = byte.wrapping_add(random.below(71) as u8).wrapping_sub(35);
            }
        }
        5..=7 => {
            let number = NUMBERS[random.below(NUMBERS.len())].wrapping_add(random.below(3) as u64);
            let size = [1, 2, 4, 8][random.below(4)];
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let written = if random.happens(2) { &little[..size] } else { &big[8 - size..] };
            for (at, byte) in input.iter_mut().skip(range.start).zip(written) {
                *at = *byte;
            }
        }
        8 => drop(input.drain(range)),
        9 => {
            let piece = input[range.clone()].repeat(1 << random.below(6));
            drop(input.splice(range.end..range.end, piece));
        }
        10 => {
            let piece = other.get(random.range(other.len())).unwrap_or_default().to_vec();
            let end = if random.happens(2) { range.start } else { range.end };
            drop(input.splice(range.start..end, piece));
        }
        11 => {
            let token = random.one_of(tokens).map_or(&b""[..], |token| token.as_bytes());
            let end = if random.happens(2) { range.start } else { (range.start + token.len()).min(length) };
            drop(input.splice(range.start..end, token.iter().copied()));
        }
        12 => input.truncate(range.start),
        _ => {
            let filler = [0, 0xff, b'A'][random.below(3)];
            input[range].fill(filler);
        }
    }
    input
}

/// A change of one chunk of a PNG file, or of the order of chunks; checksums are right afterwards.
fn png(input: &[u8], tokens: &[&str], other: &[u8], random: &mut Random) -> Vec<u8> {
    if random.happens(8) {
        return bytes(input.to_vec(), tokens, other, random);
    }
    let mut chunks = png_chunks(input);
    let at = random.below(chunks.len());
    match random.below(8) {
        0 if !chunks.is_empty() => drop(chunks.remove(at)),
        1 if !chunks.is_empty() => {
            let chunk = chunks[at].clone();
            chunks.insert(random.below(chunks.len()), chunk);
        }
        2 => {
            let others = png_chunks(other);
            chunks.splice(at..at, random.one_of(&others).cloned());
        }
        _ => {
            if let Some((_, data)) = chunks.get_mut(at) {
                *data = bytes(std::mem::take(data), tokens, other, random);
            }
        }
    }
    let mut file = input.get(..8).unwrap_or(input).to_vec();
    for (kind, data) in chunks {
        file.extend((data.len() as u32).to_be_bytes());
        let checked = [&kind[..], &data].concat();
        file.extend(&checked);
        file.extend(crc32(&checked).to_be_bytes());
    }
    file
}

fn png_chunks(input: &[u8]) -> Vec<([u8; 4], Vec<u8>)> {
    let mut rest = input.get(8..).unwrap_or_default();
    let mut chunks = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>()
        && let Some((kind, after)) = after.split_first_chunk::<4>()
    {
        let length = (u32::from_be_bytes(*length) as usize).min(after.len());
        chunks.push((*kind, after[..length].to_vec()));
        rest = after.get(length + 4..).unwrap_or_default();
    }
    chunks
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// With the length of the whole file in its header, mostly.
fn riff(mut input: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let length = (input.len() as u32).saturating_sub(8);
    if let (Some(stated), false) = (input.get_mut(4..8), random.happens(16)) {
        stated.copy_from_slice(&length.to_le_bytes());
    }
    input
}

/// With the checksums of headers right, mostly.
fn tar(mut input: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for block in input.chunks_exact_mut(512) {
        if block[257..].starts_with(b"ustar") && !random.happens(16) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    input
}

/// A change of the first line, or of what follows.
fn named(input: &[u8], tokens: &[&str], other: &[u8], random: &mut Random) -> Vec<u8> {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (name, rest) = input.split_at(end);
    if random.happens(8) {
        return [text(name.to_vec(), tokens, other, random), rest.to_vec()].concat();
    }
    [name.to_vec(), text(rest.to_vec(), tokens, other, random)].concat()
}

/// A change that keeps words, values and brackets together.
fn text(mut input: Vec<u8>, tokens: &[&str], other: &[u8], random: &mut Random) -> Vec<u8> {
    let words = words(&input);
    let word = random.one_of(&words).cloned().unwrap_or(0..0);
    match random.below(12) {
        0 => return bytes(input, tokens, other, random),
        1..=3 => drop(input.splice(word, VALUES[random.below(VALUES.len())].bytes())),
        4 => drop(input.splice(word, random.one_of(tokens).copied().unwrap_or_default().bytes())),
        5 => drop(input.splice(word.start..word.start, random.one_of(tokens).copied().unwrap_or_default().bytes())),
        6 => {
            let others = self::words(other);
            let piece = others.get(random.below(others.len())).map(|range| other[range.clone()].to_vec());
            drop(input.splice(word, piece.unwrap_or_default()));
        }
        7 => {
            let other_word = random.one_of(&words).cloned().unwrap_or(0..0);
            let piece = input[other_word].to_vec();
            drop(input.splice(word, piece));
        }
        8 => drop(input.drain(word)),
        9 => {
            // From a bracket to the one that closes it, repeated or taken away.
            let group = group(&input, word.start);
            let times = [0, 2, 3, 40][random.below(4)];
            let piece = input[group.clone()].repeat(times);
            drop(input.splice(group, piece));
        }
        10 => {
            let (open, close) =
                [("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("NOT ", ""), ("-", ""), ("{{", "}}")][random.below(6)];
            let depth = 1 << random.below(15);
            let piece =
                [open.repeat(depth).into_bytes(), input[word.clone()].to_vec(), close.repeat(depth).into_bytes()]
                    .concat();
            drop(input.splice(word, piece));
        }
        _ => {
            let piece = input[word.clone()].repeat(1 << random.below(13));
            drop(input.splice(word, piece.into_iter().take(1 << 16)));
        }
    }
    input
}

/// Runs of letters and digits, strings in quotes, and single signs.
fn words(input: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 0);
    let part_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"_.".contains(byte);
    while let Some(first) = input.get(at) {
        let rest = &input[at + 1..];
        let length = match first {
            b'"' | b'\'' => rest.iter().position(|byte| byte == first).map_or(rest.len(), |end| end + 1),
            first if part_of_word(first) => rest.iter().position(|byte| !part_of_word(byte)).unwrap_or(rest.len()),
            _ => 0,
        };
        if !first.is_ascii_whitespace() {
            found.push(at..at + 1 + length);
        }
        at += 1 + length;
    }
    found
}

/// From the bracket at `start` to the one that closes it; the sign at `start` if it is none.
fn group(input: &[u8], start: usize) -> Range<usize> {
    let mut depth = 0;
    for (at, byte) in input.iter().enumerate().skip(start) {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return start..at + 1;
        }
    }
    start..input.len()
}

/// A field of a protobuf message: its key, and its value without a length.
#[derive(Clone)]
struct Field {
    key: u64,
    value: Vec<u8>,
}

impl Field {
    /// How its value is stored: 0 a varint, 1 and 5 fixed, 2 bytes.
    fn wire(&self) -> u64 {
        self.key & 7
    }
}

/// A change of one field, perhaps of one inside it; the lengths around it are right afterwards.
fn protobuf(input: &[u8], tokens: &[&str], other: &[u8], random: &mut Random, depth: usize) -> Vec<u8> {
    let Some(mut fields) = fields(input).filter(|fields| !fields.is_empty()) else {
        return bytes(input.to_vec(), tokens, other, random);
    };
    let at = random.below(fields.len());
    let is_bytes = fields[at].wire() == 2;
    match random.below(16) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            fields.insert(random.below(fields.len()), copy);
        }
        2 => fields[at].key = (random.below(30) << 3 | (fields[at].key & 7) as usize) as u64,
        3 => fields[at].key = NUMBERS[random.below(NUMBERS.len())],
        4 if is_bytes && depth < 3 => {
            // The field within itself, deeply.
            for _ in 0..1 << random.below(12) {
                fields[at].value = encode(&[fields[at].clone()]);
                if fields[at].value.len() > 1 << 15 {
                    break;
                }
            }
        }
        5 => {
            let others = self::fields(other).unwrap_or_default();
            fields.extend(random.one_of(&others).cloned());
        }
        6 => return bytes(input.to_vec(), tokens, other, random),
        _ if is_bytes && depth < 12 => fields[at].value = protobuf(&fields[at].value, tokens, other, random, depth + 1),
        _ if is_bytes => fields[at].value = bytes(std::mem::take(&mut fields[at].value), tokens, other, random),
        _ if fields[at].wire() == 0 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            fields[at].value = varint(number);
        }
        _ => {
            let size = fields[at].value.len();
            fields[at].value = random.any().to_le_bytes().into_iter().cycle().take(size).collect();
        }
    }
    encode(&fields)
}

fn fields(mut input: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    while !input.is_empty() {
        let key = read_varint(&mut input)?;
        let length = match key & 7 {
            0 => input.iter().position(|byte| byte & 0x80 == 0)? + 1,
            1 => 8,
            2 => usize::try_from(read_varint(&mut input)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = input.split_at_checked(length)?;
        found.push(Field { key, value: value.to_vec() });
        input = rest;
    }
    Some(found)
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let field = |Field { key, value }: &Field| {
        let length = if key % 8 == 2 { varint(value.len() as u64) } else { Vec::new() };
        [varint(*key), length, value.clone()].concat()
    };
    fields.iter().flat_map(field).collect()
}

fn read_varint(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A change of a Parquet file's footer or of its pages; the footer's length is right afterwards.
fn parquet(input: Vec<u8>, tokens: &[&str], other: &[u8], random: &mut Random) -> Vec<u8> {
    if random.happens(16) {
        return bytes(input, tokens, other, random);
    }
    let Some((data, footer)) = parquet_parts(&input) else { return bytes(input, tokens, other, random) };
    let (mut data, mut footer) = (data.to_vec(), footer.to_vec());
    match random.below(8) {
        0 => footer = parquet_parts(other).map_or(footer, |(_, footer)| footer.to_vec()),
        1..=3 => footer = bytes(footer, tokens, other, random),
        // Numbers of Thrift's compact protocol are varints.
        4 => {
            let range = random.range(footer.len());
            let number = varint(NUMBERS[random.below(NUMBERS.len())]);
            drop(footer.splice(range.start..(range.start + 1).min(range.end), number));
        }
        _ => {
            let length = data.len();
            data = bytes(data, tokens, other, random);
            // Pages stay where the footer says.
            data.resize(length, 0);
        }
    }
    let length = (footer.len() as u32).to_le_bytes();
    [&data[..], &footer, &length, b"PAR1"].concat()
}

/// The pages and the footer of a Parquet file.
fn parquet_parts(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, _) = input.split_last_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    rest.split_at_checked(rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_formats_come_back_as_they_were() {
        let field = |key, value: &[u8]| Field { key, value: value.to_vec() };
        let inner = encode(&[field(8, &varint(300)), field(18, b"name")]);
        let message = encode(&[field(10, &inner), field(21, &[1, 2, 3, 4]), field(25, &[0; 8])]);
        assert_eq!(encode(&fields(&message).unwrap()), message);
        assert_eq!(fields(&fields(&message).unwrap()[0].value).unwrap().len(), 2);
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        let png = std::fs::read(super::super::repo("tests/fixtures/images/gray4.png")).unwrap();
        assert!(png_chunks(&png).len() > 2 && png_chunks(&png)[0].0 == *b"IHDR");
        let text = b"{\"a b\": [1.5, x_1]}";
        let seen: Vec<&[u8]> = words(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(seen, [&b"{"[..], b"\"a b\"", b":", b"[", b"1.5", b",", b"x_1", b"]", b"}"]);
        assert_eq!(group(text, 8), 8..18);
        let parquet = [&b"PAR1data"[..], b"footer", &6u32.to_le_bytes(), b"PAR1"].concat();
        assert_eq!(parquet_parts(&parquet), Some((&b"PAR1data"[..], &b"footer"[..])));
    }

    #[test]
    fn a_seed_gives_the_same_inputs_again() {
        let all = |seed: u64| {
            let mut random = Random(seed);
            let kinds = [
                Syntax::Bytes,
                Syntax::Png,
                Syntax::Riff,
                Syntax::Text,
                Syntax::NamedText,
                Syntax::Protobuf,
                Syntax::Parquet,
                Syntax::Tar,
            ];
            let seeds = [&b"{\"a\": [1, 2]}\n{\"b\": null}"[..], b"", b"\x0a\x02\x08\x01"];
            let mut made = Vec::new();
            for round in 0..600 {
                let seed = seeds[round % 3];
                made.extend(kinds.map(|kind| mutate(kind, &["token"], seed, b"other", 1 << 16, &mut random)));
            }
            made
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }
}
