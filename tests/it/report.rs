//! `nightcap report` and `search --format html`: pages whose numbers are those of the rows, in which no text of a row becomes markup, of
//! bounded size, and which work in a real browser.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array};
use arrow::datatypes::{DataType, Schema};
use serde_json::Value;

use crate::common::{Rows, Workplace, nightcap, read_parquet, replace_part, repo, said, strings, write_parquet};
use crate::common::{peak_memory, png_image, skip};
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::{on_s3, run_command};

const ALL_MAY_FAIL: [&str; 2] = ["--set", "limits.max_failed_fraction=1.0"];

fn report(workplace: &Workplace, arguments: &[&str]) -> Output {
    let mut command = nightcap();
    command.args(["report", "out", "-o", "report.html"]).args(arguments).current_dir(workplace.path(""));
    command.output().unwrap()
}

/// Any Python: the scripts need no packages.
fn python() -> String {
    std::env::var("NIGHTCAP_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn outline_of(page: &Path) -> Value {
    let parsed = Command::new(python()).arg(repo("tests/report/outline.py")).arg(page).output().unwrap();
    assert!(parsed.status.success(), "{}", said(&parsed));
    let outline: Value = serde_json::from_slice(&parsed.stdout).unwrap();
    complete_in_itself(&outline);
    outline
}

fn reported(workplace: &Workplace, arguments: &[&str]) -> Value {
    let made = report(workplace, arguments);
    assert!(made.status.success(), "{}", said(&made));
    outline_of(&workplace.path("report.html"))
}

/// Nothing is loaded, and the only scripts and styles are the page's own.
fn complete_in_itself(outline: &Value) {
    let policy = outline["policy"].as_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; img-src data:; style-src 'nonce-"), "{policy}");
    assert!(policy.contains("base-uri 'none'") && policy.contains("form-action 'none'"), "{policy}");
    for load in outline["loads"].as_array().unwrap() {
        let load = load.as_str().unwrap();
        assert!(load.starts_with('#') || load.starts_with("data:image/jpeg;base64,"), "{load}");
    }
    assert_eq!((&outline["tags"]["script"], &outline["tags"]["style"]), (&2.into(), &1.into()));
    for attribute in outline["attributes"].as_array().unwrap() {
        let attribute = attribute.as_str().unwrap();
        assert!(!attribute.starts_with("on") && attribute != "style" && attribute != "srcdoc", "{attribute}");
    }
}

fn gallery(outline: &Value, id: &str) -> Vec<String> {
    let found =
        outline["galleries"][id].as_array().unwrap_or_else(|| panic!("no gallery {id}: {}", outline["galleries"]));
    found.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
}

/// Cards of all galleries; a pair has two.
fn cards(outline: &Value) -> usize {
    outline["tags"]["button"].as_u64().unwrap() as usize - 3
}

#[track_caller]
fn says(outline: &Value, expected: &str) {
    let text = outline["text"].as_str().unwrap();
    assert!(text.contains(expected), "expected {expected:?} in {text}");
}

#[test]
fn a_report_says_what_the_rows_say() {
    let workplace = Workplace::with_images(60, 7);
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    std::fs::remove_file(workplace.path("photos/5.png")).unwrap();
    // Another row with the image of row 9.
    std::fs::copy(workplace.path("photos/9.png"), workplace.path("photos/10.png")).unwrap();
    workplace.run_ok(&[&["--run-id", "monday"][..], &ALL_MAY_FAIL].concat());
    let outline = reported(&workplace, &[]);
    let rows = workplace.rows("out", None);
    let (ids, captions) = (rows.text("id"), rows.text("caption"));

    says(&outline, "60 rows 58 ok 2 failed");
    says(&outline, "run monday, number 1");
    says(&outline, "60 selected: 60 new");
    says(&outline, "9 of 7 rows, batches of 4");
    assert_eq!(gallery(&outline, "failures").len(), 2);
    says(&outline, "1 not_found, 1 unsupported_format");
    assert_eq!(gallery(&outline, "copies"), ["row-0009"]);
    says(&outline, "2 rows have this image");
    assert_eq!(outline["galleries"]["changes"], Value::Null);

    // The sample: rows that are ok, each once.
    let mut sample = gallery(&outline, "sample");
    assert_eq!(sample.len(), 48);
    sample.sort();
    sample.dedup();
    assert!(sample.len() == 48 && !sample.iter().any(|key| key == "row-0004" || key == "row-0005"), "{sample:?}");

    // The worst are those of a sort.
    let cosines = rows.column("caption_similarity");
    let cosines = cosines.as_any().downcast_ref::<Float32Array>().unwrap();
    let mut sorted: Vec<(f32, &str)> =
        cosines.iter().zip(&ids).filter_map(|(cosine, id)| Some((cosine?, id.as_deref()?))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let worst = gallery(&outline, "unlike");
    let cosine_of = |key: &String| sorted.iter().find(|(_, id)| id == key).unwrap().0.to_bits();
    assert_eq!(
        worst.iter().map(cosine_of).collect::<Vec<_>>(),
        sorted[..36].iter().map(|(cosine, _)| cosine.to_bits()).collect::<Vec<_>>()
    );

    // Captions that several rows have.
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    captions.iter().flatten().for_each(|caption| *times.entry(caption).or_default() += 1);
    let repeated = times.values().filter(|times| **times > 1).count();
    assert!(repeated > 0, "the tiny model repeats itself: {times:?}");
    assert_eq!(gallery(&outline, "repeated").len(), repeated.min(24));
    says(&outline, &format!("{} times", times.values().max().unwrap()));
    let repeats = rows.column("caption_repeats");
    let repeats = repeats.as_any().downcast_ref::<BooleanArray>().unwrap().true_count();
    says(&outline, &format!("{repeats} captions that repeat themselves"));

    // Every shown row has all of its columns but vectors.
    let shown = outline["rows"].as_array().unwrap();
    let row = shown.iter().find(|row| row["key"] == "row-0009").unwrap();
    let names: Vec<&str> = row["fields"].as_array().unwrap().iter().map(|field| field[0].as_str().unwrap()).collect();
    assert!(
        names.contains(&"content_hash") && names.contains(&"title") && !names.contains(&"image_embedding"),
        "{names:?}"
    );
    // A plot for each of length, tokens, log-probability, two similarities, and the size, which is the same in all rows.
    says(&outline, "Size of images pixels of the longer side");
    assert!(outline["bars"].as_u64().unwrap() > 20, "{}", outline["bars"]);

    // Pictures of rows that were not read at all are none; the others are shown.
    let pictures = |outline: &Value| {
        let loads = outline["loads"].as_array().unwrap().iter();
        loads.filter(|load| load.as_str().unwrap().starts_with("data:image/jpeg;base64,")).count()
    };
    assert_eq!(pictures(&outline), cards(&outline) - 2, "{}", outline["text"]);
    says(&outline, "the run did not read it");

    // The times of the stages were kept with the run, and are drawn.
    says(&outline, "waited for the stage before");
    let records = std::fs::read_dir(workplace.path("out/_nightcap/runs/monday")).unwrap();
    let names = records.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("stages-")).count(), 1);

    // Written again, it differs in the time only.
    let page = |name: &str| {
        let text = std::fs::read_to_string(workplace.path(name)).unwrap();
        let at = text.find("written 2").unwrap();
        format!("{}{}", &text[..at], &text[at + "written 2026-11-28 06:22 UTC".len()..])
    };
    std::fs::rename(workplace.path("report.html"), workplace.path("first.html")).unwrap();
    reported(&workplace, &[]);
    assert_eq!(page("first.html"), page("report.html"));

    // A picture that is gone or was changed is not shown, and the card says so.
    let file =
        |key: &str| workplace.path(&format!("photos/{}.png", key.trim_start_matches("row-").trim_start_matches('0')));
    std::fs::remove_file(file(&worst[0])).unwrap();
    std::fs::write(file(&worst[1]), png_image(999)).unwrap();
    let later = reported(&workplace, &[]);
    assert_eq!(gallery(&later, "unlike"), worst);
    says(&later, "the image is no longer there");
    says(&later, "the image has changed since");
    assert!(pictures(&later) < pictures(&outline));
}

