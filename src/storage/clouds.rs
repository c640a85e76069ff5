//! Object stores of buckets. In: `[storage]`, the environment, AWS profiles. Out: a store for S3, Google Cloud Storage or Azure.
//! Never here: requests.

use std::sync::{Arc, OnceLock};

use aws_config::profile::ProfileSet;
use http::header::HeaderValue;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::StaticCredentialProvider;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{Error, ObjectStore, Result};

use super::connector::Connector;
use super::credentials::{self, NoCredentials, ProviderChain};
use super::environment::variable;
use super::error::{generic, other};
use super::location::Cloud;
use super::settings::StorageSettings;
use crate::support::redact;

/// The default region, which is that of `object_store`.
const DEFAULT_REGION: &str = "us-east-1";

/// Makes the stores of one job; clones share credentials.
#[derive(Debug, Clone)]
pub(super) struct Clouds {
    settings: StorageSettings,
    /// Created when a store needs them.
    aws: Arc<OnceLock<Arc<ProviderChain>>>,
}

impl Clouds {
    pub(super) fn new(settings: &StorageSettings) -> Self {
        Self { settings: settings.clone(), aws: Arc::default() }
    }

    /// The store of `bucket`. No request is made.
    ///
    /// # Errors
    /// When the settings, the environment or the profiles are incomplete or wrong.
    pub(super) fn bucket(&self, cloud: Cloud, bucket: &str, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        match cloud {
            Cloud::S3 => self.s3(bucket, connector),
            Cloud::Gs => self.gs(bucket, connector),
            Cloud::Az => self.az(bucket, connector),
        }
    }

    fn s3(&self, bucket: &str, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        use AmazonS3ConfigKey::{Endpoint, Region, S3Endpoint};
        let settings = &self.settings;
        let mut builder = AmazonS3Builder::from_env();
        let profiles = profiles(settings.profile.as_deref())?;
        for (key, name) in [(Region, "region"), (Endpoint, "endpoint_url")] {
            // A profile that the job names takes precedence over the environment.
            let is_wanted = settings.profile.is_some() || builder.get_config_value(&key).is_none();
            if let Some(value) = profiles.get(name).filter(|_| is_wanted) {
                builder = builder.with_config(key, value);
            }
        }
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_config(S3Endpoint, endpoint);
        }
        if builder.get_config_value(&Region).is_some_and(|region| HeaderValue::from_str(&region).is_err()) {
            return Err(other("the S3 region holds a character that no HTTP header can, such as a line break"));
        }
        builder = self.with_aws_credentials(builder)?;
        let insecure =
            is_insecure(builder.get_config_value(&S3Endpoint).or_else(|| builder.get_config_value(&Endpoint)));
        if let Some(path_style) = settings.path_style {
            builder = builder.with_virtual_hosted_style_request(!path_style);
        }
        if let Some(anonymous) = settings.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let options = connector.policy.client().with_allow_http(insecure);
        let builder = builder.with_bucket_name(bucket).with_retry(connector.policy.retry());
        Ok(Arc::new(builder.with_client_options(options).with_http_connector(connector).build().map_err(unbuilt)?))
    }

    /// Keys that the job names, else those of the environment, else the provider chain; a profile that the job names takes
    /// precedence over the environment.
    fn with_aws_credentials(&self, builder: AmazonS3Builder) -> Result<AmazonS3Builder> {
        use AmazonS3ConfigKey::{AccessKeyId, Region, SecretAccessKey, Token};
        let settings = &self.settings;
        let of_environment = |key| builder.get_config_value(&key).filter(|value| !value.is_empty());
        let names = [&settings.access_key_id_env, &settings.secret_access_key_env, &settings.session_token_env];
        let has_keys = || [AccessKeyId, SecretAccessKey].into_iter().any(|key| of_environment(key).is_some());
        if names == [&None; 3] && (settings.profile.is_some() || !has_keys()) {
            let region = of_environment(Region);
            let chain = || {
                let region = region.as_deref().unwrap_or(DEFAULT_REGION);
                Arc::new(ProviderChain::new(settings.profile.as_deref(), region))
            };
            return Ok(builder.with_credentials(self.aws.get_or_init(chain).clone()));
        }
        let value = |name: &Option<String>, key| {
            name.as_deref().map_or_else(|| Ok(of_environment(key)), |name| referred(name).map(Some))
        };
        let needed = |name: &Option<String>, key, usual: &str| {
            value(name, key)?.ok_or_else(|| other(&format!("some of the S3 keys are given, but {usual} is not set")))
        };
        // A session token is valid for its own keys only.
        let is_of_environment = settings.access_key_id_env.is_none() && settings.secret_access_key_env.is_none();
        let credential = AwsCredential {
            key_id: needed(names[0], AccessKeyId, "AWS_ACCESS_KEY_ID")?,
            secret_key: needed(names[1], SecretAccessKey, "AWS_SECRET_ACCESS_KEY")?,
            token: if is_of_environment || names[2].is_some() { value(names[2], Token)? } else { None },
        };
        let credential = credentials::sendable(credential).map_err(|error| generic(error.into()))?;
        Ok(builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential))))
    }

    fn gs(&self, bucket: &str, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        let mut builder = GoogleCloudStorageBuilder::from_env();
        if let Some(name) = &self.settings.token_env {
            builder = builder.with_bearer_token(referred(name)?);
        }
        if let Some(anonymous) = self.settings.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let insecure = is_insecure(builder.get_config_value(&GoogleConfigKey::BaseUrl));
        let (retry, options) = (connector.policy.retry(), connector.policy.client().with_allow_http(insecure));
        let builder = builder.with_bucket_name(bucket).with_retry(retry).with_client_options(options);
        Ok(Arc::new(builder.with_http_connector(connector).build().map_err(unbuilt)?))
    }

    fn az(&self, container: &str, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::from_env();
        if let Some(name) = &self.settings.token_env {
            builder = builder.with_bearer_token_authorization(referred(name)?);
        }
        if let Some(anonymous) = self.settings.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let insecure = is_insecure(builder.get_config_value(&AzureConfigKey::Endpoint));
        let (retry, options) = (connector.policy.retry(), connector.policy.client().with_allow_http(insecure));
        let builder = builder.with_container_name(container).with_retry(retry).with_client_options(options);
        Ok(Arc::new(builder.with_http_connector(connector).build().map_err(unbuilt)?))
    }
}

