//! The same behaviour over local disk and S3: whole runs, resumes, two processes; and cases that only remote storage has.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};

use crate::common::{Workplace, nightcap, png_image, read_parquet, repo, strings, write_parquet};
use crate::proxy::{Fault, Proxy};
use crate::seaweed::{SECRET, Seaweed, with_s3};

/// Puts the files of `workplace` (manifest and images) below `prefix`, and gives the settings that read and write there.
pub fn on_s3(workplace: &Workplace, server: &Seaweed, prefix: &str) -> Vec<String> {
    server
        .put(&format!("{prefix}/manifest.parquet"), &std::fs::read(workplace.path("manifest.parquet")).unwrap())
        .unwrap();
    for entry in std::fs::read_dir(workplace.path("photos")).unwrap() {
        let entry = entry.unwrap();
        let key = format!("{prefix}/photos/{}", entry.file_name().to_str().unwrap());
        server.put(&key, &std::fs::read(entry.path()).unwrap()).unwrap();
    }
    let uri = format!("s3://night/{prefix}");
    vec![format!("input.manifest={uri}/manifest.parquet"), format!("output.path={uri}/out")]
}

/// `run` with settings, on S3.
pub fn run_command(workplace: &Workplace, endpoint: &str, settings: &[String], arguments: &[&str]) -> Command {
    let mut command = workplace.command("run", arguments);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    with_s3(&mut command, endpoint);
    command
}

pub fn run(workplace: &Workplace, server: &Seaweed, settings: &[String], arguments: &[&str]) -> Output {
    run_command(workplace, &server.endpoint(), settings, arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The rows of parts, without the columns that name where they came from.
pub fn captions(parts: &[(String, Vec<u8>)]) -> Vec<Option<String>> {
    use arrow::array::AsArray;
    let folder = tempfile::tempdir().unwrap();
    let mut captions = Vec::new();
    for (name, bytes) in parts.iter().filter(|(name, _)| name.ends_with(".parquet")) {
        let path = folder.path().join(name.replace('/', "-"));
        std::fs::write(&path, bytes).unwrap();
        let rows = read_parquet(&path);
        captions
            .extend(rows.column_by_name("caption").unwrap().as_string::<i32>().iter().map(|c| c.map(str::to_owned)));
    }
    captions
}

#[test]
fn a_whole_run_on_s3_is_the_local_one() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(20, 6));
    workplace.run_ok(&["--run-id", "night", "--set", "output.path=local"]);
    let settings = on_s3(&workplace, server, "whole");
    let outcome = run(&workplace, server, &settings, &["--run-id", "night"]);
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    let parts = server.objects("whole/out/run=night");
    assert_eq!(parts.len(), 4);
    assert_eq!(captions(&parts), captions(&workplace.parts("local", "night")));
    // The commands that take an OUTPUT take a URI.
    let mut status = nightcap();
    let status =
        with_s3(status.args(["status", "s3://night/whole/out", "--json"]), &server.endpoint()).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["runs"][0]["state"], &status["runs"][0]["ok"]), (&"published".into(), &20.into()));
    let mut plan = workplace.command("plan", &["--set", &settings[0], "--set", &settings[1]]);
    let plan = with_s3(&mut plan, &server.endpoint()).output().unwrap();
    assert!(text(&plan.stdout).contains("s3://night/whole/out"), "{}{}", text(&plan.stdout), text(&plan.stderr));
    // Run again: published already.
    assert_eq!(run(&workplace, server, &settings, &["--run-id", "night"]).status.code(), Some(0));
    // The plan keeps the manifest's URI and version.
    let plan: serde_json::Value =
        serde_json::from_slice(&server.get("whole/out/_nightcap/runs/night/plan.json").unwrap()).unwrap();
    assert_eq!(plan["manifest"][0]["uri"], "s3://night/whole/manifest.parquet");
    assert!(plan["manifest"][0]["version"].as_str().unwrap().contains('"'), "an ETag: {plan}");
}

