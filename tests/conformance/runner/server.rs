//! The server under test: how it is spoken to, and what it says of itself.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::content;
use crate::exchange::{Client, Connector, Event, Exchange, Framing, Head, RequestHead};
use crate::url::Url;
use crate::vector::Transport;
use crate::version::{INTEROP, Version};

/// A server and how it is spoken to.
pub(crate) struct Target {
    /// The creation URL; `{unique}` in it becomes another word in every run.
    pub(crate) url: String,
    /// What is sent instead of `POST` to the creation URL, except for tus.
    pub(crate) method: String,
    /// Sent with every request.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) connector: Connector,
    /// For final responses.
    pub(crate) patience: Duration,
    /// For interim responses while the body waits.
    pub(crate) interim_patience: Duration,
}

/// What the server says of itself.
#[derive(Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) tus_extensions: Vec<String>,
    pub(crate) limits: BTreeMap<String, u64>,
    /// Each dialect that is offered, and whether its creations are answered with 104.
    pub(crate) offered: BTreeMap<Version, bool>,
}

impl Target {
    /// The creation URL for one run.
    pub(crate) fn creation(&self) -> Result<Url, String> {
        let random = RandomState::new().hash_one(());
        Url::parse(&self.url.replace("{unique}", &format!("{random:016x}")))
    }

    /// Asks what the server offers on this transport.
    pub(crate) async fn abilities(
        &self,
        transport: Transport,
        versions: &[Version],
    ) -> Result<Abilities, String> {
        let mut abilities = Abilities::default();
        let options = self.ask(transport, "OPTIONS", Vec::new()).await?;
        let list = |name: &str| options.field(name).unwrap_or_default();
        abilities.tus_extensions = list("Tus-Extension")
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        abilities.limits = limits(&list("Upload-Limit"));
        if let Some(size) = options
            .field("Tus-Max-Size")
            .and_then(|size| size.parse().ok())
        {
            abilities.limits.insert("tus-max-size".to_owned(), size);
        }
        for version in versions {
            let offer = match version {
                Version::Interop(_) | Version::Rfc => self.probe_ietf(transport, *version).await?,
                Version::Tus => options.field("Tus-Version").map(|_| false),
                Version::Plain => self.probe_plain(transport).await?,
            };
            if let Some(sends_interim) = offer {
                abilities.offered.insert(*version, sends_interim);
            }
        }
        Ok(abilities)
    }

    /// Begins an upload: `None` if the server takes it for an ordinary one, else whether it sent 104.
    async fn probe_ietf(
        &self,
        transport: Transport,
        version: Version,
    ) -> Result<Option<bool>, String> {
        let (completeness, incomplete) = version.completeness(false);
        let mut fields = vec![
            (completeness.to_owned(), incomplete.to_owned()),
            ("Content-Length".to_owned(), "1".to_owned()),
        ];
        fields.extend(
            version
                .interop()
                .map(|number| (INTEROP.to_owned(), number.to_string())),
        );
        let mut exchange = self
            .begin(transport, &self.method, fields, Framing::Length)
            .await?;
        let interim = loop {
            match exchange
                .event_before(Instant::now() + self.interim_patience)
                .await
            {
                Some(Event::Interim(head)) if head.status != 104 => {}
                Some(Event::Interim(_)) => break true,
                Some(Event::Final(head, _)) => return Ok(head.field(completeness).map(|_| false)),
                Some(Event::Closed(_)) => return Ok(None),
                None => break false,
            }
        };
        let deadline = Instant::now() + self.patience;
        exchange.send(content::bytes(0..1), deadline).await?;
        exchange.end(&[]).await;
        match end_of(&mut exchange, deadline).await {
            Some(head) => Ok((interim || head.field(completeness).is_some()).then_some(interim)),
            None => Ok(interim.then_some(true)),
        }
    }

    /// Uploads a byte: `None` if the server takes no ordinary uploads. They need no 104.
    async fn probe_plain(&self, transport: Transport) -> Result<Option<bool>, String> {
        let fields = vec![("Content-Length".to_owned(), "1".to_owned())];
        let mut exchange = self
            .begin(transport, &self.method, fields, Framing::Length)
            .await?;
        let deadline = Instant::now() + self.patience;
        exchange.send(content::bytes(0..1), deadline).await?;
        exchange.end(&[]).await;
        let answer = end_of(&mut exchange, deadline).await;
        Ok(answer
            .filter(|head| (200..300).contains(&head.status))
            .map(|_| false))
    }

    async fn ask(
        &self,
        transport: Transport,
        method: &str,
        fields: Vec<(String, String)>,
    ) -> Result<Head, String> {
        let mut exchange = self
            .begin(transport, method, fields, Framing::NoBody)
            .await?;
        let answer = end_of(&mut exchange, Instant::now() + self.patience).await;
        answer.ok_or_else(|| {
            format!(
                "{method} {} gets no answer over {}",
                self.url,
                transport.name()
            )
        })
    }

    async fn begin(
        &self,
        transport: Transport,
        method: &str,
        fields: Vec<(String, String)>,
        framing: Framing,
    ) -> Result<Exchange, String> {
        let url = self.creation()?;
        let fields = self.fields.iter().cloned().chain(fields).collect();
        let head = RequestHead {
            method: method.to_owned(),
            origin: url.origin,
            path: url.path,
            fields,
            http_1_0: false,
            framing,
        };
        Client::new(&self.connector, transport).open(head).await
    }
}

async fn end_of(exchange: &mut Exchange, deadline: Instant) -> Option<Head> {
    loop {
        match exchange.event_before(deadline).await {
            Some(Event::Interim(_)) => {}
            Some(Event::Final(head, _)) => return Some(head),
            Some(Event::Closed(_)) | None => return None,
        }
    }
}

/// The integer members of an `Upload-Limit`.
fn limits(value: &str) -> BTreeMap<String, u64> {
    let members = value.split(',').filter_map(|member| member.split_once('='));
    members
        .filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?)))
        .collect()
}
