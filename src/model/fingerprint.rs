//! The first half of a fingerprint, the hash of a model: BLAKE3 of every file, binding and role on which a caption or an embedding
//! depends. In: the files of a model directory. Out: 16 hexadecimal digits. Each file is read once. The other half, which
//! names the settings, is made by [`caption_fingerprint`](crate::engine::caption_fingerprint).

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ConfigFiles;
use super::directory::ModelDirectory;
use super::error::{ModelError, Problem};
use super::graph_file::Hashes;
use super::producer::Producer;
use super::role::Role;
use crate::support::canonical::Canonical;
use crate::support::regular_file;

/// The name under which the image preprocessing file is hashed, whatever the file is called.
const PREPROCESSOR: &str = "preprocessor";

impl ModelDirectory {
    /// A hash of everything in the directory on which captions depend: all graphs with their weights and bindings, tokenizer and
    /// configuration. `generation_config.json` counts only through the settings resolved from it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn caption_model_hash(&self) -> Result<String, ModelError> {
        self.model_hash("caption", &Role::ALL)
    }

    /// A hash of everything in the directory on which embeddings depend: the vision, text and fusion graphs with their weights and
    /// bindings, tokenizer and configuration.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn embedding_model_hash(&self) -> Result<String, ModelError> {
        self.model_hash("embedding", &[Role::Vision, Role::Text, Role::Fusion])
    }

    /// BLAKE3 of the image preprocessing file, if there is one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) fn preprocessor_hash(&self) -> Result<Option<blake3::Hash>, ModelError> {
        Ok(self.hashes()?.files.get(PREPROCESSOR).copied())
    }

    fn model_hash(&self, kind: &str, roles: &[Role]) -> Result<String, ModelError> {
        let hashes = self.hashes()?;
        let mut canonical = Canonical::default();
        canonical.text("kind", kind);
        for role in roles {
            canonical.group(tag(*role), |graph| {
                for hash in hashes.graphs.get(role).into_iter().flatten() {
                    graph.bytes("file", hash.as_bytes());
                }
                for (input, producer) in self.bindings.of(*role) {
                    graph.group("input", |bound| {
                        bound.text("name", input);
                        encode(producer, bound);
                    });
                }
            });
        }
        for (name, hash) in &hashes.files {
            canonical.bytes(name, hash.as_bytes());
        }
        Ok(canonical.hash().to_hex()[..16].to_owned())
    }

    fn hashes(&self) -> Result<&Hashes, ModelError> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let hash = |path: &Path| {
            let mut hasher = blake3::Hasher::new();
            regular_file::open(path)
                .and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize()))
                .map_err(|error| {
                    let file = path.strip_prefix(&self.path).unwrap_or(path).display().to_string();
                    ModelError::one(&self.path, Problem::new(file, format!("not readable: {error}")))
                })
        };
        let mut hashes = Hashes { graphs: BTreeMap::new(), files: BTreeMap::new() };
        // one file may play several roles
        let mut known: BTreeMap<&Path, blake3::Hash> = BTreeMap::new();
        for (role, graph) in &self.graphs {
            let mut of_role = Vec::new();
            for file in std::iter::once(&graph.source.path).chain(&graph.external) {
                let made = known.get(file.as_path()).copied().map_or_else(|| hash(file), Ok)?;
                known.insert(file, made);
                of_role.push(made);
            }
            hashes.graphs.insert(*role, of_role);
        }
        let [template, template_json] = ConfigFiles::CHAT_TEMPLATE;
        let [special_tokens, added_tokens] = ConfigFiles::SPECIAL_TOKENS;
        let tokens = [Self::TOKENIZER, ConfigFiles::TOKENIZER_CONFIG, special_tokens, added_tokens];
        for name in tokens.into_iter().chain([ConfigFiles::CONFIG, template, template_json]) {
            let path = self.path.join(name);
            if path.is_file() {
                hashes.files.insert(name, hash(&path)?);
            }
        }
        if let Some(name) = self.config.preprocessor_file() {
            hashes.files.insert(PREPROCESSOR, hash(&self.path.join(name))?);
        }
        Ok(self.hashes.get_or_init(|| hashes))
    }
}

/// The tag of a role in fingerprints; never to be changed.
const fn tag(role: Role) -> &'static str {
    match role {
        Role::Vision => "vision",
        Role::Text => "text",
        Role::Fusion => "fusion",
        Role::Embed => "embed",
        Role::Encoder => "encoder",
        Role::Prefill => "prefill",
        Role::Decoder => "decoder",
    }
}

/// Adds what feeds an input. The tags are never to be changed.
fn encode(producer: &Producer, to: &mut Canonical) {
    let output = |to: &mut Canonical, how: &str, role: Role, output: &str| {
        to.group(how, |from| from.text(tag(role), output));
    };
    match producer {
        Producer::Pixels => to.text("from", "pixels"),
        Producer::PixelMask => to.text("from", "pixel_mask"),
        Producer::Tokens(field) => to.text("tokens", field),
        Producer::Output(role, name) => output(to, "output", *role, name),
        Producer::Ones(role, name) => output(to, "ones", *role, name),
        Producer::Prompt => to.text("from", "prompt"),
        Producer::PromptMask => to.text("from", "prompt_mask"),
        Producer::Step => to.text("from", "step"),
        Producer::StepOutput(role, name) => output(to, "step_output", *role, name),
        Producer::Positions => to.text("from", "positions"),
        Producer::StepMask => to.text("from", "step_mask"),
        Producer::Cache(name) => to.text("state", name),
        Producer::StaticCache(name) => to.text("kept", name),
        Producer::HasPast => to.text("from", "has_past"),
    }
}
