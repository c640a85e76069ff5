//! `az://` on azurite, Microsoft's own emulator of Azure Blob Storage: conditional puts, and every command that writes OUTPUT.
//!
//! It is looked for as `azurite-blob` on PATH, or where `NIGHTCAP_AZURITE` says (`npm install azurite`); without it, the test says that
//! it was skipped. It needs Node, which `make setup` does not install.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use crate::common::{Workplace, killed_at, nightcap};
use crate::seaweed::hold_ports;
use crate::storage::text;

/// Makes the container `night`, by the key that all emulators have.
const MAKE_CONTAINER: &str = r"
import base64, datetime, hashlib, hmac, http.client, sys
account = 'devstoreaccount1'
key = base64.b64decode('Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==')
now = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')
headers = {'x-ms-date': now, 'x-ms-version': '2021-08-06'}
signed = 'PUT' + 12 * '\n' + ''.join(f'{k}:{v}\n' for k, v in headers.items()) + f'/{account}/{account}/night\nrestype:container'
digest = hmac.new(key, signed.encode(), hashlib.sha256).digest()
headers |= {'Authorization': f'SharedKey {account}:' + base64.b64encode(digest).decode(), 'Content-Length': '0'}
connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))
connection.request('PUT', f'/{account}/night?restype=container', headers=headers)
assert connection.getresponse().status == 201
";

struct Azurite {
    process: Child,
    port: u16,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

impl Azurite {
    /// None: it is not installed.
    fn start() -> Option<Self> {
        let named = std::env::var_os("NIGHTCAP_AZURITE").map(PathBuf::from);
        let on_path = || {
            std::env::split_paths(&std::env::var_os("PATH")?)
                .map(|dir| dir.join("azurite-blob"))
                .find(|file| file.exists())
        };
        let program = named.or_else(on_path)?;
        let [held] = hold_ports();
        let port = held.local_addr().unwrap().port();
        drop(held);
        let mut command = Command::new(program);
        command.args([
            "--silent",
            "--inMemoryPersistence",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--blobPort",
        ]);
        let process = command.arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "azurite does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let made = Command::new("python3").args(["-c", MAKE_CONTAINER, &port.to_string()]).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        Some(server)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn reached_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("AZURE_STORAGE_USE_EMULATOR", "true").env("AZURITE_BLOB_STORAGE_URL", self.url())
    }
}

fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_night_on_azure_is_the_local_one() {
    let Some(server) = Azurite::start() else {
        // No failure where nothing may be skipped: `make setup` does not install it.
        let why = b"skipped: a_night_on_azure_is_the_local_one: no azurite-blob on PATH (npm install azurite)\n";
        return std::io::Write::write_all(&mut std::io::stdout(), why).unwrap();
    };
    let endpoint = format!("{}/devstoreaccount1", server.url());
    let builder = MicrosoftAzureBuilder::new().with_use_emulator(true).with_endpoint(endpoint).with_allow_http(true);
    let client = std::sync::Arc::new(builder.with_container_name("night").build().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let workplace = Workplace::with_images(12, 3);
    runtime.block_on(async {
        let puts = (0..24).map(|writer: u8| {
            let client = client.clone();
            async move { client.put_opts(&"race".into(), vec![writer].into(), PutMode::Create.into()).await.is_ok() }
        });
        let won = join_all(puts).await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1, "a conditional put has one winner");
        let files = std::fs::read_dir(workplace.path("photos")).unwrap().map(|entry| entry.unwrap().path());
        for file in files.chain([workplace.path("manifest.parquet")]) {
            let key = file.strip_prefix(workplace.folder.path()).unwrap().to_str().unwrap().to_owned();
            client.put(&key.as_str().into(), std::fs::read(&file).unwrap().into()).await.unwrap();
        }
    });
    workplace.run_ok(&["--run-id", "night"]);
    let settings = ["--set", "input.manifest=az://night/manifest.parquet", "--set", "output.path=az://night/out"];
    let command = |name: &str, arguments: &[&str]| {
        let mut command = workplace.command(name, &settings);
        server.reached_by(command.args(arguments));
        command
    };
    assert!(ok(&command("plan", &[]).output().unwrap()).contains("az://night/out"));
    killed_at(&mut command("run", &["--run-id", "night"]), "after_part");
    for shard in ["0/2", "1/2"] {
        ok(&command("run", &["--run-id", "night", "--shard", shard]).output().unwrap());
    }
    let on_output = |arguments: &[&str]| {
        let mut command = nightcap();
        server.reached_by(command.args(arguments)).output().unwrap()
    };
    ok(&on_output(&["finalize", "az://night/out", "--run-id", "night"]));
    let parts = |prefix: &str| -> Vec<(String, Vec<u8>)> {
        (0..4)
            .map(|part| {
                let name = format!("part-{part:06}.parquet");
                let key = format!("{prefix}/{name}");
                let get = async { client.get(&key.as_str().into()).await.unwrap().bytes().await.unwrap().to_vec() };
                (name, runtime.block_on(get))
            })
            .collect()
    };
    assert_eq!(
        parts("out/run=night").len(),
        workplace.parts("out", "night").iter().filter(|(name, _)| name.ends_with(".parquet")).count()
    );
    let nothing = command("run", &[]).output().unwrap();
    ok(&nothing);
    assert!(text(&nothing.stderr).contains("nothing"), "{}", text(&nothing.stderr));
    // One picture changes: its row is made again, and both runs become one.
    runtime.block_on(async {
        client.put(&"photos/3.png".into(), crate::common::png_image(99).into()).await.unwrap();
    });
    ok(&command("run", &["--run-id", "second"]).output().unwrap());
    ok(&on_output(&["compact", "az://night/out"]));
    let status: serde_json::Value =
        serde_json::from_str(&ok(&on_output(&["status", "az://night/out", "--json"]))).unwrap();
    let second = status["runs"].as_array().unwrap().iter().find(|run| run["run"] == "second").unwrap().clone();
    assert_eq!(second["ok"], 1, "{status}");
    ok(&on_output(&["status", "az://night/out", "--check"]));
}
