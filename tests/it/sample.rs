//! `nightcap sample`: which rows are shown, and how.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nightcap::preprocess::{DecodeLimits, decode};

use crate::common::{Workplace, nightcap, png_image, said};

fn sample(workplace: &Workplace, columns: &str, arguments: &[&str]) -> String {
    let mut command = nightcap();
    let output =
        command.args(["sample", "out"]).args(arguments).env("COLUMNS", columns).current_dir(workplace.path(""));
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys that are shown, in their order.
fn keys(table: &str) -> Vec<&str> {
    table.lines().filter(|line| line.starts_with("row-")).map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn some_rows_are_shown_in_the_order_of_their_keys() {
    let workplace = Workplace::with_images(40, 7);
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "first", "--set", "limits.max_failed_fraction=1.0"]);
    let all = sample(&workplace, "120", &["--n", "100"]);
    assert!(all.starts_with("40 rows, 39 ok, 1 failed; 40 of them:\n\nid"), "{all}");
    assert!(all.contains("row-0004              [unsupported_format] "), "{all}");
    assert_eq!(keys(&all), (0..40).map(|row| format!("row-{row:04}")).collect::<Vec<_>>());
    let caption = workplace.rows("out", None).text("caption")[9].clone().unwrap();
    assert!(
        all.lines().any(|line| line.starts_with("row-0009  ") && line.contains(caption.split(' ').next().unwrap())),
        "{all}"
    );

    let some = sample(&workplace, "120", &["--n", "5"]);
    let mut sorted = keys(&some);
    sorted.sort_unstable();
    assert_eq!((keys(&some).len(), keys(&some)), (5, sorted));
    assert_eq!(some, sample(&workplace, "120", &["--n", "5", "--seed", "0"]));
    assert_ne!(some, sample(&workplace, "120", &["--n", "5", "--seed", "1"]));
    assert_eq!(keys(&sample(&workplace, "120", &[])).len(), 20);

    // A row is still the same row after a compaction, and one that is new is shown as it is now.
    std::fs::write(workplace.path("photos/5.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "second", "--set", "limits.max_failed_fraction=1.0"]);
    let compacted = nightcap().args(["compact", "out"]).current_dir(workplace.path("")).output().unwrap();
    assert!(compacted.status.success(), "{}", said(&compacted));
    let again = sample(&workplace, "120", &["--n", "5"]);
    assert_eq!(keys(&again), keys(&some));
    assert!(sample(&workplace, "120", &["--n", "100"]).starts_with("40 rows, 38 ok, 2 failed; 40 of them:"));
}

#[test]
fn tables_fit_the_terminal() {
    let workplace = Workplace::with_images(4, 4);
    workplace.run_ok(&[]);
    for columns in [40, 60, 200] {
        let table = sample(&workplace, &columns.to_string(), &[]);
        assert!(table.lines().skip(2).all(|line| line.chars().count() <= columns), "{columns}\n{table}");
        assert_eq!(keys(&table).len(), 4);
    }
}

/// The pictures in `text` as (codes before the data, data), by what begins and ends each code.
fn codes<'a>(text: &'a str, begin: &str, end: &str) -> Vec<(&'a str, Vec<u8>)> {
    let code = |code: &'a str, separator: char| code.split(end).next().unwrap().split_once(separator).unwrap();
    let separator = if begin.ends_with('G') { ';' } else { ':' };
    let found = text.split(begin).skip(1).map(|rest| code(rest, separator));
    // A code that only goes on has no size.
    let mut pictures: Vec<(&str, String)> = Vec::new();
    for (head, data) in found {
        match pictures.last_mut().filter(|_| head.starts_with("m=")) {
            Some(last) => last.1.push_str(data),
            None => pictures.push((head, data.to_owned())),
        }
    }
    pictures.into_iter().map(|(head, data)| (head, BASE64_STANDARD.decode(data).unwrap())).collect()
}

#[test]
fn pictures_are_shown_by_the_protocol_of_the_terminal() {
    let workplace = Workplace::with_images(4, 4);
    std::fs::write(workplace.path("photos/1.png"), b"no image").unwrap();
    workplace.run_ok(&["--set", "limits.max_failed_fraction=1.0"]);
    std::fs::remove_file(workplace.path("photos/2.png")).unwrap();
    let limits = DecodeLimits { max_image_pixels: 1 << 20 };
    let sizes: Vec<(u32, u32)> =
        [0, 3].map(|row| decode(&png_image(row), limits).unwrap()).map(|image| (image.width, image.height)).to_vec();

    let text = sample(&workplace, "120", &["--pictures=kitty"]);
    let pictures = codes(&text, "\u{1b}_G", "\u{1b}\\");
    assert_eq!(pictures.len(), 2, "{text:?}");
    for ((head, pixels), (width, height)) in pictures.iter().zip(&sizes) {
        assert!(head.starts_with(&format!("a=T,q=2,f=24,s={width},v={height},r=8,m=")), "{head}");
        assert_eq!(pixels.len() as u32, width * height * 3);
    }
    assert_eq!(keys(&text).len(), 4);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("[no picture: the image is no longer there]"), "{text:?}");
    let text = sample(&workplace, "120", &["--pictures=iterm", "--job", "job.toml"]);
    let pictures = codes(&text, "\u{1b}]1337;File=", "\u{7}");
    assert_eq!(pictures.len(), 2, "{text:?}");
    for ((head, jpeg), (width, height)) in pictures.iter().zip(&sizes) {
        assert_eq!(*head, format!("inline=1;size={};height=8;preserveAspectRatio=1", jpeg.len()));
        let image = decode(jpeg, limits).unwrap();
        assert_eq!((image.width, image.height), (*width, *height));
    }
    assert!(!sample(&workplace, "120", &[]).contains('\u{1b}'));

    let mut command = nightcap();
    let command = command.args(["sample", "out", "--pictures"]).current_dir(workplace.path(""));
    for name in ["TERM_PROGRAM", "KITTY_WINDOW_ID", "KONSOLE_VERSION"] {
        command.env_remove(name);
    }
    let output = command.env("TERM", "xterm-256color").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("hint: if it does, name its protocol by --pictures=kitty"), "{}", said(&output));
    let output = command.env("TERM", "xterm-kitty").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("\u{1b}_Ga=T"));
}
