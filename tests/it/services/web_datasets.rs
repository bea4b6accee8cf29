//! Manifests and pictures from a web server: TLS with a certificate of a private authority, redirects, compression, and
//! what servers and connections do wrong.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    common::Ran,
    services::{
        datasets::png,
        tls::PrivateCa,
        world::{World, in_both_worlds},
    },
};

in_both_worlds! {
    a_manifest_and_its_pictures_come_over_tls,
}

/// A web server with TLS.
struct Web {
    ca: PrivateCa,
    origin: String,
    /// The heads of all requests.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// `answer` gets the path, and how often it was asked for before.
    fn start(answer: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let asked = Arc::new(Mutex::new(Vec::<String>::new()));
        let (seen, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (seen.clone(), answer.clone());
                thread::spawn(move || {
                    let lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
                    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                    let path = path_of(&head.join("\n"));
                    let mut seen = seen.lock().unwrap();
                    let before = seen.iter().filter(|head| path_of(head) == path).count();
                    seen.push(head.join("\n"));
                    drop(seen);
                    client.write_all(&answer(&path, before)).ok();
                });
            }
        });
        let ca = PrivateCa::new();
        let origin = format!("https://localhost:{}", ca.before(plain));
        Self { ca, origin, asked }
    }

    fn allow_in(&self, world: &mut World) {
        world.set("ACETATE__STORE__HTTP_INPUTS", "true");
        world.set("ACETATE__STORE__HTTP_ALLOW", &self.origin);
        world.set("ACETATE__TLS__CA_FILE", &self.ca.file().display().to_string());
    }

    fn asked_for(&self, path: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|head| path_of(head) == path).cloned().collect()
    }
}

