//! Whole runs: every row out once, with the documented schema, whatever the batch size, the shards or the manifest's form.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Float32Type};

use crate::common::{Workplace, largest_difference, nightcap, png_image, repo, strings, write_parquet};

#[test]
fn every_row_comes_out_once_in_manifest_order_with_the_documented_schema() {
    let workplace = Workplace::with_images(25, 10);
    workplace.run_ok(&["--run-id", "first"]);
    let rows = workplace.rows("out", Some("first"));
    let expected: Vec<_> = (0..25).map(|row| Some(format!("row-{row:04}"))).collect();
    assert_eq!(rows.text("id"), expected);
    assert!(rows.text("status").iter().all(|status| status.as_deref() == Some("ok")));
    assert_eq!(workplace.parts("out", "first").len(), 3);
    let describe = |field: &Arc<Field>| {
        format!("{} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " not null" })
    };
    let schema: Vec<_> = rows.0.schema().fields().iter().map(describe).collect();
    insta::assert_snapshot!(schema.join("\n"), @r"
    id Utf8
    image Utf8
    title Utf8
    status Utf8 not null
    error_stage Utf8
    error_kind Utf8
    error_message Utf8
    caption Utf8
    caption_logprob Float32
    caption_tokens Int32
    caption_finish Utf8
    caption_similarity Float32
    caption_repeats Boolean
    image_embedding FixedSizeList(16 x non-null Float32, field: 'element')
    text_embedding FixedSizeList(16 x non-null Float32, field: 'element')
    fused_embedding FixedSizeList(16 x non-null Float32, field: 'element')
    image_text_similarity Float32
    image_width Int32
    image_height Int32
    content_hash Utf8
    content_signature Utf8 not null
    caption_fingerprint Utf8 not null
    embedding_fingerprint Utf8 not null
    run_seq Int64 not null
    ");
    // Rows without text have no text embedding; the fused one exists for all, through the model's null token.
    let text = rows.vectors("text_embedding");
    assert!(text.iter().enumerate().all(|(row, vector)| vector.is_some() == (row % 3 == 0)));
    for column in ["image_embedding", "fused_embedding"] {
        for vector in rows.vectors(column) {
            let norm: f32 = vector.unwrap().iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-5, "{column} has squared norm {norm}");
        }
    }
    let captions = rows.text("caption");
    assert!(captions.iter().flatten().collect::<std::collections::BTreeSet<_>>().len() > 5, "{captions:?}");
}

#[test]
fn published_records_add_up_and_full_takes_every_row_again() {
    let workplace = Workplace::with_images(7, 3);
    workplace.run_ok(&[]);
    workplace.run_ok(&["--full"]);
    let runs = workplace.published("out");
    assert_eq!(runs.len(), 2);
    for (index, run) in runs.iter().enumerate() {
        let record = std::fs::read(workplace.path(&format!("out/_nightcap/published/{run}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["run"], *run);
        assert_eq!(record["run_seq"], index as i64 + 1);
        assert_eq!((&record["rows"], &record["ok"], &record["failed"]), (&7.into(), &7.into(), &0.into()));
        assert_eq!(workplace.rows("out", Some(run)).len(), 7);
    }
    let status = nightcap().arg("status").arg(workplace.path("out")).arg("--json").output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["runs"].as_array().unwrap().len(), 2);
    assert_eq!(status["runs"][1]["state"], "published");
    assert_eq!(status["runs"][1]["rows"], 7);
}

#[test]
fn batch_sizes_give_the_same_captions_and_vectors() {
    let workplace = Workplace::with_images(33, 40);
    for size in ["1", "7", "32"] {
        workplace.run_ok(&["--run-id", &format!("b{size}"), "--full", "--set", &format!("runtime.batch_size={size}")]);
    }
    let reference = workplace.rows("out", Some("b1"));
    for size in ["b7", "b32"] {
        let rows = workplace.rows("out", Some(size));
        assert_eq!(rows.text("caption"), reference.text("caption"), "{size}");
        assert_eq!(rows.text("content_signature"), reference.text("content_signature"));
        for column in ["image_embedding", "text_embedding", "fused_embedding"] {
            let difference = largest_difference(&rows.vectors(column), &reference.vectors(column));
            assert!(difference < 1e-5, "{column} at {size} differs by {difference}");
        }
    }
}

#[test]
fn shards_make_the_parts_of_one_run_byte_for_byte() {
    let workplace = Workplace::with_images(23, 3);
    workplace.run_ok(&["--run-id", "whole", "--set", "output.path=whole"]);
    let expected = workplace.parts("whole", "whole");
    assert_eq!(expected.len(), 8);
    for shard in ["2/3", "0/3"] {
        workplace.run_ok(&["--run-id", "whole", "--shard", shard]);
    }
    assert!(workplace.published("out").is_empty(), "shards never publish");
    let finalize =
        || nightcap().arg("finalize").arg(workplace.path("out")).args(["--run-id", "whole"]).output().unwrap();
    let early = finalize();
    assert_eq!(early.status.code(), Some(75));
    let message = String::from_utf8(early.stderr).unwrap();
    assert!(message.contains("5 of 8 parts") && message.contains("run=whole/part-000001.parquet"), "{message}");
    let last = workplace
        .command("run", &["--run-id", "whole", "--shard", "/3"])
        .env("JOB_COMPLETION_INDEX", "1")
        .output()
        .unwrap();
    assert!(last.status.success());
    assert!(finalize().status.success());
    assert_eq!(workplace.published("out"), ["whole"]);
    assert!(workplace.parts("out", "whole") == expected, "the parts differ from those of one process");
}

#[test]
fn one_seven_and_sixty_four_shards_make_the_same_parts() {
    let workplace = Workplace::with_images(70, 1);
    let parts = |shards: u32| {
        let output = format!("shards-{shards}");
        let setting = format!("output.path={output}");
        for shard in 0..shards {
            workplace.run_ok(&["--run-id", "night", "--shard", &format!("{shard}/{shards}"), "--set", &setting]);
        }
        workplace.parts(&output, "night")
    };
    let expected = parts(1);
    assert_eq!(expected.len(), 70);
    assert!(parts(7) == expected && parts(64) == expected);
}

#[test]
fn where_limit_and_columns_choose_rows_and_columns() {
    let workplace = Workplace::with_images(30, 4);
    let filter = "input.where=\"title IS NOT NULL AND id >= 'row-0006'\"";
    workplace.run_ok(&["--set", filter, "--limit", "5", "--set", "output.columns=[\"title\"]"]);
    let rows = workplace.rows("out", None);
    let ids: Vec<_> = [6, 9, 12, 15, 18].iter().map(|row| Some(format!("row-{row:04}"))).collect();
    assert_eq!(rows.text("id"), ids);
    let names: Vec<_> = rows.0.schema().fields().iter().take(3).map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "title", "status"], "the key is carried in any case");
}

#[test]
fn images_may_be_paths_bytes_or_structs_over_several_files_with_the_same_results() {
    let workplace = Workplace::with_images(10, 4);
    workplace.run_ok(&["--run-id", "paths", "--set", "output.path=paths"]);
    let ids = |rows: std::ops::Range<u32>| strings(rows.map(|row| Some(format!("row-{row:04}"))));
    let titles = |rows: std::ops::Range<u32>| {
        strings(rows.map(|row| (row % 3 == 0).then(|| format!("a dog on the beach {row}"))))
    };
    for (file, range) in [("a.parquet", 0..6), ("b.parquet", 6..10)] {
        let images: Vec<Vec<u8>> = range.clone().map(png_image).collect();
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(images.iter()));
        std::fs::create_dir_all(workplace.path("bytes")).unwrap();
        let columns = vec![("id", ids(range.clone())), ("image", bytes.clone()), ("title", titles(range.clone()))];
        write_parquet(&workplace.path(&format!("bytes/{file}")), columns, 2);
        // The struct: bytes in the first file, paths only in the second.
        let inline: ArrayRef = if file == "a.parquet" { bytes } else { Arc::new(BinaryArray::new_null(range.len())) };
        let path: ArrayRef =
            Arc::new(StringArray::from_iter_values(range.clone().map(|row| format!("../photos/{row}.png"))));
        let fields = vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)];
        let both: ArrayRef = Arc::new(StructArray::new(fields.into(), vec![inline, path], None));
        std::fs::create_dir_all(workplace.path("structs")).unwrap();
        let columns = vec![("id", ids(range.clone())), ("image", both), ("title", titles(range))];
        write_parquet(&workplace.path(&format!("structs/{file}")), columns, 100);
    }
    let reference = workplace.rows("paths", None);
    for (form, manifest) in
        [("bytes", "\"bytes/*.parquet\""), ("structs", "[\"structs/a.parquet\", \"structs/b.parquet\"]")]
    {
        let (output, manifest) = (format!("output.path={form}-out"), format!("input.manifest={manifest}"));
        workplace.run_ok(&["--set", &output, "--set", &manifest]);
        let rows = workplace.rows(&format!("{form}-out"), None);
        for column in ["id", "caption", "content_hash"] {
            assert_eq!(rows.text(column), reference.text(column), "{form}: {column}");
        }
        assert_eq!(rows.vectors("fused_embedding"), reference.vectors("fused_embedding"), "{form}");
        assert!(!rows.has("image"), "image bytes are not carried");
    }
}

