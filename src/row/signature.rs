//! Identifies rows and their content across runs: the hash of a row's key, and its content signature. Both are short BLAKE3 hashes,
//! because planning holds one of each for every row of the manifest.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The hash of a row's key: 128 bits of BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u128);

impl KeyHash {
    /// The hash of a key; integers in decimal.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(u128::from_be_bytes(first_bytes(hash(b"key", &[key.as_bytes()]))))
    }

    /// The hash of a row without a key, which is identified by its content alone.
    #[must_use]
    pub fn keyless(signature: Signature) -> Self {
        Self(u128::from_be_bytes(first_bytes(hash(b"keyless", &[&signature.content.to_be_bytes()]))))
    }
}

/// The `content_signature` of a row, written as 32 hex digits.
///
/// Two rows of one key with equal signatures have the same content; 64 bits are enough, since only rows of one key are
/// ever compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Hash of the text and of the image's fingerprint.
    pub content: u64,
    /// Hash of the text alone: says which of the two changed, and whether rows of one image have the same text.
    pub text: u64,
}

impl Signature {
    /// The value of `content` as long as the image was not read.
    const UNREAD: u64 = 0;

    /// Length of [`Signature::to_bytes`].
    pub const BYTES: usize = 16;

    /// The signature of a row with this text and image.
    #[must_use]
    pub fn new(text: TextHash, image: ContentFingerprint) -> Self {
        let values: [&[u8]; 2] = [&text.0.to_be_bytes(), &image.0.to_be_bytes()];
        Self { content: u64::from_be_bytes(first_bytes(hash(b"content", &values))), text: text.0 }
    }

    /// The signature of a row whose image is inside the manifest and was not read yet.
    #[must_use]
    pub const fn unread(text: TextHash) -> Self {
        Self { content: Self::UNREAD, text: text.0 }
    }

    /// This signature, completed by the image's `fingerprint` if the image was not read when it was made.
    #[must_use]
    pub fn or_read(self, fingerprint: impl FnOnce() -> Option<ContentFingerprint>) -> Self {
        let fingerprint = (self.content == Self::UNREAD).then(fingerprint).flatten();
        fingerprint.map_or(self, |fingerprint| Self::new(TextHash(self.text), fingerprint))
    }

    /// The bytes in the records of a run, big-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.content.to_be_bytes());
        bytes[8..].copy_from_slice(&self.text.to_be_bytes());
        bytes
    }

    /// The inverse of [`Signature::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut content, mut text) = ([0; 8], [0; 8]);
        content.copy_from_slice(&bytes[..8]);
        text.copy_from_slice(&bytes[8..]);
        Self { content: u64::from_be_bytes(content), text: u64::from_be_bytes(text) }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.content, self.text)
    }
}

impl FromStr for Signature {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (content, text) = text.split_at_checked(16).unwrap_or((text, ""));
        Ok(Self { content: u64::from_str_radix(content, 16)?, text: u64::from_str_radix(text, 16)? })
    }
}

/// A row's accompanying text and its prompt, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextHash(u64);

impl TextHash {
    /// Hashes a text and a prompt. None as text counts as an empty one; the prompt is None if all rows of the job have the same.
    #[must_use]
    pub fn new(text: Option<&str>, prompt: Option<&str>) -> Self {
        let text = text.unwrap_or_default().as_bytes();
        let hash = match prompt {
            Some(prompt) => hash(b"text and prompt", &[text, prompt.as_bytes()]),
            None => hash(b"text", &[text]),
        };
        Self(u64::from_be_bytes(first_bytes(hash)))
    }
}

/// Which bytes of a file are an image, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHash(u64);

impl PartHash {
    /// All of them.
    pub const WHOLE: Self = Self(0);

    /// Hashes a range of bytes; None: all of them.
    #[must_use]
    pub fn new(bytes: Option<&Range<u64>>) -> Self {
        let Some(Range { start, end }) = bytes else { return Self::WHOLE };
        Self(u64::from_be_bytes(first_bytes(hash(b"bytes", &[&start.to_be_bytes(), &end.to_be_bytes()]))))
    }
}

/// Identifies the content of a row's image without decoding it: a hash of its URI and version, of its bytes, or of the job's
/// signature columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentFingerprint(u64);

impl ContentFingerprint {
    /// The row names no image.
    pub const NOTHING: Self = Self(0);

