//! What `run` and `plan` do first: open everything the job names, and settle what will be written. Nothing is written here.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::json;

use crate::cli::JobArgs;
use crate::engine::{EngineOptions, GenerationOverrides, GenerationSettings};
use crate::error::Error;
use crate::job::Job;
use crate::manifest::Manifest;
use crate::model::{ModelDirectory, Sourced};
use crate::output::part::{OutputColumns, PartEncoder, RunStamp, part_schema};
use crate::plan::{Identity, Plan, Selection};
use crate::preprocess::{ImageProcessor, PREPROCESSING_VERSION};

/// A job with everything it names opened and checked.
pub(super) struct Prepared {
    pub(super) job: Job,
    pub(super) manifest: Manifest,
    pub(super) model: ModelDirectory,
    pub(super) processor: Option<Arc<ImageProcessor>>,
    pub(super) generation: Option<GenerationSettings>,
    pub(super) columns: OutputColumns,
    pub(super) schema: SchemaRef,
    pub(super) caption_fingerprint: Option<String>,
    pub(super) embedding_fingerprint: Option<String>,
    limit: Option<u64>,
}

/// Opens the job's manifest and model.
pub(super) fn prepare(args: &JobArgs) -> Result<Prepared, Error> {
    let job = Job::load(&args.job, &args.set)?;
    let manifest = Manifest::open(&job)?;
    let model = ModelDirectory::open(&job.model.path, job.model.precision.as_deref())?;
    let processor = match (&job.input.image, model.preprocessor()) {
        (Some(_), Some(config)) => Some(Arc::new(processor(&model, config)?)),
        _ => None,
    };
    let wants_caption = job.generation.enabled && job.input.image.is_some() && model.can_caption();
    let overrides = GenerationOverrides {
        strategy: job.generation.strategy.clone(),
        max_new_tokens: job.generation.max_new_tokens,
        min_new_tokens: job.generation.min_new_tokens,
        ..GenerationOverrides::default()
    };
    let generation = wants_caption.then(|| GenerationSettings::resolve(&model, &overrides)).transpose()?;
    let columns = columns(&job, &model, generation.is_some())?;
    let schema = part_schema(manifest.carried_fields(), &columns)?;
    let processing = match (&job.input.image, model.preprocessor()) {
        (Some(_), Some(config)) => json!({ "version": PREPROCESSING_VERSION, "config": config.value }),
        _ => json!(null),
    };
    let caption_settings = generation.as_ref().map(|settings| format!("{} {processing}", settings.canonical()));
    let caption_fingerprint = caption_settings.map(|settings| model.caption_fingerprint(&settings)).transpose()?;
    let embeds = [columns.image_embedding, columns.text_embedding, columns.fused_embedding].iter().any(Option::is_some);
    let embedding_settings = json!([job.embedding.dtype, processing]).to_string();
    let embedding_fingerprint = embeds.then(|| model.embedding_fingerprint(&embedding_settings)).transpose()?;
    let limit = args.limit;
    Ok(Prepared {
        job,
        manifest,
        model,
        processor,
        generation,
        columns,
        schema,
        caption_fingerprint,
        embedding_fingerprint,
        limit,
    })
}

/// The model's image preprocessing, which must give every image the same size: a batch is one tensor.
fn processor(model: &ModelDirectory, config: &Sourced<serde_json::Value>) -> Result<ImageProcessor, Error> {
    let processor = ImageProcessor::from_config(&config.value)?;
    if processor.output_size().is_some() {
        return Ok(processor);
    }
    let file = model.path().join(&config.source);
    let (file, settings) = (file.display(), processor.describe());
    Err(Error::Unfit(format!(
        "{file}: expected settings that give every image one size, found: {settings}\n\
         hint: images of varying sizes are not supported yet; a center crop, or a size with height and width, makes them equal"
    )))
}

/// Which columns this job and model can fill. What the job does not ask for, or the model cannot make, is left out.
fn columns(job: &Job, model: &ModelDirectory, caption: bool) -> Result<OutputColumns, Error> {
    let wants = &job.embedding;
    let has_image = job.input.image.is_some();
    let unfit = |what: &str, hint: &str| {
        Err(Error::Unfit(format!("the model in {}: {what}\nhint: {hint}", model.path().display())))
    };
    if has_image && !model.takes_images() {
        return unfit(
            "it has no vision graph, but the job names `input.image`",
            "leave `input.image` out to embed texts only",
        );
    }
    if !has_image && model.text_embedding_dim().is_none() {
        return unfit(
            "it gives no text embeddings, which is all a job without `input.image` makes",
            "use a model with a text graph",
        );
    }
    let has_text = job.input.text.is_some();
    let image_embedding = model.image_embedding_dim().filter(|_| has_image && wants.image);
    let text_embedding = model.text_embedding_dim().filter(|_| has_text && wants.text);
    let fused_embedding = model.fused_embedding_dim().filter(|_| has_image && wants.fused);
    let comparable = has_image && model.compares_images_with_texts();
    let columns = OutputColumns {
        caption,
        caption_similarity: caption && comparable && wants.caption_similarity,
        image_embedding,
        text_embedding,
        fused_embedding,
        image_text_similarity: comparable && has_text,
        image: has_image,
        dtype: wants.dtype,
    };
    let any_vector = [image_embedding, text_embedding, fused_embedding].iter().any(Option::is_some);
    if !caption && !any_vector {
        return unfit(
            "with these settings there is nothing to write",
            "switch `generation.enabled` or one of `[embedding]` on",
        );
    }
    Ok(columns)
}

impl Prepared {
    /// What the engine is loaded with.
    pub(super) fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            threads: self.job.runtime.threads,
            generation: self.generation.clone(),
            caption_similarity: self.columns.caption_similarity,
            images: self.columns.image,
            wants_fused: self.columns.fused_embedding.is_some(),
        }
    }

    /// Everything that two attempts at one run must have in common.
    pub(super) fn identity(&self) -> Identity {
        let schema = self.manifest.carried_fields();
        let carried: Vec<&String> = schema.iter().map(arrow::datatypes::Field::name).collect();
        let value = json!({
            "input": self.job.input,
            "generation": self.generation,
            "embedding": self.job.embedding,
            "columns": carried,
            "part_rows": self.job.output.part_rows,
            "caption_fingerprint": self.caption_fingerprint,
            "embedding_fingerprint": self.embedding_fingerprint,
            "limit": self.limit,
        });
        if let serde_json::Value::Object(identity) = value { identity } else { Identity::new() }
    }

    /// Which rows are in.
    pub(super) fn select(&self) -> Result<Selection, Error> {
        Ok(Selection::evaluate(&self.job, &self.manifest, self.limit)?)
    }

    /// The encoder of parts of the run that `plan` describes.
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
