//! A page: templates filled in. In: values. Out: one HTML file that asks no server for anything and runs no script but its own.

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value, context};

use crate::output::OutputError;

const TEMPLATES: [(&str, &str); 4] = [
    ("base.html", include_str!("templates/base.html")),
    ("cards.html", include_str!("templates/cards.html")),
    ("report.html", include_str!("templates/report.html")),
    ("search.html", include_str!("templates/search.html")),
];
const STYLE: &str = include_str!("templates/style.css");
const SCRIPT: &str = include_str!("templates/page.js");

/// Fills in the template `name`. `rows` is JSON that can stand within HTML, `cards` the number of entries in all galleries.
///
/// # Errors
/// A fault of a template.
pub(super) fn render(name: &str, rows: &str, cards: usize, values: Value) -> Result<String, OutputError> {
    let fault = |error: Error| OutputError::View { message: format!("the page cannot be made: {error:#}") };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    for (name, text) in TEMPLATES {
        environment.add_template(name, text).map_err(fault)?;
    }
    let page = context! {
        // Texts of rows are part of what is hashed, so none of them can hold it.
        nonce => &blake3::hash(rows.as_bytes()).to_hex()[..32],
        version => env!("CARGO_PKG_VERSION"),
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        rows => Value::from_safe_string(rows.to_owned()),
        cards => cards,
        ..values
    };
    environment.get_template(name).and_then(|template| template.render(page)).map_err(fault)
}
