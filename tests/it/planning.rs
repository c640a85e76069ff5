//! Planning with rows that name impossible paths, links that lead back to a folder above, or a manifest that is replaced.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, BinaryArray, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};

use crate::common::{Workplace, go_on, png_image, stopped_at, strings, write_parquet};

fn manifest_of(workplace: &Workplace, images: &[String]) {
    let columns = vec![
        ("id", strings((0..images.len()).map(|row| Some(row.to_string())))),
        ("image", strings(images.iter().map(Some))),
        ("title", strings(images.iter().map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 100);
}

#[test]
fn folders_that_cannot_be_listed_are_failed_rows() {
    let workplace = Workplace::with_images(2, 10);
    let long_name = "x".repeat(300);
    let images = [
        "photos/0.png".to_owned(),
        "photos/1.png/inside-a-file.png".to_owned(),
        format!("{long_name}/a.png"),
        vec!["deep"; 1200].join("/"),
        "nul\0in/the-path.png".to_owned(),
        "no-such-folder/a.png".to_owned(),
    ];
    manifest_of(&workplace, &images);
    let run = workplace.run(&["--set", "limits.min_failed_rows=100"]);
    let log = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(0), "{log}");
    assert!(log.contains("their images count as missing") && !log.contains(&long_name), "{log}");
    let status = workplace.rows("out", None).text("status");
    assert_eq!(status.iter().flatten().filter(|status| *status == "failed").count(), 5, "{status:?}");
    assert_eq!(status[0].as_deref(), Some("ok"));
}

#[test]
fn folders_outside_the_roots_are_not_listed() {
    let workplace = Workplace::with_images(2, 10);
    std::fs::create_dir(workplace.path("private")).unwrap();
    std::fs::write(workplace.path("private/1.png"), png_image(1)).unwrap();
    std::os::unix::fs::symlink(workplace.path("photos"), workplace.path("link")).unwrap();
    manifest_of(&workplace, &["photos/0.png", "private/1.png", "link/1.png"].map(str::to_owned));
    let arguments = ["--set", "limits.roots=[\"photos\"]", "--set", "limits.min_failed_rows=100"];
    workplace.run_ok(&arguments);
    let kinds = workplace.rows("out", None).text("error_kind");
    assert_eq!(kinds, [None, Some("forbidden".to_owned()), None]);
    // Files outside the roots are not listed, so their changes are not noticed; a link into the roots is followed.
    std::fs::write(workplace.path("private/1.png"), png_image(7)).unwrap();
    std::fs::write(workplace.path("photos/1.png"), png_image(8)).unwrap();
    workplace.run_ok(&arguments);
    let published = workplace.published("out");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), [Some("2".to_owned())]);
}

#[test]
fn listings_do_not_follow_links_out_of_the_roots() {
    // More folders than are listed one by one, so that a folder above the root is, with all below it.
    let workplace = Workplace::with_images(1, 1000);
    for folder in ["photos/in", "elsewhere"] {
        std::fs::create_dir(workplace.path(folder)).unwrap();
    }
    std::fs::write(workplace.path("elsewhere/0.png"), png_image(1)).unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(workplace.path(to), workplace.path(at)).unwrap();
    link("elsewhere", "photos/in/out");
    link("elsewhere/0.png", "photos/in/out.png");
    link("photos/0.png", "photos/in/same.png");
    let mut images = vec!["photos/0.png", "photos/in/out/0.png", "photos/in/out.png", "photos/in/same.png"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    images.extend((0..300).map(|folder| format!("photos/none/{folder}/a.png")));
    manifest_of(&workplace, &images);
    let arguments = ["--set", "limits.roots=[\"photos\"]", "--set", "limits.max_failed_fraction=1.0"];
    workplace.run_ok(&arguments);
    assert_eq!(
        workplace.rows("out", None).text("error_kind")[..4],
        [None, Some("forbidden".to_owned()), Some("forbidden".to_owned()), None]
    );
    // What lies outside may change without a row becoming new; what lies inside may not, also behind a link.
    std::fs::write(workplace.path("elsewhere/0.png"), [png_image(7), vec![0]].concat()).unwrap();
    workplace.run_ok(&arguments);
    assert_eq!(workplace.published("out").len(), 1, "nothing is new");
    std::fs::write(workplace.path("photos/0.png"), [png_image(8), vec![0]].concat()).unwrap();
    workplace.run_ok(&arguments);
    let published = workplace.published("out");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), ["0", "3"].map(|id| Some(id.to_owned())));
}

