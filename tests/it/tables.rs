//! What the tables of a collection contain: every type that `DuckDB` and Arrow write, files that differ in how they hold the same
//! values, columns in paths. Each value comes out as it went in, or is refused in a sentence.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Date64Array, DurationSecondArray, FixedSizeBinaryArray, Float16Array,
    Int32Array, Int64Array, LargeStringArray, NullArray, StringViewArray, Time32SecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Field, Int64Type, Schema, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::record_batch::RecordBatch;
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::data_type::{ByteArray, ByteArrayType, Int96, Int96Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::common::{Workplace, png_image, repo, said, strings, write_parquet};
use crate::readers::python;

/// A workplace with two photographs, and a job on `manifest` with `input` and `output` lines of its own.
fn workplace(manifest: &str, input: &str, output: &str) -> Workplace {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("photos")).unwrap();
    for row in 0..2 {
        std::fs::write(workplace.path(&format!("photos/{row}.png")), png_image(row)).unwrap();
    }
    workplace.job(&format!(
        "[input]\nmanifest = {manifest}\nkey = \"id\"\nimage = \"image\"\n{input}\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n{output}\n[runtime]\nbatch_size = 4\nthreads = 1\n",
        repo("tests/fixtures/tiny_model").display()
    ));
    workplace
}

fn ids() -> ArrayRef {
    strings(["a", "b"].map(Some))
}

/// Paths of the photographs, which start at the folder of the manifest.
fn images(workplace: &Workplace) -> ArrayRef {
    strings([0, 1].map(|row| Some(workplace.path(&format!("photos/{row}.png")).display().to_string())))
}

/// The rows of the newest run.
fn newest(workplace: &Workplace) -> crate::common::Rows {
    let published = workplace.published("out");
    workplace.rows("out", published.last().map(String::as_str))
}

