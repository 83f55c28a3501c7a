//! Asks another node to release an upload, by a notification: no row, no answer.
//!
//! Each node listens on its own connection, outside of the pool. A channel belongs to the entire
//! database, so that other users of the database receive the requests too; these contain no more
//! than the tables do.

use std::time::Duration;

use domain::metadata_store::{Ask, Asked, MetadataError};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use crate::engine::{Command, Scope, Statement, Transaction};
use crate::rows::column;
use crate::sql::now;
use crate::values::values;

const CHANNEL: &str = "longhaul_yield";

/// Time between a listener's failure and its next attempt.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest time that a listener waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends $1 and returns a row, if the node $4 holds the open upload $2 under epoch $3 and is alive.
pub(super) const ASK: Statement = Statement::same(concat!(
    "
select pg_notify('longhaul_yield', $1)
from uploads
where id = $2
  and epoch = $3
  and holder = $4
  and state = 'open'
  and exists (
    select 1
    from leases
    where leases.name = 'node/' || uploads.holder
      and leases.expires_at > ",
    now!(postgres),
    "
  )"
));

/// See [`ask_to_yield`](domain::MetadataStore::ask_to_yield).
#[derive(Debug)]
pub(super) struct AskToYield(pub(super) Ask);

impl Command for AskToYield {
    type Answer = Asked;
    const DOING: &'static str = "ask for an upload";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Asked, MetadataError> {
        let Ask {
            upload,
            node,
            epoch,
        } = self.0;
        let text = serde_json::to_string(&Text::of(&self.0));
        let values = values![
            text.map_err(|error| transaction.failed(error))?,
            upload.to_string(),
            column(epoch)?,
            node.to_string(),
        ];
        Ok(match transaction.run(ASK, values).await? {
            0 => Asked::Nobody,
            _ => Asked::Holder,
        })
    }
}

/// A request in the form that is sent.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    upload: String,
    node: String,
    epoch: u64,
}

impl Text {
    fn of(ask: &Ask) -> Self {
        Self {
            upload: ask.upload.to_string(),
            node: ask.node.to_string(),
            epoch: ask.epoch,
        }
    }

    /// Reads a request; `None` if no node of this release can have sent it.
    fn read(text: &str) -> Option<Ask> {
        let text: Self = serde_json::from_str(text).ok()?;
        Some(Ask {
            upload: text.upload.parse().ok()?,
            node: text.node.parse().ok()?,
            epoch: text.epoch,
        })
    }
}

/// Streams all requests from the first poll on, and reconnects whenever the connection is lost.
pub(super) fn listen(options: PgConnectOptions) -> BoxStream<'static, Ask> {
    let state = (options, None);
    stream::unfold(state, async |(options, mut listener)| {
        loop {
            let heard = match &mut listener {
                None => connect(&options).await.map(|connected| {
                    listener = Some(connected);
                    None
                }),
                Some(listener) => listener.recv().await.map(Some),
            };
            match heard {
                Ok(Some(heard)) => {
                    if let Some(ask) = Text::read(heard.payload()) {
                        return Some((ask, (options, listener)));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "this node does not hear when others ask for its uploads"
                    );
                    listener = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
    .boxed()
}

async fn connect(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
