//! Weights in files beside a graph: found wherever ONNX allows a tensor, behind links too, and refused where they are not part of the
//! model.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nightcap::model::ModelDirectory;
use nightcap::onnx::{DataType, DecoderGraph, GraphOptions, GraphSource, OnnxErrorKind, Session, SessionInput, Tensor};
use tempfile::TempDir;

use crate::graph_writer::{attribute, bytes, constant, directory, model, node, number, port, text};

/// Two float32 in the file `location`.
fn external(name: &str, location: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| bytes(13, &[text(1, key), text(2, value)].concat());
    let place = [entry("location", location), entry("offset", "0"), entry("length", "8")].concat();
    [number(1, 2), number(2, 1), text(8, name), place, number(14, 1)].concat()
}

/// The weights 3 and 4.
fn weights() -> Vec<u8> {
    [3.0_f32, 4.0].map(f32::to_le_bytes).concat()
}

/// An attribute that is a graph.
fn inner(name: &str, graph: &[Vec<u8>]) -> Vec<u8> {
    attribute(name, 5, &bytes(6, &[graph.concat(), text(2, name)].concat()))
}

fn value(location: &str) -> Vec<u8> {
    attribute("value", 4, &bytes(5, &external("value", location)))
}

/// Models that add the weights in `location` to their input `x` and copy the sum to `y`, by where the weights are declared.
fn adders(location: &str) -> Vec<(&'static str, Vec<u8>)> {
    let initializer = || bytes(5, &external("w", location));
    let constant_node = || node("Constant", &[], "w", &value(location));
    let condition = || bytes(5, &[number(2, 9), text(8, "yes"), bytes(9, &[1])].concat());
    let branches = |weights: &dyn Fn() -> Vec<u8>| {
        let branch = || [weights(), node("Add", &["x", "w"], "inner sum", &[]), port(12, "inner sum", 1, &[2])];
        let both = [inner("then_branch", &branch()), inner("else_branch", &branch())].concat();
        vec![condition(), node("If", &["yes"], "sum", &both)]
    };
    let body = inner(
        "body",
        &[
            initializer(),
            node("Add", &["state", "w"], "next", &[]),
            node("Identity", &["go on"], "goes on", &[]),
            port(11, "round", 7, &[]),
            port(11, "go on", 9, &[]),
            port(11, "state", 1, &[2]),
            port(12, "goes on", 9, &[]),
            port(12, "next", 1, &[2]),
        ],
    );
    let with_ends = |graph: Vec<Vec<u8>>| {
        let ends = [
            node("Concat", &["sum"], "y", &attribute("axis", 2, &number(3, 0))),
            port(11, "x", 1, &[2]),
            port(12, "y", 1, &[2]),
        ];
        [graph, ends.to_vec()].concat()
    };
    let call = bytes(1, &[text(1, "x"), text(2, "sum"), text(4, "Adds"), text(7, "ours")].concat());
    // a function's nodes are its field 7, a graph's are its field 1
    let in_function = |node: Vec<u8>| [&[7 << 3 | 2], &node[1..]].concat();
    let function = [
        [text(1, "Adds"), text(4, "x"), text(5, "y"), in_function(constant_node())].concat(),
        [in_function(node("Add", &["x", "w"], "y", &[])), bytes(9, &number(2, 13)), text(10, "ours")].concat(),
    ];
    let opset = bytes(8, &[text(1, "ours"), number(2, 1)].concat());
    vec![
        ("the graph", model(&with_ends(vec![initializer(), node("Add", &["x", "w"], "sum", &[])]))),
        ("an attribute", model(&with_ends(vec![constant_node(), node("Add", &["x", "w"], "sum", &[])]))),
        ("a branch", model(&with_ends(branches(&initializer)))),
        ("an attribute in a branch", model(&with_ends(branches(&constant_node)))),
        ("a loop", model(&with_ends(vec![constant("once", 1), node("Loop", &["once", "", "x"], "sum", &body)]))),
        ("a function", [model(&with_ends(vec![call])), opset, bytes(25, &function.concat())].concat()),
    ]
}

/// `y` for `x` = 1, 2.
fn sum(mut graph: Session) -> Vec<f32> {
    let x = Tensor::from_f32(DataType::F32, &[2], vec![1.0, 2.0]).unwrap();
    graph.run(&[("x", SessionInput::Owned(x))]).unwrap().remove("y").unwrap().to_f32().unwrap().into_owned()
}

