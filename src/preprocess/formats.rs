//! The image formats that are decoded, and the file name extensions that files of each usually have.

use std::ffi::OsStr;
use std::path::Path;

/// Each format that [`decode()`](super::decode()) takes, with the usual extensions of its files.
pub const FORMATS: [(&str, &[&str]); 7] = [
    ("JPEG", &["jpg", "jpeg", "jpe", "jfif"]),
    ("PNG", &["png", "apng"]),
    ("GIF", &["gif"]),
    ("WebP", &["webp"]),
    ("BMP", &["bmp", "dib"]),
    ("TIFF", &["tif", "tiff"]),
    ("AVIF", &["avif", "avifs"]),
];

/// Whether a file is an image as far as its name says, whatever its case. Decoding never asks this: it looks at the bytes.
#[must_use]
pub fn has_image_extension(path: &Path) -> bool {
    let Some(extension) = path.extension().and_then(OsStr::to_str) else { return false };
    FORMATS.iter().any(|(_, extensions)| extensions.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::{DecodeLimits, decode};

    /// The fixtures hold images of every format; each is decoded, and has an extension of the table.
    #[test]
    fn what_is_decoded_has_an_extension() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        let mut decoded = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let limits = DecodeLimits { max_image_pixels: 1 << 20 };
            if decode(&std::fs::read(&path).unwrap(), limits).is_err() {
                continue;
            }
            assert!(has_image_extension(&path), "{}", path.display());
            let extension = path.extension().unwrap().to_str().unwrap();
            let format = FORMATS.iter().find(|(_, extensions)| extensions.contains(&extension)).unwrap();
            decoded.insert(format.0);
        }
        assert_eq!(decoded.len(), FORMATS.len(), "{decoded:?}");
        assert!(has_image_extension(Path::new("a/B.JPeG")));
        for other in ["jpg", "a.jpg.txt", "a", "a.", "a.heic"] {
            assert!(!has_image_extension(Path::new(other)), "{other}");
        }
    }
}
