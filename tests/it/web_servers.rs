//! What web servers really send: what `urllib` reads is read; what is cut off or not understood is a row that says so.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::common::{Workplace, png_image, strings, write_parquet};
use crate::storage::text;

/// A server that answers a path with bytes, as they are, and closes the connection.
#[derive(Clone, Default)]
struct RawServer {
    answers: Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>,
    seen: Arc<Mutex<Vec<String>>>,
    pause: Duration,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl RawServer {
    fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = self.clone();
                std::thread::spawn(move || drop(server.serve(client)));
            }
        });
        origin
    }

    /// Answers `path` with each of `answers` in turn, and on with the last one. A key may begin with the method.
    fn on(&self, path: &str, answers: &[Vec<u8>]) {
        self.answers.lock().unwrap().insert(path.to_owned(), answers.to_vec());
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut request = String::new();
        let mut reader = BufReader::new(client.try_clone()?);
        while !request.ends_with("\r\n\r\n") {
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (method, target) = (request.split(' ').next().unwrap(), request.split(' ').nth(1).unwrap().to_owned());
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            let key = [format!("{method} {target}"), target].into_iter().find(|key| answers.contains_key(key));
            let left = key.and_then(|key| answers.get_mut(&key));
            left.map(|left| if left.len() > 1 { left.remove(0) } else { left[0].clone() })
        };
        self.seen.lock().unwrap().push(request.clone());
        std::thread::sleep(self.pause);
        let answer = answer.unwrap_or_else(|| b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n".to_vec());
        // Before the last byte: a client that has all of it may ask anew.
        let (most, last) = answer.split_at(answer.len() - 1);
        client.write_all(most)?;
        self.now.fetch_sub(1, Ordering::SeqCst);
        client.write_all(last)
    }
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("{}\r\n\r\n", head.replace('\n', "\r\n").replace("LENGTH", &body.len().to_string())).into_bytes();
    answer.extend(body);
    answer
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(100) {
        write!(chunks, "{:x}\r\n", chunk.len()).unwrap();
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    chunks
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn workplace_on(origin: &str, paths: &[&str]) -> Workplace {
    let workplace = Workplace::with_images(1, 100);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap().replace("text = \"title\"\n", "");
    let limits = "[limits]\nmin_failed_rows = 1000\nallow_private_hosts = \"127.0.0.1\"\n[runtime]";
    workplace.job(&job.replace("[runtime]", limits));
    let columns = vec![
        ("id", strings(paths.iter().map(|path| Some(path.trim_start_matches('/').to_owned())))),
        ("image", strings(paths.iter().map(|path| Some(format!("{origin}{path}"))))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    workplace
}

#[test]
fn what_urllib_reads_is_read() {
    let image = png_image(5);
    let size = image.len();
    let zlib = {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&image).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&image).unwrap();
        encoder.finish().unwrap()
    };
    let ok = "HTTP/1.1 200 OK\nConnection: close\nContent-Length: LENGTH\n";
    let answers = [
        ("/plain", answer(&ok[..ok.len() - 1], &image)),
        ("/chunked", answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", &chunked(&image))),
        ("/until-closed", answer("HTTP/1.1 200 OK\nConnection: close", &image)),
        ("/http-1.0", answer("HTTP/1.0 200 OK\nServer: old", &image)),
        ("/no-date", answer(&format!("{ok}Last-Modified: yesterday, about noon"), &image)),
        ("/date-of-1994", answer(&format!("{ok}Last-Modified: Sunday, 06-Nov-94 08:49:37 GMT\nETag: W/\"x\""), &image)),
        (
            "/odd-tag",
            answer(&format!("{ok}ETag: not quoted\nContent-Disposition: inline; filename=\u{e9}.png"), &image),
        ),
        ("/203", answer("HTTP/1.1 203 Other\nConnection: close\nContent-Length: LENGTH", &image)),
        ("/gzip", answer(&format!("{ok}Content-Encoding: gzip"), &gzip(&image))),
        (
            "/gzip-chunked",
            answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Encoding: X-GZip", &chunked(&gzip(&image))),
        ),
        ("/gzip-twice", answer(&format!("{ok}Content-Encoding: gzip, gzip"), &gzip(&gzip(&image)))),
        ("/zlib", answer(&format!("{ok}Content-Encoding: deflate"), &zlib)),
        ("/raw-deflate", answer(&format!("{ok}Content-Encoding: deflate"), &deflate)),
        ("/no-gzip", answer(&format!("{ok}Content-Encoding: gzip"), &image)),
        ("/no-deflate", answer(&format!("{ok}Content-Encoding: deflate"), &image)),
        ("/no-coding", answer(&format!("{ok}Content-Encoding: none"), &image)),
        (
            "/206-of-all",
            answer(
                &format!(
                    "HTTP/1.1 206 Part\nConnection: close\nContent-Range: bytes 0-{}/{size}\nContent-Length: LENGTH",
                    size - 1
                ),
                &image,
            ),
        ),
        (
            "/too-much",
            answer(
                &format!("HTTP/1.1 200 OK\nConnection: close\nContent-Length: {size}"),
                &[&image[..], b"more"].concat(),
            ),
        ),
    ];
    let server = RawServer::default();
    for (path, bytes) in &answers {
        server.on(path, std::slice::from_ref(bytes));
    }
    let seen = server.seen.clone();
    let paths = answers.each_ref().map(|(path, _)| *path);
    let workplace = workplace_on(&server.start(), &paths);
    workplace.run_ok(&["--set", "limits.retries=0"]);
    let rows = workplace.rows("out", None);
    let hash = blake3::hash(&image).to_hex().to_string();
    for (row, path) in paths.iter().enumerate() {
        assert_eq!(rows.text("error_message")[row], None, "{path}");
        assert_eq!(rows.text("content_hash")[row].as_ref(), Some(&hash), "{path}: other bytes");
    }
    for request in seen.lock().unwrap().iter().map(|request| request.to_lowercase()) {
        assert!(
            request.contains("\r\naccept-encoding: identity\r\n") && request.contains("\r\nuser-agent: nightcap/"),
            "{request}"
        );
    }
}

#[test]
fn what_is_cut_off_or_not_understood_is_a_row_that_says_so() {
    let image = png_image(5);
    let size = image.len();
    let half = &image[..size / 2];
    let ok = "HTTP/1.1 200 OK\nConnection: close\n";
    let zeros = vec![0; 3 << 20];
    let answers = [
        ("/short", "connection", "broke off", answer(&format!("{ok}Content-Length: {size}"), half)),
        (
            "/short-chunked",
            "connection",
            "broke off",
            answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", &chunked(&image)[..60]),
        ),
        (
            "/short-gzip",
            "connection",
            "gzip",
            answer(
                &format!("{ok}Content-Encoding: gzip\nContent-Length: LENGTH"),
                &gzip(&image)[..gzip(&image).len() / 2],
            ),
        ),
        (
            "/part",
            "connection",
            "status 206",
            answer(
                &format!(
                    "HTTP/1.1 206 Part\nConnection: close\nContent-Range: bytes 0-{}/{size}\nContent-Length: LENGTH",
                    size / 2 - 1
                ),
                half,
            ),
        ),
        (
            "/part-of-what",
            "connection",
            "status 206",
            answer("HTTP/1.1 206 Part\nConnection: close\nContent-Length: LENGTH", half),
        ),
        (
            "/brotli",
            "unsupported_format",
            "content coding br",
            answer(&format!("{ok}Content-Encoding: br\nContent-Length: LENGTH"), &image),
        ),
        ("/long", "too_large", "1048576", answer(&format!("{ok}Content-Type: image/png"), &zeros)),
        (
            "/bomb",
            "too_large",
            "1048576",
            answer(&format!("{ok}Content-Encoding: gzip\nContent-Length: LENGTH"), &gzip(&zeros)),
        ),
        ("/empty", "corrupt_image", "", answer(&format!("{ok}Content-Length: 0"), b"")),
        ("/empty-chunked", "corrupt_image", "", answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", &chunked(b""))),
        ("/204", "corrupt_image", "", answer("HTTP/1.1 204 Nothing\nConnection: close", b"")),
        ("/page", "unsupported_format", "", answer(&format!("{ok}Content-Length: LENGTH"), b"<html>not here</html>")),
    ];
    let server = RawServer::default();
    for (path, _, _, bytes) in &answers {
        server.on(path, std::slice::from_ref(bytes));
    }
    let paths = answers.each_ref().map(|(path, ..)| *path);
    let workplace = workplace_on(&server.start(), &paths);
    workplace.run_ok(&[
        "--set",
        "limits.retries=1",
        "--set",
        "limits.max_image_bytes=1048576",
        "--set",
        "limits.outage_after=0",
    ]);
    let rows = workplace.rows("out", None);
    for (row, (path, kind, says, _)) in answers.iter().enumerate() {
        let message = rows.text("error_message")[row].clone().unwrap_or_default();
        assert_eq!(rows.text("error_kind")[row].as_deref(), Some(*kind), "{path}: {message}");
        assert!(message.contains(says), "{path}: {message}");
    }
}

#[test]
fn a_server_that_asks_to_wait_is_asked_again_and_no_more_at_a_time_than_the_limit() {
    let server = RawServer { pause: Duration::from_millis(20), ..RawServer::default() };
    let ok = |seed| answer("HTTP/1.1 200 OK\nConnection: close\nContent-Length: LENGTH", &png_image(seed));
    let paths: Vec<String> = (0..24).map(|row| format!("/{row}.png")).collect();
    for (row, path) in paths.iter().enumerate() {
        server.on(path, &[ok(row as u32)]);
    }
    let wait = answer("HTTP/1.1 503 busy\nRetry-After: 1\nConnection: close\nContent-Length: LENGTH", b"busy");
    server.on("/7.png", &[wait, ok(7)]);
    let most = server.most.clone();
    let workplace = workplace_on(&server.start(), &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let started = std::time::Instant::now();
    workplace.run_ok(&["--set", "limits.requests_per_host=3", "--set", "limits.retries=1"]);
    assert!(started.elapsed() >= Duration::from_secs(1), "the server was not waited for");
    assert!(workplace.rows("out", None).text("status").iter().all(|status| status.as_deref() == Some("ok")));
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?} at a time");
}

#[test]
fn manifests_of_servers_without_ranges_lengths_or_head() {
    let workplace = Workplace::with_images(3, 100);
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace("[runtime]", "[limits]\nallow_private_hosts = \"127.0.0.1\"\n[runtime]"));
    let bytes = std::fs::read(workplace.path("manifest.parquet")).unwrap();
    let server = RawServer::default();
    for row in 0..3 {
        let image = std::fs::read(workplace.path(&format!("photos/{row}.png"))).unwrap();
        server.on(&format!("/photos/{row}.png"), &[answer("HTTP/1.0 200 OK\nServer: old", &image)]);
    }
    let refused = answer("HTTP/1.1 405 no\nConnection: close\nContent-Length: 0", b"");
    for name in ["chunked", "gzip", "wrong-range", "python"] {
        server.on(&format!("HEAD /{name}.parquet"), std::slice::from_ref(&refused));
    }
    server.on("/chunked.parquet", &[answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", &chunked(&bytes))]);
    server.on("/gzip.parquet", &[answer("HTTP/1.1 200 OK\nContent-Encoding: gzip\nConnection: close", &gzip(&bytes))]);
    let part = answer("HTTP/1.1 206 Part\nConnection: close\nContent-Range: bytes 2-3/9\nContent-Length: 2", b"xx");
    let whole = answer("HTTP/1.1 200 OK\nConnection: close\nContent-Length: LENGTH\nETag: W/\"v\"", &bytes);
    server.on("/wrong-range.parquet", &[part, whole.clone()]);
    server.on("/weak.parquet", &[whole]);
    let origin = server.start();
    for name in ["chunked", "gzip", "wrong-range", "weak"] {
        workplace.run_ok(&[
            "--set",
            &format!("input.manifest={origin}/{name}.parquet"),
            "--set",
            &format!("output.path={name}"),
        ]);
        assert_eq!(workplace.rows(name, None).text("status"), vec![Some("ok".to_owned()); 3], "{name}");
    }
    let (mut python, port) = python_server(&workplace);
    let manifest = format!("input.manifest=http://127.0.0.1:{port}/manifest.parquet");
    let run = workplace.run(&["--set", &manifest]);
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    assert_eq!(workplace.rows("out", None).text("status"), vec![Some("ok".to_owned()); 3]);
}

/// `python -m http.server` in the workplace, which has no ranges.
fn python_server(workplace: &Workplace) -> (Child, u16) {
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]).current_dir(workplace.folder.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let port = line.split(" port ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    (child, port)
}
