//! Vectors of queries: texts and images, encoded by the model whose vectors an OUTPUT has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::model::local_folder;
use super::prepare::processor;
use crate::engine::{Engine, EngineOptions, RowInput, embedding_fingerprint};
use crate::error::Error;
use crate::model::ModelDirectory;
use crate::output::records::plan::PlannedModel;
use crate::output::view::View;
use crate::preprocess::{DecodeLimits, Preprocessor, decode_scaled};
use crate::row::error::RowError;
use crate::storage::{Location, Storage, explain};
use crate::support::regular_file;

/// The largest file of a query, in bytes.
const LARGEST_FILE: u64 = 1 << 30;
/// As the default of `limits.max_image_pixels`.
const LIMITS: DecodeLimits = DecodeLimits { max_image_pixels: 200_000_000 };
/// Texts that are encoded at once.
const BATCH: usize = 32;

/// The model that encodes queries.
pub(super) struct QueryEncoder {
    model: ModelDirectory,
    jpeg_scaling: bool,
}

impl QueryEncoder {
    /// Opens `model`, or else the model that made the newest vectors of `view`.
    pub(super) fn open(view: &View, model: Option<&Path>) -> Result<Self, Error> {
        let planned = view.newest_plan()?.and_then(|plan| plan.vector_model);
        let (precision, jpeg_scaling) = match &planned {
            Some(PlannedModel { precision, jpeg_scaling, .. }) => (precision.clone(), *jpeg_scaling),
            None => (None, false),
        };
        let folder: PathBuf = match (model, planned) {
            (Some(folder), _) => local_folder(folder)?,
            (None, Some(planned)) => local_folder(Path::new(&planned.uri))?,
            (None, None) => {
                let what = "the records of this OUTPUT do not say which model made its vectors";
                return Err(Error::Unfit(format!("{what}\nhint: name its directory by --model")));
            }
        };
        Ok(Self { model: ModelDirectory::open(&folder, precision.as_deref())?, jpeg_scaling })
    }

    /// Refuses vectors that this model did not make.
    pub(super) fn check(&self, fingerprint: &str, half_precision: bool) -> Result<(), Error> {
        let ours = embedding_fingerprint(&self.model, half_precision, self.jpeg_scaling)?;
        if ours == fingerprint {
            return Ok(());
        }
        Err(Error::Unfit(format!(
            "the model in {} makes vectors of fingerprint {ours}, those of OUTPUT have {fingerprint}: they cannot be compared\n\
             hint: name the model that the job used by --model",
            self.model.path().display()
        )))
    }

    /// One vector for each text.
    pub(super) fn texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, Error> {
        let encoded = self.open_texts()?.encode(texts)?;
        let vector = |(text, encoded): (&String, TextVector)| {
            let found = encoded.map_err(|error| Error::Unfit(error.message))?;
            found.ok_or_else(|| Error::Unfit(format!("expected a text with words, found {text:?}")))
        };
        texts.iter().zip(encoded).map(vector).collect()
    }

    /// Loads the graph of texts.
    pub(super) fn open_texts(&self) -> Result<TextEngine, Error> {
        if self.model.text_embedding_dim().is_none() {
            return Err(self.unfit("it gives no text embeddings", "search by --image or --like"));
        }
        Ok(TextEngine(Engine::load(&self.model, EngineOptions { images: false, ..EngineOptions::default() })?))
    }

    /// The vector of an encoded image.
    pub(super) fn image(&self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let refuse = |error: RowError| Error::Unfit(format!("--image: {}", error.message));
        let preprocessor =
            Preprocessor { model: processor(&self.model)?, embedding: None, jpeg_scaling: self.jpeg_scaling };
        let scale = |width, height| preprocessor.jpeg_scale(width, height);
        let decoded = decode_scaled(bytes, LIMITS, scale).map_err(refuse)?;
        let pixels = preprocessor.process_within(LIMITS, &decoded.image).map_err(refuse)?;
        let mut engine = Engine::load(&self.model, EngineOptions::default())?;
        let image = engine.encode_images(&[&pixels.model])?.into_iter().next();
        let output = engine.run(&[RowInput { image, ..RowInput::default() }], 1)?.into_iter().next();
        let vector = output.transpose().map_err(refuse)?.and_then(|output| output.image_embedding);
        vector.ok_or_else(|| self.unfit("it gives no image embeddings", "search by words or --like"))
    }

    fn unfit(&self, what: &str, hint: &str) -> Error {
        Error::Unfit(format!("the model in {}: {what}\nhint: {hint}", self.model.path().display()))
    }
}

/// The vector of a text; None: it has no words.
pub(super) type TextVector = Result<Option<Vec<f32>>, RowError>;

/// The loaded graph of texts.
pub(super) struct TextEngine(Engine);

impl TextEngine {
    /// A vector for each text.
    pub(super) fn encode(&mut self, texts: &[String]) -> Result<Vec<TextVector>, Error> {
        let row = |text: &String| RowInput { text: Some(text.clone()), ..RowInput::default() };
        let outputs = self.0.run(&texts.iter().map(row).collect::<Vec<_>>(), BATCH)?;
        Ok(outputs.into_iter().map(|output| output.map(|output| output.text_embedding)).collect())
    }
}

/// The bytes of the file or object that an argument names; `option` is for messages.
pub(super) fn read_argument(option: &str, argument: &Path) -> Result<Bytes, Error> {
    let refuse = |why: &dyn std::fmt::Display| Error::Unfit(format!("{option} {}: {why}", argument.display()));
    let Some(uri) = argument.to_str().filter(|text| text.contains("://")) else {
        return regular_file::read(argument, LARGEST_FILE).map(Bytes::from).map_err(|error| refuse(&error));
    };
    let location = Location::Local(PathBuf::from("/")).resolve(uri);
    let location = location.map_err(|error| Error::Unfit(format!("{option}: {error}")))?;
    let remote = |error: &object_store::Error| Error::Unfit(format!("{option} {location}: {}", explain(error)));
    let storage = Arc::new(Storage::from_environment());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::System { action: "start a runtime", source })?;
    runtime.block_on(async {
        let (store, path) = storage.open(&location).map_err(|error| remote(&error))?;
        let found = store.get(&path).await.map_err(|error| remote(&error))?;
        if found.meta.size > LARGEST_FILE {
            let size = found.meta.size;
            return Err(Error::Unfit(format!(
                "{option} {location}: expected at most {LARGEST_FILE} bytes, found {size}"
            )));
        }
        found.bytes().await.map_err(|error| remote(&error))
    })
}
