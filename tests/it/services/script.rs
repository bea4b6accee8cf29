//! `scripts/services`: a management API is taken only where it is that of the broker.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    path::Path,
    process::Command,
    thread,
};

use crate::{
    common::{Ran, ran},
    services::{database::support::postgres_url, rabbit::Broker},
};

/// Says this to everybody who asks for something; gives its address. Requests may come in pieces, and one that is still
/// unread when the connection closes would take the answer with it.
fn saying(what: impl Into<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, what) = (listener.local_addr().unwrap().to_string(), what.into());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                stream.write_all(&what).ok();
                stream.shutdown(Shutdown::Write).ok();
                stream.read_to_end(&mut Vec::new()).ok();
            }
        }
    });
    address
}

/// The first frame of a broker: Connection.Start.
fn start(cluster: &str) -> Vec<u8> {
    let long = |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat();
    let entry = |name: &str, value: &str| {
        [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), b"S", &long(value.as_bytes())].concat()
    };
    let properties = [entry("product", "RabbitMQ"), entry("cluster_name", cluster), entry("version", "4.1.0")].concat();
    let method = [&[0, 10, 0, 10, 0, 9][..], &long(&properties), &long(b"PLAIN"), &long(b"en_US")].concat();
    [&[1, 0, 0][..], &long(&method), &[0xce]].concat()
}

fn overview(cluster: &str) -> String {
    let body = format!("{{\"product_name\":\"RabbitMQ\",\"cluster_name\":\"{cluster}\",\"node\":\"{cluster}\"}}");
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn check(amqp: &str, api: &str) -> Ran {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/services"));
    command
        .arg("--check")
        .env("ACETATE_TEST_POSTGRES_URL", postgres_url())
        .env("ACETATE_TEST_AMQP_URL", amqp)
        .env("ACETATE_TEST_RABBITMQ_API", api);
    ran(command.output().unwrap())
}

#[track_caller]
fn refused(amqp: &str, api: &str, says: &str) {
    let Ran { code, stdout, stderr } = check(amqp, api);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains(says) && stderr.contains("ACETATE_TEST_RABBITMQ_API names another one"), "{stderr}");
}

#[test]
fn the_management_api_of_the_broker_is_taken() {
    let Broker { amqp, api } = Broker::shared();
    let Ran { code, stdout, stderr } = check(&amqp, &api);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let wanted = [format!("ACETATE_TEST_AMQP_URL={amqp}"), format!("ACETATE_TEST_RABBITMQ_API={api}")];
    assert!(wanted.iter().all(|line| stdout.lines().any(|said| said == line)), "{stdout}");

    let (amqp, api) = (saying(start("rabbit@elsewhere")), saying(overview("rabbit@elsewhere")));
    let elsewhere = check(&format!("amqp://guest:guest@{amqp}/x"), &format!("http://guest:guest@{api}"));
    assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
}

#[test]
fn the_management_api_of_another_broker_is_not_taken() {
    let Broker { amqp, api } = Broker::shared();
    let other = saying(overview("rabbit@elsewhere"));
    let says = format!("the management API at {other} belongs to another broker: its cluster is rabbit@elsewhere, ");
    refused(&amqp, &format!("http://guest:guest@{other}"), &says);

    let other = saying(start("rabbit@elsewhere"));
    let says = format!("that of the broker at {other} is rabbit@elsewhere");
    refused(&format!("amqp://guest:guest@{other}"), &api, &says);
}

#[test]
fn what_is_not_rabbitmq_is_named() {
    let Broker { amqp, api } = Broker::shared();
    let page = saying("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let says = format!("what answers at {page} is not RabbitMQ's management API: HTTP/1.1 404 Not Found");
    refused(&amqp, &format!("http://guest:guest@{page}"), &says);
    refused(&format!("amqp://guest:guest@{page}"), &api, &format!("what answers at {page} is not RabbitMQ"));

    let locked = saying("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
    let says = format!("RabbitMQ's management API at {locked} refuses the user or the password");
    refused(&amqp, &format!("http://guest:guest@{locked}"), &says);
}
