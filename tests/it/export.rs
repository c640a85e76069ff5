//! `nightcap export`: one file with the newest ok rows, as OUTPUT has them.

use std::fs::File;
use std::process::{Command, Output};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float32Type, Int64Type};
use nightcap::preprocess::{DecodeLimits, decode};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::common::{Workplace, nightcap, png_image, said};
use crate::readers::python;
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::{on_s3, run_command};

fn export(workplace: &Workplace, arguments: &[&str]) -> Output {
    nightcap().args(["export", "out"]).args(arguments).current_dir(workplace.path("")).output().unwrap()
}

pub fn exported(workplace: &Workplace, arguments: &[&str]) -> RecordBatch {
    let output = export(workplace, &[&["-o", "all.parquet"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    all_rows(workplace)
}

fn all_rows(workplace: &Workplace) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(workplace.path("all.parquet")).unwrap()).unwrap();
    let schema = reader.schema().clone();
    concat_batches(&schema, &reader.build().unwrap().map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

fn ids(rows: &RecordBatch) -> Vec<String> {
    let keys = arrow::compute::cast(rows.column_by_name("id").unwrap(), &DataType::Utf8).unwrap();
    keys.as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).collect()
}

#[test]
fn the_newest_ok_rows_are_in_one_file() {
    let workplace = Workplace::with_images(12, 5);
    workplace.run_ok(&["--run-id", "first"]);
    std::fs::write(workplace.path("photos/3.png"), png_image(777)).unwrap();
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "second", "--set", "limits.max_failed_fraction=1.0"]);
    let rows = exported(&workplace, &["--thumbnails", "16", "--neighbors", "3"]);
    let mut found = ids(&rows);
    let vectors = rows.column_by_name("image_embedding").unwrap().as_fixed_size_list();
    let vector = |row: usize| vectors.value(row).as_primitive::<Float32Type>().values().to_vec();
    let near = rows.column_by_name("neighbors").unwrap().as_struct();
    let thumbnails = rows.column_by_name("thumbnail").unwrap().as_struct();
    for row in 0..found.len() {
        let dot = |other: usize| vector(row).iter().zip(vector(other)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let mut expected: Vec<(usize, f64)> =
            (0..found.len()).filter(|other| *other != row).map(|other| (other, 1.0 - dot(other))).collect();
        expected.sort_by(|a, b| a.1.total_cmp(&b.1));
        let numbers = near.column_by_name("ids").unwrap().as_list::<i32>().value(row);
        let distances = near.column_by_name("distances").unwrap().as_list::<i32>().value(row);
        let distances = distances.as_primitive::<Float32Type>().values();
        assert_eq!((numbers.len(), distances.len()), (3, 3));
        for (at, (number, distance)) in numbers.as_primitive::<Int64Type>().values().iter().zip(distances).enumerate() {
            assert!((f64::from(*distance) - expected[at].1).abs() < 1e-5);
            assert!((1.0 - dot(*number as usize) - expected[at].1).abs() < 1e-5);
        }
        let jpeg = thumbnails.column_by_name("bytes").unwrap().as_binary::<i32>().value(row);
        let small = decode(jpeg, DecodeLimits { max_image_pixels: 1 << 30 }).unwrap();
        assert!(small.width.max(small.height) <= 16);
    }
    found.sort();
    let expected: Vec<String> = (0..12).filter(|row| *row != 4).map(|row| format!("row-{row:04}")).collect();
    assert_eq!(found, expected);
    // Nothing but the file stays.
    let left: Vec<_> = std::fs::read_dir(workplace.path("")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".nightcap-")), "{left:?}");

    let rows = exported(
        &workplace,
        &["--columns", "caption,image_embedding", "--vectors", "f16", "--where", "id < 'row-0003'"],
    );
    let names: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!((names, rows.num_rows()), (["id", "caption", "image_embedding"].map(str::to_owned).to_vec(), 3));
    let DataType::FixedSizeList(element, _) = rows.column(2).data_type().clone() else { panic!() };
    assert_eq!(*element.data_type(), DataType::Float16);
    let rows = exported(&workplace, &["--vectors", "none"]);
    assert!(rows.column_by_name("image_embedding").is_none() && rows.column_by_name("caption").is_some());
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let workplace = Workplace::with_images(6, 5);
    workplace.run_ok(&[]);
    for (arguments, expected) in [
        (&["-o", "all.csv"][..], "ends in .parquet"),
        (&["-o", "s3://bucket/all.parquet"], "expected a path of this machine"),
        (&["-o", "all.parquet", "--columns", "nosuch"], "--columns: expected some of the columns id, image"),
        (&["-o", "all.parquet", "--where", "nosuch = 1"], "--where: expected one of the columns id, image"),
        (&["-o", "nowhere/all.parquet"], "-o nowhere/all.parquet: "),
    ] {
        let output = export(&workplace, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    workplace.run_ok(&["--full", "--limit", "2", "--set", "input.jpeg_scaling=true"]);
    let output = export(&workplace, &["-o", "all.parquet"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("expected vectors of one embedding_fingerprint")
            && !workplace.path("all.parquet").exists()
    );
    assert_eq!(exported(&workplace, &["--vectors", "none"]).num_rows(), 6);
}

#[test]
fn duckdb_and_polars_read_the_file() {
    let Some(python) = python() else { return };
    let workplace = Workplace::with_images(8, 5);
    workplace.run_ok(&[]);
    exported(&workplace, &["--thumbnails", "16", "--neighbors", "3"]);
    let script = "import duckdb, polars as pl\n\
        rows = duckdb.sql(\"SELECT count(*), min(octet_length(thumbnail.bytes)) > 100, max(len(neighbors.ids)) FROM 'all.parquet'\").fetchall()[0]\n\
        assert rows == (8, True, 3), rows\n\
        frame = pl.read_parquet('all.parquet')\n\
        assert frame['neighbors'].struct.field('ids').list.len().to_list() == [3] * 8\n\
        assert isinstance(frame['image_embedding'].dtype, pl.Array), frame.schema\n";
    let output = Command::new(python).args(["-c", script]).current_dir(workplace.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_thumbnail_that_cannot_be_shown_is_null_and_said() {
    let workplace = Workplace::with_images(8, 5);
    workplace.run_ok(&[]);
    std::fs::remove_file(workplace.path("photos/3.png")).unwrap();
    std::fs::write(workplace.path("photos/4.png"), png_image(777)).unwrap();
    let output = export(&workplace, &["-o", "all.parquet", "--thumbnails", "16"]);
    let log = said(&output);
    assert!(log.contains("the picture is gone") && log.contains("is not the one that the run read"), "{log}");
    let rows = exported(&workplace, &["--thumbnails", "16"]);
    let thumbnails = rows.column_by_name("thumbnail").unwrap();
    let nulls: Vec<usize> = (0..8).filter(|row| thumbnails.is_null(*row)).collect();
    assert_eq!(nulls, [3, 4]);
    std::fs::remove_file(workplace.path("manifest.parquet")).unwrap();
    let log = said(&export(&workplace, &["-o", "all.parquet", "--thumbnails", "16"]));
    assert!(
        log.contains("the picture cannot be read, the first because: ") && log.contains("manifest.parquet"),
        "{log}"
    );
}

/// Manifest, pictures and OUTPUT are on S3.
#[test]
fn an_export_of_s3_is_the_local_one() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(12, 5));
    let settings = on_s3(&workplace, server, "export");
    let on_server = |command: &mut Command| {
        let output = with_s3(command, &server.endpoint()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        output
    };
    on_server(&mut run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "night"]));
    server.put("export/photos/4.png", &png_image(777)).unwrap();
    workplace.run_ok(&["--run-id", "night"]);
    std::fs::write(workplace.path("photos/4.png"), png_image(777)).unwrap();

    let wanted = ["--thumbnails", "16", "--neighbors", "3", "--where", "id <> 'row-0007'"];
    let local = exported(&workplace, &wanted);
    let mut export = nightcap();
    let export = export.args(["export", "s3://night/export/out", "-o", "all.parquet"]).args(wanted);
    let log = said(&on_server(export.current_dir(workplace.path(""))));
    assert!(log.contains("is not the one that the run read"), "{log}");
    let remote = all_rows(&workplace);
    assert_eq!((remote.num_rows(), remote.schema()), (11, local.schema()));
    for (number, field) in local.schema().fields().iter().enumerate() {
        // On S3 an image's signature is its ETag.
        let same = local.column(number) == remote.column(number);
        assert_eq!(same, field.name() != "content_signature", "{}", field.name());
    }
    assert_eq!(remote.column_by_name("thumbnail").unwrap().null_count(), 1);
}
