//! The pictures of an OUTPUT's rows, made small: those that the run read, and no others.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use nightcap::job::Job;
use nightcap::output::store::OutputStore;
use nightcap::output::view::{View, ViewPart};
use nightcap::preprocess::{DecodeLimits, RgbImage, decode};
use nightcap::thumbnails::{Thumbnail, ThumbnailReader};

use crate::common::{Workplace, nightcap, png_image, said, strings, write_parquet};
use crate::web::WebServer;

fn view(workplace: &Workplace) -> View {
    View::open(OutputStore::from_argument(&workplace.path("out")).unwrap(), None).unwrap()
}

fn thumbnails(workplace: &Workplace, job: bool, places: impl Fn(&View) -> Vec<(ViewPart, u32)>) -> Vec<Thumbnail> {
    let view = view(workplace);
    let job = job.then(|| Job::load(&workplace.path("job.toml"), &[]).unwrap());
    ThumbnailReader::open(&view, job.as_ref(), 16).unwrap().read_places(&view, &places(&view)).unwrap()
}

/// Every row of every part, the last first.
fn backwards(view: &View) -> Vec<(ViewPart, u32)> {
    let rows = view.parts().into_iter().flat_map(|part| {
        let rows = view.read(part, &[], nightcap::output::view::Which::Ok).unwrap();
        let rows: u32 = rows.map(|batch| batch.unwrap().rows.num_rows() as u32).sum();
        (0..rows).map(move |row| (part, row))
    });
    let mut rows: Vec<_> = rows.collect();
    rows.reverse();
    rows
}

/// The keys of every row, in the order of parts.
fn ids(workplace: &Workplace) -> Vec<String> {
    let view = view(workplace);
    let of_part = |part| view.read(part, &["id"], nightcap::output::view::Which::Ok).unwrap();
    let batches = view.parts().into_iter().flat_map(of_part).map(|batch| batch.unwrap().rows);
    let keys = |batch: RecordBatch| cast(batch.column_by_name("id").unwrap(), &DataType::Utf8).unwrap();
    batches
        .flat_map(|batch| keys(batch).as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).collect::<Vec<_>>())
        .collect()
}

const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 1 << 30 };

#[track_caller]
fn is_picture(thumbnail: &Thumbnail, of: &[u8]) {
    let Thumbnail::Jpeg(jpeg) = thumbnail else { panic!("{thumbnail:?}") };
    assert!(jpeg.starts_with(b"\xff\xd8\xff"));
    let (small, whole) = (decode(jpeg, LIMITS).unwrap(), decode(of, LIMITS).unwrap());
    let longer = whole.width.max(whole.height);
    let expected = |side: u32| (f64::from(side) * f64::from(16.min(longer)) / f64::from(longer)).round() as u32;
    assert_eq!((small.width, small.height), (expected(whole.width), expected(whole.height)));
    let mean = |image: &RgbImage, channel: usize| {
        let values = image.pixels.iter().skip(channel).step_by(3).map(|value| f64::from(*value));
        values.sum::<f64>() / f64::from(image.width * image.height)
    };
    for channel in 0..3 {
        let (small, whole) = (mean(&small, channel), mean(&whole, channel));
        assert!((small - whole).abs() < 6.0, "channel {channel}: {small} {whole}");
    }
}

#[test]
fn every_row_has_the_picture_that_the_run_read() {
    let workplace = Workplace::with_images(40, 7);
    workplace.run_ok(&[]);
    for job in [false, true] {
        let found = thumbnails(&workplace, job, backwards);
        assert_eq!(found.len(), 40);
        for (row, thumbnail) in (0..40).rev().zip(&found) {
            is_picture(thumbnail, &png_image(row));
        }
    }
    // The same row twice.
    let twice = thumbnails(&workplace, false, |view| vec![backwards(view)[3]; 2]);
    assert!(twice[0] == twice[1] && matches!(twice[0], Thumbnail::Jpeg(_)));
}

