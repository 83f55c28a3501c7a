//! From the settings to a client of the SDK, and what to do when it gets nowhere.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation,
};

use super::bucket::Trouble;
use super::config::{Checksums, Config};
use crate::OpenError;

/// Signed for where nothing says another: servers that are not Amazon's mostly do not care.
const REGION: &str = "us-east-1";

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A client for the configured server. Between attempts it pauses, first for about `first_pause`, then longer and longer.
pub(super) async fn client(config: &Config, first_pause: Duration) -> Client {
    let mut environment = aws_config::defaults(BehaviorVersion::v2026_01_12());
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
        .timeout_config(timeouts);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.build())
}

/// Why the store cannot be opened, with what to do about it.
pub(super) fn unusable(bucket: &str, trouble: Trouble) -> OpenError {
    let source: Box<dyn Error + Send + Sync> = match trouble {
        Trouble::Other(source) => source,
        trouble => format!("{trouble:?}").into(),
    };
    let said = source.to_string();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let advice = if says(&["NoSuchBucket"]) {
        "there is no such bucket; create it, or correct blobs.bucket and blobs.endpoint"
    } else if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch"]) {
        "the server does not accept the credentials; correct blobs.access_key_id and blobs.secret_access_key, or where they come from"
    } else if says(&["AccessDenied", "Forbidden"]) {
        "the credentials do not allow to list, read, write and delete objects in it; extend what they allow"
    } else if says(&[
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocation",
    ]) {
        "it lies in another region; correct blobs.region"
    } else if says(&["no credentials", "CredentialsNotLoaded", "credentials"]) {
        "there are no credentials; set blobs.access_key_id and blobs.secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    } else if says(&["dispatch failure", "timeout", "timed out"]) {
        "the server cannot be reached; correct blobs.endpoint, and blobs.path_style if the bucket is not part of the server's host name"
    } else {
        "see below; correct the settings under [blobs]"
    };
    OpenError::Bucket {
        bucket: bucket.to_owned(),
        advice,
        source,
    }
}
