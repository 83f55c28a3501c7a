//! From a configuration to a server: stores, services, and what the routes need.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use budget::Budget;
use domain::access::Gate;
use domain::cleanup::Janitor;
use domain::clock::{FollowingClock, SystemClock};
use domain::ids::SystemRandomness;
use domain::packs;
use domain::uploads::{self, Hooks};
use domain::webhooks::{self, DeadLetters, Webhooks};
use domain::{
    BlobStore, Clock, Files, Health, Leases, MetadataStore, NodeId, Outbox, Packs, Supervisor,
    Uploads,
};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use edge::api::{Api, Place};
use edge::hosts::Hosts;
use edge::routes::admin::Admin;
use url::Url;

use crate::config::Config;
use crate::data_directory::{self, Opened as _};

/// A server that is ready to be served.
#[derive(Debug)]
pub struct Server {
    /// What requests are answered with.
    pub api: Api,
    /// What operators are answered with.
    pub admin: Admin,
    /// Ended before the process, so that what is coming in becomes durable.
    pub uploads: Uploads,
    /// Works beside the router.
    pub janitor: Janitor,
    /// Says to other nodes that this one is alive, until the uploads are ended.
    pub leases: Leases,
    /// Delivers events beside the router, where somebody wants any.
    pub webhooks: Option<Webhooks>,
    /// What peers hold of the server's memory is taken from this.
    pub memory: Budget,
    /// Watches over the tasks of all of these.
    pub supervisor: Supervisor,
    /// Closed last.
    pub metadata: Arc<dyn MetadataStore>,
}

impl Server {
    /// Opens the stores, migrates them, and cleans up after a crash, unless other nodes may be at work: they clean up in time.
    ///
    /// # Errors
    ///
    /// A store cannot be opened, or the data directory is another process's.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        data_directory::make(&config.data)?;
        let blobs: Arc<dyn BlobStore> = blobs::open(&config.blobs, &config.data)
            .await
            .or_advise("failed to open the blob store", &config.data)?;
        let stores = metadata::open(&config.metadata, &config.data)
            .await
            .or_advise("failed to open the metadata store", &config.data)?;
        let metadata: Arc<dyn MetadataStore> = stores.metadata;
        let clock = Arc::new(FollowingClock::new(Arc::new(SystemClock)));
        let node = NodeId::random(&SystemRandomness);
        let leases = Leases::new(Arc::clone(&metadata), node, Arc::clone(&clock));
        let clock: Arc<dyn Clock> = clock;
        let present = leases.appear().await;
        present.context("failed to make this node known to others")?;
        let courier = config.webhooks.courier(&clock)?;
        let outbox = match &courier {
            Some(_) => Outbox::new(config.webhooks.events.clone(), Arc::new(SystemRandomness)),
            None => Outbox::silent(),
        };
        let memory = Budget::new(config.memory.total.as_u64());
        let packs = Packs::new(
            packs::Means {
                blobs: Arc::clone(&blobs),
                facts: stores.packs,
                clock: Arc::clone(&clock),
                randomness: Arc::new(SystemRandomness),
                outbox: outbox.clone(),
                memory: memory.clone(),
            },
            config.packs.clone(),
            config
                .packs
                .signing_key
                .as_deref()
                .map(read_signing_key)
                .transpose()?,
        );
        let uploads = Uploads::new(
            uploads::Means {
                blobs: Arc::clone(&blobs),
                metadata: Arc::clone(&metadata),
                packs: packs.clone(),
                hooks: Hooks {
                    gatekeeper: config.webhooks.gatekeeper(&clock)?,
                    outbox: outbox.clone(),
                },
                clock: Arc::clone(&clock),
                randomness: Arc::new(SystemRandomness),
                node,
                memory: memory.clone(),
            },
            config.uploads.clone(),
        );
        let janitor = Janitor::new(
            uploads.clone(),
            Arc::clone(&blobs),
            Arc::clone(&metadata),
            leases.clone(),
            config.cleanup.clone(),
        );
        if !metadata.is_shared() {
            let recovered = janitor.recover().await.context("failed to recover")?;
            tracing::debug!(?recovered, "recovered");
        }
        let webhooks = courier.map(|courier| {
            let means = webhooks::Means {
                events: Arc::clone(&stores.events),
                leases: leases.clone(),
                courier,
                clock: Arc::clone(&clock),
                randomness: Arc::new(SystemRandomness),
            };
            Webhooks::new(outbox.clone(), means, config.webhooks.schedule())
        });
        let supervisor = Supervisor::default();
        let admin = Admin {
            health: Health::new(
                Arc::clone(&blobs),
                Arc::clone(&metadata),
                supervisor.clone(),
            ),
            dead_letters: DeadLetters::new(outbox, stores.events, Arc::clone(&clock)),
            hosts: Arc::new(Hosts::of_any_address(config.admin.hosts.clone())),
        };
        let public_host = config.public_url.as_ref().and_then(Url::host_str);
        let api = Api {
            gate: Gate::new(&config.access),
            uploads: uploads.clone(),
            files: Files::new(blobs, Arc::clone(&metadata), Arc::clone(&clock)),
            packs,
            clock,
            place: Arc::new(Place {
                public_url: config
                    .public_url
                    .as_ref()
                    .map(|url| url.as_str().trim_end_matches('/').to_owned()),
                hosts: Hosts::of_this_machine(public_host),
            }),
        };
        Ok(Self {
            api,
            admin,
            uploads,
            janitor,
            leases,
            webhooks,
            memory,
            supervisor,
            metadata,
        })
    }
}

/// Reads the key that signs catalogues.
///
/// # Errors
///
/// The file cannot be read, or holds no such key; the message says how to make one.
pub(crate) fn read_signing_key(file: &Path) -> anyhow::Result<SigningKey> {
    let pem = std::fs::read_to_string(file)
        .with_context(|| format!("failed to read the signing key in {}", file.display()))?;
    SigningKey::from_pkcs8_pem(&pem).with_context(|| {
        let file = file.display();
        format!(
            "{file} has no Ed25519 private key in PEM; make one: openssl genpkey -algorithm ed25519 -out {file}"
        )
    })
}
