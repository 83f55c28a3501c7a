//! Correct bytes or a clear error: dates, codings, digests, queries, names and caches, for every
//! kind of upload and download.

use std::collections::HashSet;

use tests::pack::Files;
use tests::{Client, Content, Request, Response, TestServer, Version};

const RANGES: [&str; 6] = [
    "bytes=0-",
    "bytes=0-0",
    "bytes=0-1048575",
    "bytes=-5",
    "bytes=7-9",
    "bytes=0-0,5-6,-1",
];

/// Digest of the empty content.
const OF_NOTHING: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

#[tokio::test]
async fn an_empty_file_is_whole_whatever_range_is_asked_for() {
    let server = TestServer::start().await;
    server
        .request(Request::put("/files/empty"))
        .await
        .expect(201);
    let files = Files::new([("a.txt", &b"a"[..]), ("empty.js", &b""[..])]);
    server.publish("p", &files).await;
    for path in ["/files/empty", "/packs/p/versions/1/files/empty.js"] {
        for range in RANGES {
            for version in Version::ALL {
                let request = Request::get(path).field("Range", range);
                let mut client = server.client(version).await;
                let response = client.exchange(&request).await.unwrap().expect(200);
                assert_eq!(response.field("content-length"), "0", "{path} {range}");
                assert!(response.optional("content-range").is_none());
            }
        }
    }
}

#[tokio::test]
async fn the_first_of_many_parts_has_a_whole_delimiter() {
    let server = TestServer::start().await;
    let put = Request::put("/files/a").body("0123456789");
    server.request(put).await.expect(201);
    let request = Request::get("/files/a").field("Range", "bytes=0-1,5-5");
    let response = server.request(request).await.expect(206);
    let kind = response.field("content-type");
    let boundary = kind.rsplit_once('=').unwrap().1;
    assert!(
        response
            .body
            .starts_with(format!("\r\n--{boundary}\r\n").as_bytes()),
        "{response:?}"
    );
    let length = response.body.len().to_string();
    assert_eq!(response.field("content-length"), length);
}

/// Puts two contents under a path, with `between` after the first, and repeats until both carry the
/// same second. Returns their date.
async fn two_in_one_second(server: &TestServer, path: &str, between: impl AsyncFn()) -> String {
    for _ in 0..100 {
        let mut dates = HashSet::new();
        for (number, content) in ["first content", "second content"].into_iter().enumerate() {
            if number == 1 {
                between().await;
            }
            let put = Request::put(path).body(content);
            assert!([200, 201].contains(&server.request(put).await.status()));
            let head = server.request(Request::head(path)).await.expect(200);
            dates.insert(head.field("last-modified").to_owned());
        }
        if dates.len() == 1 {
            return dates.into_iter().next().unwrap();
        }
    }
    panic!("a hundred times, a second ended between two requests");
}

#[tokio::test]
async fn a_date_that_two_contents_had_tells_them_not_apart() {
    let mut server = TestServer::start().await;
    let nothing = async || ();
    let deleted = async || {
        server
            .request(Request::delete("/files/b"))
            .await
            .expect(204);
    };
    let replaced = two_in_one_second(&server, "/files/a", nothing).await;
    let put_again = two_in_one_second(&server, "/files/b", deleted).await;
    // The ambiguity of the date is stored with the file, not in the server's memory.
    for restarted in [false, true] {
        if restarted {
            server.kill().await;
            server.restart().await;
        }
        for (path, date) in [("/files/a", &replaced), ("/files/b", &put_again)] {
            let get = || Request::get(path);
            let part = get().field("Range", "bytes=3-").field("If-Range", date);
            let whole = server.request(part).await.expect(200);
            assert_eq!(whole.body, "second content");
            let changed = get().field("If-Modified-Since", date);
            server.request(changed).await.expect(200);
            let unsure = get().field("If-Unmodified-Since", date);
            server.request(unsure).await.expect(412);
            let write = Request::put(path).field("If-Unmodified-Since", date);
            server.request(write.body("third")).await.expect(412);
            let delete = Request::delete(path).field("If-Unmodified-Since", date);
            server.request(delete).await.expect(412);
            // The tag distinguishes the contents in any case.
            let part = get()
                .field("Range", "bytes=3-5")
                .field("If-Range", whole.field("etag"));
            assert_eq!(server.request(part).await.expect(206).body, "ond");
        }
    }
}

