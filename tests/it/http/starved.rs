//! Clients that take connections and give nothing: they must not keep the others out.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    common::{TestDir, blocking_until},
    http::{
        client::{get, raw},
        server::{Server, picture},
    },
};

/// More than the files that the server may open.
const HALF_OPEN: usize = 1100;

/// A server that may open `files` files, and no more.
fn server_with(place: &TestDir, files: u32, settings: &[(&str, &str)]) -> Server {
    let program = place.command(&["serve", "--bind", "127.0.0.1:0"]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).args(program.get_args());
    command.env_clear().current_dir(place.folder.path());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("ACETATE__WORKER__DRAIN_SECONDS", "0").envs(settings.iter().copied());
    Server::of(command)
}

fn half_open(server: &Server, count: usize, text: &str) -> Vec<TcpStream> {
    rlimit::increase_nofile_limit(8192).unwrap();
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        // The server may have closed it for the next one.
        stream.write_all(text.as_bytes()).ok();
        streams.push(stream);
    }
    streams
}

/// Asks until the server has had time to accept all connections that came before.
fn is_healthy(server: &Server) {
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(get(&server.url("/healthz")).status, 200);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}\n{}", server.log());
    }
}

/// A socket of the server, as the kernel shows it.
#[derive(PartialEq)]
struct ServerSocket {
    state: String,
    /// The bytes that its client has not taken.
    unsent: u64,
    /// The bytes that the server has not read; of the listener, the connections that it has not accepted.
    unread: u64,
}

impl ServerSocket {
    const ESTABLISHED: &str = "01";

    /// All sockets at the server's port.
    fn all(server: &Server) -> Vec<Self> {
        let port = server.address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let queued = |bytes: &str| u64::from_str_radix(bytes, 16).unwrap();
        fields
            .filter(|fields| fields[1].ends_with(&format!(":{port:04X}")))
            .map(|fields| {
                let (unsent, unread) = fields[4].split_once(':').unwrap();
                Self { state: fields[3].to_owned(), unsent: queued(unsent), unread: queued(unread) }
            })
            .collect()
    }
}

/// Waits until the server has accepted all connections, and read what has arrived on them.
fn until_all_is_read(server: &Server) {
    blocking_until(|| {
        let behind = ServerSocket::all(server).iter().filter(|socket| socket.unread > 0).count();
        if behind == 0 { Ok(()) } else { Err(format!("{behind} sockets have something to read\n{}", server.log())) }
    });
}

/// Waits until this many clients take nothing more from the server.
fn until_blocked(server: &Server, clients: usize) {
    let mut before = Vec::new();
    blocking_until(|| {
        let mut now = ServerSocket::all(server);
        now.retain(|socket| socket.state == ServerSocket::ESTABLISHED && socket.unsent > 0);
        let blocked = now.len();
        if blocked == clients && now == before {
            return Ok(());
        }
        before = now;
        Err(format!("{blocked} clients take nothing\n{}", server.log()))
    });
}

