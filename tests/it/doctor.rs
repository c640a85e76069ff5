//! `nightcap doctor`, `completions`, `man` and the version.

use std::process::Output;

use crate::common::{Workplace, nightcap, said};

fn shown(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

#[test]
fn the_doctor_names_the_library_and_where_credentials_come_from_but_no_value() {
    let workplace = Workplace::new();
    let mut command = nightcap();
    command.args(["doctor", "--json"]).env("XDG_CACHE_HOME", workplace.folder.path());
    command.env("AWS_ACCESS_KEY_ID", "AKIAHIDDEN").env("AWS_SECRET_ACCESS_KEY", "hidden-secret");
    let ended = command.env("AZURE_STORAGE_ACCOUNT_KEY", "hidden-too").output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&ended.stdout).unwrap();
    let line = |subject: &str| lines.iter().find(|line| line["subject"] == subject).unwrap();
    let found = |subject: &str| line(subject)["found"].as_str().unwrap().to_owned();
    assert!(found("nightcap").starts_with(env!("CARGO_PKG_VERSION")), "{lines:?}");
    assert!(found("ONNX Runtime").starts_with("1.") && found("ONNX Runtime").contains("libonnxruntime"), "{lines:?}");
    assert!(found("credentials for s3://").contains("AWS_ACCESS_KEY_ID"), "{lines:?}");
    assert_eq!(found("credentials for az://"), "AZURE_STORAGE_ACCOUNT_KEY");
    assert!(found("cache of models").starts_with(workplace.folder.path().to_str().unwrap()), "{lines:?}");
    let all = shown(&ended) + &said(&ended);
    assert!(!all.contains("HIDDEN") && !all.contains("hidden"), "{all}");
    // What is not there says what to do.
    for line in lines.iter().filter(|line| line["verdict"] != "ok") {
        assert!(line["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{line}");
    }
}

#[test]
fn without_a_library_the_doctor_says_where_it_looked_and_ends_with_2() {
    let ended = nightcap().arg("doctor").env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", said(&ended));
    let shown = shown(&ended);
    assert!(shown.contains("WRONG   ONNX Runtime: ") && shown.contains("/nowhere/libonnxruntime.so"), "{shown}");
    assert!(shown.contains("pip install onnxruntime"), "{shown}");
}

#[test]
fn shells_get_completions_and_every_command_a_man_page() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = nightcap().args(["completions", shell]).output().unwrap();
        assert!(ended.status.success() && shown(&ended).contains("finalize"), "{shell}: {}", said(&ended));
    }
    let workplace = Workplace::new();
    let ended = nightcap().arg("man").arg(workplace.path("man")).output().unwrap();
    assert!(ended.status.success(), "{}", said(&ended));
    let page = std::fs::read_to_string(workplace.path("man/nightcap-run.1")).unwrap();
    assert!(page.contains("shard") && page.starts_with(".ie"), "{page}");
    assert!(workplace.path("man/nightcap.1").is_file() && workplace.path("man/nightcap-model-inspect.1").is_file());
}

#[test]
fn the_long_version_names_the_commit() {
    let ended = nightcap().arg("--version").output().unwrap();
    let version = shown(&ended);
    assert!(version.starts_with(concat!("nightcap ", env!("CARGO_PKG_VERSION"), " (commit ")), "{version}");
}
