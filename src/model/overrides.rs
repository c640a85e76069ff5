//! `nightcap.toml` of a model directory: roles and bindings that do not follow from the names of files and tensors. In: the file. Out: graph files,
//! bindings and outputs that override the defaults. Unknown keys are problems.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::error::Problem;
use super::json_file::read_file;
use super::pooling::Pooling;
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
    /// Which output of a role's graph holds the embedding.
    pub(super) outputs: BTreeMap<Role, OutputOverride>,
}

/// What `[outputs]` says of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OutputOverride {
    /// The output that holds the embedding, or the states that it is made from.
    pub(super) embedding: Option<String>,
    /// How states become one vector.
    pub(super) pooling: Option<Pooling>,
    /// The width of the embedding, if the graph does not declare it.
    pub(super) width: Option<usize>,
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
                ("outputs", Value::Table(outputs)) => overrides.outputs(outputs, problems),
                ("graphs" | "bind" | "outputs", _) => {
                    problems.push(Problem::new(Self::FILE, format!("{key} must be a table")));
                }
                _ => problems.push(unknown(&key, &["graphs", "bind", "outputs"])),
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

    /// Takes `"vision.embedding" = "OUTPUT"`, `"vision.pooling" = "cls"` and `"vision.width" = 512`, for `text` and `fusion` too.
    fn outputs(&mut self, table: Table, problems: &mut Vec<Problem>) {
        const KEYS: [&str; 3] = ["embedding", "pooling", "width"];
        const ROLES: [Role; 3] = [Role::Vision, Role::Text, Role::Fusion];
        let known: Vec<_> = ROLES.iter().flat_map(|role| KEYS.map(|key| format!("outputs.\"{role}.{key}\""))).collect();
        for (key, value) in flat(table) {
            let parts = key.split_once('.').and_then(|(role, key)| Some((Role::from_name(role)?, key)));
            let Some((role, name)) = parts.filter(|(role, name)| ROLES.contains(role) && KEYS.contains(name)) else {
                problems.push(unknown(&format!("outputs.\"{key}\""), &known));
                continue;
            };
            let output = self.outputs.entry(role).or_default();
            let expected = match (name, &value) {
                ("embedding", Value::String(name)) => {
                    output.embedding = Some(name.clone());
                    continue;
                }
                ("pooling", Value::String(name)) if let Some(pooling) = Pooling::from_name(name) => {
                    output.pooling = Some(pooling);
                    continue;
                }
                ("width", Value::Integer(width))
                    if let Some(width) = usize::try_from(*width).ok().filter(|w| *w > 0) =>
                {
                    output.width = Some(width);
                    continue;
                }
                ("embedding", _) => "the name of an output, in quotes".to_owned(),
                ("width", _) => "a number of elements".to_owned(),
                _ => format!("one of {}", Pooling::NAMES.map(|name| format!("{name:?}")).join(", ")),
            };
            problems.push(Problem::new(Self::FILE, format!("outputs.{key:?}: expected {expected}, found {value}")));
        }
    }

    /// Takes both `"fusion.input" = "vision.output"` and the nested `fusion.input = "vision.output"`.
    fn bind(&mut self, table: Table, problems: &mut Vec<Problem>) {
        for (key, value) in flat(table) {
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

/// The entries of `table`, those of tables inside it under `"table.key"`.
fn flat(table: Table) -> Vec<(String, Value)> {
    let entries = table.into_iter().flat_map(|(key, value)| match value {
        Value::Table(inner) => inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)).collect(),
        value => vec![(key, value)],
    });
    entries.collect()
}

fn unknown<S: AsRef<str>>(key: &str, known: &[S]) -> Problem {
    Problem::new(Overrides::FILE, format!("unknown key {key:?}")).with_hint(did_you_mean(key, known))
}

/// The text of a hint for `word`, which is none of `known`.
pub(super) fn did_you_mean<S: AsRef<str>>(word: &str, known: &[S]) -> String {
    nearest::did_you_mean(word, known, |name| format!("{name:?}"))
}
