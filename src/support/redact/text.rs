//! Texts without credentials: one kind of credential after the other.

use super::{secrets, settings, word};

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

#[cfg(test)]
mod tests {
    use super::super::secrets::remember;
    use super::*;

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
            ("https://me:hunter2@h/'data:a,hunter2 b", "https://[redacted]@h/'data:a,... b"),
            ("http://h/a?sig=hunter2'data:a,hunter2 b", "http://h/a?...,... b"),
            ("s3:/'http://h/a?sig=hunter2", "s3:/'http://h/a?..."),
            ("http:/http://me:hunter2@h/a", "http:/http://[redacted]@h/a"),
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
