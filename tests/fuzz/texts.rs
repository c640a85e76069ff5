//! Job files, `--set` arguments, and the paths and URIs of images.

use std::path::Path;

use super::Outcome;
use crate::job::Job;
use crate::storage::Location;
use crate::support::redact;

pub(super) const JOB: &[&str] = &[
    "[input]\n",
    "[model]\n",
    "[generation]\n",
    "[embedding]\n",
    "[output]\n",
    "[runtime]\n",
    "[limits]\n",
    "[storage]\n",
    "manifest = ",
    "key = ",
    "image = ",
    "text = ",
    "where = ",
    "signature = ",
    "path = ",
    "prompt = ",
    "part_rows = ",
    "batch_size = ",
    "roots = ",
    "num_beams = ",
    "temperature = ",
    "stop = ",
    "devices = ",
    "endpoint = ",
    "retries = ",
    "\"\"\"",
    "'''",
    "1979-05-27T07:32:00Z",
    "inf",
    "nan",
    "0x7fffffffffffffff",
    "a.b.c = 1\n",
    "[[input]]\n",
];
pub(super) const LOCATION: &[&str] = &[
    "..",
    "../",
    "%2e%2e",
    "..%2f",
    "%252e",
    "..;/",
    "\\..\\",
    "//",
    "file://",
    "s3://",
    "gs://",
    "az://",
    "http://",
    "https://",
    "data:",
    "user:pw@",
    "[::1]",
    "?X-Amz-Signature=a",
    "#",
    "%",
    "%zz",
    "\0",
    "*",
    "[",
    "é",
    "localhost",
    ":99999",
    "http:/",
];
pub(super) const TEMPLATE: &[&str] = &[
    "{{ ",
    " }}",
    "{% for a in range(99999) %}",
    "{% endfor %}",
    "{% if ",
    "%}",
    "{% set a = ",
    "{% macro m() %}",
    "{% endmacro %}",
    "m()",
    "messages",
    "bos_token",
    "<image>",
    "* 999999999",
    "~",
    "|replace('a','aaaaaaaa')",
    "|join",
    "|batch(3)",
    ".upper()",
    "raise_exception('no')",
    "loop.index",
    "namespace()",
    "{% include 'a' %}",
    "title",
    "id",
    "n",
    "[0]",
    "('a' * 9999999)",
    "|tojson",
    "|indent(99999999)",
    "range(9223372036854775807)",
    "-9223372036854775808",
    "// 0",
    "% 0",
    "** 9999",
    "{# #}",
];
pub(super) const SQL: &[&str] = &[
    " AND ",
    " OR ",
    "NOT ",
    "(",
    ")",
    "id",
    "title",
    "n",
    "f",
    "day",
    "at",
    "flag",
    "price",
    " = ",
    " > ",
    " IN (",
    " LIKE ",
    "'a'",
    "rpad(id, 2000000000, 'x')",
    "lpad(title, 9, 'y')",
    "repeat('a', 2000000000)",
    "pow(n, 1000)",
    "greatest()",
    "interval '1 foo'",
    "CAST(n AS DECIMAL(99,9))",
    "n::int",
    "date '2026-02-30'",
    "substr(id, -5, 9223372036854775807)",
    "concat(id, title)",
    "CASE WHEN ",
    " THEN ",
    " ELSE ",
    " END",
    "round(f, 999)",
    "strpos(",
    "regexp_like(id, '(a*)*$')",
    "1/0",
    "n % 0",
    "~",
    "[1]",
    "array[1,2]",
    " IS NULL",
    " BETWEEN ",
    "(SELECT 1)",
    "extract(year from at)",
    "date_part('x', at)",
    "-9223372036854775808",
    "strftime(at, '%Q')",
    "'\\'",
    "\"",
    "--",
    "/*",
    "max(n)",
    "OVER ()",
    "EXISTS",
    "*",
    "exp(n)",
    "<< 99",
    "replace(id,'','xxxxxxxx')",
];

