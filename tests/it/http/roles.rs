//! Several tokens, what each may do, and what is remembered of it.

use serde_json::{Value, json};

use crate::{
    common::TestDir,
    http::client::{Answer, form, get, post, send},
    http::server::{Server, picture, refusal},
};

const READ: &str = "a-readers-token-0123456789";
const SUBMIT: &str = "a-submitters-token-0123456789";
const OTHER: &str = "another-submitters-token-0123";
const OPERATE: &str = "an-operators-token-0123456789";
const SINGLE: &str = "the-single-token-0123456789";

fn tokens() -> String {
    json!([
        { "name": "dashboard", "role": "read", "token": READ },
        { "name": "ci", "role": "submit", "token": SUBMIT },
        { "name": "other", "role": "submit", "token": OTHER },
        { "name": "ops", "role": "operate", "token": OPERATE },
    ])
    .to_string()
}

fn ask(server: &Server, token: &str, method: &str, path: &str) -> Answer {
    send(method, &server.url(path), &[("authorization", &format!("Bearer {token}"))], &[])
}

fn submit(server: &Server, token: &str) -> Answer {
    let (kind, body) = form(&[("kind", "composite")], &[("image", "x.png", &picture(4, 4, [1, 2, 3, 255]))]);
    let headers = [("authorization", format!("Bearer {token}")), ("content-type", kind)];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    send("POST", &server.url("/v1/jobs"), &headers, &body)
}

fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn each_role_may_do_its_part() {
    let place = TestDir::new();
    let settings = [("ACETATE__HTTP__TOKENS", tokens()), ("ACETATE__HTTP__TOKEN", SINGLE.to_owned())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start_with(&place, &["--work", "false"], &settings);
    get(&server.url("/v1/jobs")).problem(401, "unauthorized");
    ask(&server, "not-a-token-at-all-0123", "GET", "/v1/jobs").problem(401, "unauthorized");
    for token in [READ, SUBMIT, OTHER, OPERATE, SINGLE] {
        ask(&server, token, "GET", "/v1/jobs").ok(200);
        ask(&server, token, "GET", "/v1/audit").ok(200);
    }

    let refused = submit(&server, READ).problem(403, "forbidden");
    assert_eq!(refused["detail"], "the token `dashboard` has the role read; this request needs the role submit");
    let mine = id_of(&submit(&server, SUBMIT).ok(202));
    let theirs = id_of(&submit(&server, OTHER).ok(202));
    let at = |id: &str, what: &str| format!("/v1/jobs/{id}/{what}");
    let refused = ask(&server, SUBMIT, "POST", &at(&theirs, "cancel")).problem(403, "forbidden");
    assert!(refused["detail"].as_str().unwrap().contains("was not submitted with the token `ci`"), "{refused}");
    ask(&server, READ, "POST", &at(&mine, "cancel")).problem(403, "forbidden");
    ask(&server, SUBMIT, "POST", &at("018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21", "cancel")).problem(404, "not_found");
    ask(&server, SUBMIT, "POST", &at(&mine, "cancel")).ok(200);
    for (method, path) in [
        ("POST", at(&mine, "retry")),
        ("DELETE", format!("/v1/jobs/{mine}")),
        ("POST", "/v1/batches/b/cancel".to_owned()),
        ("GET", "/v1/dead-letters".to_owned()),
    ] {
        let refused = ask(&server, SUBMIT, method, &path).problem(403, "forbidden");
        assert!(refused["detail"].as_str().unwrap().contains("needs the role operate"), "{refused}");
    }
    ask(&server, OPERATE, "POST", &at(&mine, "retry")).ok(200);
    ask(&server, SINGLE, "POST", &at(&mine, "cancel")).ok(200);
    ask(&server, OPERATE, "DELETE", &format!("/v1/jobs/{mine}")).ok(204);
    let none = ask(&server, OPERATE, "GET", "/v1/dead-letters").problem(409, "conflict");
    assert!(none["detail"].as_str().unwrap().contains("without RabbitMQ"), "{none}");
    // Unknown paths are no secret.
    ask(&server, READ, "POST", "/v1/nothing").problem(404, "not_found");

    let history = ask(&server, READ, "GET", &at(&mine, "history")).ok(200).json();
    let steps: Vec<(Value, Value)> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].clone(), entry["actor"].clone()))
        .collect();
    let wanted =
        [("submitted", "ci"), ("cancelled", "ci"), ("retried", "ops"), ("cancelled", "token"), ("deleted", "ops")];
    assert_eq!(steps, wanted.map(|(action, actor)| (json!(action), json!(actor))));
    assert!(history["history"].as_array().unwrap().iter().all(|entry| entry["address"] == "127.0.0.1"));
    ask(&server, READ, "GET", "/v1/jobs/018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21/history").problem(404, "not_found");
    let page = ask(&server, READ, "GET", "/v1/audit?limit=2").ok(200).json();
    let rest = ask(&server, READ, "GET", &format!("/v1/audit?after={}", page["next"])).ok(200).json();
    assert_eq!((page["actions"].as_array().unwrap().len(), rest["actions"].as_array().unwrap().len()), (2, 4));
    ask(&server, READ, "GET", "/v1/audit?since=yesterday").problem(400, "bad_request");
    ask(&server, READ, "GET", "/v1/audit?action=submitted&actor=other").ok(200);

    // The command line sees the same, and acts under another name.
    let shown = place.json(&["jobs", "history", &mine, "--json"]);
    assert_eq!(shown["history"].as_array().unwrap().len(), 5);
    place.run(&["jobs", "cancel", &theirs]);
    let listed = place.run(&["audit", "list", "--job", &theirs]);
    assert!(listed.stdout.contains("cli:") && listed.stdout.contains("cancelled"), "{listed:?}");
    let words = place.run(&["jobs", "history", &theirs]);
    assert!(words.stdout.contains("submitted by other from 127.0.0.1"), "{words:?}");

    let said = server.stop();
    assert!([READ, SUBMIT, OTHER, OPERATE, SINGLE].iter().all(|token| !said.contains(token)), "{said}");
}