#[test]
fn a_report_shows_what_a_run_changed() {
    let workplace = Workplace::with_images(24, 5);
    workplace.run_ok(&["--run-id", "monday"]);
    // Two images change, one fails, one is new.
    std::fs::write(workplace.path("photos/3.png"), png_image(777)).unwrap();
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    std::fs::write(workplace.path("photos/24.png"), png_image(24)).unwrap();
    workplace.manifest(0..25);
    // Captions of three tokens: all rows are computed again, and their vectors stay.
    workplace.run_ok(&[&["--run-id", "tuesday", "--set", "generation.max_new_tokens=3"][..], &ALL_MAY_FAIL].concat());
    let (monday, tuesday) = (workplace.rows("out", Some("monday")), workplace.rows("out", Some("tuesday")));
    let captions = |rows: &Rows| -> BTreeMap<String, String> {
        let ids = rows.text("id").into_iter().map(Option::unwrap);
        ids.zip(rows.text("caption")).filter_map(|(id, caption)| Some((id, caption?))).collect()
    };
    let (before, after) = (captions(&monday), captions(&tuesday));
    let both: Vec<&String> = before.keys().filter(|key| after.contains_key(*key)).collect();
    let changed: Vec<&String> = both.iter().copied().filter(|key| before[*key] != after[*key]).collect();
    assert!(both.len() == 23 && changed.len() > 10, "{before:?} {after:?}");

    let outline = reported(&workplace, &[]);
    says(&outline, "Compared with the rows that were there before run tuesday: 24 rows were there before");
    says(&outline, &format!("and {} of {} captions changed", changed.len(), both.len()));
    says(&outline, "; 1 failed now.");
    // 22 images are the same and ok in both.
    says(&outline, "in a sample of 22 rows");
    says(&outline, "Cosine of the vectors before and after");
    let mut shown = gallery(&outline, "changes");
    shown.sort();
    assert_eq!(shown, changed.iter().map(|key| (*key).clone()).collect::<Vec<_>>());
    let texts = outline["captions"].as_array().unwrap();
    for key in &changed {
        let shown = |text: &str| texts.iter().any(|shown| shown.as_str().unwrap().trim() == text);
        assert!(shown(&after[*key]) && shown(&format!("before {}", before[*key])), "{key}: {texts:?}");
    }

    // Against a run by its name, in the other direction.
    let outline = reported(&workplace, &["--run", "monday", "--against", "tuesday"]);
    says(&outline, "the rows of run monday");
    says(&outline, "24 rows 24 ok 0 failed");
    says(&outline, "Compared with run tuesday: 24 rows were there before");
    says(&outline, "; 1 are ok now and were not.");
    let alone = reported(&workplace, &["--run", "monday"]);
    assert_eq!(alone["galleries"]["changes"], Value::Null);
    for (arguments, expected) in [
        (&["--run", "nobody"][..], "there is no run nobody"),
        (&["--against", "nobody"], "there is no run nobody"),
        (&["--against", "tuesday"], "--against tuesday: expected another run"),
        (&["--run", "../monday"], "--run-id"),
        (&["-o", "nowhere/report.html"], "there is no such folder"),
        (&["-o", "s3://night/report.html"], "expected a path of this machine"),
        (&["-o", "photos"], "expected a file, found something else"),
    ] {
        let mut command = nightcap();
        command.args(["report", "out"]).args(arguments).current_dir(workplace.path(""));
        if !arguments.contains(&"-o") {
            command.args(["-o", "refused.html"]);
        }
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(said(&refused).contains(expected), "{arguments:?}: {}", said(&refused));
        assert!(!workplace.path("refused.html").exists());
    }
}