pub(super) const SECRET: &[&str] = &[
    "https://",
    "user:pw@",
    "?X-Amz-Signature=",
    "&sig=",
    "Bearer ",
    "-----BEGIN PRIVATE KEY-----",
    "data:image/png;base64,",
    "password=",
    "secret_access_key = \"",
    "authorization: ",
    "\nhint: ",
    "%40",
    "\u{1b}[31m",
    "http:/",
    "//",
    "@",
    ":",
    "x-amz-security-token=",
    "'",
    "`",
];

/// A whole job, for `--set` arguments.
const VALID: &str = "[input]\nmanifest = \"m.parquet\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"m\"\n[output]\npath = \"o\"\n";

/// A job file.
pub(super) fn job(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::ok() };
    Outcome::of(&Job::parse(text, "job.toml", Path::new("/data"), &[]))
}

/// One `--set` argument.
pub(super) fn setting(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::ok() };
    Outcome::of(&Job::parse(VALID, "job.toml", Path::new("/data"), &[text.to_owned()]))
}

/// The location of an image, relative to a folder of each kind.
pub(super) fn location(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::ok() };
    let mut last = Outcome::ok();
    for folder in ["/data/images", "s3://bucket/images", "https://a.example/images"] {
        let base = Location::Local("/".into()).resolve(folder).expect("a folder");
        let found = base.resolve(text);
        last.signature += &Outcome::of(&found).signature;
        let Ok(found) = found else { continue };
        let shown = found.to_string();
        // Without the name and password of a URL.
        assert!(matches!(found, Location::Local(_)) || shown.starts_with(&found.authority()), "{shown}");
        let mut above = found.clone();
        // Every folder is in the one above it, up to the root.
        for _ in 0..=text.len() + 3 {
            let next = above.folder();
            if next == above {
                break;
            }
            assert!(above.starts_with(&next), "{above:?} is not in {next:?}");
            above = next;
        }
        assert_eq!(above.folder(), above, "{found:?} has no root");
        assert!(found.is_within(&[]));
        if let (true, Location::Local(path)) = (found.is_within(std::slice::from_ref(&base)), &found) {
            assert!(
                path.starts_with("/data/images")
                    && !path.components().any(|part| part == std::path::Component::ParentDir)
            );
        }
        assert!(found.common(&found).is_some());
        if let Location::Object { key, .. } = &found {
            let climbs = key.split('/').any(|segment| segment == "..");
            assert!(!climbs || object_store::path::Path::parse(key).is_err(), "{found:?} can be asked for");
        }
        let _ = Location::pattern(Path::new("/data"), text);
    }
    last
}

/// A text that leaves nightcap.
pub(super) fn redacted(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let (message, value, uri) = (redact::message(&text), redact::value(&text), redact::uri(&text));
    assert!(message.chars().count() <= redact::MOST_OF_MESSAGE);
    assert!(value.chars().count() <= redact::MOST_OF_VALUE);
    assert!(!value.contains(char::is_control), "{value:?}");
    assert!(!message.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')), "{message:?}");
    assert!(!redact::holds_credential(&uri), "{uri:?}");
    let url = |text: &str| match Location::Local("/".into()).resolve(text) {
        Ok(Location::Http(url)) => Some(url),
        _ => None,
    };
    // As those read them who take the text for a URL.
    if let Some(url) = url(&uri) {
        assert!(url.username().is_empty() && url.password().is_none(), "{uri:?}");
        let signed = |name: &str| ["x-amz-signature", "sig"].contains(&name.to_ascii_lowercase().as_str());
        assert!(!url.query_pairs().any(|(name, _)| signed(&name)), "{uri:?}");
    }
    // What was cut may be anything.
    if message.len() < redact::MOST_OF_VALUE {
        for url in message.split([' ', '\n', '\t', '"', '`', '\'', '<', '>']).filter_map(url) {
            assert!(url.password().is_none() && ["", "%5Bredacted%5D"].contains(&url.username()), "{message:?}");
            assert!(url.query().is_none_or(|query| query.starts_with("...")), "{message:?}");
        }
    }
    Outcome { signature: format!("{} {} {}", message == text, value == text, uri == text), ..Outcome::ok() }
}