#[tokio::test]
async fn a_date_that_one_content_had_resumes_and_guards() {
    let server = TestServer::start().await;
    let put = Request::put("/files/a").body("content");
    server.request(put).await.expect(201);
    let files = Files::new([("a.txt", &b"content"[..])]);
    server.publish("p", &files).await;
    let of = "/packs/p/versions";
    for (path, status) in [
        ("/files/a".to_owned(), 206),
        (format!("{of}/1/files/a.txt"), 206),
        (format!("{of}/1/archive.zip"), 206),
        // Several versions, or several codings, may have the same date.
        (format!("{of}/latest/archive.zip"), 200),
        (format!("{of}/latest/files/a.txt"), 200),
        (format!("{of}/1/catalogue"), 200),
    ] {
        let head = server.request(Request::head(&path)).await.expect(200);
        let date = head.field("last-modified");
        let part = Request::get(&path).field("Range", "bytes=3-4");
        let response = server.request(part.field("If-Range", date)).await;
        assert_eq!(response.status(), status, "{path}");
    }
    let head = server.request(Request::head("/files/a")).await.expect(200);
    let date = head.field("last-modified");
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (since, status) in [(long_ago, 412), (date, 200)] {
        let put = Request::put("/files/a").field("If-Unmodified-Since", since);
        let response = server.request(put.body("new")).await;
        assert_eq!(response.status(), status, "{since}");
    }
}

/// Sends `body` in every kind of upload request, creations and appends, with one more field.
async fn ways_in(
    server: &TestServer,
    name: &str,
    value: &str,
    body: &str,
) -> Vec<(String, Response)> {
    let length = body.len();
    let tus = |request: Request| request.field("Tus-Resumable", "1.0.0");
    let begun = tus(Request::post("/files")).field("Upload-Length", length);
    let upload = server.request(begun).await.expect(201);
    let upload = upload.field("location");
    let ietf = Request::post("/files").field("Upload-Complete", "?0");
    let partial = server.request(ietf).await.expect(201);
    let partial = partial.field("location");
    let offset_stream = "application/offset+octet-stream";
    let requests = [
        Request::put("/files/plain"),
        Request::post("/files"),
        Request::post("/packs/p/versions").field("Content-Type", "application/zip"),
        Request::post("/files").field("Upload-Complete", "?1"),
        Request::put("/files/draft3")
            .field("Upload-Draft-Interop-Version", 3)
            .field("Upload-Incomplete", "?0"),
        Request::patch(partial)
            .field("Upload-Complete", "?1")
            .field("Upload-Offset", 0)
            .field("Content-Type", "application/partial-upload"),
        tus(Request::post("/files"))
            .field("Upload-Length", length)
            .field("Content-Type", offset_stream),
        tus(Request::patch(upload))
            .field("Upload-Offset", 0)
            .field("Content-Type", offset_stream),
    ];
    let mut answers = Vec::new();
    for request in requests {
        let request = request.field(name, value).body(body.to_owned());
        let way = format!("{} {} with {name}: {value}", request.method, request.target);
        answers.push((way, server.request(request).await));
    }
    answers
}

async fn assert_no_files(server: &TestServer) {
    let list = server.request(Request::get("/files")).await.expect(200);
    assert_eq!(list.json()["files"], serde_json::json!([]));
}

