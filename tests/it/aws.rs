//! AWS credentials by every way that works without Amazon: real programs, files and HTTP.

use std::fmt::Write as _;
use std::process::Command;

use crate::common::{Workplace, png_image, strings, write_parquet};
use crate::seaweed::{ACCESS_KEY, SECRET, Seaweed};
use crate::storage::text;
use crate::web::WebServer;

/// `run` with nothing of AWS but `~/.aws/config` with this content.
fn command(workplace: &Workplace, config: &str, arguments: &[&str]) -> Command {
    std::fs::create_dir_all(workplace.path(".aws/sso/cache")).unwrap();
    std::fs::write(workplace.path(".aws/config"), config).unwrap();
    let mut command = workplace.command("run", arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", workplace.path("")).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("NIGHTCAP_LOG", "trace");
    command
}

/// A job with one image in the bucket `night`.
fn one_image(key: &str) -> Workplace {
    let workplace = Workplace::with_images(1, 10);
    let columns = vec![
        ("id", strings([Some("a")])),
        ("image", strings([Some(format!("s3://night/{key}"))])),
        ("title", strings([None::<&str>])),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    workplace
}

/// An S3 service with one image at `s3://night/image.png` that takes any signature, and shows who signed.
fn bucket() -> WebServer {
    let server = WebServer::start();
    server.answer("/night/image.png", 200, &[], &png_image(1));
    server
}

/// Runs it on `bucket` alone: the image must be read with these credentials.
fn signed_with(workplace: &Workplace, mut command: Command, bucket: &WebServer, key: &str, token: &str) {
    command.args(["--set", "input.signature=[\"id\"]", "--set", &format!("storage.endpoint={}", bucket.origin())]);
    let outcome = command.output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(0), "{log}");
    assert_eq!(workplace.rows("out", None).text("status"), [Some("ok".to_owned())], "{log}");
    for secret in ["correct-secret", token] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
    let request = bucket.requests().into_iter().rfind(|request| request.target == "/night/image.png").unwrap();
    let authorization = request.header("authorization").unwrap();
    assert!(authorization.contains(&format!("Credential={key}/")), "{authorization}");
    assert_eq!(request.header("x-amz-security-token"), Some(token));
}

#[test]
fn a_credential_process_is_asked_once() {
    let server = Seaweed::shared();
    server.put("process/image.png", &png_image(4)).unwrap();
    let workplace = one_image("process/image.png");
    let program = workplace.path("give credentials.sh");
    let script = format!(
        "#!/bin/sh\necho asked >> '{}'\n\
         echo '{{\"Version\": 1, \"AccessKeyId\": \"{ACCESS_KEY}\", \"SecretAccessKey\": \"{SECRET}\"}}'\n",
        workplace.path("asked").display()
    );
    std::fs::write(&program, script).unwrap();
    let config = format!(
        "[profile night]\nregion = us-east-1\nendpoint_url = {}\ncredential_process = sh '{}'\n",
        server.endpoint(),
        program.display()
    );
    // By the job, with other keys in the environment; and by the environment.
    let mut by_job = command(&workplace, &config, &["--set", "storage.profile=night", "--set", "output.path=first"]);
    by_job
        .env("AWS_ACCESS_KEY_ID", "other")
        .env("AWS_SECRET_ACCESS_KEY", "keys")
        .env("AWS_ENDPOINT_URL", "http://nowhere.invalid");
    let mut by_environment = command(&workplace, &config, &["--set", "output.path=second"]);
    by_environment.env("AWS_PROFILE", "night");
    for (output, mut command) in [("first", by_job), ("second", by_environment)] {
        std::fs::write(workplace.path("asked"), "").unwrap();
        let outcome = command.output().unwrap();
        let log = text(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(0), "{log}");
        assert!(!log.contains(SECRET), "in the log");
        assert_eq!(workplace.rows(output, None).text("status"), [Some("ok".to_owned())]);
        assert_eq!(std::fs::read_to_string(workplace.path("asked")).unwrap(), "asked\n");
    }
}

#[test]
fn a_credential_process_that_fails() {
    let workplace = one_image("image.png");
    let config = "[default]\ncredential_process = sh -c 'echo the secret is correct-horse >&2; exit 3'\n";
    let outcome = command(&workplace, config, &["--set", "storage.endpoint=http://127.0.0.1:9"]).output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(2), "{log}");
    assert!(
        log.contains("the profile `default` of ~/.aws gives no AWS credentials") && log.contains("exit status: 3"),
        "{log}"
    );
    assert!(!log.contains("correct-horse"), "{log}");
}

