//! How ONNX Runtime is found, and the messages when it is not. Each run is a process of its own, which loads one library.

use std::path::Path;

use crate::common::{Workplace, repo, skip};

/// What a small run with `arguments` says, with nothing set that leads to ONNX Runtime but `variables`.
fn run_with(workplace: &Workplace, arguments: &[&str], variables: &[(&str, &Path)]) -> String {
    let folder = workplace.path("");
    let mut command = workplace.command("run", arguments);
    for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        command.env_remove(name);
    }
    command.env("PATH", &folder).current_dir(&folder).envs(variables.iter().copied());
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    said.replace(folder.to_str().unwrap(), "DIR/")
}

/// Why a test of missing libraries cannot be made.
const SYSTEM: &str = "this system has an ONNX Runtime where its loader finds it";
/// Why a test of found libraries cannot be made.
const NO_PACKAGE: &str = "ORT_DYLIB_PATH is none of a Python package; `make setup` installs one";

fn run(workplace: &Workplace, variables: &[(&str, &Path)]) -> String {
    run_with(workplace, &[], variables)
}

#[test]
fn every_model_says_so_when_there_is_no_library() {
    let workplace = Workplace::with_images(1, 1);
    let library = workplace.path("libonnxruntime.so");
    let mut asked = 0;
    for model in std::fs::read_dir(repo("tests/fixtures/models")).unwrap() {
        let model = model.unwrap();
        // One reads texts only, and the job has images; of the other, nothing says which output is the embedding.
        if ["minilm", "vit"].iter().any(|name| model.file_name() == *name) {
            continue;
        }
        asked += 1;
        let path = format!("model.path={}", model.path().display());
        let mut arguments = vec!["--set", &path];
        // the models that answer a prompt
        let prompted = ["fastvlm", "florence2", "idefics3", "llava", "llava_siglip", "paligemma", "smolvlm"];
        if prompted.iter().any(|name| model.file_name() == *name) {
            arguments.extend(["--set", "generation.prompt=<CAPTION>"]);
        }
        let said = run_with(&workplace, &arguments, &[("ORT_DYLIB_PATH", &library)]);
        assert!(said.contains("error: no usable ONNX Runtime library found; looked at:"), "{path}: {said}");
    }
    assert!(asked > 5, "{asked} models");
}