#[test]
fn manifests_on_s3_by_folder_glob_and_predicate() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(12, 100));
    let mut settings = on_s3(&workplace, server, "globs");
    for half in 0..2 {
        let rows = half * 6..half * 6 + 6;
        let columns = vec![
            ("id", strings(rows.clone().map(|row| Some(format!("row-{row:04}"))))),
            ("image", strings(rows.clone().map(|row| Some(format!("../photos/{row}.png"))))),
            ("title", strings(rows.map(|row| (row % 3 == 0).then(|| format!("a dog on the beach {row}"))))),
        ];
        write_parquet(&workplace.path("half.parquet"), columns, 4);
        let bytes = std::fs::read(workplace.path("half.parquet")).unwrap();
        server.put(&format!("globs/halves/{half}.parquet"), &bytes).unwrap();
    }
    server.put("globs/halves/deeper/other.parquet", b"not for us").unwrap();
    for (index, manifest) in ["globs/halves", "globs/halves/*.parquet", "globs/halves/[01].parquet"].iter().enumerate()
    {
        settings[0] = format!("input.manifest=s3://night/{manifest}");
        settings[1] = format!("output.path=out-{index}");
        let outcome =
            run(&workplace, server, &settings, &["--set", "input.where=\"title IS NOT NULL AND id > 'row-0002'\""]);
        assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
        let rows = workplace.rows(&format!("out-{index}"), None);
        assert_eq!(rows.text("id"), ["row-0003", "row-0006", "row-0009"].map(|id| Some(id.to_owned())));
        assert!(rows.text("caption").iter().all(Option::is_some));
    }
    settings[0] = "input.manifest=s3://night/globs/nothing-*.parquet".to_owned();
    let refused = run(&workplace, server, &settings, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("no manifest file matches s3://night/globs/nothing-*.parquet"));
}

#[test]
fn a_manifest_on_s3_that_changes_while_it_is_read_is_noticed() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(30, 2));
    let settings = on_s3(&workplace, server, "changing");
    let killed = run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "night"])
        .env("NIGHTCAP_KILL_AT", "after_part:2")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed.stderr));
    let other = vec![("id", strings([Some("x")])), ("image", strings([Some("y")])), ("title", strings([Some("z")]))];
    write_parquet(&workplace.path("other.parquet"), other, 10);
    server.put("changing/manifest.parquet", &std::fs::read(workplace.path("other.parquet")).unwrap()).unwrap();
    let refused = run(&workplace, server, &settings, &["--run-id", "night"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("manifest has changed since run night was planned"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn credentials_are_never_shown() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(6, 3));
    let settings = on_s3(&workplace, server, "secrets");
    let refused = run(&workplace, server, &settings, &["--set", "storage.secret_access_key=abc"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("did you mean `secret_access_key_env`?"), "{}", text(&refused.stderr));
    // A job that names the variables, with nothing of the usual names set; and a presigned URL among the images.
    let proxy = Proxy::before(server.port());
    let url = format!("{}/night/secrets/photos/0.png?X-Amz-Signature={SECRET}", proxy.endpoint());
    proxy.spoil("GET", SECRET, Fault::Status(403, "AccessDenied"), 1);
    let columns = vec![
        ("id", strings([Some("a"), Some("b")])),
        ("image", strings([Some(url.as_str()), Some("s3://night/secrets/photos/1.png")])),
        ("title", strings([None::<&str>, None])),
    ];
    write_parquet(&workplace.path("presigned.parquet"), columns, 10);
    let mut command = workplace.command("run", &["--run-id", "named", "--set", "input.manifest=presigned.parquet"]);
    let settings = [
        settings[1].clone(),
        format!("storage.endpoint={}", server.endpoint()),
        "storage.region=us-east-1".to_owned(),
        "storage.access_key_id_env=MY_KEY".to_owned(),
        "storage.secret_access_key_env=MY_SECRET".to_owned(),
        "output.columns=[\"id\"]".to_owned(),
        "limits.min_failed_rows=100".to_owned(),
        "limits.allow_private_hosts=127.0.0.1".to_owned(),
    ];
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).env("NIGHTCAP_LOG", "trace");
    command.env("MY_KEY", crate::seaweed::ACCESS_KEY).env("MY_SECRET", SECRET);
    let outcome = command.output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    assert!(!text(&outcome.stderr).contains(SECRET), "in the log");
    assert_eq!(proxy.left(), 0, "the presigned URL was not read");
    let mut parts = 0;
    for (name, bytes) in server.objects("secrets/out") {
        // Parts are compressed: their rows are looked at.
        let shown = if name.ends_with(".parquet") {
            std::fs::write(workplace.path("part.parquet"), bytes).unwrap();
            parts += 1;
            format!("{:?}", read_parquet(&workplace.path("part.parquet")))
        } else {
            text(&bytes)
        };
        assert!(!shown.contains(SECRET), "in {name}");
    }
    assert_eq!(parts, 1);
    // Wrong credentials: refused before anything is written, in words.
    let mut wrong = workplace.command("run", &["--set", "input.manifest=s3://night/secrets/manifest.parquet"]);
    let wrong =
        with_s3(&mut wrong, &server.endpoint()).env("AWS_SECRET_ACCESS_KEY", format!("{SECRET}-not")).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let message = text(&wrong.stderr);
    assert!(
        message.contains("access denied (status 403)") && message.contains("hint: check the credentials"),
        "{message}"
    );
    assert!(!message.contains(SECRET), "{message}");
}

#[test]
fn a_profile_gives_credentials_and_endpoint() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(2, 2));
    let settings = on_s3(&workplace, server, "profile");
    std::fs::write(
        workplace.path("credentials"),
        format!("[night]\naws_access_key_id = {}\naws_secret_access_key = {SECRET}\n", crate::seaweed::ACCESS_KEY),
    )
    .unwrap();
    let config = format!(
        "[default]\nregion = nowhere\n[profile night]\nendpoint_url = {}\nregion = us-east-1\n",
        server.endpoint()
    );
    std::fs::write(workplace.path("config"), config).unwrap();
    let mut command = workplace.command("run", &["--set", &settings[0], "--set", &settings[1]]);
    let command = command.env("AWS_PROFILE", "night").env("AWS_CONFIG_FILE", workplace.path("config"));
    let outcome = command.env("AWS_SHARED_CREDENTIALS_FILE", workplace.path("credentials")).output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
}