#[test]
fn a_role_is_assumed_with_the_keys_of_another_profile() {
    let (sts, bucket) = (WebServer::start(), bucket());
    let answer = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
        <AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>correct-secret</SecretAccessKey>\
        <SessionToken>role-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        <AssumedRoleUser><AssumedRoleId>ARO:night</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/n</Arn></AssumedRoleUser>\
        </AssumeRoleResult></AssumeRoleResponse>";
    sts.answer("/", 200, &[("Content-Type", "text/xml")], answer.as_bytes());
    let workplace = one_image("image.png");
    let config = "[profile night]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nregion = eu-north-1\n\
        [profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = correct-secret-base\n";
    let mut command = command(&workplace, config, &["--set", "storage.profile=night"]);
    command.env("AWS_ENDPOINT_URL_STS", sts.origin());
    signed_with(&workplace, command, &bucket, "ASIAROLE", "role-token");
    let asked = &sts.requests()[0];
    assert!(asked.header("authorization").unwrap().contains("Credential=AKIABASE/"), "{asked:?}");
    // The region of the profile is that of the bucket.
    let request = bucket.requests().pop().unwrap();
    assert!(request.header("authorization").unwrap().contains("/eu-north-1/s3/"), "{request:?}");
}

#[test]
fn a_profile_of_iam_identity_center() {
    let (portal, bucket) = (WebServer::start(), bucket());
    let answer = "{\"roleCredentials\": {\"accessKeyId\": \"ASIASSO\", \"secretAccessKey\": \"correct-secret\", \
        \"sessionToken\": \"sso-token\", \"expiration\": 4070908800000}}";
    portal.answer("/federation/credentials", 200, &[("Content-Type", "application/json")], answer.as_bytes());
    let workplace = one_image("image.png");
    let config = "[default]\nsso_session = night\nsso_account_id = 1\nsso_role_name = reader\n\
        [sso-session night]\nsso_region = us-east-1\nsso_start_url = https://example.invalid/start\n";
    let mut command = command(&workplace, config, &[]);
    // As `aws sso login` leaves it; the file is named by the session's SHA-1.
    let cached = "{\"accessToken\": \"correct-secret-bearer\", \"expiresAt\": \"2099-01-01T00:00:00Z\"}";
    std::fs::write(workplace.path(".aws/sso/cache/1be2a44cb53dde903be8466c08dee9067da8ede3.json"), cached).unwrap();
    command.env("AWS_ENDPOINT_URL_SSO", portal.origin());
    signed_with(&workplace, command, &bucket, "ASIASSO", "sso-token");
    assert_eq!(portal.requests()[0].header("x-amz-sso_bearer_token"), Some("correct-secret-bearer"));
}