#[test]
fn links_that_lead_back_end() {
    let workplace = Workplace::with_images(0, 10);
    let folders = 300;
    for folder in 0..folders {
        std::fs::create_dir(workplace.path(&format!("photos/{folder}"))).unwrap();
        std::fs::write(workplace.path(&format!("photos/{folder}/a.png")), png_image(folder)).unwrap();
    }
    for link in ["again", "once-more"] {
        std::os::unix::fs::symlink(workplace.path("photos"), workplace.path(&format!("photos/{link}"))).unwrap();
    }
    manifest_of(&workplace, &(0..folders).map(|folder| format!("photos/{folder}/a.png")).collect::<Vec<_>>());
    let mut plan = workplace.command("plan", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while plan.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_mins(2) {
            plan.kill().unwrap();
            panic!("the links are followed without end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(plan.wait().unwrap().success());
    workplace.run_ok(&[]);
    workplace.run_ok(&[]);
    assert_eq!(workplace.published("out").len(), 1, "nothing is new");
}

/// Images as Hugging Face has them, some without bytes.
fn structs(bytes: Vec<Option<Vec<u8>>>, paths: Vec<Option<&str>>) -> ArrayRef {
    let bytes: ArrayRef = Arc::new(bytes.into_iter().collect::<BinaryArray>());
    let paths: ArrayRef = Arc::new(paths.into_iter().collect::<StringArray>());
    let field = |name: &str, kind: DataType| Arc::new(Field::new(name, kind, true));
    let fields = vec![(field("bytes", DataType::Binary), bytes), (field("path", DataType::Utf8), paths)];
    Arc::new(StructArray::from(fields))
}

#[test]
fn images_that_are_bytes_or_paths_or_missing_are_known_again() {
    let workplace = Workplace::with_images(3, 10);
    let lenient = ["--set", "limits.max_failed_fraction=1.0"];
    let write = |images: ArrayRef| {
        let ids = strings((0..images.len()).map(|row| Some(row.to_string())));
        let titles = strings((0..images.len()).map(|_| None::<&str>));
        let columns = vec![("id", ids), ("image", images), ("title", titles)];
        write_parquet(&workplace.path("manifest.parquet"), columns, 100);
    };
    let paths = vec![Some("photos/0.png"), Some("a name"), None, Some("photos/missing.png"), Some("photos/1.png")];
    write(structs(vec![None, Some(png_image(9)), None, None, None], paths));
    workplace.run_ok(&lenient);
    workplace.run_ok(&lenient);
    assert_eq!(workplace.published("out").len(), 1, "nothing is new");
    // Also a change between the first run and the second.
    std::fs::write(workplace.path("photos/1.png"), png_image(70)).unwrap();
    workplace.run_ok(&lenient);
    let published = workplace.published("out");
    assert_eq!(workplace.rows("out", Some(&published[1])).text("id"), [Some("4".to_owned())]);

    // Bytes without paths, one of them null.
    let bytes = [Some(png_image(1)), None, Some(png_image(2))];
    write(Arc::new(bytes.iter().map(Option::as_deref).collect::<BinaryArray>()));
    let elsewhere = [&lenient[..], &["--set", "output.path=bytes"]].concat();
    workplace.run_ok(&elsewhere);
    workplace.run_ok(&elsewhere);
    assert_eq!(workplace.published("bytes").len(), 1, "nothing is new");
}

#[test]
fn a_manifest_replaced_while_where_is_evaluated_changes_nothing() {
    let workplace = Workplace::with_images(6, 10);
    let mut command = workplace.command("run", &["--set", "input.where=\"id > 'row-0002'\""]);
    let child = stopped_at(&mut command, "after_manifest_open:1");
    let other = vec![
        ("id", strings((3..9).map(|row| Some(format!("row-{row:04}"))))),
        ("image", strings((3..9).map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings((3..9).map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("new.parquet"), other, 16);
    std::fs::rename(workplace.path("new.parquet"), workplace.path("manifest.parquet")).unwrap();
    let ended = go_on(child);
    let message = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{message}");
    // The rows of the file that was opened, and their titles.
    let rows = workplace.rows("out", None);
    let expected = ["row-0003", "row-0004", "row-0005"].map(|id| Some(id.to_owned()));
    assert_eq!(rows.text("id"), expected);
    assert_eq!(rows.text("title"), [Some("a dog on the beach 3".to_owned()), None, None]);
}

#[test]
fn plan_says_what_cannot_be_listed() {
    let workplace = Workplace::with_images(1, 10);
    let images = ["photos/0.png", "http://127.0.0.1:9/a.png", "https://127.0.0.1:9/b.png"];
    manifest_of(&workplace, &images.map(str::to_owned));
    let plan = workplace.command("plan", &[]).output().unwrap();
    let said = String::from_utf8(plan.stdout).unwrap();
    assert!(said.contains("2 of all on web servers: known by their URIs alone"), "{said}");
}
