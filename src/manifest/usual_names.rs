//! Chooses the key, image and text columns of a manifest, by their types and by usual names of such columns.

use arrow::datatypes::{DataType, Field, Schema};

use super::ManifestError;
use super::job_columns::{is_image, is_key, is_string};

/// Names of key columns, the likeliest first; paths and URIs come last.
const KEYS: [&str; 20] = [
    "id",
    "key",
    "__key__",
    "image_id",
    "img_id",
    "photo_id",
    "item_id",
    "uid",
    "uuid",
    "guid",
    "file_name",
    "filename",
    "file_path",
    "filepath",
    "image_path",
    "path",
    "file",
    "uri",
    "url",
    "image",
];
/// Names of image columns, the likeliest first: image bytes, then paths, then URIs.
const IMAGES: [&str; 24] = [
    "image",
    "img",
    "photo",
    "picture",
    "image_bytes",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "image_path",
    "img_path",
    "file_path",
    "filepath",
    "path",
    "file_name",
    "filename",
    "file",
    "image_uri",
    "uri",
    "image_url",
    "img_url",
    "url",
    "link",
];
/// Names of columns with a text that comes with the image. Not `caption`, which is a column of the output.
const TEXTS: [&str; 4] = ["title", "text", "alt_text", "alt"];

/// Columns that a message shows.
const MOST_SHOWN: usize = 50;

/// Columns that the user names; None: chosen here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// `--key`
    pub key: Option<&'a str>,
    /// `--image`
    pub image: Option<&'a str>,
    /// `--text`
    pub text: Option<&'a str>,
}

/// A column and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub column: String,
    /// Why.
    pub why: String,
}

/// The columns of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobColumns {
    /// `input.key`
    pub key: Choice,
    /// `input.image`; None: the job embeds texts only.
    pub image: Option<Choice>,
    /// `input.text`
    pub text: Option<Choice>,
}

impl JobColumns {
    /// Finds the columns in `schema`, that of the manifest at `path`.
    ///
    /// # Errors
    /// When a `given` column does not exist or has the wrong type, or when no column has the type and a usual name of a key or an
    /// image column.
    pub fn choose(schema: &Schema, path: &str, given: Given<'_>) -> Result<Self, ManifestError> {
        let search = Search { schema, path };
        let text = search.column(given.text, &TEXT, &TEXTS)?;
        let image = match search.column(given.image, &IMAGE, &IMAGES)?.or_else(|| search.only_bytes()) {
            None if given.text.is_none() => return Err(search.cannot_choose(&IMAGE, "images")),
            image => image,
        };
        let key = search.column(given.key, &KEY, &KEYS)?.ok_or_else(|| search.cannot_choose(&KEY, "keys"))?;
        Ok(Self { key, image, text })
    }
}

/// The purpose of a column.
struct Purpose {
    flag: &'static str,
    expected: &'static str,
    fits: fn(&DataType) -> bool,
}

const KEY: Purpose = Purpose { flag: "--key", expected: "a string or integer column", fits: is_key };
const IMAGE: Purpose = Purpose {
    flag: "--image",
    expected: "a string column (paths), a binary column (image bytes) or a struct {bytes, path}",
    fits: is_image,
};
const TEXT: Purpose = Purpose { flag: "--text", expected: "a string column", fits: is_string };

struct Search<'a> {
    schema: &'a Schema,
    path: &'a str,
}

