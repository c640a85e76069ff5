//! Carried columns: URLs in them come out without name, password and signature, which let whoever reads a part read the images. The
//! key column is left as it is; planning refuses keys that hold a credential.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, StringArray, StringViewArray, make_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::support::redact::{holds_credential, uri};

/// `column` with every text that is a URI as [`uri()`] makes it; of the same type. Lists, structs and dictionaries are looked into.
///
/// # Errors
/// When a nested column cannot be put together again.
pub(super) fn unsigned(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(changed(column)?.unwrap_or_else(|| column.clone()))
}

/// The column, if it has to be changed.
fn changed(column: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
    fn texts<'a, A: FromIterator<Option<String>> + Array + 'static>(
        values: impl Iterator<Item = Option<&'a str>> + Clone,
    ) -> Option<ArrayRef> {
        let is_signed = values.clone().flatten().any(holds_credential);
        is_signed
            .then(|| Arc::new(values.map(|text| text.map(|text| uri(text).into_owned())).collect::<A>()) as ArrayRef)
    }
    match column.data_type() {
        DataType::Utf8 => Ok(texts::<StringArray>(column.as_string::<i32>().iter())),
        DataType::LargeUtf8 => Ok(texts::<LargeStringArray>(column.as_string::<i64>().iter())),
        DataType::Utf8View => Ok(texts::<StringViewArray>(column.as_string_view().iter())),
        kind if kind.is_nested() || matches!(kind, DataType::Dictionary(..)) => {
            let data = column.to_data();
            let children: Vec<ArrayRef> = data.child_data().iter().cloned().map(make_array).collect();
            let new = children.iter().map(changed).collect::<Result<Vec<_>, _>>()?;
            if new.iter().all(Option::is_none) {
                return Ok(None);
            }
            let children = new.into_iter().zip(children).map(|(new, old)| new.unwrap_or(old).to_data()).collect();
            Ok(Some(make_array(data.into_builder().child_data(children).build()?)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, ListArray, StructArray};
    use arrow::compute::cast;
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    #[test]
    fn urls_of_every_type_of_column() {
        let given = [Some("https://h/a?sig=secret"), None, Some("a dog"), Some("https://me:secret@h/b")];
        let kept = [Some("https://h/a"), None, Some("a dog"), Some("https://h/b")];
        let (given, kept): (ArrayRef, ArrayRef) =
            (Arc::new(StringArray::from_iter(given)), Arc::new(StringArray::from_iter(kept)));
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        for kind in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary] {
            let (given, kept) = (cast(&given, &kind).unwrap(), cast(&kept, &kind).unwrap());
            let field = Arc::new(Field::new("url", kind.clone(), true));
            let whole = unsigned(&given).unwrap();
            assert_eq!(whole.data_type(), &kind);
            assert_eq!(&cast(&whole, &DataType::Utf8).unwrap(), &cast(&kept, &DataType::Utf8).unwrap());
            assert_eq!(
                &cast(&unsigned(&given.slice(2, 2)).unwrap(), &DataType::Utf8).unwrap(),
                &cast(&kept.slice(2, 2), &DataType::Utf8).unwrap()
            );
            let of = |values: &ArrayRef| {
                let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
                let number = Arc::new(Field::new("n", DataType::Int32, true));
                let rows: ArrayRef =
                    Arc::new(StructArray::from(vec![(field.clone(), values.clone()), (number, numbers)]));
                rows
            };
            let found = unsigned(&of(&given).slice(1, 3)).unwrap();
            let found = cast(found.as_struct().column(0), &DataType::Utf8).unwrap();
            assert_eq!(&found, &cast(&kept.slice(1, 3), &DataType::Utf8).unwrap());
        }
        let plain: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]));
        assert!(changed(&plain).unwrap().is_none());
    }
}
