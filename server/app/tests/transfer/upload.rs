use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use axum::http::StatusCode;
use domain::digest::Sha256Digest;
use tokio::time::Instant;

use crate::server::{Manners, Mischief, Server};
use crate::{Machine, Random, Run, content, finish, signal, until};

const MIB: usize = 1024 * 1024;

/// A machine with a file, and a server.
async fn setting(size: usize, manners: Manners) -> (Machine, Server, Vec<u8>) {
    let machine = Machine::new();
    let file = content(size, 1);
    machine.write("movie.mov", &file);
    (machine, Server::start(manners).await, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_and_the_server_names_it() {
    let (machine, server, file) = setting(3 * MIB, Manners::default()).await;
    let url = format!("{}/files", server.url);
    let run = machine
        .json(&[
            "upload",
            "movie.mov",
            &url,
            "--content-type",
            "video/quicktime",
            "--key",
            "lh_k",
            "-H",
            "x-team: blue",
        ])
        .await;

    let done = run.succeeded().event("done");
    assert_eq!(done["url"], format!("{}/files/0", server.url));
    assert_eq!(done["sha256"], Sha256Digest::of(&file).to_string());
    assert_eq!(
        (&done["verified"], &done["bytes"]),
        (&true.into(), &(3 * MIB).into())
    );
    assert_eq!(run.event("started")["size"], 3 * MIB);
    assert_eq!(machine.records(), 0);

    let books = server.books();
    assert_eq!(books.files["/files/0"], file);
    let creation = books.fields("POST")[0];
    assert_eq!(creation["content-type"], "video/quicktime");
    assert_eq!(
        creation["content-disposition"],
        "attachment; filename=\"movie.mov\""
    );
    assert_eq!(creation["upload-length"], (3 * MIB).to_string().as_str());
    for (method, path, fields) in &books.requests {
        assert_eq!(fields["authorization"], "Bearer lh_k", "{method} {path}");
        assert_eq!(fields["x-team"], "blue", "{method} {path}");
    }
    assert_eq!(
        books.fields("PATCH")[0]["content-length"],
        (3 * MIB).to_string().as_str()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_in_the_url_is_the_name() {
    let (machine, server, file) = setting(10, Manners::default()).await;
    machine
        .run(&[
            "upload",
            "movie.mov",
            &format!("{}/files/a/b.mov", server.url),
        ])
        .await
        .succeeded();
    let run = machine
        .run(&[
            "upload",
            "movie.mov",
            &format!("{}/files/2026/", server.url),
        ])
        .await;
    assert_eq!(run.succeeded().stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stderr.starts_with("uploaded movie.mov to http"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, "");

    let books = server.books();
    assert_eq!(
        (
            &books.files["/files/a/b.mov"],
            &books.files["/files/2026/movie.mov"]
        ),
        (&file, &file)
    );
    assert_eq!(books.count("PUT"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_goes_up() {
    let (machine, server, _) = setting(0, Manners::default()).await;
    machine
        .run(&[
            "upload",
            "movie.mov",
            &format!("{}/files/empty", server.url),
        ])
        .await
        .succeeded();
    assert!(server.file("/files/empty").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_anywhere_lose_nothing() {
    for seed in 0..6 {
        let (machine, server, file) = setting(4 * MIB + 13, Manners::default()).await;
        let mut random = Random(seed);
        server.plan(
            "PATCH",
            (0..8).map(|_| Mischief::CutAfter(random.below(MIB))),
        );
        server.plan(
            "HEAD",
            [Mischief::LoseAnswer, Mischief::None, Mischief::CutAfter(0)],
        );

        let run = machine
            .json(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
            .await;
        assert_eq!(run.succeeded().event("done")["verified"], true);
        assert!(run.events("retrying").len() >= 8, "seed {seed}: {run:#?}");
        assert_eq!(server.file("/files/f"), file, "seed {seed}");
        assert_eq!(
            server.appended(),
            file.len(),
            "seed {seed}: bytes were sent twice"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_creation_finds_the_same_upload() {
    let (machine, server, file) = setting(MIB, Manners::default()).await;
    server.plan("POST", [Mischief::LoseAnswer, Mischief::LoseAnswer]);
    machine
        .run(&["upload", "movie.mov", &format!("{}/files", server.url)])
        .await
        .succeeded();
    let books = server.books();
    assert_eq!((books.uploads(), books.count("POST")), (1, 3));
    assert_eq!(books.files["/files/0"], file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_tells_where_to_go_on() {
    let (machine, server, file) = setting(2 * MIB, Manners::default()).await;
    server.plan(
        "PATCH",
        [Mischief::ConflictAfter(1000), Mischief::ConflictAfter(MIB)],
    );
    machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await
        .succeeded();
    let books = server.books();
    assert_eq!(books.files["/files/f"], file);
    assert_eq!((books.appended, books.count("PATCH")), (file.len(), 4));
    // Only the target was asked: the conflict itself told the offset.
    assert_eq!(
        books
            .requests
            .iter()
            .filter(|(method, path, _)| method == "HEAD" && path.starts_with("/uploads"))
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_upload_begins_anew() {
    let (machine, server, file) = setting(2 * MIB, Manners::default()).await;
    server.plan(
        "PATCH",
        [
            Mischief::CutAfter(MIB),
            Mischief::Forget,
            Mischief::CutAfter(5),
        ],
    );
    server.plan("HEAD", [Mischief::None, Mischief::Forget]);
    let run = machine
        .json(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    assert_eq!(run.succeeded().events("restarted").len(), 2);
    assert_eq!(server.file("/files/f"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_last_answer_is_asked_for_again() {
    for manners in [
        Manners::default(),
        Manners {
            replays: false,
            ..Manners::default()
        },
        Manners {
            tells_digest: false,
            ..Manners::default()
        },
    ] {
        let (machine, server, file) = setting(MIB, manners).await;
        server.plan("PATCH", [Mischief::LoseAnswer]);
        let run = machine
            .json(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
            .await;
        let done = run.succeeded().event("done");
        assert_eq!(
            (&done["verified"], &done["url"]),
            (&true.into(), &format!("{}/files/f", server.url).into())
        );
        assert_eq!(
            (server.file("/files/f"), server.appended()),
            (file.clone(), MIB)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_keep_to_the_limit() {
    let limit = "max-append-size=300000, max-size=99999999";
    let manners = Manners {
        upload_limit: Some(limit),
        most_per_append: 300_000,
        ..Manners::default()
    };
    let (machine, server, file) = setting(MIB, manners).await;
    server.plan("PATCH", [Mischief::None, Mischief::CutAfter(7)]);
    machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await
        .succeeded();
    assert_eq!(server.file("/files/f"), file);
    // Four pieces, one of them twice, and the completion.
    assert_eq!(server.count("PATCH"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_told_late_is_kept_too() {
    let (machine, server, file) = setting(MIB, Manners::default()).await;
    server.plan(
        "PATCH",
        [Mischief::Answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "upload-limit: max-append-size=600000",
            "",
        )],
    );
    machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await
        .succeeded();
    assert_eq!(server.file("/files/f"), file);
    assert_eq!(server.count("PATCH"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_and_not_tried_again() {
    let problem = r#"{"title": "Too large", "detail": "At most 5 bytes.", "request_id": "r-7"}"#;
    let (machine, server, _) = setting(MIB, Manners::default()).await;
    server.plan(
        "PATCH",
        [Mischief::Answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "content-type: application/problem+json",
            problem,
        )],
    );
    let run = machine
        .json(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    run.failed_with(
        1,
        "413 Payload Too Large: Too large: At most 5 bytes. (request r-7)",
    );
    let error = run.event("error");
    assert_eq!(
        (&error["status"], &error["resumable"]),
        (&413.into(), &false.into())
    );
    assert_eq!((machine.records(), server.count("PATCH")), (0, 1));

    server.plan("PUT", [Mischief::Answer(StatusCode::FORBIDDEN, "", "")]);
    machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await
        .failed_with(1, "403 Forbidden");
    server.plan(
        "OPTIONS",
        [Mischief::Answer(
            StatusCode::FOUND,
            "location: https://login.example/",
            "",
        )],
    );
    let run = machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    run.failed_with(1, "302 Found leads to https://login.example/");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_limit_is_not_begun() {
    let (machine, server, _) = setting(
        MIB,
        Manners {
            upload_limit: Some("max-size=1000"),
            ..Manners::default()
        },
    )
    .await;
    let run = machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    run.failed_with(1, "the server takes no more than 1000");
    assert_eq!(server.count("PUT"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_resumable_uploads_is_left_alone() {
    let (machine, server, _) = setting(
        MIB,
        Manners {
            upload_limit: None,
            ..Manners::default()
        },
    )
    .await;
    let run = machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    run.failed_with(1, "takes no resumable uploads");
    assert_eq!(server.count("PUT"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_given_the_time_it_asks_for() {
    let (machine, server, file) = setting(MIB, Manners::default()).await;
    server.plan(
        "PUT",
        [Mischief::Answer(
            StatusCode::SERVICE_UNAVAILABLE,
            "retry-after: 1",
            "",
        )],
    );
    server.plan(
        "PATCH",
        [Mischief::Answer(
            StatusCode::TOO_MANY_REQUESTS,
            "retry-after: 1",
            "",
        )],
    );
    let begun = Instant::now();
    machine
        .run(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await
        .succeeded();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(server.file("/files/f"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_leaves_what_another_run_needs() {
    let (machine, server, file) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files", server.url);
    server.plan(
        "PATCH",
        [
            Mischief::CutAfter(MIB),
            Mischief::CutAfter(0),
            Mischief::CutAfter(0),
            Mischief::CutAfter(0),
        ],
    );
    let run = machine
        .json(&["upload", "movie.mov", &url, "--retries", "2"])
        .await;
    run.failed_with(75, "gave up after 3 attempts without progress; run the same command again to go on from 1048576 bytes");
    assert_eq!(
        (&run.event("error")["resumable"], machine.records()),
        (&true.into(), 1)
    );

    let run = machine.json(&["upload", "movie.mov", &url]).await;
    assert_eq!(run.succeeded().event("started")["offset"], MIB);
    let books = server.books();
    assert_eq!(
        (&books.files["/files/0"], books.appended, books.uploads()),
        (&file, file.len(), 1)
    );
    assert_eq!(machine.records(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_renews_patience() {
    let (machine, server, file) = setting(MIB, Manners::default()).await;
    server.plan("PATCH", (0..10).map(|_| Mischief::CutAfter(50_000)));
    machine
        .run(&[
            "upload",
            "movie.mov",
            &format!("{}/files/f", server.url),
            "--retries",
            "1",
        ])
        .await
        .succeeded();
    assert_eq!(server.file("/files/f"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_upload_goes_on_in_the_next_run() {
    let (machine, server, file) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files/f", server.url);
    let mut child = machine
        .command(&[
            "upload",
            "movie.mov",
            &url,
            "--limit-rate",
            "1MiB",
            "--state",
            "state.json",
        ])
        .spawn()
        .unwrap();
    until(|| server.appended() >= MIB / 2).await;
    child.kill().unwrap();
    child.wait().unwrap();

    let run = machine
        .json(&["upload", "movie.mov", &url, "--state", "state.json"])
        .await;
    assert!(run.succeeded().event("started")["offset"].as_u64().unwrap() >= MIB as u64 / 2);
    assert_eq!(
        (server.file("/files/f"), server.appended()),
        (file.clone(), file.len())
    );
    assert_eq!(machine.files(), ["movie.mov"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_says_how_to_go_on() {
    let (machine, server, file) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files/f", server.url);
    for name in ["INT", "TERM"] {
        let appended = server.appended();
        let child = machine
            .command(&[
                "upload",
                "movie.mov",
                &url,
                "--limit-rate",
                "500KiB",
                "--json",
            ])
            .spawn()
            .unwrap();
        until(|| server.appended() >= appended + 200_000).await;
        signal(child.id(), name);
        let run = finish(child).await;
        run.failed_with(130, "interrupted; run the same command again to go on");
        assert_eq!(run.event("error")["resumable"], true);
    }
    machine
        .run(&["upload", "movie.mov", &url])
        .await
        .succeeded();
    assert_eq!(
        (server.file("/files/f"), server.appended()),
        (file.clone(), file.len())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_is_not_joined_to_the_first() {
    let (machine, server, _) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files/f", server.url);
    let cuts = [MIB, 0, 0].map(Mischief::CutAfter);
    server.plan("PATCH", cuts);
    machine
        .run(&["upload", "movie.mov", &url, "--retries", "1"])
        .await
        .failed_with(75, "");

    let other = content(2 * MIB, 2);
    machine.write("movie.mov", &other);
    let run = machine.json(&["upload", "movie.mov", &url]).await;
    assert_eq!(run.succeeded().event("started")["offset"], 0);
    assert_eq!(server.file("/files/f"), other);
}

/// Uploads over a good version, and does something to the file while it is under way.
async fn changed_meanwhile(change: impl FnOnce(&Machine)) -> (Machine, Server, Run) {
    let (machine, server, _) = setting(2 * MIB, Manners::default()).await;
    let path = "/files/f".to_owned();
    server.books().files.insert(path, b"good".to_vec());
    let url = format!("{}/files/f", server.url);
    let child = machine
        .command(&["upload", "movie.mov", &url, "--limit-rate", "1MiB"])
        .spawn()
        .unwrap();
    until(|| server.appended() >= MIB / 2).await;
    change(&machine);
    let run = finish(child).await;
    assert_eq!(machine.records(), 0);
    (machine, server, run)
}

fn opened(machine: &Machine) -> File {
    let path = machine.path("movie.mov");
    File::options().write(true).open(path).unwrap()
}

/// Overwrites some bytes in the part that was sent and in the one that was not, in place.
fn scribble(machine: &Machine) {
    let file = opened(machine);
    file.write_all_at(b"XXXX", 10).unwrap();
    file.write_all_at(b"YYYY", 2 * MIB as u64 - 10).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_meanwhile_leaves_what_was_there() {
    let resize = |machine: &Machine, size: usize| opened(machine).set_len(size as u64).unwrap();
    type Change<'a> = dyn Fn(&Machine) + 'a;
    let changes: [(&str, &Change<'_>); 4] = [
        ("written into", &scribble),
        ("written anew", &|machine| {
            machine.write("movie.mov", &content(2 * MIB, 3));
        }),
        ("cut", &|machine| resize(machine, MIB)),
        ("grown", &|machine| resize(machine, 3 * MIB)),
    ];
    for (what, change) in changes {
        let (_machine, server, run) = changed_meanwhile(change).await;
        run.failed_with(1, "movie.mov changed while it was read");
        run.failed_with(1, "what there was stays; run the command again");
        assert_eq!(server.file("/files/f"), b"good", "{what}");
        assert_eq!(
            server.books().uploads(),
            0,
            "{what}: the upload is cancelled"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_time_betrays_is_found_by_the_second_reading() {
    let (machine, server, run) = changed_meanwhile(|machine| {
        let modified = opened(machine).metadata().unwrap().modified().unwrap();
        scribble(machine);
        opened(machine).set_modified(modified).unwrap();
    })
    .await;
    // The server refused the mixture, and got the file as it is by now.
    run.succeeded();
    assert!(run.stderr.contains("1 new start"), "{}", run.stderr);
    assert_eq!(server.file("/files/f"), machine.read("movie.mov"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_or_removed_goes_up_as_it_was_opened() {
    let replace = |machine: &Machine| {
        machine.write("new", &content(MIB, 4));
        std::fs::rename(machine.path("new"), machine.path("movie.mov")).unwrap();
    };
    let (_machine, server, run) = changed_meanwhile(replace).await;
    run.succeeded();
    assert_eq!(server.file("/files/f"), content(2 * MIB, 1));

    let remove = |machine: &Machine| std::fs::remove_file(machine.path("movie.mov")).unwrap();
    let (_machine, server, run) = changed_meanwhile(remove).await;
    run.succeeded();
    assert_eq!(server.file("/files/f"), content(2 * MIB, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_sent_is_proved_too() {
    let (machine, server, _) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files/f", server.url);
    server.plan("PATCH", [MIB, 0].map(Mischief::CutAfter));
    machine
        .run(&["upload", "movie.mov", &url, "--retries", "0"])
        .await
        .failed_with(75, "");
    // Another file of the same size and time.
    let modified = opened(&machine).metadata().unwrap().modified().unwrap();
    let other = content(2 * MIB, 2);
    machine.write("movie.mov", &other);
    opened(&machine).set_modified(modified).unwrap();
    server.books().mischief.clear();
    let run = machine.json(&["upload", "movie.mov", &url]).await;
    assert_eq!(run.succeeded().events("restarted").len(), 1);
    assert_eq!(server.file("/files/f"), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_fails_loudly() {
    let (machine, server, file) = setting(
        MIB,
        Manners {
            lies: true,
            ..Manners::default()
        },
    )
    .await;
    let run = machine
        .json(&["upload", "movie.mov", &format!("{}/files/f", server.url)])
        .await;
    run.failed_with(
        1,
        &format!(
            "movie.mov is damaged: its SHA-256 is {} here",
            Sha256Digest::of(&file)
        ),
    );
    assert_eq!((run.events("done").len(), machine.records()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_where_nothing_moves_is_left() {
    let (machine, server, file) = setting(8 * MIB, Manners::default()).await;
    server.plan("PATCH", [Mischief::Stall]);
    server.plan("PUT", [Mischief::Stall]);
    machine
        .run(&[
            "upload",
            "movie.mov",
            &format!("{}/files/f", server.url),
            "--timeout",
            "500ms",
        ])
        .await
        .succeeded();
    assert_eq!(server.file("/files/f"), file);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_the_server_that_was_named() {
    let other = Server::start(Manners::default()).await;
    let (machine, server, _) = setting(
        100,
        Manners {
            upload_origin: other.url.clone(),
            ..Manners::default()
        },
    )
    .await;
    let url = format!("{}/files/f", server.url);
    // The other server knows nothing of the upload: all that counts here is what it was sent.
    let run = machine
        .run(&[
            "upload",
            "movie.mov",
            &url,
            "--key",
            "lh_k",
            "-H",
            "x-a: b",
            "--retries",
            "0",
        ])
        .await;
    run.failed_with(75, "the server no longer has the upload");
    for (method, path, fields) in &other.books().requests {
        assert!(
            !fields.contains_key("authorization") && !fields.contains_key("x-a"),
            "{method} {path}"
        );
    }
    assert_eq!(other.count("PATCH"), 1);
    assert_eq!(
        server.books().fields("PUT")[0]["authorization"],
        "Bearer lh_k"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_of_the_same_upload_do_not_meet() {
    let (machine, server, _) = setting(2 * MIB, Manners::default()).await;
    let url = format!("{}/files/f", server.url);
    let mut child = machine
        .command(&["upload", "movie.mov", &url, "--limit-rate", "200KiB"])
        .spawn()
        .unwrap();
    until(|| server.appended() > 0).await;
    machine
        .run(&["upload", "movie.mov", &url])
        .await
        .failed_with(75, "the same transfer seems to be running");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_uploaded_is_said() {
    let (machine, server, _) = setting(1, Manners::default()).await;
    let url = format!("{}/files", server.url);
    machine
        .run(&["upload", "absent.mov", &url])
        .await
        .failed_with(1, "failed to read");
    machine.run(&["upload", ".", &url]).await.failed_with(
        1,
        "`longhaul publish DIRECTORY --pack NAME` publishes its files",
    );
    machine
        .run(&["upload", "movie.mov", "ftp://localhost/files"])
        .await
        .failed_with(2, "a URL begins with http:// or https://");
    machine
        .run(&["upload", "movie.mov", &url, "--header", "nonsense"])
        .await
        .failed_with(2, "a field is written as");
}
