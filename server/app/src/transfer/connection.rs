//! Requests to the server: made the same way each time, and watched while they run.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName};
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response, Url, redirect};

use super::error::{Error, Refusal, Setback};
use super::{Options, fields, trust, words};

/// Time for a TCP connection and a TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects followed, as long as they stay with the server.
const MAX_REDIRECTS: usize = 5;
/// Maximum size of a problem document, in bytes.
const LARGEST_PROBLEM: usize = 64 * 1024;

/// Client of one server.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    options: Options,
    /// Origin that credentials are sent to: only the server that the user named.
    home: Url,
    requests: AtomicU64,
}

impl Connection {
    /// Prepares requests to the server of `url`. Nothing is sent yet.
    pub(crate) fn new(options: &Options, url: &Url) -> Result<Self, Error> {
        Ok(Self {
            client: client(options, url)?,
            options: options.clone(),
            home: url.clone(),
            requests: AtomicU64::new(0),
        })
    }

    /// Drops all connections, so that the next request makes a new one: an old one may be dead
    /// without any error.
    pub(crate) fn renew(&mut self) -> Result<(), Error> {
        self.client = client(&self.options, &self.home)?;
        Ok(())
    }

    /// Builds a request about the target, such as a creation or a download, with all fields of the
    /// user.
    pub(crate) fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        self.prepare(method, url, |_| true)
    }

    /// Builds a request about an existing upload, without the user's fields that describe or guard
    /// the target.
    pub(crate) fn follow_up(&self, method: Method, url: &Url) -> RequestBuilder {
        self.prepare(method, url, |name| {
            let name = name.as_str();
            !name.starts_with("if-")
                && !name.starts_with("content-")
                && !matches!(name, "idempotency-key" | "repr-digest")
        })
    }

    fn prepare(
        &self,
        method: Method,
        url: &Url,
        belongs: impl Fn(&HeaderName) -> bool,
    ) -> RequestBuilder {
        let mut headers = HeaderMap::new();
        // An upload's URL may have another origin. The URL is a capability by itself, so the API
        // key is not sent there.
        if url.origin() == self.home.origin() {
            headers.extend(self.options.key.clone().map(|key| (AUTHORIZATION, key.0)));
            for (name, value) in self
                .options
                .headers
                .iter()
                .filter(|(name, _)| belongs(name))
            {
                headers.append(name, value.clone());
            }
        }
        self.client.request(method, url.clone()).headers(headers)
    }

    /// Sends a request without a body, or with a body that fits one packet, and waits for the head
    /// of the answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Setback> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.within(self.options.timeout, request.send())
            .await?
            .map_err(setback)
    }

    /// Requests bytes, with these fields, and waits for the head of the answer.
    ///
    /// Follows a redirect, also to another server, which gets these fields and none of the user's
    /// credentials and fields.
    pub(crate) async fn get(&self, url: &Url, fields: &HeaderMap) -> Result<Response, Setback> {
        let mut url = url.clone();
        for _ in 0..MAX_REDIRECTS {
            let request = self.request(Method::GET, &url).headers(fields.clone());
            let answer = self.send(request).await?;
            match redirected(&answer) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(Setback::nonsense(format!(
            "one redirect leads to the next, more than {MAX_REDIRECTS} times"
        )))
    }

    /// Runs `work` with a timeout.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Setback> {
        let stalled = || Setback::passing(format!("nothing came for {}", words::elapsed(time)));
        tokio::time::timeout(time, work)
            .await
            .map_err(|_| stalled())
    }

    /// Returns the number of requests that [`send`](Self::send) has sent.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the time without progress after which an attempt is given up.
    pub(crate) fn patience(&self) -> Duration {
        self.options.timeout
    }
}

fn client(options: &Options, home: &Url) -> Result<Client, Error> {
    let setup = |error: reqwest::Error| Error::Setup(chain(&error));
    if let Some(path) = &options.cacert {
        let trusted = trust::only(path, options.http2_prior_knowledge)?;
        let client = builder(options).tls_backend_preconfigured(trusted).build();
        return client.map_err(setup);
    }
    match builder(options).build() {
        // A container may have no certificates, and `http://` asks for none.
        Err(_) if home.scheme() == "http" => builder(options).tls_certs_only([]).build(),
        built => built,
    }
    .map_err(setup)
}

fn builder(options: &Options) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("longhaul/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::custom(stay_with_the_server))
        .tls_danger_accept_invalid_certs(options.insecure);
    if options.http2_prior_knowledge {
        builder.http2_prior_knowledge()
    } else {
        builder
    }
}

