//! `nightcap search` on 100,000 rows, and `search`, `eval` and `sample` on S3.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, StringArray, new_null_array};
use arrow::datatypes::DataType;
use serde_json::Value;

use crate::common::{Dice, Workplace, nightcap, read_parquet, replace_part, repo, said, strings, write_parquet};
use crate::seaweed::{Seaweed, with_s3};

pub const ROWS: i64 = 100_000;
/// Of the tiny model's vectors.
pub const WIDTH: usize = 16;

/// The caption of a row.
pub fn caption(key: i64) -> String {
    const COLORS: [&str; 7] = ["black", "white", "brown", "red", "blue", "green", "grey"];
    const ANIMALS: [&str; 11] = ["dog", "cat", "cow", "horse", "sheep", "bird", "fish", "goat", "fox", "owl", "hen"];
    format!("a {} {} in place {}", COLORS[key as usize % 7], ANIMALS[key as usize % 11], key % 1000)
}

/// An OUTPUT `out` of 100,000 rows, whose captions and vectors take the place of what the model in `model` would have said; keys and
/// vectors.
pub fn many_rows(workplace: &Workplace) -> Vec<(i64, Vec<f32>)> {
    let missing = strings((0..ROWS).map(|_| None::<&str>));
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", keys), ("image", missing)], 20_000);
    std::fs::create_dir(workplace.path("model")).unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), workplace.path("model").join(entry.file_name())).unwrap();
    }
    workplace.job(
        "[input]\nmanifest = \"manifest.parquet\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"model\"\n\
         [output]\npath = \"out\"\npart_rows = 7000\n[limits]\nmax_failed_fraction = 1.0\n",
    );
    workplace.run_ok(&["--run-id", "first"]);
    let (mut dice, mut all) = (Dice::new(11), Vec::new());
    for (name, _) in workplace.parts("out", "first") {
        let path = workplace.path("out/run=first").join(name);
        let rows = read_parquet(&path);
        let mut values: Vec<f32> = Vec::new();
        let first = all.len() as i64;
        for _ in 0..rows.num_rows() {
            // Some vectors occur in many parts.
            let common = dice.percent(2);
            let one_number = |at: usize| if at == 3 { 1.0 } else { 0.0 };
            let mut number = |at| if common { one_number(at) } else { dice.below(2001) as f32 / 1000.0 - 1.0 };
            let vector: Vec<f32> = (0..WIDTH).map(&mut number).collect();
            let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.extend(vector.iter().map(|value| value / norm));
            all.push((all.len() as i64, values[values.len() - WIDTH..].to_vec()));
        }
        let schema = rows.schema();
        let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| match field.name().as_str() {
            "status" => Arc::new(StringArray::from(vec!["ok"; rows.num_rows()])) as ArrayRef,
            "caption" => strings((first..all.len() as i64).map(|key| Some(caption(key)))),
            name if name.starts_with("error_") => new_null_array(field.data_type(), rows.num_rows()),
            "image_embedding" => {
                let DataType::FixedSizeList(theirs, _) = field.data_type() else { panic!("{field}") };
                let (element, values) = (theirs.clone(), Arc::new(Float32Array::from(values.clone())));
                Arc::new(FixedSizeListArray::new(element, WIDTH as i32, values, None))
            }
            _ => column.clone(),
        });
        replace_part(&path, columns.collect(), &schema);
    }
    workplace.publish_again("out", "first");
    all
}

/// The hits as (key, score), best first.
fn hits(workplace: &Workplace, arguments: &[&str]) -> Vec<(i64, f64)> {
    let mut command = nightcap();
    let command = command.args(["search", "out", "--format", "json"]).args(arguments);
    let output = command.current_dir(workplace.path("")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let hit = |hit: &Value| (hit["id"].as_i64().unwrap(), hit["score"].as_f64().unwrap());
    found[0]["hits"].as_array().unwrap().iter().map(hit).collect()
}

/// By plain arithmetic: score, then key.
fn expected(rows: &[(i64, Vec<f32>)], like: i64, top: usize) -> Vec<(i64, f64)> {
    let query = &rows.iter().find(|(key, _)| *key == like).unwrap().1;
    let dot = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let others = rows.iter().filter(|(key, _)| *key != like);
    let mut scored: Vec<(i64, f64)> = others.map(|(key, vector)| (*key, dot(vector))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(top);
    scored
}

#[track_caller]
fn same(found: &[(i64, f64)], expected: &[(i64, f64)]) {
    let keys = |hits: &[(i64, f64)]| hits.iter().map(|hit| hit.0).collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected));
    assert!(found.iter().zip(expected).all(|(a, b)| (a.1 - b.1).abs() < 1e-5));
}

