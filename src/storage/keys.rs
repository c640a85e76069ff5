//! Keys of objects that no request can name exactly, and listings without them.
//!
//! In: a key, or the XML of a listing. Out: whether requests and listings spell the key as it is; the XML without the objects whose
//! keys they do not. `object_store` takes the slash from the start and the end of a key, which names another object, and refuses a
//! whole page of a listing for one key with an empty, `.` or `..` segment or a control character.

use std::borrow::Cow;

use object_store::path::Path as ObjectPath;

/// What a key must be, for messages.
pub(super) const EXPECTED: &str = "a key without empty, `.` or `..` segments, slashes at its ends and control characters: no request names other objects exactly";

/// Whether a request for `key` is a request for the object with that key. The empty key, of the whole bucket, is one.
pub(crate) fn is_spellable(key: &str) -> bool {
    ObjectPath::parse(key).is_ok_and(|path| path.as_ref() == key)
}

/// Whether listings hold `key` as it is: XML readers trim spaces, and servers replace what XML cannot hold by U+FFFD.
pub(crate) fn is_listable(key: &str) -> bool {
    is_spellable(key) && key.trim() == key && !key.contains(['\u{fffd}', '\u{fffe}', '\u{ffff}'])
}

/// The elements of listings that hold keys, and those in which the key is: of S3 and Google Cloud Storage, and of Azure.
const ENTRIES: [(&str, &str); 4] =
    [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// A page of a listing without the objects and folders that cannot be named, and how many these are; None: all can be.
pub(super) fn without_odd_keys(xml: &str) -> Option<(String, usize)> {
    let (mut kept, mut rest, mut left_out) = (String::new(), xml, 0);
    while let Some(start) = rest.find('<') {
        let tail = &rest[start + 1..];
        let entry = ENTRIES.iter().find_map(|(entry, name)| {
            let inner = tail.strip_prefix(entry)?.strip_prefix('>')?;
            let end = inner.find(&format!("</{entry}>"))?;
            let key = text_of(&inner[..end], name)?;
            Some((key, start + 1 + entry.len() + 1 + end + entry.len() + 3))
        });
        let end = match &entry {
            Some((_, end)) => *end,
            None => start + 1,
        };
        match entry {
            // Folders end in a slash.
            Some((key, _)) if !is_listable(key.strip_suffix('/').unwrap_or(&key)) || key == "/" => {
                kept.push_str(&rest[..start]);
                left_out += 1;
            }
            _ => kept.push_str(&rest[..end]),
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    (left_out > 0).then_some((kept, left_out))
}

/// The text of the first element `name` in `xml`, whatever its attributes.
fn text_of<'a>(xml: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut from = 0;
    loop {
        let start = from + xml[from..].find(&format!("<{name}"))? + 1 + name.len();
        let end = start + xml[start..].find('>')?;
        // Another element may begin with the same letters.
        if end == start || xml[start..].starts_with(char::is_whitespace) {
            let text = &xml[end + 1..];
            return text.find(&format!("</{name}>")).map(|end| unescaped(&text[..end]));
        }
        from = start;
    }
}

/// The text that XML text stands for. A reference that is not understood stays, as text that no key of a manifest has.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let reference = after.split_once(';').and_then(|(name, after)| Some((character(name)?, after)));
        let (character, after) = reference.unwrap_or(('&', after));
        plain.push(character);
        rest = after;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            number.ok().and_then(char::from_u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_requests_and_listings_spell() {
        for plain in ["", "a", "a/b c#?%25%/d.jpg", "a/ b", "...", ".a/..b", "\u{e9}/\u{1f600}.jpg", "a\\b", "a&<>\"'b"]
        {
            assert!(is_listable(plain), "{plain:?}");
        }
        for odd in
            ["/", "/a", "a/", "a//b", "//a", "./a", "a/.", "a/../b", "..", "a\tb", "a\nb", "a\rb", "a/\u{1}b", "\u{7f}"]
        {
            assert!(!is_spellable(odd) && !is_listable(odd), "{odd:?}");
        }
        for unlisted in [" a", "a ", "a\u{fffd}b"] {
            assert!(is_spellable(unlisted) && !is_listable(unlisted), "{unlisted:?}");
        }
    }

    #[test]
    fn a_listing_loses_the_keys_that_cannot_be_named_and_nothing_else() {
        let object = |key: &str| format!("<Contents><ETag>&#34;1&#34;</ETag><Key>{key}</Key><Size>1</Size></Contents>");
        let folder = |name: &str| format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
        let list = |entries: String| {
            format!("<?xml?><ListBucketResult><Name>b</Name><Prefix>a//</Prefix>{entries}</ListBucketResult>")
        };
        let odd = ["/a", "a//b", "a/./b", "..", "a&#x9;b", "a&#xA;b", "a&#13;b", "a\tb", " a", "a&#x1;", "a\u{fffd}"];
        let good = ["a", "a&amp;#x9;b", "folder/", "a/b&lt;c"];
        let good_folders = folder("a/") + &folder("a b/");
        let without: String = good.map(object).concat() + &good_folders;
        let with: String = odd.map(object).concat() + &without + &folder("a//") + &folder("/") + &folder("../");
        assert_eq!(without_odd_keys(&list(without.clone())), None);
        assert_eq!(without_odd_keys(&list(with)), Some((list(without), odd.len() + 3)));
        let azure = "<Blobs><Blob><Name Encoded=\"true\">a//b</Name></Blob><Blob><Name>a</Name></Blob><BlobPrefix><Name>/</Name></BlobPrefix></Blobs>";
        assert_eq!(without_odd_keys(azure), Some(("<Blobs><Blob><Name>a</Name></Blob></Blobs>".to_owned(), 2)));
        for damaged in
            ["", "<", "<Contents>", "<Contents><Key>", "<Contents><Key></Contents>", "\u{e9}<Key>&</Key>&#x110000;"]
        {
            assert_eq!(without_odd_keys(damaged), None, "{damaged}");
        }
    }
}