#[test]
fn a_picture_that_is_not_the_same_is_not_shown() {
    let workplace = Workplace::with_images(8, 3);
    workplace.run_ok(&[]);
    std::fs::write(workplace.path("photos/2.png"), png_image(222)).unwrap();
    std::fs::remove_file(workplace.path("photos/3.png")).unwrap();
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    // The manifest has grown at the front, and has lost its last row.
    let rows = || (0..8u32).rev().filter(|row| *row != 7);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", strings(rows().map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings(rows().map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings(rows().map(|_| None::<String>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 2);
    let mut found = thumbnails(&workplace, false, backwards);
    found.reverse();
    assert_eq!(found[2], Thumbnail::Changed);
    assert_eq!(found[3], Thumbnail::Gone);
    assert_eq!(found[4], Thumbnail::Changed);
    assert_eq!(found[7], Thumbnail::Gone);
    for row in [0, 1, 5, 6] {
        is_picture(&found[row as usize], &png_image(row));
    }
    std::fs::remove_file(workplace.path("manifest.parquet")).unwrap();
    let found = thumbnails(&workplace, false, backwards);
    assert!(found.iter().all(|found| matches!(found, Thumbnail::Unreadable(why) if why.contains("manifest.parquet"))));
}

#[test]
fn images_inside_the_manifest_of_several_runs_and_of_a_compaction() {
    let workplace = Workplace::with_images(0, 4);
    let write = |name: &str, rows: std::ops::Range<u32>| {
        let images: Vec<Vec<u8>> = rows.clone().map(png_image).collect();
        let images: ArrayRef = Arc::new(BinaryArray::from_iter_values(images));
        let keys = strings(rows.clone().map(|row| Some(format!("row-{row:04}"))));
        let titles = strings(rows.map(|_| None::<String>));
        write_parquet(&workplace.path(name), vec![("id", keys), ("image", images), ("title", titles)], 5);
    };
    write("manifest.parquet", 0..23);
    write("more.parquet", 100..119);
    workplace.run_ok(&["--run-id", "first"]);
    workplace.run_ok(&["--run-id", "second", "--set", "input.manifest=more.parquet"]);
    let found = thumbnails(&workplace, false, backwards);
    for (row, thumbnail) in (0..23).chain(100..119).rev().zip(&found) {
        is_picture(thumbnail, &png_image(row));
    }
    // One job's manifest for all rows: the others are not in it.
    let found = thumbnails(&workplace, true, backwards);
    assert!(found[..19].iter().all(|found| *found == Thumbnail::Gone));
    found[19..].iter().zip((0..23).rev()).for_each(|(found, row)| is_picture(found, &png_image(row)));

    let compacted =
        nightcap().args(["compact", "out", "--grace", "0"]).current_dir(workplace.path("")).output().unwrap();
    assert!(compacted.status.success(), "{}", said(&compacted));
    // Each row is still looked for in the manifest that its own run read, also after a compaction of the compaction.
    let every = |workplace: &Workplace| {
        let mut rows = ids(workplace);
        rows.reverse();
        for (id, thumbnail) in rows.iter().zip(thumbnails(workplace, false, backwards)) {
            is_picture(&thumbnail, &png_image(id.strip_prefix("row-").unwrap().parse().unwrap()));
        }
        rows.len()
    };
    assert_eq!(every(&workplace), 23 + 19);
    write("last.parquet", 200..203);
    workplace.run_ok(&["--run-id", "third", "--set", "input.manifest=last.parquet"]);
    let again = nightcap().args(["compact", "out", "--grace", "0"]).current_dir(workplace.path("")).output().unwrap();
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!((every(&workplace), view(&workplace).runs().len()), (23 + 19 + 3, 1));
    let found = thumbnails(&workplace, true, backwards);
    assert_eq!(found.iter().filter(|found| matches!(found, Thumbnail::Jpeg(_))).count(), 23);
}