#[tokio::test]
async fn coded_bytes_are_refused_on_every_way_in() {
    let server = TestServer::start().await;
    for (field, coding) in [
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "br"),
        ("Content-Encoding", "aws-chunked"),
        ("Content-Transfer-Encoding", "base64"),
    ] {
        for (way, response) in ways_in(&server, field, coding, "hello").await {
            assert_eq!(response.status(), 415, "{way}: {response:?}");
            assert_eq!(response.field("accept-encoding"), "identity", "{way}");
            let problem = response.problem();
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(coding), "{way}: {detail}");
        }
        let form = form(&format!("{field}: {coding}\r\n"), "a.txt", "hello");
        server.request(form).await.expect(415).problem();
    }
    for (field, value) in [
        ("Content-Range", "bytes 0-4/10"),
        ("Content-Language", "de"),
        (
            "Digest",
            "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ),
    ] {
        for (way, response) in ways_in(&server, field, value, "hello").await {
            assert_eq!(response.status(), 400, "{way}: {response:?}");
            response.problem();
        }
    }
    assert_no_files(&server).await;
    let plain = Request::put("/files/a").field("Content-Encoding", "identity");
    server.request(plain.body("hello")).await.expect(201);

    // Documents may be compressed, but only by supported codings.
    for path in ["/packs/p/drafts", "/packs/p/versions/1/diff"] {
        let files = Files::new([("a", &b"a"[..])]);
        server.publish("p", &files).await;
        for coding in ["br", "deflate", "gzip, zstd"] {
            let request = Request::post(path).field("Content-Encoding", coding);
            let response = server.request(request.body("{}")).await.expect(415);
            assert_eq!(response.field("accept-encoding"), "gzip, zstd");
            response.problem();
        }
    }
}

#[tokio::test]
async fn a_digest_that_cannot_be_verified_is_refused_on_every_way_in() {
    let server = TestServer::start().await;
    for field in ["Repr-Digest", "Content-Digest"] {
        for value in [
            "",
            "garbage",
            "sha-256",
            "sha-256=abc",
            "sha-256=:not base64:",
            "sha-256=:AAAA:",
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            &format!("{OF_NOTHING}, {OF_NOTHING}"),
            "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:",
        ] {
            for (way, response) in ways_in(&server, field, value, "hello").await {
                assert_eq!(response.status(), 400, "{way}: {response:?}");
                let detail = response.problem()["detail"].to_string();
                assert!(detail.contains("sha-256"), "{way}: {detail}");
                if value.starts_with("md5") {
                    let wanted = response.field(&format!("want-{field}").to_lowercase());
                    assert!(wanted.contains("sha-256="), "{way}");
                }
            }
        }
    }
    for value in ["", "AAAA", "1B2M2Y8AsgTpgAmY7PhCfg=="] {
        // The last value is the digest of the empty content.
        for (way, response) in ways_in(&server, "Content-MD5", value, "hello").await {
            assert!(
                [400, 460].contains(&response.status()),
                "{way}: {response:?}"
            );
        }
    }
    for digest in [
        "Content-Digest: garbage\r\n",
        "Repr-Digest: sha-256=:AAAA:\r\n",
    ] {
        server
            .request(form(digest, "a.txt", "hello"))
            .await
            .expect(400)
            .problem();
    }
    let stated = form("", "a.txt", "hello").field("Content-Digest", OF_NOTHING);
    server.request(stated).await.expect(400).problem();
    for path in ["/packs/p/drafts", "/packs/p/versions/1/diff"] {
        let document = Request::post(path).field("Content-Digest", OF_NOTHING);
        let response = server.request(document.body("{}")).await;
        assert!([400, 404].contains(&response.status()), "{response:?}");
    }
    assert_no_files(&server).await;

    let right = format!("Repr-Digest: {}\r\n", Content::new(1, 5).repr_digest());
    let bytes = Content::new(1, 5).bytes();
    let body = [
        part(&right, "a.bin").as_bytes(),
        &bytes,
        b"\r\n--frontier--\r\n",
    ]
    .concat();
    server.request(posted_form(body)).await.expect(201);
}