#[test]
fn equal_images_have_equal_results_and_keys_may_be_integers() {
    let workplace = Workplace::with_images(3, 100);
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
    let images = strings((0..40).map(|row| Some(format!("photos/{}.png", row % 3))));
    let titles = strings((0..40).map(|row| (row % 2 == 0).then_some("two children play")));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", keys), ("image", images), ("title", titles)], 100);
    let run =
        workplace.command("run", &["--log-format", "json"]).env("NIGHTCAP_LOG", "nightcap=debug").output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    let events = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let encoded: Vec<_> = events.filter_map(|event| event["encoded_images"].as_u64()).collect();
    assert_eq!(encoded, [3], "40 rows hold 3 images");
    let rows = workplace.rows("out", None);
    let (captions, vectors) = (rows.text("caption"), rows.vectors("image_embedding"));
    for row in 6..40 {
        assert_eq!(captions[row], captions[row - 6], "row {row} has the image and text of row {}", row - 6);
        assert_eq!(vectors[row], vectors[row - 3], "row {row} has the image of row {}", row - 3);
    }
}

#[test]
fn a_job_without_images_embeds_texts_in_the_same_space() {
    let workplace = Workplace::with_images(9, 4);
    workplace.run_ok(&["--set", "output.path=images"]);
    let images = workplace.rows("images", None);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("image = \"image\"\n", "");
    workplace.job(&job);
    workplace.run_ok(&["--set", "output.path=texts", "--set", "limits.max_failed_fraction=1.0"]);
    let texts = workplace.rows("texts", None);
    assert!(!texts.has("caption") && !texts.has("image_embedding") && !texts.has("content_hash"));
    for row in 0..9 {
        let (status, kind) = (&texts.text("status")[row], &texts.text("error_kind")[row]);
        if row % 3 == 0 {
            assert_eq!(status.as_deref(), Some("ok"));
        } else {
            assert_eq!((status.as_deref(), kind.as_deref()), (Some("failed"), Some("null_input")));
        }
    }
    assert!(largest_difference(&texts.vectors("text_embedding"), &images.vectors("text_embedding")) < 1e-5);
}

