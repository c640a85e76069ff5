//! `.ci/rooms`, which keeps circles of imports and upward imports out of `src/`.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::repo;

/// A crate with two rooms, `upper` above `lower`, and what the check says about it.
fn checked(upper: &str, lower: &str, part: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join("src").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib.rs", "//! | [`upper`] | calls |\n//! | [`lower`] | is called |\nmod lower;\nmod upper;\n");
    write("upper.rs", upper);
    write("lower/mod.rs", lower);
    write("lower/part.rs", part);
    check(folder.path())
}

fn check(root: &Path) -> Output {
    Command::new("python3").arg(repo(".ci/rooms")).arg(root).output().unwrap()
}

#[test]
fn the_rooms_of_this_crate_have_no_circle_and_no_upward_import() {
    let output = check(&repo(""));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn circles_and_upward_imports_are_found() {
    let face = "mod part;\npub use part::call;\n";
    let good = checked("use crate::lower::call;\nfn f() { call() }\n", face, "pub fn call() {}\n");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    let said = |output: Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    };
    let upward = said(checked("pub fn f() {}\n", face, "use crate::upper;\npub fn call() { upper::f() }\n"));
    assert!(upward.contains("lower imports upper") && upward.contains("src/lower/part.rs -> src/upper.rs"), "{upward}");
    let inline = said(checked("pub fn f() {}\n", face, "pub fn call() { crate::upper::f() }\n"));
    assert!(inline.contains("lower imports upper"), "{inline}");
    let parent = "mod part;\npub struct Stage;\npub fn run() { part::call(Stage) }\n";
    let circle = said(checked("", parent, "use super::Stage;\npub fn call(_: Stage) {}\n"));
    assert!(circle.contains("circle of 2 files") && circle.contains("part.rs -> src/lower/mod.rs: Stage"), "{circle}");
    let through_face = "pub use part::{Other, call};\nmod other;\nmod part;\nuse self::part::call as _;\n";
    let face_only = checked("", through_face, "pub struct Other;\npub fn call() {}\n");
    assert!(face_only.status.success(), "{}", String::from_utf8_lossy(&face_only.stdout));
    let comment = checked("", face, "//! See [`upper`](crate::upper).\npub fn call() {} // crate::upper::f()\n");
    assert!(comment.status.success(), "{}", String::from_utf8_lossy(&comment.stdout));
    let tests = "pub fn call() {}\n#[cfg(test)]\nmod tests {\n    use crate::upper;\n}\n";
    assert!(checked("", face, tests).status.success(), "tests inside files do not count");
}