#[tokio::test]
async fn a_malformed_digest_in_a_trailer_is_refused() {
    let server = TestServer::start().await;
    for trailer in ["Repr-Digest: sha-256", "Content-Digest: sha-256=:AAAA:"] {
        let Client::Http1(mut connection) = server.client(Version::Http1).await else {
            unreachable!("this version was requested")
        };
        let name = trailer.split_once(':').unwrap().0;
        let wire = format!(
            "PUT /files/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: {name}\r\n\r\n\
             5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"
        );
        connection.expect_answer_to("PUT");
        connection.send_raw(wire.as_bytes()).await.unwrap();
        connection.response().await.unwrap().expect(400).problem();
    }
    assert_no_files(&server).await;
}

#[tokio::test]
async fn parameters_that_a_resource_does_not_have_are_refused() {
    let server = TestServer::start().await;
    let put = Request::put("/files/a.js").body("a");
    server.request(put).await.expect(201);
    for (method, target, hint) in [
        ("GET", "/files?sha256=abc", "takes: prefix, limit, cursor"),
        ("GET", "/files?prefx=a", "Did you mean prefix?"),
        ("GET", "/files/?limits=1", "Did you mean limit?"),
        ("GET", "/files?limit=1&limit=2", "Send limit once"),
        ("GET", "/files?limit=abc", "such as limit=100"),
        ("GET", "/files?limit=-1", "such as limit=100"),
        ("GET", "/files?limit=0", "from 1 to 1000"),
        ("GET", "/files?limit=", "from 1 to 1000"),
        ("GET", "/files?limit=99999999999999999999", "from 1 to 1000"),
        (
            "GET",
            "/files?cursor=%21",
            "leave it out for the first page",
        ),
        ("GET", "/files?cursor=AA", "leave it out for the first page"),
        ("GET", "/files?prefix=%00", "control characters"),
        ("GET", "/files?prefix=%ff", "UTF-8"),
        ("GET", "/uploads?clientref=a", "Did you mean client_ref?"),
        ("GET", "/uploads", "/uploads?client_ref="),
        ("GET", "/packs?prefix=a", "takes: limit, cursor"),
        (
            "POST",
            "/packs/p/versions/1/diff?fromat=tar",
            "Did you mean format?",
        ),
        ("POST", "/files?name=a", "takes none"),
        ("PUT", "/files/b?overwrite=no", "takes none"),
        ("DELETE", "/files/a.js?dry_run=1", "takes none"),
        ("DELETE", "/packs/p/versions/1?force", "takes none"),
    ] {
        let request = Request::new(method, target).announcing(0);
        let problem = server.request(request).await.expect(400).problem();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(hint), "{method} {target}: {detail}");
    }
    for target in ["/files/a.js?v=3", "/files/a.js?utm_source=x&v=1&v=2"] {
        server.request(Request::get(target)).await.expect(200);
    }
    server
        .request(Request::options("/files?x=1"))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_collection_has_its_slash_or_not() {
    let server = TestServer::start().await;
    let tus = |request: Request| request.field("Tus-Resumable", "1.0.0");
    let create = tus(Request::post("/files/")).field("Upload-Length", 5);
    let created = server.request(create).await.expect(201);
    let upload = created.field("location").to_owned();
    assert!(!upload.ends_with('/'));
    let append = tus(Request::patch(format!("{upload}/")))
        .field("Upload-Offset", 0)
        .field("Content-Type", "application/offset+octet-stream")
        .body("hello");
    server.request(append).await.expect(204);
    let options = Request::options("/files/");
    let options = server.request(options).await.expect(200);
    assert!(options.field("tus-extension").contains("creation"));
    for target in [
        "/files/",
        "/files/?limit=1",
        "/packs/",
        "/uploads/?client_ref=a",
    ] {
        server.request(Request::get(target)).await.expect(200);
        server.request(Request::head(target)).await.expect(200);
    }
    // In the name of a file it has a meaning.
    server
        .request(Request::put("/files/a/").body("a"))
        .await
        .expect(400);
    server.request(Request::get("/files//")).await.expect(400);
}

fn part(fields: &str, name: &str) -> String {
    format!(
        "--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n{fields}\r\n"
    )
}

