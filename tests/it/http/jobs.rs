//! Submitting, reading and managing jobs.

use std::io::{Cursor, Read};

use serde_json::json;

use crate::{
    common::TestDir,
    http::client::{get, post, send, upload},
    http::server::{LONG, QUICK, Server, edit, picture, pixels},
};

/// What the web UI does: upload, edit a layer, edit the result again, and composite all layers.
#[test]
fn a_picture_goes_all_the_way() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&QUICK, &picture(64, 48, [200, 80, 40, 255]));
    let job = server.succeeded(&id);
    assert_eq!(job["kind"], "decompose");
    assert_eq!((&job["params"]["steps"], &job["params"]["layers"]), (&json!(2), &json!(2)));
    assert!(job["input"][0]["upload"].as_str().unwrap().ends_with(".png"), "{job}");
    assert_eq!(job["history"].as_array().unwrap().len(), 1);
    let outputs = job["outputs"].as_array().unwrap();
    let roles: Vec<_> = outputs.iter().map(|file| (file["role"].as_str().unwrap(), file["layer"].as_u64())).collect();
    assert_eq!(roles, [("regenerated", Some(0)), ("layer", Some(1)), ("layer", Some(2))]);

    // Edit the layer, then edit the result.
    let first = server.post("/v1/jobs", &edit(json!({"job": id, "layer": 1}))).ok(202).json();
    let first = server.succeeded(first["id"].as_str().unwrap());
    let second = server.post("/v1/jobs", &edit(json!({"job": first["id"], "file": "edited.png"}))).ok(202).json();
    let second = server.succeeded(second["id"].as_str().unwrap());
    assert_eq!(second["input"], json!([{"job": first["id"], "file": "edited.png"}]));
    let layer = pixels(&server.get(&format!("/v1/jobs/{id}/layers/1.png")).ok(200).body);
    let url = second["outputs"][0]["url"].as_str().unwrap();
    let edited = pixels(&server.get(url).ok(200).body);
    assert_eq!(edited.dimensions(), layer.dimensions());
    assert!(edited.pixels().zip(layer.pixels()).all(|(edited, layer)| edited[3] == layer[3]), "alpha has changed");

    let layers = json!([{"job": id, "layer": 2}, {"job": second["id"], "file": "edited.png"}]);
    let whole = server.post("/v1/jobs", &json!({"kind": "composite", "input": {"images": layers}})).ok(202).json();
    let whole = server.succeeded(whole["id"].as_str().unwrap());
    assert_eq!(whole["outputs"][0]["name"], "composite.png");
}

#[test]
fn masks_come_as_json_and_in_forms() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let (scene, white) = (picture(64, 48, [200, 80, 40, 255]), picture(64, 48, [255; 4]));
    let texts = [("kind", "edit"), ("instruction", "make it blue"), ("steps", "1"), ("feather", "2")];
    let files: [(&str, &str, &[u8]); 2] = [("image", "x.png", &scene), ("mask", "m.png", &white)];
    let job = upload(&server.url("/v1/jobs"), &texts, &files).ok(202).json();
    let job = server.succeeded(job["id"].as_str().unwrap());
    let mask = job["mask"].clone();
    assert!(mask["upload"].as_str().unwrap().ends_with(".png"), "{job}");
    assert_eq!((job["input"].as_array().unwrap().len(), &job["params"]["feather"]), (1, &json!(2)));
    // The same upload again, by its name; a region as text.
    let named = mask.to_string();
    let texts = [&texts[..3], &[("mask", named.as_str())]].concat();
    let again = upload(&server.url("/v1/jobs"), &texts, &files[..1]).ok(202).json();
    assert_eq!(again["mask"], mask);
    let texts = [&texts[..3], &[("region", "[8, 8, 16, 16]"), ("drift_guard", "false"), ("keep_rest", "off")]].concat();
    let job = upload(&server.url("/v1/jobs"), &texts, &files[..1]).ok(202).json();
    let job = server.succeeded(job["id"].as_str().unwrap());
    assert_eq!((&job["params"]["region"], &job["params"]["drift_guard"]), (&json!([8, 8, 16, 16]), &json!(false)));
    let made = pixels(&server.get(job["outputs"][0]["url"].as_str().unwrap()).ok(200).body);
    assert_eq!(made.get_pixel(40, 40).0, [200, 80, 40, 255]);
    assert_ne!(made.get_pixel(16, 16).0, [200, 80, 40, 255]);
}

