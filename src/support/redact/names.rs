//! Names of settings, headers and query parameters that hold credentials.

/// What stands in the place of a credential.
pub const HIDDEN: &str = "[redacted]";

/// A name in lower case, percent-decoded, without what separates its words.
fn plain(name: &str) -> String {
    let decoded = percent_decoded(name);
    decoded.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn percent_decoded(name: &str) -> String {
    // `url` decodes a `+` as a space, which is no part of a name either.
    url::form_urlencoded::parse(format!("{name}=").as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

/// Whether the value of a setting or header of this name is a secret.
#[must_use]
pub(crate) fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 12] = [
        "secret",
        "password",
        "passwd",
        "passphrase",
        "privatekey",
        "apikey",
        "accountkey",
        "accesskey",
        "sessiontoken",
        "securitytoken",
        "accesstoken",
        "authtoken",
    ];
    const WHOLE: [&str; 13] = [
        "token",
        "pwd",
        "sas",
        "saskey",
        "sastoken",
        "refreshtoken",
        "bearertoken",
        "idtoken",
        "jwt",
        "xamzsignature",
        "sig",
        "signature",
        "ssobearertoken",
    ];
    /// Ends of names that tell where a secret is, or who has it.
    const NAMING: [&str; 9] = ["env", "file", "path", "id", "name", "arn", "uri", "url", "folder"];
    let last = plain(name.rsplit('.').next().unwrap_or_default());
    if NAMING.iter().any(|end| last.ends_with(end)) {
        return false;
    }
    WHOLE.contains(&last.as_str()) || PARTS.iter().any(|part| last.contains(part)) || is_header(name)
}

/// Whether it is a header whose whole line is a secret.
pub(super) fn is_header(name: &str) -> bool {
    ["authorization", "proxyauthorization", "cookie", "setcookie"].contains(&plain(name).as_str())
}

/// Whether the query parameter `name` is a credential or a part of one.
pub(super) fn is_signed(name: &str) -> bool {
    const STARTS: [&str; 8] = ["xamz", "xgoog", "xoss", "xcos", "xobs", "xtos", "qsign", "hdn"];
    const PARTS: [&str; 7] = ["signature", "secret", "password", "passwd", "credential", "apikey", "hmac"];
    const WHOLE: [&str; 22] = [
        "sig",
        "sign",
        "auth",
        "authkey",
        "authsig",
        "authorization",
        "pwd",
        "pass",
        "sas",
        "jwt",
        "bearer",
        "session",
        "sessionid",
        "ticket",
        "googleaccessid",
        "awsaccesskeyid",
        "ossaccesskeyid",
        "accesskey",
        "accesskeyid",
        "keypairid",
        "qak",
        "qkeytime",
    ];
    let name = plain(name.strip_prefix("amp;").unwrap_or(name));
    name.ends_with("token")
        || WHOLE.contains(&name.as_str())
        || STARTS.iter().any(|start| name.starts_with(start))
        || PARTS.iter().any(|part| name.contains(part))
}

/// Whether the parameter `name` belongs to a signature, if there is one beside it: how long it is valid, and for what.
pub(super) fn belongs_to_signature(name: &str) -> bool {
    // The one- and two-letter names are those of Azure.
    const NAMES: [&str; 29] = [
        "expires",
        "expiry",
        "exp",
        "policy",
        "hashalgorithm",
        "algorithm",
        "sv",
        "ss",
        "srt",
        "sp",
        "se",
        "st",
        "spr",
        "sr",
        "sip",
        "si",
        "skoid",
        "sktid",
        "skt",
        "ske",
        "sks",
        "skv",
        "saoid",
        "suoid",
        "scid",
        "sdd",
        "ses",
        "qheaderlist",
        "qurlparamlist",
    ];
    NAMES.contains(&plain(name.strip_prefix("amp;").unwrap_or(name)).as_str())
}
