//! The minimal cost of a durable upload: a loop from the socket to a file, synced before the
//! answer.
//!
//! Supports only the HTTP that the client of this benchmark speaks.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// Variable that names the directory and turns this program into the bare loop.
const VARIABLE: &str = "LOAD_BARE_DIRECTORY";
const PIECE: usize = 256 * 1024;

/// Starts the loop in a child process, which prints its port. Returns both.
pub(crate) fn start(directory: &Path) -> anyhow::Result<(Child, u16)> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(VARIABLE, directory)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start the bare loop")?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let port = line
        .trim()
        .parse()
        .context("the bare loop prints its port")?;
    Ok((child, port))
}

/// Returns the directory, if this process is to be the loop.
pub(crate) fn asked_for() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// Serves until killed, with one thread for each connection.
pub(crate) fn serve(directory: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    for stream in listener.incoming() {
        let (stream, directory) = (stream?, directory.to_owned());
        // The client reports a failed connection.
        std::thread::spawn(move || connection(&stream, &directory));
    }
    Ok(())
}

fn connection(stream: &TcpStream, directory: &Path) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(PIECE, stream);
    let mut piece = vec![0; PIECE];
    loop {
        let Some((method, name, length)) = read_head(&mut reader)? else {
            return Ok(());
        };
        let path = directory.join(name);
        let status = if method == "PUT" {
            store(&mut reader, &path, length, &mut piece)?;
            "201 Created"
        } else {
            fs::remove_file(&path)?;
            "204 No Content"
        };
        (&mut &*stream)
            .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    }
}

/// Reads the method, the file name and the length of the body; `None` at the end of the connection.
fn read_head(reader: &mut impl std::io::BufRead) -> anyhow::Result<Option<(String, String, u64)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let method = words.next().context("a method")?.to_owned();
    let name = words
        .next()
        .context("a target")?
        .trim_start_matches('/')
        .replace('/', "-");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some((method, name, length)));
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.parse()?;
        }
    }
}

fn store(
    reader: &mut impl std::io::Read,
    path: &Path,
    length: u64,
    piece: &mut [u8],
) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut reader = reader.take(length);
    loop {
        let count = reader.read(piece)?;
        if count == 0 {
            break;
        }
        file.write_all(&piece[..count])?;
    }
    file.sync_data()?;
    Ok(())
}