#[test]
fn variants_come_as_fields_and_are_exported_one_by_one() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let id = server.submit(&[&QUICK[..3], &[("seeds", "[5, 3]")]].concat(), &scene);
    let job = server.succeeded(&id);
    assert_eq!(job["params"]["seeds"], json!([5, 3]));
    let outputs = job["outputs"].as_array().unwrap();
    let seeds: Vec<_> = outputs.iter().map(|file| (file["variant"].as_u64(), file["seed"].as_u64())).collect();
    assert_eq!(
        seeds,
        [[(Some(1), Some(5)); 3], [(Some(2), Some(3)); 3]]
            .concat()
            .into_iter()
            .chain([(None, None)])
            .collect::<Vec<_>>()
    );
    assert_eq!(outputs[6]["role"], "contact_sheet");
    let export = |query: &str| server.get(&format!("/v1/jobs/{id}/export.zip{query}"));
    let listed = |query: &str| {
        let mut archive = ::zip::ZipArchive::new(Cursor::new(export(query).ok(200).body)).unwrap();
        let mut text = String::new();
        archive.by_name("stack.json").unwrap().read_to_string(&mut text).unwrap();
        text
    };
    for (query, own) in [
        ("", "variant-01-layer-02.png"),
        ("?variant=1", "variant-01-layer-02.png"),
        ("?variant=2", "variant-02-layer-02.png"),
    ] {
        let text = listed(query);
        assert!(text.contains(own) && text.matches("variant-").count() == 2, "{query}: {text}");
    }
    for wrong in ["?variant=3", "?variant=0", "?variant=x", "?varient=1"] {
        assert!((400..500).contains(&export(wrong).status), "{wrong}");
    }
    let counted = server.submit(&[&QUICK[..3], &[("count", "2"), ("seed", "7")]].concat(), &scene);
    assert_eq!(server.succeeded(&counted)["params"]["count"], 2);
    let texts = [&QUICK[..3], &[("count", "65")]].concat();
    let refused = upload(&server.url("/v1/jobs"), &texts, &[("image", "x.png", &scene)]).ok(422).json();
    assert_eq!(refused["field"], "params.count", "{refused}");
}

#[test]
fn an_equal_job_is_not_computed_again() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let seeded = [&QUICK[..], &[("seed", "7")]].concat();
    let first = server.succeeded(&server.submit(&seeded, &scene));
    let second = server.succeeded(&server.submit(&[&seeded[..], &[("reuse", "true")]].concat(), &scene));
    assert_eq!((&first["reused_from"], &second["reused_from"]), (&json!(null), &first["id"]));
    assert_eq!(second["history"][0]["outcome"], "reused");
    let manifest = server.get(second["links"]["manifest"].as_str().unwrap()).ok(200).json();
    assert_eq!((&manifest["reused_from"], &manifest["job"]), (&first["id"], &second["id"]));
    let files = |job: &serde_json::Value| job["outputs"].as_array().unwrap().len();
    assert_eq!(files(&first), files(&second));

    let unseeded = [("layers", "2"), ("steps", "1"), ("reuse", "true")];
    let problem = upload(&server.url("/v1/jobs"), &unseeded, &[("image", "x", &scene)]).ok(422).json();
    assert_eq!(problem["field"], "reuse", "{problem}");
    let image = json!({"image": first["input"][0]});
    let params = json!({"decompose": {"steps": 1, "layers": 2}, "edits": []});
    let body = json!({"kind": "workflow", "input": image, "params": params, "reuse": true});
    let problem = server.post("/v1/jobs", &body).ok(422).json();
    assert!(problem["detail"].as_str().unwrap().contains("params.decompose.seed"), "{problem}");
}

