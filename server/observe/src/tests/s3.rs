//! Requests to S3 feed the counter of the table.

use std::error::Error as _;

use axum::Router;
use axum::http::StatusCode;
use blobs::{Config, s3};

use super::{Recorded, serve};

#[tokio::test]
async fn a_request_to_s3_counts_by_its_operation() {
    let recorded = Recorded::begin();
    let address = serve(Router::new().fallback(async || StatusCode::FORBIDDEN));
    let config = Config::S3(Box::new(s3::Config {
        bucket: "bucket".to_owned(),
        endpoint: Some(format!("http://{address}")),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned().into()),
        ..s3::Config::default()
    }));
    let opened = blobs::open(&config, "data".as_ref()).await;
    assert!(opened.unwrap_err().source().is_some());
    let changes = recorded.changes().into_iter();
    let changes: Vec<String> = changes.filter(|line| line.contains("_s3_")).collect();
    let counted = |line: &String| line.starts_with("longhaul_s3_requests_total{operation=");
    assert!(
        !changes.is_empty() && changes.iter().all(counted),
        "{changes:?}"
    );
}
