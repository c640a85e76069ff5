//! Nothing that leaves nightcap holds a credential or is longer than its bound: log lines at every level, errors, parts, records, stdout.

use std::process::Output;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::common::{Workplace, nightcap, png_image, repo, strings, write_parquet};
use crate::web::WebServer;

/// In every credential of these tests.
const SECRET: &str = "hunter2CORRECT";
/// The longest message, with what stands around it.
const LONGEST: usize = 3000;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// `folder` and everything below it holds no secret: bytes of records, texts of parts.
fn clean(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            clean(&path);
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            let rows = crate::common::read_parquet(&path);
            for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
                let Ok(texts) = cast(column, &DataType::Utf8) else { continue };
                let texts = texts.as_string::<i32>();
                for text in texts.iter().flatten() {
                    assert!(!text.contains(SECRET), "{}: {text}", field.name());
                    assert!(field.name() != "error_message" || text.chars().count() <= 300, "{text}");
                }
            }
        } else {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", path.display());
        }
    }
}

#[test]
fn arguments_are_not_repeated_with_their_secrets() {
    let workplace = Workplace::with_images(1, 1);
    let url = format!("https://me:{SECRET}@host.example/a");
    let mut arguments: Vec<Vec<String>> = [
        "storage.secret_access_key=X",
        "storage.secret_acess_key=X",
        "storage.sekret=X",
        "storage.password=\"X\"",
        "storage.secret_access_key X",
        "storage.secret_access_key:X",
        "storage=X",
        "strage.secret_access_key=X",
        "storage.path_style=X",
        "storage.path_style=\"X\"",
        "storage.region=[\"X\"]",
        "storage.region={a=\"X\"}",
        "X",
        "storage.secret_access_key_env.value=X",
    ]
    .iter()
    .map(|set| vec!["--set".to_owned(), set.replace('X', SECRET)])
    .collect();
    arguments.extend([
        vec![format!("storage.secret_access_key={SECRET}")],
        vec![format!("--storage.secret_access_key={SECRET}")],
        vec![format!("--secret-access-key={SECRET}")],
        vec![format!("--password={SECRET} and more {SECRET}")],
        vec![url.clone()],
        vec!["--shard".to_owned(), url.clone()],
        vec!["--run-id".to_owned(), url.clone()],
        vec!["--limit".to_owned(), url.clone()],
        vec!["--set".to_owned(), format!("input.manifest={url}")],
        vec!["--set".to_owned(), format!("input.image={url}")],
        vec!["--set".to_owned(), format!("output.path={url}")],
        vec!["--set".to_owned(), format!("input.where=url = '{url}")],
        vec!["--set".to_owned(), format!("runtime.devices=[\"{url}\"]")],
    ]);
    for arguments in arguments {
        for format in ["text", "json"] {
            let mut command = workplace.command("run", &["--log-format", format]);
            let output = command.args(&arguments).output().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(!said.contains(SECRET) && said.len() > 20, "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_value_in_a_variable_name_is_not_repeated() {
    let workplace = Workplace::with_images(1, 1);
    for key in ["secret_access_key_env", "session_token_env", "access_key_id_env", "token_env"] {
        let scheme = if key == "token_env" { "gs" } else { "s3" };
        let manifest = format!("input.manifest={scheme}://bucket/manifest.parquet");
        let mut command = workplace.command("run", &["--set", &manifest]);
        command.args(["--set", &format!("storage.{key}={SECRET}+x/y")]);
        let output = command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b").output().unwrap();
        let said = said(&output);
        assert!(output.status.code() == Some(2) && !said.contains(SECRET), "{said}");
        assert!(said.contains("environment variable"), "{said}");
    }
}

#[test]
fn toml_errors_do_not_print_their_line() {
    let workplace = Workplace::with_images(1, 1);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    for lines in [
        "secret_access_key = \"X",
        "secret_access_key = X",
        "secret_access_key = \"\"\"\nX\n",
        "secret_access_key = 'X\n'",
        "secret_access_key = \"X\" \"X\"",
        "secret_access_key_env = X Y",
        "region = \"X\"\nregion = \"X\"",
        "secret_access_key_env = [\"X\"]",
        "path_style = \"X\"",
        "X",
        "\"X\" \"X\"",
        "endpoint = \"http://me:X@host\" x",
    ] {
        workplace.job(&format!("{job}[storage]\n{}", lines.replace('X', SECRET)));
        for format in ["text", "json"] {
            let output = workplace.run(&["--log-format", format]);
            let said = said(&output);
            assert!(output.status.code() == Some(2) && !said.contains(SECRET), "{lines}: {said}");
            assert!(said.contains("job.toml"), "where: {said}");
        }
    }
}

/// Texts of an image column with a secret in each, none of which is an image.
fn wrong_images() -> Vec<String> {
    [
        "http:/me:X@host/a.jpg",
        "HTTP:/me:X@host/a.jpg",
        "https:me:X@host/a.jpg",
        "http:///me:X@/a.jpg",
        "hxxp://me:X@host/a.jpg",
        "odd_scheme://me:X@host/a.jpg",
        "odd scheme://me:X@host/a.jpg",
        "sftp:/me:X@host/a.jpg",
        "data:text/plain,X",
        "data:image/png;base64,X",
        "DATA:,one two X",
        "s3:/me:X@bucket/a.jpg",
        "https://me:pa/ss:X@host/a.jpg",
        "https://me:%58X%40@host:99999/a.jpg",
        "http://[me:X@host/a.jpg",
        "//me:X@host/a.jpg",
        "folder/http:/me:X@host/a.jpg",
        "file:/a.jpg?sig=X",
        "/a.jpg?X-Amz-Signature=X",
        "a.jpg?sv=1&sig=X",
        "az://container/a.jpg?sv=1&sig=X",
        "az:/container/a.jpg?sv=1&sig=X",
        "s3://bucket/../a.jpg?X-Amz-Security-Token=X",
        "abfss://me:X@host/a.jpg",
        "see https://me:X@host/a.jpg",
        "jdbc:postgresql://host/db?user=me&password=X",
    ]
    .iter()
    .map(|text| text.replace('X', SECRET).replace(&format!("{SECRET}-"), "X-"))
    .collect()
}

#[test]
fn texts_that_are_no_images_leave_no_secret_anywhere() {
    let workplace = Workplace::with_images(1, 100);
    let mut images = wrong_images();
    images.push("photos/0.png".to_owned());
    let columns = vec![
        ("id", strings((0..images.len()).map(|row| Some(row.to_string())))),
        ("image", strings(images.iter().map(Some))),
        ("title", strings(images.iter().map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 100);
    let limits =
        ["--set", "limits.max_failed_fraction=1.0", "--set", "limits.outage_after=0", "--set", "limits.retries=0"];
    // `output.columns` keeps the texts themselves out: what is wrong is no URI whose signature could be found.
    for (format, output) in [("text", "one"), ("json", "two")] {
        let mut command = workplace.command("run", &limits);
        command.args([
            "--set",
            "output.columns=[\"id\"]",
            "--set",
            "input.signature=[\"id\"]",
            "--set",
            &format!("output.path={output}"),
            "--log-format",
            format,
        ]);
        command.env("NIGHTCAP_LOG", "trace").env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env("AZURE_STORAGE_ACCOUNT_NAME", "name");
        command.env("AZURE_STORAGE_ACCOUNT_KEY", "a2V5").env("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9");
        let run = command.output().unwrap();
        let log = said(&run);
        let line = log.lines().find(|line| line.contains(SECRET));
        assert!(line.is_none(), "{line:?}");
        assert!(run.status.success(), "{log}");
        clean(&workplace.path(output));
        let rows = workplace.rows(output, None);
        assert_eq!(rows.text("status").iter().flatten().filter(|status| *status == "ok").count(), 1);
    }
}

fn web_job(workplace: &Workplace, key: &str) {
    workplace.job(&format!(
        "[input]\nmanifest = \"manifest.parquet\"\nkey = \"{key}\"\nimage = \"url\"\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n[limits]\nmax_failed_fraction = 1.0\nallow_private_hosts = [\"127.0.0.1\"]\n\
         [runtime]\nbatch_size = 4\nthreads = 1\n",
        repo("tests/fixtures/tiny_model").display()
    ));
}

/// Queries that let their holder read one object, each of which must not be kept; `$` is a secret, `!` differs from night to night.
const SIGNED: [&str; 9] = [
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F2026&X-Amz-Date=!&X-Amz-Signature=$",
    "x-amz-signature=$&x-amz-security-token=$!",
    "AWSAccessKeyId=AKIA&Signature=$!&Expires=!",
    "GoogleAccessId=me%40project&Signature=$&Expires=!",
    "X-Goog-Algorithm=GOOG4&X-Goog-Signature=$!",
    "sv=2026&st=!&se=!&sr=b&sp=r&sig=$",
    "token=$!",
    "Policy=$!&Signature=$&Key-Pair-Id=K",
    "access%5Ftoken=$!",
];

#[test]
fn presigned_urls_are_carried_without_their_signature_and_are_no_change() {
    let (workplace, server) = (Workplace::new(), WebServer::start());
    let night = |night: &str| {
        let signed = |(row, query): (usize, &&str)| {
            let query = query.replace('$', SECRET).replace('!', night);
            let (path, kept) = (format!("/{row}.png"), if row % 2 == 0 { "size=2&" } else { "" });
            server.answer(&path, 200, &[], &png_image(row as u32));
            format!("{}{path}?{kept}{query}", server.origin())
        };
        let mut urls: Vec<String> = SIGNED.iter().enumerate().map(signed).collect();
        server.answer("/user.png", 200, &[], &png_image(77));
        urls.push(format!("http://me:{SECRET}{night}@{}/user.png", server.authority()));
        let columns = vec![
            ("id", strings((0..urls.len()).map(|row| Some(row.to_string())))),
            ("url", strings(urls.iter().map(Some))),
            ("thumbnail", strings(urls.iter().map(Some))),
        ];
        write_parquet(&workplace.path("manifest.parquet"), columns, 100);
        urls
    };
    web_job(&workplace, "id");
    let urls = night("20261127");
    let mut command = workplace.command("run", &["--set", "output.columns=[\"id\", \"url\", \"thumbnail\"]"]);
    let run = command.env("NIGHTCAP_LOG", "trace").output().unwrap();
    let log = said(&run);
    let line = log.lines().find(|line| line.contains(SECRET));
    assert!(line.is_none() && run.status.success(), "{line:?} {log}");
    let rows = workplace.rows("out", None);
    assert!(rows.text("status").iter().flatten().all(|status| status == "ok"), "{:?}", rows.text("error_message"));
    clean(&workplace.path("out"));
    for (row, url) in rows.text("url").into_iter().flatten().enumerate() {
        let plain = urls[row].split('?').next().unwrap().replace(&format!("me:{SECRET}20261127@"), "");
        let query = if row < SIGNED.len() && row % 2 == 0 { "?size=2" } else { "" };
        assert_eq!(url, format!("{plain}{query}"));
    }
    assert_eq!(rows.text("url"), rows.text("thumbnail"));
    assert!(server.targets().iter().any(|target| target.contains(SECRET)), "the server sees what was signed");
    night("20261128");
    let plan = workplace.command("plan", &[]).output().unwrap();
    assert!(said(&plan).contains("rows       0 selected"), "{}", said(&plan));
    assert!(!said(&plan).contains(SECRET));
}

#[test]
fn a_signed_url_as_key_is_refused() {
    let workplace = Workplace::new();
    web_job(&workplace, "url");
    let urls = [format!("http://127.0.0.1:9/a.png?sv=1&sig={SECRET}"), "http://127.0.0.1:9/b.png?size=1".to_owned()];
    write_parquet(&workplace.path("manifest.parquet"), vec![("url", strings(urls.iter().map(Some)))], 10);
    for command in ["plan", "run"] {
        let output = workplace.command(command, &[]).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(!said.contains(SECRET) && said.contains("`input.key`") && said.contains("hint: "), "{said}");
    }
    assert!(!workplace.path("out/_nightcap/published").exists() || workplace.published("out").is_empty());
    write_parquet(&workplace.path("manifest.parquet"), vec![("url", strings([Some(&urls[1])]))], 10);
    let plan = workplace.command("plan", &[]).output().unwrap();
    assert!(plan.status.success(), "a query that is no signature is part of the key: {}", said(&plan));
}

#[test]
fn settings_in_the_records_hold_no_secret() {
    let workplace = Workplace::with_images(2, 4);
    let predicate = format!("image <> 'https://me:{SECRET}@host/a?sig={SECRET}'");
    let set = ["--set".to_owned(), format!("input.where=\"{predicate}\"")];
    let run = workplace.command("run", &[]).args(&set).output().unwrap();
    assert!(run.status.success(), "{}", said(&run));
    clean(&workplace.path("out"));
    let status = nightcap().arg("status").arg(workplace.path("out")).output().unwrap();
    assert!(status.status.success() && !said(&status).contains(SECRET), "{}", said(&status));
}

#[test]
fn credentials_of_the_environment_are_in_no_log_line() {
    let (workplace, server) = (Workplace::with_images(1, 1), WebServer::start());
    for path in ["/bucket", "/bucket/manifest.parquet", "/bucket/"] {
        server.answer(path, 403, &[], format!("<Error><Code>{SECRET}</Code></Error>").as_bytes());
    }
    for format in ["text", "json"] {
        let mut command = workplace.command("run", &["--set", "input.manifest=s3://bucket/manifest.parquet"]);
        command.args(["--log-format", format, "--set", "limits.retries=0", "--set", "storage.session_token_env=ODD"]);
        command.env("NIGHTCAP_LOG", "trace").env("AWS_ENDPOINT_URL", server.origin());
        command.env("AWS_ACCESS_KEY_ID", "AKIAKEY").env("AWS_SECRET_ACCESS_KEY", format!("{SECRET}/+\"x"));
        command.env("AWS_SESSION_TOKEN", "unused").env("ODD", format!("{SECRET}=="));
        command.env("HTTPS_PROXY", format!("http://me:{SECRET}@127.0.0.1:9"));
        let output = command.output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let line = said.lines().find(|line| line.contains(SECRET));
        assert!(line.is_none() && said.len() > 100, "{line:?}");
    }
}

#[test]
fn what_is_enormous_is_cut() {
    let long = "n".repeat(100_000);
    let words = "name ".repeat(20_000);
    let bounded = |output: &Output, what: &str| {
        let said = said(output);
        assert_eq!(output.status.code(), Some(2), "{what}: {}", &said[..said.len().min(3000)]);
        assert!(said.len() < LONGEST, "{what}: {} bytes", said.len());
        assert!(said.split_whitespace().all(|word| word.len() <= 400), "{what}: {said}");
    };
    let workplace = Workplace::with_images(1, 1);
    for long in [&long, &words] {
        for set in [
            format!("input.image={long}"),
            format!("input.where=\"{long}\""),
            format!("input.{long}=1"),
            format!("{long}.key=1"),
            format!("model.path={long}"),
            format!("model.precision={long}"),
            format!("input.manifest=\"{long}\""),
            format!("runtime.devices=[\"{long}\"]"),
            format!("generation.strategy={long}"),
            format!("limits.retries=\"{long}\""),
            format!("output.columns=[\"{long}\"]"),
            format!("generation.prompt=\"{{{{ {long} }}}}\""),
        ] {
            for format in ["text", "json"] {
                let output = workplace.run(&["--set", &set, "--log-format", format]);
                bounded(&output, &set[..set.len().min(40)]);
            }
        }
        bounded(&workplace.run(&["--run-id", long]), "run id");
        bounded(&workplace.run(&["--shard", long]), "shard");
        bounded(&workplace.run(&[long]), "argument");
        bounded(&nightcap().arg("status").arg(long).output().unwrap(), "status");
    }
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    for line in [format!("{long} = 1"), format!("[{long}]"), format!("x = \"{long}"), format!("\"{words}\" = 1")] {
        workplace.job(&format!("{job}{line}\n"));
        bounded(&workplace.run(&[]), &line[..20]);
    }
    let columns = vec![(long.as_str(), strings([Some("a")])), (words.as_str(), strings([Some("b")]))];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    workplace.job(&job);
    bounded(&workplace.run(&[]), "columns");
    let model = workplace.path("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(repo("tests/fixtures/tiny_model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    for text in [
        format!("[graphs]\nvision = \"{long}\""),
        format!("[graphs]\n{long} = \"a\""),
        long.clone(),
        format!("[bind]\n\"vision.{long}\" = \"x\""),
    ] {
        std::fs::write(model.join("nightcap.toml"), text).unwrap();
        bounded(&workplace.run(&["--set", "model.path=model", "--set", "input.manifest=none"]), "model");
        bounded(&nightcap().args(["model", "prepare"]).arg(&model).output().unwrap(), "prepare");
    }
}

#[test]
fn lines_cannot_be_forged() {
    let workplace = Workplace::with_images(1, 1);
    for format in ["text", "json"] {
        let name = "input.image=a\u{1b}[2K\rerror: forged\u{7}";
        let output = workplace.run(&["--set", name, "--log-format", format]);
        let said = said(&output);
        assert!(output.status.code() == Some(2) && !said.contains(['\u{1b}', '\r', '\u{7}']), "{said:?}");
    }
}
