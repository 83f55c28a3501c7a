use std::time::Duration;

use axum::http::StatusCode;
use domain::digest::Sha256Digest;
use tokio::time::Instant;

use crate::server::{Manners, Mischief, Server};
use crate::{Machine, Random, content, finish, grows_to, signal, until};

const MIB: usize = 1024 * 1024;

/// A machine, and a server with one file.
async fn setting(size: usize, manners: Manners) -> (Machine, Server, Vec<u8>, String) {
    let server = Server::start(manners).await;
    let file = content(size, 1);
    server
        .books()
        .files
        .insert("/files/a/movie.mov".to_owned(), file.clone());
    let url = format!("{}/files/a/movie.mov", server.url);
    (Machine::new(), server, file, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_down_under_its_own_name() {
    let (machine, server, file, url) = setting(3 * MIB, Manners::default()).await;
    let run = machine.json(&["download", &url, "--key", "lh_k"]).await;
    let done = run.succeeded().event("done");
    assert_eq!(
        (&done["file"], &done["verified"]),
        (&"movie.mov".into(), &true.into())
    );
    assert_eq!(done["sha256"], Sha256Digest::of(&file).to_string());
    assert_eq!(done["etag"], format!("\"{}\"", Sha256Digest::of(&file)));
    assert_eq!(
        (machine.files(), machine.read("movie.mov")),
        (vec!["movie.mov".to_owned()], file.clone())
    );
    assert_eq!(
        server.books().fields("GET")[0]["authorization"],
        "Bearer lh_k"
    );

    server.books().disposition =
        Some("attachment; filename=\"../../x\"; filename*=UTF-8''%2e.%2fk%c3%a4se.mov".to_owned());
    let run = machine.run(&["download", &url]).await;
    assert_eq!(run.succeeded().stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.starts_with("downloaded http"), "{}", run.stderr);
    assert_eq!(machine.files(), ["käse.mov", "movie.mov"]);

    machine
        .run(&["download", &url, "-o", "other"])
        .await
        .succeeded();
    std::fs::create_dir(machine.path("directory")).unwrap();
    machine
        .run(&["download", &url, "-o", "directory"])
        .await
        .succeeded();
    assert_eq!(
        (machine.read("other"), machine.read("directory/käse.mov")),
        (file.clone(), file)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_comes_down() {
    let (machine, _server, _, url) = setting(0, Manners::default()).await;
    machine.run(&["download", &url]).await.succeeded();
    assert_eq!(
        (machine.files(), machine.read("movie.mov")),
        (vec!["movie.mov".to_owned()], vec![])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_anywhere_lose_nothing() {
    for seed in 0..6 {
        let (machine, server, file, url) = setting(5 * MIB + 13, Manners::default()).await;
        let mut random = Random(seed);
        server.plan("GET", (0..8).map(|_| Mischief::CutAfter(random.below(MIB))));
        let arguments = if seed % 2 == 0 {
            vec!["download", &url]
        } else {
            vec!["download", &url, "-o", "movie.mov"]
        };
        let run = machine.json(&arguments).await;
        assert_eq!(run.succeeded().event("done")["verified"], true);
        assert_eq!(
            (run.events("retrying").len(), run.events("restarted").len()),
            (8, 0),
            "seed {seed}"
        );
        assert_eq!(
            (machine.read("movie.mov"), machine.files().len()),
            (file, 1),
            "seed {seed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_begins_anew() {
    let (machine, server, _, url) = setting(2 * MIB, Manners::default()).await;
    let other = content(MIB, 2);
    server.plan(
        "GET",
        [Mischief::CutAfter(MIB + 5), Mischief::Change(other.clone())],
    );
    let run = machine.json(&["download", &url]).await;
    assert_eq!(
        run.succeeded().event("restarted")["reason"],
        "the file changed on the server"
    );
    assert_eq!(machine.read("movie.mov"), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_strong_tags_parts_are_not_joined() {
    let (machine, server, file, url) = setting(
        MIB,
        Manners {
            has_weak_tags: true,
            ..Manners::default()
        },
    )
    .await;
    server.plan("GET", [Mischief::CutAfter(MIB / 2)]);
    machine.run(&["download", &url]).await.succeeded();
    assert_eq!(machine.read("movie.mov"), file);
    assert!(
        server
            .books()
            .fields("GET")
            .iter()
            .all(|fields| !fields.contains_key("range"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_goes_on_in_the_next_run() {
    for output in [None, Some("movie.mov")] {
        let (machine, server, file, url) = setting(4 * MIB, Manners::default()).await;
        let mut arguments = vec!["download", url.as_str()];
        arguments.extend(output.map_or(vec![], |output| vec!["-o", output]));
        let mut child = machine
            .command(&[&arguments[..], &["--limit-rate", "2MiB"]].concat())
            .spawn()
            .unwrap();
        grows_to(&machine.path("movie.mov.part"), MIB as u64).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(machine.files(), ["movie.mov.part", "movie.mov.part.json"]);
        let kept = machine.read("movie.mov.part").len();

        let run = machine.json(&arguments).await;
        assert_eq!(run.succeeded().event("started")["offset"], kept);
        assert_eq!(
            (machine.files(), machine.read("movie.mov")),
            (vec!["movie.mov".to_owned()], file)
        );
        assert_eq!(
            server.books().fields("GET").last().unwrap()["range"],
            format!("bytes={kept}-").as_str()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_keeps_every_byte() {
    let (machine, _server, file, url) = setting(4 * MIB, Manners::default()).await;
    let child = machine
        .command(&["download", &url, "--limit-rate", "1MiB", "--json"])
        .spawn()
        .unwrap();
    grows_to(&machine.path("movie.mov.part.json"), 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(child.id(), "INT");
    let run = finish(child).await;
    run.failed_with(
        130,
        "interrupted; run the same command again to go on from ",
    );
    // Less than the program gathers before it writes, so these bytes were written on the way out.
    let kept = machine.read("movie.mov.part").len();
    assert!(kept > 100_000 && kept < MIB, "{kept}");
    assert!(
        run.stderr.contains(&format!("from {kept} bytes")),
        "{} {kept}",
        run.stderr
    );

    machine.run(&["download", &url]).await.succeeded();
    assert_eq!(machine.read("movie.mov"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_rotted_is_found_out() {
    let (machine, server, file, url) = setting(2 * MIB, Manners::default()).await;
    server.plan("GET", [Mischief::CutAfter(MIB), Mischief::CutAfter(0)]);
    machine
        .run(&["download", &url, "--retries", "1"])
        .await
        .failed_with(75, "gave up");
    let mut part = machine.read("movie.mov.part");
    part[1000] ^= 1;
    machine.write("movie.mov.part", &part);

    let run = machine.json(&["download", &url]).await;
    assert_eq!(
        run.succeeded().event("restarted")["reason"],
        "the parts do not make up the server's file"
    );
    assert_eq!(machine.read("movie.mov"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_part_needs_only_its_name() {
    let (machine, server, file, url) = setting(MIB, Manners::default()).await;
    server.plan("GET", [Mischief::CutAfter(MIB), Mischief::CutAfter(0)]);
    machine
        .run(&["download", &url, "--retries", "0", "-o", "movie.mov"])
        .await;
    machine.write("movie.mov.part", &file);
    let record = serde_json::json!({"url": url, "etag": "\"x\"", "size": MIB, "sha256": Sha256Digest::of(&file).to_string()});
    machine.write("movie.mov.part.json", record.to_string().as_bytes());
    let requests = server.count("GET");
    let _ = std::fs::remove_file(machine.path("movie.mov"));
    machine
        .run(&["download", &url, "-o", "movie.mov"])
        .await
        .succeeded();
    assert_eq!(
        (machine.read("movie.mov"), server.count("GET")),
        (file, requests)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_something_else_is_not_used() {
    let (machine, _server, file, url) = setting(MIB, Manners::default()).await;
    machine.write("movie.mov.part", b"something else");
    machine.write("movie.mov.part.json", b"{\"url\": \"http://example.org/\", \"etag\": \"\\\"x\\\"\", \"size\": 99, \"sha256\": null}");
    machine.run(&["download", &url]).await.succeeded();
    assert_eq!(machine.read("movie.mov"), file);

    // A record that is no record, and a part that is longer than the file.
    machine.write("other.part", &content(3 * MIB, 5));
    machine.write("other.part.json", b"not json");
    machine
        .run(&["download", &url, "-o", "other"])
        .await
        .succeeded();
    assert_eq!(machine.read("other"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_file_begins_anew() {
    let (machine, server, _, url) = setting(2 * MIB, Manners::default()).await;
    server.plan(
        "GET",
        [
            Mischief::CutAfter(MIB),
            Mischief::Answer(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "content-range: bytes */5",
                "",
            ),
        ],
    );
    let run = machine.json(&["download", &url]).await;
    assert_eq!(
        run.succeeded().event("restarted")["reason"],
        "the file on the server is shorter now"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_continuation_is_not_taken() {
    for fields in [
        "content-range: bytes 5-9/10",
        "content-range: bytes 1048576-1048577/1048578\netag: \"other\"",
    ] {
        let (machine, server, file, url) = setting(2 * MIB, Manners::default()).await;
        server.plan(
            "GET",
            [
                Mischief::CutAfter(MIB),
                Mischief::Answer(StatusCode::PARTIAL_CONTENT, fields, "wrong"),
            ],
        );
        let run = machine.json(&["download", &url]).await;
        assert_eq!(run.succeeded().events("restarted").len(), 1, "{fields}");
        assert_eq!(machine.read("movie.mov"), file, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_leaves_nothing() {
    let (machine, _server, file, url) = setting(
        MIB,
        Manners {
            lies: true,
            ..Manners::default()
        },
    )
    .await;
    let run = machine.json(&["download", &url]).await;
    run.failed_with(
        1,
        &format!(
            "movie.mov is damaged: its SHA-256 is {} here",
            Sha256Digest::of(&file)
        ),
    );
    assert_eq!((run.events("done").len(), machine.files()), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_replaced_unasked() {
    let (machine, server, file, url) = setting(MIB, Manners::default()).await;
    machine.write("movie.mov", b"mine");
    for arguments in [
        vec!["download", &url],
        vec!["download", &url, "-o", "movie.mov"],
    ] {
        machine
            .run(&arguments)
            .await
            .failed_with(1, "movie.mov exists; --force replaces it");
    }
    assert_eq!(
        (machine.read("movie.mov"), machine.files().len()),
        (b"mine".to_vec(), 1)
    );

    // A file that appears meanwhile is kept too.
    std::fs::remove_file(machine.path("movie.mov")).unwrap();
    let child = machine
        .command(&["download", &url, "--limit-rate", "1MiB"])
        .spawn()
        .unwrap();
    until(|| server.count("GET") >= 2).await;
    grows_to(&machine.path("movie.mov.part.json"), 1).await;
    machine.write("movie.mov", b"mine too");
    finish(child).await.failed_with(1, "movie.mov exists");
    assert_eq!(machine.read("movie.mov"), b"mine too");

    machine
        .run(&["download", &url, "--force"])
        .await
        .succeeded();
    assert_eq!(
        (machine.read("movie.mov"), machine.files().len()),
        (file, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told() {
    let (machine, server, _, url) = setting(MIB, Manners::default()).await;
    server.plan("GET", [Mischief::CutAfter(MIB / 2), Mischief::Forget]);
    let run = machine.json(&["download", &url]).await;
    run.failed_with(
        1,
        "404 Not Found: Not found: There is no such file. (request r-1)",
    );
    assert_eq!(run.event("error")["status"], 404);
    assert!(!machine.path("movie.mov").exists());

    server.plan("GET", [Mischief::Answer(StatusCode::NO_CONTENT, "", "")]);
    machine
        .run(&["download", &url, "-o", "x"])
        .await
        .failed_with(1, "makes no sense: 204");
    server.plan(
        "GET",
        [Mischief::Answer(
            StatusCode::OK,
            "content-encoding: gzip",
            "x",
        )],
    );
    machine
        .run(&["download", &url, "-o", "x"])
        .await
        .failed_with(1, "it is coded (gzip)");
    assert!(!machine.path("x").exists() && !machine.path("x.part").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_not_given_what_is_for_ours() {
    let (machine, home, file, url) = setting(MIB, Manners::default()).await;
    let manners = Manners {
        tells_digest_of_files: false,
        ..Manners::default()
    };
    let elsewhere = Server::start(manners).await;
    let path = "/files/object";
    let object = |bytes| elsewhere.books().files.insert(path.to_owned(), bytes);
    let location = format!("location: {}{path}", elsewhere.url).leak();
    let redirect = || Mischief::Answer(StatusCode::TEMPORARY_REDIRECT, location, "");
    let arguments = [
        "download",
        &url,
        "--key",
        "lh_k",
        "-H",
        "x-mine: a",
        "-o",
        "movie.mov",
    ];

    object(file.clone());
    home.plan("GET", [redirect(), redirect()]);
    elsewhere.plan("GET", [Mischief::CutAfter(MIB / 2)]);
    let run = machine.json(&arguments).await;
    assert_eq!(run.succeeded().event("done")["verified"], true);
    assert_eq!(machine.read("movie.mov"), file);
    for fields in home.books().fields("GET") {
        assert_eq!(fields["authorization"], "Bearer lh_k");
        assert_eq!(fields["x-mine"], "a");
    }
    let asked: Vec<_> = elsewhere
        .books()
        .fields("GET")
        .into_iter()
        .cloned()
        .collect();
    assert_eq!(asked.len(), 2);
    for fields in &asked {
        assert!(!fields.contains_key("authorization") && !fields.contains_key("x-mine"));
    }
    assert!(asked[1].contains_key("range"), "{asked:?}");

    object(content(MIB, 2));
    home.plan("GET", [redirect()]);
    let other = [&arguments[..7], &["other.mov"]].concat();
    machine.run(&other).await.failed_with(1, "nothing was kept");
    assert!(!machine.path("other.mov").exists());

    let home_again = format!("location: {url}").leak();
    let circle = Mischief::Answer(StatusCode::FOUND, home_again, "");
    home.plan("GET", vec![circle; 5]);
    machine
        .run(&other)
        .await
        .failed_with(1, "more than 5 times");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_limited() {
    let (machine, _server, _, url) = setting(2 * MIB, Manners::default()).await;
    let begun = Instant::now();
    let run = machine
        .json(&["download", &url, "--limit-rate", "1MiB"])
        .await;
    let taken = begun.elapsed();
    assert!(taken > Duration::from_millis(1500), "{taken:?}");
    assert!(!run.succeeded().events("progress").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_where_nothing_moves_is_left() {
    let (machine, server, file, url) = setting(MIB, Manners::default()).await;
    server.plan("GET", [Mischief::Stall]);
    machine
        .run(&["download", &url, "--timeout", "300ms"])
        .await
        .succeeded();
    assert_eq!(machine.read("movie.mov"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_waited_for() {
    let machine = Machine::new();
    let begun = Instant::now();
    let run = machine
        .json(&["download", "http://127.0.0.1:1/files/x", "--retries", "3"])
        .await;
    run.failed_with(
        75,
        "gave up after 4 attempts without progress; nothing is there to go on from",
    );
    assert_eq!((run.events("retrying").len(), machine.files()), (3, vec![]));
    assert!(begun.elapsed() < Duration::from_secs(20));
}
