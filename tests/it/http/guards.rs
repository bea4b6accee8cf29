//! Who may ask, from where, how much and how often.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    common::{TestDir, blocking_until},
    http::client::{get, post, raw, send, upload},
    http::server::{Server, picture, refusal},
};

const TOKEN: &str = "a-token-of-this-test-0123456789";

#[test]
fn with_a_token_nothing_is_answered_without_it() {
    let place = TestDir::new();
    let server = Server::start(&place, &[("ACETATE__HTTP__TOKEN", TOKEN)]);
    let bearer =
        |token: &str| send("GET", &server.url("/v1/jobs"), &[("authorization", &format!("Bearer {token}"))], &[]);
    bearer(TOKEN).ok(200);
    for wrong in ["", "a-token", "a-token-of-this-test-012345678", &format!("{TOKEN}x")] {
        let answer = bearer(wrong);
        answer.problem(401, "unauthorized");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    send("GET", &server.url("/v1/jobs"), &[("authorization", &format!("Basic {TOKEN}"))], &[])
        .problem(401, "unauthorized");
    // Not in an address.
    server.get(&format!("/v1/jobs?token={TOKEN}")).problem(401, "unauthorized");
    for path in ["/v1/jobs", "/v1/config", "/api/qwen-image/config", "/v1/jobs/x/events", "/v1/batches"] {
        server.get(path).problem(401, "unauthorized");
    }
    post(&server.url("/api/qwen-image/decompose"), &json!({})).problem(401, "unauthorized");
    for path in ["/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/session"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }

    // A browser's way.
    assert_eq!(server.get("/v1/session").json(), json!({"required": true, "valid": false}));
    post(&server.url("/v1/session"), &json!({"token": "wrong"})).problem(401, "unauthorized");
    let signed = post(&server.url("/v1/session"), &json!({"token": TOKEN})).ok(200);
    let cookie = signed.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(TOKEN), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    send("GET", &server.url("/v1/jobs"), &[("cookie", &cookie)], &[]).ok(200);
    assert_eq!(send("GET", &server.url("/v1/session"), &[("cookie", &cookie)], &[]).json()["valid"], true);
    send("GET", &server.url("/v1/jobs"), &[("cookie", &cookie.replace("session=", "session=9"))], &[])
        .problem(401, "unauthorized");
    let gone = send("DELETE", &server.url("/v1/session"), &[("cookie", &cookie)], &[]).ok(204);
    assert!(gone.header("set-cookie").contains("Max-Age=0"));

    let said = server.stop();
    assert!(!said.contains(TOKEN), "{said}");
}

#[test]
fn other_machines_need_a_token_and_a_short_one_is_none() {
    let place = TestDir::new();
    let open = refusal(place.command(&["serve", "--bind", "0.0.0.0:0"]));
    assert!(open.contains("ACETATE__HTTP__TOKEN"), "{open}");
    let mut short = place.command(&["serve", "--bind", "127.0.0.1:0"]);
    short.env("ACETATE__HTTP__TOKEN", "hunter2");
    let short = refusal(short);
    assert!(short.contains("http.token") && !short.contains("hunter2"), "{short}");
    let mut wrong = place.command(&["serve", "--bind", "127.0.0.1:0"]);
    wrong.env("ACETATE__HTTP__WEBHOOK_SECRET", "whsec_hunter2");
    let wrong = refusal(wrong);
    assert!(wrong.contains("http.webhook_secret") && !wrong.contains("hunter2"), "{wrong}");
    let mut star = place.command(&["serve", "--bind", "127.0.0.1:0"]);
    star.env("ACETATE__HTTP__CORS_ORIGINS", "*");
    assert!(refusal(star).contains("http.cors_origins"));
}

#[test]
fn pages_of_other_sites_reach_nothing() {
    let place = TestDir::new();
    let settings = [("ACETATE__HTTP__CORS_ORIGINS", "https://friend.example"), ("ACETATE__HTTP__HOSTS", "box.lan")];
    let server = Server::start(&place, &settings);
    let host = |host: &str| {
        raw(&server.address, &format!("GET /v1/jobs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    for good in ["localhost", "127.0.0.1:99", "[::1]:8080", "box.lan:8080"] {
        assert!(host(good).starts_with("HTTP/1.1 200"), "{good}");
    }
    for bad in ["evil.example", "localhost.evil.example", "10.0.0.1:8080"] {
        let answer = host(bad);
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("http.hosts"), "{bad}: {answer}");
    }
    let body = json!({"kind": "composite"}).to_string();
    let from = |origin: &str| {
        let headers = [("content-type", "application/json"), ("origin", origin)];
        send("POST", &server.url("/v1/jobs"), &headers, body.as_bytes())
    };
    from("https://evil.example").problem(403, "forbidden");
    from("null").problem(403, "forbidden");
    // Through the guard, to what is wrong with it.
    from(&format!("http://{}", server.address)).problem(422, "invalid_request");
    let friend = from("https://friend.example");
    friend.problem(422, "invalid_request");
    assert_eq!(friend.header("access-control-allow-origin"), "https://friend.example");
    let preflight = |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        send("OPTIONS", &server.url("/v1/jobs"), &headers, &[])
    };
    assert_eq!(preflight("https://friend.example").header("access-control-allow-origin"), "https://friend.example");
    assert_eq!(preflight("https://evil.example").header("access-control-allow-origin"), "");
    let read = send("GET", &server.url("/v1/jobs"), &[("origin", "https://evil.example")], &[]);
    assert_eq!(read.header("access-control-allow-origin"), "");
    assert_eq!(read.header("cross-origin-resource-policy"), "same-origin");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
}

#[test]
fn what_is_too_large_is_refused_early() {
    let place = TestDir::new();
    let server = Server::start(&place, &[("ACETATE__HTTP__MAX_UPLOAD_BYTES", "100000")]);
    // 500 MB are announced: the answer comes while nothing of it has been sent.
    let start = Instant::now();
    let head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n";
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{head}Content-Length: 500000000\r\n\r\n").as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(stream);

    // One that sends on all the same still reads the answer.
    let big = vec![0; 30_000_000];
    upload(&server.url("/v1/jobs"), &[], &[("image", "x.png", &big)]).problem(413, "too_large");
    // Without a length it is found out on the way.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    let part = "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\n";
    stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).unwrap();
    let piece = [b'0'; 60_000];
    for _ in 0..2 {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
        stream.write_all(&piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");

    let long = json!({"kind": "composite", "labels": {"a": "b".repeat(300_000)}});
    post(&server.url("/v1/jobs"), &long).problem(413, "too_large");
    let tall = TestDir::new();
    let server = Server::start(&tall, &[("ACETATE__IMAGE__MAX_HEIGHT", "50")]);
    upload(&server.url("/v1/jobs"), &[], &[("image", "x.png", &picture(8, 60, [0; 4]))])
        .problem(413, "image_too_large");
}

#[test]
fn too_many_requests_and_too_many_jobs_are_told_to_wait() {
    let place = TestDir::new();
    let settings = [("ACETATE__HTTP__REQUESTS_PER_SECOND", "5"), ("ACETATE__HTTP__MAX_QUEUED", "3")];
    let server = Server::start_with(&place, &["--work", "false"], &settings);
    let limited = (0..30).map(|_| server.get("/v1/jobs")).find(|answer| answer.status == 429).expect("no limit");
    limited.problem(429, "rate_limited");
    assert!(limited.header("retry-after").parse::<u64>().unwrap() > 0);
    // The probes are asked as often as their owner likes.
    assert!((0..30).all(|_| server.get("/healthz").status == 200));

    let pixel = picture(4, 4, [1, 2, 3, 255]);
    let submit = |label: &str| {
        blocking_until(|| {
            let texts = [("kind", "composite"), ("label", label)];
            let answer = upload(&server.url("/v1/jobs"), &texts, &[("image", "x.png", &pixel)]);
            let limited = answer.status == 429 && answer.json()["code"] == "rate_limited";
            if limited { Err("its rate is limited for good") } else { Ok(answer) }
        })
    };
    let answers: Vec<_> = (0..5).map(|index| submit(&format!("n={index}"))).collect();
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 3);
    let full = answers.last().unwrap();
    full.problem(429, "queue_full");
    assert!(full.header("retry-after").parse::<u64>().unwrap() > 0);
}

#[test]
fn the_page_and_the_document_say_what_browsers_must_know() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let page = server.get("/").ok(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe")
    );
    let tag = page.header("etag");
    let again = send("GET", &server.url("/"), &[("if-none-match", tag)], &[]);
    assert!(again.status == 304 && again.body.is_empty());
    for (path, kind) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs.js", "text/javascript; charset=utf-8"),
        ("/docs.css", "text/css; charset=utf-8"),
    ] {
        assert_eq!(server.get(path).ok(200).header("content-type"), kind);
    }
    let document = get(&server.url("/openapi.json")).ok(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in ["/v1/jobs", "/v1/jobs/{id}/events", "/v1/jobs/{id}/export.ora", "/api/qwen-image/edit-layer"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let config = server.get("/v1/config").ok(200).json();
    assert_eq!(
        (&config["mode"], &config["works"], &config["webhooks"]),
        (&json!("embedded"), &json!(true), &json!(false))
    );
    let models = server.get("/v1/models").ok(200).json();
    assert_eq!((&models["decompose"]["id"], &models["decompose"]["small"]), (&json!("layered-nano"), &json!(true)));
    assert!(server.get("/readyz").ok(200).json()["ready"] == true);
    let numbers = String::from_utf8(server.get("/metrics").ok(200).body).unwrap();
    assert!(numbers.contains("acetate_http_requests_total{route=\"/v1/config\""), "{numbers}");
}
