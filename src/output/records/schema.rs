//! The record `schema.json`: the columns of every part of an OUTPUT, which its first run decided.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};

use crate::output::store::OutputStore;
use crate::output::{OutputError, json};

/// The columns of OUTPUT, in order, which the first plan has fixed, each as its name and type; None: there is no plan yet.
///
/// # Errors
/// Failures to read.
pub fn recorded_columns(store: &OutputStore) -> Result<Option<Vec<String>>, OutputError> {
    store.record(PATH)
}

/// Compares `schema` with that of OUTPUT, which the first plan has fixed, if there is one yet.
///
/// # Errors
/// [`OutputError::Schema`] with what differs.
pub fn check_schema(store: &OutputStore, schema: &Schema) -> Result<(), OutputError> {
    let Some(theirs) = store.record::<Vec<String>>(PATH)? else { return Ok(()) };
    let ours = describe(schema);
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (theirs.iter().collect(), ours.iter().collect());
    let list = |names: Vec<&&String>| match names.as_slice() {
        [] => "nothing".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    let (gone, added) = (old.difference(&new).collect::<Vec<_>>(), new.difference(&old).collect::<Vec<_>>());
    let difference = match (gone.is_empty() && added.is_empty(), ours == theirs) {
        (true, true) => return Ok(()),
        (true, false) => "the order of the columns".to_owned(),
        (false, _) => format!("{} there, {} here", list(gone), list(added)),
    };
    Err(OutputError::Schema { difference })
}

/// The record of OUTPUT's schema: a list of columns.
const PATH: &str = "_nightcap/schema.json";

/// Puts `schema` as that of OUTPUT unless another run has put one, and compares it with the one that is there.
///
/// # Errors
/// As [`check_schema`].
pub fn claim_schema(store: &OutputStore, schema: &Schema) -> Result<(), OutputError> {
    store.put_new(PATH, json(&describe(schema), PATH)?)?;
    check_schema(store, schema)
}

fn describe(schema: &Schema) -> Vec<String> {
    let column = |field: &FieldRef| {
        let nullability = if field.is_nullable() { "" } else { " not null" };
        format!("{} {}{nullability}", field.name(), without_metadata(field.data_type()))
    };
    schema.fields().iter().map(column).collect()
}

/// The type without the metadata of fields within it, which Arrow would write too.
fn without_metadata(kind: &DataType) -> DataType {
    let field =
        |field: &FieldRef| Arc::new(Field::new(field.name(), without_metadata(field.data_type()), field.is_nullable()));
    match kind {
        DataType::List(child) => DataType::List(field(child)),
        DataType::FixedSizeList(child, length) => DataType::FixedSizeList(field(child), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}