#[test]
fn a_browser_signs_in_with_any_token() {
    let place = TestDir::new();
    let server = Server::start_with(&place, &["--work", "false"], &[("ACETATE__HTTP__TOKENS", &tokens())]);
    assert_eq!(get(&server.url("/v1/session")).json(), json!({ "required": true, "valid": false }));
    post(&server.url("/v1/session"), &json!({ "token": "wrong" })).problem(401, "unauthorized");
    let signed = post(&server.url("/v1/session"), &json!({ "token": READ })).ok(200);
    let wanted = json!({ "required": true, "valid": true, "name": "dashboard", "role": "read" });
    assert_eq!(signed.json(), wanted);
    let cookie = signed.header("set-cookie").split(';').next().unwrap().to_owned();
    let by_cookie = |method: &str, path: &str| send(method, &server.url(path), &[("cookie", &cookie)], &[]);
    assert_eq!(by_cookie("GET", "/v1/session").json(), wanted);
    by_cookie("GET", "/v1/jobs").ok(200);
    by_cookie("DELETE", "/v1/jobs/018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21").problem(403, "forbidden");
}

#[test]
fn tokens_have_limits_of_their_own() {
    let place = TestDir::new();
    let tokens = json!([
        { "name": "slow", "role": "read", "token": READ, "requests_per_second": 2 },
        { "name": "few", "role": "submit", "token": SUBMIT, "jobs_per_day": 2 },
        { "name": "free", "role": "submit", "token": OTHER },
    ]);
    let server = Server::start_with(&place, &["--work", "false"], &[("ACETATE__HTTP__TOKENS", &tokens.to_string())]);
    let answers: Vec<_> = (0..20).map(|_| ask(&server, READ, "GET", "/v1/jobs")).collect();
    let limited = answers.iter().find(|answer| answer.status == 429).expect("no limit");
    assert!(limited.problem(429, "rate_limited")["detail"].as_str().unwrap().contains("`slow`"));
    assert!(limited.header("retry-after").parse::<u64>().unwrap() > 0);
    assert!((0..20).all(|_| ask(&server, OTHER, "GET", "/v1/jobs").status == 200));

    submit(&server, SUBMIT).ok(202);
    let last = submit(&server, SUBMIT).ok(202);
    let limited = submit(&server, SUBMIT);
    let detail = limited.problem(429, "rate_limited")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("2 new jobs with the token `few`") && detail.contains("jobs_per_day"), "{detail}");
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!((86_000..=86_401).contains(&wait), "{wait}");
    // The same job again is not a new one.
    let job = json!({ "kind": "composite", "id": last.json()["id"], "input": { "images": last.json()["input"] } });
    let headers = [("authorization", format!("Bearer {SUBMIT}")), ("content-type", "application/json".to_owned())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    send("POST", &server.url("/v1/jobs"), &headers, job.to_string().as_bytes()).ok(200);
    submit(&server, OTHER).ok(202);
}

