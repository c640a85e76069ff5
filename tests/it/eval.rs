//! `nightcap eval`: every score is that of `jobs/train/metrics.py`, and so of pycocoevalcap (`tests/goldens/make_metrics.py`); rows are
//! joined by key, and retrieval uses the vectors that the run's own model gives the references.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Output;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, ListBuilder, StringBuilder};
use arrow::datatypes::Float32Type;
use nightcap::eval::Sentence;
use nightcap::eval::measured::{Measured, Score};
use nightcap::eval::retrieval::{Images, Texts};
use nightcap::eval::words::Vocabulary;
use serde_json::Value;

use crate::common::{Workplace, nightcap, png_image, repo, said, strings, write_parquet};

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(repo("tests/goldens/metrics.json")).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Every expected score is there, and is the same.
#[track_caller]
fn same(found: &BTreeMap<String, f64>, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        let (found, value) = (found[name], value.as_f64().unwrap());
        assert!((found - value).abs() <= 1e-8 * value.abs().max(1.0), "{name}: expected {value}, found {found}");
    }
}

fn by_name(scores: Vec<Score>) -> BTreeMap<String, f64> {
    scores.into_iter().map(|score| (score.name, score.value)).collect()
}

/// Captions compared with their references, of which there are some for other rows.
fn measured(captions: &[String], references: &[Vec<String>], others: &[Vec<String>]) -> Measured {
    let mut vocabulary = Vocabulary::default();
    let mut sentences = |references: &[Vec<String>]| -> Vec<Vec<Sentence>> {
        references.iter().map(|texts| texts.iter().map(|text| vocabulary.sentence(text)).collect()).collect()
    };
    let (references, others) = (sentences(references), sentences(others));
    Measured::new(captions.len()).with_captions(captions, &references, &others, &mut vocabulary)
}

#[test]
fn captions_have_the_scores_of_pycocoevalcap() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let references: Vec<Vec<String>> = case["references"].as_array().unwrap().iter().map(texts).collect();
        same(&by_name(measured(&texts(&case["captions"]), &references, &[]).scores()), &case["scores"]);
    }
}

#[test]
fn retrieval_has_the_scores_of_the_recipes() {
    let golden = &golden()["retrieval"];
    let vectors_of = |name: &str| vectors(&golden[name]);
    let (images, texts) = (vectors_of("images"), vectors_of("texts"));
    let owners: Vec<usize> = serde_json::from_value(golden["owners"].clone()).unwrap();
    let images = Images {
        width: images[0].len(),
        rows: (0..images.len() as u32).collect(),
        vectors: images.into_iter().flatten().collect(),
    };
    let mut added = Texts::new(&images).unwrap();
    texts.iter().zip(&owners).for_each(|(text, owner)| added.add(*owner, text).unwrap());
    let ranks = added.ranks(&|| false).unwrap().unwrap();
    same(&by_name(Measured::new(images.rows.len()).with_ranks(ranks).scores()), &golden["scores"]);
}

