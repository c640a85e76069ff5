//! `nightcap export`, `sample` and `eval` on 100,000 rows: every row is there, once, with its own vector and caption. (`search` and
//! `report` on as many rows have tests of their own.)

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{AsArray, Int64Array, ListBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Int64Type};
use serde_json::Value;

use crate::common::{Workplace, nightcap, peak_memory, said, write_parquet};
use crate::export::exported;
use crate::search_large::{ROWS, WIDTH, caption, many_rows};

/// Each row of an exported file is one of `expected`, with its caption, and none is missing.
fn rows_are(rows: &RecordBatch, expected: &BTreeMap<i64, Vec<f32>>, tolerance: f32) {
    let captions = rows.column_by_name("caption").unwrap().as_string::<i32>();
    let vectors = rows.column_by_name("image_embedding").unwrap().as_fixed_size_list().values();
    let vectors = arrow::compute::cast(vectors, &DataType::Float32).unwrap();
    let vectors = vectors.as_primitive::<Float32Type>().values().chunks(WIDTH);
    let keys = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values();
    for ((key, said), vector) in keys.iter().zip(captions).zip(vectors) {
        assert_eq!(said, Some(caption(*key).as_str()));
        assert!(expected[key].iter().zip(vector).all(|(a, b)| (a - b).abs() <= tolerance), "row {key}");
    }
    let found: BTreeSet<i64> = keys.iter().copied().collect();
    assert_eq!((rows.num_rows(), found.len()), (expected.len(), expected.len()));
}

/// The first line of a sample of five rows, and their keys.
fn sampled(workplace: &Workplace) -> (String, Vec<i64>) {
    let mut command = nightcap();
    let output = command.args(["sample", "out", "--n", "5"]).current_dir(workplace.path("")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let keys = text.lines().skip(1).filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    (text.lines().next().unwrap().to_owned(), keys)
}

#[test]
fn exports_and_samples_of_100_000_rows() {
    let workplace = Workplace::new();
    let mut rows: BTreeMap<i64, Vec<f32>> = many_rows(&workplace).into_iter().collect();
    rows_are(&exported(&workplace, &[]), &rows, 0.0);
    let half = exported(&workplace, &["--columns", "caption,image_embedding", "--vectors", "f16"]);
    let vectors = half.column_by_name("image_embedding").unwrap().as_fixed_size_list();
    assert!(vectors.values().as_primitive_opt::<Float16Type>().is_some());
    rows_are(&half, &rows, 0.0005);
    let (first, keys) = sampled(&workplace);
    assert_eq!((first.as_str(), keys.len()), ("100000 rows, 100000 ok, 0 failed; 5 of them:", 5));

    // The newest rows of these keys fail.
    workplace.run_ok(&["--run-id", "second", "--full", "--limit", "30000"]);
    rows.retain(|key, _| *key >= 30_000);
    rows_are(&exported(&workplace, &[]), &rows, 0.0);
    let some = exported(&workplace, &["--neighbors", "5", "--where", "id % 50 = 0"]);
    rows.retain(|key, _| key % 50 == 0);
    rows_are(&some, &rows, 0.0);
    let near = some.column_by_name("neighbors").unwrap().as_struct();
    let (numbers, distances) = (near.column(0).as_list::<i32>(), near.column(1).as_list::<i32>());
    let keys = some.column_by_name("id").unwrap().as_primitive::<Int64Type>().values();
    for row in [0, 700, some.num_rows() - 1] {
        let own = &rows[&keys[row]];
        let mut expected: Vec<f64> = (0..some.num_rows())
            .filter(|other| *other != row)
            .map(|other| 1.0 - own.iter().zip(&rows[&keys[other]]).map(|(a, b)| f64::from(a * b)).sum::<f64>())
            .collect();
        expected.sort_by(f64::total_cmp);
        let found = (numbers.value(row), distances.value(row));
        let found =
            found.0.as_primitive::<Int64Type>().values().iter().zip(found.1.as_primitive::<Float32Type>().values());
        for ((number, distance), expected) in found.zip(&expected) {
            let named = own.iter().zip(&rows[&keys[*number as usize]]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((f64::from(*distance) - expected).abs() < 1e-5 && (1.0 - named - expected).abs() < 1e-5);
        }
    }
    assert_eq!(
        sampled(&workplace),
        ("100000 rows, 70000 ok, 30000 failed; 5 of them:".to_owned(), sampled(&workplace).1)
    );
}

/// Five references of a row, of which the second is its caption, where `key % 4` is 0.
fn references(key: i64) -> [String; 5] {
    let own = if key % 4 == 0 { caption(key) } else { format!("{} by itself", caption(key)) };
    let other = |n: i64| format!("some animal number {} near {}", (key * n) % 977, (key + n) % 1000);
    [other(3), own, other(5), format!("a picture of {}", caption(key)), other(7)]
}

/// Retrieval is left out: the product of 100,000 images with 500,000 references takes minutes. With `--nocapture` time and memory are
/// shown.
#[test]
fn captions_of_100_000_rows_have_five_references_each() {
    let workplace = Workplace::new();
    many_rows(&workplace);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for key in 0..ROWS {
        for text in references(key) {
            lists.values().append_value(text);
        }
        lists.append(true);
    }
    let keys = Int64Array::from_iter_values(0..ROWS);
    let columns = vec![("id", Arc::new(keys) as _), ("captions", Arc::new(lists.finish()) as _)];
    write_parquet(&workplace.path("references.parquet"), columns, 10_000);
    std::fs::rename(workplace.path("model"), workplace.path("moved")).unwrap();

    let answer = std::fs::File::create(workplace.path("scores.json")).unwrap();
    let (started, mut command) = (Instant::now(), nightcap());
    command.args(["eval", "out", "--references", "references.parquet", "--format", "json"]);
    command.current_dir(workplace.path("")).stdout(answer).stderr(Stdio::null());
    let (status, peak) = peak_memory(command.spawn().unwrap());
    assert!(status.success());
    println!("{ROWS} rows: {:?}, {} MB", started.elapsed(), peak >> 20);
    let found: Value = serde_json::from_slice(&std::fs::read(workplace.path("scores.json")).unwrap()).unwrap();
    let output = &found["outputs"][0];
    assert_eq!((&found["compared"], &output["missing"], &output["ok"]), (&ROWS.into(), &0.into(), &ROWS.into()));
    assert!(output["left_out"][0].as_str().unwrap().starts_with("retrieval: "), "{found}");
    let score = |name: &str| output["scores"][name].as_f64().unwrap();
    let near = |name: &str, expected: f64| assert!((score(name) - expected).abs() < 1e-9, "{name}: {}", score(name));
    // All captions have six words, which stand in a row in the fourth reference.
    for (name, value) in [("BLEU-1", 100.0), ("BLEU-4", 100.0), ("words", 6.0), ("repeat", 0.0)] {
        near(name, value);
    }
    let known: BTreeSet<String> = (0..ROWS).step_by(4).map(caption).collect();
    let novel = (0..ROWS).filter(|key| !known.contains(&caption(*key))).count();
    near("novel", 100.0 * novel as f64 / ROWS as f64);
    let words: BTreeSet<String> =
        (0..ROWS).flat_map(|key| caption(key).split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    near("distinct-1", 100.0 * words.len() as f64 / (6 * ROWS) as f64);
    assert!(score("ROUGE-L") > 80.0 && score("CIDEr") > 100.0, "{found}");
    // Captions and references are in memory: 57 MB of text here.
    assert!(peak < 600 << 20, "{peak} bytes");
}
