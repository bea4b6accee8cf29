//! Event streams.

use crate::{
    common::TestDir,
    http::client::Events,
    http::server::{LONG, QUICK, Server, picture},
};

#[test]
fn a_watcher_sees_all_of_a_job_and_then_the_end() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let scene = picture(64, 48, [200, 80, 40, 255]);
    let id = server.submit(&[("prompt", "a house"), ("layers", "2"), ("steps", "40")], &scene);
    let path = format!("/v1/jobs/{id}/events");
    let mut stream = Events::open(&server.address, &path, &[]);
    assert_eq!(stream.status, 200);
    let seen = stream.rest();
    assert!(seen.windows(2).all(|pair| pair[0].id < pair[1].id), "{seen:?}");
    let states: Vec<_> = seen
        .iter()
        .filter(|event| event.name == "state")
        .map(|event| event.data["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states.last().unwrap(), "succeeded");
    assert!(states.windows(2).all(|pair| pair[0] != pair[1]), "{states:?}");
    let last = seen.last().unwrap();
    assert_eq!(last.data["outputs"].as_array().unwrap().len(), 3);
    // As if the job was requested, with its attempts.
    assert_eq!(last.data["history"].as_array().unwrap().len(), 1, "{last:?}");
    assert_eq!(last.data["history"][0]["outcome"], "succeeded");
    let sequences: Vec<_> = seen.iter().filter_map(|event| event.data["progress"]["sequence"].as_u64()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");

    // A client that knows the final state is told not to reconnect; any other client gets it once.
    let end = last.id.to_string();
    assert_eq!(Events::open(&server.address, &path, &[("Last-Event-ID", &end)]).status, 204);
    let mut late = Events::open(&server.address, &path, &[("Last-Event-ID", "1")]);
    let late = late.rest();
    assert_eq!((late.len(), &late[0].data["state"]), (1, &"succeeded".into()));
    let mut odd = Events::open(&server.address, &path, &[("Last-Event-ID", "nonsense")]);
    assert_eq!(odd.rest().len(), 1);
}

#[test]
fn a_watcher_that_comes_back_goes_on_from_where_it_was() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&LONG, &picture(64, 48, [200, 80, 40, 255]));
    let path = format!("/v1/jobs/{id}/events");
    let mut first = Events::open(&server.address, &path, &[]);
    let known = std::iter::from_fn(|| first.next()).find(|event| event.data["progress"]["step"].as_u64() > Some(0));
    let known = known.unwrap();
    drop(first);
    let mut second = Events::open(&server.address, &path, &[("Last-Event-ID", &known.id.to_string())]);
    let next = second.next().unwrap();
    assert!(next.id > known.id);
    let sequence = |event: &crate::http::client::Event| event.data["progress"]["sequence"].as_u64().unwrap();
    assert!(sequence(&next) >= sequence(&known), "{known:?} {next:?}");
    server.act(&id, "cancel").ok(200);
    let rest = second.rest();
    assert_eq!(rest.last().unwrap().data["state"], "cancelled");
    assert!(rest.iter().any(|event| event.name == "state" && event.data["cancel_requested"] == true), "{rest:?}");
}

#[test]
fn many_watch_one_job_and_a_deleted_one_ends() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&QUICK, &picture(64, 48, [200, 80, 40, 255]));
    let path = format!("/v1/jobs/{id}/events");
    let watchers: Vec<_> = (0..50)
        .map(|_| {
            let (address, path) = (server.address.clone(), path.clone());
            std::thread::spawn(move || Events::open(&address, &path, &[]).rest())
        })
        .collect();
    for watcher in watchers {
        assert_eq!(watcher.join().unwrap().last().unwrap().data["state"], "succeeded");
    }
}

#[test]
fn streams_end_when_the_server_stops() {
    let place = TestDir::new();
    let server = Server::start_with(&place, &["--work", "false"], &[]);
    let id = server.submit(&QUICK, &picture(4, 4, [9; 4]));
    let mut stream = Events::open(&server.address, &format!("/v1/jobs/{id}/events"), &[]);
    assert_eq!(stream.next().unwrap().data["state"], "queued");
    server.stop();
    assert!(stream.next().is_none());
}
