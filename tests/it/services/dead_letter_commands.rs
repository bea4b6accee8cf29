//! The commands and the API for dead letters, over a real worker and RabbitMQ.

use acetate::{job::JobId, queue::DEAD_LETTERS};
use lapin::options::BasicPublishOptions;
use serde_json::{Value, json};

use crate::{
    http::client::{get, send},
    services::{
        dead_letters::{headers, put},
        world::World,
    },
};

/// The commands, over what a worker refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_commands_show_retry_and_drop() {
    let world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    let mut worker = world.worker();
    worker.until_said("receiving jobs").await;
    let (_connection, channel) = vhost.foreign().await;
    let id = JobId::new();
    let wrong = json!({ "version": 1, "id": id, "kind": "composite", "color": "red",
        "input": { "image": "s3://pictures/a.png" }, "output": { "prefix": "s3://results/a/" } });
    let binary: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let long = headers(&[("x-note", &"y".repeat(50_000)), ("x-escape", "\u{1b}[31mred")]);
    for body in [wrong.to_string().into_bytes(), binary] {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("acetate.jobs".into(), "composite".into(), options, &body, long.clone());
        sent.await.unwrap();
    }
    vhost.until_left(DEAD_LETTERS, 2).await;
    worker.signal("-TERM");
    worker.ended().await;

    let listed = world.json(&["dead-letters", "list", "--json"]).await;
    assert_eq!(listed["total"], 2);
    let mut letters = listed["dead_letters"].as_array().unwrap().clone();
    // They were refused at the same time.
    letters.sort_by_key(|letter| letter["size"].as_u64());
    let letter = |index: usize| letters[index].clone();
    let name = |index: usize| letters[index]["id"].as_str().unwrap().to_owned();
    assert_eq!((&letter(0)["job"], &letter(0)["queue"]), (&json!(id), &json!("acetate.composite")));
    assert!(letter(0)["reason"].as_str().unwrap().contains("unknown field `color`"), "{listed:#}");
    assert_eq!((&letter(1)["size"], &letter(1)["job"]), (&json!(300_000), &Value::Null));
    assert!(letter(0)["headers"]["x-note"].as_str().unwrap().len() < 5000);
    let shown = world.run(&["dead-letters", "show", &name(0)]).await;
    assert!(shown.code == Some(0) && shown.stdout.contains("\"color\":\"red\""), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}'), "control characters do not reach the terminal");
    let shown = world.run(&["dead-letters", "show", &letter(1)["position"].to_string()]).await;
    assert!(shown.stdout.contains("not text") && shown.stdout.contains("000102030405"), "{shown:?}");
    let shown = world.json(&["dead-letters", "show", &name(1), "--json"]).await;
    assert!(shown["truncated"] == true && shown["body_base64"].as_str().unwrap().len() > 80_000);
    let table = world.run(&["dead-letters", "list", "--reason", "unknown field"]).await;
    assert!(table.stdout.contains("invalid_request") && table.stdout.lines().count() == 2, "{table:?}");

    for command in [&["retry"][..], &["drop", "--yes"]] {
        let filter = ["--all", "--reason", "nothing like it"];
        let nothing = world.run(&[&["dead-letters"], command, &filter].concat()).await;
        assert_eq!((nothing.code, &*nothing.stdout), (Some(0), "no dead letter matches; there are 2\n"), "{nothing:?}");
    }
    let missing = world.run(&["dead-letters", "show", "9"]).await;
    assert!(missing.code == Some(2) && missing.stderr.contains("there is no dead letter 9"), "{missing:?}");
    let missing = world.run(&["dead-letters", "retry", "9"]).await;
    assert_eq!((missing.code, &*missing.stdout), (Some(2), ""), "{missing:?}");
    let refused = world.run(&["dead-letters", "drop", "2"]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("--yes"), "{refused:?}");
    let none = world.run(&["dead-letters", "retry"]).await;
    assert!(none.code == Some(2) && none.stderr.contains("--all"), "{none:?}");
    let wrong = world.run(&["dead-letters", "show", "xyz"]).await;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("16 hexadecimal digits"), "{wrong:?}");

    let second = name(1);
    let dropped = world.json(&["dead-letters", "drop", &second, "--yes", "--json"]).await;
    assert_eq!(dropped, json!({ "done": [second], "failed": [] }));
    let retried = world.run(&["dead-letters", "retry", "--all", "--kind", "composite"]).await;
    assert!(retried.stdout.contains("1 dead letter published again"), "{retried:?}");
    vhost.until_left(DEAD_LETTERS, 0).await;
    vhost.until_left("acetate.composite", 1).await;

    let wrong = world.run(&["audit", "list", "--action", "retry"]).await;
    assert!(
        wrong.code == Some(2) && wrong.stderr.contains("`retry` is not an action; they are submitted"),
        "{wrong:?}"
    );
    let audit = world.json(&["audit", "list", "--since", "1h", "--json"]).await;
    let actions = audit["actions"].as_array().unwrap();
    let who = actions[0]["actor"].as_str().unwrap();
    assert!(who.starts_with("cli:") && who.contains('@'), "{audit:#}");
    assert_eq!((&actions[0]["action"], &actions[0]["jobs"]), (&json!("dead_letter_retried"), &json!(1)));
    assert_eq!(
        (&actions[1]["action"], &actions[1]["detail"]["dead_letter"]),
        (&json!("dead_letter_dropped"), &json!(second))
    );

    let embedded = World::embedded();
    let refused = embedded.run(&["dead-letters", "list"]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("only RabbitMQ has dead letters"), "{refused:?}");
}

