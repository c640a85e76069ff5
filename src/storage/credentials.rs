//! AWS credentials of jobs without keys: profiles (keys, `role_arn`, SSO, `credential_process`), web identity, containers
//! and EC2, by the official SDK.
//!
//! In: the profile's name and the region. Out: credentials, kept until shortly before they expire. Never here: requests to S3,
//! or a secret in a message.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileLoadError, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::header::HeaderValue;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Result};
use tokio::task::JoinError;
use tracing::subscriber::NoSubscriber;

use super::environment::variable;
use super::error::generic;
use crate::row::error::ErrorKind;
use crate::support::redact;

/// The longest search for credentials.
const MAX_SEARCH: Duration = Duration::from_secs(30);
/// Credentials are renewed this long before they expire, or after half of their lifetime if that is later.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// The least time between a search that failed and the next one.
const SEARCH_AGAIN: Duration = Duration::from_secs(10);
/// The most characters of an error's detail in a message.
const MAX_DETAIL: usize = 200;

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoCredentials {
    pub(super) kind: ErrorKind,
    pub(super) what: String,
}

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for NoCredentials {}

/// The credentials of one profile, or of whatever the SDK's chain finds. One search serves all requests that wait for it, and
/// continues when they are cancelled.
pub(super) struct ProviderChain {
    profile: Option<String>,
    region: String,
    latest: Mutex<Option<Shared<BoxFuture<'static, FoundCredentials>>>>,
}

impl fmt::Debug for ProviderChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderChain").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// The outcome of a search.
#[derive(Clone)]
struct FoundCredentials {
    outcome: Result<Arc<AwsCredential>, NoCredentials>,
    /// When to search again; None: never.
    renew_at: Option<SystemTime>,
    expires: Option<SystemTime>,
}

impl FoundCredentials {
    fn new(outcome: Result<Credentials, NoCredentials>) -> Self {
        let now = SystemTime::now();
        match outcome {
            // A search for each request would be no help, and a program started for each of them a burden.
            Ok(found) if found.expiry().is_some_and(|expires| expires <= now) => {
                Self::new(Err(NoCredentials::io("what was found has expired")))
            }
            Ok(found) => {
                redact::remember(found.secret_access_key());
                found.session_token().into_iter().for_each(redact::remember);
                let expires = found.expiry();
                let renew_at = expires.map(|expires| {
                    let left = expires.duration_since(now).unwrap_or_default();
                    expires - RENEW_BEFORE.min(left / 2)
                });
                let credential = AwsCredential {
                    key_id: found.access_key_id().to_owned(),
                    secret_key: found.secret_access_key().to_owned(),
                    token: found.session_token().map(str::to_owned),
                };
                match sendable(credential) {
                    Ok(credential) => Self { outcome: Ok(Arc::new(credential)), renew_at, expires },
                    Err(error) => Self::new(Err(error)),
                }
            }
            Err(error) => Self { outcome: Err(error), renew_at: Some(now + SEARCH_AGAIN), expires: None },
        }
    }

    /// What to use after the search that gave `self`: if it failed, `earlier` credentials that are still valid.
    fn or_valid(self, earlier: Option<Self>) -> Self {
        let is_valid =
            |found: &Self| found.outcome.is_ok() && found.expires.is_none_or(|time| SystemTime::now() < time);
        match (&self.outcome, earlier.filter(is_valid)) {
            (Err(error), Some(earlier)) => {
                tracing::warn!("AWS credentials cannot be renewed yet: {error}");
                Self { renew_at: self.renew_at, ..earlier }
            }
            _ => self,
        }
    }

    fn is_fresh(&self) -> bool {
        self.renew_at.is_none_or(|time| SystemTime::now() < time)
    }
}

impl ProviderChain {
    /// Those of `profile`, or of `AWS_PROFILE` or `default`; `region` is where roles are assumed.
    pub(super) fn new(profile: Option<&str>, region: &str) -> Self {
        Self { profile: profile.map(str::to_owned), region: region.to_owned(), latest: Mutex::new(None) }
    }

