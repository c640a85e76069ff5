//! Where the pictures of a run are: its manifest and columns, and what may be read.
//!
//! A job file says both. Without one, the plan of the run does: the pictures must be below the folders that its images were in. What is on
//! web servers is then not read, since the plan does not say which hosts the job allowed.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::job::{Job, JobFileError, Limits};
use crate::output::records::plan::Plan;
use crate::storage::{Location, NotALocation, PrivateHosts, Storage};

/// What to do about pictures that only a job file says how to read.
pub(super) const NAME_THE_JOB: &str = "hint: name the job file by --job";

/// Where pictures are.
pub(super) struct ImageInput {
    pub(super) manifest: Vec<Location>,
    pub(super) key: String,
    pub(super) image: String,
    pub(super) limits: Limits,
    pub(super) storage: Arc<Storage>,
    /// Whether a job says what may be read.
    pub(super) by_job: bool,
}

/// The part of a plan's identity that is used here.
#[derive(Deserialize)]
struct PlannedInput {
    manifest: Vec<String>,
    key: String,
    image: Option<String>,
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
            storage: Arc::new(storage),
            by_job: true,
        })
    }

    /// As these plans say, which read the same manifest.
    ///
    /// # Errors
    /// Why there are no pictures.
    pub(super) fn of_plans(plans: &[Plan]) -> Result<Self, String> {
        let input = plans.first().and_then(|plan| plan.identity.get("input"));
        let input = input.and_then(|input| PlannedInput::deserialize(input).ok());
        let input = input.ok_or_else(|| format!("no record says which manifest it is from\n{NAME_THE_JOB}"))?;
        let image = input.image.ok_or("the run read texts only")?;
        let hidden = |error: NotALocation| {
            format!("the manifest is at an address that is not recorded: {error}\n{NAME_THE_JOB}")
        };
        let root = Location::Local("/".into());
        let manifest =
            input.manifest.iter().map(|text| root.resolve(text)).collect::<Result<_, _>>().map_err(hidden)?;
        let roots = plans.iter().flat_map(|plan| &plan.image_roots).filter_map(|text| root.resolve(text).ok());
        let limits = Limits::within(roots.collect()).map_err(|error: JobFileError| error.to_string())?;
        let storage = Arc::new(Storage::from_environment().on_private_hosts(&PrivateHosts::default()));
        Ok(Self { manifest, key: input.key, image, limits, storage, by_job: false })
    }

    /// Why the picture at `location` may not even be looked for, if so.
    pub(super) fn refusal(&self, location: &Location) -> Option<String> {
        let what = match location {
            _ if self.by_job => return None,
            Location::Http(_) => "on a web server, and no record says which ones may be read",
            _ if !self.limits.roots.is_empty() => return None,
            _ => "no record says which folders may be read",
        };
        Some(format!("{what}\n{NAME_THE_JOB}"))
    }
}