/// The same over HTTP, for tokens that may operate.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_api_shows_retries_and_drops() {
    let mut world = World::service().await;
    let tokens = json!([
        { "name": "ops", "role": "operate", "token": "an-operators-token-0123" },
        { "name": "ci", "role": "submit", "token": "a-submitters-token-0123" },
    ]);
    world.set("ACETATE__HTTP__TOKENS", &tokens.to_string());
    let serve = world.start(&["serve"], &[]);
    let at = serve.http().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    vhost.ready().await.close().await;
    let id = JobId::new();
    let body = json!({ "id": id, "text": "ä" }).to_string().into_bytes();
    put(
        vhost,
        &[body, vec![0xff, 0xfe]],
        &headers(&[("x-acetate-queue", "acetate.edit"), ("x-acetate-code", "invalid_request")]),
    )
    .await;
    tokio::task::block_in_place(|| {
        let ask = |token: &str, method: &str, path: &str| {
            send(method, &format!("{at}{path}"), &[("authorization", &format!("Bearer {token}"))], &[])
        };
        let ops = |method: &str, path: &str| ask("an-operators-token-0123", method, path);
        get(&format!("{at}/v1/dead-letters")).problem(401, "unauthorized");
        let refused = ask("a-submitters-token-0123", "GET", "/v1/dead-letters").problem(403, "forbidden");
        assert!(refused["detail"].as_str().unwrap().contains("needs the role operate"), "{refused}");

        let listed = ops("GET", "/v1/dead-letters").ok(200).json();
        assert_eq!((&listed["total"], &listed["more"]), (&json!(2), &json!(false)));
        let letters = listed["dead_letters"].as_array().unwrap().clone();
        assert!(letters[0].get("body").is_none() && letters[0]["kind"] == "edit", "{listed:#}");
        let shown = ops("GET", &format!("/v1/dead-letters/{id}")).ok(200).json();
        assert!(shown["body"].as_str().unwrap().contains('ä'));
        let second = letters[1]["id"].as_str().unwrap();
        let shown: Value = ops("GET", &format!("/v1/dead-letters/{second}")).ok(200).json();
        assert_eq!(shown["body_base64"], "//4=");
        ops("GET", "/v1/dead-letters/77").problem(404, "not_found");
        ops("GET", "/v1/dead-letters/x").problem(400, "bad_request");
        ops("GET", "/v1/dead-letters?limit=0").problem(400, "bad_request");
        ops("GET", "/v1/dead-letters?kind=paint").problem(400, "bad_request");

        ops("DELETE", &format!("/v1/dead-letters/{second}")).ok(204);
        ops("DELETE", &format!("/v1/dead-letters/{second}")).problem(404, "not_found");
        assert_eq!(ops("POST", &format!("/v1/dead-letters/{id}/retry")).ok(200).json(), json!({ "retried": 1 }));
        let audit = ask("a-submitters-token-0123", "GET", "/v1/audit?actor=ops").ok(200).json();
        let actions = audit["actions"].as_array().unwrap();
        assert_eq!(actions.len(), 2, "{audit:#}");
        assert_eq!((&actions[0]["action"], &actions[0]["job"]), (&json!("dead_letter_retried"), &json!(id)));
        assert_eq!(actions[0]["address"], "127.0.0.1");
    });
    vhost.until_left(DEAD_LETTERS, 0).await;
    vhost.until_left("acetate.edit", 1).await;
}