/// Texts that would do harm if they became markup, and what a browser has to show of them.
fn hostile() -> Vec<(String, String)> {
    let same = [
        "<script>window.pwned = 1</script>",
        "</script><script>window.pwned = 1</script>",
        "<!-- <script> --> \"quoted\" 'single' & &lt;b&gt; `back`",
        "\"><img src=x onerror=window.pwned=1>",
        "' onmouseover='window.pwned=1",
        "{{ 7 * 7 }} {% raw %} {# no #}",
        "javascript:window.pwned=1",
        "\u{202e}txet detrevni\u{202c} \u{200f}עברית\u{2066}",
        "</title></style></textarea></svg><svg onload=window.pwned=1>",
        "😀 naïve 漢字 \u{2028} line",
    ];
    let mut texts: Vec<_> = same.iter().map(|text| ((*text).to_owned(), (*text).to_owned())).collect();
    texts.push(("nul \u{0} bell \u{7} end".to_owned(), "nul \u{fffd} bell \u{fffd} end".to_owned()));
    let long = "<b>long</b> ".repeat(834)[..10_000].to_owned();
    texts.push((long.clone(), format!("{}… [10000 characters]", &long[..400])));
    texts
}

/// A published run in which keys, titles and captions are hostile.
fn hostile_output() -> Workplace {
    let texts = hostile();
    let workplace = Workplace::with_images(texts.len() as u32, 100);
    let columns = vec![
        (
            "id",
            strings(
                texts
                    .iter()
                    .enumerate()
                    .map(|(row, (text, _))| Some(format!("{row} {}", &text[..text.len().min(300)]))),
            ),
        ),
        ("image", strings((0..texts.len()).map(|row| Some(format!("photos/{row}.png"))))),
        ("title", strings(texts.iter().map(|(text, _)| Some(text.clone())))),
        ("<i onclick=window.pwned=1>", strings(texts.iter().map(|_| Some("a column")))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    workplace.run_ok(&["--run-id", "monday"]);
    let part = workplace.path("out/run=monday/part-000000.parquet");
    let rows = read_parquet(&part);
    let mut columns = rows.columns().to_vec();
    columns[rows.schema().index_of("caption").unwrap()] = strings(texts.iter().map(|(text, _)| Some(text.clone())));
    replace_part(&part, columns, &rows.schema());
    workplace.publish_again("out", "monday");
    workplace
}

#[test]
fn texts_of_rows_stay_texts() {
    let workplace = hostile_output();
    let outline = reported(&workplace, &[]);
    let known = [
        "a",
        "b",
        "bdi",
        "body",
        "button",
        "caption",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "head",
        "header",
        "html",
        "img",
        "input",
        "label",
        "li",
        "line",
        "main",
        "meta",
        "nav",
        "option",
        "p",
        "path",
        "pre",
        "rect",
        "script",
        "section",
        "select",
        "span",
        "style",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "text",
        "th",
        "thead",
        "title",
        "tr",
        "ul",
    ];
    for tag in outline["tags"].as_object().unwrap().keys() {
        assert!(known.contains(&tag.as_str()), "{tag}");
    }
    let captions: Vec<&str> =
        outline["captions"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let shown = outline["rows"].as_array().unwrap();
    for (text, expected) in hostile() {
        assert!(captions.contains(&expected.as_str()), "{expected:?} in {captions:?}");
        // In the table of the row, more of a long text is shown.
        let start: String = expected.chars().take(60).collect();
        let has = |row: &Value| {
            row["fields"]
                .as_array()
                .unwrap()
                .iter()
                .any(|field| field[0] == "caption" && field[1].as_str().unwrap().starts_with(&start))
        };
        assert!(shown.iter().any(has), "{text:?}");
    }
}

#[test]
fn the_hits_of_a_search_are_cards_of_one_page() {
    let workplace = hostile_output();
    let search = |arguments: &[&str]| {
        let mut command = nightcap();
        command.args(["search", "out", "--format", "html"]).args(arguments).current_dir(workplace.path(""));
        command.output().unwrap()
    };
    let printed = search(&["<b>a dog</b>", "--top", "5"]);
    assert!(printed.status.success(), "{}", said(&printed));
    let page = workplace.path("hits.html");
    std::fs::write(&page, &printed.stdout).unwrap();
    let outline = outline_of(&page);
    assert_eq!(gallery(&outline, "query-0").len(), 5);
    says(&outline, "<b>a dog</b>");
    says(&outline, "nearest by the cosine with image_embedding");
    let json = nightcap()
        .args(["search", "out", "<b>a dog</b>", "--top", "5", "--format", "json"])
        .current_dir(workplace.path(""))
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let expected =
        json[0]["hits"].as_array().unwrap().iter().map(|hit| format!("{:.3}", hit["score"].as_f64().unwrap()));
    for score in expected {
        says(&outline, &score);
    }
    let column = strings([Some("a dog"), Some("</script>two")]);
    write_parquet(&workplace.path("queries.parquet"), vec![("text", column)], 2);
    let written = search(&["--queries", "queries.parquet", "--top", "3", "-o", "hits.html"]);
    assert!(written.status.success() && written.stdout.is_empty(), "{}", said(&written));
    let outline = outline_of(&page);
    assert_eq!((gallery(&outline, "query-0").len(), gallery(&outline, "query-1").len()), (3, 3));
    let refused = search(&["a dog", "--top", "99999", "-o", "photos"]);
    assert!(refused.status.code() == Some(2) && said(&refused).contains("expected a file"), "{}", said(&refused));
}

/// A column of synthetic rows from `first` on, by its name and type.
fn synthetic(name: &str, kind: &DataType, first: usize, rows: usize) -> ArrayRef {
    let all = first..first + rows;
    let float =
        |scale: f32| Arc::new(Float32Array::from_iter_values(all.clone().map(|row| (row % 997) as f32 * scale - 0.5)));
    match (name, kind) {
        ("id", _) => strings(all.map(|row| Some(format!("row-{row:06}")))),
        ("image", _) => strings(all.map(|row| Some(format!("photos/{row}.png")))),
        ("status", _) => strings(all.map(|_| Some("ok"))),
        ("caption", _) => {
            strings(all.map(|row| Some(format!("caption {} {}", row % 50_000, "wörter ".repeat(row % 400)))))
        }
        ("caption_finish", _) => strings(all.map(|_| Some("eos"))),
        ("content_hash", _) => strings(all.map(|row| Some(format!("{:064x}", row / 2)))),
        ("content_signature", _) => strings(all.map(|row| Some(format!("{row:032x}")))),
        ("caption_fingerprint" | "embedding_fingerprint", _) => {
            strings(all.map(|_| Some("0123456789abcdef-0123456789abcdef")))
        }
        (name, _) if name.starts_with("error") => strings(all.map(|_| None::<&str>)),
        (_, DataType::Utf8) => strings(all.map(|row| Some("x".repeat(row % 3000)))),
        (_, DataType::Boolean) => Arc::new(all.map(|row| Some(row % 3 == 0)).collect::<BooleanArray>()),
        (_, DataType::Int32) => Arc::new(Int32Array::from_iter_values(all.map(|row| 1 + (row % 4000) as i32))),
        (_, DataType::Int64) => Arc::new(Int64Array::from_iter_values(all.map(|_| 1))),
        (_, DataType::Float32) => float(0.001),
        (_, DataType::FixedSizeList(element, width)) => {
            let values = (0..rows * *width as usize).map(|at| (((first + at / 3) * 7919 + at) % 1000) as f32 / 2000.0);
            let values = Arc::new(Float32Array::from_iter_values(values));
            Arc::new(FixedSizeListArray::try_new(element.clone(), *width, values, None).unwrap())
        }
        (name, kind) => panic!("{name} {kind}"),
    }
}

/// `NIGHTCAP_REPORT_ROWS=1000000` takes so many rows; with `--nocapture` time and memory are shown.
#[test]
fn a_hundred_thousand_rows_make_a_page_of_bounded_size() {
    let all: usize = std::env::var("NIGHTCAP_REPORT_ROWS").map_or(100_000, |rows| rows.parse().unwrap());
    let workplace = Workplace::with_images(0, 1000);
    let columns = vec![
        ("id", strings((0..all).map(|row| Some(format!("row-{row:06}"))))),
        ("image", strings((0..all).map(|_| None::<&str>))),
        ("title", strings((0..all).map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10_000);
    // Rows that fail at once, in whose place others are put.
    workplace.run_ok(&[&["--run-id", "monday"][..], &ALL_MAY_FAIL].concat());
    for part in 0..all / 1000 {
        let path = workplace.path(&format!("out/run=monday/part-{part:06}.parquet"));
        let schema: Arc<Schema> = read_parquet(&path).schema();
        let columns = schema.fields().iter().map(|field| synthetic(field.name(), field.data_type(), part * 1000, 1000));
        replace_part(&path, columns.collect(), &schema);
    }
    workplace.publish_again("out", "monday");
    let (started, mut command) = (Instant::now(), nightcap());
    command.args(["report", "out", "-o", "report.html"]).current_dir(workplace.path(""));
    let (status, peak) = peak_memory(command.stderr(Stdio::null()).spawn().unwrap());
    assert!(status.success());
    println!("{all} rows: {:?}, {} MB", started.elapsed(), peak >> 20);
    let outline = outline_of(&workplace.path("report.html"));
    let rows = format!("{}\u{202f}000", all / 1000);
    if all == 100_000 {
        says(&outline, &format!("{rows} rows {rows} ok 0 failed"));
        says(&outline, &format!("{rows} rows share their caption with another row"));
        says(&outline, &format!("{rows} rows have an image with the same bytes"));
    }
    says(&outline, "rows from 32 parts");
    let galleries: [(&str, usize); 6] =
        [("sample", 48), ("unlike", 36), ("repeated", 24), ("repeating", 36), ("copies", 18), ("alike", 18)];
    for (id, rows) in galleries {
        assert_eq!(gallery(&outline, id).len(), rows, "{id}");
    }
    let bytes = std::fs::metadata(workplace.path("report.html")).unwrap().len();
    assert!(bytes < 4_000_000, "{bytes} bytes without pictures");
}

#[test]
fn reports_and_searches_of_s3() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(6, 2));
    let settings = on_s3(&workplace, server, "report");
    let ran = run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "monday"]).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    let page = workplace.path("report.html");
    for arguments in
        [&["report", "s3://night/report/out"][..], &["search", "s3://night/report/out", "a dog", "--format", "html"]]
    {
        let mut command = nightcap();
        command.args(arguments).arg("-o").arg(&page);
        let made = with_s3(&mut command, &server.endpoint()).output().unwrap();
        assert!(made.status.success(), "{}", said(&made));
        let outline = outline_of(&page);
        says(&outline, "s3://night/report/out");
        assert_eq!(outline["rows"].as_array().unwrap().len(), 6);
    }
}

/// What a person finds on `page` in Chromium who filters for `words`; None where it is not installed.
fn in_chromium(page: &Path, words: &str) -> Option<Value> {
    if Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        skip("chromium is not installed (Debian: chromium), so no browser opens the page");
        return None;
    }
    let used = Command::new(python()).arg(repo("tests/report/browser.py")).arg(page).arg(words).output().unwrap();
    assert!(used.status.success(), "{}", said(&used));
    Some(serde_json::from_slice(&used.stdout).unwrap())
}

