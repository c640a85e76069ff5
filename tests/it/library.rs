//! How ONNX Runtime is found, and what is said when it is not. Each run is a process of its own, which loads one library.

use std::path::Path;

use crate::common::{Workplace, repo};

/// What a small run with `arguments` says, with nothing set that leads to ONNX Runtime but `variables`.
fn run_with(workplace: &Workplace, arguments: &[&str], variables: &[(&str, &Path)]) -> String {
    let folder = workplace.path("");
    let mut command = workplace.command("run", arguments);
    command.env_remove("ORT_DYLIB_PATH").env_remove("VIRTUAL_ENV").env("PATH", &folder).current_dir(&folder);
    command.env("NIGHTCAP_LOG", "nightcap=debug").envs(variables.iter().copied());
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    said.replace(folder.to_str().unwrap(), "DIR/")
}

fn run(workplace: &Workplace, variables: &[(&str, &Path)]) -> String {
    run_with(workplace, &[], variables)
}

#[test]
fn every_model_says_so_when_there_is_no_library() {
    let workplace = Workplace::with_pictures(1, 1);
    let library = workplace.path("libonnxruntime.so");
    for model in std::fs::read_dir(repo("tests/fixtures/models")).unwrap() {
        let model = model.unwrap();
        let path = format!("model.path={}", model.path().display());
        let mut arguments = vec!["--set", &path];
        // the models that answer a prompt
        if ["florence2", "llava", "smolvlm"].iter().any(|name| model.file_name() == *name) {
            arguments.extend(["--set", "generation.prompt=<CAPTION>"]);
        }
        let said = run_with(&workplace, &arguments, &[("ORT_DYLIB_PATH", &library)]);
        assert!(said.contains("error: no usable ONNX Runtime library found; looked at:"), "{path}: {said}");
    }
}

#[test]
fn a_wrong_library_path_is_named_and_nothing_else_is_tried() {
    let workplace = Workplace::with_pictures(1, 1);
    let library = workplace.path("libonnxruntime.so");
    insta::assert_snapshot!(run(&workplace, &[("ORT_DYLIB_PATH", &library)]), @r"
    error: no usable ONNX Runtime library found; looked at:
      DIR/libonnxruntime.so (ORT_DYLIB_PATH): no such file
    hint: `pip install onnxruntime`, or set ORT_DYLIB_PATH to the file libonnxruntime.so of ONNX Runtime 1.24 or newer
    ");
    std::fs::write(&library, "no library").unwrap();
    let said = run(&workplace, &[("ORT_DYLIB_PATH", &workplace.path(""))]);
    assert!(said.contains("DIR/libonnxruntime.so (ORT_DYLIB_PATH): cannot be loaded"), "{said}");
}

#[test]
fn without_any_library_every_place_is_listed() {
    let workplace = Workplace::with_pictures(1, 1);
    let package = workplace.path("venv/lib/python3.12/site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("libonnxruntime.so.1.9.0"), "no library").unwrap();
    std::fs::write(package.join("libonnxruntime_providers_shared.so"), "another").unwrap();
    let said = run(&workplace, &[("VIRTUAL_ENV", &workplace.path("venv"))]);
    if said.contains("loaded ONNX Runtime") {
        return; // this system has a library where its loader finds it
    }
    let places = [
        "(beside the binary): ",
        "(VIRTUAL_ENV): cannot be loaded",
        "(.venv): no such folder",
        "(the system's loader): ",
    ];
    for place in places {
        assert!(said.contains(place), "{place} is missing in {said}");
    }
    assert!(said.contains("hint: `pip install onnxruntime`") && !said.contains("providers"), "{said}");
}

#[test]
fn the_library_of_the_active_environment_is_found() {
    let runtime = nightcap::onnx::runtime().unwrap();
    assert!(runtime.build_info().contains("ORT Build Info"));
    // `.../onnxruntime/capi/libonnxruntime.so.1.x.y` as a Python environment has it
    let Some(capi) = runtime.library().parent().filter(|capi| capi.ends_with("onnxruntime/capi")) else { return };
    let workplace = Workplace::with_pictures(1, 1);
    let packages = workplace.path("venv/lib/python3.12/site-packages/onnxruntime");
    std::fs::create_dir_all(&packages).unwrap();
    std::os::unix::fs::symlink(capi, packages.join("capi")).unwrap();
    let said = run(&workplace, &[("VIRTUAL_ENV", &workplace.path("venv"))]);
    let library =
        "loaded ONNX Runtime library=DIR/venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so";
    assert!(said.contains(library), "{said}");
}
