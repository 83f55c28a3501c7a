//! The server under test: the way to address it, and the abilities that it announces.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::content;
use crate::exchange::{Client, Connector, Event, Exchange, Framing, Head, RequestHead};
use crate::url::Url;
use crate::vector::Transport;
use crate::version::{INTEROP, Version};

/// A server and the parameters for requests to it.
pub(crate) struct Target {
    /// URL for creations; each `{unique}` in it becomes another word in every run.
    pub(crate) url: String,
    /// Method that replaces `POST` on the creation URL, except for tus.
    pub(crate) method: String,
    /// Fields sent with every request.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) connector: Connector,
    /// Longest wait for a final response.
    pub(crate) patience: Duration,
    /// Longest wait for an interim response while the body waits.
    pub(crate) interim_patience: Duration,
}

/// Abilities that the server announces.
#[derive(Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) tus_extensions: Vec<String>,
    pub(crate) limits: BTreeMap<String, u64>,
    /// Every dialect that the server offers, and whether it answers creations in it with 104.
    pub(crate) offered: BTreeMap<Version, bool>,
}

impl Target {
    /// Returns the creation URL for one run.
    pub(crate) fn creation(&self) -> Result<Url, String> {
        let random = RandomState::new().hash_one(());
        Url::parse(&self.url.replace("{unique}", &format!("{random:016x}")))
    }

    /// Asks the server for its abilities on this transport.
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

    /// Begins an upload. Returns `None` if the server treats it as an ordinary upload, otherwise
    /// whether it sent 104.
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

    /// Uploads one byte. Returns `None` if the server accepts no ordinary uploads, which need no
    /// 104.
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

/// Parses the integer members of an `Upload-Limit`.
fn limits(value: &str) -> BTreeMap<String, u64> {
    let members = value.split(',').filter_map(|member| member.split_once('='));
    members
        .filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?)))
        .collect()
}
