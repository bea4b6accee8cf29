//! S3: errors, stalls, half bodies, a PUT whose reply is lost; and a disk that is full.

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
    cases.push(case("S3 answers 503 to every write, until a job is tried again", until_tried_again(busy)));
    if is_root() {
        cases.push(case("the disk of the results is full", full_disk()));
    } else {
        skipped("fault matrix, full disk", "only root can mount a small disk");
    }
    cases
}

/// Two jobs share so many answers that one of them has used up what a single write is given.
async fn until_tried_again(fault: Make) -> Tally {
    let tally = broken("PUT", fault, 8).await;
    assert!(tally.attempts > 2, "no job was tried again: {tally:?}");
    tally
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
