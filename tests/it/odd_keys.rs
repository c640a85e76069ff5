//! Keys of objects that a request cannot name exactly: they cost their own row, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use crate::common::{Workplace, png_image, strings, write_parquet};
use crate::seaweed::{Seaweed, with_s3};
use crate::storage::text;
use crate::web::WebServer;

/// Puts an object by the bytes of a request line, as no client would spell it.
fn put_raw(server: &Seaweed, path: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let length = bytes.len();
    write!(stream, "PUT /night/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}

fn manifest(workplace: &Workplace, images: &[String]) {
    let ids = strings(images.iter().enumerate().map(|(row, _)| Some(format!("row-{row:04}"))));
    let images = strings(images.iter().map(|image| Some(image.clone())));
    write_parquet(&workplace.path("manifest.parquet"), vec![("id", ids), ("image", images)], 16);
}

fn on(workplace: &Workplace, endpoint: &str, name: &str, arguments: &[&str]) -> Output {
    let mut command = workplace.command(name, arguments);
    with_s3(&mut command, endpoint).output().unwrap()
}

fn workplace() -> Workplace {
    let workplace = Workplace::with_images(1, 100);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    workplace.job(&job.replace("[runtime]", "[limits]\nmin_failed_rows = 100\nretries = 0\n[runtime]"));
    workplace
}

#[test]
fn keys_that_no_request_names_are_failed_rows_and_hide_no_change() {
    let server = Seaweed::start_open();
    let read =
        ["a.png", "p%25.png", "h%23.png", "q%3F.png", "s%20.png", "u%EF%BF%BD.png", "amp%26%3C.png", "%20end%20"];
    let odd = ["tab%09.png", "line%0A.png", "return%0D.png", "one%01.png", "folder.png/"];
    for (seed, path) in read.iter().chain(&odd).enumerate() {
        put_raw(&server, &format!("odd/{path}"), &png_image(seed as u32));
    }
    let decode = |path: &str| {
        let mut bytes = Vec::new();
        let mut rest = path.bytes();
        while let Some(byte) = rest.next() {
            let digits = if byte == b'%' { Some([rest.next().unwrap(), rest.next().unwrap()]) } else { None };
            bytes.push(
                digits.map_or(byte, |digits| u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()),
            );
        }
        String::from_utf8(bytes).unwrap()
    };
    let mut images: Vec<String> =
        read.iter().chain(&odd).map(|path| format!("s3://night/odd/{}", decode(path))).collect();
    images.extend(
        ["/odd/a.png", "odd//a.png", "odd/./a.png", "odd/x/../a.png", "odd/a.png/"]
            .map(|key| format!("s3://night/{key}")),
    );
    let workplace = workplace();
    manifest(&workplace, &images);
    let run = on(&workplace, &server.endpoint(), "run", &[]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let rows = workplace.rows("out", None);
    for (row, kind) in rows.text("error_kind").iter().enumerate() {
        let expected = (row >= read.len()).then_some("invalid_uri");
        assert_eq!(kind.as_deref(), expected, "{:?}: {:?}", images[row], rows.text("error_message")[row]);
    }
    let messages = rows.text("error_message");
    assert!(
        messages[read.len() + odd.len()].as_ref().unwrap().contains("s3://night//odd/a.png: expected"),
        "{messages:?}"
    );
    // One picture changes.
    put_raw(&server, "odd/a.png", &png_image(77));
    let run = on(&workplace, &server.endpoint(), "run", &[]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let newest = workplace.published("out").pop().unwrap();
    assert_eq!(workplace.rows("out", Some(&newest)).text("id"), [Some("row-0000".to_owned())], "{}", text(&run.stderr));
    server.kill();
}

/// A bucket whose listing is refused, while its objects are read.
#[test]
fn what_may_be_read_and_not_listed_is_new_every_night() {
    let (server, workplace) = (WebServer::start(), workplace());
    let listing = |key: &str| {
        format!(
            "<ListBucketResult><Contents><Key>{key}</Key><ETag>\"1\"</ETag><Size>9</Size><LastModified>2026-11-28T03:03:05Z</LastModified></Contents></ListBucketResult>"
        )
    };
    server.answer("/open", 200, &[], listing("1.png").as_bytes());
    server.answer("/closed", 403, &[], b"");
    let date = [("ETag", "\"1\""), ("Last-Modified", "Sat, 28 Nov 2026 03:03:05 GMT")];
    server.answer("/open/1.png", 200, &date, &png_image(1));
    server.answer("/closed/2.png", 200, &date, &png_image(2));
    manifest(&workplace, &["s3://open/1.png".to_owned(), "s3://closed/2.png".to_owned()]);
    for expected in [vec!["row-0000", "row-0001"], vec!["row-0001"], vec!["row-0001"]] {
        let run = on(&workplace, &server.origin(), "run", &[]);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        let newest = workplace.published("out").pop().unwrap();
        let rows = workplace.rows("out", Some(&newest));
        assert_eq!(rows.text("id"), expected.iter().map(|id| Some((*id).to_owned())).collect::<Vec<_>>());
        assert!(
            rows.text("status").iter().all(|status| status.as_deref() == Some("ok")),
            "{:?}",
            rows.text("error_message")
        );
        assert!(text(&run.stderr).contains("count as new"), "{}", text(&run.stderr));
    }
}
