//! Tar shards as webdataset and img2dataset write them, and folders of `datasets.save_to_disk`: rows as their own packages read them,
//! images read in place.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::record_batch::RecordBatch;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::common::{Rows, Workplace, nightcap, png_image, read_parquet, repo, said};
use crate::manifest_command::manifest;
use crate::seaweed::{Seaweed, with_s3};

const SHARDS: &str = "tests/goldens/manifests/shards";

/// A workplace with copies of these shards in `shards/`, and a job on `input`.
fn workplace(shards: &[&str], input: &str) -> Workplace {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("shards")).unwrap();
    for shard in shards {
        std::fs::copy(repo(SHARDS).join(shard), workplace.path("shards").join(shard)).unwrap();
    }
    job(&workplace, input);
    workplace
}

fn job(workplace: &Workplace, input: &str) {
    workplace.job(&format!(
        "[input]\nmanifest = {input}\nkey = \"key\"\nimage = \"image\"\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n[runtime]\nbatch_size = 4\nthreads = 1\n",
        repo("tests/fixtures/tiny_model").display()
    ));
}

/// What webdataset reads from a shard.
fn samples(shard: &str) -> Vec<BTreeMap<String, String>> {
    let read: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/goldens/manifests/shards.json")).unwrap()).unwrap();
    serde_json::from_value(read[shard].clone()).unwrap()
}