/// A folder as the Hugging Face Hub cache lays it out: `snapshot/graph.onnx` and its weights are links into `blobs`.
fn cache(graph: &[u8]) -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    for (name, blob, content) in [("graph.onnx", "0a", graph), ("graph.onnx_data", "1b", &weights())] {
        for folder in ["blobs", "snapshot"] {
            std::fs::create_dir_all(cache.path().join(folder)).unwrap();
        }
        std::fs::write(cache.path().join("blobs").join(blob), content).unwrap();
        symlink(Path::new("../blobs").join(blob), cache.path().join("snapshot").join(name)).unwrap();
    }
    cache
}

#[test]
fn weights_are_found_wherever_they_are_declared_also_behind_links() {
    for (declared_in, graph) in adders("graph.onnx_data") {
        let plain = directory(&[("graph.onnx", graph.clone()), ("graph.onnx_data", weights())]);
        let cache = cache(&graph);
        for folder in [plain.path().to_owned(), cache.path().join("snapshot")] {
            let source = GraphSource::file(folder.join("graph.onnx"));
            let whole = source.open(GraphOptions::default()).unwrap_or_else(|error| panic!("{declared_in}: {error}"));
            assert_eq!(sum(whole), [4.0, 6.0], "{declared_in}");
            let edited = DecoderGraph::open(&source, &[], Vec::new(), GraphOptions::default());
            let edited = edited.unwrap_or_else(|error| panic!("{declared_in}: {error}"));
            assert_eq!((edited.elided_copies, sum(edited.step)), (1, vec![4.0, 6.0]), "{declared_in}");
        }
    }
}

#[test]
fn weights_that_are_not_part_of_the_model_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, weights()).unwrap();
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    let through = format!("sub/../{up}");
    let absolute = secret.to_str().unwrap();
    let cases = [
        (absolute, "expected a file below the graph's folder, named by a relative path without `..`"),
        (up.as_str(), "expected a file below the graph's folder, named by a relative path without `..`"),
        (through.as_str(), "expected a file below the graph's folder, named by a relative path without `..`"),
        ("", "expected a file below the graph's folder, named by a relative path without `..`"),
        ("link", "to which \"link\" is a link; expected a file below the graph's folder"),
        ("linked/secret", "to which \"linked/secret\" is a link; expected a file below the graph's folder"),
        ("pipe", "expected a regular file"),
        ("zeros", "expected a regular file"),
        ("sub", "expected a regular file"),
        ("absent", "which is missing"),
    ];
    for (location, expected) in cases {
        for (declared_in, graph) in adders(location) {
            let folder = directory(&[("text_model.onnx", graph)]);
            let path = |name: &str| folder.path().join(name);
            std::fs::create_dir(path("sub")).unwrap();
            symlink(&secret, path("link")).unwrap();
            symlink(outside.path(), path("linked")).unwrap();
            symlink("/dev/zero", path("zeros")).unwrap();
            assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
            let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
            assert!(
                said.contains("text_model.onnx: its weights lie in") && said.contains(expected),
                "{location:?} in {declared_in}: {said}"
            );
            let subgraph = GraphSource::subgraph(path("text_model.onnx"), vec!["y".into()]);
            let error = subgraph.open(GraphOptions::default()).unwrap_err();
            assert_eq!(error.kind, OnnxErrorKind::Load);
            assert!(error.what.contains(expected), "{location:?} in {declared_in}: {error}");
        }
    }
}

#[test]
fn a_long_location_is_not_repeated_in_full() {
    let graph = model(&[bytes(5, &external("w", &format!("../{}", "x".repeat(100_000))))]);
    let folder = directory(&[("text_model.onnx", graph)]);
    let said = ModelDirectory::open(folder.path(), None).unwrap_err().to_string();
    assert!(said.contains("its weights lie in \"../xxx") && said.len() < 1000, "{}", said.len());
}

#[test]
fn weights_in_folders_below_and_links_inside_the_model_are_part_of_it() {
    let (_, graph) = adders("./sub/link").remove(0);
    let folder = directory(&[("graph.onnx", graph)]);
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("weights"), weights()).unwrap();
    symlink("../weights", folder.path().join("sub/link")).unwrap();
    let source = GraphSource::file(folder.path().join("graph.onnx"));
    assert_eq!(source.external_file("./sub/link").unwrap(), folder.path().canonicalize().unwrap().join("weights"));
    assert_eq!(sum(source.open(GraphOptions::default()).unwrap()), [4.0, 6.0]);
    let subgraph = GraphSource::subgraph(folder.path().join("graph.onnx"), vec!["y".into()]);
    assert_eq!(sum(subgraph.open(GraphOptions::default()).unwrap()), [4.0, 6.0]);
}
