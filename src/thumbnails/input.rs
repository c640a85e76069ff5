//! Where the pictures of a run are: its manifest and columns, and what may be read.
//!
//! A job file says both. Without one, the records of the run do: what its job allowed, and where it allowed everything, on disks and in
//! buckets only the folders that its images were in.

use std::sync::Arc;
use std::time::Duration;

use crate::job::{Job, JobFileError, Limits};
use crate::output::records::picture_source::PictureSource;
use crate::storage::{Location, NotALocation, Storage};

/// What to do about pictures that only a job file says how to read.
pub(super) const NAME_THE_JOB: &str = "hint: name the job file by --job";

/// Which web servers may be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Web {
    /// Those that the roots of the limits allow.
    WithinRoots,
    /// Those that are not private, and the private ones that the job named; the roots are for disks and buckets.
    Anywhere,
}

/// Where pictures are.
pub(super) struct ImageInput {
    pub(super) manifest: Vec<Location>,
    pub(super) key: String,
    pub(super) image: String,
    pub(super) limits: Limits,
    pub(super) web: Web,
    pub(super) storage: Arc<Storage>,
    /// Whether a job says what may be read.
    pub(super) by_job: bool,
}

impl ImageInput {
    /// As the job says; None: it has no images.
    pub(super) fn of_job(job: &Job) -> Option<Self> {
        let limits = job.limits.clone();
        let timeout = Duration::from_millis(limits.fetch_timeout_ms);
        let storage = Storage::new(&job.storage, limits.retries, timeout).on_private_hosts(&limits.allow_private_hosts);
        Some(Self {
            manifest: job.input.manifest.clone(),
            key: job.input.key.clone(),
            image: job.input.image.clone()?,
            limits,
            web: Web::WithinRoots,
            storage: Arc::new(storage),
            by_job: true,
        })
    }

    /// As the records of runs say.
    ///
    /// # Errors
    /// Why there are no pictures.
    pub(super) fn of_source(source: PictureSource) -> Result<Self, String> {
        let PictureSource { manifest, key, image, image_roots, rules, .. } = source;
        let image = image.ok_or("the run read texts only")?;
        let hidden = |error: NotALocation| {
            format!("the manifest is at an address that is not recorded: {error}\n{NAME_THE_JOB}")
        };
        let root = Location::Local("/".into());
        let manifest = manifest.iter().map(|text| root.resolve(text)).collect::<Result<_, _>>().map_err(hidden)?;
        let (roots, web) = match &rules.roots {
            Some(roots) => (roots, Web::WithinRoots),
            None => (&image_roots, Web::Anywhere),
        };
        let roots = roots.iter().filter_map(|text| root.resolve(text).ok()).collect();
        let limits = Limits::within(roots).map_err(|error: JobFileError| error.to_string())?;
        let storage = Arc::new(Storage::from_environment().on_private_hosts(&rules.hosts()));
        Ok(Self { manifest, key, image, limits, web, storage, by_job: false })
    }

    /// Refuses a picture for which no record says that it may be read.
    ///
    /// # Errors
    /// Why it is not even looked for.
    pub(super) fn refuse(&self, location: &Location) -> Result<(), String> {
        let on_the_web = matches!(location, Location::Http(_)) && self.web == Web::Anywhere;
        if self.by_job || on_the_web || !self.limits.roots.is_empty() {
            return Ok(());
        }
        Err(format!("{location}: no record says which places may be read\n{NAME_THE_JOB}"))
    }
}
