//! Events that were given up, on the admin listener.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::Error;
use domain::event::EventId;
use domain::event_store::DeadEvent;
use domain::webhooks::DeadLetters;
use http::header::ORIGIN;
use serde::Serialize;
use serde_json::Value;

use super::Admin;
use crate::extract::pack::Names;
use crate::extract::query;
use crate::problem::{Failure, Missing};
use crate::respond::time;
use crate::routes::page::{self, Page};

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/events/dead", get(list))
        .route("/events/dead/replay", post(replay_all))
        .route("/events/dead/{id}/replay", post(replay))
        .route_layer(middleware::from_fn(query::check))
        .layer(middleware::from_fn(from_no_page))
}

/// Refuses requests from web pages: the listener asks for no credential, and a browser on this
/// machine can reach it.
async fn from_no_page(request: Request, next: Next) -> Result<Response, Failure> {
    match request.headers().contains_key(ORIGIN) {
        true => Err(Error::Forbidden.into()),
        false => Ok(next.run(request).await),
    }
}

#[derive(Debug, Serialize)]
struct DeadEventList {
    events: Vec<DeadEventDocument>,
    /// Cursor of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct DeadEventDocument {
    /// Identifier, which receivers get as `webhook-id`.
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: String,
    created_at: String,
    dead_at: String,
    failures: u32,
    last_error: String,
    payload: Value,
}

#[derive(Debug, Serialize)]
struct Replayed {
    replayed: u64,
}

async fn list(
    State(dead_letters): State<DeadLetters>,
    Page { limit, cursor }: Page,
) -> Result<Json<DeadEventList>, Failure> {
    let after = match &cursor {
        Some(cursor) => page::name(cursor)?.parse().map_err(|_| page::no_cursor())?,
        None => 0,
    };
    let mut found = dead_letters.list(after, limit + 1).await?;
    let cursor = page::cut(&mut found, limit, |last: &DeadEvent| {
        page::cursor(&last.position.to_string())
    });
    let events = found.into_iter().map(document).collect();
    Ok(Json(DeadEventList { events, cursor }))
}

async fn replay(
    State(dead_letters): State<DeadLetters>,
    Names(id): Names<String>,
) -> Result<Json<Replayed>, Failure> {
    let id: EventId = id.parse().map_err(|_| Missing::DeadEvent)?;
    dead_letters.replay(&id).await?;
    Ok(Json(Replayed { replayed: 1 }))
}

async fn replay_all(State(dead_letters): State<DeadLetters>) -> Result<Json<Replayed>, Failure> {
    let replayed = dead_letters.replay_all().await?;
    Ok(Json(Replayed { replayed }))
}

fn document(dead: DeadEvent) -> DeadEventDocument {
    let event = dead.event;
    DeadEventDocument {
        id: event.id.to_string(),
        kind: event.kind.as_str(),
        subject: event.subject,
        created_at: time(event.created_at),
        dead_at: time(dead.dead_at),
        failures: dead.failures,
        last_error: dead.last_error,
        payload: serde_json::from_str(&event.payload).unwrap_or_default(),
    }
}
