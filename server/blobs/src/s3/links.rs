//! Links to objects: pre-signed URLs, with which clients fetch from the S3 server itself what the store would send.
//!
//! Signing asks the S3 server nothing.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::presigning::PresigningConfig;
use domain::blob_store::LinkFields;

use super::config::Config;
use super::failures::{Trouble, other};

/// Signs links, for objects that are large enough.
#[derive(Debug)]
pub(super) struct Links {
    client: Client,
    bucket: String,
    /// In bytes.
    min_size: u64,
    lifetime: Duration,
}

impl Links {
    /// `None` where the store is to send everything itself. `client` is the one that the store uses.
    pub(super) fn new(client: &Client, config: &Config) -> Option<Self> {
        let min_size = config.redirect_min_size?.as_u64();
        // Else the URL would ask for a checksum, which only the SDK would verify.
        let mut builder = client
            .config()
            .to_builder()
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &config.redirect_endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Some(Self {
            client: Client::from_conf(builder.build()),
            bucket: config.bucket.clone(),
            min_size,
            lifetime: config.redirect_lifetime,
        })
    }

    /// A URL for the object `name` of `size` bytes; `None` if it is too small to be worth another connection.
    pub(super) async fn sign(
        &self,
        name: &str,
        size: u64,
        fields: LinkFields<'_>,
    ) -> Result<Option<String>, Trouble> {
        if size < self.min_size {
            return Ok(None);
        }
        let lifetime = PresigningConfig::expires_in(self.lifetime).map_err(other)?;
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(name)
            .response_content_type(fields.content_type)
            .set_response_content_disposition(fields.content_disposition.map(str::to_owned))
            .response_cache_control(fields.cache_control);
        let signed = request.presigned(lifetime).await.map_err(other)?;
        Ok(Some(signed.uri().to_owned()))
    }
}
