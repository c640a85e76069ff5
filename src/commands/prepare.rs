//! The first step of `run` and `plan`: opens everything that the job names and decides which columns are written. Writes nothing.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde_json::json;

use crate::cli::JobArgs;
use crate::engine::{Engine, EngineOptions, GenerationSettings, Models, caption_fingerprint, embedding_fingerprint};
use crate::error::Error;
use crate::job::{Job, VectorType};
use crate::manifest::Manifest;
use crate::model::ModelDirectory;
use crate::onnx::{DataType, Device, limit_device_memory};
use crate::output::part::columns::{OutputColumns, RunStamp, part_schema};
use crate::output::part::rows::Fingerprints;
use crate::output::part::writer::PartEncoder;
use crate::output::records::picture_source::ReadRules;
use crate::output::records::plan::{Identity, Plan, PlannedModel};
use crate::output::records::schema::recorded_columns;
use crate::output::store::OutputStore;
use crate::plan::PlanError;
use crate::plan::claim::Draft;
use crate::plan::decide::{Decision, decide};
use crate::plan::delta::RunRequest;
use crate::preprocess::{ImageProcessor, Preprocessor};
use crate::storage::{Location, Storage};
use crate::support::{failpoint, redact};

/// A job with everything it names opened and checked.
pub(super) struct PreparedJob {
    pub(super) job: Job,
    pub(super) storage: Arc<Storage>,
    pub(super) manifest: Manifest,
    pub(super) model: ModelDirectory,
    /// The model that `[embedding]` names, if it does.
    pub(super) embedder: Option<ModelDirectory>,
    pub(super) processor: Option<Arc<Preprocessor>>,
    pub(super) generation: Option<GenerationSettings>,
    pub(super) columns: OutputColumns,
    pub(super) schema: SchemaRef,
    pub(super) caption_fingerprint: Option<String>,
    pub(super) embedding_fingerprint: Option<String>,
    limit: Option<u64>,
    retry_failed: bool,
    full: bool,
}

/// Opens the job's manifest and model.
pub(super) fn prepare(args: &JobArgs) -> Result<PreparedJob, Error> {
    let job = Job::load(&args.job, &args.set)?;
    let limits = &job.limits;
    let timeout = Duration::from_millis(limits.fetch_timeout_ms);
    let storage = Storage::new(&job.storage, limits.retries, timeout).on_private_hosts(&limits.allow_private_hosts);
    let storage = Arc::new(storage);
    let manifest = Manifest::open(&job, &storage)?;
    failpoint::hit("after_manifest_open");
    let open = |location: &Location, precision: Option<&str>| -> Result<ModelDirectory, Error> {
        let folder = storage.local_copy(location).map_err(|error| {
            let why = crate::storage::explain(&error);
            Error::Unfit(format!("cannot fetch the model directory {location}: {why}"))
        })?;
        Ok(ModelDirectory::open(&folder, precision)?)
    };
    let model = open(&job.model.path, job.model.precision.as_deref())?;
    let embedder = job.embedding.model.as_ref().map(|location| open(location, None)).transpose()?;
    let vectors = embedder.as_ref().unwrap_or(&model);
    let columns = columns(&job, &model, vectors)?;
    let processor = match (&job.input.image, model.preprocessor()) {
        (Some(_), Some(_)) => {
            let embedding = embedder.as_ref().map(processor).transpose()?;
            let jpeg_scaling = job.input.jpeg_scaling;
            Some(Arc::new(Preprocessor { model: processor(&model)?, embedding, jpeg_scaling }))
        }
        _ => None,
    };
    let generation =
        columns.caption.then(|| GenerationSettings::resolve(&model, &job.generation.overrides)).transpose()?;
    if job.output.reuse_by_content {
        check_reuse(&job, generation.as_ref())?;
    }
    let takes_text = |model: &ModelDirectory| model.text_embedding_dim().is_some() || model.uses_side_text();
    if job.input.text.is_some() && !takes_text(&model) && !takes_text(vectors) {
        tracing::warn!("`input.text` has no effect: the model has no graph that takes a text");
    }
    let schema = part_schema(manifest.carried_fields(), &columns)?;
    let jpeg_scaling = job.input.jpeg_scaling;
    let caption_fingerprint = generation
        .as_ref()
        .map(|settings| caption_fingerprint(&model, settings, jpeg_scaling, embedder.as_ref()))
        .transpose()?;
    let half_precision = job.embedding.dtype == VectorType::F16;
    let embedding_fingerprint = columns
        .has_embedding_columns()
        .then(|| embedding_fingerprint(vectors, half_precision, jpeg_scaling))
        .transpose()?;
    let JobArgs { limit, retry_failed, full, .. } = *args;
    Ok(PreparedJob {
        job,
        storage,
        manifest,
        model,
        embedder,
        processor,
        generation,
        columns,
        schema,
        caption_fingerprint,
        embedding_fingerprint,
        limit,
        retry_failed,
        full,
    })
}

