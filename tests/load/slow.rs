//! Memory of many transfers that barely move, half of them up and half down.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::bail;
use rustix::net::sockopt;
use tests::process::Resident;

use crate::client;
use crate::peers::Peer;

/// Bytes per tick on each connection.
const STEP: usize = 4 * 1024;
const TICK: Duration = Duration::from_millis(100);
const TICKS: u32 = 60;
/// Announced length of each upload, which it never reaches.
const ANNOUNCED: u64 = 1024 * 1024 * 1024;

/// Returns the memory that `connections` slow transfers take beyond the memory of the idle server.
pub(crate) fn run(peer: &Peer, connections: usize) -> anyhow::Result<Resident> {
    let before = peer.resident();
    let body = client::body();
    let mut buffer = vec![0; STEP];
    let mut up = Vec::new();
    let mut down = Vec::new();
    for number in 0..connections {
        let mut stream = TcpStream::connect(peer.address)?;
        let uploads = number % 2 == 0;
        let exchange = if uploads {
            peer.put(&format!("slow-{number}"), ANNOUNCED)
        } else {
            // The receive window of a phone, not that of loopback.
            sockopt::set_socket_recv_buffer_size(&stream, 64 * 1024)?;
            peer.get("large", "", 200)
        };
        stream.write_all(&exchange.head)?;
        stream.set_nonblocking(true)?;
        if uploads {
            up.push(stream)
        } else {
            down.push(stream)
        }
    }
    for _ in 0..TICKS {
        for stream in &mut up {
            passed(stream.write(&body[..STEP]))?;
        }
        for stream in &mut down {
            passed(stream.read(&mut buffer))?;
        }
        std::thread::sleep(TICK);
    }
    let after = peer.resident();
    Ok(Resident {
        total: after.total.saturating_sub(before.total),
        anonymous: after.anonymous.saturating_sub(before.anonymous),
    })
}

fn passed(outcome: std::io::Result<usize>) -> anyhow::Result<()> {
    match outcome {
        Ok(0) => bail!("the server closed a slow transfer"),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}
