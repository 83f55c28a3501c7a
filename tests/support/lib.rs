//! Common parts of the end-to-end tests and the benchmark: the real program as a child process,
//! clients that show everything that a server sends, a bad network, and content that proves itself.

pub mod client;
pub mod content;
pub mod frames;
pub mod http1;
pub mod http2;
pub mod pack;
pub mod patience;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod request;
pub mod response;
pub mod server;
pub mod skip;
mod sockets;
pub mod stores;
pub mod tls;
pub mod url_session;

pub use client::{Client, Version};
pub use content::{Content, Dice};
pub use patience::{PATIENCE, eventually, within};
pub use process::Process;
pub use proxy::{Fault, Flow, Proxy};
pub use request::Request;
pub use response::{Cut, Head, Response};
pub use server::TestServer;
pub use skip::skip;
pub use stores::{Blobs, Metadata, Stores};
pub use tls::Authority;