/// Refuses `output.reuse_by_content` where results depend on more than the content.
fn check_reuse(job: &Job, generation: Option<&GenerationSettings>) -> Result<(), Error> {
    let unfit = |why: &str, hint: &str| {
        Err(Error::Unfit(format!("`output.reuse_by_content` = true is not possible here: {why}\nhint: {hint}")))
    };
    if job.input.image.is_none() {
        return unfit("rows are found by their images, and the job has no `input.image`", "leave the key out");
    }
    if generation.is_some_and(|settings| !settings.is_deterministic()) {
        let why = "with sampling, rows of the same image and text have captions of their own";
        return unfit(why, "set generation.strategy to \"greedy\" or \"beam\", or leave the key out");
    }
    Ok(())
}

/// The model's image preprocessing. Every image must get the same size, since a batch is one tensor.
pub(super) fn processor(model: &ModelDirectory) -> Result<ImageProcessor, Error> {
    let Some(config) = model.preprocessor() else {
        let path = model.path().display();
        return Err(Error::Unfit(format!("the model in {path} takes no images, but the job names `input.image`")));
    };
    let processor = ImageProcessor::for_model(&config.value, model.config().config())?;
    let is_half = model.pixel_type() == Some(DataType::F16);
    let processor = if is_half { processor.with_half_precision() } else { processor };
    if let Some(size) = processor.output_size() {
        check_size(model, size, &config.source)?;
        return Ok(processor);
    }
    let file = model.path().join(&config.source);
    let (file, settings) = (file.display(), processor.describe());
    Err(Error::Unfit(format!(
        "{file}: expected settings that give every image one size, found: {settings}\n\
         hint: images of varying sizes are not supported yet; a center crop, or a size with height and width, makes them equal"
    )))
}

/// Refuses pixel values of `size`, height and width, that the vision graph does not take.
fn check_size(model: &ModelDirectory, (height, width): (u32, u32), source: &str) -> Result<(), Error> {
    let Some((port, takes)) = model.pixels().and_then(|port| Some((port, port.rank()?.checked_sub(2)?))) else {
        return Ok(());
    };
    let sides = [port.fixed(takes), port.fixed(takes + 1)];
    if sides.iter().zip([height, width]).all(|(side, given)| side.is_none_or(|side| side == given as usize)) {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "the model in {}: {source} makes images of {height} x {width} pixels, but its vision graph takes {} as {}\n\
         hint: copy the preprocessing file of the same model",
        model.path().display(),
        port.name,
        port.describe()
    )))
}

