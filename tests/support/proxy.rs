//! A bad network between a client and the server: it delays, throttles, cuts after a number of
//! bytes, or falls silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Maximum number of bytes moved at once.
const PIECE: usize = 16 * 1024;

/// Treatment of the bytes of each connection in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flow {
    /// Delay of each piece.
    pub delay: Duration,
    /// Maximum rate.
    pub bytes_per_second: Option<u32>,
    /// Fault of the connection, with the number of bytes before it.
    pub fault: Option<Fault>,
}

/// Fault of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Resets both ends once this many bytes have passed.
    CutAfter(u64),
    /// Stops all bytes once this many have passed, without notice to either end: a phone in a
    /// tunnel.
    SilentAfter(u64),
}

/// A proxy on its own port, which ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    flows: Arc<Mutex<Flows>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Flows {
    up: Flow,
    down: Flow,
}

impl Proxy {
    /// Listens on loopback and forwards each connection to `server`. `up` applies towards the
    /// server, `down` away from it.
    pub async fn start(server: SocketAddr, up: Flow, down: Flow) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has one");
        let flows = Arc::new(Mutex::new(Flows { up, down }));

        let mut tasks = JoinSet::new();
        let rules = Arc::clone(&flows);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                let flows = *rules.lock().expect("no thread panics with the lock held");
                connections.spawn(pass(client, server, flows));
            }
        });
        Self {
            address,
            flows,
            _tasks: tasks,
        }
    }

    /// Returns the address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the flows of future connections.
    pub fn set(&self, up: Flow, down: Flow) {
        *self
            .flows
            .lock()
            .expect("no thread panics with the lock held") = Flows { up, down };
    }
}

/// One direction is broken, and both ends must be reset.
struct Broken;

/// Forwards one connection until both directions have ended or one breaks.
async fn pass(mut client: TcpStream, server: SocketAddr, flows: Flows) {
    let Ok(mut upstream) = TcpStream::connect(server).await else {
        return;
    };
    for socket in [&client, &upstream] {
        // A failure costs only speed.
        let _ = socket.set_nodelay(true);
    }
    let outcome = {
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = upstream.split();
        tokio::try_join!(
            pump(client_reads, server_writes, flows.up),
            pump(server_reads, client_writes, flows.down),
        )
    };
    if let Err(Broken) = outcome {
        for socket in [&client, &upstream] {
            // Fails on a socket that is already gone.
            let _ = socket.set_zero_linger();
        }
    }
}

/// Moves bytes in one direction as `flow` prescribes, until they end.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, flow: Flow) -> Result<(), Broken> {
    let mut piece = vec![0; PIECE];
    let mut passed = 0;
    loop {
        let room = match flow.fault {
            None => piece.len(),
            Some(Fault::CutAfter(limit) | Fault::SilentAfter(limit)) => {
                usize::try_from(limit - passed).map_or(piece.len(), |left| left.min(piece.len()))
            }
        };
        if room == 0 {
            match flow.fault {
                Some(Fault::SilentAfter(_)) => std::future::pending().await,
                Some(Fault::CutAfter(_)) | None => return Err(Broken),
            }
        }
        let count = from.read(&mut piece[..room]).await.map_err(|_| Broken)?;
        if count == 0 {
            return to.shutdown().await.map_err(|_| Broken);
        }
        sleep(flow.delay).await;
        to.write_all(&piece[..count]).await.map_err(|_| Broken)?;
        let count = u32::try_from(count).expect("a piece is small");
        passed += u64::from(count);
        if let Some(rate) = flow.bytes_per_second {
            sleep(Duration::from_secs(1) * count / rate).await;
        }
    }
}
