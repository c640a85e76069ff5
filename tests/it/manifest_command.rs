//! `nightcap manifest`: from a folder of images to a manifest that `run` takes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};

use crate::common::{Workplace, nightcap, png_image, read_parquet, repo};
use crate::disk::without_privileges;
use crate::seaweed::{Seaweed, with_s3};

/// `nightcap manifest` in the workplace's folder.
pub fn manifest(workplace: &Workplace, arguments: &[&str]) -> Command {
    let mut command = nightcap();
    command.arg("manifest").args(arguments).current_dir(workplace.folder.path());
    command
}

/// The exit status and stderr of a command, without times and what else differs between machines.
pub fn said(workplace: &Workplace, output: &Output) -> String {
    assert!(output.stdout.is_empty());
    let folder = workplace.folder.path().canonicalize().unwrap();
    let text = String::from_utf8(output.stderr.clone()).unwrap().replace(folder.to_str().unwrap(), "FOLDER");
    let text = text.replace(repo("").to_str().unwrap(), "REPO/");
    let lines = text.lines().map(|line| match line.split_once("Z  ") {
        Some((time, rest)) if time.starts_with("20") => rest,
        _ => line,
    });
    format!("exit {}\n{}", output.status.code().unwrap(), lines.collect::<Vec<_>>().join("\n"))
}

/// Puts an image at `name` below the folder `photos`, with the folders above it.
fn put(workplace: &Workplace, name: impl AsRef<Path>, seed: u32) {
    let path = workplace.path("photos").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, png_image(seed)).unwrap();
}

/// A column of strings of a manifest.
fn column(file: &Path, name: &str) -> Vec<String> {
    let rows = read_parquet(file);
    let values = rows.column_by_name(name).unwrap().as_string::<i32>();
    values.iter().map(|value| value.unwrap().to_owned()).collect()
}

/// A job that captions `manifest.parquet`.
fn job(workplace: &Workplace) {
    workplace.job(&format!(
        "[input]\nmanifest = \"manifest.parquet\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n[runtime]\nbatch_size = 4\nthreads = 1\n",
        repo("tests/fixtures/tiny_model").display()
    ));
}

#[test]
fn any_name_is_found_again_by_run() {
    let workplace = Workplace::new();
    let names = [
        "Z.JPG",
        "a b.png",
        "a/b/c.jpeg",
        "a/b.png",
        "a.b/c.webp",
        "a#1.png",
        "b#/c.png",
        "100%.png",
        "100%25.png",
        "q?x=1&y.png",
        "[ab]*.png",
        "ключ/日本.png",
        "e\u{301}.png",
        "tab\tnew\nline.png",
        "quo'te\".png",
        "back\\slash.png",
        " leading.png",
        "s3:/x.png",
        "~/home.png",
        "-dash.png",
        "ends.with.dot..png",
    ];
    for (seed, name) in names.iter().enumerate() {
        put(&workplace, name, seed as u32);
    }
    let modified = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    std::fs::File::open(workplace.path("photos/Z.JPG")).unwrap().set_modified(modified).unwrap();
    let output = manifest(&workplace, &["photos", "-o", "manifest.parquet"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&workplace, &output));

    let rows = read_parquet(&workplace.path("manifest.parquet"));
    let schema = rows.schema();
    let fields: Vec<_> =
        schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let expected = [("id", DataType::Utf8), ("image", DataType::Utf8), ("bytes", DataType::Int64), ("modified", time)];
    assert_eq!(fields, expected);
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(column(&workplace.path("manifest.parquet"), "id"), sorted);
    let at = sorted.iter().position(|name| *name == "Z.JPG").unwrap();
    assert_eq!(rows.column(3).as_primitive::<TimestampMicrosecondType>().value(at), 1_234_567_890_123_456);
    assert_eq!(rows.column(2).as_primitive::<Int64Type>().value(at), png_image(0).len() as i64);

    job(&workplace);
    workplace.run_ok(&[]);
    let run = workplace.rows("out", None);
    assert_eq!(run.text("id").into_iter().flatten().collect::<Vec<_>>(), sorted);
    for ((name, status), error) in sorted.iter().zip(run.text("status")).zip(run.text("error_kind")) {
        assert_eq!((status.as_deref(), error.as_deref()), (Some("ok"), None), "{name}");
    }
}