#[test]
fn the_same_wish_is_one_job() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let url = server.url("/v1/jobs");
    let pixel = picture(4, 4, [1, 2, 3, 255]);
    let id = server.submit(&[("kind", "composite")], &pixel);
    let name = server.job(&id)["input"][0]["upload"].clone();
    let body = json!({"kind": "composite", "input": {"image": {"upload": name}}, "labels": {"a": "b"}});
    let keyed = |key: &str, body: &serde_json::Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        send("POST", &url, &headers, body.to_string().as_bytes())
    };
    let first = keyed("one", &body).ok(202);
    assert_eq!(first.header("location"), format!("/v1/jobs/{}", first.json()["id"].as_str().unwrap()));
    assert_eq!(keyed("one", &body).ok(200).json()["id"], first.json()["id"]);
    assert_ne!(keyed("two", &body).ok(202).json()["id"], first.json()["id"]);
    let other = json!({"kind": "composite", "input": {"image": {"upload": name}}, "labels": {"a": "c"}});
    keyed("one", &other).problem(422, "conflict");
    keyed(&"k".repeat(256), &body).problem(400, "bad_request");

    // An id chosen by the client does the same.
    let named = |labels: serde_json::Value| {
        let id = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";
        post(&url, &json!({"id": id, "kind": "composite", "input": {"image": {"upload": name}}, "labels": labels}))
    };
    named(json!({})).ok(202);
    named(json!({})).ok(200);
    named(json!({"x": "y"})).problem(409, "conflict");
    // The same picture is the same upload.
    let again = server.submit(&[("kind", "composite")], &pixel);
    assert_eq!(server.job(&again)["input"][0]["upload"], name);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_place() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let url = server.url("/v1/jobs");
    let id = server.submit(&[("kind", "composite")], &picture(4, 4, [1, 2, 3, 255]));
    server.succeeded(&id);
    let absent = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e29";
    let decompose = |input: serde_json::Value, params: serde_json::Value| {
        post(&url, &json!({"kind": "decompose", "input": {"image": input}, "params": params}))
    };
    let whole = || json!({"job": id, "file": "composite.png"});
    let masked = |kind: &str, params: serde_json::Value, mask: serde_json::Value| {
        post(&url, &json!({"kind": kind, "input": {"image": whole(), "mask": mask}, "params": params}))
    };
    let params = |mut params: serde_json::Value| {
        params["instruction"] = json!("x");
        params
    };
    for (answer, status, code, field, says) in [
        (
            decompose(json!({"job": id, "file": "composite.png"}), json!({"steps": 0})),
            422,
            "invalid_request",
            "params.steps",
            "0 is not between",
        ),
        (
            decompose(json!({"job": id, "file": "composite.png"}), json!({"stps": 1})),
            422,
            "invalid_request",
            "params.stps",
            "stps",
        ),
        (decompose(json!({"job": id, "layer": 7}), json!({})), 422, "invalid_request", "input", "has no layers"),
        (
            decompose(json!({"job": id, "file": "../../etc/passwd"}), json!({})),
            422,
            "invalid_request",
            "input",
            "composite.png",
        ),
        (decompose(json!({"job": absent, "layer": 1}), json!({})), 422, "input_not_found", "", absent),
        (decompose(json!("file:///etc/passwd"), json!({})), 403, "input_forbidden", "", "store.inputs"),
        (decompose(json!("https://example.org/x.png"), json!({})), 403, "input_forbidden", "", "store.http_inputs"),
        (decompose(json!({"upload": "../secret"}), json!({})), 422, "invalid_request", "input", "upload"),
        (decompose(json!({"job": id}), json!({})), 422, "invalid_request", "input.image", "a picture is an address"),
        (post(&url, &json!({"kind": "paint"})), 422, "invalid_request", "kind", "paint"),
        (post(&url, &json!({"kind": "decompose", "input": {}})), 422, "invalid_request", "input", "one picture"),
        (post(&url, &json!({"kind": "composite", "color": 1})), 422, "invalid_request", "color", "color"),
        (
            post(
                &url,
                &json!({"kind": "composite", "input": {"image": {"job": id, "file": "composite.png"}}, "output": {"prefix": "file:///etc/"}}),
            ),
            403,
            "input_forbidden",
            "",
            "store.outputs",
        ),
        (
            post(
                &url,
                &json!({"kind": "composite", "input": {"image": {"job": id, "file": "composite.png"}}, "webhook": "https://example.org"}),
            ),
            422,
            "invalid_request",
            "webhook",
            "http.webhook_secret",
        ),
        (
            masked("decompose", json!({}), json!({"job": id, "layer": 1})),
            422,
            "invalid_request",
            "input.mask",
            "only edits and workflows",
        ),
        (masked("edit", params(json!({})), json!({"job": absent, "layer": 1})), 422, "input_not_found", "", absent),
        (masked("edit", params(json!({})), json!("file:///etc/passwd")), 403, "input_forbidden", "", "store.inputs"),
        (
            masked("edit", params(json!({"region": [1, 2, 3, 4]})), whole()),
            422,
            "invalid_request",
            "params.region",
            "a mask",
        ),
        (
            masked("edit", params(json!({"keep_rest": "auto"})), whole()),
            422,
            "invalid_request",
            "params.keep_rest",
            "a mask",
        ),
        (masked("edit", params(json!({"feather": 513})), whole()), 422, "invalid_request", "params.feather", "513"),
        (
            masked("edit", params(json!({"region": [1, 2, 3]})), json!(null)),
            422,
            "invalid_request",
            "params.region",
            "4",
        ),
        (
            masked("edit", params(json!({"region": [1, 2, -3, 4]})), json!(null)),
            422,
            "invalid_request",
            "params.region[2]",
            "-3",
        ),
        (
            masked("edit", params(json!({"keep_rest": "all"})), json!(null)),
            422,
            "invalid_request",
            "params.keep_rest",
            "all",
        ),
        (send("POST", &url, &[("content-type", "application/json")], b"{"), 400, "bad_request", "", "JSON"),
        (
            send("POST", &url, &[("content-type", "text/plain")], b"{}"),
            415,
            "unsupported_media_type",
            "Content-Type",
            "multipart",
        ),
        (
            send("POST", &url, &[("content-type", "multipart/form-data")], b"{}"),
            400,
            "bad_request",
            "Content-Type",
            "boundary",
        ),
        (
            upload(&url, &[("layers", "two")], &[("image", "x.png", &picture(2, 2, [0; 4]))]),
            422,
            "invalid_request",
            "params.layers",
            "two",
        ),
        (
            upload(&url, &[("color", "red")], &[("image", "x.png", &picture(2, 2, [0; 4]))]),
            422,
            "invalid_request",
            "color",
            "not a field",
        ),
        (upload(&url, &[], &[("image", "x.png", b"not a picture")]), 422, "invalid_image", "image", "x.png"),
        (upload(&url, &[("layers", "3")], &[]), 422, "invalid_request", "image", "curl"),
    ] {
        let problem = answer.problem(status, code);
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{says}: {problem}");
    }
    // Refused requests created no job.
    assert_eq!(server.get("/v1/jobs").json()["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn ids_and_paths_lead_nowhere_else() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let absent = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e29";
    for path in ["/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/jobs/%00", "/v1/jobs/x", "/v1/jobs/%ff", "/v1/jobs/x/events"] {
        server.get(path).problem(400, "bad_request");
    }
    for path in [
        format!("/v1/jobs/{absent}"),
        format!("/v1/jobs/{absent}/events"),
        format!("/v1/jobs/{absent}/layers/1.png"),
        format!("/v1/jobs/{absent}/files/manifest.json"),
        format!("/v1/jobs/{absent}/export.zip"),
        "/v1/nothing".to_owned(),
        "/nothing.js".to_owned(),
        "/..%2fCargo.toml".to_owned(),
        "/v1/batches/none".to_owned(),
    ] {
        get(&server.url(&path)).problem(404, "not_found");
    }
    for what in ["cancel", "retry"] {
        server.act(absent, what).problem(404, "not_found");
    }
    send("DELETE", &server.url(&format!("/v1/jobs/{absent}")), &[], &[]).problem(404, "not_found");
    send("PUT", &server.url("/v1/jobs"), &[], b"x").problem(405, "method_not_allowed");
    let done = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    server.succeeded(&done);
    for name in ["..%2f..%2f..%2facetate.db", "%2e%2e", "other.png", ".hidden"] {
        server.get(&format!("/v1/jobs/{done}/files/{name}")).problem(404, "not_found");
        server.get(&format!("/v1/jobs/{done}/thumbnails/{name}")).problem(404, "not_found");
    }
    server.get(&format!("/v1/jobs/{done}/layers/..%2f1.png")).problem(400, "bad_request");
    server.get(&format!("/v1/jobs/{done}/layers/1.png")).problem(404, "not_found");
    server.get(&format!("/v1/jobs/{done}/export.psd")).problem(404, "not_found");
    server.get(&format!("/v1/jobs/{done}/thumbnails/composite.png?size=100000")).problem(400, "bad_request");
}

/// Nothing of what the library says about its own types reaches a client.
#[test]
fn parts_of_requests_that_cannot_be_read_are_told_in_words() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    for (path, field, wanted) in [
        ("/v1/jobs/%ff", "id", "the path is not UTF-8 there"),
        ("/v1/batches/%c3%28", "batch", "the path is not UTF-8 there"),
        ("/v1/jobs?limit=many", "limit", "limit: is not a whole number, 0 or more"),
        ("/v1/jobs?limit=-1", "limit", "limit: is not a whole number, 0 or more"),
        ("/v1/jobs?limit=", "limit", "limit: is empty; give a whole number"),
        ("/v1/jobs?limit=99999999999", "limit", "limit: is too large a number"),
        ("/v1/jobs?limit=1&limit=2", "limit", "limit: is given twice"),
        ("/v1/jobs?state=done", "state", "state: `done` is not one of `queued`, `running`"),
        ("/v1/jobs?page=2", "page", "page: is not a parameter of this path, which has `state`, `kind`"),
        ("/v1/batches?limit=x", "limit", "limit: is not a whole number"),
        ("/v1/audit?after=x", "after", "after: is not a whole number"),
    ] {
        let problem = server.get(path).problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(wanted), "{path}: {problem}");
        assert_eq!(problem["field"], field, "{path}: {problem}");
    }
    let part = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x.png\"\r\n\r\nhalf";
    for (kind, body, wanted) in [
        ("multipart/form-data", "{}", "multipart/form-data has no boundary"),
        ("multipart/form-data; boundary=b", part, "the form ends early"),
        ("multipart/form-data; boundary=b", "--b\r\nnonsense\r\n\r\n--b--", "not a form with the boundary"),
    ] {
        for path in ["/v1/jobs", "/v1/inputs"] {
            let answer = send("POST", &server.url(path), &[("content-type", kind)], body.as_bytes());
            let problem = answer.problem(400, "bad_request");
            assert!(problem["detail"].as_str().unwrap().contains(wanted), "{path} {kind} {body}: {problem}");
        }
    }
    // A picture that is none is found in its field.
    for field in ["image", "mask"] {
        let files: [(&str, &str, &[u8]); 2] = [("image", "x.png", &picture(4, 4, [9; 4])), (field, "y.png", b"<html>")];
        assert_eq!(upload(&server.url("/v1/jobs"), &[], &files).problem(422, "invalid_image")["field"], field);
    }
    let files: [(&str, &str, &[u8]); 1] = [("image", "x.png", &picture(4, 4, [9; 4]))];
    upload(&server.url("/v1/jobs"), &[("cfg_scale", "nan")], &files).problem(422, "invalid_request");
}