#[test]
fn wrong_tokens_are_refused_at_the_start_and_not_shown() {
    let place = TestDir::new();
    let refused = |tokens: &str| {
        let mut command = place.command(&["serve", "--bind", "127.0.0.1:0"]);
        command.env("ACETATE__HTTP__TOKENS", tokens);
        let said = refusal(command);
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    for (tokens, wanted) in [
        (json!([{ "name": "a", "role": "read", "token": "hunter2" }]), "a has fewer than 16 characters"),
        (json!([{ "name": "a", "role": "read", "token": "hunter2 hunter2 hunter2" }]), "headers cannot carry"),
        (json!([{ "name": "a", "role": "admin", "token": "hunter2" }]), "unknown variant `admin`"),
        (json!([{ "name": "a", "role": "read" }]), "a has neither token nor token_file"),
        (json!([{ "name": "a b", "role": "read", "token": "x" }]), "is not the name of a token"),
        (json!([{ "name": "token", "role": "read", "token": "x" }]), "choose another"),
        (json!([{ "role": "read", "token": "hunter2" }]), "missing field `name`"),
        (json!("hunter2"), "is not a list of tokens as JSON"),
        (
            json!([{ "name": "a", "role": "read", "token": READ }, { "name": "a", "role": "read", "token": SUBMIT }]),
            "two tokens are named `a`",
        ),
        (
            json!([{ "name": "a", "role": "read", "token": READ }, { "name": "b", "role": "read", "token": READ }]),
            "b and a are the same token",
        ),
    ] {
        let said = refused(&tokens.to_string());
        assert!(said.contains("http.tokens") && said.contains(wanted), "{tokens}: {said}");
    }
    assert!(refused("hunter2").contains("ACETATE__HTTP__TOKENS"));
}

/// A token that only `http.tokens` has is enough to listen on other addresses.
#[test]
fn other_addresses_need_any_token() {
    let place = TestDir::new();
    let mut command = place.command(&["serve", "--bind", "0.0.0.0:0", "--work", "false"]);
    command.env("ACETATE__HTTP__TOKENS", tokens());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.starts_with("acetate is at http://0.0.0.0:"), "{said}");
}

/// The same key with another token is another job, not the job of somebody else.
#[test]
fn an_idempotency_key_belongs_to_its_token() {
    let place = TestDir::new();
    let settings = [("ACETATE__HTTP__TOKENS", tokens()), ("ACETATE__HTTP__TOKEN", SINGLE.to_owned())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start_with(&place, &["--work", "false"], &settings);
    let (kind, body) = form(&[("kind", "composite")], &[("image", "x.png", &picture(4, 4, [1, 2, 3, 255]))]);
    let keyed = |token: &str, status: u16| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", &kind), ("idempotency-key", "k")];
        id_of(&send("POST", &server.url("/v1/jobs"), &headers, &body).ok(status))
    };
    let ids = [SUBMIT, OTHER, SINGLE].map(|token| keyed(token, 202));
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    assert_eq!([SUBMIT, OTHER, SINGLE].map(|token| keyed(token, 200)), ids);
}