fn posted_form(body: Vec<u8>) -> Request {
    Request::post("/files")
        .field("Content-Type", "multipart/form-data; boundary=frontier")
        .body(body)
}

fn form(fields: &str, name: &str, content: &str) -> Request {
    let body = format!("{}{content}\r\n--frontier--\r\n", part(fields, name));
    posted_form(body.into_bytes())
}

#[tokio::test]
async fn names_in_forms_are_what_they_were() {
    let server = TestServer::start().await;
    for (sent, kept) in [
        ("say %22hi%22.txt", Some("say \"hi\".txt")),
        ("two%0D%0Alines.txt", Some("twolines.txt")),
        ("say \\\"hi\\\".txt", Some("say \"hi\".txt")),
        ("C:\\photos\\new.txt", Some("new.txt")),
        ("../../etc/passwd", Some("passwd")),
        ("100%25.txt", Some("100%25.txt")),
        ("Grüße.txt", Some("Grüße.txt")),
        ("", None),
        ("..", None),
    ] {
        let created = server.request(form("", sent, "hello")).await.expect(201);
        let document = created.json();
        assert_eq!(document["filename"].as_str(), kept, "{sent:?}: {document}");
    }
    // A form field without a chosen file is no file.
    let unchosen = form("Content-Type: application/octet-stream\r\n", "", "");
    server.request(unchosen).await.expect(400).problem();
    let both = format!(
        "{}\r\n{}hello\r\n--frontier--\r\n",
        part("", ""),
        part("", "a.png")
    );
    let created = server
        .request(posted_form(both.into_bytes()))
        .await
        .expect(201);
    assert_eq!(created.json()["media_type"], "image/png");
}

