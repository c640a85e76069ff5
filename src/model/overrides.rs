//! `nightcap.toml` of a model directory: roles and bindings that do not follow from the names of files and tensors. In: the file. Out: graph files and
//! bindings that override the defaults. Unknown keys are problems.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::config::read_file;
use super::error::Problem;
use super::producer::Producer;
use super::role::Role;
use crate::support::nearest;

/// What `nightcap.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Overrides {
    /// Graph file of a role, relative to the model directory.
    pub(super) graphs: BTreeMap<Role, String>,
    /// What feeds an input of a role's graph.
    pub(super) bind: BTreeMap<(Role, String), Producer>,
}

impl Overrides {
    pub(super) const FILE: &'static str = "nightcap.toml";

    /// Reads the file in `folder`, if there is one.
    pub(super) fn read(folder: &Path, problems: &mut Vec<Problem>) -> Self {
        let mut overrides = Self::default();
        let bytes = match read_file(folder, Self::FILE) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return overrides,
            Err(problem) => {
                problems.push(problem);
                return overrides;
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let table = match text.parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                let before = error.span().and_then(|span| bytes.get(..span.start)).unwrap_or_default();
                let line = String::from_utf8_lossy(before).matches('\n').count() + 1;
                problems.push(Problem::new(
                    Self::FILE,
                    format!("line {line}: not valid TOML: {}", error.message().trim_end()),
                ));
                return overrides;
            }
        };
        for (key, value) in table {
            match (key.as_str(), value) {
                ("graphs", Value::Table(graphs)) => overrides.graphs(graphs, problems),
                ("bind", Value::Table(bind)) => overrides.bind(bind, problems),
                ("graphs" | "bind", _) => problems.push(Problem::new(Self::FILE, format!("{key} must be a table"))),
                _ => problems.push(unknown(&key, &["graphs", "bind"])),
            }
        }
        overrides
    }

    fn graphs(&mut self, table: Table, problems: &mut Vec<Problem>) {
        let names = Role::ALL.map(Role::name);
        for (key, value) in table {
            match (Role::from_name(&key), value) {
                (Some(role), Value::String(file)) => {
                    self.graphs.insert(role, file);
                }
                (Some(role), _) => {
                    problems.push(Problem::new(Self::FILE, format!("graphs.{role} must be a file name in quotes")));
                }
                (None, _) => {
                    problems.push(unknown(&format!("graphs.{key}"), &names.map(|name| format!("graphs.{name}"))));
                }
            }
        }
    }

    /// Takes both `"fusion.input" = "vision.output"` and the nested `fusion.input = "vision.output"`.
    fn bind(&mut self, table: Table, problems: &mut Vec<Problem>) {
        let mut flat = Vec::new();
        for (key, value) in table {
            match value {
                Value::Table(inner) => {
                    flat.extend(inner.into_iter().map(|(input, value)| (format!("{key}.{input}"), value)));
                }
                value => flat.push((key, value)),
            }
        }
        for (key, value) in flat {
            let input = key.split_once('.').and_then(|(role, input)| Some((Role::from_name(role)?, input.to_owned())));
            let Some(input) = input else {
                let role = key.split('.').next().unwrap_or_default();
                let problem =
                    Problem::new(Self::FILE, format!("bind.{key:?} names no graph input (expected \"role.input\")"));
                problems.push(problem.with_hint(did_you_mean(role, &Role::ALL.map(Role::name))));
                continue;
            };
            match value.as_str().map(Producer::parse) {
                Some(Some(producer)) => {
                    self.bind.insert(input, producer);
                }
                _ => problems.push(
                    Problem::new(
                        Self::FILE,
                        format!("bind.{key:?} = {value} names nothing that can feed a graph input"),
                    )
                    .with_hint(format!("known are {}", Producer::GRAMMAR)),
                ),
            }
        }
    }
}

fn unknown<S: AsRef<str>>(key: &str, known: &[S]) -> Problem {
    Problem::new(Overrides::FILE, format!("unknown key {key:?}")).with_hint(did_you_mean(key, known))
}

/// The text of a hint for `word`, which is none of `known`.
pub(super) fn did_you_mean<S: AsRef<str>>(word: &str, known: &[S]) -> String {
    nearest::did_you_mean(word, known, |name| format!("{name:?}"))
}
