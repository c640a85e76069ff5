//! What `nightcap doctor` says of storage: where credentials come from, and the cache of models. Names only, never a value, and no
//! request.

use std::path::{Path, PathBuf};

use super::cache::models_folder;
use super::environment::variable;

/// The service of a kind of storage, and the sources of credentials for it that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSources {
    /// As in `s3://`.
    pub scheme: &'static str,
    /// Names of environment variables, and paths of files.
    pub found: Vec<String>,
    /// What is looked at.
    pub looked_at: &'static str,
}

/// The sources for every kind of storage. A machine's own identity (EC2, GCE, Azure) is not asked for.
#[must_use]
pub fn credential_sources() -> Vec<CredentialSources> {
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |name: &str, usual: &str| {
        let path = variable(name).map_or_else(|| home.join(usual), PathBuf::from);
        readable(&path).then(|| path.display().to_string())
    };
    let variables = |names: &[&str]| -> Vec<String> {
        names.iter().filter(|name| variable(name).is_some()).map(|name| (*name).to_owned()).collect()
    };
    let mut aws = variables(&[
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ]);
    aws.extend(file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"));
    aws.extend(file("AWS_CONFIG_FILE", ".aws/config"));
    let mut gcp = variables(&["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"]);
    gcp.extend(file("GOOGLE_APPLICATION_CREDENTIALS", ".config/gcloud/application_default_credentials.json"));
    let azure = variables(&[
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_STORAGE_TOKEN",
    ]);
    vec![
        CredentialSources {
            scheme: "s3://",
            found: aws,
            looked_at: "AWS_* variables, ~/.aws; then the machine's identity",
        },
        CredentialSources {
            scheme: "gs://",
            found: gcp,
            looked_at: "GOOGLE_* variables, gcloud's default credentials; then the machine's identity",
        },
        CredentialSources {
            scheme: "az://",
            found: azure,
            looked_at: "AZURE_* variables; then the machine's identity",
        },
    ]
}

/// The folder that keeps models of remote storage, which is made if it is not there.
///
/// # Errors
/// A message, when it cannot be made or belongs to another user.
pub fn model_cache() -> Result<PathBuf, String> {
    let folder = models_folder().map_err(|error| super::explain(&error))?;
    tempfile::tempfile_in(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn readable(path: &Path) -> bool {
    path.is_file() && std::fs::File::open(path).is_ok()
}