#[test]
fn a_metadata_service_is_asked_only_when_it_must_be() {
    let (metadata, bucket) = (WebServer::start(), bucket());
    let answer = "{\"Code\": \"Success\", \"Type\": \"AWS-HMAC\", \"AccessKeyId\": \"ASIAEC2\", \"SecretAccessKey\": \
        \"correct-secret\", \"Token\": \"ec2-token\", \"LastUpdated\": \"2026-01-01T00:00:00Z\", \"Expiration\": \"2099-01-01T00:00:00Z\"}";
    metadata.answer("/latest/api/token", 200, &[("x-aws-ec2-metadata-token-ttl-seconds", "21600")], b"imds");
    for folder in ["/latest/meta-data/iam/security-credentials", "/latest/meta-data/iam/security-credentials-extended"]
    {
        metadata.answer(&format!("{folder}/"), 200, &[], b"reader");
        metadata.answer(&format!("{folder}/reader"), 200, &[], answer.as_bytes());
    }
    let job = |keys: &[(&str, &str)], arguments: &[&str]| {
        let workplace = one_image("image.png");
        let mut command = command(&workplace, "", arguments);
        command.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.origin());
        command.envs(keys.iter().copied());
        (workplace, command)
    };
    // Not by a job without buckets, nor where there are keys, nor for public data.
    let (workplace, mut local) = job(&[], &[]);
    std::fs::write(workplace.path("image.png"), png_image(1)).unwrap();
    let columns =
        vec![("id", strings([Some("a")])), ("image", strings([Some("image.png")])), ("title", strings([None::<&str>]))];
    write_parquet(&workplace.path("manifest.parquet"), columns, 10);
    assert!(local.output().unwrap().status.success());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKIAENV"),
        ("AWS_SECRET_ACCESS_KEY", "correct-secret"),
        ("AWS_SESSION_TOKEN", "env-token"),
    ];
    let (workplace, command) = job(&keys, &[]);
    signed_with(&workplace, command, &bucket, "AKIAENV", "env-token");
    let mine = [
        ("MY_KEY", "AKIAMINE"),
        ("MY_SECRET", "correct-secret"),
        ("MY_TOKEN", "my-token"),
        ("AWS_SESSION_TOKEN", "other"),
    ];
    let arguments = [
        "storage.access_key_id_env=MY_KEY",
        "storage.secret_access_key_env=MY_SECRET",
        "storage.session_token_env=MY_TOKEN",
    ];
    let (workplace, command) = job(&mine, &["--set", arguments[0], "--set", arguments[1], "--set", arguments[2]]);
    signed_with(&workplace, command, &bucket, "AKIAMINE", "my-token");
    let (workplace, mut public) = job(&[], &["--set", "storage.anonymous=true", "--set", "input.signature=[\"id\"]"]);
    assert!(
        public.args(["--set", &format!("storage.endpoint={}", bucket.origin())]).output().unwrap().status.success()
    );
    assert_eq!(workplace.rows("out", None).text("status"), [Some("ok".to_owned())]);
    assert_eq!(bucket.requests().pop().unwrap().header("authorization"), None);
    assert!(metadata.requests().is_empty(), "{:?}", metadata.requests());
    let (workplace, command) = job(&[], &[]);
    signed_with(&workplace, command, &bucket, "ASIAEC2", "ec2-token");
    assert!(!metadata.requests().is_empty());
}

#[test]
fn what_was_looked_at_is_said() {
    let workplace = one_image("image.png");
    let outcome = command(&workplace, "", &["--set", "storage.endpoint=http://127.0.0.1:9"]).output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(2), "{log}");
    let expected = "no AWS credentials were found; none in the profile `default` of ~/.aws, AWS_ACCESS_KEY_ID, \
        AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONTAINER_CREDENTIALS_*, the EC2 metadata service";
    assert!(log.contains(expected) && log.contains("hint:"), "{log}");
    let config = "[profile day]\nregion = us-east-1\n[profile evening]\nregion = us-east-1\n";
    let outcome = command(&workplace, config, &["--set", "storage.profile=night"]).output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(2), "{log}");
    assert!(
        log.contains("expected the AWS profile `night` (`storage.profile`)") && log.contains("found day, evening"),
        "{log}"
    );
}

/// What is said where no request can be made with the credentials that there are.
fn refused(config: &str, environment: &[(&str, &str)]) -> String {
    let workplace = one_image("image.png");
    let mut command = command(&workplace, config, &["--set", "storage.endpoint=http://127.0.0.1:9"]);
    let outcome = command.envs(environment.iter().copied()).output().unwrap();
    let log = text(&outcome.stderr);
    assert!(matches!(outcome.status.code(), Some(2 | 75)) && !log.contains("panicked"), "{log}");
    assert!(!log.contains("the-secret") && !log.contains("is not understood"), "{log}");
    log
}

#[test]
fn keys_that_no_header_can_hold_are_refused() {
    let key = ("AWS_ACCESS_KEY_ID", "the-secret\n");
    let secret = ("AWS_SECRET_ACCESS_KEY", "the-secret");
    assert!(refused("", &[key, secret]).contains("the AWS access key id holds a character"));
    let token = ("AWS_SESSION_TOKEN", "the-secret\nx: y");
    assert!(refused("", &[("AWS_ACCESS_KEY_ID", "key"), secret, token]).contains("the AWS session token holds"));
    let program = r#"printf '{"Version": 1, "AccessKeyId": "a\\nb", "SecretAccessKey": "the-secret"}'"#;
    let config = format!("[default]\ncredential_process = {program}\n");
    assert!(refused(&config, &[]).contains("the AWS access key id holds a character"));
    let region = ("AWS_REGION", "us\neast");
    assert!(refused("", &[("AWS_ACCESS_KEY_ID", "key"), secret, region]).contains("the S3 region holds a character"));
}

