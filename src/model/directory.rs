//! Reads a model directory. In: a folder and a precision. Out: graph files by role with their declarations, bindings, configuration,
//! tokenizer, embedding widths. No weights are read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::binding::Bindings;
use super::config::{ConfigFiles, Sourced};
use super::embedding::{Context, EmbeddingPort, choose};
use super::error::{ModelError, Problem};
use super::family;
use super::first_step::{decoder_can_prefill, static_cache_outputs};
use super::graph_file::{GraphFile, Hashes};
use super::joint;
use super::layout;
use super::overrides::Overrides;
use super::producer::{Producer, reads_tokens};
use super::role::Role;
use crate::onnx::{DataType, Port};

/// A model directory whose graphs and files fit together.
#[derive(Debug)]
pub struct ModelDirectory {
    pub(super) path: PathBuf,
    pub(super) graphs: BTreeMap<Role, GraphFile>,
    pub(super) unused: Vec<String>,
    pub(super) bindings: Bindings,
    pub(super) static_cache_outputs: Option<Vec<String>>,
    pub(super) config: ConfigFiles,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) embeddings: BTreeMap<Role, EmbeddingPort>,
    pub(super) hashes: OnceLock<Hashes>,
}

impl ModelDirectory {
    /// The output of a fusion graph that rates how well image and text match, logits `[batch, 2]` of no and yes.
    pub const MATCH: &'static str = "itm_logits";

    /// Opens the model directory at `path` with graphs of `precision` (`None`: the files without
    /// suffix, float32; if there are none, and the graphs that there are have one precision, that one).
    /// Reads declarations and settings only, no weights.
    ///
    /// # Errors
    /// Names every file, input and setting that is missing or does not fit.
    pub fn open(path: &Path, precision: Option<&str>) -> Result<Self, ModelError> {
        let (directory, problems) = Self::survey(path, precision);
        if problems.is_empty() {
            Ok(directory)
        } else {
            Err(ModelError::Directory { path: path.to_path_buf(), problems })
        }
    }

