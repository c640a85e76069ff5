//! Images that are written into a text: `data:` URIs (RFC 2397), and base64 without such a head, which is told to be no path.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The longest name of a file.
const LONGEST_NAME: usize = 255;
/// Shorter texts may be names of files.
const SHORTEST: usize = 64;
/// The beginnings of JPEG, PNG, GIF, WebP and TIFF in base64.
const IMAGES: [&str; 6] = ["/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK"];
/// `ftypavi` behind the length of the first box.
const AVIF: &str = "Z0eXBhdml";
/// Padding may be left out, as browsers take it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether a text is an image, or means to be one, and no path or URI of a file.
#[must_use]
pub fn holds_image(text: &str) -> bool {
    is_data_uri(text) || is_bare_base64(text)
}

fn is_data_uri(text: &str) -> bool {
    text.trim_start().as_bytes().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"))
}

fn is_bare_base64(text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_\r\n".contains(&byte);
    let is_avif = || text.starts_with("AAAA") && text.get(6..).is_some_and(|rest| rest.starts_with(AVIF));
    let is_image = || IMAGES.iter().any(|image| text.starts_with(image)) || is_avif();
    let is_no_path = || text.split('/').any(|name| name.len() > LONGEST_NAME);
    text.len() >= SHORTEST && text.bytes().all(is_base64) && (is_image() || is_no_path())
}

/// The bytes in a `data:` URI, at most `most` of them.
///
/// # Errors
/// What was expected and what was found, without the text itself. `Ok(Err(bytes))`: that many, which is more than `most`.
pub fn decode(text: &str, most: u64) -> Result<Result<Vec<u8>, u64>, String> {
    if !is_data_uri(text) {
        let length = text.len();
        return Err(format!(
            "expected a path or URI, found {length} characters of base64\nhint: put `data:;base64,` in front of it, or write the bytes as a binary column"
        ));
    }
    let found = text.trim().get(5..).unwrap_or_default();
    let Some((head, data)) = found.split_once(',') else {
        return Err("expected a `data:` URI with a comma before the data, found none".to_owned());
    };
    let is_base64 = head.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    // Before anything is decoded: every byte takes a character at least, of base64 four characters for three bytes, or 12 escaped.
    let least = if is_base64 { data.len() as u64 / 12 * 3 } else { data.len() as u64 / 3 };
    if least > most.saturating_mul(2).saturating_add(1 << 20) {
        return Ok(Err(least));
    }
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(data).collect();
    let bytes = if is_base64 {
        let bytes: Vec<u8> = bytes.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        BASE64.decode(bytes).map_err(|error| format!("expected base64 in the `data:` URI: {error}"))?
    } else {
        bytes
    };
    let length = bytes.len() as u64;
    Ok(if length > most { Err(length) } else { Ok(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_uris() {
        let bytes = |text: &str| decode(text, 100).unwrap().unwrap();
        assert_eq!(bytes("data:image/png;base64,aGVsbG8="), b"hello");
        assert_eq!(bytes("DATA:;BASE64,aGVs\n bG8"), b"hello");
        assert_eq!(bytes("data:image/png;name=a;base64,%61GVsbG8%3D"), b"hello");
        assert_eq!(bytes("data:,a%20b%ff,c"), b"a b\xff,c");
        assert_eq!(bytes("data:,"), b"");
        assert!(decode("data:image/png;base64", 100).unwrap_err().contains("comma"));
        assert!(decode("data:;base64,a*b=", 100).unwrap_err().contains("base64"));
        assert_eq!(decode("data:,12345", 4), Ok(Err(5)));
        let long = format!("data:;base64,{}", "AAAA".repeat(1 << 22));
        assert!(matches!(decode(&long, 10), Ok(Err(_))));
    }

    #[test]
    fn base64_is_no_path() {
        for text in [
            "/9j/4AAQSkZJRg".to_owned() + &"A".repeat(60),
            "iVBORw0KGgo".to_owned() + &"/+b".repeat(60),
            "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYx".to_owned() + &"A".repeat(60),
            "x".repeat(300),
        ] {
            assert!(holds_image(&text), "{text}");
            let said = decode(&text, 100).unwrap_err();
            assert!(said.contains("characters of base64") && said.len() < 200, "{said}");
        }
        for text in
            ["/9j/a.jpg", "photos/1.png", "data", "abcd", &"folder/".repeat(100), &format!("{}.jpg", "x".repeat(300))]
        {
            assert!(!holds_image(text), "{text}");
        }
    }
}