    /// The search in progress, or the last one while its credentials are fresh, or a new one. Must be called in a runtime.
    fn search(&self) -> Shared<BoxFuture<'static, FoundCredentials>> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = match &*latest {
            Some(search) if search.peek().is_none_or(FoundCredentials::is_fresh) => return search.clone(),
            Some(search) => search.peek().cloned(),
            None => None,
        };
        let (profile, region) = (self.profile.clone(), self.region.clone());
        let search = tokio::task::spawn_blocking(move || {
            // The SDK logs request headers and the output of a `credential_process`.
            let found = tracing::subscriber::with_default(NoSubscriber::default(), || find(profile, region));
            FoundCredentials::new(found).or_valid(earlier)
        });
        let ended = |_: JoinError| FoundCredentials::new(Err(NoCredentials::io("the search for them was given up")));
        latest.insert(search.map(move |found| found.unwrap_or_else(ended)).boxed().shared()).clone()
    }
}

impl CredentialProvider for ProviderChain {
    type Credential = AwsCredential;

    fn get_credential<'a, 'future>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<AwsCredential>>> + Send + 'future>>
    where
        'a: 'future,
        Self: 'future,
    {
        Box::pin(async move { self.search().await.outcome.map_err(|error| generic(error.into())) })
    }
}

/// One search, in a runtime of its own: the SDK's connections are driven by the thread that waits for them.
fn find(profile: Option<String>, region: String) -> Result<Credentials, NoCredentials> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| NoCredentials::io(&error.to_string()))?;
    runtime.block_on(async {
        tokio::time::timeout(MAX_SEARCH, chain(profile, region)).await.unwrap_or_else(|_| {
            let what = format!("no AWS credentials were found within {} s", MAX_SEARCH.as_secs());
            Err(NoCredentials { kind: ErrorKind::Timeout, what })
        })
    })
}

/// `credential`, unless no HTTP header can hold it: `object_store` would panic.
pub(super) fn sendable(credential: AwsCredential) -> Result<AwsCredential, NoCredentials> {
    let parts = [("access key id", Some(&credential.key_id)), ("session token", credential.token.as_ref())];
    let cannot_be_sent = |value: &String| HeaderValue::from_str(value).is_err();
    let found = parts.into_iter().find(|(_, value)| value.is_some_and(cannot_be_sent)).map(|(name, _)| name);
    match found {
        None => Ok(credential),
        Some(name) => {
            let what = format!("the AWS {name} holds a character that no HTTP header can, such as a line break");
            Err(NoCredentials { kind: ErrorKind::Forbidden, what })
        }
    }
}

/// Keys of a profile that promise credentials.
const PROMISES: [&str; 7] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "role_arn",
    "source_profile",
    "credential_process",
    "sso_session",
    "sso_account_id",
];

