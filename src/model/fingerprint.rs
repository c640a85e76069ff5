//! Fingerprints: short names for everything that decides what a caption or an embedding is. In: the files of a model
//! directory and the caller's resolved settings. Out: 16 hexadecimal digits of BLAKE3 for the directory, a dash, 16 for the
//! settings, so that planning can say which of the two changed. Every file is read once.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::ConfigFiles;
use super::directory::ModelDirectory;
use super::error::{ModelError, Problem};
use super::graph_file::Hashes;
use super::role::Role;

impl ModelDirectory {
    /// Names everything that decides captions: all graphs with their weights and bindings, tokenizer, configuration and
    /// `settings` (the caller's canonical text: resolved generation settings, preprocessing version, ...).
    /// `generation_config.json` counts only through the settings resolved from it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn caption_fingerprint(&self, settings: &str) -> Result<String, ModelError> {
        self.fingerprint("caption", &Role::ALL, settings)
    }

    /// Names everything that decides embeddings: the vision, text and fusion graphs with their weights and bindings,
    /// tokenizer, configuration and `settings` (the caller's canonical text: dtype, preprocessing version, ...).
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn embedding_fingerprint(&self, settings: &str) -> Result<String, ModelError> {
        self.fingerprint("embedding", &[Role::Vision, Role::Text, Role::Fusion], settings)
    }

    fn fingerprint(&self, kind: &str, roles: &[Role], settings: &str) -> Result<String, ModelError> {
        let hashes = self.hashes()?;
        let mut hasher = blake3::Hasher::new();
        // every part with its length, so that no two lists of parts read the same
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(kind.as_bytes());
        for role in roles {
            for hash in hashes.graphs.get(role).into_iter().flatten() {
                part(role.name().as_bytes());
                part(hash.as_bytes());
            }
            for (input, producer) in self.bindings.of(*role) {
                part(format!("{role}.{input} = {producer}").as_bytes());
            }
        }
        for (name, hash) in &hashes.files {
            part(name.as_bytes());
            part(hash.as_bytes());
        }
        let (model, settings) = (hasher.finalize().to_hex(), blake3::hash(settings.as_bytes()).to_hex());
        Ok(format!("{}-{}", &model[..16], &settings[..16]))
    }

    fn hashes(&self) -> Result<&Hashes, ModelError> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let hash = |path: &Path| {
            let mut hasher = blake3::Hasher::new();
            std::fs::File::open(path)
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
        for name in [Self::TOKENIZER, ConfigFiles::TOKENIZER_CONFIG, ConfigFiles::CONFIG, template, template_json] {
            let path = self.path.join(name);
            if path.is_file() {
                hashes.files.insert(name, hash(&path)?);
            }
        }
        if let Some(name) = self.config.preprocessor_file() {
            hashes.files.insert("preprocessor", hash(&self.path.join(name))?);
        }
        Ok(self.hashes.get_or_init(|| hashes))
    }
}
