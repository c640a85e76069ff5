//! What a directory of another precision consists of. In: a model directory of float32 graphs. Out: which files are converted, under which
//! names, and which are copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::directory::ModelDirectory;
use super::error::{ModelError, Problem};
use super::layout::{files_of, only_precision, with_suffix};
use super::overrides::Overrides;
use super::role::Role;

/// Endings of files that hold weights: those of graphs, and those of other frameworks.
const WEIGHTS: [&str; 12] =
    ["onnx", "onnx_data", "data", "safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "gguf", "tflite"];

/// The files of a directory of another precision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Graph files that are converted, relative to the directory, and their new names.
    pub graphs: BTreeMap<String, String>,
    /// Files of the directory that are copied: settings, tokenizer, model card, licence.
    pub copied: Vec<String>,
    /// Graph files that play no role and are left out.
    pub unused: Vec<String>,
}

impl Conversion {
    /// The files of the model directory `folder`, whose graphs are float32, in `precision`.
    ///
    /// # Errors
    /// When the directory cannot run, holds graphs of that precision already, or holds graphs of another precision only.
    pub fn of(folder: &Path, precision: &str) -> Result<Self, ModelError> {
        let refuse =
            |file: &str, what: String, hint: String| ModelError::one(folder, Problem::new(file, what).with_hint(hint));
        if let Some(file) = files_of(folder, precision).first() {
            let hint = format!("use it: precision = {precision:?} below [model]; or convert a copy without it");
            return Err(refuse(file, format!("the directory holds {precision} graphs already"), hint));
        }
        if let Some((other, file)) = only_precision(folder) {
            let hint = "convert the float32 model that it was made from".to_owned();
            return Err(refuse(&file, format!("expected float32 graphs, found {other} graphs only"), hint));
        }
        let directory = ModelDirectory::open(folder, Some("fp32"))?;
        let named: BTreeSet<String> = Overrides::read(folder, &mut Vec::new()).graphs.into_values().collect();
        let graphs: Vec<_> = Role::ALL.into_iter().filter_map(|role| directory.graph(role)).collect();
        let target = |file: &String| if named.contains(file) { file.clone() } else { with_suffix(file, precision) };
        let converted = graphs.iter().map(|graph| (graph.file.clone(), target(&graph.file))).collect();
        let weights: BTreeSet<&Path> = graphs.iter().flat_map(|graph| &graph.external).map(PathBuf::as_path).collect();
        let unreadable =
            |error: std::io::Error| ModelError::one(folder, Problem::new(".", format!("not readable: {error}")));
        let mut copied = side_files(folder).map_err(unreadable)?;
        // those of towers and of sentence-transformers are in folders of their own
        copied.extend(directory.config().files().values().filter(|file| file.contains('/')).cloned());
        let is_weight =
            |file: &String| folder.join(file).canonicalize().is_ok_and(|file| weights.contains(file.as_path()));
        let copied = copied.into_iter().filter(|file| !is_weight(file)).collect();
        Ok(Self { graphs: converted, copied, unused: directory.unused.clone() })
    }
}

/// The files of `folder` that are neither weights nor hidden, in the order of their names.
fn side_files(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        if path.is_file() && !name.starts_with('.') && ending.is_none_or(|ending| !WEIGHTS.contains(&ending)) {
            files.push(name.to_owned());
        }
    }
    files.sort_unstable();
    Ok(files)
}
