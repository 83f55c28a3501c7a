//! From the settings to a client of the SDK, and what to do when it gets nowhere.

use std::error::Error;
use std::time::Duration;

use aws_config::environment::{
    EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider,
};
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{ConfigLoader, ecs};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation,
};
use url::Url;

use super::config::{Checksums, Config};
use super::failures::{Refusal, RepeatDirectories, Trouble};
use crate::OpenError;

/// Signed for where nothing says another: servers that are not Amazon's mostly do not care.
const REGION: &str = "us-east-1";

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A client for the configured server. Between attempts it pauses, first for about `first_pause`, then longer and longer.
pub(super) async fn client(config: &Config, first_pause: Duration) -> Client {
    let mut environment = aws_config::defaults(BehaviorVersion::v2026_01_12());
    if !is_amazons(config) {
        environment = without_machine(environment);
    }
    if let Some(region) = &config.region {
        environment = environment.region(Region::new(region.clone()));
    }
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let credentials = Credentials::new(id, secret.reveal(), None, None, "configuration");
        environment = environment.credentials_provider(credentials);
    }
    let environment = environment.load().await;
    let region = environment.region().cloned();
    // What a server is not asked to verify it is not expected to state.
    let (calculation, validation) = match config.checksums {
        Checksums::Crc32 | Checksums::Crc64nvme | Checksums::Sha256 => (
            RequestChecksumCalculation::WhenSupported,
            ResponseChecksumValidation::WhenSupported,
        ),
        Checksums::Md5 | Checksums::None => (
            RequestChecksumCalculation::WhenRequired,
            ResponseChecksumValidation::WhenRequired,
        ),
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(config.attempt_timeout)
        .operation_timeout(config.operation_timeout)
        .build();
    let mut builder = Builder::from(&environment)
        .region(region.unwrap_or_else(|| Region::from_static(REGION)))
        .force_path_style(config.path_style)
        .request_checksum_calculation(calculation)
        .response_checksum_validation(validation)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(config.attempts.get())
                .with_initial_backoff(first_pause)
                .with_max_backoff(LONGEST_PAUSE),
        )
        .retry_classifier(RepeatDirectories)
        .timeout_config(timeouts);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.build())
}

/// Whether the server is Amazon's, to which a machine in Amazon's cloud is known. Anywhere else nobody answers to the questions about
/// the machine, for which it would be waited.
fn is_amazons(config: &Config) -> bool {
    let endpoint = config
        .endpoint
        .as_ref()
        .and_then(|url| url.parse::<Url>().ok());
    let host = endpoint.as_ref().and_then(Url::host_str);
    host.is_none_or(|host| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"))
}

/// Region and credentials from everywhere but the machine itself.
fn without_machine(environment: ConfigLoader) -> ConfigLoader {
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::from_static(REGION));
    let profile = ProfileFileCredentialsProvider::builder().build();
    let token = WebIdentityTokenCredentialsProvider::builder().build();
    let container = ecs::EcsCredentialsProvider::builder().build();
    let credentials = CredentialsProviderChain::first_try(
        "Environment",
        EnvironmentVariableCredentialsProvider::new(),
    )
    .or_else("Profile", profile)
    .or_else("WebIdentityToken", token)
    .or_else("Container", container);
    environment.region(region).credentials_provider(credentials)
}

/// Why the store cannot be opened, with what to do about it.
pub(super) fn unusable(bucket: &str, trouble: Trouble) -> OpenError {
    let (advice, source) = match trouble {
        Trouble::Refused(Refusal { advice, source }) => (advice, source),
        Trouble::Full => (
            "it is full; make room in it or raise its quota",
            "no room left".into(),
        ),
        Trouble::NoObject | Trouble::NoUpload | Trouble::Changed => (
            "the server knows nothing of what it was asked to keep; see that blobs.endpoint is the URL of its S3 API, for example \"https://s3.example.org\"",
            format!("{trouble:?}").into(),
        ),
        Trouble::Passing(source) | Trouble::Other(source) => (unanswered(&*source), source),
    };
    OpenError::Bucket {
        bucket: bucket.to_owned(),
        advice,
        source,
    }
}

/// What to do where there is no answer of the server.
fn unanswered(source: &(dyn Error + Send + Sync)) -> &'static str {
    let said = source.to_string();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["no credentials", "CredentialsNotLoaded", "credentials"]) {
        "there are no credentials; set blobs.access_key_id and blobs.secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    } else if says(&["dispatch failure", "timeout", "timed out"]) {
        "the server cannot be reached; correct blobs.endpoint, and blobs.path_style if the bucket is not part of the server's host name"
    } else {
        "the server does not answer as S3 does; see that blobs.endpoint is the URL of its S3 API, for example \"https://s3.example.org\""
    }
}
