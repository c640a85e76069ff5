//! Damaged or unusual images: each becomes the right pixels or an error row, and the other rows are not affected.

use crate::common::{Workplace, nightcap, png_image, repo, strings, write_parquet};

#[test]
fn broken_and_unusual_images_become_pixels_or_error_rows() {
    let workplace = Workplace::with_images(2, 100);
    let fixtures = repo("tests/fixtures/images");
    let mut uris: Vec<Option<String>> = std::fs::read_dir(&fixtures)
        .unwrap()
        .map(|entry| Some(entry.unwrap().path().to_string_lossy().into_owned()))
        .collect();
    uris.sort();
    let listed = uris.len();
    let strange_name = "photos/ein schönes Bild, 100% #1 [a]?.png";
    std::fs::write(workplace.path(strange_name), png_image(99)).unwrap();
    std::fs::write(workplace.path("photos/a tab\t, a line\nbreak.png"), png_image(98)).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(workplace.path("photos/pipe.png")).status().unwrap();
    assert!(pipe.success());
    let odd = [
        None,
        Some("photos/missing.png"),
        Some("photos"),
        Some("photos/pipe.png"),
        Some("photos/staged.png#1"),
        Some(""),
        Some("ftp://server/key.jpg"),
        Some(strange_name),
        Some("photos/a tab\t, a line\nbreak.png"),
    ];
    uris.extend(odd.iter().map(|uri| uri.map(str::to_owned)));
    uris.push(Some(format!("file://{}", workplace.path("photos/1.png").display())));
    uris.push(Some("photos/0.png".to_owned()));
    let ids = strings((0..uris.len()).map(|row| Some(format!("{row}"))));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", ids), ("image", strings(uris.clone()))], 100);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job);
    let run = workplace.run(&["--set", "limits.max_failed_fraction=1.0"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let rows = workplace.rows("out", None);
    assert_eq!(rows.len(), uris.len());
    let (status, stage, kind, message) =
        (rows.text("status"), rows.text("error_stage"), rows.text("error_kind"), rows.text("error_message"));
    let mut failures = Vec::new();
    for row in 0..rows.len() {
        let failed = status[row].as_deref() == Some("failed");
        assert_eq!(failed, kind[row].is_some() && message[row].is_some() && stage[row].is_some());
        assert_eq!(failed, rows.text("caption")[row].is_none());
        assert_eq!(failed, rows.vectors("image_embedding")[row].is_none());
        if failed {
            let name = uris[row].as_deref().map_or("null", |uri| uri.rsplit('/').next().unwrap());
            failures.push(format!("{name}: {} {}", stage[row].as_deref().unwrap(), kind[row].as_deref().unwrap()));
        }
    }
    insta::assert_snapshot!(failures.join("\n"), @r"
    error_bmp_like_text.bmp: preprocess unsupported_format
    error_bomb.jpg: preprocess too_many_pixels
    error_bomb.png: preprocess too_many_pixels
    error_empty.jpg: preprocess corrupt_image
    error_header_only.jpg: preprocess corrupt_image
    error_jpeg2000.jpg: preprocess unsupported_format
    error_no_end_marker.jpg: preprocess corrupt_image
    error_text.jpg: preprocess unsupported_format
    error_truncated.avif: preprocess corrupt_image
    error_truncated.bmp: preprocess corrupt_image
    error_truncated.gif: preprocess corrupt_image
    error_truncated.jpg: preprocess corrupt_image
    error_truncated.png: preprocess corrupt_image
    error_truncated.tiff: preprocess corrupt_image
    error_truncated.webp: preprocess corrupt_image
    error_truncated_progressive.jpg: preprocess corrupt_image
    null: manifest null_input
    missing.png: fetch not_found
    photos: fetch not_found
    pipe.png: fetch not_found
    staged.png#1: fetch invalid_uri
    : fetch invalid_uri
    key.jpg: fetch invalid_uri
    ");
    // Intact rows have the results that they have without the damaged ones.
    let last = rows.len() - 1;
    assert_eq!(status[last].as_deref(), Some("ok"));
    assert_eq!(status[listed + 7].as_deref(), Some("ok"), "a strange file name: {:?}", message[listed + 7]);
    let caption = rows.text("caption")[last].clone();
    workplace.run_ok(&["--set", "output.path=alone", "--set", &format!("input.where=\"id = '{last}'\"")]);
    assert_eq!(workplace.rows("alone", None).text("caption"), [caption]);
}

#[test]
fn limits_turn_large_images_into_error_rows() {
    let workplace = Workplace::with_images(3, 10);
    let check = |setting: &str, output: &str, expected: &str| {
        let output_setting = format!("output.path={output}");
        let run = workplace.run(&["--set", setting, "--set", &output_setting, "--set", "limits.min_failed_rows=100"]);
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let kinds = workplace.rows(output, None).text("error_kind");
        assert!(kinds.iter().all(|kind| kind.as_deref() == Some(expected)), "{kinds:?}");
    };
    check("limits.max_image_bytes=100", "bytes", "too_large");
    check("limits.max_image_pixels=1000", "pixels", "too_many_pixels");
    check("limits.roots=[\"/nowhere\"]", "roots", "forbidden");
    // Links inside a root that lead out of it.
    std::fs::rename(workplace.path("photos"), workplace.path("outside")).unwrap();
    std::fs::create_dir(workplace.path("photos")).unwrap();
    for row in 0..3 {
        let name = format!("{row}.png");
        let (real, link) = (workplace.path("outside").join(&name), workplace.path("photos").join(&name));
        std::os::unix::fs::symlink(real, link).unwrap();
    }
    check("limits.roots=[\"photos\"]", "link", "forbidden");
}

#[test]
fn too_many_failed_rows_exit_1_but_are_published() {
    let workplace = Workplace::with_images(12, 5);
    for row in 0..11 {
        std::fs::write(workplace.path(&format!("photos/{row}.png")), b"not an image").unwrap();
    }
    let run = workplace.run(&[]);
    assert_eq!(run.status.code(), Some(1));
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("status").iter().filter(|status| status.as_deref() == Some("failed")).count(), 11);
    let few = workplace.run(&["--set", "limits.min_failed_rows=12", "--set", "output.path=few"]);
    assert_eq!(few.status.code(), Some(0), "below min_failed_rows the fraction does not count");
    let run = workplace.published("out").remove(0);
    assert_eq!(workplace.run(&["--run-id", &run]).status.code(), Some(1), "asked again, it is no better");
    workplace.run_ok(&["--run-id", "shards", "--shard", "0/1", "--set", "output.path=shards"]);
    let finalize =
        nightcap().arg("finalize").arg(workplace.path("shards")).args(["--run-id", "shards"]).output().unwrap();
    assert_eq!(finalize.status.code(), Some(1), "finalize judges by the limits of the plan");
}

#[test]
fn credentials_in_what_is_no_location_are_not_repeated() {
    let workplace = Workplace::with_images(1, 10);
    let images = [
        "photos/0.png",
        "ftp://me:secret@host/x.jpg",
        "s3://me:secret@bucket/a.jpg",
        "https://me:secret@",
        "file://me:secret@host/a.jpg",
        "me:secret@host:x.jpg",
    ];
    let columns = vec![
        ("id", strings((0..images.len()).map(|row| Some(row.to_string())))),
        ("image", strings(images.map(Some))),
        ("title", strings(images.map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    let mut command =
        workplace.command("run", &["--set", "output.columns=[\"id\"]", "--set", "limits.min_failed_rows=100"]);
    let run = command.env("NIGHTCAP_LOG", "trace").output().unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && !log.contains("secret"), "{log}");
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("error_kind").iter().flatten().filter(|kind| *kind == "invalid_uri").count(), 4);
    let messages = rows.text("error_message");
    // A relative path holds no credential, so the message names it.
    assert!(messages[..5].iter().flatten().all(|message| !message.contains("secret")), "{messages:?}");
}
