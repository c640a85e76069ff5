//! Nothing outside `limits.roots` is read, whatever a server answers and however a URI is spelt; credentials stay with their origin.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use rustix::fs::{CWD, RenameFlags};

use crate::common::{Workplace, png_image, strings, write_parquet};
use crate::storage::text;
use crate::web::{Request, WebServer};

/// The binary on a job whose images are at `uris`, all of which may fail. Web servers at 127.0.0.1 may be read from.
fn command(workplace: &Workplace, uris: &[String], roots: Option<&str>) -> Command {
    let mut command = public(workplace, uris);
    command.args(["--set", "limits.allow_private_hosts=127.0.0.1"]);
    if let Some(roots) = roots {
        command.args(["--set", &format!("limits.roots=[{roots}]")]);
    }
    command
}

/// The same, with no roots, and for web servers of the internet alone.
pub fn public(workplace: &Workplace, uris: &[String]) -> Command {
    let ids = strings((0..uris.len()).map(|row| Some(format!("{row:02}"))));
    let columns = vec![
        ("id", ids),
        ("image", strings(uris.iter().map(Some))),
        ("title", strings(uris.iter().map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 100);
    let mut command =
        workplace.command("run", &["--set", "limits.max_failed_fraction=1.0", "--set", "limits.retries=0"]);
    command.args(["--set", "input.signature=[\"id\"]", "--set", "output.part_rows=1000"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
}

/// Runs it: the error kind and message of each row, empty where the image was read.
pub fn outcomes(workplace: &Workplace, mut command: Command) -> Vec<(String, String)> {
    let outcome = command.env("NIGHTCAP_LOG", "trace").output().unwrap();
    let log = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(0), "{log}");
    assert!(!log.contains("secret"), "a secret in the log");
    let rows = workplace.rows("out", None);
    let text = |column: &str| rows.text(column).into_iter().map(Option::unwrap_or_default);
    text("error_kind").zip(text("error_message")).collect()
}

/// A web server with an image at `/pub/image.png` and one beside the folder.
pub fn website() -> WebServer {
    let server = WebServer::start();
    server.answer("/pub/image.png", 200, &[], &png_image(1)).answer("/private.png", 200, &[], &png_image(2));
    server
}

#[test]
fn every_hop_is_held_to_the_roots() {
    let (inside, outside) = (website(), website());
    let (home, away) = (inside.origin(), outside.origin());
    let kept = [301, 302, 303, 307, 308].map(|status| {
        let path = format!("/pub/{status}");
        inside.redirect(&path, status, "image.png");
        path
    });
    inside.redirect("/pub/chain", 302, &format!("{home}/pub/chain/2"));
    inside.redirect("/pub/chain/2", 302, "/pub/chain/../chain/3").redirect("/pub/chain/3", 302, "../301");
    let refused = [
        ("loop", "loop".to_owned(), "expected at most 10 redirects".to_owned()),
        (
            "away",
            format!("{away}/pub/image.png?token=secret"),
            format!("redirects to {away}, to a URL that is in none"),
        ),
        ("user", format!("http://{}@{}/pub/image.png", inside.authority(), outside.authority()), away.clone()),
        ("schemeless", format!("//{}/pub/image.png", outside.authority()), away.clone()),
        ("up", "../private.png".to_owned(), "`limits.roots`".to_owned()),
        ("encoded", "..%2fprivate.png".to_owned(), "`limits.roots`".to_owned()),
        ("later", "hop".to_owned(), away.clone()),
        ("https", format!("https://{}/pub/image.png", inside.authority()), "`limits.roots`".to_owned()),
        ("file", "file:///etc/passwd".to_owned(), "redirects from".to_owned()),
    ];
    inside.redirect("/pub/hop", 302, &format!("{away}/pub/image.png"));
    for (name, to, _) in &refused {
        inside.redirect(&format!("/pub/{name}"), 302, to);
    }
    let paths = kept.iter().cloned().chain(["/pub/chain".to_owned()]);
    let paths = paths.chain(refused.iter().map(|(name, ..)| format!("/pub/{name}")));
    let uris: Vec<String> = paths.map(|path| format!("{home}{path}")).collect();
    let workplace = Workplace::with_images(1, 1000);
    let rows = outcomes(&workplace, command(&workplace, &uris, Some(&format!("\"{home}/pub\""))));
    for (kind, message) in &rows[..6] {
        assert_eq!((kind.as_str(), message.as_str()), ("", ""));
    }
    for ((kind, message), (name, _, expected)) in rows[6..].iter().zip(&refused) {
        assert!(kind == "forbidden" && message.contains(expected) && !message.contains("secret"), "{name}: {message}");
    }
    assert!(outside.requests().is_empty(), "{:?}", outside.requests());
    assert!(!inside.targets().iter().any(|target| target.contains("private")), "{:?}", inside.targets());
    assert_eq!(inside.requests().iter().filter(|request| request.target == "/pub/loop").count(), 11);
}

#[test]
fn spellings_of_uris_do_not_leave_the_roots() {
    let (server, other) = (website(), website());
    let (host, away) = (server.authority(), other.authority());
    let inside = [
        format!("HTTP://{host}/pub/image.png"),
        format!("http://{host}/x/../pub/%2e/image.png"),
        format!("http:\\\\{host}\\pub\\image.png"),
    ];
    let outside = [
        format!("http://{host}@{away}/pub/image.png"),
        format!("http://{away}#@{host}/pub/image.png"),
        format!("http://{away}\\@{host}/pub/image.png"),
        format!("http://{host}/pub/../private.png"),
        format!("http://{host}/pub/%2e%2E/private.png"),
        format!("http://{host}/pub/..%2fprivate.png"),
        format!("http://{host}/pub/..%5Cprivate.png"),
        format!("http://{host}/pub/%252e%252e%252fprivate.png"),
        format!("http://{host}/pub/..;/private.png"),
        format!("http://{host}/public/image.png"),
        format!("http://{host}//pub/image.png"),
        format!("http://localhost:{}/pub/image.png", host.split_once(':').unwrap().1),
        format!("http://[::ffff:127.0.0.1]:{}/pub/image.png", host.split_once(':').unwrap().1),
        format!("https://{host}/pub/image.png"),
        format!("file:///pub/%2e%2e{}", repo_file()),
        repo_file(),
    ];
    // `http:\\` has no `://`, so it is a local path like any other.
    let uris: Vec<String> = inside.iter().chain(&outside).cloned().collect();
    let workplace = Workplace::with_images(1, 1000);
    let rows = outcomes(&workplace, command(&workplace, &uris, Some(&format!("\"http://{host}/pub/\""))));
    assert_eq!([&rows[0].0, &rows[1].0, &rows[2].0].map(String::as_str), ["", "", "forbidden"]);
    for ((kind, message), uri) in rows[3..].iter().zip(&outside) {
        assert_eq!(kind, "forbidden", "{uri}: {message}");
    }
    assert_eq!(server.targets(), ["/pub/image.png"]);
    assert!(other.requests().is_empty(), "{:?}", other.requests());
}

/// An image elsewhere on this disk.
fn repo_file() -> String {
    crate::common::repo("tests/fixtures/images/photo.jpg").to_str().unwrap().to_owned()
}

#[test]
fn links_on_disk_do_not_leave_the_roots() {
    let workplace = Workplace::with_images(2, 1000);
    for folder in ["elsewhere", "photos/deep"] {
        std::fs::create_dir(workplace.path(folder)).unwrap();
    }
    std::fs::write(workplace.path("elsewhere/0.png"), png_image(7)).unwrap();
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(workplace.path(to), workplace.path(from)).unwrap();
    link("elsewhere/0.png", "photos/file.png");
    link("elsewhere", "photos/folder");
    link("photos/file.png", "photos/deep/link.png");
    link("photos", "elsewhere/back");
    let uris = [
        "photos/0.png",
        "elsewhere/back/1.png",
        "photos/file.png",
        "photos/folder/0.png",
        "photos/deep/link.png",
        "photos/../elsewhere/0.png",
        "photos/folder/../../elsewhere/0.png",
        "elsewhere/0.png",
    ];
    let kinds: Vec<String> = outcomes(&workplace, command(&workplace, &uris.map(str::to_owned), Some("\"photos\"")))
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, [&[""; 2][..], &["forbidden"; 6]].concat());
}

#[test]
fn a_link_that_is_swapped_while_images_are_read() {
    const ROWS: usize = 3000;
    let workplace = Workplace::with_images(1, 1000);
    std::fs::create_dir(workplace.path("elsewhere")).unwrap();
    std::fs::rename(workplace.path("photos/0.png"), workplace.path("photos/inside.png")).unwrap();
    let outside = png_image(7);
    std::fs::write(workplace.path("elsewhere/0.png"), &outside).unwrap();
    // A file and a folder, and links of the same names that lead out, take each other's place by turns.
    std::fs::copy(workplace.path("photos/inside.png"), workplace.path("photos/file.png")).unwrap();
    std::fs::create_dir(workplace.path("photos/folder")).unwrap();
    std::fs::copy(workplace.path("photos/inside.png"), workplace.path("photos/folder/0.png")).unwrap();
    std::os::unix::fs::symlink(workplace.path("elsewhere/0.png"), workplace.path("photos/file.link")).unwrap();
    std::os::unix::fs::symlink(workplace.path("elsewhere"), workplace.path("photos/folder.link")).unwrap();
    let (done, began) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
    let (stop, ready) = (done.clone(), began.clone());
    let pairs = [("photos/file.png", "photos/file.link"), ("photos/folder", "photos/folder.link")];
    let pairs = pairs.map(|(real, link)| (workplace.path(real), workplace.path(link)));
    let swapping = std::thread::spawn(move || {
        ready.wait();
        while !stop.load(Ordering::Relaxed) {
            for (real, link) in &pairs {
                rustix::fs::renameat_with(CWD, real, CWD, link, RenameFlags::EXCHANGE).unwrap();
            }
        }
    });
    began.wait();
    let uris: Vec<String> =
        (0..ROWS).map(|row| ["photos/file.png", "photos/folder/0.png"][row % 2].to_owned()).collect();
    let mut seen = [0; 3];
    // Whether both ends of the links are met is up to the scheduler: until they are, it is done again.
    for round in 0..20 {
        let output = format!("out{round}");
        let mut command = command(&workplace, &uris, Some("\"photos\""));
        command.args(["--set", &format!("output.path={output}"), "--set", "output.part_rows=3000"]);
        let run = command.output().unwrap();
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        let rows = workplace.rows(&output, None);
        let outside = blake3::hash(&outside).to_hex();
        for (hash, kind) in rows.text("content_hash").into_iter().zip(rows.text("error_kind")) {
            match (hash, kind.as_deref()) {
                (Some(hash), None) => seen[usize::from(hash == outside.as_str())] += 1,
                (None, Some("forbidden")) => seen[2] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen[1], 0, "of {ROWS} rows so many read a file outside the root; {seen:?}");
        if seen[0] > 0 && seen[2] > 0 {
            break;
        }
    }
    done.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(seen[0] > 0 && seen[2] > 0, "the links were never swapped: {seen:?}");
}

#[test]
fn a_user_name_and_password_stay_with_their_origin() {
    let (first, second) = (website(), website());
    // "me:secret" in base64.
    let authorization = "Basic bWU6c2VjcmV0";
    first.redirect("/here", 302, "/pub/image.png");
    first.redirect("/away", 307, &format!("{}/pub/image.png?a=b", second.origin()));
    first.redirect("/given", 302, &format!("http://you:password@{}/pub/image.png?given", second.authority()));
    let uris = ["/here", "/away", "/given"].map(|path| format!("http://me:secret@{}{path}", first.authority()));
    let workplace = Workplace::with_images(1, 1000);
    let rows = outcomes(&workplace, command(&workplace, &uris, None));
    assert!(rows.iter().all(|(kind, _)| kind.is_empty()), "{rows:?}");
    assert_eq!(first.targets(), ["/away", "/given", "/here", "/pub/image.png"]);
    for request in first.requests() {
        assert_eq!(request.header("authorization"), Some(authorization), "{request:?}");
    }
    assert_eq!(second.targets(), ["/pub/image.png?a=b", "/pub/image.png?given"]);
    for request in second.requests() {
        let seen = ["authorization", "referer", "cookie"].map(|name| request.header(name));
        assert_eq!(seen, [None; 3], "{request:?}");
        assert_eq!(request.header("host"), Some(second.authority().as_str()));
    }
}

#[test]
fn a_bucket_that_redirects() {
    let (endpoint, node) = (WebServer::start(), WebServer::start());
    endpoint.redirect("/night/image.png", 307, &format!("{}/node/image.png?X-Amz-Signature=secret", node.origin()));
    // As S3 answers where the bucket is in another region.
    let moved = b"<Error><Code>PermanentRedirect</Code></Error>";
    endpoint.answer("/night/region.png", 301, &[], moved);
    node.answer("/node/image.png", 200, &[], &png_image(3));
    let uris = ["image", "region"].map(|name| format!("s3://night/{name}.png"));
    let s3 = |command: &mut Command| {
        command.args(["--set", &format!("storage.endpoint={}", endpoint.origin()), "--set", "limits.outage_after=0"]);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_SESSION_TOKEN", "secret-token");
    };
    let workplace = Workplace::with_images(1, 1000);
    let mut free = command(&workplace, &uris, None);
    s3(&mut free);
    let rows = outcomes(&workplace, free);
    assert_eq!(rows[0], (String::new(), String::new()));
    assert!(rows[1].1.contains("status 301 PermanentRedirect, as for a bucket of another region"), "{}", rows[1].1);
    for request in endpoint.requests() {
        assert!(request.header("authorization").is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256")));
        assert_eq!(request.header("x-amz-security-token"), Some("secret-token"));
    }
    let seen = node.requests();
    assert_eq!(seen.len(), 1);
    for name in ["authorization", "x-amz-security-token", "x-amz-date", "x-amz-content-sha256", "referer"] {
        assert_eq!(seen[0].header(name), None, "{name}");
    }
    // The same with roots: the bucket is one, the node is none.
    let held = Workplace::with_images(1, 1000);
    let mut command = command(&held, &uris[..1], Some("\"s3://night/\""));
    s3(&mut command);
    let rows = outcomes(&held, command);
    assert!(rows[0].0 == "forbidden" && rows[0].1.contains(&node.origin()), "{rows:?}");
    assert_eq!(node.requests().len(), 1);
}

#[test]
fn listings_and_probes_are_held_to_the_roots() {
    let (endpoint, node) = (WebServer::start(), WebServer::start());
    // Every request about the bucket is sent on: listings, probes, and those for images.
    endpoint.redirect("/night", 307, &format!("{}/night?list-type=2&prefix=secret", node.origin()));
    for image in ["pub/0.png", "pub/1.png", "private.png"] {
        endpoint.redirect(&format!("/night/{image}"), 307, &format!("{}/night/{image}", node.origin()));
    }
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
    node.answer("/night", 200, &[], listing.as_bytes());
    let uris = ["pub/0.png", "pub/1.png", "private.png"].map(|image| format!("s3://night/{image}"));
    let run = |roots: &str| {
        let workplace = Workplace::with_images(1, 1000);
        let mut command = command(&workplace, &uris, Some(roots));
        command.args(["--set", &format!("storage.endpoint={}", endpoint.origin()), "--set", "limits.outage_after=1"]);
        command.args(["--set", "input.signature=[]"]);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret").output().unwrap()
    };
    let refused = run("\"s3://night/pub\"");
    let log = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{log}");
    assert!(log.contains("cannot list s3://night/pub") && log.contains("`limits.roots`"), "{log}");
    assert!(!log.contains("secret") && node.requests().is_empty(), "{:?} {log}", node.requests());
    let asked = |request: &Request| request.target.contains("prefix=") && !request.target.contains("prefix=pub");
    assert!(!endpoint.requests().iter().any(asked), "{:?}", endpoint.targets());
    // With the node among the roots, it is followed.
    let followed = run(&format!("\"s3://night/pub\", \"{}/night\"", node.origin()));
    assert_eq!(followed.status.code(), Some(0), "{}", text(&followed.stderr));
    assert!(node.targets().iter().any(|target| target.contains("list-type")), "{:?}", node.targets());
}

#[test]
fn no_storage_outside_the_roots_is_requested_in_an_outage() {
    let (inside, outside) = (website(), website());
    let uris: Vec<String> = (0..8)
        .map(|row| match row {
            0 => format!("{}/pub/image.png", inside.origin()),
            row => format!("{}/pub/{row}.png", outside.origin()),
        })
        .collect();
    let workplace = Workplace::with_images(1, 1000);
    let mut command = command(&workplace, &uris, Some(&format!("\"{}/pub\"", inside.origin())));
    command.args(["--set", "limits.outage_after=3"]);
    let rows = outcomes(&workplace, command);
    assert_eq!(rows.iter().filter(|(kind, _)| kind == "forbidden").count(), 7);
    assert!(outside.requests().is_empty(), "{:?}", outside.requests());
}
