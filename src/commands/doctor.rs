//! `nightcap doctor`: what this machine has of what jobs may need. Changes nothing, and sends no request.

use std::fmt;

use serde::Serialize;

use super::context::{Context, print, to_json};
use crate::cli::VERSION;
use crate::error::{Error, ExitStatus};
use crate::onnx::{Device, LibraryError, check_device, runtime};
use crate::storage::{CredentialSources, credential_sources, model_cache};
use crate::support::nvidia_smi;
use crate::support::redact::lines;

/// Says which driver of NVIDIA is loaded.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Not there; not every job needs it.
    Absent,
    /// No job can run.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Line {
    verdict: Verdict,
    subject: &'static str,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Line {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, found: found.into(), hint: None }
    }

    fn not(verdict: Verdict, subject: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict, subject, found: found.into(), hint: Some(hint.into()) }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Absent => "absent",
            Verdict::Wrong => "WRONG",
        };
        writeln!(f, "{verdict:7} {}: {}", self.subject, self.found)?;
        self.hint.iter().try_for_each(|hint| writeln!(f, "        {hint}"))
    }
}

pub(super) fn execute(json: bool, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let mut found = vec![Line::ok("nightcap", VERSION)];
    let library = library();
    let has_library = library.verdict == Verdict::Ok;
    found.push(library);
    let gpus = gpus();
    let has_gpus = gpus.verdict == Verdict::Ok;
    found.push(gpus);
    if has_library {
        found.push(cuda(has_gpus));
    }
    found.extend(credential_sources().iter().map(credentials));
    found.push(match model_cache() {
        Ok(folder) => Line::ok("cache of models", folder.display().to_string()),
        Err(error) => Line::not(
            Verdict::Absent,
            "cache of models",
            error,
            "models in remote storage need it; set XDG_CACHE_HOME to a folder of this user",
        ),
    });
    let text = if json { to_json(&found)? } else { lines(&found.iter().map(ToString::to_string).collect::<String>()) };
    print(context, &text)?;
    let is_wrong = found.iter().any(|line| line.verdict == Verdict::Wrong);
    Ok(if is_wrong { ExitStatus::Refused } else { ExitStatus::Done })
}

fn library() -> Line {
    match runtime() {
        Ok(runtime) => Line::ok("ONNX Runtime", format!("{}, {}", runtime.version(), runtime.library().display())),
        Err(error) => Line::not(Verdict::Wrong, "ONNX Runtime", error.what, LibraryError::HINT),
    }
}

/// GPUs and their driver, by `nvidia-smi`.
fn gpus() -> Line {
    const HINT: &str = "jobs run on the processor; for a GPU, install NVIDIA's driver, which brings nvidia-smi";
    let driver = std::fs::read_to_string(DRIVER).ok();
    match nvidia_smi::query("name,memory.total,driver_version", "csv,noheader") {
        Ok(text) if !text.trim().is_empty() => Line::ok("GPUs", text.trim().replace('\n', "; ")),
        Ok(_) => Line::not(Verdict::Absent, "GPUs", "nvidia-smi names none", HINT),
        Err(why) => {
            let driver = driver.as_deref().and_then(|text| text.lines().next()).unwrap_or("no driver is loaded");
            Line::not(Verdict::Absent, "GPUs", format!("{why}; {driver}"), HINT)
        }
    }
}

/// Whether ONNX Runtime can use a GPU.
fn cuda(has_gpus: bool) -> Line {
    const SUBJECT: &str = "CUDA execution provider";
    match check_device(Device::Cuda(0)) {
        Ok(()) => Line::ok(SUBJECT, "sessions open on cuda:0"),
        Err(error) => {
            let hint = if has_gpus {
                "`pip install onnxruntime-gpu[cuda,cudnn]` in place of onnxruntime, in a version for this driver"
            } else {
                "only jobs with runtime.devices = [\"cuda:0\"] need it"
            };
            Line::not(Verdict::Absent, SUBJECT, error.what, hint)
        }
    }
}

fn credentials(sources: &CredentialSources) -> Line {
    let CredentialSources { scheme, found, looked_at } = sources;
    let subject = match *scheme {
        "s3://" => "credentials for s3://",
        "gs://" => "credentials for gs://",
        _ => "credentials for az://",
    };
    if found.is_empty() {
        return Line::not(Verdict::Absent, subject, "none is named", format!("looked at: {looked_at}"));
    }
    Line::ok(subject, found.join(", "))
}
