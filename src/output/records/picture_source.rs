//! Where the pictures of rows are, and what may be read of them: what commands need that show pictures again, long after the run that
//! read them. OUTPUT holds no pictures.
//!
//! A run's plan says it by its identity, its `image_roots` and its [`ReadRules`]; that of a compaction has a [`PictureSource`] for every
//! manifest that its rows are from, since it outlives the plans of their runs.

use serde::{Deserialize, Serialize};

use crate::job::Limits;
use crate::storage::{Location, PrivateHosts};

/// What a run may read, as `[limits]` said when it was planned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRules {
    /// `limits.roots`, without those that look as if they held a password; None: anything may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<Vec<String>>,
    /// `limits.allow_private_hosts`, and those roots that are addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_hosts: Vec<String>,
}

impl ReadRules {
    /// Whether anything may be read but private hosts.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Those of a job.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let roots = (!limits.roots.is_empty()).then(|| limits.roots.iter().filter_map(Location::to_record).collect());
        Self { roots, private_hosts: limits.allow_private_hosts.to_records() }
    }

    /// The private hosts that may be read from.
    #[must_use]
    pub fn hosts(&self) -> PrivateHosts {
        let mut hosts = PrivateHosts::default();
        for host in &self.private_hosts {
            // Only a damaged record has something else, which allows nothing.
            let _ = hosts.add(host);
        }
        hosts
    }
}

/// A manifest, and the runs that read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureSource {
    /// The `run_seq` of each run, as its rows have it.
    pub run_seqs: Vec<i64>,
    /// `input.manifest`: paths and URIs, without credentials.
    pub manifest: Vec<String>,
    /// `input.key`.
    pub key: String,
    /// `input.image`; None: the runs read texts only.
    pub image: Option<String>,
    /// See [`Plan::image_roots`](super::plan::Plan::image_roots): those of all of the runs.
    pub image_roots: Vec<String>,
    /// What the newest of the runs may read.
    #[serde(flatten)]
    pub rules: ReadRules,
}

impl PictureSource {
    /// These, of which the newest is first, with the runs that read one manifest together.
    pub fn merged(sources: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for source in sources {
            let input = |source: &Self| (source.manifest.clone(), source.key.clone(), source.image.clone());
            match found.iter_mut().find(|known| input(known) == input(&source)) {
                None => found.push(source),
                Some(known) => {
                    known.run_seqs.extend(source.run_seqs);
                    known.image_roots.extend(source.image_roots);
                    known.image_roots.sort_unstable();
                    known.image_roots.dedup();
                }
            }
        }
        found
    }
}