#[test]
fn a_browser_shows_filters_and_orders_the_page_and_asks_for_nothing() {
    let workplace = hostile_output();
    reported(&workplace, &[]);
    let page = workplace.path("report.html");
    let Some(found) = in_chromium(&page, "NAÏVE 漢字") else { return };
    let keys = |name: &str| -> Vec<String> {
        found[name].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    };
    let all = keys("all");
    assert!(all.len() > 20, "{all:?}");
    let filtered = keys("filtered");
    assert!(!filtered.is_empty() && filtered.iter().all(|key| key.starts_with("9 ") || key.len() > 1), "{filtered:?}");
    assert!(filtered.len() < all.len() && filtered.iter().any(|key| key.contains("naïve")), "{filtered:?}");
    assert_eq!(found["shown"], format!("{} of {} cards", filtered.len(), all.len()));
    assert_eq!((keys("none").len(), &found["nothing"]), (0, &true.into()));
    assert_eq!(keys("cleared"), all);
    let (as_found, by_key) = (keys("as found"), keys("by key"));
    let number = |key: &String| key.split(' ').next().unwrap().parse::<u32>().unwrap();
    assert!(by_key.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "{by_key:?}");
    assert_ne!(as_found, by_key);
    assert_eq!(keys("as found again"), as_found);

    let dialog = &found["dialog"];
    assert_eq!((&dialog["open"], &dialog["key"]), (&true.into(), &Value::from(as_found[0].clone())));
    let names: Vec<&str> = dialog["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.contains(&"<i onclick=window.pwned=1>") && names.contains(&"caption"), "{names:?}");
    let caption = &dialog["values"][names.iter().position(|name| *name == "caption").unwrap()];
    let (_, expected) = &hostile()[number(&as_found[0]) as usize];
    let start: String = expected.chars().take(300).collect();
    assert!(caption.as_str().unwrap().starts_with(&start), "{caption} {expected}");
    assert_eq!(found["next"], as_found[1]);
    assert_eq!((&found["closed"], &found["focus"], &found["tab"]), (&true.into(), &"open".into(), &"open".into()));

    for scheme in ["light", "dark"] {
        let contrast = &found["contrast"][scheme];
        assert!(contrast["ratio"].as_f64().unwrap() >= 4.5, "{scheme}: {contrast}");
    }
    assert_ne!(found["paper"]["light"], found["paper"]["dark"]);
    assert_eq!(
        (&found["wider than a phone"], &found["pwned"], &found["handlers"]),
        (&false.into(), &"undefined".into(), &0.into())
    );
    let own = format!("file://{}", std::fs::canonicalize(&page).unwrap().display());
    assert_eq!(found["requests"], Value::from(vec![own]));
    assert_eq!(found["console"], Value::from(Vec::<Value>::new()));
    let text = found["text"].as_str().unwrap();
    assert!(text.contains("<script>window.pwned = 1</script>"), "{text}");
}
