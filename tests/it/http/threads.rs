//! Who takes the processor from whom.

use std::{fs, path::Path};

use crate::{
    common::TestDir,
    http::server::{Server, picture},
};

/// As `/proc` has them.
const NORMAL: &str = "0";
const BATCH: &str = "3";

#[test]
fn threads_that_serve_wait_for_those_that_compute() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server.submit(&[("steps", "200"), ("layers", "2")], &picture(64, 48, [200, 80, 40, 255]));
    server.wait(&id, |job| job["progress"]["stage"] == "denoise");
    let mut seen = [0, 0];
    for thread in fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap() {
        // One that has just ended has no files any more.
        let Some((name, policy)) = name_and_policy(&thread.unwrap().path()) else { continue };
        match name.as_str() {
            "engine" => seen[0] += 1,
            "tokio-rt-worker" => seen[1] += 1,
            _ => continue,
        }
        assert_eq!(policy, if name == "engine" { NORMAL } else { BATCH }, "{name}");
    }
    assert!(seen[0] >= 1 && seen[1] >= 2, "{seen:?}");
}

fn name_and_policy(thread: &Path) -> Option<(String, String)> {
    let name = fs::read_to_string(thread.join("comm")).ok()?;
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    // After the name in brackets comes the third field; the policy is the 41st.
    let policy = stat.rsplit_once(") ")?.1.split(' ').nth(41 - 3)?;
    Some((name.trim().to_owned(), policy.to_owned()))
}
