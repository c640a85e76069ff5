//! A real S3 server for the tests: `SeaweedFS` in one process on loopback ports, started once, ended with the test process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::net::TcpSocket;

use crate::common::repo;

pub const ACCESS_KEY: &str = "nightcapkey";
pub const SECRET: &str = "correct-horse-battery-staple";

/// A running server. The shell that holds it ends it when its standard input closes, which the end of this process does too.
pub struct Seaweed {
    shell: Child,
    alive: Option<ChildStdin>,
    s3: u16,
    filer: u16,
    /// No other process takes a port of the server before it listens there.
    _held: [TcpSocket; 8],
}

/// `weed` beside the Python that `make setup` installs.
fn binary() -> PathBuf {
    let python = std::env::var_os("NIGHTCAP_PYTHON").map_or_else(|| repo(".venv/bin/python"), PathBuf::from);
    let weed = python.parent().unwrap().join("weed");
    assert!(weed.exists(), "{} is missing: the tests need a SeaweedFS; run `make setup`", weed.display());
    weed
}

/// Ports of this machine that belong to this process until the sockets are dropped: bound, but not listened at. The server's own
/// sockets may bind them too, since both sides set `SO_REUSEADDR`, as Go does for every listener; no other process is given them by
/// the system, neither for a listener at port 0 nor for a connection.
pub fn hold_ports<const N: usize>() -> [TcpSocket; N] {
    std::array::from_fn(|_| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        socket
    })
}

impl Seaweed {
    /// The server that tests share.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Seaweed> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// One that a test may kill.
    pub fn start() -> Self {
        Self::start_for(true)
    }

    /// One that also takes requests without a signature, which a proxy before it may change.
    pub fn start_open() -> Self {
        Self::start_for(false)
    }

    fn start_for(only_signed: bool) -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let actions = r#"["Admin","Read","Write","List","Tagging"]"#;
        let everybody =
            if only_signed { String::new() } else { format!(r#",{{"name":"anonymous","actions":{actions}}}"#) };
        let identity = format!(
            r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET}"}}],
            "actions":{actions}}}{everybody}]}}"#
        );
        std::fs::write(folder.join("s3.json"), identity).unwrap();
        std::fs::create_dir(folder.join("data")).unwrap();
        let held: [TcpSocket; 8] = hold_ports();
        let [s3, filer, master, volume, s3_grpc, filer_grpc, master_grpc, volume_grpc] =
            held.each_ref().map(|socket| socket.local_addr().unwrap().port());
        let dir = folder.display();
        let arguments = format!(
            "-logdir={dir} -logtostderr=true server -dir={dir}/data -ip=127.0.0.1 -ip.bind=127.0.0.1 \
             -master.port={master} -master.port.grpc={master_grpc} -master.volumeSizeLimitMB=64 -master.telemetry=false \
             -volume.port={volume} -volume.port.grpc={volume_grpc} -volume.max=0 -volume.preStopSeconds=0 \
             -filer -filer.port={filer} -filer.port.grpc={filer_grpc} -filer.localSocket={dir}/filer.sock \
             -s3 -s3.port={s3} -s3.port.grpc={s3_grpc} -s3.config={dir}/s3.json -s3.port.iceberg=0 -s3.port.lance=0 \
             -s3.iam=false -s3.localSocket={dir}/s3.sock"
        );
        let script = format!(
            "{} {arguments} >{dir}/log 2>&1 </dev/null & weed=$!; read line; kill -9 $weed; wait; rm -rf {dir}",
            binary().display()
        );
        let mut shell = Command::new("setsid");
        let mut shell = shell.args(["sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let server = Self { alive: shell.stdin.take(), shell, s3, filer, _held: held };
        let started = Instant::now();
        while !(Self::answers(s3, "GET", "/healthz", "200") && Self::answers(filer, "POST", "/buckets/night/", "201")) {
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_mins(1), "SeaweedFS does not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        // Until a volume has registered, buckets exist and puts fail.
        while server.put("ready", b"yes").is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "SeaweedFS takes no objects");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn answers(port: u16, method: &str, path: &str, status: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.split(' ').nth(1) == Some(status)
    }

    /// Kills the server.
    pub fn kill(mut self) {
        self.alive = None;
        self.shell.wait().unwrap();
    }

    pub fn port(&self) -> u16 {
        self.s3
    }

    /// The port of the filer, a plain web server whose `/buckets/night` is the bucket.
    pub fn filer_port(&self) -> u16 {
        self.filer
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3)
    }

    /// A client of the bucket `night`.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        let builder = AmazonS3Builder::new().with_endpoint(self.endpoint()).with_allow_http(true);
        let builder = builder.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET);
        Arc::new(builder.with_region("us-east-1").with_bucket_name("night").build().unwrap())
    }

    pub fn put(&self, key: &str, bytes: &[u8]) -> object_store::Result<()> {
        let (client, bytes) = (self.client(), bytes.to_vec());
        block_on(async move { client.put(&ObjectPath::parse(key)?, bytes.into()).await.map(drop) })
    }

    pub fn get(&self, key: &str) -> object_store::Result<Vec<u8>> {
        let client = self.client();
        block_on(async move { Ok(client.get(&ObjectPath::parse(key)?).await?.bytes().await?.to_vec()) })
    }

    /// Puts every file below `folder` below `prefix`.
    pub fn upload(&self, folder: &Path, prefix: &str) {
        use futures::{StreamExt, TryStreamExt};
        let mut files = Vec::new();
        collect(folder, folder, &mut files);
        let client = self.client();
        let puts = files.into_iter().map(|(name, bytes)| {
            let (client, key) = (client.clone(), format!("{prefix}/{name}"));
            async move { client.put(&ObjectPath::parse(key)?, bytes.into()).await.map(drop) }
        });
        block_on(futures::stream::iter(puts).buffer_unordered(8).try_collect::<()>()).unwrap();
    }

    /// Writes every object below `prefix` below `folder`; one that is removed meanwhile is left out.
    pub fn download(&self, prefix: &str, folder: &Path) {
        use futures::{StreamExt, TryStreamExt};
        let (client, below) = (self.client(), ObjectPath::parse(prefix).unwrap());
        let listed: Vec<_> = {
            let client = client.clone();
            block_on(async move { client.list(Some(&below)).try_collect().await }).unwrap()
        };
        let gets = listed.into_iter().map(|object| {
            let client = client.clone();
            async move {
                match client.get(&object.location).await {
                    Ok(found) => Ok(Some((object.location.to_string(), found.bytes().await?))),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        let found: Vec<_> = block_on(futures::stream::iter(gets).buffer_unordered(8).try_collect()).unwrap();
        for (key, bytes) in found.into_iter().flatten() {
            let path = folder.join(&key[prefix.len() + 1..]);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Every object below `prefix`, by key relative to it.
    pub fn objects(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        use futures::TryStreamExt;
        let (client, below) = (self.client(), ObjectPath::parse(prefix).unwrap());
        let listed: Vec<_> = block_on(async move { client.list(Some(&below)).try_collect().await }).unwrap();
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.location.to_string()).collect();
        keys.sort();
        keys.into_iter().map(|key| (key[prefix.len() + 1..].to_owned(), self.get(&key).unwrap())).collect()
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Lets `command` reach the S3 service at `endpoint`.
pub fn with_s3<'a>(command: &'a mut Command, endpoint: &str) -> &'a mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", endpoint)
}
