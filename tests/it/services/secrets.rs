//! The service with all of its secrets in files.

use std::fs;

use crate::services::{
    s3_server::{ACCESS_KEY, SECRET_KEY},
    world::World,
};

fn file(world: &World, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = world.place.path(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_runs_with_all_secrets_in_files() {
    let mut world = World::service().await;
    let (vhost, schema) = {
        let service = world.service.as_ref().unwrap();
        (service.vhost.url(), service.schema.url.clone())
    };
    // The password of RabbitMQ has a file of its own.
    let (scheme, rest) = vhost.split_once("://").unwrap();
    let (login, host) = rest.split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    for (setting, name, text) in
        [("QUEUE__URL", "queue", format!("{scheme}://{user}@{host}")), ("STATUS__URL", "status", schema.clone())]
    {
        let path = file(&world, name, &text);
        world.set(&format!("ACETATE__{setting}"), "");
        world.set(&format!("ACETATE__{setting}_FILE"), &path);
    }
    let path = file(&world, "password", password);
    world.set("ACETATE__QUEUE__PASSWORD_FILE", &path);
    for (setting, value) in [("ACCESS_KEY_ID", ACCESS_KEY), ("SECRET_ACCESS_KEY", SECRET_KEY)] {
        let path = file(&world, setting, value);
        world.set(&format!("AWS_{setting}"), "wrong");
        world.set(&format!("ACETATE__STORE__{setting}_FILE"), &path);
    }
    // Doctor makes neither tables nor queues.
    world.run(&["migrate"]).await;
    world.service.as_ref().unwrap().vhost.ready().await.close().await;
    let doctor = world.run(&["doctor"]).await;
    for part in ["results     ok", "database    ok", "queue       ok"] {
        assert!(doctor.stdout.contains(part), "{doctor:?}");
    }
    let shown = world.run(&["config", "show"]).await;
    assert!(shown.stdout.contains("(ACETATE__STATUS__URL_FILE)") && !shown.stdout.contains(&schema), "{shown:?}");
    assert_eq!(shown.stderr.matches("every user of this machine can read").count(), 5, "{shown:?}");
    let _worker = world.worker();
    let input = world.input("a.png", [1, 2, 3, 255]);
    let id = world.submit(&["composite", "--input", &input, "--output", &world.output("x")]).await;
    assert_eq!(world.until(&id, &["succeeded", "failed"]).await["state"], "succeeded");
}