/// Tries one source after the other; the first that is configured decides.
async fn chain(profile: Option<String>, region: String) -> Result<Credentials, NoCredentials> {
    let config = ProviderConfig::without_region().with_region(Some(Region::new(region)));
    let name = profile.or_else(|| variable("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
    let profile = format!("the profile `{name}` of ~/.aws");
    let files = load(Some(&name)).await.map_err(|error| NoCredentials::of_files(&error))?;
    let promises =
        files.get_profile(&name).is_some_and(|profile| PROMISES.iter().any(|key| profile.get(key).is_some()));
    let profiles = ProfileFileCredentialsProvider::builder().configure(&config).profile_name(name);
    let sources: [(&str, Box<dyn ProvideCredentials>); 5] = [
        (&profile, Box::new(profiles.build())),
        ("AWS_ACCESS_KEY_ID", Box::new(EnvironmentVariableCredentialsProvider::new())),
        (
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            Box::new(WebIdentityTokenCredentialsProvider::builder().configure(&config).build()),
        ),
        ("AWS_CONTAINER_CREDENTIALS_*", Box::new(EcsCredentialsProvider::builder().configure(&config).build())),
        ("the EC2 metadata service", Box::new(ImdsCredentialsProvider::builder().configure(&config).build())),
    ];
    let mut looked_at = Vec::new();
    for (name, source) in sources {
        match source.provide_credentials().await {
            Ok(credentials) => return Ok(credentials),
            // Such as a `source_profile` that is not there: another source would be another identity.
            Err(error @ CredentialsError::CredentialsNotLoaded(_)) if promises && name == profile => {
                return Err(NoCredentials::of(name, &error));
            }
            Err(CredentialsError::CredentialsNotLoaded(_)) => looked_at.push(name),
            Err(error) => return Err(NoCredentials::of(name, &error)),
        }
    }
    let what = format!("no AWS credentials were found; none in {}", looked_at.join(", "));
    Err(NoCredentials { kind: ErrorKind::Forbidden, what })
}

impl NoCredentials {
    fn io(detail: &str) -> Self {
        Self { kind: ErrorKind::Io, what: format!("cannot look for AWS credentials: {detail}") }
    }

    /// Files in `~/.aws` that cannot be understood.
    pub(super) fn of_files(error: &ProfileFileLoadError) -> Self {
        let causes = std::iter::successors(Some(error as &dyn StdError), |&cause| cause.source());
        let detail: String =
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").chars().take(MAX_DETAIL).collect();
        let what = format!("cannot use ~/.aws/config and ~/.aws/credentials: {detail}");
        Self { kind: ErrorKind::Forbidden, what }
    }

    /// The failure of a source that is configured.
    fn of(source: &str, error: &CredentialsError) -> Self {
        let kind = match error {
            CredentialsError::ProviderTimedOut(_) => ErrorKind::Timeout,
            CredentialsError::InvalidConfiguration(_) | CredentialsError::CredentialsNotLoaded(_) => {
                ErrorKind::Forbidden
            }
            // A service or program may answer later.
            _ => ErrorKind::Io,
        };
        let causes = std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
        let detail = causes.collect::<Vec<_>>().join(": ");
        // The output of a `credential_process` may hold a secret.
        let detail = detail.split(" Stderr:").next().unwrap_or_default();
        let detail: String = detail.chars().take(MAX_DETAIL).collect();
        Self { kind, what: format!("{source} gives no AWS credentials: {detail}") }
    }
}

/// The profiles of `~/.aws/config` and `~/.aws/credentials`, with `name`, `AWS_PROFILE` or `default` selected.
///
/// # Errors
/// When one of the files cannot be parsed; a missing file counts as empty.
pub(super) fn profiles(name: Option<&str>) -> Result<ProfileSet, ProfileFileLoadError> {
    // It reads two small files and never waits.
    futures::executor::block_on(load(name))
}

async fn load(name: Option<&str>) -> Result<ProfileSet, ProfileFileLoadError> {
    // The SDK's types for the file system, the environment and the files' names have no public path.
    fn real<T: Default>() -> T {
        T::default()
    }
    let name = name.map(|name| name.to_owned().into());
    aws_config::profile::load(&real(), &real(), &real(), name).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(life: Option<Duration>) -> FoundCredentials {
        let expires = life.map(|life| SystemTime::now() + life);
        FoundCredentials::new(Ok(Credentials::new("key", "secret", None, expires, "test")))
    }

    fn failed() -> FoundCredentials {
        FoundCredentials::new(Err(NoCredentials::io("no answer")))
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let hour = Duration::from_hours(1);
        assert!(found(None).is_fresh() && found(None).renew_at.is_none());
        let (now, long) = (SystemTime::now(), found(Some(hour)));
        assert!(
            long.is_fresh() && long.expires.unwrap().duration_since(long.renew_at.unwrap()).unwrap() == RENEW_BEFORE
        );
        let short = found(Some(Duration::from_mins(2)));
        let left = short.renew_at.unwrap().duration_since(now).unwrap();
        assert!(short.is_fresh() && left > Duration::from_secs(55) && left < Duration::from_secs(65), "{left:?}");
        let expired = found(Some(Duration::ZERO));
        assert!(expired.outcome.is_err() && expired.is_fresh(), "it is not asked for again with each request");
        let again = failed().renew_at.unwrap().duration_since(now).unwrap();
        assert!(failed().is_fresh() && again >= SEARCH_AGAIN && again < 2 * SEARCH_AGAIN, "{again:?}");
    }

    #[test]
    fn what_is_valid_is_used_while_it_cannot_be_renewed() {
        let valid = failed().or_valid(Some(found(Some(Duration::from_mins(4)))));
        assert!(valid.outcome.is_ok() && valid.renew_at.unwrap() < valid.expires.unwrap());
        assert!(failed().or_valid(Some(found(Some(Duration::ZERO)))).outcome.is_err());
        assert!(failed().or_valid(Some(failed())).outcome.is_err() && failed().or_valid(None).outcome.is_err());
    }

    #[test]
    fn messages_hold_no_output_of_a_program() {
        let text = "external process exited with code exit status: 1. Stderr: the secret";
        let error = NoCredentials::of("the profile", &CredentialsError::provider_error(text));
        assert!(error.what.ends_with("exit status: 1.") && error.kind == ErrorKind::Io, "{error}");
    }
}
