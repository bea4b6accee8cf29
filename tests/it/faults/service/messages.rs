//! Messages that are no jobs, between messages that are.

use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::json;

use super::ledger::{Case, Tally, Witness, case};
use crate::services::world::World;

pub fn cases() -> Vec<Case> {
    vec![case("bad JSON, 10 MB and an unknown version between good messages", bad_between_good())]
}

async fn bad_between_good() -> Tally {
    let world = World::service().await;
    let witness = Witness::of(&world).await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    let (connection, channel) = vhost.foreign().await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let message = |version: u32, id: &str, name: &str| {
        let output = json!({ "prefix": world.output(name) });
        json!({ "version": version, "id": id, "kind": "composite", "input": { "image": input }, "output": output })
            .to_string()
    };
    let [first, unknown, last] = [(); 3].map(|()| acetate::job::JobId::new().to_string());
    let bodies = [
        message(1, &first, "first"),
        "{\"version\": 1, ".to_owned(),
        format!("\"{}\"", "x".repeat(10 << 20)),
        message(7, &unknown, "unknown"),
        message(1, &last, "last"),
    ];
    for body in bodies {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        channel
            .basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties)
            .await
            .unwrap();
    }
    vhost.until_left("acetate.dead-letters", 3).await;
    let ids = [first, unknown, last];
    // A row comes with the first look at its message; one that is refused gets none.
    for id in [&ids[0], &ids[2]] {
        world.once(id, |_| true).await;
    }
    let tally = witness.judge(&world, &ids).await;
    assert_eq!((tally.succeeded, tally.failed), (2, 1), "{tally:?}");
    assert_eq!(world.show(&ids[1]).await["error"]["code"], "invalid_request");
    connection.close(0, "".into()).await.unwrap();
    tally
}