#[test]
fn nothing_is_read_outside_of_the_folders_of_the_run() {
    let workplace = Workplace::with_images(6, 3);
    workplace.run_ok(&[]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("1.png"), png_image(1)).unwrap();
    let image = |row: u32| match row {
        1 => elsewhere.path().join("1.png").display().to_string(),
        2 => "http://127.0.0.1:9/2.png".to_owned(),
        row => format!("photos/{row}.png"),
    };
    let columns = vec![
        ("id", strings((0..6).map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings((0..6).map(|row| Some(image(row))))),
        ("title", strings((0..6).map(|_| None::<String>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    let why = |found: &Thumbnail| match found {
        Thumbnail::Unreadable(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    let mut found = thumbnails(&workplace, false, backwards);
    found.reverse();
    assert!(why(&found[1]).contains("limits.roots"), "{}", why(&found[1]));
    assert!(why(&found[2]).contains("limits.allow_private_hosts"), "{}", why(&found[2]));
    is_picture(&found[5], &png_image(5));
    // The job allows any folder, and no private host.
    let mut found = thumbnails(&workplace, true, backwards);
    found.reverse();
    is_picture(&found[1], &png_image(1));
    assert!(why(&found[2]).contains("limits.allow_private_hosts"), "{}", why(&found[2]));
    // A job that allows one folder.
    let text = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&format!("{text}[limits]\nroots = [{:?}]\n", Path::new("photos")));
    let mut found = thumbnails(&workplace, true, backwards);
    found.reverse();
    assert!(why(&found[1]).contains("limits.roots"), "{}", why(&found[1]));
}

#[test]
fn what_the_run_might_read_from_web_servers_is_shown_without_its_job() {
    let (server, other) = (WebServer::start(), WebServer::start_at("127.0.0.2"));
    let workplace = Workplace::with_images(6, 3);
    let write = |place: &dyn Fn(u32) -> String| {
        let columns = vec![
            ("id", strings((0..6).map(|row| Some(format!("row-{row:04}"))))),
            ("image", strings((0..6).map(|row| Some(place(row))))),
            ("title", strings((0..6).map(|_| None::<String>))),
        ];
        write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    };
    for row in 0..6 {
        for (server, folder) in [(&server, "photos"), (&server, "elsewhere"), (&other, "photos")] {
            server.answer(&format!("/{folder}/{row}.png"), 200, &[], &png_image(row));
        }
    }
    server.redirect("/photos/away.png", 302, &format!("{}/photos/5.png", other.origin()));
    let home = server.origin();
    write(&|row| format!("{home}/photos/{row}.png"));
    let hosts = "limits.allow_private_hosts=127.0.0.1";
    workplace.run_ok(&["--run-id", "anywhere", "--set", hosts]);
    for (row, found) in (0..6).rev().zip(thumbnails(&workplace, false, backwards)) {
        is_picture(&found, &png_image(row));
    }
    let why = |found: &Thumbnail| match found {
        Thumbnail::Unreadable(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    let away = |row: u32| match row {
        3 => format!("{}/photos/3.png", other.origin()),
        4 => format!("{home}/elsewhere/4.png"),
        5 => format!("{home}/photos/away.png"),
        row => format!("{home}/photos/{row}.png"),
    };
    write(&away);
    let mut found = thumbnails(&workplace, false, backwards);
    found.reverse();
    is_picture(&found[4], &png_image(4));
    for row in [3, 5] {
        assert!(why(&found[row]).contains("limits.allow_private_hosts"), "{}", why(&found[row]));
    }
    assert!(other.requests().is_empty(), "{:?}", other.requests());

    // A run that was allowed one folder; a compaction keeps to that.
    write(&|row| format!("{home}/photos/{row}.png"));
    let root = format!("limits.roots=[\"{home}/photos\"]");
    workplace.run_ok(&["--run-id", "one_folder", "--full", "--set", &root]);
    write(&away);
    for compacted in [false, true] {
        if compacted {
            let output = nightcap().args(["compact", "out", "--grace", "0"]).current_dir(workplace.path("")).output();
            assert!(output.as_ref().unwrap().status.success(), "{}", said(&output.unwrap()));
        }
        let mut found = thumbnails(&workplace, false, |view| {
            let newest = view.runs().last().unwrap().run.clone();
            backwards(view).into_iter().filter(|(part, _)| view.run_of(*part).run == newest).collect()
        });
        found.reverse();
        assert_eq!(found.len(), 6);
        (0..3).for_each(|row| is_picture(&found[row], &png_image(row as u32)));
        for row in [3, 4, 5] {
            assert!(why(&found[row]).contains("limits."), "{row}: {}", why(&found[row]));
        }
    }
    assert!(other.requests().is_empty(), "{:?}", other.requests());
}
