//! Which file plays which role. In: the `.onnx` files of a directory, of its `onnx/` folder and of folders of towers, the wanted precision,
//! `nightcap.toml`'s graphs. Out: one file for each role that has one, with the reason, or problems.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::error::Problem;
use super::overrides::{Overrides, did_you_mean};
use super::role::Role;

/// A file chosen for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChosenFile {
    /// Relative to the model directory.
    pub(super) file: String,
    /// Why this file has this role.
    pub(super) why: String,
    /// Whether only the subgraph that computes the embedding of this role is run.
    pub(super) is_subgraph: bool,
}

/// What was found in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) chosen: BTreeMap<Role, ChosenFile>,
    /// Graph files that play no role.
    pub(super) unused: Vec<String>,
}

/// Precision names and their file-name suffixes, as optimum and transformers.js write them.
const PRECISIONS: [(&str, &str); 10] = [
    ("fp32", ""),
    ("fp16", "_fp16"),
    ("bf16", "_bf16"),
    ("int8", "_int8"),
    ("uint8", "_uint8"),
    ("quantized", "_quantized"),
    ("q8", "_quantized"),
    ("q4", "_q4"),
    ("q4f16", "_q4f16"),
    ("bnb4", "_bnb4"),
];

/// The file names by which the graph of a role is found, the preferred choice first. A choice is possible if all its files exist.
struct FileChoices {
    role: Role,
    choices: &'static [&'static [(Role, &'static str)]],
}

/// A graph that embeds images and texts and compares them, or one of both. The subgraph for images and the one for texts are run apart.
const JOINT: &str = "model";
/// Folders of towers, which hold a graph `model` and its files.
const TOWERS: [(Role, &[&str]); 2] = [
    (
        Role::Vision,
        &[
            "visual/model",
            "vision/model",
            "vision_model/model",
            "vision_encoder/model",
            "image_encoder/model",
            "image/model",
        ],
    ),
    (Role::Text, &["textual/model", "text/model", "text_model/model", "text_encoder/model"]),
];

const FILE_CHOICES: [FileChoices; 5] = [
    FileChoices {
        role: Role::Vision,
        choices: &[
            &[(Role::Vision, "vision_model")],
            // beside a vision encoder, encoder_model encodes the prompt with the image features in it
            &[(Role::Vision, "vision_encoder"), (Role::Encoder, "encoder_model")],
            &[(Role::Vision, "vision_encoder")],
            &[(Role::Vision, "encoder_model")],
            &[(Role::Vision, JOINT)],
            &[(Role::Vision, "visual/model")],
            &[(Role::Vision, "vision/model")],
            &[(Role::Vision, "vision_model/model")],
            &[(Role::Vision, "vision_encoder/model")],
            &[(Role::Vision, "image_encoder/model")],
            &[(Role::Vision, "image/model")],
        ],
    },
    FileChoices {
        role: Role::Text,
        choices: &[
            &[(Role::Text, "text_model")],
            &[(Role::Text, JOINT)],
            &[(Role::Text, "textual/model")],
            &[(Role::Text, "text/model")],
            &[(Role::Text, "text_model/model")],
            &[(Role::Text, "text_encoder/model")],
        ],
    },
    FileChoices {
        role: Role::Fusion,
        choices: &[&[(Role::Fusion, "fusion")], &[(Role::Fusion, "multimodal_encoder")]],
    },
    FileChoices { role: Role::Embed, choices: &[&[(Role::Embed, "embed_tokens")]] },
    FileChoices {
        role: Role::Decoder,
        choices: &[
            // two graphs were measured to be faster than a merged one
            &[(Role::Prefill, "decoder_model"), (Role::Decoder, "decoder_with_past_model")],
            &[(Role::Decoder, "decoder_model_merged")],
            &[(Role::Decoder, "decoder_with_past_model")],
            &[(Role::Decoder, "decoder_model")],
            &[(Role::Decoder, "multimodal_decoder")],
        ],
    },
];

/// Chooses a file for each role.
pub(super) fn find(
    folder: &Path,
    precision: Option<&str>,
    overrides: &Overrides,
    problems: &mut Vec<Problem>,
) -> Layout {
    let files = graph_files(folder);
    let mut layout = Layout::default();
    let only = only_precision(folder).filter(|_| precision.is_none() && overrides.graphs.is_empty());
    let wanted = precision.or(only.as_ref().map(|(precision, _)| *precision)).unwrap_or("fp32");
    let Some(&(_, suffix)) = PRECISIONS.iter().find(|(name, _)| *name == wanted) else {
        let problem = Problem::new("precision", format!("{wanted:?} is no known precision"));
        problems.push(problem.with_hint(did_you_mean(wanted, &PRECISIONS.map(|(name, _)| name))));
        return layout;
    };
    for (&role, file) in &overrides.graphs {
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let what =
                format!("graphs.{role} = {file:?}: expected a file below the model directory, found another path");
            problems.push(Problem::new(Overrides::FILE, what).with_hint("name it by a relative path without `..`"));
        } else if folder.join(file).is_file() {
            let why = format!("{} names it", Overrides::FILE);
            let is_subgraph = overrides.graphs.iter().any(|(other, named)| *other != role && named == file);
            layout.chosen.insert(role, ChosenFile { file: file.clone(), why, is_subgraph });
        } else {
            let problem = Problem::new(Overrides::FILE, format!("graphs.{role} = {file:?}, but there is no such file"));
            problems.push(problem.with_hint(did_you_mean(file, &files)));
        }
    }
    for FileChoices { role, choices } in &FILE_CHOICES {
        if overrides.graphs.contains_key(role) {
            continue;
        }
        let open = choices.iter().filter(|choice| choice.iter().all(|(role, _)| !layout.chosen.contains_key(role)));
        let find_file = |stem: &str, suffix: &str| {
            let name = format!("{stem}{suffix}.onnx");
            files.iter().find(|file| without_onnx_folder(file) == name).map(|file| (file, name, stem == JOINT))
        };
        let find = |choice: &&&[(Role, &str)]| {
            let files = choice.iter().map(|(role, stem)| Some((*role, find_file(stem, suffix)?)));
            files.collect::<Option<Vec<_>>>()
        };
        if let Some(found) = open.clone().find_map(|choice| find(&choice)) {
            for (role, (file, name, is_subgraph)) in found {
                let why = format!("its name is the standard one, {name}");
                layout.chosen.insert(role, ChosenFile { file: file.clone(), why, is_subgraph });
            }
            continue;
        }
        let stems: Vec<_> = open.flat_map(|choice| choice.iter().map(|(_, stem)| *stem)).collect();
        let others: Vec<_> = PRECISIONS
            .iter()
            .filter_map(|(precision, suffix)| {
                stems.iter().find_map(|stem| Some((precision, stem, find_file(stem, suffix)?.1)))
            })
            .collect();
        if let Some((other, stem, _)) = others.first() {
            let found: Vec<_> = others.iter().map(|(_, _, name)| name.as_str()).collect();
            let what = format!("missing; found {}", found.join(", "));
            problems.push(Problem::new(format!("{stem}{suffix}.onnx"), what).with_hint(format!(
                "precision = {other:?} takes what is there, and {} can name a file for each role",
                Overrides::FILE
            )));
        }
    }
    for (role, stems) in TOWERS.iter().filter(|(role, _)| !overrides.graphs.contains_key(role)) {
        let is_tower =
            |file: &&String| stems.iter().any(|stem| without_onnx_folder(file) == format!("{stem}{suffix}.onnx"));
        let chosen = layout.chosen.get(role).map(|chosen| &chosen.file);
        if let (Some(chosen), Some(other)) = (chosen, files.iter().filter(is_tower).find(|file| Some(*file) != chosen))
        {
            let what = format!("both {chosen} and {other} could be the {role} graph");
            problems.push(
                Problem::new(".", what)
                    .with_hint(format!("name one in {}: [graphs] {role} = {chosen:?}", Overrides::FILE)),
            );
        }
    }
    let outside = layout.chosen.values().find(|chosen| leads_outside(folder, &chosen.file));
    if let Some(ChosenFile { file, .. }) = outside {
        let what =
            "expected a file in a folder of the model directory, found a folder that is a link and leads out of it";
        problems.push(
            Problem::new(file, what)
                .with_hint("copy the folder into the model directory; links of single files are followed"),
        );
    }
    layout.unused =
        files.iter().filter(|file| layout.chosen.values().all(|chosen| chosen.file != **file)).cloned().collect();
    if let Some(problem) = unsupported(&layout).filter(|_| problems.is_empty()) {
        problems.push(problem);
    }
    layout
}

/// The precision of all graphs in `folder` that play a role, if they have one in common that is not float32, and the first file.
pub(super) fn only_precision(folder: &Path) -> Option<(&'static str, String)> {
    if !files_of(folder, "fp32").is_empty() {
        return None;
    }
    // a suffix that has two names counts once
    let others = PRECISIONS.iter().filter(|(precision, _)| *precision != "q8");
    let mut found =
        others.filter_map(|(precision, _)| Some((*precision, files_of(folder, precision).into_iter().next()?)));
    found.next().filter(|_| found.next().is_none())
}

/// The graph files of `folder` that have standard names of `precision`.
pub(super) fn files_of(folder: &Path, precision: &str) -> Vec<String> {
    let suffix = PRECISIONS.iter().find(|(name, _)| *name == precision).map(|(_, suffix)| *suffix);
    let names: Vec<_> =
        suffix.map(|suffix| known_files().iter().map(|file| suffixed(file, suffix)).collect()).unwrap_or_default();
    let is_known = |file: &String| names.contains(&without_onnx_folder(file));
    graph_files(folder).into_iter().filter(is_known).collect()
}

/// The name of the graph file `file` in `precision`.
pub(super) fn with_suffix(file: &str, precision: &str) -> String {
    let suffix = PRECISIONS.iter().find(|(name, _)| *name == precision).map_or("", |(_, suffix)| *suffix);
    suffixed(file, suffix)
}

fn suffixed(file: &str, suffix: &str) -> String {
    format!("{}{suffix}.onnx", file.strip_suffix(".onnx").unwrap_or(file))
}

/// Whether the folder of `file` is, by links, not below the model directory `folder`. The file itself may be a link to anywhere, as in the
/// cache of Hugging Face's hub.
fn leads_outside(folder: &Path, file: &str) -> bool {
    let inner = folder.join(file).parent().and_then(|inner| inner.canonicalize().ok());
    match (inner, folder.canonicalize()) {
        (Some(inner), Ok(folder)) => !inner.starts_with(folder),
        _ => true,
    }
}

/// Whether `folder`, or its `onnx/` folder, has any graph file.
pub fn has_graphs(folder: &Path) -> bool {
    !graph_files(folder).is_empty()
}

/// The problem of a directory without any graph that plays a role.
fn unsupported(layout: &Layout) -> Option<Problem> {
    if !layout.chosen.is_empty() {
        return None;
    }
    let hint = format!(
        "supported are {} (in the directory or its onnx/ folder, with a precision suffix if one is asked for); \
         graphs that do the same under other names can be named in {}",
        known_files().into_iter().filter(|file| !file.contains('/')).collect::<Vec<_>>().join(", "),
        Overrides::FILE
    );
    let what = match layout.unused.as_slice() {
        [] => "no .onnx file in this directory or its onnx/ folder".to_owned(),
        files => format!("no graph has a name that says what it does; found {}", files.join(", ")),
    };
    Some(Problem::new(".", what).with_hint(hint))
}

/// Every file name by which a role is found, without precision suffix.
fn known_files() -> Vec<String> {
    let stems =
        FILE_CHOICES.iter().flat_map(|entry| entry.choices).copied().flatten().map(|(_, stem)| format!("{stem}.onnx"));
    let mut files = Vec::new();
    for file in stems {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// The folder of the graph file `file`, which has the tower's other files; empty for the directory itself.
pub(super) fn tower_folder(file: &str) -> String {
    let file = without_onnx_folder(file);
    file.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
}

/// The `.onnx` files of the directory, then of its `onnx/` folder, then of towers' folders, each in the order of their names.
fn graph_files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let towers = TOWERS.iter().flat_map(|(_, stems)| *stems).filter_map(|stem| stem.split_once('/'));
    let towers = towers.flat_map(|(tower, _)| [format!("{tower}/"), format!("{tower}/onnx/")]);
    for prefix in [String::new(), "onnx/".to_owned()].into_iter().chain(towers) {
        let Ok(entries) = std::fs::read_dir(folder.join(&prefix)) else { continue };
        let mut here: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_file() && entry.path().extension().is_some_and(|ending| ending == "onnx"))
            .filter_map(|entry| Some(format!("{prefix}{}", entry.file_name().to_str()?)))
            .collect();
        here.sort_unstable();
        files.append(&mut here);
    }
    files
}

/// The path of a graph file with its folder `onnx/` left out.
fn without_onnx_folder(file: &str) -> String {
    file.split('/').filter(|part| *part != "onnx").collect::<Vec<_>>().join("/")
}
