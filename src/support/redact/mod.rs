//! What may leave nightcap: texts without credentials, and of bounded length.
//!
//! In: any text that a user, a server or a file gave, such as a message. Out: the same text in which credentials are replaced by
//! [`HIDDEN`] or dots, cut to a bound. It is applied where texts leave: log lines, errors, columns of parts, records and stdout.
//!
//! [`text()`] replaces: values that were given as secrets ([`remember`]), the name and password of a URL, its query, signed query
//! parameters elsewhere, values of settings and headers that are named like secrets, bearer tokens, private keys and `data:` contents.
//! [`value`] and [`message`] also cut. [`uri()`] is for data: it keeps everything of a URL that is no credential.

mod bound;
mod json;
mod names;
mod secrets;
mod settings;
mod text;
mod uri;
mod word;

pub(crate) use self::bound::bounded;
pub use self::bound::{MOST_OF_MESSAGE, MOST_OF_VALUE, lines, message, value};
pub use self::json::{json, strings_of};
pub use self::names::HIDDEN;
pub(crate) use self::names::is_secret_name;
pub use self::secrets::{remember, remember_environment};
pub use self::text::text;
pub use self::uri::{holds_credential, uri};
