//! How responses travel: compressed, and in parts.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::{
    common::TestDir,
    http::{
        client::send,
        server::{Server, picture},
    },
};

#[test]
fn texts_are_compressed_for_those_who_ask() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let whole = server.get("/openapi.json").ok(200);
    assert_eq!(whole.header("content-encoding"), "");
    let small = send("GET", &server.url("/openapi.json"), &[("accept-encoding", "gzip")], &[]).ok(200);
    assert_eq!(small.header("content-encoding"), "gzip");
    assert!(small.headers.get_all("vary").iter().any(|value| value == "accept-encoding"), "{:?}", small.headers);
    assert!(small.body.len() < whole.body.len() / 4, "{} of {}", small.body.len(), whole.body.len());
    let mut text = Vec::new();
    GzDecoder::new(&small.body[..]).read_to_end(&mut text).unwrap();
    assert_eq!(text, whole.body);

    // The page's tag is weak when it is compressed, and still known.
    let page = send("GET", &server.url("/"), &[("accept-encoding", "gzip")], &[]).ok(200);
    let tag = page.header("etag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let again = send("GET", &server.url("/"), &[("accept-encoding", "gzip"), ("if-none-match", &tag)], &[]);
    assert_eq!(again.status, 304);

    let id = server.submit(&[("kind", "composite")], &picture(64, 64, [9; 4]));
    server.succeeded(&id);
    let url = server.url(&format!("/v1/jobs/{id}/files/composite.png"));
    let png = send("GET", &url, &[("accept-encoding", "gzip")], &[]).ok(200);
    assert_eq!(png.header("content-encoding"), "", "pictures do not get smaller");
}

#[test]
fn a_download_goes_on_where_it_broke() {
    let place = TestDir::new();
    let server = Server::start(&place, &[]);
    let id = server
        .submit(&[("kind", "decompose"), ("layers", "2"), ("steps", "1"), ("prompt", "x")], &picture(64, 64, [9; 4]));
    server.succeeded(&id);
    let exports = ["export.zip", "export.ora", "export.psd", "export.pptx", "export.webp", "export.jpg"];
    for path in ["files/manifest.json", "files/layer-00.png", "layers/1.png"].into_iter().chain(exports) {
        let url = server.url(&format!("/v1/jobs/{id}/{path}"));
        let whole = send("GET", &url, &[], &[]).ok(200);
        let (tag, length) = (whole.header("etag").to_owned(), whole.body.len());
        assert_eq!(whole.header("accept-ranges"), "bytes", "{path}");
        if path.starts_with("export") {
            let zipped = send("GET", &url, &[("accept-encoding", "gzip")], &[]).ok(200);
            assert_eq!((zipped.header("content-encoding"), zipped.header("etag")), ("", tag.as_str()), "{path}");
        }
        let first = send("GET", &url, &[("range", "bytes=0-99")], &[]).ok(206);
        assert_eq!(first.header("content-range"), format!("bytes 0-99/{length}"), "{path}");
        let rest = send("GET", &url, &[("range", "bytes=100-"), ("if-range", &tag)], &[]).ok(206);
        assert_eq!([first.body, rest.body].concat(), whole.body, "{path}");
        let last = send("GET", &url, &[("range", "bytes=-5"), ("accept-encoding", "gzip")], &[]).ok(206);
        assert_eq!((&last.body[..], last.header("content-encoding")), (&whole.body[length - 5..], ""), "{path}");
        // Of another version: all of it.
        assert_eq!(send("GET", &url, &[("range", "bytes=100-"), ("if-range", "\"other\"")], &[]).status, 200, "{path}");
        let outside = send("GET", &url, &[("range", &format!("bytes={length}-"))], &[]);
        outside.problem(416, "range_not_satisfiable");
        assert_eq!(outside.header("content-range"), format!("bytes */{length}"), "{path}");
        assert_eq!(send("GET", &url, &[("range", "bytes=0-99"), ("if-none-match", &tag)], &[]).status, 304, "{path}");
        for same in ["*", &tag, &format!("\"other\", {tag}")] {
            send("GET", &url, &[("range", "bytes=0-99"), ("if-match", same)], &[]).ok(206);
        }
        for other in ["\"other\"", &format!("W/{tag}")] {
            let refused = send("GET", &url, &[("range", "bytes=0-99"), ("if-match", other)], &[]);
            refused.problem(412, "precondition_failed");
        }
    }
}
