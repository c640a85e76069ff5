//! Spellings of `..` in the path of a URL that URL parsers leave alone and some servers resolve.

/// Whether a segment of the path is a `..` that URL parsers leave alone and some servers resolve: with an encoded separator, a
/// backslash, a parameter (`..;a=b`) or another end (`%00`), encoded more than once or in a way that no standard has.
///
/// Such a URL is in no root, also if it leads back into one: servers do not agree on where it leads.
pub(super) fn climbs(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    loop {
        let decoded = decoded(&path);
        if decoded.len() == path.len() {
            break;
        }
        path = decoded;
    }
    let name = |segment: &[u8]| segment.split(|byte| b";?#\0".contains(byte)).next() == Some(b"..");
    path.split(|byte| b"/\\".contains(byte)).any(name)
}

/// Bytes that some servers take for another: too long forms of UTF-8, and full-width forms.
const LOOKALIKES: [(&[u8], u8); 9] = [
    (b"\xc0\xae", b'.'),
    (b"\xc0\xaf", b'/'),
    (b"\xc1\x9c", b'\\'),
    (b"\xe0\x80\xae", b'.'),
    (b"\xe0\x80\xaf", b'/'),
    (b"\xe0\x81\x9c", b'\\'),
    ("\u{ff0e}".as_bytes(), b'.'),
    ("\u{ff0f}".as_bytes(), b'/'),
    ("\u{ff3c}".as_bytes(), b'\\'),
];

/// Decodes `%2e`, `%u002e` and what looks like ASCII, once.
fn decoded(mut text: &[u8]) -> Vec<u8> {
    let digits = |text: &[u8], prefix: &[u8], count: usize| {
        let digits = text.strip_prefix(prefix)?.get(..count)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut decoded = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        if let Some(byte) = digits(text, b"%", 2) {
            decoded.push(byte as u8);
            text = &text[3..];
        } else if let Some(character) = digits(text, b"%u", 4).and_then(char::from_u32) {
            decoded.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            text = &text[6..];
        } else if let Some((found, byte)) = LOOKALIKES.iter().find(|(found, _)| text.starts_with(found)) {
            decoded.push(*byte);
            text = &text[found.len()..];
        } else {
            decoded.push(first);
            text = rest;
        }
    }
    decoded
}