/// Writes two rows with a column `t` of these `INT96` values: days since 1970 and nanoseconds.
fn write_int96(workplace: &Workplace, path: &Path, values: [(i64, u64); 2]) {
    let schema = "message m { REQUIRED BYTE_ARRAY id (UTF8); REQUIRED BYTE_ARRAY image (UTF8); OPTIONAL INT96 t; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let images = images(workplace);
    for texts in [ids(), images] {
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = texts.as_string::<i32>().iter().map(|text| text.unwrap().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    let times = values.map(|(days, within)| {
        let mut time = Int96::new();
        time.set_data(within as u32, (within >> 32) as u32, (days + 2_440_588) as u32);
        time
    });
    column.typed::<Int96Type>().write_batch(&times, Some(&[1, 1]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn int96_times_of_any_year() {
    let workplace = workplace("\"m.parquet\"", "where = \"t >= TIMESTAMP '1990-01-01 00:00:00'\"", "");
    let path = workplace.path("m.parquet");
    // 9999-12-31 23:59:59.999999 and 2024-01-01: microseconds hold both.
    write_int96(&workplace, &path, [(2_932_896, 86_399_999_999_000), (19_723, 0)]);
    workplace.run_ok(&[]);
    let rows = newest(&workplace);
    let times = rows.column("t").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.values(), &[253_402_300_799_999_999, 1_704_067_200_000_000]);
    // Nanoseconds in a column that OUTPUT has in microseconds.
    write_int96(&workplace, &path, [(19_000, 1), (19_723, 0)]);
    let refused = workplace.run(&["--full"]);
    assert!(said(&refused).contains("column `t`"), "{}", said(&refused));
    assert_ne!(refused.status.code(), Some(0));
    std::fs::remove_dir_all(workplace.path("out")).unwrap();
    workplace.run_ok(&[]);
    let rows = newest(&workplace);
    let times = rows.column("t").as_primitive::<TimestampNanosecondType>();
    assert_eq!(times.values(), &[19_000 * 86_400_000_000_000 + 1, 1_704_067_200_000_000_000]);
    // Both in one column: no type holds them.
    write_int96(&workplace, &path, [(19_000, 1), (2_932_896, 0)]);
    let refused = workplace.run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("column `t`") && said(&refused).contains("years"), "{}", said(&refused));
    let mut others = workplace.command("run", &["--set", "output.columns=[\"id\"]", "--set", "output.path=other"]);
    assert!(others.output().unwrap().status.success(), "only the columns that are used");
}

/// What `DuckDB` wrote, it reads from OUTPUT as it reads it from the manifest, but for intervals.
#[test]
fn types_of_duckdb_are_carried() {
    let Some(python) = python() else { return };
    let workplace = workplace("\"m.parquet\"", "where = \"id <> 'c' AND u8 < 200\"", "");
    let folder = workplace.folder.path().display().to_string();
    let script = r#"
import sys, duckdb
folder, step = sys.argv[1:]
if step == "write":
    duckdb.sql(f"""COPY (SELECT i.id, '{folder}/photos/' || i.n || '.png' AS image,
        interval '3 months 2 days' iv, uuid() u, '{{"a": 1}}'::JSON j, 'x'::ENUM('x', 'y') e, MAP {{'a': i.n}} m,
        TIME '10:00:00.123456' t, TIMETZ '10:00:00+02' tz, 170141183460469231731687303715884105727::HUGEINT h, '0101'::BIT bits,
        TIMESTAMP_S '2020-01-01 00:00:00' ts, TIMESTAMP_MS '9999-12-31 23:59:59.999' tms, TIMESTAMP_NS '2020-01-01 00:00:00.123456789' tn,
        TIMESTAMPTZ '2020-01-01 00:00:00+02' tzz, TIMESTAMP '0001-01-01 00:00:00' tu, DATE '5000-02-03' d, DATE '0001-01-01' d0,
        123.45::DECIMAL(5, 2) d5, 0.1::DECIMAL(18, 9) d18, 12345678901234567890.123456789::DECIMAL(38, 9) d38,
        i.n::UTINYINT u8, 65535::USMALLINT u16, 4294967295::UINTEGER u32, 18446744073709551615::UBIGINT u64,
        (-128)::TINYINT i8, 1.5::FLOAT f, 'nan'::DOUBLE dn, true b, 'bytes'::BLOB bl, [1, NULL, 3] l, [[1], NULL] ll,
        {{'a': 1, 'b': ['x'], 'c': {{'d': DATE '2020-01-01'}}}} s, [1.5, 2.5]::FLOAT[2] fixed, NULL n, NULL::VARCHAR nv,
        [MAP {{1: [TIMESTAMP '2020-01-01']}}] deep
        FROM (VALUES ('a', 0), ('b', 1)) i(id, n)) TO '{folder}/m.parquet'""")
else:
    given, found = (duckdb.sql(f"SELECT * FROM read_parquet('{folder}/{files}', hive_partitioning = false) ORDER BY id") for files in ("m.parquet", "out/run=*/*.parquet"))
    kinds = [dict(zip(table.columns, map(str, table.types))) for table in (given, found)]
    # As text: times with a zone need a module of Python that need not be there.
    values = [[dict(zip(table.columns, row)) for row in table.project("COLUMNS(*)::VARCHAR").fetchall()] for table in (given, found)]
    for name, kind in kinds[0].items():
        if name == "iv":
            assert name not in kinds[1]
            continue
        same = repr([row[name] for row in values[0]]) == repr([row[name] for row in values[1]])
        wanted = "VARCHAR" if name == "n" else "FLOAT[]" if name == "fixed" and kind == "FLOAT[]" else kind
        if not same or wanted != kinds[1][name]:
            print(name, kind, kinds[1][name], [row[name] for row in values[0]], [row[name] for row in values[1]])
            sys.exit(1)
"#;
    let step = |step: &str| {
        let ended = Command::new(&python).args(["-c", script, &folder, step]).output().unwrap();
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "{out}{}", said(&ended));
    };
    step("write");
    let ran = workplace.run(&[]);
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(said(&ran).contains("column `iv` of the manifest is not carried"), "{}", said(&ran));
    step("compare");
    let asked = workplace.run(&["--set", "output.columns=[\"iv\"]"]);
    assert_eq!(asked.status.code(), Some(2));
    assert!(said(&asked).contains("`output.columns` names column `iv`"), "{}", said(&asked));
    for predicate in ["iv IS NULL", "h16 > 1", "m IS NULL"] {
        let named = workplace.run(&["--set", &format!("input.where={predicate}")]);
        assert_eq!(named.status.code(), Some(2), "{predicate}: {}", said(&named));
        assert!(said(&named).len() < 3000 && !said(&named).contains("panic"), "{}", said(&named));
    }
    for predicate in [
        "u IS NOT NULL",
        "tn > TIMESTAMP '2019-01-01 00:00:00'",
        "d38 > 1",
        "u64 > 1",
        "j LIKE '%a%'",
        "bl IS NOT NULL",
    ] {
        let named =
            workplace.run(&["--set", &format!("input.where={predicate}"), "--set", "output.path=other", "--full"]);
        assert!(named.status.success(), "{predicate}: {}", said(&named));
    }
}

/// Types of Arrow that Parquet does not have as such come out with the same values, as types that every reader knows.
#[test]
fn types_of_arrow_are_carried() {
    let workplace = workplace("\"m.parquet\"", "where = \"n > 0\"", "");
    let uuid: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter([[7_u8; 16], [8; 16]].into_iter()).unwrap());
    let dictionary = |kind: DataType| DataType::Dictionary(Box::new(DataType::Int8), Box::new(kind));
    let columns: Vec<(&str, ArrayRef, DataType)> = vec![
        ("ts", Arc::new(TimestampSecondArray::from(vec![1, 2]).with_timezone("Europe/Berlin")), DataType::Null),
        ("t32", Arc::new(Time32SecondArray::from(vec![3600, 1])), DataType::Null),
        ("d64", Arc::new(Date64Array::from(vec![-86_400_000, 86_400_000])), DataType::Date32),
        ("half", Arc::new(Float16Array::from(vec![f16::from_f32(1.5), f16::MAX])), DataType::Float16),
        ("u64", Arc::new(UInt64Array::from(vec![u64::MAX, 0])), DataType::UInt64),
        ("large", Arc::new(LargeStringArray::from(vec!["x", "y"])), DataType::Utf8),
        ("view", Arc::new(StringViewArray::from(vec!["x", "y"])), DataType::Utf8),
        ("dict", cast(&ids(), &dictionary(DataType::Utf8)).unwrap(), DataType::Utf8),
        (
            "dates",
            cast(&(Arc::new(Date32Array::from(vec![1, 2])) as ArrayRef), &dictionary(DataType::Date32)).unwrap(),
            DataType::Date32,
        ),
        ("seconds", Arc::new(DurationSecondArray::from(vec![1, 2])), DataType::Null),
        ("nothing", Arc::new(NullArray::new(2)), DataType::Utf8),
        ("uuid", uuid, DataType::FixedSizeBinary(16)),
    ];
    let mut all: Vec<(&str, ArrayRef)> =
        vec![("id", ids()), ("image", images(&workplace)), ("n", Arc::new(Int32Array::from(vec![1, 2])))];
    all.extend(columns.iter().map(|(name, values, _)| (*name, values.clone())));
    // A map, a field's own metadata, and two columns of one name.
    let fields = all.iter().map(|(name, values)| {
        let own = if *name == "uuid" { vec![("ARROW:extension:name", "arrow.uuid"), ("ours", "kept")] } else { vec![] };
        let own: HashMap<String, String> =
            own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Field::new(*name, values.data_type().clone(), true).with_metadata(own)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), all.iter().map(|(_, values)| values.clone()).collect()).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(workplace.path("m.parquet")).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    workplace.run_ok(&[]);
    let rows = newest(&workplace);
    for (name, values, kind) in &columns {
        let found = rows.column(name);
        if *kind != DataType::Null {
            assert_eq!(found.data_type(), kind, "{name}");
        }
        let same = if *name == "nothing" {
            found.null_count() == 2
        } else {
            let whole = |array: &ArrayRef| match array.data_type() {
                DataType::Timestamp(..) => cast(
                    &cast(
                        array,
                        &DataType::Timestamp(arrow::datatypes::TimeUnit::Second, Some("Europe/Berlin".into())),
                    )
                    .unwrap_or_else(|_| array.clone()),
                    &DataType::Int64,
                )
                .unwrap(),
                _ => cast(array, values.data_type()).unwrap(),
            };
            if *name == "ts" {
                cast(found, &DataType::Int64).unwrap().as_primitive::<Int64Type>().values() == &[1000, 2000]
            } else {
                &whole(found) == values
            }
        };
        assert!(same, "{name}: {values:?} came out as {found:?}");
    }
    let field = rows.0.schema().field_with_name("uuid").unwrap().clone();
    assert_eq!(field.metadata().get("ours").map(String::as_str), Some("kept"));
}

/// Nights and files that hold the same values in another way.
#[test]
fn other_flavours_of_the_same_columns_are_no_difference() {
    let place = workplace("[\"a.parquet\", \"b.parquet\"]", "", "");
    let view: ArrayRef = Arc::new(StringViewArray::from(vec!["x", "y"]));
    let one = |workplace: &Workplace, name: &str, title: ArrayRef| {
        let columns = vec![
            ("id", strings([Some("a1"), Some("a2")])),
            ("image", images(workplace)),
            ("title", title),
            ("only_here", ids()),
        ];
        write_parquet(&workplace.path(name), columns, 16);
    };
    let two = |workplace: &Workplace, name: &str, title: ArrayRef| {
        let large = cast(&images(workplace), &DataType::LargeUtf8).unwrap();
        let columns = vec![("title", title), ("image", large), ("id", strings([Some("b1"), Some("b2")]))];
        write_parquet(&workplace.path(name), columns, 16);
    };
    one(&place, "a.parquet", view.clone());
    two(&place, "b.parquet", Arc::new(NullArray::new(2)));
    let refused = place.run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said(&refused).contains("differ in column `only_here`") && said(&refused).contains("output.columns"),
        "{}",
        said(&refused)
    );
    let columns = ["--set", "output.columns=[\"id\", \"title\"]"];
    place.run_ok(&columns);
    let rows = newest(&place);
    assert_eq!(rows.text("title"), [Some("x"), Some("y"), None, None].map(|text| text.map(str::to_owned)));
    // The next night: another order and flavour; a column that is new is left out and named.
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let columns = vec![
        ("new", ids()),
        ("title", cast(&view, &dictionary).unwrap()),
        ("id", strings([Some("c1"), Some("c2")])),
        ("image", images(&place)),
    ];
    write_parquet(&place.path("c.parquet"), columns, 16);
    let night = place.run(&["--set", "input.manifest=c.parquet"]);
    assert!(night.status.success(), "{}", said(&night));
    assert!(said(&night).contains("left out: `new`") && said(&night).contains("output.columns"), "{}", said(&night));
    let rows = newest(&place);
    assert_eq!(rows.text("title"), [Some("x"), Some("y")].map(|text| text.map(str::to_owned)));
    assert!(!rows.has("new"));
    // A night without any title.
    let columns = vec![
        ("id", strings([Some("d1"), Some("d2")])),
        ("image", images(&place)),
        ("title", Arc::new(NullArray::new(2)) as ArrayRef),
    ];
    write_parquet(&place.path("d.parquet"), columns, 16);
    place.run_ok(&["--set", "input.manifest=d.parquet", "--set", "output.columns=[\"id\", \"title\"]"]);
    assert_eq!(newest(&place).text("title"), [None, None]);
    // Times of another unit, with the same values.
    let place = workplace("\"a.parquet\"", "", "");
    let night = |ids: [&str; 2], time: ArrayRef| {
        write_parquet(
            &place.path("a.parquet"),
            vec![("id", strings(ids.map(Some))), ("image", images(&place)), ("t", time)],
            16,
        );
        place.run(&[])
    };
    assert!(night(["a", "b"], Arc::new(TimestampMicrosecondArray::from(vec![1000, 2000]))).status.success());
    assert!(night(["c", "d"], Arc::new(TimestampNanosecondArray::from(vec![3_000_000, 4_000_000]))).status.success());
    assert!(night(["e", "f"], Arc::new(TimestampMillisecondArray::from(vec![5, 6]))).status.success());
    assert_eq!(newest(&place).column("t").as_primitive::<TimestampMicrosecondType>().values(), &[5000, 6000]);
    let finer = night(["g", "h"], Arc::new(TimestampNanosecondArray::from(vec![3, 4])));
    assert!(said(&finer).contains("column `t`") && !finer.status.success(), "{}", said(&finer));
    let other = night(["i", "j"], Arc::new(Int64Array::from(vec![3, 4])));
    assert_eq!(other.status.code(), Some(2));
    assert!(said(&other).contains("`t Timestamp"), "{}", said(&other));
}