/// A column of lists of texts.
fn lists(rows: &[Vec<String>]) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        for text in row {
            lists.values().append_value(text);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

fn eval(workplace: &Workplace, arguments: &[&str]) -> Output {
    nightcap().arg("eval").args(arguments).current_dir(workplace.path("")).output().unwrap()
}

fn eval_json(workplace: &Workplace, arguments: &[&str]) -> Value {
    let output = eval(workplace, &[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn scores(found: &Value) -> BTreeMap<String, f64> {
    serde_json::from_value(found["scores"].clone()).unwrap()
}

/// Writes references for rows of a workplace: two captions each, of which some are those of the row itself, or of row 3 if it has none.
fn write_references(workplace: &Workplace, rows: std::ops::Range<usize>) -> (Vec<String>, Vec<Vec<String>>) {
    let ids: Vec<String> = rows.clone().map(|row| format!("row-{row:04}")).collect();
    let found = workplace.rows("out", None);
    let captions: BTreeMap<_, _> = found.text("id").into_iter().zip(found.text("caption")).collect();
    let references = rows.zip(&ids).map(|(row, id)| {
        let own = [id, "row-0003"].map(|id| captions.get(&Some(id.to_owned())).cloned().flatten());
        let own = own.into_iter().flatten().next().unwrap();
        vec![format!("a dog on the beach {row}"), if row % 2 == 0 { own } else { "the snow".to_owned() }]
    });
    let references: Vec<Vec<String>> = references.collect();
    let columns = vec![("id", strings(ids.iter().map(Some))), ("captions", lists(&references))];
    write_parquet(&workplace.path("references.parquet"), columns, 7);
    (ids, references)
}

/// The vectors that the tiny model gives texts, by a job that embeds texts only.
fn text_vectors(texts: &[String]) -> Vec<Vec<f32>> {
    let workplace = Workplace::new();
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    write_parquet(
        &workplace.path("texts.parquet"),
        vec![("key", keys), ("text", strings(texts.iter().map(Some)))],
        100,
    );
    workplace.job(&format!(
        "[input]\nmanifest = \"texts.parquet\"\nkey = \"key\"\ntext = \"text\"\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n[runtime]\nthreads = 1\n",
        repo("tests/fixtures/tiny_model").display()
    ));
    workplace.run_ok(&[]);
    workplace.rows("out", None).vectors("text_embedding").into_iter().map(Option::unwrap).collect()
}

/// Caption, similarity and vector.
type NewestRow = (String, f32, Vec<f32>);

/// The newest ok rows count, joined by key: failed, missing and extra rows are counted, and the scores are those of the rest.
#[test]
fn the_rows_of_an_output_are_scored_against_their_references() {
    let workplace = Workplace::with_images(30, 7);
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "first", "--set", "limits.max_failed_fraction=1.0"]);
    let (ids, references) = write_references(&workplace, 2..40);
    // One image is new, one breaks: of both, the first run's row is not the newest any more.
    std::fs::write(workplace.path("photos/6.png"), png_image(777)).unwrap();
    std::fs::write(workplace.path("photos/8.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "second", "--set", "limits.max_failed_fraction=1.0"]);

    let mut newest: BTreeMap<String, NewestRow> = BTreeMap::new();
    for run in ["first", "second"] {
        let rows = workplace.rows("out", Some(run));
        let similarity = rows.column("caption_similarity").clone();
        let captions = rows.text("id").into_iter().zip(rows.text("caption")).zip(rows.vectors("image_embedding"));
        for (number, ((id, caption), vector)) in captions.enumerate() {
            let id = id.unwrap();
            newest.remove(&id);
            if let (Some(caption), Some(vector)) = (caption, vector) {
                let similarity = similarity.as_primitive::<Float32Type>().value(number);
                newest.insert(id, (caption, similarity, vector));
            }
        }
    }
    assert!(!newest.contains_key("row-0004") && !newest.contains_key("row-0008"));
    let compared: Vec<(&NewestRow, &Vec<String>)> =
        ids.iter().zip(&references).filter_map(|(id, texts)| Some((newest.get(id)?, texts))).collect();
    assert_eq!((newest.len(), compared.len()), (28, 26));

    let found = eval_json(&workplace, &["out", "--references", "references.parquet"]);
    let output = &found["outputs"][0];
    assert_eq!(found["compared"], 26);
    assert_eq!((&output["ok"], &output["without_references"], &output["missing"]), (&28.into(), &2.into(), &12.into()));
    assert_eq!(output["left_out"], Value::Array(vec![]));
    assert!(found["words"].as_str().unwrap().contains("jobs/train"), "{found}");
    assert!(found.get("differences").is_none());

    let captions: Vec<String> = compared.iter().map(|(row, _)| row.0.clone()).collect();
    let of_captions: Vec<Vec<String>> = compared.iter().map(|(_, texts)| (*texts).clone()).collect();
    let expected = by_name(measured(&captions, &of_captions, &references).scores());
    assert!(expected["novel"] < by_name(measured(&captions, &of_captions, &[]).scores())["novel"], "{expected:?}");
    same(&scores(output), &serde_json::to_value(&expected).unwrap());
    let similarity = compared.iter().map(|(row, _)| f64::from(row.1)).sum::<f64>() / 26.0;
    assert!((scores(output)["similarity"] - similarity).abs() < 1e-9);

    // Retrieval by plain arithmetic.
    let flat: Vec<(usize, String)> = of_captions
        .iter()
        .enumerate()
        .flat_map(|(row, texts)| texts.iter().map(move |text| (row, text.clone())))
        .collect();
    let embedded = text_vectors(&flat.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>());
    let dot = |row: usize, text: usize| {
        compared[row].0.2.iter().zip(&embedded[text]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    // Many texts of the tiny model are equal: what is nearer by less than rounding is a tie.
    let better = |other: f64, own: f64| other > own + 1e-6;
    let to_text: Vec<usize> = (0..26)
        .map(|row| {
            let own =
                (0..flat.len()).filter(|text| flat[*text].0 == row).map(|text| dot(row, text)).fold(-2.0, f64::max);
            (0..flat.len()).filter(|text| better(dot(row, *text), own)).count()
        })
        .collect();
    let to_image: Vec<usize> = (0..flat.len())
        .map(|text| (0..26).filter(|row| better(dot(*row, text), dot(flat[text].0, text))).count())
        .collect();
    for (direction, ranks) in [("i2t", to_text), ("t2i", to_image)] {
        for k in [1, 5, 10] {
            let recall = 100.0 * ranks.iter().filter(|rank| **rank < k).count() as f64 / ranks.len() as f64;
            let found = scores(output)[&format!("{direction} R@{k}")];
            assert!((found - recall).abs() < 1e-9, "{direction} R@{k}: expected {recall}, found {found}");
        }
    }
}

/// The same references as lines of a CSV file with one caption each, and with a key column of another name.
#[test]
fn references_may_be_one_caption_a_row() {
    let workplace = Workplace::with_images(9, 4);
    workplace.run_ok(&[]);
    let (ids, references) = write_references(&workplace, 0..9);
    let mut lines = "photo,said\n".to_owned();
    // The second captions come after all the first ones.
    for nth in [0, 1] {
        for (id, texts) in ids.iter().zip(&references) {
            writeln!(lines, "{id},\"{}\"", texts[nth]).unwrap();
        }
    }
    lines += "row-0000,\nrow-9999,\"  \"\n";
    std::fs::write(workplace.path("references.csv"), lines).unwrap();
    let lists = eval_json(&workplace, &["out", "--references", "references.parquet"]);
    let others = ["out", "--references", "references.csv", "--key", "photo", "--captions", "said"];
    let rows = eval_json(&workplace, &others);
    assert_eq!(scores(&lists["outputs"][0]), scores(&rows["outputs"][0]));
    assert_eq!((&rows["compared"], &rows["references"]["keys"]), (&9.into(), &9.into()));
    assert_eq!(rows["references"]["without_captions"], 1);
}

/// Two OUTPUTs on the rows that both have: the first is better where its captions are references.
#[test]
fn two_outputs_are_compared_on_the_rows_of_both() {
    let workplace = Workplace::with_images(24, 7);
    workplace.run_ok(&[]);
    workplace.run_ok(&["--set", "output.path=other", "--set", "generation.max_new_tokens=2", "--limit", "20"]);
    let ids: Vec<String> = (0..24).map(|row| format!("row-{row:04}")).collect();
    let own: Vec<Vec<String>> =
        workplace.rows("out", None).text("caption").into_iter().map(|caption| vec![caption.unwrap()]).collect();
    let columns = vec![("id", strings(ids.iter().map(Some))), ("captions", lists(&own))];
    write_parquet(&workplace.path("references.parquet"), columns, 100);
    let arguments = ["out", "--references", "references.parquet", "--against", "other"];
    let found = eval_json(&workplace, &arguments);
    assert_eq!((&found["compared"], found["outputs"].as_array().unwrap().len()), (&20.into(), 2));
    assert_eq!(found["outputs"][1]["missing"], 4);
    let (ours, theirs) = (scores(&found["outputs"][0]), scores(&found["outputs"][1]));
    for (name, found) in found["differences"].as_object().unwrap() {
        let value = found["value"].as_f64().unwrap();
        assert!((value - (ours[name] - theirs[name])).abs() < 1e-9, "{name}");
        if name.starts_with("distinct") {
            assert!(found["low"].is_null(), "{name} does not add up over rows");
            continue;
        }
        let (low, high) = (found["low"].as_f64().unwrap(), found["high"].as_f64().unwrap());
        assert!(low <= high, "{name}: {low} {high}");
        // The vectors are the same, and so is all that is made of them.
        if name.contains('2') && !name.starts_with("BLEU") {
            assert_eq!((value, low, high), (0.0, 0.0, 0.0), "{name}");
        }
    }
    let rouge = &found["differences"]["ROUGE-L"];
    assert!(rouge["low"].as_f64().unwrap() > 0.0 && rouge["value"].as_f64() >= rouge["low"].as_f64(), "{rouge}");
    assert_eq!(found, eval_json(&workplace, &arguments), "rows are drawn the same way each time");
    let swapped = eval_json(&workplace, &["other", "--references", "references.parquet", "--against", "out"]);
    let (high, low) = (rouge["high"].as_f64().unwrap(), swapped["differences"]["ROUGE-L"]["low"].as_f64().unwrap());
    assert!((high + low).abs() < 1e-9, "{high} {low}");
}

#[test]
fn tables_and_refusals() {
    let workplace = Workplace::with_images(6, 4);
    workplace.run_ok(&[]);
    write_references(&workplace, 1..8);
    let output = eval(&workplace, &["out", "--references", "references.parquet"]);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for line in [
        "6 ok rows, 1 of them without references; 2 of 7 keys with references have no ok row",
        "5 rows are compared, by the words of jobs/train: ",
        "\nCIDEr            ",
        "\nt2i median rank  ",
    ] {
        assert!(table.contains(line), "{line}\n{table}");
    }
    let refused = |arguments: &[&str]| {
        let output = eval(&workplace, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        said(&output)
    };
    write_parquet(&workplace.path("numbers.parquet"), vec![("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)], 1);
    let foreign = vec![("id", strings([Some("nobody")])), ("caption", strings([Some("a dog")]))];
    write_parquet(&workplace.path("foreign.parquet"), foreign, 1);
    for (arguments, expected) in [
        (&["out", "--references", "missing.parquet"][..], "missing.parquet"),
        (&["out", "--references", "numbers.parquet"], "--captions"),
        (&["out", "--references", "references.parquet", "--captions", "id", "--key", "nosuch"], "--key"),
        (&["out", "--references", "numbers.parquet", "--captions", "id"], "a column of texts or of lists of texts"),
        (&["out", "--references", "foreign.parquet"], "found 1 keys with captions and none that matches"),
        (&["out", "--references", "references.parquet", "--model", "nowhere"], "nowhere"),
        (&["nowhere", "--references", "references.parquet"], "nowhere"),
    ] {
        let said = refused(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

/// Without the model, captions are scored, and what is missing is said.
#[test]
fn without_the_model_only_captions_are_scored() {
    let workplace = Workplace::with_images(6, 4);
    let model = workplace.path("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    workplace.run_ok(&["--set", &format!("model.path={}", model.display())]);
    write_references(&workplace, 0..6);
    let whole = eval_json(&workplace, &["out", "--references", "references.parquet"]);
    std::fs::rename(&model, workplace.path("moved")).unwrap();
    let output = eval(&workplace, &["out", "--references", "references.parquet", "--format", "json"]);
    assert!(output.status.success() && said(&output).contains("left out: retrieval: "), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (whole_scores, found_scores) = (scores(&whole["outputs"][0]), scores(&found["outputs"][0]));
    assert!(found["outputs"][0]["left_out"][0].as_str().unwrap().starts_with("retrieval: "), "{found}");
    assert!(whole_scores.contains_key("i2t R@1") && !found_scores.contains_key("i2t R@1"));
    assert_eq!(whole_scores.get("CIDEr"), found_scores.get("CIDEr"));
    let again = eval_json(&workplace, &["out", "--references", "references.parquet", "--model", "moved"]);
    assert_eq!(whole["outputs"], again["outputs"]);
}