/// How long until the server closes the connection; sends a byte every `pause` meanwhile.
fn closed_after(mut stream: TcpStream, drip: Option<Duration>) -> (Duration, String) {
    let start = Instant::now();
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(drip.unwrap_or(Duration::from_secs(60)))).unwrap();
    loop {
        let mut piece = [0; 1024];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                assert!(start.elapsed() < Duration::from_secs(60), "it stays open");
                if drip.is_none() || stream.write_all(b"x").is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    (start.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn half_open_connections_do_not_silence_the_server() {
    let place = TestDir::new();
    let server = server_with(&place, 1024, &[]);
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n", server.address);
    // The first request warms up what the others need.
    assert_eq!(get(&server.url("/healthz")).status, 200);
    let silent = half_open(&server, HALF_OPEN, &head);
    is_healthy(&server);
    // Those that say nothing at all, too, and the server still opens the files that it needs.
    let more = half_open(&server, HALF_OPEN, "");
    is_healthy(&server);
    let id = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    server.succeeded(&id);
    drop((silent, more));
}

#[test]
fn slow_bodies_do_not_silence_the_server() {
    let place = TestDir::new();
    let server = server_with(&place, 1024, &[]);
    let head = "POST /v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{";
    assert_eq!(get(&server.url("/healthz")).status, 200);
    let slow = half_open(&server, HALF_OPEN, head);
    until_all_is_read(&server);
    is_healthy(&server);
    drop(slow);
}

/// Whole requests, whose responses nobody reads.
#[test]
fn responses_that_nobody_reads_do_not_silence_the_server() {
    const PLACES: usize = 6;
    let place = TestDir::new();
    let server = server_with(&place, 1024, &[("ACETATE__HTTP__MAX_CONNECTIONS", &*PLACES.to_string())]);
    assert_eq!(get(&server.url("/healthz")).status, 200);
    // More than the buffers of both sides hold.
    let requests = format!("GET /openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", server.address).repeat(100);
    let silent = half_open(&server, 2 * PLACES, &requests);
    until_blocked(&server, PLACES);
    // Without a limit of pace, it is a minute until a place is free.
    let begin = Instant::now();
    let answers = || {
        let mut stream = TcpStream::connect(&server.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.address)?;
        stream.read_exact(&mut [0; 12])
    };
    let mut in_a_row = 0;
    while in_a_row < 3 {
        in_a_row = if answers().is_ok() { in_a_row + 1 } else { 0 };
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", server.log());
    }
    drop(silent);
}

/// Each holds what it has sent, and no place that others need.
#[test]
fn slow_uploads_do_not_keep_others_out() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let start = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n\
                 Content-Length: 4000000\r\n\r\n--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\n";
    let slow = half_open(&server, 20, &format!("{start}{}", "x".repeat(20_000)));
    until_all_is_read(&server);
    let begin = Instant::now();
    let id = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    server.succeeded(&id);
    drop(slow);
}

#[test]
fn event_streams_leave_room_for_others() {
    let place = TestDir::new();
    let server = server_with(&place, 1024, &[("ACETATE__HTTP__MAX_CONNECTIONS", "40")]);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let at = [("kind", "composite"), ("not_before", &*later.to_string())];
    let id = server.submit(&at, &picture(4, 4, [9; 4]));
    let request = format!("GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    let mut streams = half_open(&server, 30, &request);
    let states: Vec<_> = streams
        .iter_mut()
        .map(|stream| {
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            String::from_utf8_lossy(&status).into_owned()
        })
        .collect();
    let count = |status: &str| states.iter().filter(|state| state.ends_with(status)).count();
    assert_eq!((count("200"), count("503")), (20, 10), "{states:?}");
    is_healthy(&server);
    let refused = get(&server.url(&format!("/v1/jobs/{id}/events")));
    assert!(refused.problem(503, "busy").to_string().contains("half of the connections"));
    // A place is free again when its client leaves.
    drop(streams);
    let raw = |request: &str| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        status == *b"HTTP/1.1 200"
    };
    blocking_until(|| if raw(&request) { Ok(()) } else { Err(server.log()) });
}

#[test]
fn heads_and_bodies_that_drip_are_cut() {
    let place = TestDir::new();
    let server = Server::start(&place, &[("ACETATE__HTTP__READ_TIMEOUT_SECONDS", "1")]);
    let host = format!("Host: {}\r\n", server.address);
    let open = |text: String| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let drip = Some(Duration::from_millis(100));
    let body = format!(
        "POST /v1/session HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 4000\r\n\r\n{{\""
    );
    let form = format!(
        "POST /v1/jobs HTTP/1.1\r\n{host}Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 4000\r\n\r\n--x\r\n\
         Content-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\n"
    );
    for (name, text, drip, answer) in [
        ("nothing", String::new(), None, ""),
        ("half a head", format!("GET / HTTP/1.1\r\n{host}"), None, ""),
        ("a head that drips", format!("GET / HTTP/1.1\r\n{host}X-Long: "), drip, ""),
        ("half a body", body.clone(), None, "HTTP/1.1 408"),
        ("a body that drips", body, drip, "HTTP/1.1 408"),
        ("half a form", form.clone(), None, "HTTP/1.1 408"),
        ("a form that drips", form, drip, "HTTP/1.1 408"),
    ] {
        let (took, said) = closed_after(open(text), drip);
        assert!(took < Duration::from_secs(15), "{name}: {took:?}");
        assert!(said.starts_with(answer), "{name}: {said}");
        if !answer.is_empty() {
            assert!(said.contains("too_slow") && said.contains("too slow"), "{name}: {said}");
        }
    }
    // A quick client is served that pauses between its requests, for less than the timeout.
    let mut stream = open(format!("GET /healthz HTTP/1.1\r\n{host}\r\n"));
    std::thread::sleep(Duration::from_millis(500));
    stream.write_all(format!("GET /healthz HTTP/1.1\r\n{host}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

#[test]
fn a_client_that_is_slow_to_read_gets_all_of_it() {
    let place = TestDir::new();
    let server = Server::start(&place, &[("ACETATE__HTTP__READ_TIMEOUT_SECONDS", "1")]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(
            format!("GET /openapi.json HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address).as_bytes(),
        )
        .unwrap();
    // Longer than the timeout for what a client sends.
    std::thread::sleep(Duration::from_millis(1500));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.trim_end().ends_with('}'), "{} bytes", answer.len());
}

#[test]
fn an_encoded_body_is_refused_by_name() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    for encoding in ["gzip", "br", "identity, zstd"] {
        let answer = raw(
            &server.address,
            &format!(
                "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n\
                 Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            ),
        );
        assert!(answer.starts_with("HTTP/1.1 415") && answer.contains("Content-Encoding"), "{encoding}: {answer}");
        assert!(answer.to_lowercase().contains("accept-encoding: identity"), "{answer}");
    }
    for (charset, is_utf8) in [
        ("latin1", false),
        ("\"ISO-8859-1\"", false),
        ("utf-16", false),
        ("UTF-8", true),
        ("\"utf-8\"", true),
        ("us-ascii", true),
    ] {
        let kind = format!("application/json; x=y; Charset={charset}");
        let headers = [("content-type", kind.as_str())];
        let answer = crate::http::client::send("POST", &server.url("/v1/jobs"), &headers, b"{}");
        if is_utf8 {
            answer.problem(422, "invalid_request");
        } else {
            let problem = answer.problem(415, "unsupported_media_type").to_string();
            assert!(problem.contains("send it in UTF-8"), "{problem}");
        }
    }
    // Without the header, by its first bytes.
    let answer = crate::http::client::send(
        "POST",
        &server.url("/v1/jobs"),
        &[("content-type", "application/json")],
        b"\x1f\x8b\x08\x00\x00",
    );
    assert!(answer.problem(400, "bad_request").to_string().contains("gzip"));
}