/// The columns that this job writes: captions from `model`, vectors from `vectors`. Columns that the job asks for must be
/// possible; by default all possible ones are written.
fn columns(job: &Job, model: &ModelDirectory, vectors: &ModelDirectory) -> Result<OutputColumns, Error> {
    let unfit = |what: &str, hint: &str| {
        Err(Error::Unfit(format!("the model in {}: {what}\nhint: {hint}", model.path().display())))
    };
    let (has_image, has_text) = (job.input.image.is_some(), job.input.text.is_some());
    if has_image && !model.takes_images() {
        let hint = "leave `input.image` out to embed texts only";
        return unfit("it has no vision graph, but the job names `input.image`", hint);
    }
    if !has_image && vectors.text_embedding_dim().is_none() {
        let what = "it gives no text embeddings, which is all a job without `input.image` makes";
        return unfit(what, "use a model with a text graph");
    }
    let wanted = |key: &str, asked: Option<bool>, width: Option<usize>, needs: &str| match (asked, width) {
        (Some(false), _) => Ok(None),
        (Some(true), None) => Err(Error::Unfit(format!(
            "`{key}` = true is not possible here: it needs {needs}\nhint: leave the key out to write what the model in {} can make",
            model.path().display()
        ))),
        (_, width) => Ok(width),
    };
    let asks = &job.embedding;
    let image_only = |width: Option<usize>| width.filter(|_| has_image);
    let can_caption = image_only(model.can_caption().then_some(1));
    let caption = wanted("generation.enabled", job.generation.enabled, can_caption, "a decoder graph")?.is_some();
    let comparable = has_image && vectors.compares_images_with_texts();
    let similarity = (caption && comparable).then_some(1);
    let needs = "captions, and image and text embeddings of one width";
    let similarity = wanted("embedding.caption_similarity", asks.caption_similarity, similarity, needs)?;
    let image = image_only(vectors.image_embedding_dim());
    let text = vectors.text_embedding_dim().filter(|_| has_text);
    let fused = image_only(vectors.fused_embedding_dim());
    let columns = OutputColumns {
        caption,
        caption_similarity: similarity.is_some(),
        image_embedding: wanted(
            "embedding.image",
            asks.image,
            image,
            "`input.image` and a vision graph with image_embeds",
        )?,
        text_embedding: wanted("embedding.text", asks.text, text, "`input.text` and a text graph with text_embeds")?,
        fused_embedding: wanted(
            "embedding.fused",
            asks.fused,
            fused,
            "`input.image` and a fusion graph with fused_embeds",
        )?,
        image_text_similarity: comparable && has_text,
        image_text_match: has_image && has_text && vectors.matches_images_with_texts(),
        image: has_image,
        dtype: asks.dtype,
    };
    if !caption && job.embedding.model.is_some() {
        let hint = "name the model for the vectors in `[model]`, and leave `embedding.model` out";
        return unfit("it writes no captions, and another model makes the vectors", hint);
    }
    if !caption && !columns.has_embedding_columns() {
        let hint = "switch `generation.enabled` or one of `[embedding]` on";
        return unfit("with these settings there is nothing to write", hint);
    }
    Ok(columns)
}

impl PreparedJob {
    /// Loads the job's models, once for each device.
    pub(super) fn load_models(&self) -> Result<Vec<Models>, Error> {
        let devices = &self.job.runtime.devices;
        if let Some(bytes) = self.job.runtime.device_memory_bytes {
            limit_device_memory(bytes);
        }
        let threads = self.job.runtime.threads.div_ceil(devices.len());
        devices.iter().map(|device| self.load_models_on(*device, threads)).collect()
    }

    fn load_models_on(&self, device: Device, threads: usize) -> Result<Models, Error> {
        let wants_fused = self.columns.fused_embedding.is_some() || self.columns.image_text_match;
        let options = EngineOptions {
            device,
            threads,
            repeatable: self.job.runtime.repeatable,
            generation: self.generation.clone(),
            caption_similarity: self.columns.caption_similarity,
            images: self.columns.image,
            wants_fused,
        };
        let Some(embedder) = &self.embedder else {
            return Ok(Models { model: Engine::load(&self.model, options)?, embedding: None });
        };
        let of_embedder = EngineOptions { generation: None, ..options.clone() };
        let options = EngineOptions { caption_similarity: false, wants_fused: false, ..options };
        let embedding = Some(Engine::load(embedder, of_embedder)?);
        Ok(Models { model: Engine::load(&self.model, options)?, embedding })
    }

