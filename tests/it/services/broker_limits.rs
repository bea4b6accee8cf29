//! Limits that an operator set in RabbitMQ: of queues, connections and channels.

use std::time::Duration;

use acetate::{
    job::{ErrorClass, JobError, JobKind},
    queue::{Queue, RabbitQueue},
};
use serde_json::json;

use crate::{
    common,
    services::rabbit::{Broker, Vhost, dispatch, options},
};

const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

fn vhosts() -> Vec<Vhost> {
    if Broker::newest().is_none() {
        common::skipped("limits of the newest RabbitMQ", "scripts/services could not start it");
    }
    [Some(Broker::shared()), Broker::newest()].iter().flatten().map(Vhost::on).collect()
}

fn says(error: &JobError, class: ErrorClass, wanted: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.class(), class, "{text}");
    for words in wanted {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[tokio::test]
async fn a_limit_of_queues_is_not_taken_for_other_arguments() {
    for vhost in vhosts() {
        vhost.put(&format!("/vhost-limits/{}/max-queues", vhost.name), &json!({ "value": 2 }));
        let error = vhost.rabbit().ready(LONG).await.unwrap_err();
        says(&error, ErrorClass::Invalid, &["acetate.edit", "(2) is reached", "set_vhost_limits", "max-queues"]);
        assert!(!error.to_string().contains("delete it"), "{error}");
        // Other arguments are still told apart.
        let other = Vhost::on(&Broker::shared());
        let classic = json!({ "durable": true, "arguments": { "x-queue-type": "classic" } });
        other.put(&format!("/queues/{}/acetate.edit", other.name), &classic);
        let error = other.rabbit().ready(LONG).await.unwrap_err();
        says(&error, ErrorClass::Invalid, &["acetate.edit", "inequivalent arg", "delete it"]);
        // An exchange is never empty.
        other.delete(&format!("/queues/{}/acetate.edit", other.name));
        other.delete(&format!("/exchanges/{}/acetate.events", other.name));
        other.put(&format!("/exchanges/{}/acetate.events", other.name), &json!({ "type": "fanout", "durable": true }));
        let error = other.rabbit().ready(LONG).await.unwrap_err();
        says(&error, ErrorClass::Invalid, &["acetate.events", "delete exchange --name acetate.events"]);
        assert!(!error.to_string().contains("run empty"), "{error}");
    }
}

#[tokio::test]
async fn a_limit_of_connections_is_waited_for() {
    for vhost in vhosts() {
        vhost.ready().await.close().await;
        vhost.put(&format!("/vhost-limits/{}/max-connections", vhost.name), &json!({ "value": 0 }));
        let queue = vhost.rabbit();
        let error = queue.ready(SOON).await.unwrap_err();
        says(
            &error,
            ErrorClass::Transient,
            &["connection limit (0) is reached", "set_vhost_limits", "max-connections"],
        );
        // Somebody raises it.
        let waits = tokio::spawn(async move { queue.ready(LONG).await });
        tokio::time::sleep(SOON).await;
        vhost.delete(&format!("/vhost-limits/{}/max-connections", vhost.name));
        waits.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_limits_of_a_user_are_waited_for() {
    for vhost in vhosts() {
        vhost.ready().await.close().await;
        let user = vhost.user(".*", ".*", ".*");
        let name = user.url.split("://").nth(1).unwrap().split(':').next().unwrap().to_owned();
        let limit = |what: &str, most: i64| {
            vhost.put(&format!("/user-limits/{name}/{what}"), &json!({ "value": most }));
        };
        let queue = || Queue::Rabbit(RabbitQueue::new(&user.url, options()).unwrap());
        limit("max-connections", 0);
        let error = queue().ready(SOON).await.unwrap_err();
        says(&error, ErrorClass::Transient, &["user connection limit (0)", "set_user_limits", "max-connections"]);
        limit("max-connections", 10);

        let held = queue();
        held.ready(LONG).await.unwrap();
        limit("max-channels", 1);
        let error = held.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap_err();
        says(&error, ErrorClass::Transient, &["maximum allowed user limit of", "set_user_limits", "max-channels"]);
        limit("max-channels", 100);
        held.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
        held.close().await;
    }
}