#[test]
fn half_precision_vectors_are_the_rounded_ones() {
    let workplace = Workplace::with_images(4, 4);
    workplace.run_ok(&["--set", "output.path=f32"]);
    workplace.run_ok(&["--set", "output.path=f16", "--set", "embedding.dtype=f16"]);
    let (full, half) = (workplace.rows("f32", None), workplace.rows("f16", None));
    let widened =
        arrow::compute::cast(half.column("image_embedding"), full.column("image_embedding").data_type()).unwrap();
    let half =
        crate::common::Rows(arrow::record_batch::RecordBatch::try_from_iter([("image_embedding", widened)]).unwrap());
    let difference = largest_difference(&half.vectors("image_embedding"), &full.vectors("image_embedding"));
    assert!(difference > 0.0 && difference < 1e-3, "{difference}");
}

#[test]
fn an_empty_selection_makes_no_run() {
    let workplace = Workplace::with_images(3, 3);
    for nothing in [&["--set", "input.where=\"id = 'nobody'\""][..], &["--limit", "0"]] {
        workplace.run_ok(nothing);
    }
    assert!(!workplace.path("out/_nightcap").exists());
}

#[test]
fn one_model_writes_captions_and_another_the_vectors() {
    let workplace = Workplace::with_images(7, 3);
    let captioner = format!("model.path={}", repo("tests/fixtures/models/vit_gpt2").display());
    let embedder = format!("embedding.model={}", repo("tests/fixtures/tiny_model").display());
    workplace.run_ok(&["--set", "output.path=vectors", "--set", "generation.enabled=false"]);
    workplace.run_ok(&["--set", "output.path=captions", "--set", &captioner]);
    workplace.run_ok(&["--set", "output.path=both", "--set", &captioner, "--set", &embedder]);
    let [vectors, captions, both] = ["vectors", "captions", "both"].map(|output| workplace.rows(output, None));
    for column in ["caption", "caption_finish", "caption_fingerprint"] {
        assert_eq!(both.text(column), captions.text(column), "{column}");
    }
    for column in ["image_embedding", "text_embedding", "fused_embedding"] {
        assert_eq!(both.vectors(column), vectors.vectors(column), "{column}");
    }
    assert_eq!(
        both.text("embedding_fingerprint"),
        vectors.text("embedding_fingerprint"),
        "one space, whoever captions"
    );
    let similarity = both.column("caption_similarity").as_primitive::<Float32Type>();
    assert!(!captions.has("caption_similarity") && similarity.iter().flatten().all(|cosine| cosine.abs() <= 1.0));
    assert_eq!(similarity.null_count(), 0);

    // Scores alone are the other model's as well, and bear its fingerprint.
    let none = ["image", "text", "fused"].map(|vector| format!("embedding.{vector}=false"));
    let mut arguments = vec!["--set", "output.path=scores", "--set", &captioner, "--set", &embedder];
    arguments.extend(none.iter().flat_map(|setting| ["--set", setting.as_str()]));
    workplace.run_ok(&arguments);
    let scores = workplace.rows("scores", None);
    assert!(scores.has("caption_similarity") && !scores.has("image_embedding"));
    assert_eq!(scores.text("embedding_fingerprint"), both.text("embedding_fingerprint"));

    let refused =
        workplace.run(&["--set", "output.path=none", "--set", &embedder, "--set", "generation.enabled=false"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("name the model for the vectors in `[model]`"), "{said}");
}
