//! The wheel: maturin packs the binary under test, pip installs it into an empty environment, and it finds the ONNX Runtime that pip
//! installs beside it. Needs the network, or pip's cache, for ONNX Runtime only.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{repo, skip};

fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = || [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said()));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The Python whose environment has maturin; None skips.
fn python_with_maturin() -> Option<PathBuf> {
    let python = std::env::var_os("NIGHTCAP_PYTHON").map_or_else(|| repo(".venv/bin/python"), PathBuf::from);
    let has_maturin = Command::new(&python).args(["-m", "maturin", "--version"]).output();
    if has_maturin.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(&format!("{} has no maturin; `make setup` installs it", python.display()));
    None
}

/// A build folder with the tests' own build, as hard links: maturin moves the binary that it packs away and back, and other tests run
/// the one under test meanwhile.
fn linked_build() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_nightcap"));
    let target = binary.ancestors().nth(2).unwrap();
    let script = "rm -rf wheel-test && mkdir -p wheel-test/debug && cp -al debug/deps debug/nightcap* wheel-test/debug/ \
                  && cp -a debug/build debug/.fingerprint wheel-test/debug/ && cp .rustc_info.json wheel-test/";
    ok(Command::new("sh").args(["-c", script]).current_dir(target));
    target.join("wheel-test")
}

/// Packs the binary under test as `pip install .` packs one, but with the profile of the tests' own build, so that nothing is compiled
/// again.
fn wheel(python: &Path, folder: &Path) -> PathBuf {
    let target = linked_build();
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir"])
        .arg(folder)
        .arg(repo(""))
        .env("MATURIN_PEP517_ARGS", "--profile dev --locked --offline")
        .env("CARGO_TARGET_DIR", &target);
    // maturin lies beside this Python; cargo's own variables would be those of this test.
    let path = std::env::var_os("PATH").unwrap();
    let folders = [python.parent().unwrap().to_owned()].into_iter().chain(std::env::split_paths(&path));
    pip.env("PATH", std::env::join_paths(folders).unwrap());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|start| name.starts_with(start)) {
            pip.env_remove(name);
        }
    }
    let said = ok(&mut pip);
    std::fs::remove_dir_all(&target).unwrap();
    let said = text(&said.stdout) + &text(&said.stderr);
    assert!(!said.contains("Compiling"), "the test's own binary is packed, found another build: {said}");
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (Some(wheel), None) = (files.next(), files.next()) else { panic!("one wheel: {said}") };
    wheel
}

/// An empty environment, and its Python.
fn environment(python: &Path, folder: &Path) -> PathBuf {
    ok(Command::new(python).args(["-m", "venv"]).arg(folder));
    folder.join("bin/python")
}

/// pip's `install` into the environment of `python`.
fn install(python: &Path, arguments: &[&str]) {
    ok(Command::new(python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(arguments));
}

/// The binary, without anything that leads to ONNX Runtime but where it lies.
fn installed(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command.env("PATH", "/usr/bin:/bin").current_dir("/");
    command
}

#[test]
fn the_wheel_finds_the_onnx_runtime_that_pip_installs_beside_it() {
    let Some(python) = python_with_maturin() else { return };
    let folder = tempfile::tempdir().unwrap();
    let dist = folder.path().join("dist");
    std::fs::create_dir(&dist).unwrap();
    let wheel = wheel(&python, &dist);
    let name = wheel.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(concat!("nightcap-", env!("CARGO_PKG_VERSION"), "-py3-none-")), "{name}");

    // What pip is told, and the list of what is inside.
    let script = "import sys, zipfile; wheel = zipfile.ZipFile(sys.argv[1]); print(*wheel.namelist()); \
                  print(wheel.read(next(n for n in wheel.namelist() if n.endswith('/METADATA'))).decode())";
    let listed = text(&ok(Command::new(&python).args(["-c", script]).arg(&wheel)).stdout);
    let needs: Vec<_> = listed.lines().filter(|line| line.starts_with("Requires-Dist: ")).collect();
    let expected = [
        "Requires-Dist: onnxruntime>=1.24 ; extra == 'cpu'",
        "Requires-Dist: onnxruntime-gpu[cuda,cudnn]>=1.24 ; extra == 'gpu'",
    ];
    assert_eq!(needs, expected);
    for part in ["nightcap.cyclonedx.json", "licenses/LICENSE-MIT", "licenses/LICENSE-APACHE"] {
        assert!(listed.contains(part), "{part} is missing in {listed}");
    }

    let venv = folder.path().join("venv");
    let inside = environment(&python, &venv);
    install(&inside, &["--no-index", "--no-deps", wheel.to_str().unwrap()]);
    let binary = venv.join("bin/nightcap");
    assert!(std::fs::read(&binary).unwrap() == std::fs::read(env!("CARGO_BIN_EXE_nightcap")).unwrap());

    // Without ONNX Runtime it says where it looked: in its own environment.
    let refused = installed(&binary).arg("doctor").output().unwrap();
    let said = text(&refused.stdout);
    let place = format!("{}/lib/python3.", venv.canonicalize().unwrap().display());
    if refused.status.code() != Some(0) {
        assert!(said.contains("WRONG   ONNX Runtime: ") && said.contains("`pip install onnxruntime`"), "{said}");
        assert!(said.contains(&place) && said.contains("(beside the binary): no such folder"), "{said}");
    }

    let requirements = repo("jobs/requirements.txt");
    install(
        &inside,
        &["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", requirements.to_str().unwrap()],
    );
    let found = ok(installed(&binary).arg("doctor"));
    let library = text(&found.stdout);
    let library = library.lines().find(|line| line.contains("ONNX Runtime: 1.")).unwrap_or(&library);
    assert!(library.contains(&place) && library.contains("site-packages/onnxruntime/capi/"), "{library}");

    // Called through a link from another folder, as pipx does, it captions the sample.
    let link = folder.path().join("nightcap");
    std::os::unix::fs::symlink(&binary, &link).unwrap();
    let out = folder.path().join("out");
    let output = format!("output.path={}", out.display());
    ok(installed(&link).arg("run").arg(repo("jobs/sample.toml")).args(["--set", &output]));
    assert!(std::fs::read_dir(out.join("_nightcap/published")).unwrap().count() == 1);
}
