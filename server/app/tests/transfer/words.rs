//! Messages of the client without a server to talk to, and for requests that it cannot execute.

use std::io::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::server::{Manners, Server};
use crate::{Machine, content};

/// The ways to begin a transfer with the server at this origin.
fn commands(origin: &str) -> [Vec<String>; 4] {
    let words = |words: &str| words.split(' ').map(str::to_owned).collect();
    [
        words(&format!("upload movie.mov {origin}/files/f")),
        words(&format!("download {origin}/files/f -o copy")),
        words(&format!("publish tree --pack maps --server {origin}")),
        words(&format!("pull {origin}/packs/maps pulled")),
    ]
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("movie.mov", &content(1000, 1));
    std::fs::create_dir(machine.path("tree")).unwrap();
    machine.write("tree/file", b"content");
    machine
}

/// Runs all four commands, each of which must fail in this way.
async fn all_fail(origin: &str, more: &[&str], code: i32, messages: &[&str]) {
    let machine = machine();
    for command in commands(origin) {
        let mut command: Vec<&str> = command.iter().map(|word| &**word).collect();
        command.extend(more);
        let run = machine.run(&command).await;
        for message in messages {
            run.failed_with(code, message);
        }
    }
    assert!(
        !machine.path("pulled").exists(),
        "nothing is left of a pull"
    );
}

/// Answers whatever is asked with the same bytes, and tells where.
async fn answering(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(answer).await;
                let _ = socket.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_said_to_be_at_once_and_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let reason = format!("cannot reach {origin}: connection refused");
    let waiting = format!("{reason}; trying again in 0.0 s, and for less than a minute in all");
    let gave_up = "gave up after 3 attempts without progress; ";
    let messages = [&*waiting, "(Ctrl-C to stop)", gave_up, &reason];
    all_fail(&origin, &["--retries", "2"], 75, &messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_exist_is_not_waited_for() {
    let host = "no-such-host.invalid";
    if let Err(error) = tokio::net::lookup_host((host, 80)).await
        && error.to_string().contains("Temporary failure")
    {
        skipped("there is no resolver here");
        return;
    }
    let messages = ["there is no host `no-such-host.invalid`; check the URL"];
    all_fail(&format!("http://{host}"), &[], 1, &messages).await;
}

/// Written past the capture of the test harness.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "\nskipped: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_scheme_is_not_waited_for() {
    let plain = Server::start(Manners::default()).await;
    let origin = plain.url.replace("http://", "https://");
    let messages = ["it does not speak TLS; try http://localhost:"];
    all_fail(&origin, &[], 1, &messages).await;

    // The alert that a TLS server has for plain HTTP.
    let address = answering(b"\x15\x03\x01\x00\x02\x02\x46").await;
    let other = format!("try https://{address}");
    let messages = [
        "what answers does not speak HTTP; if it speaks TLS, ",
        &other,
    ];
    all_fail(&format!("http://{address}"), &[], 1, &messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_is_no_answer() {
    let page =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 13\r\n\
        Connection: close\r\n\r\n<h1>Login</h1>";
    let origin = format!("http://{}", answering(page).await);
    all_fail(&origin, &[], 1, &["Longhaul server"]).await;
    let page = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\
        Connection: close\r\n\r\nno";
    let origin = format!("http://{}", answering(page).await);
    all_fail(&origin, &[], 1, &["this may be no Longhaul server"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_asked_for_is_named() {
    let problem = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nContent-Length: 24\r\n\
        Connection: close\r\n\r\n{\"title\": \"Key missing\"}";
    let origin = format!("http://{}", answering(problem).await);
    let messages = ["401 Unauthorized: Key missing; give the key with --key or LONGHAUL_KEY"];
    all_fail(&origin, &[], 1, &messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_command_does_is_named() {
    let machine = machine();
    let says = async |arguments: &str, code: i32, message: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        machine.run(&arguments).await.failed_with(code, message);
    };
    says(
        "download http://h/packs/maps",
        1,
        "use `longhaul pull http://h/packs/maps DIRECTORY`",
    )
    .await;
    says(
        "upload movie.mov http://h:1/packs/maps",
        1,
        "use `longhaul publish DIRECTORY --pack maps --server http://h:1`",
    )
    .await;
    says(
        "pull http://h/files/a copy",
        1,
        "use `longhaul download http://h/files/a`",
    )
    .await;
    says(
        "publish tree --pack maps --server http://h/packs/maps",
        2,
        "the server alone, for example http://h",
    )
    .await;
    says(
        "upload tree http://h/files/",
        1,
        "tree is a directory: `longhaul publish DIRECTORY --pack NAME` publishes its files",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_without_a_scheme_is_answered_with_one() {
    let machine = machine();
    for command in commands("localhost:8080") {
        let example = match &*command[0] {
            "upload" | "download" => "http://localhost:8080/files/f",
            "publish" => "http://localhost:8080",
            _ => "http://localhost:8080/packs/maps",
        };
        let command: Vec<&str> = command.iter().map(|word| &**word).collect();
        let run = machine.run(&command).await;
        assert!(matches!(run.code, Some(1 | 2)), "{run:#?}");
        let words = format!("a URL begins with http:// or https://, for example {example}");
        assert!(run.stderr.contains(&words), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_no_file_to_upload() {
    let machine = machine();
    let server = Server::start(Manners::default()).await;
    let made = std::process::Command::new("mkfifo")
        .arg(machine.path("pipe"))
        .status();
    assert!(made.unwrap().success());
    let url = format!("{}/files/f", server.url);
    machine
        .run(&["upload", "pipe", &url])
        .await
        .failed_with(1, "pipe is no plain file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_has_no_room_is_not_begun() {
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: video/quicktime\r\nContent-Length: 9000000000000000\r\n\
        Connection: close\r\n\r\n";
    let machine = machine();
    let url = format!("http://{}/files/f", answering(head).await);
    let run = machine.run(&["download", &url, "-o", "copy"]).await;
    run.failed_with(1, "make room, or choose another place");
    assert_eq!(machine.files(), ["movie.mov", "tree"]);
}
