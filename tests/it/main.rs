//! Stories: end-to-end tests of the real program over real sockets, from a client's point of view.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod access;
mod admin;
mod architecture;
mod bad_input;
mod conformance;
mod copying;
mod crash;
mod deploy;
mod dialect;
mod downloads;
mod expect;
mod full_disk;
mod hostile;
mod hosts;
mod ios_guide;
mod life;
mod limits;
mod locked_database;
mod newest_wins;
mod nodes;
mod pack_archives;
mod pack_archives_large;
mod pack_client;
mod pack_downloads;
mod packs;
mod packs_intake;
mod places;
mod proxies;
mod real_clients;
mod real_clients_resume;
mod real_packs;
mod redirects;
mod resume;
mod s3_servers;
mod semantics;
mod shutdown;
mod tls;
mod upload_ends;
mod uploads;
mod url_session;
mod webhooks;