#[test]
fn a_model_on_s3_is_fetched_once() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(3, 3));
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        let key = format!("model/{}", entry.file_name().to_str().unwrap());
        server.put(&key, &std::fs::read(entry.path()).unwrap()).unwrap();
    }
    workplace.run_ok(&["--run-id", "local", "--set", "output.path=local"]);
    let mut notices = Vec::new();
    for output in ["first", "second"] {
        let settings = ["model.path=s3://night/model".to_owned(), format!("output.path={output}")];
        let mut command = run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "local"]);
        let outcome = command.env("XDG_CACHE_HOME", workplace.path("cache")).output().unwrap();
        assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
        notices.push(text(&outcome.stderr).contains("fetching the model"));
        assert!(workplace.parts(output, "local") == workplace.parts("local", "local"), "another model");
    }
    assert_eq!(notices, [true, false]);
    let mut inspect = nightcap();
    let inspect = with_s3(inspect.args(["model", "inspect", "s3://night/model"]), &server.endpoint());
    let inspect = inspect.env("XDG_CACHE_HOME", workplace.path("cache")).output().unwrap();
    let said = text(&inspect.stdout);
    assert!(inspect.status.success() && said.contains("decoder"), "{said}{}", text(&inspect.stderr));
    assert_eq!(std::fs::read_dir(workplace.path("cache/nightcap/models")).unwrap().count(), 1, "nothing half-fetched");
}

#[test]
fn a_copy_of_a_model_that_somebody_changed_is_not_used() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(3, 3));
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        let key = format!("planted/{}", entry.file_name().to_str().unwrap());
        server.put(&key, &std::fs::read(entry.path()).unwrap()).unwrap();
    }
    workplace.run_ok(&["--run-id", "local", "--set", "output.path=local"]);
    let models = workplace.path("cache/nightcap/models");
    let run_into = |output: &str| {
        let settings = ["model.path=s3://night/planted".to_owned(), format!("output.path={output}")];
        let mut command = run_command(&workplace, &server.endpoint(), &settings, &["--run-id", "local"]);
        command.env("XDG_CACHE_HOME", workplace.path("cache")).output().unwrap()
    };
    let fetches = |output: &str, expected: bool| {
        let outcome = run_into(output);
        let said = text(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("fetching the model"), expected, "{said}");
        assert!(workplace.parts(output, "local") == workplace.parts("local", "local"), "{output}: another model");
        assert_eq!(std::fs::read_dir(&models).unwrap().count(), 1, "{output}: one copy and nothing else");
    };
    // a folder that was open to others becomes private
    std::fs::create_dir_all(&models).unwrap();
    std::fs::set_permissions(&models, std::fs::Permissions::from_mode(0o777)).unwrap();
    fetches("first", true);
    assert_eq!(std::fs::metadata(&models).unwrap().mode() & 0o777, 0o700);
    fetches("second", false);
    let entry = || std::fs::read_dir(&models).unwrap().next().unwrap().unwrap().path();
    let model = || entry().join("model");
    let plants: [(&str, &dyn Fn()); 6] = [
        ("a file more", &|| {
            std::fs::write(model().join("nightcap.toml"), "[graphs]\ntext = \"fusion.onnx\"\n").unwrap();
        }),
        ("another file", &|| {
            let file = model().join("decoder_with_past_model.onnx");
            let mut graph = std::fs::read(&file).unwrap();
            let place = graph.len() / 2;
            graph[place] ^= 0x40;
            std::fs::write(file, graph).unwrap();
        }),
        ("a file less", &|| std::fs::remove_file(model().join("generation_config.json")).unwrap()),
        ("a link", &|| {
            std::fs::rename(model().join("config.json"), workplace.path("config.json")).unwrap();
            std::os::unix::fs::symlink(workplace.path("config.json"), model().join("config.json")).unwrap();
        }),
        ("no index", &|| std::fs::remove_file(entry().join("index.json")).unwrap()),
        ("a link instead of the copy", &|| {
            let place = entry();
            std::fs::rename(&place, workplace.path("moved")).unwrap();
            std::os::unix::fs::symlink(workplace.path("moved"), place).unwrap();
        }),
    ];
    for (what, plant) in plants {
        plant();
        fetches(&what.replace(' ', "-"), true);
    }
    if std::fs::metadata(&models).unwrap().uid() == 0 {
        // a planted copy of another user, in a folder of this one
        std::os::unix::fs::chown(model().join("config.json"), Some(12345), None).unwrap();
        fetches("of-another-user", true);
        for folder in [&models, &workplace.path("cache/nightcap")] {
            std::os::unix::fs::chown(folder, Some(12345), None).unwrap();
            let refused = run_into("refused");
            let said = text(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains("must be a folder of this user (0); found a folder of user 12345"), "{said}");
            std::os::unix::fs::chown(folder, Some(0), None).unwrap();
        }
    } else {
        eprintln!("skipped: only root can give a folder to another user");
    }
    std::fs::rename(&models, workplace.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(workplace.path("elsewhere"), &models).unwrap();
    let refused = run_into("refused");
    assert!(text(&refused.stderr).contains("found no folder"), "{}", text(&refused.stderr));
}

