//! What `model inspect` says about a directory. In: a folder. Out: a [`Description`], as data (serde) or as a report for
//! people (Display). A directory that cannot run is described as far as it can be read, with every problem.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::directory::ModelDirectory;
use super::error::{ModelError, Problem};
use super::generation_table::{GENERATION_SETTINGS, METADATA, Treatment, treatment};
use super::graph_file::GraphFile;
use super::pooling::Pooling;
use super::producer::Producer;
use super::role::Role;
use crate::onnx::Port;
use crate::preprocess::ImageProcessor;

/// Everything that is known about a model directory without running it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// The directory.
    pub path: String,
    /// Its graphs, in the order in which they run.
    pub graphs: Vec<GraphDescription>,
    /// Graph files that play no role.
    pub unused: Vec<String>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Which graph runs which steps of the decoder; `None` without a decoder.
    pub decoding: Option<String>,
    /// Image preprocessing settings.
    pub preprocessing: Vec<Setting>,
    /// Generation settings, before a job overrides them.
    pub generation: Vec<Setting>,
    /// The tokenizer's file.
    pub tokenizer: Option<String>,
    /// The first half of caption fingerprints, the hash of the model; `None` if the directory cannot run.
    pub caption_model_hash: Option<String>,
    /// The first half of embedding fingerprints, the hash of the model; `None` if the directory cannot run.
    pub embedding_model_hash: Option<String>,
    /// Why it cannot run; empty if it can.
    pub problems: Vec<Problem>,
}

/// One graph of a model directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GraphDescription {
    /// What it does.
    pub role: Role,
    /// Its file, relative to the directory.
    pub file: String,
    /// Why it has this role.
    pub why: String,
    /// Its size with its weights, in bytes.
    pub bytes: u64,
    /// Files beside it that hold weights.
    pub weights: Vec<String>,
    /// Its inputs.
    pub inputs: Vec<PortDescription>,
    /// Its outputs.
    pub outputs: Vec<PortDescription>,
    /// The output with its embedding, the pooling, and why; `None` if it gives none.
    pub embedding: Option<String>,
    /// The batch that it takes, if it takes no other.
    pub fixed_batch: Option<usize>,
    /// The number of tokens that it takes, if it takes no other.
    pub fixed_text_length: Option<usize>,
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortDescription {
    /// Its name.
    pub name: String,
    /// Element type and shape, e.g. `float32 [batch, 3, 224, 224]`.
    pub r#type: String,
    /// For an input what feeds it, for an output what it is used as; `None` for nothing.
    pub with: Option<String>,
}

/// What a model directory can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// It generates captions.
    pub captions: bool,
    /// A row's text is fused with its image.
    pub side_text: bool,
    /// Width of image embeddings.
    pub image_embedding: Option<usize>,
    /// Width of text embeddings.
    pub text_embedding: Option<usize>,
    /// Width of fused embeddings.
    pub fused_embedding: Option<usize>,
}

/// A setting with its file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// The file it came from.
    pub source: String,
    /// Why it has no effect, if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Describes the model directory at `path` with graphs of `precision`.
pub fn inspect(path: &Path, precision: Option<&str>) -> Description {
    let (directory, mut problems) = ModelDirectory::survey(path, precision);
    let mut hash = |made: Result<String, ModelError>| match made {
        Ok(hash) => Some(hash),
        Err(error) => {
            problems.push(Problem::new(".", error.to_string()));
            None
        }
    };
    let runs = !directory.graphs.is_empty();
    let caption_model_hash = runs.then(|| directory.caption_model_hash()).and_then(&mut hash);
    let embedding_model_hash = runs.then(|| directory.embedding_model_hash()).and_then(&mut hash);
    let generation = if directory.can_caption() { generation(&directory) } else { Vec::new() };
    let preprocessing = directory.preprocessor().into_iter().flat_map(|file| {
        let processor = ImageProcessor::for_model(&file.value, directory.config.config());
        let ignored = processor.map(|processor| processor.ignored().to_vec()).unwrap_or_default();
        let entries = file.value.as_object().into_iter().flatten();
        entries.map(move |(name, value)| Setting {
            name: name.clone(),
            value: value.clone(),
            source: file.source.clone(),
            note: ignored.contains(name).then(|| "not read by this image processor".to_owned()),
        })
    });
    Description {
        path: path.display().to_string(),
        graphs: directory.graphs.iter().map(|(role, graph)| describe(*role, graph, &directory)).collect(),
        unused: directory.unused.clone(),
        capabilities: Capabilities {
            captions: directory.can_caption(),
            side_text: directory.uses_side_text(),
            image_embedding: directory.image_embedding_dim(),
            text_embedding: directory.text_embedding_dim(),
            fused_embedding: directory.fused_embedding_dim(),
        },
        decoding: decoding(&directory),
        preprocessing: preprocessing.collect(),
        generation,
        tokenizer: directory.tokenizer().map(|_| directory.config.tokenizer().unwrap_or_default().to_owned()),
        caption_model_hash,
        embedding_model_hash,
        problems,
    }
}