#[test]
fn jobs_are_found_page_by_page_and_by_words() {
    let place = TestDir::new();
    let server = Server::start_with(&place, &["--work", "false"], &[]);
    let pixel = picture(4, 4, [1, 2, 3, 255]);
    for (prompt, label, batch) in
        [("A red House", "set=one", "b1"), ("a blue boat", "set=one", "b1"), ("red sky", "set=two", "b2")]
    {
        server.submit(&[("prompt", prompt), ("label", label), ("batch", batch)], &pixel);
    }
    let found = |query: &str| {
        let page = server.get(&format!("/v1/jobs?{query}")).ok(200).json();
        let prompts =
            page["jobs"].as_array().unwrap().iter().map(|job| job["params"]["prompt"].as_str().unwrap().to_owned());
        prompts.collect::<Vec<_>>()
    };
    assert_eq!(found(""), ["red sky", "a blue boat", "A red House"]);
    assert_eq!(found("q=RED"), ["red sky", "A red House"]);
    assert_eq!(found("q=house+red"), ["A red House"]);
    assert_eq!(found("label=set%3Done&state=queued"), ["a blue boat", "A red House"]);
    assert_eq!(found("label=set%3Don"), [""; 0]);
    assert_eq!(found("batch=b2"), ["red sky"]);
    assert_eq!(found("kind=edit"), [""; 0]);
    assert_eq!(found("q=%25"), [""; 0]);
    let page = server.get("/v1/jobs?limit=2").json();
    let next = page["next"].as_str().unwrap();
    assert_eq!(found(&format!("limit=2&after={next}")), ["A red House"]);
    // The id of a job does the same, as in earlier versions.
    let id = page["jobs"][1]["id"].as_str().unwrap();
    assert_eq!(found(&format!("limit=2&after={id}")), ["A red House"]);
    // A page goes on after its last job was deleted; an id alone does not say where that was.
    server.act(id, "cancel").ok(200);
    send("DELETE", &server.url(&format!("/v1/jobs/{id}")), &[], &[]).ok(204);
    assert_eq!(found(&format!("limit=2&after={next}")), ["A red House"]);
    let gone = server.get(&format!("/v1/jobs?after={id}")).problem(422, "invalid_request");
    assert!(gone["field"] == "after" && gone["detail"].as_str().unwrap().contains("may have been deleted"), "{gone}");
    for wrong in ["limit=0", "limit=201", "state=asleep", "label=x", "after=x", "color=red", "batch=a%20b"] {
        server.get(&format!("/v1/jobs?{wrong}")).problem(400, "bad_request");
    }
    let batches = server.get("/v1/batches").ok(200).json();
    let names: Vec<_> = batches["batches"].as_array().unwrap().iter().map(|batch| batch["batch"].clone()).collect();
    assert_eq!(names, ["b2", "b1"]);
    let batch = server.get("/v1/batches/b1").ok(200).json();
    assert_eq!((&batch["total"], &batch["states"]), (&json!(1), &json!({"queued": 1})));
    let cancelled = send("POST", &server.url("/v1/batches/b1/cancel"), &[], &[]).ok(200).json();
    assert_eq!(cancelled["cancelled"], 1);
    assert_eq!(server.get("/v1/batches/b1").json()["ended"], 1);

    // Without a body, only those that failed.
    let retry = server.url("/v1/batches/b1/retry");
    assert_eq!(send("POST", &retry, &[], &[]).ok(200).json()["retried"], 0);
    assert_eq!(post(&retry, &json!({"state": ["cancelled"], "code": ["storage"]})).ok(200).json()["retried"], 0);
    assert_eq!(post(&retry, &json!({"state": ["cancelled"]})).ok(200).json()["retried"], 1);
    assert_eq!(post(&retry, &json!({"state": ["cancelled"]})).ok(200).json()["retried"], 0, "again");
    assert_eq!(server.get("/v1/batches/b1").json()["states"], json!({"queued": 1}));
    let wrong = post(&retry, &json!({"state": ["running"]})).problem(422, "invalid_request");
    assert_eq!(wrong["field"], "state", "{wrong}");
    post(&server.url("/v1/batches/none/retry"), &json!({})).problem(404, "not_found");
}