#[test]
fn row_groups_larger_than_a_request_are_read_in_windows() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(1, 100));
    let settings = on_s3(&workplace, server, "windows");
    let bitmap = |row: u8| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let image = image::RgbImage::from_fn(540, 432, |x, y| image::Rgb([row * 6, (x / 3) as u8, (y / 2) as u8]));
        image.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
        bytes.into_inner()
    };
    let images: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..40).map(bitmap)));
    let columns = || {
        let titles = strings((0..40).map(|row| (row > 30).then(|| format!("a dog {row}"))));
        vec![("id", strings((0..40).map(|row| Some(row.to_string())))), ("image", images.clone()), ("title", titles)]
    };
    write_parquet(&workplace.path("manifest.parquet"), columns(), 1000);
    let bytes = std::fs::read(workplace.path("manifest.parquet")).unwrap();
    assert!(bytes.len() > 20_000_000, "one row group of several windows");
    server.put("windows/manifest.parquet", &bytes).unwrap();
    workplace.run_ok(&["--run-id", "local", "--set", "output.path=local"]);
    let outcome = run(&workplace, server, &settings[..1], &["--run-id", "remote"]);
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    let (local, remote) = (workplace.rows("local", Some("local")), workplace.rows("out", Some("remote")));
    assert_eq!(remote.text("content_hash"), local.text("content_hash"));
    assert_eq!(remote.text("caption"), local.text("caption"));
}

#[test]
fn a_manifest_on_a_web_server() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(4, 2));
    on_s3(&workplace, server, "website");
    let manifest = format!("http://127.0.0.1:{}/buckets/night/website/manifest.parquet", server.filer_port());
    let settings = [format!("input.manifest={manifest}"), "input.where=\"id <> 'row-0001'\"".to_owned()];
    let outcome = run(&workplace, server, &settings, &["--set", "limits.allow_private_hosts=127.0.0.1"]);
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("status"), vec![Some("ok".to_owned()); 3]);
}

#[test]
fn roots_hold_for_uris() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(2, 2));
    let settings = on_s3(&workplace, server, "roots");
    server.put("elsewhere/0.png", &png_image(0)).unwrap();
    server.put("rootsier/0.png", &png_image(0)).unwrap();
    let uris = [
        ("s3://night/roots/photos/0.png", None),
        ("S3://night/roots/photos/0.png", None),
        ("s3://night/elsewhere/0.png", Some("forbidden")),
        ("s3://night/rootsier/0.png", Some("forbidden")),
        ("s3://NIGHT/roots/photos/0.png", Some("forbidden")),
        ("s3://night//elsewhere/0.png", Some("forbidden")),
        ("s3://night/roots/photos/../../elsewhere/0.png", Some("invalid_uri")),
        ("s3://night/roots//../elsewhere/0.png", Some("invalid_uri")),
        // In a key, these are ordinary characters.
        ("s3://night/roots/%2e%2e/elsewhere/0.png", Some("not_found")),
        ("s3://night/roots/..%2felsewhere/0.png", Some("not_found")),
    ];
    let columns = vec![
        ("id", strings((0..uris.len()).map(|row| Some(format!("{row:02}"))))),
        ("image", strings(uris.map(|(uri, _)| Some(uri)))),
        ("title", strings(uris.map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    let arguments = ["--set", "limits.roots=[\"s3://night/roots\"]", "--set", "limits.min_failed_rows=100"];
    let outcome = run(&workplace, server, &settings[..0], &arguments);
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    assert_eq!(workplace.rows("out", None).text("error_kind"), uris.map(|(_, kind)| kind.map(str::to_owned)));
}