#[tokio::test]
async fn a_name_tells_the_type_of_files_and_of_files_of_packs_alike() {
    let server = TestServer::start().await;
    let types = [
        ("a.heic", "image/heic"),
        ("a.MOV", "video/quicktime"),
        ("a.wasm", "application/wasm"),
        ("a.mjs", "text/javascript"),
        ("a.usdz", "model/vnd.usdz+zip"),
        ("a.zst", "application/zstd"),
        ("a.tar.gz", "application/gzip"),
        ("a.mobileconfig", "application/x-apple-aspen-config"),
        ("a", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
    ];
    let files = Files::new(types.map(|(name, _)| (name, name.as_bytes())));
    server.publish("p", &files).await;
    for (name, expected) in types {
        for declared in [None, Some("application/x-www-form-urlencoded")] {
            let put = Request::put(format!("/files/{name}"));
            let put = declared
                .iter()
                .fold(put, |put, declared| put.field("Content-Type", declared));
            let put = server.request(put.body(name)).await;
            assert!([200, 201].contains(&put.status()), "{put:?}");
        }
        for path in [
            format!("/files/{name}"),
            format!("/packs/p/versions/1/files/{name}"),
        ] {
            let get = server.request(Request::get(&path)).await.expect(200);
            assert_eq!(get.field("content-type"), expected, "{path}");
        }
    }
    let declared = Request::put("/files/b.heic").field("Content-Type", "application/octet-stream");
    server.request(declared.body("b")).await.expect(201);
    let get = server
        .request(Request::get("/files/b.heic"))
        .await
        .expect(200);
    assert_eq!(get.field("content-type"), "application/octet-stream");
}

#[tokio::test]
async fn every_answer_says_how_long_it_may_be_kept_and_shows_a_page_its_fields() {
    let server = TestServer::start().await;
    let put = Request::put("/files/a").body("a");
    server.request(put).await.expect(201);
    let files = Files::new([("a", &b"a"[..])]);
    server.publish("p", &files).await;
    let upload = Request::post("/files").field("Upload-Complete", "?0");
    let upload = server.request(upload).await.expect(201);
    let upload = upload.field("location");
    let preflight = Request::options("/files").field("Access-Control-Request-Method", "PUT");
    let allowed = server
        .request(preflight.clone().field("Origin", "http://localhost"))
        .await
        .expect(204);
    let allowed = allowed.field("access-control-allow-headers");
    for field in [
        "upload-client-ref",
        "if-range",
        "upload-complete",
        "content-md5",
    ] {
        assert!(allowed.split(", ").any(|own| own == field), "{field}");
    }

    let v1 = "/packs/p/versions/1";
    let requests = [
        Request::get("/files"),
        Request::head("/files"),
        Request::get("/files?limit=x"),
        Request::options("/files"),
        preflight,
        Request::post("/files").body("new"),
        Request::get("/files/a"),
        Request::head("/files/a"),
        Request::get("/files/a").field("If-None-Match", "*"),
        Request::get("/files/a").field("If-Match", "\"b\""),
        Request::get("/files/a").field("Range", "bytes=0-0"),
        Request::get("/files/a").field("Range", "bytes=5-"),
        Request::get("/files/absent"),
        Request::put("/files/a").body("b"),
        Request::put("/files/c")
            .field("Content-Encoding", "br")
            .body("b"),
        Request::options("/files/a"),
        Request::new("TRACE", "/files/a"),
        Request::delete("/files/a"),
        Request::get("/uploads?client_ref=a"),
        Request::get("/uploads"),
        Request::head(upload),
        Request::get(upload),
        Request::options(upload),
        Request::patch(upload).body("b"),
        Request::delete(upload),
        Request::head(upload),
        Request::get("/uploads/unknown"),
        Request::get("/packs"),
        Request::get("/packs/p"),
        Request::get("/packs/absent"),
        Request::get("/packs/signing-key"),
        Request::get(v1),
        Request::get("/packs/p/versions/latest"),
        Request::get(format!("{v1}/catalogue")),
        Request::get(format!("{v1}/catalogue.sig")),
        Request::get(format!("{v1}/files/a")),
        Request::get(format!("{v1}/archive.zip")),
        Request::get(format!("{v1}/archive.tar")),
        Request::get("/packs/p/versions/latest/archive.zip"),
        Request::get(format!("{v1}/since/1")),
        Request::get(format!("{v1}/since/1.zip")),
        Request::get(format!("{v1}/need/none.zip")),
        Request::post(format!("{v1}/diff")).body("{\"version\":1,\"except\":[0]}"),
        Request::post("/packs/p/drafts").body("{}"),
        Request::get("/packs/p/drafts/absent"),
        Request::post("/packs/p/drafts/absent/publish"),
        Request::post("/packs/p/versions").body("no archive"),
        Request::delete(v1),
        Request::get("/"),
        Request::get("/nowhere"),
    ];
    for request in requests {
        let what = format!("{} {}", request.method, request.target);
        let response = server
            .request(request.field("Origin", "http://localhost"))
            .await;
        assert!(response.status() < 500, "{what}: {response:?}");
        let cache = response.field("cache-control");
        let is_kept = cache.contains("immutable");
        assert!(
            is_kept || cache.contains("no-store") || cache.contains("no-cache"),
            "{what}: {cache}"
        );
        // Only resources under a version number are immutable.
        assert!(!is_kept || what.contains("/versions/1/"), "{what}: {cache}");
        if response.optional("access-control-allow-methods").is_some() {
            continue;
        }
        let exposed = response.field("access-control-expose-headers");
        let exposed: HashSet<&str> = exposed.split(", ").collect();
        for name in response.head.fields.keys() {
            let of_no_interest = name.as_str().starts_with("access-control-")
                || ["connection", "x-content-type-options"].contains(&name.as_str());
            assert!(
                of_no_interest || exposed.contains(name.as_str()),
                "{what}: pages do not see {name}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_of_another_machine_is_told_who_it_is_and_what_to_set() {
    let server = TestServer::start().await;
    let request = Request::get("/files").field("Origin", "https://evil.example");
    let problem = server.request(request).await.expect(403).problem();
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("https://evil.example") && detail.contains("access.keys"),
        "{detail}"
    );
}