#[test]
fn columns_of_one_name_are_refused_where_they_are_used() {
    let workplace = workplace("\"m.parquet\"", "where = \"id = 'a'\"", "columns = [\"id\"]");
    let columns = vec![("id", ids()), ("image", images(&workplace)), ("twice", ids()), ("twice", ids())];
    write_parquet(&workplace.path("m.parquet"), columns, 16);
    workplace.run_ok(&[]);
    for (setting, value) in [
        ("input.where", "twice = 'a'"),
        ("input.text", "twice"),
        ("input.signature", "twice"),
        ("output.columns", "[\"twice\"]"),
    ] {
        let refused = workplace.run(&["--set", &format!("{setting}={value}")]);
        assert_eq!(refused.status.code(), Some(2), "{setting}");
        assert!(said(&refused).contains("several columns"), "{setting}: {}", said(&refused));
    }
}

#[test]
fn hidden_files_are_left_out_and_partitions_are_columns() {
    let workplace = workplace("\"table\"", "where = \"year = 2024\"", "");
    for (folder, id) in [
        ("year=2023/lang=de", "old"),
        ("year=2024/lang=de", "new"),
        ("year=2024/lang=__HIVE_DEFAULT_PARTITION__", "null"),
    ] {
        let folder = workplace.path(&format!("table/{folder}"));
        std::fs::create_dir_all(&folder).unwrap();
        let columns =
            vec![("id", strings([0, 1].map(|row| Some(format!("{id}{row}"))))), ("image", images(&workplace))];
        write_parquet(&folder.join("part.parquet"), columns, 16);
        for hidden in ["._part.parquet", ".tmp.parquet", "_part.parquet"] {
            std::fs::write(folder.join(hidden), "not finished").unwrap();
        }
    }
    std::fs::create_dir_all(workplace.path("table/_temporary/0")).unwrap();
    for hidden in ["_temporary/0/part.parquet", "_SUCCESS", "_metadata", "_x.parquet"] {
        std::fs::write(workplace.path("table").join(hidden), "").unwrap();
    }
    for manifest in ["table", "table/*/*/*.parquet", "table/**/*.parquet"] {
        let _ = std::fs::remove_dir_all(workplace.path("out"));
        workplace.run_ok(&["--set", &format!("input.manifest={manifest}")]);
        let rows = newest(&workplace);
        let mut ids = rows.text("id");
        ids.sort();
        assert_eq!(ids, ["new0", "new1", "null0", "null1"].map(|id| Some(id.to_owned())), "{manifest}");
        assert_eq!(rows.column("year").as_primitive::<Int64Type>().values(), &[2024; 4]);
        assert_eq!(rows.column("lang").null_count(), 2);
    }
    let dated = workplace.path("by_day/day=2024-01-31");
    std::fs::create_dir_all(&dated).unwrap();
    std::fs::copy(workplace.path("table/year=2023/lang=de/part.parquet"), dated.join("p.parquet")).unwrap();
    std::fs::remove_dir_all(workplace.path("out")).unwrap();
    workplace.run_ok(&[
        "--set",
        "input.manifest=by_day/day=2024-01-31/p.parquet",
        "--set",
        "input.where=day > DATE '2024-01-30'",
    ]);
    assert_eq!(newest(&workplace).column("day").as_primitive::<Date32Type>().value(1), 19_753);
}

