//! The encoding that fingerprints hash: named, typed values. It depends on nothing but the names and values given here, so that
//! renaming a Rust type, rewording a message or updating serde changes no fingerprint.
//!
//! Each value is one entry: a type byte, the name and the value, the last two preceded by their lengths. A group is an entry
//! that holds entries. No two different sequences of entries have the same bytes.

/// Bytes of named values, and their BLAKE3 hash.
#[derive(Debug, Default)]
pub(crate) struct Canonical {
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    Bytes = 1,
    Text = 2,
    Integer = 3,
    Float = 4,
    Flag = 5,
    Group = 6,
}

impl Canonical {
    /// Text, as UTF-8.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.entry(Kind::Text, name, value.as_bytes());
    }

    /// Bytes, such as another hash.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        self.entry(Kind::Bytes, name, value);
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, name: &str, value: i128) {
        self.entry(Kind::Integer, name, &value.to_le_bytes());
    }

    /// A number, by its bits.
    pub(crate) fn float(&mut self, name: &str, value: f64) {
        self.entry(Kind::Float, name, &value.to_bits().to_le_bytes());
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        self.entry(Kind::Flag, name, &[u8::from(value)]);
    }

    /// A group of the entries that `fill` adds.
    pub(crate) fn group(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        let mut group = Self::default();
        fill(&mut group);
        self.entry(Kind::Group, name, &group.bytes);
    }

    /// Whole numbers in their order.
    pub(crate) fn integers(&mut self, name: &str, values: &[i64]) {
        self.group(name, |group| values.iter().for_each(|&value| group.integer("", value.into())));
    }

    /// Texts in their order.
    pub(crate) fn texts(&mut self, name: &str, values: &[String]) {
        self.group(name, |group| values.iter().for_each(|value| group.text("", value)));
    }

    /// BLAKE3 of all entries.
    #[must_use]
    pub(crate) fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.bytes)
    }

    fn entry(&mut self, kind: Kind, name: &str, value: &[u8]) {
        self.bytes.push(kind as u8);
        for part in [name.as_bytes(), value] {
            self.bytes.extend((part.len() as u64).to_le_bytes());
            self.bytes.extend(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fill: impl FnOnce(&mut Canonical)) -> String {
        let mut canonical = Canonical::default();
        fill(&mut canonical);
        canonical.hash().to_hex()[..16].to_owned()
    }

    #[test]
    fn different_entries_have_different_hashes() {
        let hashes = [
            hash(|_| {}),
            hash(|c| c.text("a", "")),
            hash(|c| c.text("", "a")),
            hash(|c| c.bytes("a", b"")),
            hash(|c| c.text("a", "bc")),
            hash(|c| c.text("ab", "c")),
            hash(|c| {
                c.text("a", "b");
                c.text("a", "c");
            }),
            hash(|c| c.group("a", |group| group.text("b", "c"))),
            hash(|c| {
                c.group("a", |_| {});
                c.text("b", "c");
            }),
            hash(|c| c.integer("a", 1)),
            hash(|c| c.flag("a", true)),
            hash(|c| c.float("a", 1.0)),
            hash(|c| c.float("a", f64::from_bits(1.0f64.to_bits() + 1))),
            hash(|c| c.integers("a", &[1, 2])),
            hash(|c| c.integers("a", &[12])),
            hash(|c| c.texts("a", &["b".to_owned(), String::new()])),
            hash(|c| c.texts("a", &[String::new(), "b".to_owned()])),
        ];
        for (place, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..place].contains(hash), "entry {place} equals an earlier one");
        }
    }

    #[test]
    fn the_encoding_stays_as_it_is() {
        let hash = hash(|c| {
            c.text("text", "a dog");
            c.integer("integer", -7);
            c.float("float", 0.5);
            c.flag("flag", true);
            c.bytes("bytes", &[0, 255]);
            c.integers("integers", &[1, 2, 3]);
            c.texts("texts", &["a".to_owned(), "b".to_owned()]);
        });
        insta::assert_snapshot!(hash, @"a6eb7e07d1c17203");
    }
}