#[test]
fn what_is_left_out_is_said() {
    let workplace = Workplace::new();
    for (seed, name) in ["a.png", "sub/b.png", "sub/.thumbnails/b.png", ".hidden.png", "._a.png"].iter().enumerate() {
        put(&workplace, name, seed as u32);
    }
    put(&workplace, OsStr::from_bytes(b"caf\xe9.png"), 7);
    put(&workplace, Path::new(OsStr::from_bytes(b"\xff")).join("c.png"), 8);
    let photos = workplace.path("photos");
    for other in ["notes.TXT", "more.txt", "raw.heic", "README"] {
        std::fs::write(photos.join(other), "").unwrap();
    }
    symlink("a.png", photos.join("0-link-that-sorts-first.png")).unwrap();
    symlink("sub", photos.join("again")).unwrap();
    symlink("..", photos.join("sub/up")).unwrap();
    symlink("nowhere", photos.join("gone.png")).unwrap();
    std::fs::write(workplace.path("elsewhere.png"), png_image(9)).unwrap();
    symlink("../elsewhere.png", photos.join("once.png")).unwrap();
    symlink("../elsewhere.png", photos.join("twice.png")).unwrap();
    std::fs::hard_link(photos.join("a.png"), photos.join("second-name.png")).unwrap();
    assert!(Command::new("mkfifo").arg(photos.join("pipe.png")).status().unwrap().success());
    let output = manifest(&workplace, &["photos", "-o", "manifest.parquet"]).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r#"
    exit 0
    WARN left out: 2 images whose paths are not UTF-8, which Parquet cannot hold: "photos/\xFF/c.png", "photos/caf\xE9.png"
    WARN left out: 1 link that leads nowhere: "photos/gone.png"
    WARN left out: 1 pipe, socket or device: "photos/pipe.png"
    INFO left out: 4 files of other types: 2 .txt, 1 .heic, 1 without an extension
    INFO left out: 4 hidden files and folders
    INFO left out: 5 images or folders behind links, listed under their own names
    INFO wrote the manifest images=4 bytes=13519 file=manifest.parquet
    "#);
    let ids = column(&workplace.path("manifest.parquet"), "id");
    assert_eq!(ids, ["a.png", "once.png", "second-name.png", "sub/b.png"]);
}