/// Every kind of manifest of docs/job.md that is no single Parquet file.
#[test]
fn folders_and_text_files_are_manifests() {
    let workplace = workplace("\"photos\"", "", "");
    std::fs::write(workplace.path("photos/.hidden.png"), "").unwrap();
    std::fs::write(workplace.path("photos/notes.txt"), "").unwrap();
    let text = |name: &str| newest(&workplace).text(name).into_iter().flatten().collect::<Vec<_>>();
    workplace.run_ok(&[]);
    assert_eq!(text("id"), ["0.png", "1.png"]);
    assert_eq!(text("status"), ["ok", "ok"]);
    let again = workplace.run(&[]);
    assert!(said(&again).contains("nothing is new"), "{}", said(&again));
    std::fs::write(workplace.path("photos/1.png"), png_image(7)).unwrap();
    workplace.run_ok(&[]);
    assert_eq!(text("id"), ["1.png"], "the one that has changed");

    let run = |manifest: &str, key: &str, image: &str| {
        let _ = std::fs::remove_dir_all(workplace.path("out"));
        let (manifest, key, image) =
            (format!("input.manifest={manifest}"), format!("input.key={key}"), format!("input.image={image}"));
        workplace.run_ok(&["--set", &manifest, "--set", &key, "--set", &image]);
        let rows = newest(&workplace);
        assert_eq!(rows.text("status"), [Some("ok".to_owned()), Some("ok".to_owned())], "{manifest}");
        rows
    };
    let csv = "sku,file,price,title\n007,photos/0.png,1.5,\"a, b\"\n8,photos/1.png,,\n";
    std::fs::write(workplace.path("m.csv"), csv).unwrap();
    let rows = run("m.csv", "sku", "file");
    assert_eq!(rows.text("sku"), ["007", "8"].map(|sku| Some(sku.to_owned())));
    assert_eq!(rows.text("title"), [Some("a, b".to_owned()), None]);
    assert_eq!(rows.column("price").data_type(), &DataType::Float64);
    let again =
        workplace.run(&["--set", "input.manifest=m.csv", "--set", "input.key=sku", "--set", "input.image=file"]);
    assert!(said(&again).contains("nothing is new"), "{}", said(&again));
    let jsonl =
        "{\"id\": 1, \"image\": \"photos/0.png\", \"tags\": [\"x\"]}\n{\"id\": 2, \"image\": \"photos/1.png\"}\n";
    std::fs::write(workplace.path("m.jsonl"), jsonl).unwrap();
    let rows = run("m.jsonl", "id", "image");
    assert_eq!(rows.column("id").as_primitive::<Int64Type>().values(), &[1, 2]);
    assert_eq!(rows.text("tags"), [Some("[\"x\"]".to_owned()), None]);
    std::fs::write(workplace.path("photos/metadata.csv"), "file_name,label\n0.png,cat\n1.png,dog\n").unwrap();
    let rows = run("photos", "file_name", "file_name");
    assert_eq!(rows.text("label"), ["cat", "dog"].map(|label| Some(label.to_owned())));
    std::fs::create_dir_all(workplace.path("hub/data")).unwrap();
    std::fs::write(workplace.path("hub/README.md"), "").unwrap();
    let columns = vec![("id", ids()), ("image", images(&workplace))];
    write_parquet(&workplace.path("hub/data/train-00000-of-00001.parquet"), columns, 16);
    run("hub", "id", "image");
    std::fs::write(workplace.path("bad.jsonl"), "{\"id\": 1}\n[2]\n").unwrap();
    let refused = workplace.run(&["--set", "input.manifest=bad.jsonl"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("line 2: expected an object"), "{}", said(&refused));
}

#[test]
fn images_in_texts() {
    use base64::Engine as _;
    let workplace = workplace("\"m.parquet\"", "", "columns = [\"id\"]");
    let base64 = base64::engine::general_purpose::STANDARD.encode(png_image(0));
    let percent = png_image(1).iter().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
    let values = [
        format!("data:image/png;base64,{base64}"),
        format!("data:image/png,{percent}"),
        base64.clone(),
        "data:image/png;base64".to_owned(),
        format!("data:image/png;base64,{}", "AAAA".repeat(1 << 20)),
    ];
    let ids = strings(["a", "b", "c", "d", "e"].map(Some));
    write_parquet(&workplace.path("m.parquet"), vec![("id", ids), ("image", strings(values.map(Some)))], 16);
    let ran = workplace.run(&["--set", "limits.max_image_bytes=1000000"]);
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{}", said(&ran));
    let rows = newest(&workplace);
    let kinds = rows.text("error_kind").into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
    assert_eq!(kinds, ["", "", "invalid_uri", "invalid_uri", "too_large"]);
    let messages = rows.text("error_message");
    let bare = messages[2].as_deref().unwrap();
    assert!(bare.contains("characters of base64") && bare.len() < 250, "{bare}");
    let hash = |row: u32| Some(blake3::hash(&png_image(row)).to_hex().to_string());
    assert_eq!(rows.text("content_hash")[..2], [hash(0), hash(1)]);
    let again = workplace.run(&["--set", "limits.max_image_bytes=1000000"]);
    assert!(said(&again).contains("nothing is new"), "{}", said(&again));
}
