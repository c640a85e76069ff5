//! `az://` on Azurite, Microsoft's own emulator of Azure Blob Storage: conditional puts, and every command that writes OUTPUT.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tokio::net::TcpSocket;

use crate::common::{Workplace, killed_at, nightcap, png_image, repo, skip_anywhere};
use crate::seaweed::hold_ports;
use crate::storage::{captions, text};

/// The account that every emulator has, and its key.
const ACCOUNT: [&str; 2] =
    ["devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="];

/// Makes the container `night`, which the clients cannot.
const MAKE_CONTAINER: &str = r"
import base64, datetime, hashlib, hmac, http.client, sys
port, account, key = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc).strftime('%a, %d %b %Y %H:%M:%S GMT')
headers = {'x-ms-date': now, 'x-ms-version': '2021-08-06'}
signed = 'PUT' + 12 * '\n' + ''.join(f'{k}:{v}\n' for k, v in headers.items()) + f'/{account}/{account}/night\nrestype:container'
digest = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers |= {'Authorization': f'SharedKey {account}:' + base64.b64encode(digest).decode(), 'Content-Length': '0'}
connection = http.client.HTTPConnection('127.0.0.1', int(port))
connection.request('PUT', f'/{account}/night?restype=container', headers=headers)
assert connection.getresponse().status == 201
";

/// A running server, ended by its shell when the shell's standard input closes, which the end of this process does too.
struct Azurite {
    shell: Child,
    alive: Option<ChildStdin>,
    port: u16,
    /// No other process takes the port before the server listens there.
    _held: [TcpSocket; 1],
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.alive = None;
        self.shell.wait().unwrap();
    }
}

impl Azurite {
    /// The program that `make` prepares in `.azurite`, or that `NIGHTCAP_AZURITE` names; None skips.
    fn start() -> Option<Self> {
        let program = std::env::var_os("NIGHTCAP_AZURITE")
            .map_or_else(|| repo(".azurite/node_modules/.bin/azurite-blob"), PathBuf::from);
        if !program.exists() {
            skip_anywhere(&format!("{} is missing; `make test` installs it where there is npm", program.display()));
            return None;
        }
        let held = hold_ports();
        let port = held[0].local_addr().unwrap().port();
        let script = r#""$0" "$@" </dev/null >&2 & server=$!; read line; kill -9 $server; wait"#;
        let mut shell = Command::new("setsid");
        shell.args(["sh", "-c", script]).arg(program).args(["--blobPort", &port.to_string()]);
        shell.args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]);
        let mut shell = shell.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { alive: shell.stdin.take(), shell, port, _held: held };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "Azurite does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let made =
            Command::new("python3").args(["-c", MAKE_CONTAINER, &port.to_string()]).args(ACCOUNT).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        Some(server)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Arc<MicrosoftAzure> {
        let [account, key] = ACCOUNT;
        let builder = MicrosoftAzureBuilder::new().with_account(account).with_access_key(key);
        let builder = builder.with_endpoint(format!("{}/{account}", self.url()));
        Arc::new(builder.with_allow_http(true).with_container_name("night").build().unwrap())
    }

    /// Runs a command that reaches the server; it has to succeed.
    fn ok(&self, command: &mut Command) -> Output {
        let output = self.reached_by(command).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        output
    }

    fn reached_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("AZURE_STORAGE_USE_EMULATOR", "true").env("AZURITE_BLOB_STORAGE_URL", self.url())
    }
}

/// Of many puts of one name, one wins; the others are told so.
async fn conditional_puts_have_one_winner(client: &Arc<MicrosoftAzure>) {
    let puts = (0..24).map(|writer: u8| {
        let client = client.clone();
        async move { client.put_opts(&"race".into(), vec![writer].into(), PutMode::Create.into()).await }
    });
    let ended = join_all(puts).await;
    assert_eq!(ended.iter().filter(|put| put.is_ok()).count(), 1, "{ended:?}");
    assert!(ended.iter().all(|put| matches!(put, Ok(_) | Err(Error::AlreadyExists { .. }))), "{ended:?}");
}

/// Planned, killed, gone on with by two shards, finalized, changed, compacted.
#[test]
fn nights_on_azure_are_the_local_ones() {
    let Some(server) = Azurite::start() else { return };
    let (client, workplace) = (server.client(), Workplace::with_images(12, 3));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let put = |key: &str, bytes: Vec<u8>| {
        runtime.block_on(client.put(&key.into(), bytes.into())).unwrap();
    };
    let parts = |run: &str| -> Vec<(String, Vec<u8>)> {
        let names = workplace.parts("out", run).into_iter().map(|(name, _)| name);
        let get = async |key: object_store::path::Path| client.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
        names.map(|name| (name.clone(), runtime.block_on(get(format!("out/run={run}/{name}").into())))).collect()
    };
    runtime.block_on(conditional_puts_have_one_winner(&client));
    put("manifest.parquet", std::fs::read(workplace.path("manifest.parquet")).unwrap());
    for row in 0..12 {
        put(&format!("photos/{row}.png"), std::fs::read(workplace.path(&format!("photos/{row}.png"))).unwrap());
    }
    let settings = ["--set", "input.manifest=az://night/manifest.parquet", "--set", "output.path=az://night/out"];
    let on_job = |name: &str, arguments: &[&str]| {
        let mut command = workplace.command(name, &settings);
        command.args(arguments);
        command
    };
    let on_output = |arguments: &[&str]| text(&server.ok(nightcap().args(arguments)).stdout);

    assert!(text(&server.ok(&mut on_job("plan", &[])).stdout).contains("az://night/out"));
    killed_at(server.reached_by(&mut on_job("run", &["--run-id", "night"])), "after_part:2");
    for shard in ["0/2", "1/2"] {
        server.ok(&mut on_job("run", &["--run-id", "night", "--shard", shard]));
    }
    on_output(&["finalize", "az://night/out", "--run-id", "night"]);
    workplace.run_ok(&["--run-id", "night"]);
    assert_eq!(parts("night").len(), 4);
    assert_eq!(captions(&parts("night")), captions(&workplace.parts("out", "night")));
    let nothing = text(&server.ok(&mut on_job("run", &[])).stderr);
    assert!(nothing.contains("nothing"), "{nothing}");

    // One picture changes: its row is made again, and both runs become one.
    put("photos/3.png", png_image(99));
    std::fs::write(workplace.path("photos/3.png"), png_image(99)).unwrap();
    server.ok(&mut on_job("run", &["--run-id", "second"]));
    workplace.run_ok(&["--run-id", "second"]);
    assert_eq!(parts("second").len(), 1);
    assert_eq!(captions(&parts("second")), captions(&workplace.parts("out", "second")));
    on_output(&["compact", "az://night/out"]);
    on_output(&["status", "az://night/out", "--check"]);
    let mut sample = nightcap();
    let sample = sample.args(["sample", "out", "--n", "12"]).current_dir(workplace.path(""));
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("row-")).map(str::to_owned).collect::<Vec<_>>();
    let local = rows(&text(&sample.output().unwrap().stdout));
    assert_eq!((rows(&on_output(&["sample", "az://night/out", "--n", "12"])), local.len()), (local.clone(), 12));
}