#[test]
fn settings_that_are_incomplete_are_named() {
    let said = refused("", &[("AWS_ACCESS_KEY_ID", "key")]);
    assert!(said.contains("some of the S3 keys are given, but AWS_SECRET_ACCESS_KEY is not set"), "{said}");
    let said = refused("[default\naws_secret_access_key = the-secret\n", &[]);
    assert!(said.contains("cannot use ~/.aws/config and ~/.aws/credentials") && said.contains("line 1"), "{said}");
}

#[test]
fn a_profile_that_leads_to_no_keys_is_not_passed_over() {
    // The keys of a container would be another identity.
    let metadata = WebServer::start();
    let keys = br#"{"AccessKeyId": "key", "SecretAccessKey": "the-secret", "Token": "t", "Expiration": "2100-01-01T00:00:00Z"}"#;
    metadata.answer("/keys", 200, &[], keys);
    let uri = format!("{}/keys", metadata.origin());
    let said = refused(
        "[default]\nrole_arn = arn:aws:iam::1:role/night\nsource_profile = nowhere\n",
        &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)],
    );
    assert!(said.contains("the profile `default` of ~/.aws gives no AWS credentials"), "{said}");
    assert!(metadata.requests().is_empty(), "{:?}", metadata.requests());
}

#[test]
fn a_program_that_gives_expired_credentials_is_not_asked_with_every_request() {
    let workplace = Workplace::with_images(20, 20);
    let program = workplace.path("expired.sh");
    let script = format!(
        "#!/bin/sh\necho asked >> '{}'\n\
         echo '{{\"Version\": 1, \"AccessKeyId\": \"key\", \"SecretAccessKey\": \"the-secret\", \"SessionToken\": \"t\", \
         \"Expiration\": \"2001-01-01T00:00:00Z\"}}'\n",
        workplace.path("asked").display()
    );
    std::fs::write(&program, script).unwrap();
    let columns = vec![
        ("id", strings((0..20).map(|row| Some(row.to_string())))),
        ("image", strings((0..20).map(|row| Some(format!("s3://night/{row}.png"))))),
        ("title", strings((0..20).map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 20);
    let config = format!("[default]\ncredential_process = sh '{}'\n", program.display());
    let bucket = bucket();
    let endpoint = format!("storage.endpoint={}", bucket.origin());
    let settings = ["input.signature=[\"id\"]", "limits.retries=0", "limits.outage_after=0", &endpoint];
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let outcome = command(&workplace, &config, &arguments).output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1), "{log}");
    let messages = workplace.rows("out", None).text("error_message");
    assert!(messages.iter().flatten().all(|message| message.contains("has expired")), "{messages:?}");
    assert_eq!(std::fs::read_to_string(workplace.path("asked")).unwrap(), "asked\n");
    assert!(bucket.requests().is_empty(), "{:?}", bucket.requests());
}

#[test]
fn a_model_directory_with_the_marks_that_consoles_make_for_folders() {
    let (workplace, bucket) = (Workplace::with_images(1, 10), WebServer::start());
    let model = crate::common::repo("tests/fixtures/tiny_model");
    let mut listed = String::new();
    let mut list = |key: &str, size: usize| {
        write!(
            listed,
            "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag>\
             <Size>{size}</Size></Contents>"
        )
        .unwrap();
    };
    for (mark, size) in [("model/", 0), ("model/onnx/", 0)] {
        list(mark, size);
    }
    let date = ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT");
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        let (name, content) = (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap());
        list(&format!("model/{name}"), content.len());
        bucket.answer(&format!("/night/model/{name}"), 200, &[date, ("ETag", "\"e\"")], &content);
    }
    let listing = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>");
    bucket.answer("/night", 200, &[], listing.as_bytes());
    let endpoint = format!("storage.endpoint={}", bucket.origin());
    let settings = ["--set", "model.path=s3://night/model", "--set", &endpoint];
    let mut relative = command(&workplace, "", &settings);
    relative.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "the-secret");
    // A relative cache would take models from whatever folder is the current one.
    let outcome = relative.env("XDG_CACHE_HOME", "cache").current_dir(workplace.path("photos")).output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{}", text(&outcome.stderr));
    assert_eq!(workplace.rows("out", None).text("status"), [Some("ok".to_owned())]);
    assert!(!workplace.path("photos/cache").exists() && workplace.path(".cache/nightcap/models").is_dir());
}
