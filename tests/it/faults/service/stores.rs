//! S3: errors, stalls, truncated bodies, a PUT whose reply is lost; and a full disk.

use std::{fs, process::Command};

use super::{
    killed::composite,
    ledger::{Case, Tally, Witness, case},
};
use crate::{
    common::{is_root, skipped},
    services::proxy::{Fault, Proxy},
    services::world::World,
};

type Make = fn() -> Fault;

pub fn cases() -> Vec<Case> {
    let busy: Make = || Fault::Answer("503 Slow Down", "<Error><Code>SlowDown</Code></Error>");
    let faults: [(&str, &'static str, Make); 4] = [
        ("S3 answers 503 to reads", "GET", busy),
        ("S3 stalls in the middle of a picture", "GET", || Fault::StallHalf),
        ("S3 cuts a picture at half", "GET", || Fault::CutHalf),
        ("S3 stores a picture, and the reply is lost", "PUT", || Fault::LostReply),
    ];
    let mut cases: Vec<Case> =
        faults.into_iter().map(|(name, method, fault)| case(name, broken(method, fault, 6))).collect();
    cases.push(case("S3 answers 503 to every write for a while", waited_for("PUT", busy)));
    let expired: Make = || Fault::Answer("403 Forbidden", "<Error><Code>ExpiredToken</Code></Error>");
    cases.push(case("the credentials of S3 have expired for a while", waited_for("PUT", expired)));
    cases.push(case("S3 stays away longer than a worker waits", given_up(busy)));
    if is_root() {
        cases.push(case("the disk of the results is full", full_disk()));
    } else {
        skipped("fault matrix, full disk", "only root can mount a small disk");
    }
    cases
}

/// So many error responses that a single write fails several times. The worker waits for its own store: no attempt is
/// counted.
async fn waited_for(method: &'static str, fault: Make) -> Tally {
    let tally = broken(method, fault, 16).await;
    assert_eq!(tally.attempts, 2, "an outage of the store costs no attempt: {tally:?}");
    tally
}

/// A worker that waits no longer uses up the attempts; `jobs retry --code` finds the job by the cause.
async fn given_up(fault: Make) -> Tally {
    let mut world = World::service().await;
    let witness = Witness::of(&world).await;
    let proxy = Proxy::before(world.service.as_ref().unwrap().s3.address).await;
    world.set("ACETATE__STORE__ENDPOINT", &proxy.endpoint());
    world.set("ACETATE__STORE__OPERATION_TIMEOUT_SECONDS", "3");
    world.set("ACETATE__WORKER__DATABASE_RETRY_SECONDS", "1");
    world.set("ACETATE__WORKER__MAX_ATTEMPTS", "2");
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    for _ in 0..200 {
        proxy.next("PUT", fault());
    }
    let (input, output) = (world.input("red.png", [255, 0, 0, 255]), world.output("gone"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output, "--batch", "gone"]).await;
    let job = world.until(&id, &["failed"]).await;
    let error = &job["error"];
    assert_eq!((&error["code"], &error["cause"]), (&"attempts_exhausted".into(), &"storage".into()), "{job:#}");
    let address = format!("{}/readyz", worker.http().await);
    let readyz = async || {
        let address = address.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
            agent.get(&address).call().unwrap().body_mut().read_to_string().unwrap()
        });
        serde_json::from_str::<serde_json::Value>(&asked.await.unwrap()).unwrap()
    };
    let answer = readyz().await;
    assert!(answer["ready"] == false && answer["checks"]["store"] != "ok", "{answer:#}");
    proxy.forget();
    let answer = readyz().await;
    assert!(answer["ready"] == true && answer["checks"]["store"] == "ok", "{answer:#}");
    let found = world.run(&["jobs", "retry", "--batch", "gone", "--code", "storage"]).await;
    assert!(found.stdout.starts_with("1 job queued again"), "{found:?}");
    let job = world.until(&id, &["succeeded", "failed"]).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    drop(worker);
    drop(witness);
    Tally { jobs: 1, succeeded: 1, attempts: job["attempts"].as_u64().unwrap(), ..Tally::default() }
}

async fn broken(method: &'static str, fault: Make, times: usize) -> Tally {
    let mut world = World::service().await;
    let witness = Witness::of(&world).await;
    let proxy = Proxy::before(world.service.as_ref().unwrap().s3.address).await;
    world.set("ACETATE__STORE__ENDPOINT", &proxy.endpoint());
    world.set("ACETATE__STORE__READ_TIMEOUT_SECONDS", "1");
    world.set("ACETATE__STORE__OPERATION_TIMEOUT_SECONDS", "6");
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    for _ in 0..times {
        proxy.next(method, fault());
    }
    let ids = [composite(&world, "one").await, composite(&world, "two").await];
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, proxy.is_spent()), (2, true), "{tally:?}");
    tally
}

async fn full_disk() -> Tally {
    let mut world = World::service().await;
    let witness = Witness::of(&world).await;
    let disk = world.place.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).status().unwrap();
        assert!(mounted.success());
    };
    mount("size=64k");
    let output = format!("file://{}/results/", disk.display());
    world.set("ACETATE__STORE__OUTPUTS", &format!("file://{}", disk.display()));
    let input = world.bytes("noise.png", &noise());
    let worker = world.worker();
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    worker.until_said("disk_full").await;
    mount("remount,size=16m");
    let job = world.until(&id, &["succeeded", "failed"]).await;
    let unmounted = || Command::new("umount").arg("-l").arg(&disk).status().unwrap().success();
    if job["state"] != "succeeded" {
        unmounted();
        panic!("{job:#}");
    }
    drop(worker);
    let tally = Tally { jobs: 1, succeeded: 1, attempts: job["attempts"].as_u64().unwrap(), ..Tally::default() };
    drop(witness);
    assert!(unmounted());
    tally
}

/// A picture that does not compress.
fn noise() -> Vec<u8> {
    let mut state = 7_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let picture = image::RgbaImage::from_fn(256, 256, |_, _| image::Rgba([random(), random(), random(), 255]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
