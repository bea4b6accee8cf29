//! Tests with servers on this machine. Only 127.0.0.1 may be connected to; every other address counts as private.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::*;

/// Starts a server that answers each request with `answer(path)`; returns its port.
fn server(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let text = answer(first.split([' ', '?']).nth(1).unwrap_or_default());
            if text == "stall" {
                #[expect(clippy::disallowed_methods, reason = "a server that stalls, on a thread of its own")]
                thread::sleep(Duration::from_secs(5));
            }
            stream.write_all(text.as_bytes()).ok();
        }
    });
    port
}

fn get(url: &str, cap: u64) -> Result<Vec<u8>, JobError> {
    let limits = WebLimits {
        read: Duration::from_millis(700),
        may_connect: |address| address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST),
        ..WebLimits::default()
    };
    read(WebAddress::parse("input", url).unwrap(), cap, &limits, &|_| Ok(()))
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[test]
fn pictures_are_read_under_a_cap() {
    let port = server(|path| {
        match path {
        "/chunked" => {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"
                .to_owned()
        }
        _ => ok("0123456789"),
    }
    });
    for path in ["x.png", "chunked"] {
        let url = format!("http://127.0.0.1:{port}/{path}");
        assert_eq!(get(&url, 10).unwrap(), b"0123456789");
        let error = get(&url, 9).unwrap_err();
        assert!(error.code() == "image_too_large" && error.to_string().contains("image.max_bytes"), "{error}");
    }
}

#[test]
fn redirects_are_followed_and_looked_at_each_time() {
    let port = server(|path| match path {
        "/one" => redirect("/two"),
        "/two" => redirect("x.png"),
        "/x.png" => ok("picture"),
        "/loop" => redirect("/loop"),
        "/private" => redirect("http://10.0.0.1/x"),
        "/metadata" => redirect("http://169.254.169.254/latest/meta-data"),
        "/mapped" => redirect("http://[::ffff:127.0.0.1]/x"),
        "/number" => redirect("http://2130706434/x"),
        "/file" => redirect("file:///etc/passwd"),
        "/user" => redirect("http://me:s3cret@127.0.0.1/x"),
        _ => "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    assert_eq!(get(&url("one"), 99).unwrap(), b"picture");
    for path in ["private", "metadata", "mapped", "number", "file", "user"] {
        let error = get(&url(path), 99).unwrap_err();
        assert_eq!(error.code(), "input_forbidden", "{path}: {error}");
        assert!(!error.to_string().contains("s3cret"));
    }
    for path in ["loop", "nowhere"] {
        assert_eq!(get(&url(path), 99).unwrap_err().code(), "invalid_request", "{path}");
    }

    let only_one = |address: &WebAddress| match address.to_string().ends_with("/two") {
        true => Err(JobError::Cancelled),
        false => Ok(()),
    };
    let limits = WebLimits { may_connect: |_| true, ..WebLimits::default() };
    let address = WebAddress::parse("input", &url("one")).unwrap();
    assert_eq!(read(address, 99, &limits, &only_one), Err(JobError::Cancelled), "every redirect is checked");
}

#[test]
fn this_machine_is_not_the_web() {
    let port = server(|_| ok("secret"));
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f000001"] {
        let address = WebAddress::parse("input", &format!("http://{host}:{port}/")).unwrap();
        let error = read(address, 99, &WebLimits::default(), &|_| Ok(())).unwrap_err();
        assert_eq!(error.code(), "input_forbidden", "{host}: {error}");
    }
}

#[test]
fn what_a_server_answers_decides_about_a_retry() {
    let port = server(|path| match path {
        "/stall" => "stall".to_owned(),
        "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf".to_owned(),
        path => format!("HTTP/1.1 {} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", &path[1..]),
    });
    for (path, code) in [
        ("404", "input_not_found"),
        ("410", "input_not_found"),
        ("403", "input_forbidden"),
        ("400", "invalid_request"),
        ("503", "input_unreachable"),
        ("429", "input_unreachable"),
        ("stall", "input_unreachable"),
        ("cut", "input_unreachable"),
    ] {
        let error = get(&format!("http://127.0.0.1:{port}/{path}?sig=s3cret"), 99).unwrap_err();
        assert_eq!(error.code(), code, "{path}: {error}");
        assert!(error.to_string().contains("127.0.0.1") && !error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn a_host_that_asks_to_wait_is_left_alone() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let port = server(move |path| {
        counted.fetch_add(1, Ordering::Relaxed);
        let after = match path {
            "/seconds" => "Retry-After: 7",
            "/date" => "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT",
            "/long" => "Retry-After: 99999999",
            "/past" => "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:00:07 GMT",
            _ => return ok("picture"),
        };
        format!("HTTP/1.1 429 Slow down\r\n{after}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let url = |path: &str| WebAddress::parse("input", &format!("http://127.0.0.1:{port}/{path}")).unwrap();
    for (path, seconds) in [("seconds", 7), ("date", 30), ("long", 3600)] {
        let limits = WebLimits { may_connect: |_| true, ..WebLimits::default() };
        let before = asked.load(Ordering::Relaxed);
        let error = read(url(path), 99, &limits, &|_| Ok(())).unwrap_err();
        assert_eq!((error.code(), error.asked_to_wait()), ("input_unreachable", Some(Duration::from_secs(seconds))));
        assert!(error.to_string().contains(&format!("responds with 429 and asks to wait {seconds} s")), "{error}");
        // Not even for another picture, and with the same limits in another thread.
        let error = read(url("x.png"), 99, &limits.clone(), &|_| Ok(())).unwrap_err();
        assert!(error.asked_to_wait().is_some_and(|left| left.as_secs() < seconds), "{error}");
        assert!(error.to_string().contains("its server has asked to wait"), "{error}");
        assert_eq!(asked.load(Ordering::Relaxed), before + 1, "{path}");
    }
    let limits = WebLimits { may_connect: |_| true, ..WebLimits::default() };
    assert_eq!(read(url("past"), 99, &limits, &|_| Ok(())).unwrap_err().asked_to_wait(), Some(Duration::ZERO));
    assert_eq!(read(url("x.png"), 99, &limits, &|_| Ok(())).unwrap(), b"picture");
}

#[test]
fn an_encrypted_address_does_not_lead_to_an_open_one() {
    let from = WebAddress::parse("input", "https://h/x").unwrap();
    let error = redirected(&from, Some("http://h/x"), &|_| Ok(())).unwrap_err();
    assert!(error.code() == "input_forbidden" && error.to_string().contains("not encrypted"), "{error}");
}