    /// Carries the columns that OUTPUT has, in its order and with its types. Those that it does not have are left out, and named.
    pub(super) fn fit(&mut self, store: &OutputStore) -> Result<(), Error> {
        let Some(recorded) = recorded_columns(store)? else { return Ok(()) };
        let left_out = self.manifest.fit(&recorded);
        if !left_out.is_empty() {
            let names = left_out.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                "the manifest has columns that OUTPUT does not have, and they are left out: {names}\nhint: one OUTPUT has one schema; list the columns to carry in `output.columns` to be told no more"
            );
        }
        self.schema = part_schema(self.manifest.carried_fields(), &self.columns)?;
        Ok(())
    }

    /// What a new plan takes from this job; `sharded`: shards of the run start together.
    pub(super) fn draft(&self, sharded: bool) -> Draft<'_> {
        Draft {
            identity: self.identity(),
            manifest: &self.manifest,
            sharded,
            // `--full` asks for every row to be computed.
            reuse: self.job.output.reuse_by_content && !self.full,
            key: &self.job.input.key,
            part_rows: self.job.output.part_rows,
            failures: self.job.limits.failures,
            read_rules: ReadRules::of(&self.job.limits),
            vector_model: self.vector_model(),
            caption_fingerprint: self.caption_fingerprint.clone(),
            embedding_fingerprint: self.embedding_fingerprint.clone(),
            schema: &self.schema,
        }
    }

    /// The model that makes the vectors.
    fn vector_model(&self) -> Option<PlannedModel> {
        self.embedding_fingerprint.as_ref()?;
        let (location, precision) = match &self.job.embedding.model {
            Some(location) => (location, None),
            None => (&self.job.model.path, self.job.model.precision.clone()),
        };
        Some(PlannedModel { uri: location.to_string(), precision, jpeg_scaling: self.job.input.jpeg_scaling })
    }

    /// The settings that must be equal for two attempts to belong to one run.
    fn identity(&self) -> Identity {
        let schema = self.manifest.carried_fields();
        let carried: Vec<&String> = schema.iter().map(arrow::datatypes::Field::name).collect();
        // As written in the job, so that a difference is shown in terms of the job. The fingerprints cover the resolved settings.
        let mut generation = json!(self.job.generation.overrides);
        if let Some(settings) = generation.as_object_mut() {
            settings.retain(|_, value| !value.is_null());
        }
        let mut value = json!({
            "input": self.job.input,
            "output": self.columns,
            "columns": carried,
            "part_rows": self.job.output.part_rows,
            "reuse_by_content": self.job.output.reuse_by_content,
            "generation": generation,
            "caption_fingerprint": self.caption_fingerprint,
            "embedding_fingerprint": self.embedding_fingerprint,
            "limit": self.limit,
            "retry_failed": self.retry_failed,
            "full": self.full,
        });
        redact::strings_of(&mut value, redact::text);
        if let serde_json::Value::Object(identity) = value { identity } else { Identity::new() }
    }

    /// Selects the rows of a new run; `store` is OUTPUT, or None if there is none yet.
    pub(super) fn decide(&self, store: Option<&OutputStore>) -> Result<Decision, PlanError> {
        let fingerprints =
            Fingerprints { caption: self.caption_fingerprint.clone(), embedding: self.embedding_fingerprint.clone() };
        let request = RunRequest { fingerprints, retry_failed: self.retry_failed, full: self.full };
        decide(&self.job, &self.manifest, &self.storage, store, &request, self.limit)
    }

    /// The encoder of the parts of `plan`.
    pub(super) fn encoder(&self, plan: &Plan) -> PartEncoder {
        let stamp = RunStamp {
            run: plan.run.clone(),
            plan_digest: plan.digest(),
            run_seq: plan.run_seq,
            caption_fingerprint: plan.caption_fingerprint.clone(),
            embedding_fingerprint: plan.embedding_fingerprint.clone(),
        };
        PartEncoder::new(self.schema.clone(), self.columns.clone(), stamp)
    }
}
