//! Counting of requests as they are sent, and the request with other bytes than it is signed for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_s3::config::interceptors::{
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use std::sync::Arc;

/// Operation of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    DeleteMany,
    CreateUpload,
    UploadPart,
    CopyPart,
    CompleteUpload,
    AbortUpload,
    ListParts,
    ListUploads,
}

/// All operations with their names in the API of S3, in the order of their declaration.
const OPERATIONS: [(Operation, &str); 13] = [
    (Operation::Put, "PutObject"),
    (Operation::Get, "GetObject"),
    (Operation::Head, "HeadObject"),
    (Operation::List, "ListObjectsV2"),
    (Operation::Delete, "DeleteObject"),
    (Operation::DeleteMany, "DeleteObjects"),
    (Operation::CreateUpload, "CreateMultipartUpload"),
    (Operation::UploadPart, "UploadPart"),
    (Operation::CopyPart, "UploadPartCopy"),
    (Operation::CompleteUpload, "CompleteMultipartUpload"),
    (Operation::AbortUpload, "AbortMultipartUpload"),
    (Operation::ListParts, "ListParts"),
    (Operation::ListUploads, "ListMultipartUploads"),
];

/// Number of requests that were sent, repeated attempts included, by operation.
#[derive(Debug, Default)]
pub(super) struct Requests {
    counts: [AtomicU64; OPERATIONS.len()],
}

impl Requests {
    /// Returns the counts that are above zero, by the name of the operation.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        OPERATIONS
            .iter()
            .zip(&self.counts)
            .map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Returns the interceptor that counts the attempts of one request.
    pub(super) fn counter(self: &Arc<Self>, operation: Operation) -> Counter {
        Counter {
            requests: Arc::clone(self),
            operation,
        }
    }
}

/// Interceptor that counts the attempts of a request.
#[derive(Debug)]
pub(super) struct Counter {
    requests: Arc<Requests>,
    operation: Operation,
}

impl Intercept for Counter {
    fn name(&self) -> &'static str {
        "Counter"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.requests.counts[self.operation as usize].fetch_add(1, Ordering::Relaxed);
        let (_, name) = OPERATIONS[self.operation as usize];
        metrics::counter!("longhaul_s3_requests_total", "operation" => name).increment(1);
        Ok(())
    }
}

/// Interceptor that replaces the body that the request is signed for by one of the same length.
#[derive(Debug)]
pub(super) struct Spoiler(pub(super) &'static [u8]);

impl Intercept for Spoiler {
    fn name(&self) -> &'static str {
        "Spoiler"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *context.request_mut().body_mut() = SdkBody::from(self.0);
        Ok(())
    }
}