/// The generation settings of the files, and those that have no effect with the reason.
fn generation(directory: &ModelDirectory) -> Vec<Setting> {
    let setting = |name: &str, note: Option<String>| {
        let found = directory.config.given(name)?;
        Some(Setting { name: name.into(), value: found.value.clone(), source: found.source, note })
    };
    let known = GENERATION_SETTINGS.iter().filter_map(|(name, treatment)| match treatment {
        Treatment::NoEffect(METADATA) => None,
        Treatment::NoEffect(why) if *name != "pad_token_id" => setting(name, Some(format!("no effect: {why}"))),
        _ => setting(name, None),
    });
    let unknown = directory
        .config
        .generation_names()
        .filter(|name| treatment(name).is_none())
        .filter_map(|name| setting(name, Some("no setting of transformers: it has no effect".to_owned())));
    known.chain(unknown).collect()
}

fn describe(role: Role, graph: &GraphFile, directory: &ModelDirectory) -> GraphDescription {
    let port = |port: &Port, with| PortDescription { name: port.name.clone(), r#type: port.describe(), with };
    let bound = directory.bindings.of(role);
    let producer = |name: &str| bound.iter().find(|(input, _)| input == name).map(|(_, producer)| producer.to_string());
    let usage = |output: &Port| {
        let name = output.name.as_str();
        let fed: Vec<_> = if role.generates() {
            directory.bindings.of(Role::Decoder).iter().map(|(_, by)| by).collect()
        } else {
            Vec::new()
        };
        let state = fed.iter().any(|by| matches!(by, Producer::Cache(from) if from == name));
        let first = role == Role::Prefill || directory.graph(Role::Prefill).is_none();
        let static_cache = first && fed.iter().any(|by| matches!(by, Producer::StaticCache(from) if from == name));
        let embedding = directory.embedding(role).filter(|port| port.output == name);
        let embedding = embedding.map(|port| match port.pooling {
            Pooling::Vector => "an embedding, normalised",
            Pooling::Cls => "an embedding: the first state, normalised",
            Pooling::Mean => "an embedding: the mean of the states, normalised",
            Pooling::Eos => "an embedding: the last state, normalised",
        });
        let matches = role == Role::Fusion && name == ModelDirectory::MATCH;
        let logits = role.generates() && name == "logits";
        let uses = [
            (embedding.is_some(), embedding.unwrap_or_default()),
            (matches, "how well image and text match"),
            (logits, "the next token"),
            (state, "the cache of the next step"),
            (static_cache, "the cache of all later steps"),
            (directory.bindings.takes(role, name), "another graph"),
        ];
        let uses: Vec<_> = uses.into_iter().filter_map(|(applies, use_)| applies.then_some(use_)).collect();
        (!uses.is_empty()).then(|| uses.join(", "))
    };
    GraphDescription {
        role,
        file: graph.file.clone(),
        why: graph.why.clone(),
        bytes: graph.bytes,
        weights: graph.header.external_files.iter().cloned().collect(),
        inputs: graph.header.inputs.iter().map(|input| port(input, producer(&input.name))).collect(),
        outputs: graph.header.outputs.iter().map(|output| port(output, usage(output))).collect(),
        embedding: directory.embedding(role).map(|port| match port.pooling {
            Pooling::Vector => format!("{} ({})", port.output, port.why),
            pooling => format!("{} with pooling {:?} ({})", port.output, pooling.name(), port.why),
        }),
        fixed_batch: directory.fixed_batch(role).filter(|_| !role.generates()),
        fixed_text_length: directory.fixed_text_length().filter(|_| matches!(role, Role::Text | Role::Fusion)),
    }
}

/// Which graph runs which steps of the decoder, and how its cache entries change from step to step.
fn decoding(directory: &ModelDirectory) -> Option<String> {
    let decoder = directory.graph(Role::Decoder)?;
    let count = |wanted: &dyn Fn(&str, &Producer) -> bool| {
        directory.bindings.of(Role::Decoder).iter().filter(|(input, by)| wanted(input, by)).count()
    };
    let grow = count(&|input, by| matches!(by, Producer::Cache(_)) && input.starts_with("past_key_values."));
    let replaced = count(&|_, by| matches!(by, Producer::Cache(_))) - grow;
    let static_cache = count(&|_, by| matches!(by, Producer::StaticCache(_)));
    let branches = count(&|_, by| matches!(by, Producer::HasPast)) > 0;
    let steps = match directory.graph(Role::Prefill) {
        Some(first) if directory.static_cache_outputs().is_some() => {
            format!("{} runs every step, {} only computes the static cache", decoder.file, first.file)
        }
        Some(first) => format!("{} runs the prefill, {} the later steps", first.file, decoder.file),
        None if branches => format!("{} runs every step, the prefill in a branch of its own", decoder.file),
        None => format!("{} runs every step", decoder.file),
    };
    let steps = match directory.decoder_batch() {
        Some(1) => format!("{steps}, one row at a time, because its batch is fixed"),
        Some(rows) => format!("{steps}, {rows} rows at a time, because its batch is fixed"),
        None => steps,
    };
    if grow + replaced + static_cache == 0 {
        return Some(format!("{steps}, on all tokens so far (there is no cache)"));
    }
    let steps = if directory.bindings.prompt_holds_image() {
        format!("image features replace the embeddings of the prompt's image tokens; {steps}")
    } else {
        steps
    };
    let kinds = [(grow, "growing"), (static_cache, "static"), (replaced, "replaced in each step")];
    let kinds = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
    Some(format!("{steps}; cache entries: {}", kinds.collect::<Vec<_>>().join(", ")))
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path)?;
        for graph in &self.graphs {
            writeln!(f, "\n{}: {} ({} bytes; {})", graph.role, graph.file, graph.bytes, graph.why)?;
            for weights in &graph.weights {
                writeln!(f, "  weights in {weights}")?;
            }
            for input in &graph.inputs {
                let from = input.with.as_deref().unwrap_or("NOTHING FEEDS IT");
                writeln!(f, "  in   {}  {}  <- {from}", input.name, input.r#type)?;
            }
            for output in &graph.outputs {
                let to = output.with.as_deref().map_or(String::new(), |to| format!("  -> {to}"));
                writeln!(f, "  out  {}  {}{to}", output.name, output.r#type)?;
            }
            if let Some(embedding) = &graph.embedding {
                writeln!(f, "  embedding: {embedding}")?;
            }
            if let Some(batch) = graph.fixed_batch {
                let rows = if batch == 1 { "one row".to_owned() } else { format!("{batch} rows") };
                writeln!(f, "  its batch is fixed: it runs on {rows} at a time")?;
            }
            if let Some(length) = graph.fixed_text_length {
                writeln!(f, "  its texts have a fixed length: each is padded to {length} tokens")?;
            }
        }
        if !self.unused.is_empty() {
            writeln!(f, "\nnot used: {}", self.unused.join(", "))?;
        }
        let width = |width: Option<usize>| width.map_or("no".to_owned(), |width| width.to_string());
        let can = self.capabilities;
        writeln!(f, "\ncaptions: {}", if can.captions { "yes" } else { "no" })?;
        writeln!(f, "text of a row is fused with its image: {}", if can.side_text { "yes" } else { "no" })?;
        writeln!(f, "image embedding: {}", width(can.image_embedding))?;
        writeln!(f, "text embedding: {}", width(can.text_embedding))?;
        writeln!(f, "fused embedding: {}", width(can.fused_embedding))?;
        if let Some(decoding) = &self.decoding {
            writeln!(f, "decoding: {decoding}")?;
        }
        writeln!(f, "tokenizer: {}", self.tokenizer.as_deref().unwrap_or("none"))?;
        for (title, settings) in [("preprocessing", &self.preprocessing), ("generation", &self.generation)] {
            if !settings.is_empty() {
                writeln!(f, "\n{title}:")?;
            }
            for setting in settings {
                let note = setting.note.as_ref().map_or(String::new(), |note| format!("; {note}"));
                writeln!(f, "  {} = {}  ({}{note})", setting.name, setting.value, setting.source)?;
            }
        }
        let hashes = [("caption", &self.caption_model_hash), ("embedding", &self.embedding_model_hash)];
        for (kind, hash) in hashes.into_iter().filter_map(|(kind, made)| Some((kind, made.as_ref()?))) {
            writeln!(f, "\n{kind} fingerprints begin with {hash}, the model's half")?;
        }
        for (number, problem) in self.problems.iter().enumerate() {
            if number == 0 {
                writeln!(f, "\nthis directory cannot run:")?;
            }
            writeln!(f, "{problem}")?;
        }
        Ok(())
    }
}