#[test]
fn a_search_of_100_000_rows_is_exact() {
    let workplace = Workplace::new();
    let mut rows = many_rows(&workplace);
    assert_eq!(rows.len() as i64, ROWS);
    for like in [0, 6_999, 50_000, ROWS - 1] {
        same(&hits(&workplace, &["--like", &like.to_string()]), &expected(&rows, like, 10));
    }
    // A page shows the same rows in the same order.
    let mut command = nightcap();
    command.args(["search", "out", "--like", "50000", "--top", "20", "--format", "html", "-o", "hits.html"]);
    let output = command.current_dir(workplace.path("")).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let page = std::fs::read_to_string(workplace.path("hits.html")).unwrap();
    let mut from = 0;
    for (key, score) in expected(&rows, 50_000, 20) {
        let card = page[from..].find(&format!("<bdi class=\"key\">{key}</bdi>"));
        from += card.unwrap_or_else(|| panic!("{key} {score} is not on the page, or not in its place"));
    }
    // About 2,000 rows have this vector: equal scores are in the order of keys, as numbers.
    let common = rows.iter().find(|(_, vector)| vector[3] > 0.9999).unwrap().0;
    let found = hits(&workplace, &["--like", &common.to_string(), "--top", "3000"]);
    let wanted = expected(&rows, common, 3000);
    let ties = wanted.iter().filter(|hit| hit.1 > 0.999_999).count();
    assert!((1_500..2_500).contains(&ties), "{ties}");
    same(&found[..ties], &wanted[..ties]);
    let some: Vec<_> =
        rows.iter().filter(|(key, _)| *key == 50_000 || key % 3 == 0 && *key > 90_000).cloned().collect();
    let only = ["--like", "50000", "--where", "id % 3 = 0 AND id > 90000", "--top", "50"];
    same(&hits(&workplace, &only), &expected(&some, 50_000, 50));

    // The newest rows of these keys fail, and are no hits any more.
    workplace.run_ok(&["--run-id", "second", "--full", "--limit", "30000"]);
    rows.retain(|(key, _)| *key >= 30_000);
    same(&hits(&workplace, &["--like", "50000", "--top", "100"]), &expected(&rows, 50_000, 100));
}

/// Every command that reads rows answers on S3 as it does on disk.
#[test]
fn rows_on_s3_are_read_as_on_disk() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(30, 7));
    workplace.run_ok(&["--run-id", "first"]);
    std::fs::write(workplace.path("photos/3.png"), crate::common::png_image(777)).unwrap();
    workplace.run_ok(&["--run-id", "second"]);
    server.upload(&workplace.path("out"), "read/out");
    let ids: Vec<String> = (0..30).map(|row| format!("row-{row:04}")).collect();
    let captions = strings(ids.iter().map(|id| Some(format!("a dog on the beach {id}"))));
    let columns = vec![("id", strings(ids.iter().map(Some))), ("caption", captions)];
    write_parquet(&workplace.path("references.parquet"), columns, 100);
    for name in ["references.parquet", "photos/3.png"] {
        server.put(&format!("read/{name}"), &std::fs::read(workplace.path(name)).unwrap()).unwrap();
    }
    let answer = |root: &str, arguments: &[&str]| {
        let mut command = nightcap();
        let arguments = arguments.iter().map(|argument| argument.replace("ROOT/", root));
        let command = with_s3(command.args(arguments), &server.endpoint()).current_dir(workplace.path(""));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    for arguments in [
        &["search", "ROOT/out", "--like", "row-0003", "--top", "29"][..],
        &["search", "ROOT/out", "a dog on the beach", "--format", "json", "--where", "id > 'row-0009'"],
        &["search", "ROOT/out", "--image", "ROOT/photos/3.png", "--format", "json"],
        &["sample", "ROOT/out", "--n", "7"],
        &["eval", "ROOT/out", "--references", "ROOT/references.parquet", "--against", "ROOT/out"],
    ] {
        let (local, remote) = (answer("", arguments), answer("s3://night/read/", arguments));
        let is_of_both = |line: &&str| !line.contains("ok rows") && !line.contains("\"query\"");
        let table = |text: &str| text.lines().filter(is_of_both).collect::<Vec<_>>().join("\n");
        assert_eq!(table(&remote), table(&local), "{arguments:?}");
        assert!(remote.len() > 200, "{remote}");
    }
}
