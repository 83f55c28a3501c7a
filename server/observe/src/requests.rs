//! Requests, observed: by route template and method, with the bytes of both contents.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;
use transport::Cut;

use crate::table::{RECEIVED_BYTES, REQUEST_DURATION, REQUESTS_IN_FLIGHT, SENT_BYTES};

/// Returns `router` with every request recorded, those for which it has no route included.
pub fn router(router: Router) -> Router {
    router.layer(middleware::from_fn_with_state(
        Arc::<Routes>::default(),
        record,
    ))
}

async fn record(State(routes): State<Arc<Routes>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let series = routes.series(
        request.method(),
        route.map_or(UNMATCHED, MatchedPath::as_str),
    );
    let mut exchange = Exchange::begin(Arc::clone(&series));
    let is_head = request.method() == Method::HEAD;
    let request = match request.body().is_end_stream() {
        true => request,
        false => request.map(|body| Body::new(Received { body, series })),
    };
    let response = next.run(request).await;
    exchange.status = Status::of(response.status());
    if Cut::is_wanted(&response) {
        exchange.end(Outcome::Cut);
        return response;
    }
    if is_head || response.body().is_end_stream() {
        exchange.end(Outcome::Complete);
        return response;
    }
    let left = declared(&response);
    response.map(|body| {
        Body::new(Sent {
            body,
            exchange,
            left,
        })
    })
}

/// Returns the length of the content, if it is declared.
fn declared(response: &Response) -> Option<u64> {
    let field = response.headers().get(header::CONTENT_LENGTH);
    let stated = field.and_then(|length| length.to_str().ok()?.parse().ok());
    stated.or_else(|| response.body().size_hint().exact())
}

/// Route of a request that matches none.
const UNMATCHED: &str = "unmatched";

/// Methods that a label may have; all others are [`OTHER`].
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];
const OTHER: usize = METHODS.len() - 1;

/// The series of every route, by method and template. The program has a fixed number of templates.
#[derive(Debug, Default)]
struct Routes([RwLock<HashMap<Box<str>, Arc<Series>>>; METHODS.len()]);

impl Routes {
    fn series(&self, method: &Method, route: &str) -> Arc<Series> {
        let method = METHODS
            .iter()
            .position(|name| *name == method.as_str())
            .unwrap_or(OTHER);
        let known = &self.0[method];
        if let Some(series) = known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(route)
        {
            return Arc::clone(series);
        }
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        let series = known
            .entry(route.into())
            .or_insert_with(|| Arc::new(Series::new(route, METHODS[method])));
        Arc::clone(series)
    }
}

/// The series of one route and method.
#[derive(Debug)]
struct Series {
    route: Box<str>,
    method: &'static str,
    in_flight: Gauge,
    received: Counter,
    sent: Counter,
    /// Histograms by status and outcome. Each is many series, so it is registered with its first
    /// request.
    durations: [[OnceLock<Histogram>; Outcome::COUNT]; Status::COUNT],
}

impl Series {
    fn new(route: &str, method: &'static str) -> Self {
        let labels = [("route", route.to_owned()), ("method", method.to_owned())];
        Self {
            in_flight: gauge!(REQUESTS_IN_FLIGHT, &labels),
            received: counter!(RECEIVED_BYTES, &labels),
            sent: counter!(SENT_BYTES, &labels),
            durations: Default::default(),
            route: route.into(),
            method,
        }
    }

    fn duration(&self, status: Status, outcome: Outcome) -> &Histogram {
        self.durations[status as usize][outcome as usize].get_or_init(|| {
            histogram!(
                REQUEST_DURATION,
                "route" => self.route.to_string(),
                "method" => self.method,
                "status" => status.label(),
                "outcome" => outcome.label(),
            )
        })
    }
}

/// Class of an answer's status, as a label.
#[derive(Debug, Clone, Copy)]
enum Status {
    /// There was no answer.
    None,
    Informational,
    Success,
    Redirection,
    ClientError,
    ServerError,
}

impl Status {
    const COUNT: usize = 6;

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// End of an exchange, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The connection has taken the answer whole.
    Complete,
    /// The content of the answer broke off.
    Failed,
    /// The handler had the exchange cut.
    Cut,
    /// The client went away first, or the connection ended.
    Cancelled,
}

impl Outcome {
    const COUNT: usize = 4;

    fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cut => "cut",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An exchange under way. Its drop records it: as cancelled, unless it has ended.
#[derive(Debug)]
struct Exchange {
    series: Arc<Series>,
    began: Instant,
    status: Status,
    outcome: Outcome,
}

impl Exchange {
    fn begin(series: Arc<Series>) -> Self {
        series.in_flight.increment(1.0);
        Self {
            series,
            began: Instant::now(),
            status: Status::None,
            outcome: Outcome::Cancelled,
        }
    }

    /// Ends the exchange, unless it has ended before.
    fn end(&mut self, outcome: Outcome) {
        if self.outcome == Outcome::Cancelled {
            self.outcome = outcome;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.series.in_flight.decrement(1.0);
        self.series
            .duration(self.status, self.outcome)
            .record(self.began.elapsed());
    }
}

/// Returns the number of bytes of content in a frame.
fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

/// Content of a request, counted as its handler reads it.
struct Received {
    body: Body,
    series: Arc<Series>,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        if let Some(Ok(frame)) = &frame {
            self.series.received.increment(length(frame));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Content of an answer, counted as its connection takes it. A connection that has all declared
/// bytes need not ask for the end.
struct Sent {
    body: Body,
    exchange: Exchange,
    /// Number of bytes that are yet to come, where the length is declared.
    left: Option<u64>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(task));
        match &frame {
            Some(Ok(frame)) => {
                let length = length(frame);
                this.exchange.series.sent.increment(length);
                this.left = this.left.map(|left| left.saturating_sub(length));
                if this.left == Some(0) || this.body.is_end_stream() {
                    this.exchange.end(Outcome::Complete);
                }
            }
            Some(Err(_)) => this.exchange.end(Outcome::Failed),
            None => this.exchange.end(Outcome::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
