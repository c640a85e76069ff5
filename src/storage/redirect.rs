//! HTTP redirects: the next URL, and whether it may be requested.
//!
//! In: one response. Out: the next URL, or a refusal. Never here: requests.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
    LOCATION, RANGE,
};
use http::{Method, StatusCode};
use url::Url;

use super::Location;

/// Most redirects that one request follows.
pub(super) const MAX_REDIRECTS: usize = 10;

/// The request headers that another origin may see: none of them can hold a credential.
const HARMLESS: [HeaderName; 7] =
    [ACCEPT, ACCEPT_ENCODING, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE];

/// The longest origin that a message shows, in characters.
const MAX_SHOWN: usize = 100;

/// A redirect that is not followed. Messages show origins only: a path or query may hold a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RefusedRedirect {
    /// It leads out of `limits.roots`.
    #[error("the server redirects to {to}, to a URL that is in none of `limits.roots`")]
    Outside {
        /// The origin that was asked for.
        to: String,
    },
    /// It leads from https to http, or to a scheme that no image is read from.
    #[error("the server redirects from {from} to {to}; only redirects to https, or from http to http, are followed")]
    Scheme {
        /// The origin that redirects.
        from: String,
        /// The origin, or the scheme, that was asked for.
        to: String,
    },
    /// One too many in a row.
    #[error("expected at most {MAX_REDIRECTS} redirects, found one more, to {to}")]
    TooMany {
        /// The origin that was asked for.
        to: String,
    },
    /// It answers a request that writes.
    #[error("the server redirects a {method} request to {to}; only requests that read follow redirects")]
    Write {
        /// The request's method.
        method: Method,
        /// The origin that was asked for.
        to: String,
    },
    /// The `Location` header is no URL.
    #[error("the server redirects to an address that is no URL")]
    Address,
}

/// The URL that a response to a `method` request for `from` redirects to; None: it is the answer itself.
///
/// A name and password in the address are left out.
///
/// # Errors
/// [`RefusedRedirect`] where it may not be followed; `roots` as in [`Location::is_within`].
pub(super) fn target(
    method: &Method,
    from: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    roots: &[Location],
) -> Result<Option<Url>, RefusedRedirect> {
    let address = headers.get(LOCATION).filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    let Some(address) = address else { return Ok(None) };
    let address = std::str::from_utf8(address.as_bytes()).map_err(|_| RefusedRedirect::Address)?;
    let mut url = from.join(address).map_err(|_| RefusedRedirect::Address)?;
    if !matches!((from.scheme(), url.scheme()), (_, "https") | ("http", "http")) {
        return Err(RefusedRedirect::Scheme { from: shown(from), to: shown(&url) });
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(RefusedRedirect::Write { method: method.clone(), to: shown(&url) });
    }
    let stripped = url.set_username("").and_then(|()| url.set_password(None));
    stripped.map_err(|()| RefusedRedirect::Address)?;
    url.set_fragment(None);
    if !Location::Http(url.clone()).is_within(roots) {
        return Err(RefusedRedirect::Outside { to: shown(&url) });
    }
    Ok(Some(url))
}

/// Removes the headers that another origin may not see, such as signatures, tokens and cookies.
pub(super) fn leave_origin(headers: &mut HeaderMap) {
    let kept = HARMLESS.iter().filter_map(|name| Some((name.clone(), headers.remove(name)?)));
    *headers = kept.collect();
}

/// The origin of `url`, or its scheme if it has none.
pub(super) fn shown(url: &Url) -> String {
    let origin = url.origin();
    let text = if origin.is_tuple() { origin.ascii_serialization() } else { format!("{}:", url.scheme()) };
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(method: &Method, from: &str, status: u16, address: &str, roots: &[&str]) -> Result<String, String> {
        let headers = HeaderMap::from_iter([(LOCATION, address.parse().unwrap())]);
        let roots: Vec<_> = roots.iter().map(|root| Location::Local("/".into()).resolve(root).unwrap()).collect();
        let status = StatusCode::from_u16(status).unwrap();
        match target(method, &from.parse().unwrap(), status, &headers, &roots) {
            Ok(url) => Ok(url.map_or_else(|| "-".to_owned(), Into::into)),
            Err(refused) => Err(refused.to_string()),
        }
    }

    #[test]
    fn addresses_are_resolved_against_the_url_that_redirects() {
        for (address, to) in [
            ("../c.png", "http://a.example/c.png"),
            ("/c.png#part", "http://a.example/c.png"),
            ("?size=2", "http://a.example/x/b.png?size=2"),
            ("//b.example/c.png", "http://b.example/c.png"),
            ("https://me:secret@b.example/c.png", "https://b.example/c.png"),
        ] {
            for status in [301, 302, 303, 307, 308] {
                let found = follow(&Method::GET, "http://a.example/x/b.png", status, address, &[]);
                assert_eq!(found.as_deref(), Ok(to), "{status} {address}");
            }
            assert_eq!(follow(&Method::GET, "http://a.example/x/b.png", 304, address, &[]).as_deref(), Ok("-"));
        }
    }

    #[test]
    fn refused_schemes() {
        for (from, address) in [
            ("https://a.example/x", "http://a.example/x?token=secret"),
            ("http://a.example/x", "file:///etc/secret"),
            ("http://a.example/x", "ftp://me:secret@a.example/secret"),
            ("http://a.example/x", "data:text/plain,secret"),
        ] {
            let refused = follow(&Method::GET, from, 302, address, &[]).unwrap_err();
            assert!(refused.contains("only redirects to https") && !refused.contains("secret"), "{refused}");
        }
        assert!(follow(&Method::GET, "http://a.example/x", 302, "http://[", &[]).is_err());
    }

    #[test]
    fn every_spelling_is_held_to_the_roots() {
        let roots = ["http://a.example/pub"];
        for address in
            ["http://A.EXAMPLE:80/pub/y", "http://me@a.example/pub/y", "z/../y", "%2e/y", "http:\\\\a.example\\pub\\y"]
        {
            assert_eq!(
                follow(&Method::GET, "http://a.example/pub/x", 302, address, &roots).as_deref(),
                Ok("http://a.example/pub/y")
            );
        }
        for address in [
            "https://a.example/pub/y",
            "http://a.example:8080/pub/y",
            "http://a.example@b.example/pub/y",
            "http://a.example.b.example/pub/y",
            "//b.example/pub/y",
            "\\\\b.example/pub/y",
            "/\\b.example/pub/y",
            "/public/y",
            "../y",
            "%2e%2e/y",
            ".%2E/y",
            "..%2fy",
            "%2e%2e%2fy",
            "%252e%252e%252fy",
            "..%5cy",
            "..;/y",
            "/pub/..;a=b/y",
        ] {
            let refused = follow(&Method::GET, "http://a.example/pub/x", 302, address, &roots);
            assert!(refused.is_err_and(|refused| refused.contains("`limits.roots`")), "{address}");
        }
    }

    #[test]
    fn requests_that_write_are_not_redirected() {
        let refused =
            follow(&Method::PUT, "http://a.example/x", 307, "http://b.example/x?sig=secret", &[]).unwrap_err();
        assert_eq!(
            refused,
            "the server redirects a PUT request to http://b.example; only requests that read follow redirects"
        );
    }

    #[test]
    fn another_origin_sees_no_credential() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "x-amz-security-token", "x-amz-date", "cookie", "referer", "range", "if-match"] {
            headers.insert(HeaderName::from_static(name), "value".parse().unwrap());
        }
        leave_origin(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["if-match", "range"]);
    }
}
