//! What may leave nightcap: texts without credentials, and of bounded length.
//!
//! In: any text that a user, a server or a file gave, such as a message. Out: the same text in which credentials are replaced by
//! [`HIDDEN`] or dots, cut to a bound. It is applied where texts leave: log lines, errors, columns of parts, records and stdout.
//!
//! [`text`] replaces: values that were given as secrets ([`remember`]), the name and password of a URL, its query, signed query
//! parameters elsewhere, values of settings and headers that are named like secrets, bearer tokens, private keys and `data:` contents.
//! [`value`] and [`message`] also cut. [`uri`] is for data: it keeps everything of a URL that is no credential.

mod bound;
mod names;
mod secrets;
mod settings;
mod uri;
mod word;

pub(crate) use self::bound::bounded;
pub use self::bound::{MOST_OF_MESSAGE, MOST_OF_VALUE, lines, message, value};
pub(crate) use self::names::is_secret_name;
pub use self::secrets::{remember, remember_environment};
pub use self::uri::{holds_credential, uri};

/// What stands in the place of a credential.
pub const HIDDEN: &str = "[redacted]";

/// `text` without credentials.
#[must_use]
pub fn text(text: &str) -> String {
    let text = settings::hidden(&secrets::hidden(text));
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(word::ends_word) {
        let end =
            word.char_indices().next_back().filter(|(_, last)| word::ends_word(*last)).map_or(word.len(), |(at, _)| at);
        shown.push_str(&word::hidden(&word[..end]));
        shown.push_str(&word[end..]);
    }
    shown
}

/// Every string in `value` as `change` makes it; keys stay.
pub fn strings_of(value: &mut serde_json::Value, change: fn(&str) -> String) {
    match value {
        serde_json::Value::String(text) => *text = change(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|value| strings_of(value, change)),
        serde_json::Value::Object(values) => values.values_mut().for_each(|value| strings_of(value, change)),
        _ => {}
    }
}

/// JSON text with every string as [`message`] makes it. Numbers and order stay as they are.
#[must_use]
pub fn json(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('"') {
        shown.push_str(&rest[..start]);
        let mut strings = serde_json::Deserializer::from_str(&rest[start..]).into_iter::<String>();
        // Text that is no JSON is left as it is; whoever calls this has made it.
        let Some(Ok(string)) = strings.next() else { return shown + &rest[start..] };
        shown.push_str(&serde_json::Value::from(message(&string)).to_string());
        rest = &rest[start + strings.byte_offset()..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_numbers_and_order() {
        let given = "{\n  \"b\": 0.1, \"a\": [\"x \\\"y\\\" https://me:hunter2@h\", null]}";
        let shown = "{\n  \"b\": 0.1, \"a\": [\"x \\\"y\\\" https://[redacted]@h\", null]}";
        assert_eq!(json(given), shown);
    }

    /// Each text with a secret, which is `hunter2`, and what must be left of it.
    #[test]
    fn credentials_of_every_kind() {
        for (given, shown) in [
            ("see https://me:hunter2@host/a b", "see https://[redacted]@host/a b"),
            ("HTTPS://hunter2@host:80/a?b=hunter2 x", "HTTPS://[redacted]@host:80/a?... x"),
            ("'http://host/a?sig=hunter2', b", "'http://host/a?...', b"),
            ("/tmp/x/http:/me:hunter2@host/a.jpg", "/tmp/x/http:/[redacted]@host/a.jpg"),
            ("odd_scheme://me:hunter2@host", "odd_scheme://[redacted]@host"),
            ("https://me:pa/hunter2@host/a", "https://[redacted]@host/a"),
            ("https:me:hunter2@host", "[redacted]@host"),
            ("/me:hunter2@host/a", "/[redacted]@host/a"),
            ("s3://b/a?X-Amz-Signature=hunter2&size=2", "s3://b/a?X-Amz-Signature=...&size=2"),
            ("a.jpg?sv=1&sig=hunter2", "a.jpg?sv=1&sig=..."),
            ("a?x%2Damz%2dsignature=hunter2", "a?x%2Damz%2dsignature=..."),
            ("data:image/png;base64,hunter2=", "data:image/png;base64,..."),
            ("storage.secret_access_key=hunter2", "storage.secret_access_key=[redacted]"),
            ("secret_access_key = \"hunter2 hunter2\" x", "secret_access_key = \"[redacted]\" x"),
            ("password = '''\nhunter2\n''' x", "password = '''[redacted]''' x"),
            ("{\"SecretAccessKey\":\"hunter2\",\"a\":1}", "{\"SecretAccessKey\":\"[redacted]\",\"a\":1}"),
            ("{\\\"Token\\\": \\\"hunter2\\\"}", "{\\\"Token\\\": \\\"[redacted]\\\"}"),
            ("argument '--password=hunter2 hunter2' found", "argument '--password=[redacted]' found"),
            ("Authorization: AWS4 Credential=hunter2, Signature=hunter2\nb", "Authorization: [redacted]\nb"),
            ("\"authorization\": \"Bearer hunter2\", b", "\"authorization\": \"[redacted]\", b"),
            ("sent Bearer hunter2 and", "sent Bearer [redacted] and"),
            ("Basic aHVudGVyMg==hunter2 and", "Basic [redacted] and"),
            ("x-amz-security-token: hunter2", "x-amz-security-token: [redacted]"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY----- x", "[redacted] x"),
        ] {
            let found = text(given);
            assert_eq!(found, shown, "{given}");
            assert_eq!(text(&found), found, "done twice");
        }
    }

    #[test]
    fn what_is_no_credential_stays() {
        for given in [
            "icon@2x.png",
            "/photos/at 12:30/a@b.jpg",
            "https://host:8080/@me/icon@2x.png",
            "file:///home/me@host/a.jpg",
            "s3://bucket/a?b.jpg",
            "unknown key `storage.secret_access_key`\nhint: did you mean `secret_access_key_env`?",
            "secret_access_key_env = \"MY_SECRET\"",
            "no eos_token_id: every caption runs to max_new_tokens",
            "{\"eos_token_id\":50256,\"pad_token\":\"<pad>\",\"tokens\":5}",
            "`input.signature` names column `etag`",
            "cannot look for AWS credentials: no answer",
            "public data needs `storage.anonymous = true`",
            "expected a bearer token",
            "C:\\photos\\a.jpg",
        ] {
            assert_eq!(text(given), given);
        }
    }

    #[test]
    fn secrets_that_were_given_are_hidden_wherever_they_are() {
        remember("zebra/Stripe+\"9\"");
        remember("zebra");
        for given in ["a zebra/Stripe+\"9\" b", "azebra%2FStripe%2B%229%22b", "x zebra/Stripe+\\\"9\\\" y"] {
            assert!(!text(given).contains("Stripe"), "{}", text(given));
        }
        assert_eq!(text("a zebra, zebras and zebra_env"), "a [redacted], zebras and zebra_env", "short ones as words");
    }
}
