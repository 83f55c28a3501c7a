//! Information of the operating system about both ends of a connection on this machine.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::{PATIENCE, eventually, within};

/// Addresses of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    client: SocketAddr,
    server: SocketAddr,
}

/// Connects to a server.
pub(crate) async fn connect(server: SocketAddr) -> io::Result<(TcpStream, Ends)> {
    let socket = within(PATIENCE, "a connection", TcpStream::connect(server)).await?;
    socket.set_nodelay(true)?;
    let client = socket.local_addr()?;
    Ok((socket, Ends { client, server }))
}

impl Ends {
    /// Waits until the program at the other end has read all bytes of the client: neither kernel
    /// queue holds any.
    pub(crate) async fn drained(self) {
        eventually("the server reads what was sent", async || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
            let sending = queues(&table, self.client, self.server);
            let reading = queues(&table, self.server, self.client);
            // An end that is gone holds no bytes.
            let unsent = sending.map_or(0, |(unsent, _)| unsent);
            let unread = reading.map_or(0, |(_, unread)| unread);
            (unsent == 0 && unread == 0).then_some(())
        })
        .await;
    }
}

/// Returns the bytes queued for sending and for reading at `local`, from the table of
/// `proc_pid_net(5)`: `sl local_address rem_address st tx_queue:rx_queue …`, all in hexadecimal.
fn queues(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<(u64, u64)> {
    let (local, remote) = (in_table(local), in_table(remote));
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next()? != local || words.next()? != remote {
            return None;
        }
        let (unsent, unread) = words.nth(1)?.split_once(':')?;
        Some((
            u64::from_str_radix(unsent, 16).ok()?,
            u64::from_str_radix(unread, 16).ok()?,
        ))
    })
}

/// Formats an IPv4 address as in the table: the number in the machine's own byte order, then the
/// port.
fn in_table(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        panic!("tests use IPv4");
    };
    let number = u32::from_ne_bytes(address.ip().octets());
    format!("{number:08X}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100007F:1F90 0100007F:C350 01 00000010:0000A000 00:00000000 00000000     0";
        let (server, client) = (
            "127.0.0.1:8080".parse().unwrap(),
            "127.0.0.1:50000".parse().unwrap(),
        );
        assert_eq!(queues(table, server, client), Some((16, 40960)));
        assert_eq!(queues(table, client, server), None);
    }
}
