//! `nightcap init`: a commented job file for a manifest, or for a folder of images.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::context::Context;
use super::manifest;
use crate::cli::InitArgs;
use crate::error::{Error, ExitStatus};
use crate::job::JobTemplate;
use crate::manifest::usual_names::{Given, JobColumns};
use crate::manifest::{ManifestError, read_schema};
use crate::model::has_graphs;
use crate::storage::paths::relative_to;
use crate::storage::{Location, NotALocation, Storage};
use crate::support::whole_file::{self, Existing};

/// The manifest that is written for a folder of images.
const MANIFEST: &str = "manifest.parquet";
/// Where a model directory is looked for, relative to the folder of the job file.
const MODELS: [&str; 2] = ["model", "sample_data/model"];

pub(super) fn execute(args: &InitArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let job = &args.output;
    refuse_existing(job, "give another name with -o, or remove it first")?;
    let folder = job.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder
        .canonicalize()
        .map_err(|error| Error::Unfit(format!("-o {}: cannot use its folder: {error}", job.display())))?;
    let model = model(args.model.as_deref(), &folder)?;
    let storage = Arc::new(Storage::from_environment());
    let source = text(&args.source)?;
    let here = std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
    let pattern = |text: &str| {
        Location::pattern(&here, text).map_err(|error: NotALocation| Error::Unfit(format!("FOLDER|MANIFEST: {error}")))
    };
    let (is_uri, is_glob) = (source.contains("://"), source.contains(['*', '?', '[', '{']));
    if !is_uri && !is_glob && !args.source.exists() {
        return Err(Error::Unfit(format!("expected a manifest or a folder of images, found nothing: {source}")));
    }
    let (manifest, origin, (first, schema)) = match read_schema(&[pattern(source)?], &storage) {
        Ok(schema) => (named(source, &here, &folder)?, None, schema),
        Err(ManifestError::NotFound { .. }) if args.source.is_dir() || (is_uri && !is_glob) => {
            let file = job.with_file_name(MANIFEST);
            refuse_existing(&file, &format!("to use it: nightcap init {}", file.display()))?;
            let status = manifest::make(&args.source, &file, false, context)?;
            if status != ExitStatus::Done {
                return Ok(status);
            }
            let images = named(source, &here, &folder)?;
            let origin = format!("To list new images in {MANIFEST}: nightcap manifest {images:?} -o {MANIFEST}");
            let location = Location::Local(folder.join(MANIFEST));
            (MANIFEST.to_owned(), Some(origin), read_schema(&[location], &storage)?)
        }
        Err(error) => return Err(error.into()),
    };
    let columns = choose(args, &first, &schema)?;
    let template = JobTemplate {
        origin,
        manifest,
        key: columns.key.column,
        image: columns.image.map(|choice| choice.column),
        text: columns.text.map(|choice| choice.column),
        model: model.clone(),
    };
    whole_file::write(job, template.render().as_bytes(), Existing::Keep)
        .map_err(|error| Error::Unfit(format!("cannot write {}: {error}", job.display())))?;
    let next = format!("nightcap run {}", job.display());
    if let Some(model) = model {
        let why = if args.model.is_some() { "as --model says" } else { "found there" };
        tracing::info!("model = {model:?}: {why}");
        tracing::info!(file = %job.display(), "wrote the job; next: {next}");
    } else {
        let looked = MODELS.map(|place| format!("{place}/")).join(" or ");
        tracing::warn!(
            "found no model directory in {looked}: fill in `path` below [model] before the run, or name it with --model DIR"
        );
        tracing::info!(file = %job.display(), "wrote the job; next: fill in the model, then {next}");
    }
    Ok(ExitStatus::Done)
}

/// Chooses the job's columns, and logs which and why.
fn choose(args: &InitArgs, manifest: &Location, schema: &SchemaRef) -> Result<JobColumns, Error> {
    let given = Given { key: args.key.as_deref(), image: args.image.as_deref(), text: args.text.as_deref() };
    let columns = JobColumns::choose(schema, &manifest.to_string(), given)?;
    let chosen = [("key", Some(&columns.key)), ("image", columns.image.as_ref()), ("text", columns.text.as_ref())];
    for (name, choice) in chosen {
        match choice {
            Some(choice) => tracing::info!("{name} = {:?}: {}", choice.column, choice.why),
            None if name == "image" => tracing::info!("no image column: the job embeds texts only"),
            None => {}
        }
    }
    Ok(columns)
}

fn refuse_existing(file: &Path, hint: &str) -> Result<(), Error> {
    if std::fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    Err(Error::Unfit(format!("{} exists already, and nothing was written\nhint: {hint}", file.display())))
}

/// An argument that is written into the job file.
fn text(argument: &Path) -> Result<&str, Error> {
    argument.to_str().ok_or_else(|| {
        Error::Unfit(format!("{}: expected UTF-8, as a job file holds nothing else", argument.display()))
    })
}

/// `argument`, which is relative to the current folder `here`, as the job file in `folder` has to write it.
fn named(argument: &str, here: &Path, folder: &Path) -> Result<String, Error> {
    if argument.contains("://") {
        let location = Location::Local(here.to_owned()).resolve(argument);
        let is_whole = location.is_ok_and(|location| location.local().is_some() || location.to_string() == argument);
        let why = "expected a URI without a user name, password or query, which no job file should hold";
        return if is_whole { Ok(argument.to_owned()) } else { Err(Error::Unfit(why.to_owned())) };
    }
    let path = here.join(argument);
    if path.exists() {
        return relative_to(folder, &path)
            .map_err(|source| Error::System { action: "find the manifest", source })
            .and_then(|path| {
                text(if path.as_os_str().is_empty() { Path::new(".") } else { &path }).map(str::to_owned)
            });
    }
    // A glob: as written if it is relative to the same folder.
    if here.canonicalize().is_ok_and(|here| here == folder) {
        Ok(argument.to_owned())
    } else {
        text(&path).map(str::to_owned)
    }
}

/// The model directory as the job file has to write it: the given one, or one of [`MODELS`] that exists.
fn model(given: Option<&Path>, folder: &Path) -> Result<Option<String>, Error> {
    let Some(given) = given else {
        let found = MODELS.into_iter().find(|place| has_graphs(&folder.join(place)));
        return Ok(found.map(str::to_owned));
    };
    let argument = text(given)?;
    if !argument.contains("://") && !given.is_dir() {
        let hint = "`nightcap model inspect DIR` says whether a directory can run";
        return Err(Error::Unfit(format!("--model {argument}: there is no such directory\nhint: {hint}")));
    }
    if !argument.contains("://") && !has_graphs(given) {
        let hint = "a model directory holds ONNX graphs; `nightcap model inspect DIR` says whether one can run";
        let what = "there is no .onnx file in it or in its onnx/ folder";
        return Err(Error::Unfit(format!("--model {argument}: {what}\nhint: {hint}")));
    }
    let here = std::env::current_dir().map_err(|source| Error::System { action: "find the current folder", source })?;
    named(argument, &here, folder).map(Some)
}