#[test]
fn an_incomplete_manifest_is_not_written() {
    let workplace = Workplace::new();
    put(&workplace, "a.png", 1);
    put(&workplace, "private/b.png", 2);
    put(&workplace, ".Trash-0/c.png", 3);
    for closed in ["photos/private", "photos/.Trash-0"] {
        std::fs::set_permissions(workplace.path(closed), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let command = |arguments: &[&str]| {
        let mut command = without_privileges(&manifest(&workplace, arguments));
        command.current_dir(workplace.folder.path()).output().unwrap()
    };
    insta::assert_snapshot!(said(&workplace, &command(&["photos", "-o", "m.parquet"])), @r#"
    exit 2
    error: cannot read 1 folder or file: "photos/private" (Permission denied (os error 13))
    hint: a manifest without the images in there would be incomplete, so none was written; let this user read the folder, or leave out what cannot be read with --skip-unreadable
    "#);
    assert!(!workplace.path("m.parquet").exists());
    insta::assert_snapshot!(said(&workplace, &command(&["photos", "-o", "m.parquet", "--skip-unreadable"])), @r#"
    exit 0
    WARN left out: 1 folder or file that cannot be read: "photos/private" (Permission denied (os error 13))
    INFO left out: 1 hidden file or folder
    INFO wrote the manifest images=1 bytes=3557 file=m.parquet
    "#);
    assert_eq!(column(&workplace.path("m.parquet"), "id"), ["a.png"]);
    for closed in ["photos/private", "photos/.Trash-0"] {
        std::fs::set_permissions(workplace.path(closed), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn refusals_write_nothing() {
    let workplace = Workplace::new();
    put(&workplace, "a.png", 1);
    std::fs::create_dir(workplace.path("empty")).unwrap();
    std::fs::create_dir(workplace.path("folder.parquet")).unwrap();
    std::fs::write(workplace.path("empty/notes.txt"), "").unwrap();
    std::fs::write(workplace.path("old.parquet"), "old").unwrap();
    let refused = |arguments: &[&str]| said(&workplace, &manifest(&workplace, arguments).output().unwrap());
    insta::assert_snapshot!(refused(&["empty", "-o", "old.parquet"]), @r"
    exit 2
    error: found no images in empty, only 1 file of another type: 1 .txt
    hint: files named like .jpg, .png, .gif, .webp, .bmp, .tiff or .avif count as images, in any case; is the disk mounted?
    ");
    insta::assert_snapshot!(refused(&["nowhere", "-o", "old.parquet"]), @r"
    exit 2
    error: expected a folder of images, found nothing: nowhere
    ");
    insta::assert_snapshot!(refused(&["photos/a.png", "-o", "old.parquet"]), @r"
    exit 2
    error: expected a folder of images, found a file: photos/a.png
    ");
    insta::assert_snapshot!(refused(&["photos", "-o", "photos/a.png"]), @r"
    exit 2
    error: -o photos/a.png: expected a file name that ends in .parquet, so that no other file is replaced by mistake
    ");
    insta::assert_snapshot!(refused(&["photos", "-o", "s3://bucket/m.parquet"]), @r"
    exit 2
    error: -o s3://bucket/m.parquet: expected a path of this machine, found a URI
    hint: write it here, then copy it to where the job reads it
    ");
    insta::assert_snapshot!(refused(&["photos", "-o", "nowhere/m.parquet"]), @r"
    exit 2
    error: -o nowhere/m.parquet: there is no such folder to write it to
    hint: make the folder first
    ");
    insta::assert_snapshot!(refused(&["photos", "-o", "folder.parquet"]), @r"
    exit 2
    error: -o folder.parquet: expected a file, found something else of that name
    ");
    insta::assert_snapshot!(refused(&["https://me:secret@host/photos?key=secret", "-o", "old.parquet"]), @r"
    exit 2
    error: https://host/photos?...: a web server cannot be listed
    hint: write the manifest yourself, with one URL a row
    ");
    insta::assert_snapshot!(refused(&["ftp://host/photos", "-o", "old.parquet"]), @r"
    exit 2
    error: FOLDER: expected a local path or a file://, s3://, gs://, az://, http:// or https:// URI, found ftp://
    ");
    assert_eq!(std::fs::read(workplace.path("old.parquet")).unwrap(), b"old");
    assert_eq!(std::fs::read(workplace.path("photos/a.png")).unwrap(), png_image(1));
}

#[test]
fn a_manifest_is_replaced_only_when_images_changed() {
    let workplace = Workplace::new();
    put(&workplace, "a.png", 1);
    let make = || {
        let output = manifest(&workplace, &["photos", "-o", "photos/all.parquet"]).output().unwrap();
        assert!(output.status.success());
        said(&workplace, &output).lines().last().unwrap().to_owned()
    };
    insta::assert_snapshot!(make(), @"INFO wrote the manifest images=1 bytes=3557 file=photos/all.parquet");
    let file = workplace.path("photos/all.parquet");
    std::fs::write(workplace.path("plain"), "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), mode(&workplace.path("plain")), "as the umask says");
    let old = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
    std::fs::File::open(&file).unwrap().set_modified(old).unwrap();
    assert!(make().contains("unchanged"), "the manifest itself is no image");
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), old);
    put(&workplace, "b.png", 2);
    assert!(make().contains("replaced"));
    assert_eq!(column(&file, "id"), ["a.png", "b.png"]);
    assert_eq!(column(&file, "image"), ["a.png", "b.png"], "relative to the manifest's folder");
    let mut left: Vec<_> =
        std::fs::read_dir(workplace.path("photos")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.png", "all.parquet", "b.png"], "no temporary file stays");
}

#[test]
fn images_are_named_as_the_manifest_sees_them() {
    let workplace = Workplace::new();
    put(&workplace, "a.png", 1);
    for folder in ["lists", "disk"] {
        std::fs::create_dir(workplace.path(folder)).unwrap();
    }
    std::fs::write(workplace.path("disk/b.png"), png_image(2)).unwrap();
    symlink("disk", workplace.path("linked")).unwrap();
    let folder = workplace.folder.path().canonicalize().unwrap();
    let images = |arguments: &[&str], file: &str| {
        let output = manifest(&workplace, arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&workplace, &output));
        column(&workplace.path(file), "image")
    };
    assert_eq!(images(&["photos/", "-o", "m.parquet"], "m.parquet"), ["photos/a.png"]);
    assert_eq!(images(&["./lists/../photos", "-o", "./m.parquet"], "m.parquet"), ["photos/a.png"]);
    let uri = format!("file://{}/photos", folder.display());
    assert_eq!(images(&[&uri, "-o", "m.parquet"], "m.parquet"), ["photos/a.png"]);
    assert_eq!(images(&["linked", "-o", "m.parquet"], "m.parquet"), ["linked/b.png"], "by the name that was given");
    let absolute = folder.join("photos/a.png").to_str().unwrap().to_owned();
    assert_eq!(images(&["photos", "-o", "lists/m.parquet"], "lists/m.parquet"), [absolute]);
}

#[test]
fn a_prefix_on_s3() {
    let (workplace, server) = (Workplace::new(), Seaweed::shared());
    for (seed, key) in ["b/2.png", "b/10.PNG", "a.png", ".hidden/c.png", "notes.txt"].iter().enumerate() {
        server.put(&format!("listed/{key}"), &png_image(seed as u32)).unwrap();
    }
    server.put("listed-beside.png", b"not below").unwrap();
    let mut command = manifest(&workplace, &["s3://night/listed/", "-o", "manifest.parquet"]);
    let output = with_s3(&mut command, &server.endpoint()).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r"
    exit 0
    INFO left out: 1 file of another type: 1 .txt
    INFO left out: 1 hidden file or folder
    INFO wrote the manifest images=3 bytes=10665 file=manifest.parquet
    ");
    assert_eq!(column(&workplace.path("manifest.parquet"), "id"), ["a.png", "b/10.PNG", "b/2.png"]);
    assert_eq!(column(&workplace.path("manifest.parquet"), "image")[1], "s3://night/listed/b/10.PNG");
    job(&workplace);
    let run = with_s3(&mut workplace.command("run", &[]), &server.endpoint()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(workplace.rows("out", None).text("status").iter().all(|status| status.as_deref() == Some("ok")));
    let mut command = manifest(&workplace, &["s3://night/nothing-here", "-o", "manifest.parquet"]);
    let output = with_s3(&mut command, &server.endpoint()).output().unwrap();
    insta::assert_snapshot!(said(&workplace, &output), @r"
    exit 2
    error: found no images in s3://night/nothing-here
    hint: files named like .jpg, .png, .gif, .webp, .bmp, .tiff or .avif count as images, in any case; is the disk mounted?
    ");
}
