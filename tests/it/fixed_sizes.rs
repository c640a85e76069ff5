//! Decoders that were exported for one number of rows, or for one number of tokens, give the captions of those that take any.

use std::path::Path;

use nightcap::engine::{GenerationOverrides, GenerationSettings};
use nightcap::model::{ModelDirectory, inspect};
use tempfile::TempDir;

use crate::families::captions_of;
use crate::generation::{Chosen, LAYOUTS, MODELS, TOLERANCE, assert_golden_captions, fixture, goldens, layout};
use crate::graph_writer::with_fixed_axis;
use crate::towers::copy;

/// A run for each row takes long, so these are few.
const FEW: Chosen = (&[3], |case| ["greedy", "beam", "beam_prompt"].contains(&case));

/// Gives `axis` of the inputs of every graph of `folder` the size `size`; of inputs that `chosen` is true for.
fn fix(folder: &Path, axis: usize, size: u64, chosen: fn(&str, usize) -> bool) {
    let mut graphs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fix(&path, axis, size, chosen);
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            let before = std::fs::read(&path).unwrap();
            std::fs::write(&path, with_fixed_axis(&before, axis, size, chosen)).unwrap();
            graphs += 1;
        }
    }
    assert!(graphs > 0 || folder.join("onnx").is_dir(), "{}", folder.display());
}

/// Every input with a row for each image takes `rows` rows.
fn fix_rows(folder: &TempDir, rows: u64) {
    fix(folder.path(), 0, rows, |_, axes| axes > 1);
}

#[test]
fn decoders_of_every_layout_that_take_one_number_of_rows_give_the_golden_captions() {
    let goldens = goldens();
    for (rows, model) in [(1, MODELS[0]), (4, MODELS[0]), (1, MODELS[1]), (4, MODELS[1])] {
        for (name, files) in LAYOUTS {
            let folder = layout(model, files, "");
            fix_rows(&folder, rows);
            let directory = ModelDirectory::open(folder.path(), None).unwrap();
            assert_eq!(directory.decoder_batch(), Some(rows as usize));
            let name = format!("{name}, {rows} rows at a time");
            let worst = assert_golden_captions(&goldens, model, &name, folder.path(), FEW);
            assert!(worst < TOLERANCE, "{model}, {name}: {worst}");
            let said = if rows == 1 { "one row at a time".to_owned() } else { format!("{rows} rows at a time") };
            let report = inspect(folder.path(), None).to_string();
            assert!(report.contains(&format!("{said}, because its batch is fixed")), "{report}");
        }
    }
}

#[test]
fn families_whose_graphs_take_one_number_of_rows_give_the_golden_captions() {
    for (family, rows) in [("blip", 2), ("git", 1), ("llava", 2), ("smolvlm", 1), ("florence2", 2), ("coca", 2)] {
        let folder = copy(family);
        fix_rows(&folder, rows);
        captions_of(family, folder.path(), false, &[3]);
    }
}

#[test]
fn a_decoder_without_a_cache_that_takes_one_number_of_tokens_gives_the_golden_captions() {
    let tokens = |name: &str, axes: usize| name == "input_ids" && axes == 2;
    let (goldens, (name, files)) = (goldens(), LAYOUTS[2]);
    for model in MODELS {
        let folder = layout(model, files, "");
        fix(folder.path(), 1, 20, tokens);
        let worst = assert_golden_captions(&goldens, model, &format!("{name}, 20 tokens"), folder.path(), FEW);
        assert!(worst < TOLERANCE, "{model}: {worst}");
        fix_rows(&folder, 4);
        let worst = assert_golden_captions(&goldens, model, &format!("{name}, 4 x 20 tokens"), folder.path(), FEW);
        assert!(worst < TOLERANCE, "{model}: {worst}");
    }
    let folder = layout("trocr", files, "");
    std::fs::copy(fixture("trocr").join("generation_config.json"), folder.path().join("generation_config.json"))
        .unwrap();
    fix(folder.path(), 1, 6, tokens);
    let resolve = |max_new_tokens| {
        let directory = ModelDirectory::open(folder.path(), None).unwrap();
        let overrides = GenerationOverrides { max_new_tokens: Some(max_new_tokens), ..GenerationOverrides::default() };
        GenerationSettings::resolve(&directory, &overrides).map(|settings| settings.max_new_tokens)
    };
    assert_eq!(resolve(6).unwrap(), 6);
    let error = resolve(7).unwrap_err().to_string();
    assert!(error.contains("decoder_model.onnx gives the decoder 6 positions"), "{error}");
    assert!(error.contains("set max_new_tokens to at most 6"), "{error}");
}

#[test]
fn a_prefill_that_takes_one_number_of_tokens_takes_no_other_prompt() {
    let folder = layout("trocr", LAYOUTS[1].1, "");
    let graph = folder.path().join("decoder_model.onnx");
    let fixed = with_fixed_axis(&std::fs::read(&graph).unwrap(), 1, 3, |name, _| name == "input_ids");
    std::fs::write(&graph, fixed).unwrap();
    let directory = ModelDirectory::open(folder.path(), None).unwrap();
    let error = GenerationSettings::resolve(&directory, &GenerationOverrides::default()).unwrap_err().to_string();
    assert!(error.contains("decoder_model.onnx: it was exported for exactly 3 tokens"), "{error}");
}