#[test]
fn a_job_is_cancelled_tried_again_and_deleted() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&LONG, &picture(64, 48, [200, 80, 40, 255]));
    server.wait(&id, |job| job["progress"]["stage"] == "denoise" && job["progress"]["step"] != 0);
    let delete = || send("DELETE", &server.url(&format!("/v1/jobs/{id}")), &[], &[]);
    delete().problem(409, "conflict");
    // There is nothing to retry yet, and nothing changes.
    assert_eq!(server.act(&id, "retry").ok(200).json()["attempts"], 1);
    assert_eq!(server.act(&id, "cancel").ok(200).json()["cancel_requested"], true);
    assert_eq!(server.ended(&id)["state"], "cancelled");
    server.act(&id, "cancel").problem(409, "conflict");
    assert_eq!(server.act(&id, "retry").ok(200).json()["state"], "queued");
    // The same request again is no second retry.
    server.act(&id, "retry").ok(200);
    server.wait(&id, |job| job["state"] == "running");
    server.act(&id, "cancel").ok(200);
    let job = server.ended(&id);
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("cancelled"), &json!("cancelled")));
    delete().ok(204);
    server.get(&format!("/v1/jobs/{id}")).problem(404, "not_found");

    let done = server.submit(&[("kind", "composite")], &picture(4, 4, [9; 4]));
    server.succeeded(&done);
    let folder = place.path("data/objects").join(&done);
    assert!(folder.exists());
    send("DELETE", &server.url(&format!("/v1/jobs/{done}")), &[], &[]).ok(204);
    assert!(!folder.exists());
}
