//! Checks the keys of a job file. The structs that it is read into are the only list of keys. An unknown key is an error that names the
//! nearest known one; no key is ignored.

use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::JobFileError;
use super::file::JobFile;
use crate::support::nearest::did_you_mean;

/// A section's name and its keys.
pub(super) type Section = (&'static str, &'static [&'static str]);

/// The sections of a job file with their keys, in the order of the structs.
pub(super) static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| {
    let mut sections = Vec::new();
    // Fails if a key or section is required; then a test finds the table empty.
    let _ = JobFile::deserialize(Fields { name: None, sections: &mut sections });
    sections
});

/// Checks that section `section` and, if given, its key `key` exist.
pub(super) fn check(section: &str, key: Option<&str>) -> Result<(), JobFileError> {
    let Some((_, keys)) = SECTIONS.iter().find(|(name, _)| *name == section) else {
        let names: Vec<_> = SECTIONS.iter().map(|(name, _)| name).collect();
        let hint = did_you_mean(section, &names, |name| format!("[{name}]"));
        return Err(JobFileError::UnknownSection { section: section.to_owned(), hint });
    };
    match key {
        Some(key) if !keys.contains(&key) => {
            Err(JobFileError::UnknownKey { key: format!("{section}.{key}"), hint: hint(key, keys) })
        }
        _ => Ok(()),
    }
}

/// A hint for an unknown key: the same key of another section, or a similar key.
fn hint(key: &str, keys: &[&str]) -> String {
    let elsewhere = SECTIONS.iter().filter(|(_, keys)| keys.contains(&key));
    let elsewhere: Vec<_> = elsewhere.map(|(section, _)| format!("[{section}]")).collect();
    if elsewhere.is_empty() {
        return did_you_mean(key, keys, |name| format!("`{name}`"));
    }
    format!("`{key}` is a key of {}; is that line missing above it?", elsewhere.join(" and "))
}

/// A deserializer of an empty job file, which records the names of the fields that a struct asks for.
struct Fields<'a> {
    /// The section, or None for the whole file.
    name: Option<&'static str>,
    sections: &'a mut Vec<Section>,
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.name {
            Some(name) => {
                self.sections.push((name, fields));
                visitor.visit_map(EachSection { left: std::slice::Iter::default(), name: "", sections: self.sections })
            }
            None => visitor.visit_map(EachSection { left: fields.iter(), name: "", sections: self.sections }),
        }
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The file's sections, each with [`Fields`] as its value; of a section, no keys at all.
struct EachSection<'a> {
    left: std::slice::Iter<'static, &'static str>,
    name: &'static str,
    sections: &'a mut Vec<Section>,
}

impl<'de> MapAccess<'de> for EachSection<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.left.next() else { return Ok(None) };
        self.name = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Fields { name: Some(self.name), sections: self.sections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_tell_their_fields() {
        let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["input", "model", "generation", "embedding", "output", "runtime", "limits", "storage"]);
        assert!(SECTIONS.iter().all(|(_, keys)| !keys.is_empty()));
        assert!(SECTIONS[0].1.contains(&"where"), "as a job has it, not as Rust does");
    }

    #[test]
    fn unknown_names() {
        let error = |section, key| check(section, key).unwrap_err().to_string();
        assert_eq!(error("outputs", None), "unknown section [outputs]\nhint: did you mean [output]?");
        assert_eq!(error("input", Some("kye")), "unknown key `input.kye`\nhint: did you mean `key`?");
        let elsewhere = "`path` is a key of [model] and [output]; is that line missing above it?";
        assert_eq!(error("input", Some("path")), format!("unknown key `input.path`\nhint: {elsewhere}"));
        assert_eq!(error("model", Some("zzz")), "unknown key `model.zzz`\nhint: known are `path`, `precision`");
        assert!(check("storage", Some("region")).is_ok());
    }
}