#[test]
fn a_wrong_library_path_is_named_and_nothing_else_is_tried() {
    let workplace = Workplace::with_images(1, 1);
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
    let workplace = Workplace::with_images(1, 1);
    let package = workplace.path("venv/lib/python3.12/site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("libonnxruntime.so.1.9.0"), "no library").unwrap();
    std::fs::write(package.join("libonnxruntime_providers_shared.so"), "another").unwrap();
    let said = run(&workplace, &[("VIRTUAL_ENV", &workplace.path("venv"))]);
    if said.contains("loaded ONNX Runtime") {
        return skip(SYSTEM);
    }
    let places = [
        "(beside the binary): ",
        "(VIRTUAL_ENV): cannot be loaded",
        "python3 (PATH): no python3 in an absolute folder of PATH",
        "(the system's loader): ",
    ];
    for place in places {
        assert!(said.contains(place), "{place} is missing in {said}");
    }
    assert!(said.contains("hint: `pip install onnxruntime`") && !said.contains("providers"), "{said}");
}

/// Makes the package of ONNX Runtime that the tests use, or one with a file that is none, that of an environment at `root`. `None` if
/// the tests' own is no Python package.
fn install(root: &Path, works: bool) -> Option<()> {
    let runtime = nightcap::onnx::runtime().unwrap();
    // `.../onnxruntime/capi/libonnxruntime.so.1.x.y` as a Python environment has it
    let capi = runtime.library().parent().filter(|capi| capi.ends_with("onnxruntime/capi"))?;
    let package = root.join("lib/python3.12/site-packages/onnxruntime");
    std::fs::create_dir_all(&package).unwrap();
    if works {
        std::os::unix::fs::symlink(capi, package.join("capi")).unwrap();
    } else {
        std::fs::create_dir(package.join("capi")).unwrap();
        std::fs::write(package.join("capi/libonnxruntime.so"), "no library").unwrap();
    }
    Some(())
}

/// A `python3` in the folder `bin` that says its module path is that of the environment at `root`, and writes into `bin` where it
/// was started.
fn python(bin: &Path, root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(bin).unwrap();
    let packages = root.join("lib/python3.12/site-packages");
    let (started, file) = (bin.join("started"), bin.join("python3"));
    let script = format!("#!/bin/sh\npwd > '{}'\necho '{}'\n", started.display(), packages.display());
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_library_of_the_active_environment_is_found_and_named() {
    let workplace = Workplace::with_images(1, 1);
    let [venv, conda, system, bin] = ["venv", "conda", "system", "bin"].map(|name| workplace.path(name));
    if [&venv, &conda, &system].iter().any(|root| install(root, true).is_none()) {
        return skip(NO_PACKAGE);
    }
    python(&bin, &system);
    let loaded = |said: &str| {
        let lines: Vec<_> = said.lines().filter(|line| line.contains("loaded ONNX Runtime")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].contains("INFO") && lines[0].contains("version=\"1."), "{said}");
        let library = lines[0].split("library=DIR/").nth(1).unwrap();
        library.split('/').next().unwrap().to_owned()
    };
    let file = "library=DIR/venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so";
    let all = [("VIRTUAL_ENV", venv.as_path()), ("CONDA_PREFIX", &conda), ("PATH", &bin)];
    let said = run(&workplace, &all);
    assert!(loaded(&said) == "venv" && said.contains(file), "{said}");
    assert_eq!(loaded(&run(&workplace, &all[1..])), "conda");
    assert_eq!(loaded(&run(&workplace, &all[2..])), "system");
    // nothing that Python looks for where it starts is the current folder's
    assert_eq!(std::fs::read_to_string(bin.join("started")).unwrap(), "/\n");

    // what conda installs itself
    let native = workplace.path("native");
    std::fs::create_dir(&native).unwrap();
    std::os::unix::fs::symlink(nightcap::onnx::runtime().unwrap().library().parent().unwrap(), native.join("lib"))
        .unwrap();
    assert_eq!(loaded(&run(&workplace, &[("CONDA_PREFIX", &native)])), "native");
}

#[test]
fn the_loader_names_the_file_it_found() {
    let workplace = Workplace::with_images(1, 1);
    let folder = workplace.path("loader");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(nightcap::onnx::runtime().unwrap().library(), folder.join("libonnxruntime.so.1")).unwrap();
    let said = run(&workplace, &[("LD_LIBRARY_PATH", &folder)]);
    if said.contains("library=/") {
        return skip(SYSTEM);
    }
    assert!(said.contains("loaded ONNX Runtime library=DIR/loader/libonnxruntime.so.1"), "{said}");
}

#[test]
fn nothing_of_the_current_folder_is_loaded_or_run() {
    let workplace = Workplace::with_images(1, 1);
    // a library that can be loaded, in every place that a relative path leads to
    for root in [".venv", "venv", "site"] {
        if install(&workplace.path(root), true).is_none() {
            return skip(NO_PACKAGE);
        }
    }
    python(&workplace.path(""), &workplace.path("site"));
    python(&workplace.path("bin"), &workplace.path("site"));
    let relative = Path::new("venv");
    for path in ["", ":", ".", "bin", "./bin:", "bin:/nowhere"] {
        let said = run(&workplace, &[("PATH", Path::new(path)), ("VIRTUAL_ENV", relative), ("CONDA_PREFIX", relative)]);
        for started in ["started", "bin/started"] {
            assert!(!workplace.path(started).exists(), "{path:?}: {said}");
        }
        assert!(
            !said.contains("library=DIR") && !said.contains("library=.") && !said.contains("library=venv"),
            "{said}"
        );
        if said.contains("library=/") {
            return skip(SYSTEM);
        }
        assert!(said.contains("no usable ONNX Runtime library found"), "{path:?}: {said}");
        assert!(said.contains("(VIRTUAL_ENV): a relative path, which is not searched"), "{path:?}: {said}");
        assert!(!said.contains(".venv"), "{said}");
    }
}
