//! Builds a server from a configuration: stores, services, and the state of the routes.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use budget::Budget;
use domain::access::Authenticator;
use domain::cleanup::Janitor;
use domain::clock::{FollowingClock, SystemClock};
use domain::courier::Courier;
use domain::ids::SystemRandomness;
use domain::packs;
use domain::uploads::{self, Hooks};
use domain::webhooks::{self, DeadLetters, Webhooks};
use domain::{
    BlobStore, Clock, EventStore, Files, Health, Leases, MetadataStore, NodeId, Outbox, PackStore,
    Packs, Supervisor, Uploads,
};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use edge::api::{Api, Place};
use edge::hosts::Hosts;
use edge::routes::admin::Admin;
use url::Url;

use crate::config::Config;
use crate::data_directory::{self, Opened as _};

/// Server that is ready to accept connections.
#[derive(Debug)]
pub struct Server {
    /// State of the public routes.
    pub api: Api,
    /// State of the admin routes.
    pub admin: Admin,
    /// Uploads. They end before the process, so that received bytes become durable.
    pub uploads: Uploads,
    /// Background deletion of expired uploads and unneeded bytes.
    pub janitor: Janitor,
    /// Leases that show other nodes that this one is alive, held until the uploads have ended.
    pub leases: Leases,
    /// Background delivery of events, if a receiver is configured.
    pub webhooks: Option<Webhooks>,
    /// Budget of the memory that peers can make the server hold.
    pub memory: Budget,
    /// Supervisor of all tasks.
    pub supervisor: Supervisor,
    /// Metadata store. It is closed last.
    pub metadata: Arc<dyn MetadataStore>,
}

impl Server {
    /// Opens the stores, migrates them, and cleans up after a crash. On stores that other nodes
    /// share, the janitor cleans up in time.
    ///
    /// # Errors
    ///
    /// A store cannot be opened, or another process uses the data directory.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let parts = Parts::open(config).await?;
        let courier = config.webhooks.courier(&parts.clock)?;
        let outbox = match &courier {
            Some(_) => Outbox::new(config.webhooks.events.clone(), Arc::new(SystemRandomness)),
            None => Outbox::silent(),
        };
        let packs = parts.packs(config, &outbox)?;
        let uploads = parts.uploads(config, &packs, &outbox)?;
        let janitor = parts.janitor(config, &uploads).await?;
        let supervisor = Supervisor::default();
        Ok(Self {
            api: parts.api(config, &uploads, packs),
            admin: parts.admin(config, &supervisor, &outbox),
            uploads,
            janitor,
            webhooks: courier.map(|courier| parts.webhooks(config, courier, outbox)),
            leases: parts.leases,
            memory: parts.memory,
            supervisor,
            metadata: parts.metadata,
        })
    }
}

/// Stores and values that the services share.
struct Parts {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    packs: Arc<dyn PackStore>,
    events: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    node: NodeId,
    leases: Leases,
    memory: Budget,
}

impl Parts {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        observe::describe();
        data_directory::make(&config.data)?;
        let blobs = blobs::open(&config.blobs, &config.data)
            .await
            .or_advise("failed to open the blob store", &config.data)?;
        let stores = metadata::open(&config.metadata, &config.data)
            .await
            .or_advise("failed to open the metadata store", &config.data)?;
        let metadata = observe::metadata_store(stores.metadata);
        let clock = Arc::new(FollowingClock::new(Arc::new(SystemClock)));
        let node = NodeId::random(&SystemRandomness);
        let leases = Leases::new(Arc::clone(&metadata), node, Arc::clone(&clock));
        let present = leases.appear().await;
        present.context("failed to make this node known to others")?;
        Ok(Self {
            blobs: observe::blob_store(blobs),
            metadata,
            packs: observe::pack_store(stores.packs),
            events: observe::event_store(stores.events),
            clock,
            node,
            leases,
            memory: Budget::new(config.memory.total.as_u64()),
        })
    }

    fn packs(&self, config: &Config, outbox: &Outbox) -> anyhow::Result<Packs> {
        let key = config.packs.signing_key.as_deref();
        let key = key.map(read_signing_key).transpose()?;
        let deps = packs::Deps {
            blobs: Arc::clone(&self.blobs),
            facts: Arc::clone(&self.packs),
            clock: Arc::clone(&self.clock),
            randomness: Arc::new(SystemRandomness),
            outbox: outbox.clone(),
            memory: self.memory.clone(),
        };
        Ok(Packs::new(deps, config.packs.clone(), key))
    }

    fn uploads(&self, config: &Config, packs: &Packs, outbox: &Outbox) -> anyhow::Result<Uploads> {
        let deps = uploads::Deps {
            blobs: Arc::clone(&self.blobs),
            metadata: Arc::clone(&self.metadata),
            packs: packs.clone(),
            hooks: Hooks {
                gatekeeper: config.webhooks.gatekeeper(&self.clock)?,
                outbox: outbox.clone(),
            },
            clock: Arc::clone(&self.clock),
            randomness: Arc::new(SystemRandomness),
            node: self.node,
            memory: self.memory.clone(),
        };
        Ok(Uploads::new(deps, config.uploads.clone()))
    }

    /// Returns the janitor, which has cleaned up after a crash unless other nodes share the stores.
    async fn janitor(&self, config: &Config, uploads: &Uploads) -> anyhow::Result<Janitor> {
        let janitor = Janitor::new(
            uploads.clone(),
            Arc::clone(&self.blobs),
            Arc::clone(&self.metadata),
            self.leases.clone(),
            config.cleanup.clone(),
        );
        if !self.metadata.is_shared() {
            let recovered = janitor.recover().await.context("failed to recover")?;
            tracing::debug!(?recovered, "recovered");
        }
        Ok(janitor)
    }

    fn webhooks(&self, config: &Config, courier: Arc<dyn Courier>, outbox: Outbox) -> Webhooks {
        let deps = webhooks::Deps {
            events: Arc::clone(&self.events),
            leases: self.leases.clone(),
            courier,
            clock: Arc::clone(&self.clock),
            randomness: Arc::new(SystemRandomness),
        };
        Webhooks::new(outbox, deps, config.webhooks.schedule())
    }

    fn admin(&self, config: &Config, supervisor: &Supervisor, outbox: &Outbox) -> Admin {
        let (blobs, metadata) = (Arc::clone(&self.blobs), Arc::clone(&self.metadata));
        Admin {
            health: Health::new(blobs, metadata, supervisor.clone()),
            dead_letters: DeadLetters::new(
                outbox.clone(),
                Arc::clone(&self.events),
                Arc::clone(&self.clock),
            ),
            hosts: Arc::new(Hosts::of_any_address(config.admin.hosts.clone())),
        }
    }

    fn api(&self, config: &Config, uploads: &Uploads, packs: Packs) -> Api {
        let (blobs, metadata) = (Arc::clone(&self.blobs), Arc::clone(&self.metadata));
        let url = config.public_url.as_ref();
        Api {
            authenticator: Authenticator::new(&config.access),
            uploads: uploads.clone(),
            files: Files::new(blobs, metadata, Arc::clone(&self.clock)),
            packs,
            clock: Arc::clone(&self.clock),
            place: Arc::new(Place {
                public_url: url.map(|url| url.as_str().trim_end_matches('/').to_owned()),
                hosts: Hosts::of_this_machine(url.and_then(Url::host_str)),
            }),
        }
    }
}

/// Reads the key that signs catalogues.
///
/// # Errors
///
/// The file cannot be read, or has no Ed25519 key; the message says how to make one.
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