    /// Of the values of the job's signature columns; None is a null.
    pub fn columns<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut hasher = start(b"columns");
        for value in values {
            feed(&mut hasher, &[u8::from(value.is_some())]);
            feed(&mut hasher, value.unwrap_or_default().as_bytes());
        }
        Self(u64::from_be_bytes(first_bytes(hasher.finalize())))
    }

    /// Of the URI alone, for storage that cannot be listed.
    #[must_use]
    pub fn uri(uri: &str) -> Self {
        Self(u64::from_be_bytes(first_bytes(hash(b"uri", &[uri.as_bytes()]))))
    }

    /// Of this part of the file.
    #[must_use]
    pub fn part(self, part: PartHash) -> Self {
        if part == PartHash::WHOLE {
            return self;
        }
        Self(u64::from_be_bytes(first_bytes(hash(b"part", &[&self.0.to_be_bytes(), &part.0.to_be_bytes()]))))
    }

    /// Of this URI and the version that was listed; None: there is no such object.
    #[must_use]
    pub fn listed(self, version: Option<ListedVersion>) -> Self {
        let ListedVersion(version) = version.unwrap_or(ListedVersion(0));
        Self(u64::from_be_bytes(first_bytes(hash(b"listed", &[&self.0.to_be_bytes(), &version.to_be_bytes()]))))
    }

    /// Of this URI, if its storage could not be listed; `time` is that of the plan. It is equal to no other, so that the row is new.
    #[must_use]
    pub fn not_listed(self, time: u128) -> Self {
        Self(u64::from_be_bytes(first_bytes(hash(b"not listed", &[&self.0.to_be_bytes(), &time.to_be_bytes()]))))
    }

    /// The hash of the URI, by which listings are searched; of a [`ContentFingerprint::uri`] only.
    #[must_use]
    pub const fn uri_hash(self) -> u64 {
        self.0
    }

    /// Of image bytes inside the manifest.
    #[must_use]
    pub fn bytes(content: &blake3::Hash) -> Self {
        Self(u64::from_be_bytes(first_bytes(hash(b"bytes", &[content.as_bytes()]))))
    }
}

/// Size and `ETag` (or modification time) of a listed object, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedVersion(pub u64);

impl ListedVersion {
    /// The version of an object of `size` bytes; `stamp` is its `ETag` or modification time.
    #[must_use]
    pub fn new(size: u64, stamp: &str) -> Self {
        Self(u64::from_be_bytes(first_bytes(hash(b"version", &[&size.to_be_bytes(), stamp.as_bytes()]))))
    }
}

fn start(what: &[u8]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, what);
    hasher
}

/// Hashes `value` with its length, so that different sequences of values never hash the same bytes.
fn feed(hasher: &mut blake3::Hasher, value: &[u8]) {
    hasher.update(&(value.len() as u64).to_be_bytes()).update(value);
}

fn hash(what: &[u8], values: &[&[u8]]) -> blake3::Hash {
    let mut hasher = start(what);
    for value in values {
        feed(&mut hasher, value);
    }
    hasher.finalize()
}

fn first_bytes<const N: usize>(hash: blake3::Hash) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash.as_bytes()[..N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_survive_text_and_bytes_and_tell_changes_apart() {
        let image = ContentFingerprint::uri("a.jpg").listed(Some(ListedVersion::new(10, "etag")));
        let signature = Signature::new(TextHash::new(Some("a dog"), None), image);
        assert_eq!(signature.to_string().parse::<Signature>(), Ok(signature));
        assert_eq!(Signature::from_bytes(signature.to_bytes()), signature);
        let other_text = Signature::new(TextHash::new(Some("a cat"), None), image);
        let prompted = Signature::new(TextHash::new(Some("a dog"), Some("a photo of")), image);
        assert_ne!(prompted.text, signature.text);
        let gone = Signature::new(TextHash::new(Some("a dog"), None), ContentFingerprint::uri("a.jpg").listed(None));
        assert!(other_text.text != signature.text && other_text.content != signature.content);
        assert!(gone.text == signature.text && gone.content != signature.content);
        assert_ne!(ContentFingerprint::columns([None]), ContentFingerprint::columns([Some("")]));
        assert_ne!(
            ContentFingerprint::columns([Some("ab"), Some("c")]),
            ContentFingerprint::columns([Some("a"), Some("bc")])
        );
        assert!("123".parse::<Signature>().is_err());
    }
}
