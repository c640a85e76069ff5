//! The hits of searches as a page. In: the hits of each query. Out: one HTML file.

use minijinja::{Value, context};

use super::cards::{Pictures, Rows};
use super::cells::shown;
use super::gather::Place;
use super::page::render;
use crate::output::OutputError;
use crate::output::view::View;

/// The most characters of a query.
const MOST_OF_QUERY: usize = 300;

/// What a page of hits shows.
pub struct Hits<'a> {
    /// Where the rows are.
    pub view: &'a View,
    /// Each query with its hits: score and row, best first.
    pub queries: Vec<(&'a str, Vec<(f32, Place)>)>,
    /// What was compared, in words.
    pub scope: String,
    /// Gives pictures.
    pub pictures: &'a Pictures<'a>,
    /// The time that the page names.
    pub written: String,
}

impl Hits<'_> {
    /// The page.
    ///
    /// # Errors
    /// [`OutputError`] when parts cannot be read.
    pub fn html(&self) -> Result<String, OutputError> {
        let mut rows = Rows::default();
        let places = self.queries.iter().flat_map(|(_, hits)| hits.iter().map(|(_, place)| *place)).collect();
        rows.read(0, self.view, &places, self.pictures)?;
        let (mut sections, mut cards) = (Vec::new(), 0);
        for (number, (query, hits)) in self.queries.iter().enumerate() {
            // One query is the heading of the page.
            let title = if self.queries.len() == 1 { "Nearest rows".to_owned() } else { shown(query, MOST_OF_QUERY) };
            let entry = |(score, place): &(f32, Place)| rows.entry(0, &[*place], &[format!("{score:.3}")], "");
            let entries: Vec<Value> = hits.iter().filter_map(entry).collect();
            cards += entries.len();
            sections.push(context! {
                id => format!("query-{number}"), title => title, count => entries.len(),
                lead => "", plot => (), plot_name => (), entries => entries.into_iter().collect::<Value>(),
            });
        }
        let heading = match self.queries.as_slice() {
            [(query, _)] => shown(query, MOST_OF_QUERY),
            queries => format!("{} queries", queries.len()),
        };
        let values = context! {
            title => format!("{heading} - nightcap"), heading => heading, output => self.view.store().location().to_string(),
            scope => &self.scope, written => &self.written, sections => sections.into_iter().collect::<Value>(),
        };
        render("search.html", &rows.json(), cards, values)
    }
}