fn newest(workplace: &Workplace) -> Rows {
    let published = workplace.published("out");
    workplace.rows("out", published.last().map(String::as_str))
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = arrow::compute::cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

/// The bytes that `FILE#bytes=FIRST-LAST` names, by the meaning of the `Range` header.
fn part(folder: &Path, text: &str) -> Vec<u8> {
    let (file, range) = text.rsplit_once("#bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let bytes = std::fs::read(folder.join(file)).unwrap();
    bytes[first.parse().unwrap()..=last.parse().unwrap()].to_vec()
}

/// Every member of every sample comes out as webdataset reads it: keys, images, texts.
#[test]
fn samples_are_those_of_webdataset() {
    for shard in ["pairs-00000.tar", "pairs-00001.tar", "odd-pax.tar", "odd-gnu.tar", "ustar.tar"] {
        let workplace = workplace(&[shard], "\"unused\"");
        let made = manifest(&workplace, &[&format!("shards/{shard}"), "-o", "m.parquet"]).output().unwrap();
        assert!(made.status.success(), "{shard}: {}", said(&made));
        let rows = read_parquet(&workplace.path("m.parquet"));
        let expected = samples(shard);
        let keys: Vec<_> = expected.iter().map(|sample| Some(sample["__key__"].clone())).collect();
        assert_eq!(texts(&rows, "key"), keys, "{shard}");
        let stem = shard.strip_suffix(".tar").unwrap();
        let of_shard = |key: &Option<String>| key.as_ref().map(|key| format!("{stem}/{key}"));
        assert_eq!(texts(&rows, "shard_key"), keys.iter().map(of_shard).collect::<Vec<_>>(), "{shard}");
        let mut images = 0;
        for (row, sample) in expected.iter().enumerate() {
            let bytes = |member: &str| sample.get(member).map(|text| STANDARD.decode(text).unwrap());
            // The first of several.
            let plain = ["png", "jpeg"].into_iter().find_map(bytes).filter(|bytes| !bytes.is_empty());
            let found =
                |column: &str| texts(&rows, column)[row].as_ref().map(|text| part(workplace.folder.path(), text));
            assert_eq!(found("image"), plain, "{shard} {row}");
            images += usize::from(plain.is_some());
            for column in ["left.png", "right.png"] {
                if bytes(column).is_some() || rows.column_by_name(column).is_some() {
                    assert_eq!(found(column), bytes(column), "{shard} {row}");
                }
            }
            if let Some(text) = bytes("txt") {
                assert_eq!(
                    texts(&rows, "text")[row].as_deref(),
                    Some(std::str::from_utf8(&text).unwrap()),
                    "{shard} {row}"
                );
            }
            if let Some(Ok(Value::Object(fields))) = bytes("json").map(|json| serde_json::from_slice::<Value>(&json)) {
                for (name, value) in &fields {
                    let name = match name.as_str() {
                        "key" if *value == sample["__key__"].as_str() => continue,
                        "caption" if *value == texts(&rows, "text")[row].as_deref().unwrap() => continue,
                        "key" | "image" | "shard_key" | "status" | "error_message" => format!("json_{name}"),
                        name => name.to_owned(),
                    };
                    let text = match value {
                        Value::Null => None,
                        Value::String(text) => Some(text.clone()),
                        value => Some(value.to_string()),
                    };
                    assert_eq!(texts(&rows, &name)[row], text, "{shard} {row} {name}");
                }
            }
        }
        assert!(images > 1, "{shard}");
        assert!(rows.column_by_name("json_caption").is_none() && rows.column_by_name("json_text").is_none(), "{shard}");
    }
}

#[test]
fn columns_of_img2dataset() {
    let workplace = workplace(&["pairs-00000.tar", "pairs-00001.tar"], "\"shards\"");
    // Beside each shard it writes what it knows about its images.
    for name in ["pairs-00000.parquet", "pairs-00001.parquet", "pairs-00000_stats.json"] {
        std::fs::write(workplace.path("shards").join(name), "none of these is read").unwrap();
    }
    let set = |setting: &str| vec!["--set".to_owned(), setting.to_owned()];
    let text = set("input.text=text");
    workplace.run_ok(&text.iter().map(String::as_str).collect::<Vec<_>>());
    let rows = newest(&workplace);
    assert_eq!(rows.text("status"), vec![Some("ok".to_owned()); 5]);
    assert_eq!(rows.text("key"), (0..5).map(|key| Some(format!("{key:09}"))).collect::<Vec<_>>());
    assert_eq!(rows.text("text"), (0..5).map(|key| Some(format!("picture {key}"))).collect::<Vec<_>>());
    assert_eq!(rows.text("url")[4].as_deref(), Some("https://example.org/4.png?a=1"));
    assert_eq!(rows.column("width").as_primitive::<Int64Type>().values(), &[8; 5]);
    let similarity = rows.column("similarity").as_primitive::<Float64Type>();
    assert_eq!(similarity.iter().collect::<Vec<_>>(), [Some(0.0), None, Some(0.25), Some(0.375), Some(0.5)]);
    // Only the samples of the second shard say this.
    let late = rows.column("late").as_boolean();
    assert_eq!(late.iter().collect::<Vec<_>>(), [None, None, None, Some(true), Some(true)]);
    let hash = |shard: &str, row: usize| {
        let bytes = STANDARD.decode(&samples(shard)[row]["png"]).unwrap();
        Some(blake3::hash(&bytes).to_hex().to_string())
    };
    assert_eq!(rows.text("content_hash")[..2], [hash("pairs-00000.tar", 0), hash("pairs-00000.tar", 1)]);
    assert_eq!(rows.text("content_hash")[4], hash("pairs-00001.tar", 1));
    assert_eq!(rows.column("image_width").as_primitive::<arrow::datatypes::Int32Type>().values(), &[8; 5]);
    let again = workplace.run(&text.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said(&again).contains("nothing is new"), "{}", said(&again));
}

/// Every way to name shards, and what is new on another night.
#[test]
fn shards_by_name_glob_braces_list_and_manifest() {
    let workplace = workplace(&["pairs-00000.tar", "pairs-00001.tar"], "\"shards\"");
    let run = |arguments: &[&str]| {
        let ran = workplace.run(arguments);
        assert!(ran.status.success(), "{arguments:?}: {}", said(&ran));
        said(&ran)
    };
    run(&[]);
    let shown: Vec<_> = newest(&workplace).text("caption");
    for (input, rows) in [
        ("shards/*.tar", 5),
        ("shards/pairs-{00000..00001}.tar", 5),
        ("shards/pairs-0000{0,1}.t[a]r", 5),
        ("[\"shards/pairs-00001.tar\", \"shards/pairs-00000.tar\"]", 5),
        ("shards/pairs-00001.tar", 2),
    ] {
        let said = run(&["--set", &format!("input.manifest={input}")]);
        assert!(said.contains("nothing is new"), "{input}: {said}");
        let planned =
            workplace.command("plan", &["--set", &format!("input.manifest={input}"), "--full"]).output().unwrap();
        let planned = String::from_utf8(planned.stdout).unwrap();
        assert!(planned.contains(&format!("{rows} ")), "{input}: {planned}");
    }
    let missing = workplace.run(&["--set", "input.manifest=shards/pairs-{00000..00002}.tar"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(said(&missing).contains("shards/pairs-00002.tar"), "{}", said(&missing));
    // `init` finds the columns.
    let init = |source: &str, job: &str| {
        let mut command = nightcap();
        let model = repo("tests/fixtures/tiny_model");
        command.args(["init", source, "-o", job, "--model"]).arg(model).current_dir(workplace.folder.path());
        let made = command.output().unwrap();
        assert!(made.status.success(), "{source}: {}", said(&made));
        std::fs::read_to_string(workplace.path(job)).unwrap()
    };
    for (source, job) in [("shards", "a.toml"), ("shards/pairs-{00000..00001}.tar", "b.toml")] {
        let made = init(source, job);
        for line in [
            format!("manifest = {source:?}"),
            "key = \"key\"".into(),
            "image = \"image\"".into(),
            "text = \"text\"".into(),
        ] {
            assert!(made.contains(&line), "{line}: {made}");
        }
    }
    // A manifest of them, which is written once.
    let made = manifest(&workplace, &["shards", "-o", "m.parquet"]).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let images = texts(&read_parquet(&workplace.path("m.parquet")), "image");
    assert!(images[0].as_deref().unwrap().starts_with("shards/pairs-00000.tar#bytes="), "{images:?}");
    let unchanged = manifest(&workplace, &["shards", "-o", "m.parquet"]).output().unwrap();
    assert!(said(&unchanged).contains("unchanged"), "{}", said(&unchanged));
    run(&["--set", "input.manifest=m.parquet", "--set", "output.path=other"]);
    let others = workplace.rows("other", workplace.published("other").last().map(String::as_str));
    assert_eq!(others.text("caption"), shown);
    // Another version of a shard.
    std::fs::copy(repo(SHARDS).join("pairs-00001.tar"), workplace.path("shards/pairs-00001.tar")).unwrap();
    let file = std::fs::File::options().write(true).open(workplace.path("shards/pairs-00001.tar")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(10)).unwrap();
    run(&[]);
    assert_eq!(newest(&workplace).text("key"), ["000000003", "000000004"].map(|key| Some(key.to_owned())));
}

#[test]
fn samples_without_an_image_fail_and_others_do_not() {
    let workplace = workplace(&["odd-pax.tar", "empty.tar"], "\"shards\"");
    let ran = workplace.run(&["--set", "input.on_duplicate_key=first"]);
    assert!(ran.status.success(), "{}", said(&ran));
    let left_out = said(&ran);
    for what in ["2 links", "1 .npy", "1 further images", "folders", "without an extension"] {
        assert!(left_out.contains(what), "{what}: {left_out}");
    }
    let rows = newest(&workplace);
    let kinds: BTreeMap<_, _> = rows.text("key").into_iter().flatten().zip(rows.text("error_kind")).collect();
    let failed: Vec<_> = kinds.iter().filter(|(_, kind)| kind.is_some()).map(|(key, _)| key.as_str()).collect();
    assert_eq!(failed, ["train/empty-image", "train/no-image", "train/second"]);
    assert!(kinds.values().flatten().all(|kind| kind == "null_input"));
    assert_eq!(rows.column("cls").as_primitive::<Int64Type>().value(0), 7);
}

#[test]
fn archives_that_are_no_shards_are_refused_in_words() {
    let workplace =
        workplace(&["twice.tar", "apart.tar", "sparse-gnu.tar", "sparse-pax.tar", "pairs-00000.tar"], "\"x\"");
    let whole = std::fs::read(workplace.path("shards/pairs-00000.tar")).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(workplace.path("shards").join(name), bytes).unwrap();
    let member = samples("pairs-00000.tar")[0]["png"].len() * 3 / 4;
    put("cut-in-a-member.tar", &whole[..512 + member / 2]);
    put("cut-in-a-header.tar", &whole[..700]);
    put("nothing.tar", b"");
    put("no-archive.tar", &b"this is no archive. ".repeat(100));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&whole).unwrap();
    let gzip = encoder.finish().unwrap();
    put("named.tar.gz", &gzip);
    put("not-named.tar", &gzip);
    let mut bad = whole.clone();
    let text = bad.windows(9).position(|bytes| bytes == b"picture 0").unwrap();
    bad[text] = 0xff;
    put("not-utf8.tar", &bad);
    for (shard, expected) in [
        ("twice.tar", "expected one member .png of the sample a, found two, the second of them a.PNG"),
        ("apart.tar", "found a.txt apart from others of its key"),
        ("sparse-gnu.tar", "found the sparse member a.png"),
        ("sparse-pax.tar", "found the sparse member"),
        ("cut-in-a-member.tar", "found the end of the archive"),
        ("nothing.tar", "found an empty file"),
        ("no-archive.tar", "expected a whole tar archive"),
        ("named.tar.gz", "found one compressed by gzip"),
        ("not-named.tar", "found one compressed by gzip"),
        ("not-utf8.tar", "expected UTF-8"),
    ] {
        let refused = workplace.run(&["--set", &format!("input.manifest=shards/{shard}")]);
        assert_eq!(refused.status.code(), Some(2), "{shard}: {}", said(&refused));
        assert!(said(&refused).contains(expected), "{shard}: {}", said(&refused));
        assert!(said(&refused).contains(shard) && said(&refused).len() < 1500, "{shard}: {}", said(&refused));
    }
    let refused = workplace.run(&["--set", "input.manifest=shards/cut-in-a-header.tar"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}

/// An archive that is another one when its images are read.
#[test]
fn an_archive_that_shrinks_fails_its_rows() {
    let workplace = workplace(&["pairs-00000.tar"], "\"m.parquet\"");
    assert!(manifest(&workplace, &["shards/pairs-00000.tar", "-o", "m.parquet"]).status().unwrap().success());
    let whole = std::fs::read(workplace.path("shards/pairs-00000.tar")).unwrap();
    std::fs::write(workplace.path("shards/pairs-00000.tar"), &whole[..1000]).unwrap();
    let ran = workplace.run(&["--set", "limits.max_failed_fraction=1"]);
    assert!(ran.status.success(), "{}", said(&ran));
    let rows = newest(&workplace);
    let kinds = rows.text("error_kind");
    assert_eq!(kinds[1..], ["not_found", "not_found"].map(|kind| Some(kind.to_owned())));
    assert!(rows.text("error_message")[1].as_deref().unwrap().contains("found a file of 1000 bytes"));
    // Another root, and too large.
    std::fs::write(workplace.path("shards/pairs-00000.tar"), &whole).unwrap();
    let strict = [
        "--set",
        "limits.roots=[\"elsewhere\"]",
        "--set",
        "output.path=strict",
        "--set",
        "limits.max_failed_fraction=1",
    ];
    std::fs::create_dir(workplace.path("elsewhere")).unwrap();
    workplace.run_ok(&strict);
    let rows = workplace.rows("strict", None);
    assert_eq!(rows.text("error_kind"), vec![Some("forbidden".to_owned()); 3]);
    workplace.run_ok(&[
        "--set",
        "limits.max_image_bytes=10",
        "--set",
        "output.path=small",
        "--set",
        "limits.max_failed_fraction=1",
    ]);
    assert_eq!(workplace.rows("small", None).text("error_kind"), vec![Some("too_large".to_owned()); 3]);
}

/// A workplace with a copy of a folder of `save_to_disk` as `data`.
fn saved(folder: &str) -> Workplace {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if path.is_dir() {
                copy(&path, &to);
            } else {
                std::fs::copy(path, to).unwrap();
            }
        }
    }
    let workplace = Workplace::new();
    copy(&repo("tests/goldens/manifests/datasets").join(folder), &workplace.path("data"));
    job(&workplace, "\"data\"");
    workplace
}

/// What `datasets` reads from a folder.
fn saved_rows(folder: &str) -> Vec<Value> {
    let read: Value =
        serde_json::from_slice(&std::fs::read(repo("tests/goldens/manifests/datasets.json")).unwrap()).unwrap();
    read[folder].as_array().unwrap().clone()
}

#[test]
fn folders_of_save_to_disk_are_those_of_datasets() {
    for folder in ["one", "three", "splits/train", "splits/test"] {
        let workplace = saved(folder);
        // A cache that `datasets` leaves behind is no part of the data set.
        std::fs::write(workplace.path("data/cache-0123456789abcdef.arrow"), "not read").unwrap();
        let expected = saved_rows(folder);
        let settings = ["--set", "input.key=id", "--set", "input.text=title", "--set", "limits.max_failed_fraction=1"];
        workplace.run_ok(&settings);
        let rows = newest(&workplace);
        let texts = |name: &str| expected.iter().map(|row| row[name].as_str().map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(rows.text("id"), texts("id"), "{folder}");
        assert_eq!(rows.text("title"), texts("title"), "{folder}");
        let labels: Vec<_> = expected.iter().map(|row| row["label"].as_i64().unwrap()).collect();
        assert_eq!(rows.column("label").as_primitive::<Int64Type>().values(), &labels, "{folder}");
        let tags = rows.column("tags").as_list::<i32>();
        let tags = tags
            .iter()
            .map(|tags| tags.unwrap().as_string::<i32>().iter().map(|tag| tag.unwrap().into()).collect::<Vec<Value>>());
        assert_eq!(
            tags.map(Value::from).collect::<Vec<_>>(),
            expected.iter().map(|row| row["tags"].clone()).collect::<Vec<_>>()
        );
        let raw = rows.column("raw").as_binary::<i32>();
        let raw = raw.iter().map(|raw| STANDARD.encode(raw.unwrap())).map(Value::from);
        assert_eq!(raw.collect::<Vec<_>>(), expected.iter().map(|row| row["raw"].clone()).collect::<Vec<_>>());
        let images = rows.text("image");
        for (row, expected) in expected.iter().enumerate() {
            let bytes = expected["image"]["bytes"].as_str().map(|text| STANDARD.decode(text).unwrap());
            let found = images[row].as_deref().map(|text| part(Path::new("/"), text));
            assert_eq!(found, bytes, "{folder} {row}");
            let hash = bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string());
            assert_eq!(rows.text("content_hash")[row], hash, "{folder} {row}");
            assert_eq!(rows.text("status")[row].as_deref(), Some(if hash.is_some() { "ok" } else { "failed" }));
        }
        let again = workplace.run(&settings);
        assert!(said(&again).contains("nothing is new"), "{}", said(&again));
    }
}

#[test]
fn folders_of_save_to_disk_that_are_refused() {
    let workplace = saved("splits");
    let key = ["--set", "input.key=id"];
    let refused = |expected: &str| {
        let refused = workplace.run(&key);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(expected), "{expected}: {}", said(&refused));
    };
    refused("data holds the splits train, test of a data set");
    job(&workplace, "[\"data/train\", \"data/test\"]");
    workplace.run_ok(&["--set", "input.key=id", "--set", "limits.max_failed_fraction=1"]);
    assert_eq!(newest(&workplace).text("id").len(), 5);
    // Files without images, and files that are no whole Arrow.
    job(&workplace, "\"data/train\"");
    let arrow = workplace.path("data/train/data-00000-of-00001.arrow");
    let whole = std::fs::read(&arrow).unwrap();
    for (length, expected) in
        [(0, "found an empty file"), (6, "whole message"), (1000, "whole message"), (1900, "whole message")]
    {
        std::fs::write(&arrow, &whole[..length]).unwrap();
        refused(expected);
    }
    std::fs::write(&arrow, b"this is no arrow").unwrap();
    refused("expected a message of Arrow IPC");
    std::fs::remove_file(&arrow).unwrap();
    refused("data-00000-of-00001.arrow");
    std::fs::write(workplace.path("data/train/state.json"), r#"{"_data_files": [{"filename": "../../secret.arrow"}]}"#)
        .unwrap();
    refused("expected the names of files in this folder");
}

/// Every kind of manifest that is no Parquet file gives the same rows on S3 as on disk, images inside of archives included.
#[test]
fn every_kind_of_manifest_on_s3() {
    let server = Seaweed::shared();
    let workplace = workplace(&["pairs-00000.tar", "pairs-00001.tar"], "\"unused\"");
    let put = |name: &str, bytes: &[u8]| {
        let path = workplace.path("kinds").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    std::fs::create_dir(workplace.path("kinds")).unwrap();
    std::fs::rename(workplace.path("shards"), workplace.path("kinds/shards")).unwrap();
    std::fs::rename(saved("three").path("data"), workplace.path("kinds/data")).unwrap();
    std::fs::rename(saved("splits").path("data"), workplace.path("kinds/splits")).unwrap();
    for (row, name) in ["a.png", "deep/b c.png"].iter().enumerate() {
        put(&format!("photos/{name}"), &png_image(row as u32));
        put(&format!("imagefolder/{name}"), &png_image(row as u32));
    }
    put("m.csv", b"id,image\n007,photos/a.png\n008,photos/deep/b c.png\n");
    put(
        "m.jsonl",
        b"{\"id\": \"1\", \"image\": \"photos/a.png\"}\n{\"id\": \"2\", \"image\": \"photos/deep/b c.png\"}\n",
    );
    put("imagefolder/metadata.csv", b"file_name,label\na.png,x\ndeep/b c.png,y\n");
    server.upload(&workplace.path("kinds"), "kinds");
    for (number, (manifest, key, image, count)) in [
        ("shards", "key", "image", 5),
        ("shards/", "shard_key", "image", 5),
        ("shards/*.tar", "key", "image", 5),
        ("shards/pairs-{00000..00001}.tar", "key", "image", 5),
        ("shards/pairs-00001.tar", "key", "image", 2),
        ("data", "id", "image", 5),
        ("data/data-00001-of-00003.arrow", "id", "image", 2),
        ("splits/test", "id", "image", 2),
        ("photos", "id", "image", 2),
        ("m.csv", "id", "image", 2),
        ("m.jsonl", "id", "image", 2),
        ("imagefolder", "file_name", "file_name", 2),
    ]
    .into_iter()
    .enumerate()
    {
        let run = |root: &str, output: &str| {
            let settings = [
                format!("input.manifest={root}/{manifest}"),
                format!("input.key={key}"),
                format!("input.image={image}"),
                format!("output.path={output}-{number}"),
                "limits.max_failed_fraction=1".to_owned(),
            ];
            let mut command = workplace.command("run", &[]);
            command.args(settings.iter().flat_map(|setting| ["--set", setting]));
            let ran = with_s3(&mut command, &server.endpoint()).output().unwrap();
            assert!(ran.status.success(), "{root}/{manifest}: {}", said(&ran));
            (workplace.rows(&format!("{output}-{number}"), None), said(&ran))
        };
        let ((local, _), (remote, _)) = (run("kinds", "local"), run("s3://night/kinds", "remote"));
        assert_eq!(local.len(), count, "{manifest}");
        for column in [key, "caption", "content_hash", "status", "error_kind"] {
            assert_eq!(local.text(column), remote.text(column), "{manifest} {column}");
        }
        assert!(local.text("status").iter().filter(|status| status.as_deref() == Some("ok")).count() > 0, "{manifest}");
        let (_, again) = run("s3://night/kinds", "remote");
        assert!(again.contains("nothing is new"), "{manifest}: {again}");
    }
    let mut command = manifest(&workplace, &["s3://night/kinds/shards", "-o", "m.parquet"]);
    let made = with_s3(&mut command, &server.endpoint()).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let images = texts(&read_parquet(&workplace.path("m.parquet")), "image");
    assert!(images[0].as_deref().unwrap().starts_with("s3://night/kinds/shards/pairs-00000.tar#bytes="), "{images:?}");
    let refused = |manifest: &str, expected: &str| {
        let mut command = workplace.command("run", &["--set", &format!("input.manifest=s3://night/kinds/{manifest}")]);
        let refused = with_s3(&mut command, &server.endpoint()).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(expected), "{manifest}: {}", said(&refused));
    };
    refused("splits", "holds the splits train, test");
    refused("shards/pairs-{00001..00002}.tar", "pairs-00002.tar");
}