impl Search<'_> {
    /// The column that the user names, otherwise the first of `names` that fits.
    fn column(&self, given: Option<&str>, purpose: &Purpose, names: &[&str]) -> Result<Option<Choice>, ManifestError> {
        let fields = || self.schema.fields().iter();
        let Some(name) = given else {
            let found = names.iter().find_map(|name| {
                fields().find(|field| field.name().eq_ignore_ascii_case(name) && (purpose.fits)(field.data_type()))
            });
            return Ok(found.map(|field| Choice {
                column: field.name().clone(),
                why: format!("found by its name; it holds {}", held(field)),
            }));
        };
        let field = fields().find(|field| field.name() == name).ok_or_else(|| ManifestError::MissingColumn {
            setting: purpose.flag,
            column: name.to_owned(),
            path: self.path.to_owned(),
            available: self.names(),
        })?;
        if !(purpose.fits)(field.data_type()) {
            return Err(ManifestError::ColumnType {
                setting: purpose.flag,
                column: name.to_owned(),
                path: self.path.to_owned(),
                expected: purpose.expected,
                found: field.data_type().clone(),
            });
        }
        Ok(Some(Choice { column: name.to_owned(), why: format!("as {} says", purpose.flag) }))
    }

    /// The only column that can hold nothing but images, whatever its name.
    fn only_bytes(&self) -> Option<Choice> {
        let mut fields =
            self.schema.fields().iter().filter(|field| is_image(field.data_type()) && !is_string(field.data_type()));
        let field = fields.next()?;
        let why = format!("the only column of its type; it holds {}", held(field));
        fields.next().is_none().then(|| Choice { column: field.name().clone(), why })
    }

    fn cannot_choose(&self, purpose: &Purpose, holds: &'static str) -> ManifestError {
        let column = |field: &Field| format!("{} ({})", field.name(), held(field));
        ManifestError::NoUsualName {
            path: self.path.to_owned(),
            holds,
            expected: purpose.expected,
            flag: purpose.flag,
            columns: self.schema.fields().iter().take(MOST_SHOWN).map(|field| column(field)).collect(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.schema.fields().iter().take(MOST_SHOWN).map(|field| field.name().clone()).collect()
    }
}

/// The type of a column, for messages.
fn held(field: &Field) -> String {
    match field.data_type() {
        kind if is_string(kind) => "text".to_owned(),
        kind if kind.is_integer() => "whole numbers".to_owned(),
        DataType::Struct(_) if is_image(field.data_type()) => "the struct {bytes, path}".to_owned(),
        kind if is_image(kind) => "image bytes".to_owned(),
        kind if kind.is_nested() => "lists or structs".to_owned(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    fn hugging_face() -> DataType {
        let fields = [("bytes", DataType::Binary), ("path", DataType::Utf8)];
        DataType::Struct(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec().into())
    }

    /// Key, image and text; `-` for none.
    fn chosen(columns: &[(&str, DataType)], given: Given<'_>) -> [String; 3] {
        let columns = JobColumns::choose(&schema(columns), "m.parquet", given).unwrap();
        let name = |choice: Option<Choice>| choice.map_or("-".to_owned(), |choice| choice.column);
        [name(Some(columns.key)), name(columns.image), name(columns.text)]
    }

    #[test]
    fn usual_manifests() {
        use DataType::{Binary, Float64, Int64, LargeUtf8, Utf8};
        let none = Given::default();
        let of_folder = [("id", Utf8), ("image", Utf8), ("bytes", Int64), ("modified", Int64)];
        assert_eq!(chosen(&of_folder, none), ["id", "image", "-"]);
        assert_eq!(
            chosen(&[("image", hugging_face()), ("label", Int64), ("file_name", Utf8)], none),
            ["file_name", "image", "-"]
        );
        let img2dataset = [("url", Utf8), ("caption", Utf8), ("key", Utf8), ("status", Utf8), ("jpg", Binary)];
        assert_eq!(chosen(&img2dataset, none), ["key", "jpg", "-"]);
        assert_eq!(
            chosen(&[("URL", LargeUtf8), ("TEXT", LargeUtf8), ("width", Float64)], none),
            ["URL", "URL", "TEXT"]
        );
        assert_eq!(chosen(&[("uid", Int64), ("thumb", Binary), ("title", Utf8)], none), ["uid", "thumb", "title"]);
        let own = [("sku", Utf8), ("front", Utf8), ("notes", Utf8)];
        let given = Given { key: Some("sku"), image: Some("front"), text: Some("notes") };
        assert_eq!(chosen(&own, given), ["sku", "front", "notes"]);
        let texts = Given { text: Some("notes"), key: Some("sku"), image: None };
        assert_eq!(chosen(&own, texts), ["sku", "-", "notes"]);
    }

    #[test]
    fn what_cannot_be_told() {
        use DataType::{Binary, Float64, Utf8};
        let refused = |columns: &[(&str, DataType)], given| {
            JobColumns::choose(&schema(columns), "m.parquet", given).unwrap_err().to_string()
        };
        insta::assert_snapshot!(refused(&[("id", Utf8), ("front", Binary), ("back", Binary), ("score", Float64)], Given::default()), @r"
        cannot tell which column of m.parquet has the images: expected a string column (paths), a binary column (image bytes) or a struct {bytes, path} with a usual name
        hint: name it with --image COLUMN; the columns are id (text), front (image bytes), back (image bytes), score (Float64)
        ");
        insta::assert_snapshot!(refused(&[("score", Float64), ("image", hugging_face())], Given::default()), @r"
        cannot tell which column of m.parquet has the keys: expected a string or integer column with a usual name
        hint: name it with --key COLUMN; the columns are score (Float64), image (the struct {bytes, path})
        ");
        insta::assert_snapshot!(refused(&[("id", Utf8), ("image", Utf8)], Given { key: Some("key"), ..Given::default() }), @r"
        `--key` names column `key`, which m.parquet does not have
        hint: its columns are id, image
        ");
        insta::assert_snapshot!(refused(&[("id", Utf8), ("image", Float64)], Given { image: Some("image"), ..Given::default() }), @"`--image` names column `image` of m.parquet: expected a string column (paths), a binary column (image bytes) or a struct {bytes, path}, found Float64");
    }
}