/// Whether an endpoint that the environment names is asked without TLS.
fn is_insecure(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// The profiles of `~/.aws/config` and `~/.aws/credentials`, of which `name`, `AWS_PROFILE` or `default` is selected.
fn profiles(name: Option<&str>) -> Result<ProfileSet> {
    let profiles = credentials::profiles(name).map_err(|error| generic(NoCredentials::of_files(&error).into()))?;
    if let Some(name) = name.filter(|name| profiles.get_profile(name).is_none()) {
        let mut found: Vec<&str> = profiles.profiles().collect();
        found.sort_unstable();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        let found: String = found.chars().take(200).collect();
        return Err(other(&format!(
            "expected the AWS profile `{name}` (`storage.profile`) in ~/.aws/config or ~/.aws/credentials, found {found}"
        )));
    }
    Ok(profiles)
}

/// The value of a variable that the job names, a secret from now on.
fn referred(name: &str) -> Result<String> {
    // What is not written like a name may be the secret itself.
    let is_name = name.len() <= 64 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let shown = if is_name { name } else { "(not shown: it may be the secret itself)" };
    let value = variable(name)
        .ok_or_else(|| other(&format!("`[storage]` refers to the environment variable {shown}, which is not set")))?;
    redact::remember(&value);
    Ok(value)
}

/// Why settings make no store, in a type whose text is shown. A URL in it may hold a credential, so that it is left out.
fn unbuilt(error: Error) -> Error {
    const MAX_DETAIL: usize = 200;
    let Error::Generic { store, source } = error else { return error };
    let detail = Some(source.to_string()).filter(|detail| !detail.contains("://"));
    let detail: String = detail.iter().flat_map(|detail| ": ".chars().chain(detail.chars())).take(MAX_DETAIL).collect();
    other(&format!("`[storage]` and the environment make no {store} store{detail}"))
}