/// Follows a redirect only if it keeps the request and the server: any other would send the user's
/// fields to strangers, or turn an upload into a `GET`.
fn stay_with_the_server(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let is_faithful = matches!(
        attempt.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    let stays = attempt
        .previous()
        .last()
        .is_some_and(|from| from.origin() == attempt.url().origin());
    if is_faithful && stays && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// Returns the target of a redirected `GET`, unless the redirect gives up TLS.
fn redirected(answer: &Response) -> Option<Url> {
    let leads_on = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !leads_on.contains(&answer.status()) {
        return None;
    }
    let next = fields::text(answer.headers(), "location")?;
    let next = answer.url().join(next).ok()?;
    let is_as_safe = next.scheme() == "https" || next.scheme() == answer.url().scheme();
    is_as_safe.then_some(next)
}

/// Classifies a failed request. Most failures are temporary; those of the request itself, of a
/// certificate, and of an address without such a server are not.
pub(crate) fn setback(error: reqwest::Error) -> Setback {
    let server = error.url().map(Server::of).unwrap_or_default();
    // An upload's URL grants write access, so it stays out of messages.
    let error = error.without_url();
    if error.is_builder() {
        return Setback::Final(Error::Setup(chain(&error)));
    }
    let causes = causes(&error);
    if let Some(reason) = causes.iter().find_map(|cause| lasting(*cause, &server)) {
        let server = server.origin;
        return Setback::Final(Error::Unreachable { server, reason });
    }
    if error.is_connect() {
        let refused = |cause: &&(dyn std::error::Error + 'static)| {
            let error = cause.downcast_ref::<io::Error>();
            error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        let reason = if error.is_timeout() {
            "it does not answer".to_owned()
        } else if causes.iter().any(refused) {
            "connection refused".to_owned()
        } else {
            causes
                .last()
                .map_or_else(|| error.to_string(), ToString::to_string)
        };
        return Setback::passing(format!("cannot reach {}: {reason}", server.origin));
    }
    // The error itself only says that a request failed; its sources have the cause.
    Setback::passing(error.source().map_or_else(|| error.to_string(), chain))
}

/// Server of a URL, as messages name it.
#[derive(Debug, Default)]
struct Server {
    /// With its scheme.
    origin: String,
    host: String,
    /// The same with the other scheme.
    other: String,
}

impl Server {
    fn of(url: &Url) -> Self {
        let origin = url.origin().ascii_serialization();
        let (scheme, rest) = origin.split_once("://").unwrap_or_default();
        let other = if scheme == "https" { "http" } else { "https" };
        Self {
            host: url.host_str().unwrap_or_default().to_owned(),
            other: format!("{other}://{rest}"),
            origin,
        }
    }
}

/// Returns the reason why a retry is pointless, if it is.
fn lasting(cause: &(dyn std::error::Error + 'static), server: &Server) -> Option<String> {
    match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(error)) => {
            return Some(format!(
                "its certificate is not trusted ({error}); see --cacert, for example --cacert server.pem"
            ));
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            let other = &server.other;
            return Some(format!("it does not speak TLS; try {other}"));
        }
        Some(_) | None => {}
    }
    if cause
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_parse)
    {
        let hint = match server.other.strip_prefix("https") {
            Some(_) => format!("; if it speaks TLS, try {}", server.other),
            None => String::new(),
        };
        return Some(format!("what answers does not speak HTTP{hint}"));
    }
    // The system reports a failed look-up only by this text (gai_strerror(3)).
    let words = cause.to_string();
    let is_unknown = words.contains("failed to lookup address information")
        && !words.contains("Temporary failure");
    is_unknown.then(|| format!("there is no host `{}`; check the URL", server.host))
}

/// Returns the causes of an error, from the outermost to the innermost.
fn causes(error: &reqwest::Error) -> Vec<&(dyn std::error::Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        // The source of an io::Error is the source of the error inside it, which would be skipped.
        next = match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    causes
}

/// Formats an error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// Classifies an unexpected answer.
///
/// # Cancel safety
///
/// Reads the rest of the answer; dropping the future loses only the server's explanation.
pub(crate) async fn refusal(response: Response) -> Setback {
    let status = response.status();
    let after = fields::retry_after(response.headers());
    if status.is_redirection() {
        let to = fields::text(response.headers(), "location").unwrap_or("nowhere");
        return Setback::nonsense(format!(
            "{status} leads to {to}; if that is right, use its URL"
        ));
    }
    let refusal = Refusal {
        status,
        is_page: is_page(response.headers()),
        problem: problem(response).await,
    };
    let passes = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
    let busy = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::LOCKED,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if passes || busy.contains(&status) {
        Setback::Passing {
            reason: format!("the server answered {refusal}"),
            after,
        }
    } else {
        Setback::Final(Error::Refused(refusal))
    }
}

/// Returns true if an answer is a web page.
pub(crate) fn is_page(headers: &HeaderMap) -> bool {
    fields::text(headers, "content-type").is_some_and(|kind| kind.starts_with("text/html"))
}

async fn problem(mut response: Response) -> Option<super::error::Problem> {
    if !fields::text(response.headers(), "content-type")?.starts_with("application/problem+json") {
        return None;
    }
    let mut document = Vec::new();
    // The timeout bounds a server that never ends its problem document.
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            document.extend_from_slice(&chunk);
            if document.len() > LARGEST_PROBLEM {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .ok()?;
    serde_json::from_slice(&document).ok()
}