    /// Reads as much of `path` as possible and lists every problem.
    pub(super) fn survey(path: &Path, precision: Option<&str>) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut directory = Self {
            path: path.to_path_buf(),
            graphs: BTreeMap::new(),
            unused: Vec::new(),
            bindings: Bindings::default(),
            static_cache_outputs: None,
            config: ConfigFiles::default(),
            tokenizer: None,
            embeddings: BTreeMap::new(),
            hashes: OnceLock::new(),
        };
        if !path.is_dir() {
            let found = if path.exists() { "a file" } else { "nothing" };
            problems.push(Problem::new(".", format!("expected a directory, found {found}")));
            return (directory, problems);
        }
        let overrides = Overrides::read(path, &mut problems);
        let layout = layout::find(path, precision, &overrides, &mut problems);
        directory.unused = layout.unused;
        let towers = layout.chosen.iter().filter(|(role, _)| matches!(role, Role::Vision | Role::Text));
        let towers = towers.map(|(role, chosen)| (*role, layout::tower_folder(&chosen.file)));
        let towers = towers.filter(|(_, folder)| !folder.is_empty()).collect();
        directory.config = ConfigFiles::read(path, &towers, &mut problems);
        directory.tokenizer = directory.config.tokenizer().map(|file| path.join(file));
        // a family that cannot run is named, and not the first of its inputs that nothing feeds
        if overrides.graphs.is_empty()
            && let Some(problem) = family::refusal(&directory.config)
        {
            directory.unused.extend(layout.chosen.into_values().map(|chosen| chosen.file));
            directory.unused.sort_unstable();
            directory.unused.dedup();
            return (directory, vec![problem]);
        }
        let has_files = !layout.chosen.is_empty() || !directory.unused.is_empty();
        for (role, chosen) in joint::assign(path, layout.chosen, &overrides, &directory.config, &mut problems) {
            match chosen {
                Ok(graph) => {
                    directory.graphs.insert(role, graph);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if directory.graphs.is_empty() {
            let hint = family::advice(path, &directory.config).filter(|_| !has_files);
            if let (Some(problem), Some(hint)) = (problems.last_mut().filter(|problem| problem.file == "."), hint) {
                *problem = problem.clone().with_hint(hint);
            }
            return (directory, problems);
        }
        // a prefill graph that the user names is used
        let named = overrides.graphs.contains_key(&Role::Prefill);
        if !named && decoder_can_prefill(&directory.graphs) {
            directory.unused.extend(directory.graphs.remove(&Role::Prefill).map(|graph| graph.file));
        }
        directory.bindings = Bindings::resolve(&directory.graphs, &overrides, &mut problems);
        if !named {
            directory.static_cache_outputs = static_cache_outputs(&directory.graphs, &directory.bindings);
        }
        directory.config.check_sizes(&mut problems);
        directory.check_files(&mut problems);
        directory.check_outputs(&overrides, &mut problems);
        (directory, problems)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The graph that plays `role`.
    pub fn graph(&self, role: Role) -> Option<&GraphFile> {
        self.graphs.get(&role)
    }

    /// The bytes of the graph file `file` and its weights; 0 if it plays no role.
    pub fn bytes_of(&self, file: &str) -> u64 {
        self.graphs.values().find(|graph| graph.file == file).map_or(0, |graph| graph.bytes)
    }

    /// What feeds every graph input.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The outputs of the prefill graph that are static cache entries, in the order of the decoder's inputs, if the prefill graph is
    /// needed for nothing else: the decoder graph can run the rest of the prefill.
    pub fn static_cache_outputs(&self) -> Option<&[String]> {
        self.static_cache_outputs.as_deref()
    }

    /// The configuration files.
    pub fn config(&self) -> &ConfigFiles {
        &self.config
    }

    /// The parsed image preprocessing file, with its name. A directory with a vision graph has one.
    pub fn preprocessor(&self) -> Option<&Sourced<serde_json::Value>> {
        self.config.preprocessor()
    }

    /// The element type of the vision graph's pixel values, if there is one.
    pub fn pixel_type(&self) -> Option<DataType> {
        Some(self.pixels()?.dtype)
    }

    /// The vision graph's input of pixel values, if there is one.
    pub fn pixels(&self) -> Option<&Port> {
        let mut inputs = self.bindings.of(Role::Vision).iter();
        let (pixels, _) = inputs.find(|(_, producer)| *producer == Producer::Pixels)?;
        self.graph(Role::Vision)?.header.input(pixels)
    }

    /// `tokenizer.json`, if there is one. A directory with a text or decoder graph has one.
    pub fn tokenizer(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// Whether it takes images.
    pub fn takes_images(&self) -> bool {
        self.graphs.contains_key(&Role::Vision)
    }

    /// Whether it can generate captions.
    pub fn can_caption(&self) -> bool {
        self.graphs.contains_key(&Role::Decoder)
    }

    /// Whether a row's text is fused with its image.
    pub fn uses_side_text(&self) -> bool {
        self.graphs.contains_key(&Role::Fusion) && (self.graphs.contains_key(&Role::Text) || self.fuses_tokens())
    }

    /// Whether the fusion graph takes tokens, so that a row without a text has nothing to fuse.
    pub fn fuses_tokens(&self) -> bool {
        self.graphs.get(&Role::Fusion).is_some_and(reads_tokens)
    }

    /// Whether the fusion graph rates how well an image and a text match.
    pub fn matches_images_with_texts(&self) -> bool {
        self.graphs.get(&Role::Fusion).is_some_and(|fusion| fusion.header.output(Self::MATCH).is_some())
    }

    /// The output that holds the embedding of `role`, if it has one.
    pub fn embedding(&self, role: Role) -> Option<&EmbeddingPort> {
        self.embeddings.get(&role)
    }

    /// The width of image embeddings, if the model has them.
    pub fn image_embedding_dim(&self) -> Option<usize> {
        self.embedding(Role::Vision).map(|port| port.width)
    }

    /// The width of text embeddings, if the model has them.
    pub fn text_embedding_dim(&self) -> Option<usize> {
        self.embedding(Role::Text).map(|port| port.width)
    }

    /// The width of fused embeddings, if the model has them.
    pub fn fused_embedding_dim(&self) -> Option<usize> {
        self.embedding(Role::Fusion).map(|port| port.width)
    }

    /// How many tokens of one sequence the graphs of `roles` can process: [`ConfigFiles::decoder_positions`], if one of them holds a
    /// table of position embeddings. `None` where positions are computed (rotary) or not used (recurrent decoders): such a graph
    /// runs on longer sequences than it was trained on.
    pub fn position_limit(&self, roles: &[Role]) -> Option<Sourced<usize>> {
        /// Tables of BART and its relatives have two rows more, those of `CoCa` one for a class token.
        const MORE_ROWS: usize = 2;
        let positions = self.config.decoder_positions()?;
        let sizes = positions.value..=positions.value.saturating_add(MORE_ROWS);
        let has_table = |role: &Role| {
            self.graphs.get(role).is_some_and(|graph| graph.header.table_sizes.range(sizes.clone()).next().is_some())
        };
        roles.iter().any(has_table).then_some(positions)
    }

    /// How many rows the decoder takes at once, if it was exported for that number and no other.
    pub fn decoder_batch(&self) -> Option<usize> {
        [Role::Encoder, Role::Embed, Role::Prefill, Role::Decoder].into_iter().find_map(|role| self.fixed_batch(role))
    }

    /// How many tokens the prefill graph of a decoder takes, if it was exported for that number and no other.
    pub fn prefill_tokens(&self) -> Option<usize> {
        self.tokens_of(Role::Prefill)
    }

    /// How many tokens a decoder without a cache takes, with its file, if it was exported for that number and no other.
    pub fn uncached_tokens(&self) -> Option<(&str, usize)> {
        let mut inputs = self.bindings.of(Role::Decoder).iter();
        if inputs.any(|(_, by)| matches!(by, Producer::Cache(_) | Producer::StaticCache(_))) {
            return None;
        }
        Some((self.graph(Role::Decoder)?.file.as_str(), self.tokens_of(Role::Decoder)?))
    }

    fn tokens_of(&self, role: Role) -> Option<usize> {
        let header = &self.graph(role)?.header;
        let mut inputs = self.bindings.of(role).iter();
        inputs.find_map(|(input, by)| {
            matches!(by, Producer::Step | Producer::StepOutput(..)).then(|| header.input(input)?.fixed(1)).flatten()
        })
    }

    /// Whether images and texts can be compared: both have embeddings of one width, of towers of one family.
    pub fn compares_images_with_texts(&self) -> bool {
        self.image_embedding_dim().is_some()
            && self.image_embedding_dim() == self.text_embedding_dim()
            && self.config.towers_belong_together()
    }

    /// The batch that the graph of `role` takes, if it takes no other.
    pub fn fixed_batch(&self, role: Role) -> Option<usize> {
        let header = &self.graph(role)?.header;
        header.inputs.iter().find_map(|port| port.fixed(0).filter(|_| port.rank() > Some(1))).filter(|batch| *batch > 0)
    }

    /// The number of tokens that text and fusion graph take, if they take no other.
    pub fn fixed_text_length(&self) -> Option<usize> {
        [Role::Text, Role::Fusion].into_iter().find_map(|role| {
            let mut inputs = self.bindings.of(role).iter();
            let (name, _) = inputs.find(|(_, producer)| matches!(producer, Producer::Tokens(_)))?;
            self.graph(role)?.header.input(name)?.fixed(1)
        })
    }

    fn check_files(&self, problems: &mut Vec<Problem>) {
        let needs = |role: Role| self.graphs.get(&role).map(|graph| graph.file.as_str());
        let tokens = [Role::Text, Role::Decoder].into_iter().find_map(needs);
        let tokens = tokens.or_else(|| needs(Role::Fusion).filter(|_| self.fuses_tokens()));
        if let (Some(graph), None) = (tokens, &self.tokenizer) {
            problems.push(Problem::new(ConfigFiles::TOKENIZER, format!("missing, but {graph} works on tokens")).with_hint(
                "save the fast tokenizer: transformers' AutoTokenizer.from_pretrained(...).save_pretrained(DIR) writes it",
            ));
        }
        if let (Some(graph), None) = (needs(Role::Vision), self.config.preprocessor()) {
            let what = format!("missing, but {graph} takes images and nothing says their size and normalisation");
            problems.push(Problem::new(ConfigFiles::PREPROCESSOR[0], what).with_hint(
                "copy it from the model's repository; transformers' AutoImageProcessor.from_pretrained(...)\
                 .save_pretrained(DIR) writes it",
            ));
        }
    }

    fn check_outputs(&mut self, overrides: &Overrides, problems: &mut Vec<Problem>) {
        let both_towers = [Role::Vision, Role::Text].iter().all(|role| self.graphs.contains_key(role));
        for role in overrides.outputs.keys().filter(|role| !self.graphs.contains_key(role)) {
            problems.push(Problem::new(Overrides::FILE, format!("outputs.\"{role}\": there is no {role} graph")));
        }
        if let (Some(decoder), None) = (self.graphs.get(&Role::Decoder), self.graphs.get(&Role::Vision)) {
            problems.push(family::without_images(&decoder.file, &self.config));
        }
        for (&role, graph) in &self.graphs {
            let outputs: Vec<_> = graph.header.outputs.iter().map(|port| port.name.as_str()).collect();
            if role.generates() {
                let logits = graph.header.output("logits");
                if logits.is_none_or(|port| !port.dtype.is_float() || port.rank().is_some_and(|rank| rank != 3)) {
                    let found =
                        logits.map_or_else(|| outputs.join(", "), |port| format!("logits as {}", port.describe()));
                    let what =
                        format!("expected an output \"logits\", float [batch, tokens, vocabulary]; found {found}");
                    problems.push(Problem::new(&graph.file, what));
                }
                continue;
            }
            let used: Vec<_> = outputs.iter().copied().filter(|name| self.bindings.takes(role, name)).collect();
            if role == Role::Vision && used.len() > 1 {
                let what = format!("several vision outputs feed other graphs ({}); one is supported", used.join(", "));
                problems.push(Problem::new(Overrides::FILE, what));
            }
            let rates = role == Role::Fusion && outputs.contains(&Self::MATCH);
            if matches!(role, Role::Embed | Role::Encoder) {
                if used.is_empty() {
                    let what = format!("no graph uses its outputs ({})", outputs.join(", "));
                    problems.push(Problem::new(&graph.file, what));
                }
                continue;
            }
            let is_used = rates || !used.is_empty();
            let context = Context { overrides, config: &self.config, is_used, both_towers };
            match choose(role, graph, &context) {
                Ok(port) => self.embeddings.extend(port.map(|port| (role, port))),
                Err(problem) => problems.push(problem),
            }
        }
    }
}