/// What others have sent is shown in few characters that only stand for themselves, with where the whole is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_shown_of_a_refused_message_is_short_and_safe() {
    let world = World::service().await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    let mut worker = world.worker();
    worker.until_said("receiving jobs").await;
    let (_connection, channel) = vhost.foreign().await;
    let hostile = "\u{1b}]0;x\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r\nstate      succeeded";
    let object = format!("{{\"version\": 1, \"kind\": \"edit\", \"{hostile}\": 1}}");
    let long = format!("{{\"version\": 1, \"kind\": \"edit\", \"{}\": \"{hostile}\"}}", "z".repeat(200_000));
    let utf16: Vec<u8> = object.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gzip = [&[0x1f, 0x8b, 8, 0][..], &(0..=255).cycle().take(90_000).collect::<Vec<u8>>()].concat();
    let huge = vec![b'7'; 3_000_000];
    let bodies = [object.replace(['\r', '\n'], " ").into_bytes(), long.into_bytes(), utf16, gzip, huge];
    let mut ids = Vec::new();
    for body in &bodies {
        let id = JobId::new().to_string();
        let mut properties = headers(&[("x-\nnote", hostile), ("x-acetate-code", "a\nb")]);
        properties = properties.with_message_id(id.as_str().into()).with_content_type("text/\u{1b}[1mhtml".into());
        let options = BasicPublishOptions::default();
        channel.basic_publish("acetate.jobs".into(), "edit".into(), options, body, properties).await.unwrap();
        ids.push(id);
    }
    vhost.until_left(DEAD_LETTERS, 5).await;
    worker.signal("-TERM");
    worker.ended().await;

    let check = |what: &str, text: &str, longest_line: usize, most: usize| {
        let bad = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(bad, None, "{what}: {text:.3000}");
        assert!(text.len() <= most, "{what}: {} bytes", text.len());
        let line = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(line <= longest_line, "{what}: a line of {line} characters");
    };
    let list = world.run(&["dead-letters", "list"]).await;
    check("list", &list.stdout, 300, 2000);
    assert_eq!(list.stdout.lines().count(), 6, "{list:?}");
    for (id, body) in ids.iter().zip(&bodies) {
        let shown = world.run(&["jobs", "show", id]).await;
        check("show", &shown.stdout, 1100, 3000);
        let whole = format!("acetate dead-letters show {id}");
        assert!(shown.code == Some(0) && shown.stdout.contains(&whole), "{shown:?}");
        assert_eq!(shown.stdout.matches("\nstate ").count(), 1, "{shown:?}");
        let json = world.json(&["jobs", "show", id, "--json"]).await;
        if let Ok(text) = std::str::from_utf8(body)
            && !text.contains('\0')
        {
            assert!(text.starts_with(json["message"].as_str().unwrap()), "{id}");
        }
        let letter = world.run(&["dead-letters", "show", id]).await;
        check("letter", &letter.stdout, 4000, 12_000);
        let is_text = !letter.stdout.contains("not text");
        assert_eq!(is_text, std::str::from_utf8(body).is_ok_and(|text| !text.contains('\0')), "{letter:?}");
        let cancelled = world.run(&["jobs", "cancel", id]).await;
        check("cancel", &cancelled.stderr, 1400, 2000);
    }
    let log = worker.log();
    check("log", &log, 5000, 50_000);
    assert_eq!(log.matches("acetate dead-letters show").count(), 5, "{log}");
}
