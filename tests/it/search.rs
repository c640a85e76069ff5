//! `nightcap search`: the hits are those of plain arithmetic over the newest rows, for texts, images and rows as queries.

use std::process::Output;

use serde_json::Value;

use crate::common::{Workplace, nightcap, said};

fn search(workplace: &Workplace, arguments: &[&str]) -> Output {
    nightcap().arg("search").args(arguments).current_dir(workplace.path("")).output().unwrap()
}

/// The hits of a search as (key, score), best first.
fn hits(workplace: &Workplace, arguments: &[&str]) -> Vec<(String, f64)> {
    let found = all_hits(workplace, arguments);
    assert_eq!(found.len(), 1);
    found.into_iter().next().unwrap()
}

fn all_hits(workplace: &Workplace, arguments: &[&str]) -> Vec<Vec<(String, f64)>> {
    let output = search(workplace, &[&["out", "--format", "json"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let hit = |hit: &Value| (hit["id"].as_str().unwrap().to_owned(), hit["score"].as_f64().unwrap());
    found.iter().map(|query| query["hits"].as_array().unwrap().iter().map(hit).collect()).collect()
}

fn refused(workplace: &Workplace, arguments: &[&str]) -> String {
    let output = search(workplace, arguments);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    String::from_utf8(output.stderr).unwrap()
}

/// Keys and vectors of the rows that have one, in the order of parts.
fn vectors(workplace: &Workplace, run: Option<&str>, column: &str) -> Vec<(String, Vec<f32>)> {
    let rows = workplace.rows("out", run);
    let ids = rows.text("id").into_iter().map(Option::unwrap);
    ids.zip(rows.vectors(column)).filter_map(|(id, vector)| Some((id, vector?))).collect()
}

/// The best rows by plain arithmetic: score, then key.
fn expected(rows: &[(String, Vec<f32>)], query: &[f32], top: usize) -> Vec<(String, f64)> {
    let dot = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut scored: Vec<(String, f64)> = rows.iter().map(|(key, vector)| (key.clone(), dot(vector))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    scored.truncate(top);
    scored
}

#[track_caller]
fn same(found: &[(String, f64)], expected: &[(String, f64)]) {
    let keys = |hits: &[(String, f64)]| hits.iter().map(|hit| hit.0.clone()).collect::<Vec<_>>();
    assert_eq!(keys(found), keys(expected));
    assert!(found.iter().zip(expected).all(|(a, b)| (a.1 - b.1).abs() < 1e-5), "{found:?} {expected:?}");
}

#[test]
fn texts_images_and_rows_find_what_arithmetic_finds() {
    let workplace = Workplace::with_images(40, 7);
    workplace.run_ok(&[]);
    let images = vectors(&workplace, None, "image_embedding");
    let texts = vectors(&workplace, None, "text_embedding");

    let others: Vec<_> = images.iter().filter(|(key, _)| key != "row-0011").cloned().collect();
    let own = &images.iter().find(|(key, _)| key == "row-0011").unwrap().1;
    same(&hits(&workplace, &["--like", "row-0011", "--top", "6"]), &expected(&others, own, 6));

    // The text of a row, encoded as a query, has the vector that the run gave it.
    let rows = workplace.rows("out", None);
    let title = rows.text("title")[9].clone().unwrap();
    let query = &texts.iter().find(|(key, _)| key == "row-0009").unwrap().1;
    same(&hits(&workplace, &[&title, "--top", "40"]), &expected(&images, query, 40));
    // The titles differ in a number, for which the tiny model has no token.
    let equal = hits(&workplace, &[&title, "--column", "text_embedding"]);
    assert!(equal.len() == 10 && equal.iter().all(|hit| hit.1 > 0.99999), "{equal:?}");

    let image = workplace.path("photos/5.png");
    let own = &images.iter().find(|(key, _)| key == "row-0005").unwrap().1;
    same(&hits(&workplace, &["--image", image.to_str().unwrap()]), &expected(&images, own, 10));

    let only = ["--like", "row-0011", "--where", "title IS NOT NULL AND id < 'row-0030'", "--top", "99"];
    let titled: Vec<_> = texts.iter().map(|(key, _)| key.clone()).filter(|key| key.as_str() < "row-0030").collect();
    let kept: Vec<_> = others.iter().filter(|(key, _)| titled.contains(key)).cloned().collect();
    let own = &images.iter().find(|(key, _)| key == "row-0011").unwrap().1;
    same(&hits(&workplace, &only), &expected(&kept, own, 99));
}

#[test]
fn a_file_of_queries_is_as_each_query_alone() {
    let workplace = Workplace::with_images(12, 5);
    workplace.run_ok(&[]);
    let texts = ["a red square", "two blue lines", "nothing at all"];
    let column = crate::common::strings(texts.iter().map(|text| Some(text.to_string())));
    crate::common::write_parquet(&workplace.path("queries.parquet"), vec![("text", column)], 2);
    let together = all_hits(&workplace, &["--queries", "queries.parquet", "--top", "4"]);
    let alone: Vec<_> = texts.iter().map(|text| hits(&workplace, &[text, "--top", "4"])).collect();
    assert_eq!(together.len(), 3);
    together.iter().zip(&alone).for_each(|(together, alone)| same(together, alone));
}

#[test]
fn the_newest_ok_row_of_each_key_counts() {
    let workplace = Workplace::with_images(12, 5);
    workplace.run_ok(&["--run-id", "first"]);
    // One image changes, another one breaks.
    std::fs::write(workplace.path("photos/3.png"), crate::common::png_image(777)).unwrap();
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "second", "--set", "limits.max_failed_fraction=1.0"]);
    let mut newest = vectors(&workplace, Some("first"), "image_embedding");
    let changed = vectors(&workplace, Some("second"), "image_embedding");
    assert_eq!(changed.len(), 1);
    newest.retain(|(key, _)| key != "row-0003" && key != "row-0004");
    newest.extend(changed.iter().cloned());
    let others: Vec<_> = newest.iter().filter(|(key, _)| key != "row-0003").cloned().collect();
    same(&hits(&workplace, &["--like", "row-0003", "--top", "99"]), &expected(&others, &changed[0].1, 99));
    assert!(refused(&workplace, &["out", "--like", "row-0004"]).contains("expected the key of a row that is ok"));
    // A compaction keeps the last good row beside the failed one: it is not the newest.
    let compacted =
        nightcap().args(["compact", "out", "--grace", "0"]).current_dir(workplace.path("")).output().unwrap();
    assert!(compacted.status.success(), "{}", said(&compacted));
    same(&hits(&workplace, &["--like", "row-0003", "--top", "99"]), &expected(&others, &changed[0].1, 99));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let workplace = Workplace::with_images(6, 5);
    let nothing = refused(&workplace, &["out", "words"]);
    assert!(nothing.contains("expected an OUTPUT"), "{nothing}");
    workplace.run_ok(&[]);
    for (arguments, expected) in [
        (
            &["out", "words", "--column", "caption"][..],
            "--column: expected one of the columns image_embedding, text_embedding",
        ),
        (&["out", "words", "--where", "nosuch = 1"], "--where: expected one of the columns id, image"),
        (&["out", "words", "--where", "1 = 1"], "--where: expected a condition on a column"),
        (&["out", "words", "--where", "title"], "expected true or false"),
        (&["out", "--image", "missing.png"], "--image missing.png: "),
        (&["out", "--image", "job.toml"], "--image: "),
        (&["out", " "], "expected a text with words"),
        (&["out", "--like", "nobody"], "expected the key of a row that is ok"),
        (&["out"], "required arguments"),
        (&["out", "words", "--like", "row-0001"], "cannot be used with"),
    ] {
        let said = refused(&workplace, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    // Vectors of two fingerprints.
    workplace.run_ok(&["--full", "--limit", "2", "--set", "input.jpeg_scaling=true"]);
    let mixed = refused(&workplace, &["out", "words"]);
    assert!(mixed.contains("expected vectors of one embedding_fingerprint") && mixed.contains("4 rows of"), "{mixed}");
    let fingerprint = mixed.split("embedding_fingerprint = '").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let only = format!("embedding_fingerprint = '{fingerprint}'");
    let older = refused(&workplace, &["out", "words", "--where", &only]);
    assert!(older.contains("they cannot be compared"), "{older}");
    assert_eq!(hits(&workplace, &["--like", "row-0005", "--where", &only]).len(), 3);
}

#[test]
fn tables_show_rank_score_key_and_caption() {
    let workplace = Workplace::with_images(6, 5);
    workplace.run_ok(&[]);
    let output = search(&workplace, &["out", "--like", "row-0002", "--top", "2"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("rank  score   id        caption"), "{text}");
    assert!(lines[2].starts_with("1     0.") && lines[2].contains("row-00"), "{text}");
    assert!(lines.len() >= 4, "{text}");
}