/// The path of a request without its query.
fn path_of(head: &str) -> String {
    head.split([' ', '?']).nth(1).unwrap_or_default().to_owned()
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn redirect(to: &str) -> Vec<u8> {
    answer("302 Found", &[&format!("location: {to}")], b"")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

async fn a_manifest_and_its_pictures_come_over_tls(mut world: World) {
    let web = Web::start(|path, _| match path {
        "/set/m.csv" => redirect("/signed/7f3a?key=1"),
        "/signed/7f3a" => answer("200 OK", &["content-type: text/csv"], b"file_name,note\nin/a.png,x\nin/b.png,y\n"),
        "/set/in/a.png" => answer("200 OK", &["content-type: image/png"], &png([1, 2, 3, 255])),
        "/set/in/b.png" => answer("200 OK", &["content-encoding: gzip"], &gzip(&png([4, 5, 6, 255]))),
        _ => answer("404 Not Found", &[], b"none"),
    });
    let (from, output) = (format!("{}/set/m.csv", web.origin), world.output("web"));
    let args = ["submit", "composite", "--from", &from, "--batch", "web", "--output", &output];
    world.set("ACETATE__STORE__HTTP_INPUTS", "true");
    let ran = world.run(&args).await;
    let wanted = "public addresses, or an origin in store.http_allow";
    assert!(ran.code == Some(2) && ran.stderr.contains(wanted), "{ran:?}");
    world.set("ACETATE__STORE__HTTP_ALLOW", &web.origin);
    let ran = world.run(&args).await;
    assert!(ran.code == Some(1) && ran.stderr.contains("add the authority to tls.ca_file"), "{ran:?}");
    assert!(!ran.stderr.contains("trying again"), "{ran:?}");

    web.allow_in(&mut world);
    for (new, known) in [(2, 0), (0, 2)] {
        let report = world.json(&[&args[..], &["--json"]].concat()).await;
        assert_eq!((&report["submitted"], &report["known"]), (&json!(new), &json!(known)), "{report}");
    }
    let _worker = world.worker();
    let watched = world.run(&["jobs", "watch", "--batch", "web"]).await;
    assert_eq!(watched.code, Some(0), "{watched:?}");
    let results = world.run(&["jobs", "results", "--batch", "web"]).await.stdout;
    let results: Vec<Value> = results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> = results.iter().map(|row| (&row["row"], &row["input"][0], &row["meta"]["note"])).collect();
    let at = |name: &str| json!(format!("{}/set/in/{name}.png", web.origin));
    assert_eq!(found, [(&json!(1), &at("a"), &json!("x")), (&json!(2), &at("b"), &json!("y"))]);
}

/// A server's answers, and the number of rows or the text of the error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_web_servers_do_to_manifests() {
    let mut world = World::embedded();
    let picture = world.input("a.png", [1, 2, 3, 255]);
    let rows = move |count: usize| -> Vec<u8> {
        let row = |number| format!("{picture},{number}\n");
        format!("image,note\n{}", (0..count).map(row).collect::<String>()).into_bytes()
    };
    let ok = |headers: &[&str], body: &[u8]| answer("200 OK", headers, body);
    let cut = |headers: &[&str], body: &[u8]| {
        let whole = answer("200 OK", headers, body);
        whole[..whole.len() - body.len() / 2].to_vec()
    };
    let web = Web::start(move |path, before| match path {
        "/encoded.csv" => ok(&["content-encoding: gzip"], &gzip(&rows(3))),
        "/packed.csv.gz" => ok(&["content-type: application/gzip"], &gzip(&rows(3))),
        // As a server does that takes `.gz` for an encoding.
        "/both.csv.gz" => ok(&["content-type: text/csv", "content-encoding: x-gzip"], &gzip(&rows(3))),
        "/brotli.csv" => ok(&["content-encoding: br"], b"xyz"),
        "/damaged.csv" => ok(&["content-encoding: gzip"], b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00\xff\xff"),
        "/type.csv" => ok(&["content-type: image/png"], &rows(3)),
        "/login.csv" => ok(&["content-type: text/csv"], b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"),
        "/none.csv" => answer("404 Not Found", &[], b"<html>404</html>"),
        "/closed.csv" => answer("403 Forbidden", &[], b""),
        "/empty.csv" => ok(&[], b""),
        "/one.csv" => redirect("two.csv"),
        "/two.csv" => redirect("//localhost/elsewhere.csv"),
        "/open.csv" => redirect("http://localhost/m.csv"),
        "/private.csv" => redirect("https://10.0.0.7/m.csv"),
        "/loop.csv" => redirect("/loop.csv"),
        "/busy.csv" if before == 0 => answer("429 Too Many Requests", &["retry-after: 1"], b""),
        "/busy.csv" => ok(&[], &rows(3)),
        "/long.csv" => answer("429 Too Many Requests", &["retry-after: 3600"], b""),
        // Another version each time.
        "/changes.csv" => ok(&[&format!("etag: \"{before}\"")], &rows(3 + before)),
        "/cut.csv" if before == 0 => cut(&["etag: \"0\"", "accept-ranges: bytes"], &rows(9)),
        "/cut.csv" => ok(&["etag: \"1\""], &rows(3)),
        "/chunk.csv" if before == 0 => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            [head.as_bytes(), b"ff\r\n", &rows(1)].concat()
        }
        "/chunk.csv" => ok(&[], &rows(3)),
        "/never.csv" => cut(&[], &rows(9)),
        _ => answer("500 Internal Server Error", &[], b""),
    });
    web.allow_in(&mut world);
    let output = world.output("faults");
    let submit = async |name: &str| -> Ran {
        let from = format!("{}/{name}?key=s3cret", web.origin);
        let args = ["submit", "composite", "--from", &from, "--batch", "faults", "--output", &output];
        let ran = world.run(&[&args[..], &["--dry-run", "--json"]].concat()).await;
        assert!(!ran.stderr.contains("s3cret"), "{ran:?}");
        ran
    };
    let cut = "/never.csv: cannot read it: ";
    for (name, tries, outcome) in [
        ("encoded.csv", 1, Ok("")),
        ("packed.csv.gz", 1, Ok("")),
        ("both.csv.gz", 1, Ok("")),
        ("brotli.csv", 1, Err((2, "/brotli.csv: its server compresses it with br, which the request did not allow"))),
        ("damaged.csv", 1, Err((1, "/damaged.csv: cannot read it: "))),
        ("type.csv", 1, Ok("")),
        ("login.csv", 1, Err((2, "/login.csv` is a web page, not a manifest; it may need a login"))),
        ("none.csv", 1, Err((2, "/none.csv: not found"))),
        ("closed.csv", 1, Err((2, "/closed.csv: its server responds with 403; use an address that needs no login"))),
        ("empty.csv", 1, Err((2, "/empty.csv: has no columns; name them in the first line"))),
        ("one.csv", 1, Err((2, "https://localhost/elsewhere.csv: its host is a name of this machine or its network"))),
        ("open.csv", 1, Err((2, "redirects to http://localhost/m.csv, which is not encrypted"))),
        ("private.csv", 1, Err((2, "https://10.0.0.7/m.csv: its host has the address 10.0.0.7"))),
        ("loop.csv", 4, Err((2, "/loop.csv: more than 3 redirects"))),
        ("busy.csv", 2, Ok("its server responds with 429 and asks to wait 1 s; trying again in 1 s")),
        ("long.csv", 1, Err((1, "/long.csv: its server responds with 429 and asks to wait 3600 s"))),
        ("changes.csv", 1, Ok("")),
        ("cut.csv", 2, Ok("; trying again in 1 s")),
        ("chunk.csv", 2, Ok("; trying again in 1 s")),
        ("never.csv", 4, Err((1, cut))),
        ("broken.csv", 1, Err((1, "/broken.csv: its server responds with 500"))),
    ] {
        let ran = submit(name).await;
        match outcome {
            Ok(said) => {
                assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
                let report: Value = serde_json::from_str(&ran.stdout).unwrap();
                assert_eq!(report["rows"], 3, "{name}: {report}");
                assert!(ran.stderr.contains(said), "{name}: {ran:?}");
            }
            Err((code, said)) => {
                assert!(ran.code == Some(code) && ran.stderr.contains(said), "{name}: {ran:?}");
            }
        }
        let asked = web.asked_for(&format!("/{name}"));
        assert_eq!(asked.len(), tries, "{name}: {asked:?}");
        assert!(asked.iter().all(|head| !head.to_lowercase().contains("\nrange:")), "{asked:?}");
    }

    // Both passes of a submission read the same copy.
    let from = format!("{}/changes.csv", web.origin);
    let args = ["submit", "composite", "--from", &from, "--batch", "changes", "--output", &output, "--json"];
    assert_eq!(world.json(&args).await["rows"], 4);
    assert_eq!(web.asked_for("/changes.csv").len(), 2);
}
