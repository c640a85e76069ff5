//! Without `limits.allow_private_hosts`, no URL of a manifest and no redirect reaches this machine or its networks.

use std::process::{Command, Output};

use crate::common::{Workplace, png_image};
use crate::redirects::{outcomes, public, website};
use crate::storage::text;
use crate::web::WebServer;

/// The command with `hosts` in `limits.allow_private_hosts`.
fn allowing(mut command: Command, hosts: &str) -> Command {
    command.args(["--set", &format!("limits.allow_private_hosts=[{hosts}]")]);
    command
}

#[test]
fn no_address_of_this_machine_is_requested() {
    let server = website();
    let port = server.port();
    // Each of these reaches a server on 127.0.0.1, on Linux.
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127.1",
        "127.0.0.1.",
        "127.0.0%2e1",
        "\u{ff11}27.0.0.1",
        "127\u{3002}0.0.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "me:secret@127.0.0.1",
        "0.0.0.0",
        "0",
        "localhost",
        "LOCALHOST",
    ];
    let url = |host: &str| format!("http://{host}:{port}/pub/image.png");
    let mut uris: Vec<String> = hosts.iter().map(|host| url(host)).collect();
    // Nothing listens there: the row must not say so.
    uris.extend(["http://[::1]:9/a.png", "http://10.255.255.1:9/a.png"].map(str::to_owned));
    uris.extend(["http://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/"].map(str::to_owned));
    let workplace = Workplace::with_images(1, 1000);
    for (uri, (kind, message)) in uris.iter().zip(outcomes(&workplace, public(&workplace, &uris))) {
        assert_eq!(kind, "forbidden", "{uri}: {message}");
        assert!(message.contains("`limits.allow_private_hosts`"), "{uri}: {message}");
    }
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    // What is named is read, and nothing else.
    for (named, read) in [("\"127.0.0.1\"", 0..12), ("\"localhost\"", 14..16), ("\"0.0.0.0/8\"", 12..14)] {
        let workplace = Workplace::with_images(1, 1000);
        let found = outcomes(&workplace, allowing(public(&workplace, &uris), named));
        for (row, (kind, message)) in found.into_iter().enumerate() {
            // A name may lead to an address that is named.
            let is_either =
                named.contains("127") && hosts.get(row).is_some_and(|host| host.eq_ignore_ascii_case("localhost"));
            let expected = if read.contains(&row) { "" } else { "forbidden" };
            assert!(kind == expected || is_either, "{named} {}: {kind} {message}", uris[row]);
        }
    }
}

#[test]
fn every_hop_is_checked() {
    let (inside, outside) = (website(), WebServer::start_at("127.0.0.2"));
    outside.answer("/pub/image.png", 200, &[], &png_image(2));
    outside.redirect("/back", 302, &format!("{}/pub/image.png", inside.origin()));
    let (home, away) = (inside.origin(), outside.origin());
    let targets = [
        format!("{away}/pub/image.png"),
        format!("//{}/pub/image.png", outside.authority()),
        format!("{away}/back"),
        format!("http://me:secret@{}/pub/image.png", outside.authority()),
        format!("http://2130706434:{}/pub/image.png", outside.port()),
        format!("http://0x7f.0.0.2:{}/pub/image.png", outside.port()),
        format!("http://[::ffff:127.0.0.2]:{}/pub/image.png", outside.port()),
        format!("https://{}/pub/image.png", outside.authority()),
        "http://0.0.0.0:1/".to_owned(),
        "http://169.254.169.254/latest/meta-data/iam".to_owned(),
        "hop".to_owned(),
    ];
    inside.redirect("/pub/hop", 301, &format!("{away}/pub/image.png"));
    for (index, target) in targets.iter().enumerate() {
        inside.redirect(&format!("/pub/{index}"), [301, 302, 303, 307, 308][index % 5], target);
    }
    let mut uris: Vec<String> = (0..targets.len()).map(|index| format!("{home}/pub/{index}")).collect();
    uris.push(format!("{home}/pub/image.png"));
    let workplace = Workplace::with_images(1, 1000);
    let rows = outcomes(&workplace, allowing(public(&workplace, &uris), "\"127.0.0.1\""));
    for ((kind, message), target) in rows.iter().zip(&targets) {
        assert!(kind == "forbidden" && message.contains("`limits.allow_private_hosts`"), "{target}: {kind} {message}");
    }
    assert_eq!(rows.last().unwrap().0, "");
    assert!(outside.requests().is_empty(), "{:?}", outside.requests());
}

#[test]
fn a_bucket_of_a_private_service_redirects() {
    let (endpoint, node) = (WebServer::start(), WebServer::start_at("127.0.0.2"));
    endpoint.answer("/night/here.png", 200, &[], &png_image(3));
    endpoint.redirect("/night/moved.png", 307, "/night/here.png");
    endpoint.redirect("/night/away.png", 307, &format!("{}/node.png", node.origin()));
    node.answer("/node.png", 200, &[], &png_image(3));
    let uris = ["here", "moved", "away"].map(|name| format!("s3://night/{name}.png"));
    let run = |hosts: &str| {
        let workplace = Workplace::with_images(1, 1000);
        let mut command = allowing(public(&workplace, &uris), hosts);
        command.args(["--set", &format!("storage.endpoint={}", endpoint.origin()), "--set", "limits.outage_after=0"]);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        outcomes(&workplace, command).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    assert_eq!(run(""), ["", "", "forbidden"], "the operator has named the service, not the node");
    assert!(node.requests().is_empty(), "{:?}", node.requests());
    assert_eq!(run("\"127.0.0.2\""), ["", "", ""]);
}

#[test]
fn a_manifest_of_a_private_host_ends_the_job() {
    let (server, node) = (website(), WebServer::start_at("127.0.0.2"));
    let workplace = Workplace::with_images(1, 1000);
    server.redirect("/pub/moved.parquet", 302, &format!("{}/web.parquet", node.origin()));
    let run = |manifest: &str, hosts: &str| -> Output {
        let settings = format!("input.manifest={}/pub/{manifest}", server.origin());
        let mut command = workplace.command("run", &["--set", &settings, "--set", "output.path=web"]);
        command.args(["--set", "limits.retries=0", "--set", &format!("limits.allow_private_hosts=[{hosts}]")]);
        command.output().unwrap()
    };
    let cases = [("web.parquet", "", "127.0.0.1"), ("moved.parquet", "\"127.0.0.1\"", "127.0.0.2")];
    for (manifest, hosts, host) in cases {
        let refused = run(manifest, hosts);
        let log = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{log}");
        let expected = format!("{host} is this machine or one of a private network");
        assert!(log.contains(&expected) && log.contains("hint:") && log.contains("allow_private_hosts = ["), "{log}");
    }
    assert_eq!(server.targets(), ["/pub/moved.parquet"], "the other one was not even asked for");
    assert!(node.requests().is_empty() && !workplace.path("web/_nightcap").exists());
}

#[test]
fn a_proxy_is_connected_to_and_decides_about_names() {
    let (proxy, server) = (WebServer::start(), website());
    proxy.answer("http://images.example/a.png", 200, &[], &png_image(5));
    let uris = [
        "http://images.example/a.png".to_owned(),
        format!("{}/pub/image.png", server.origin()),
        format!("http://localhost:{}/pub/image.png", server.port()),
        "http://169.254.169.254/".to_owned(),
    ];
    // By address, and by a name that leads to a private one.
    for host in ["127.0.0.1", "localhost"] {
        let workplace = Workplace::with_images(1, 1000);
        let mut command = public(&workplace, &uris);
        command.env("http_proxy", format!("http://{host}:{}", proxy.port())).env_remove("HTTP_PROXY");
        command.env_remove("no_proxy").env_remove("NO_PROXY");
        let kinds: Vec<String> = outcomes(&workplace, command).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["", "forbidden", "forbidden", "forbidden"], "{host}");
    }
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    assert_eq!(proxy.targets(), ["http://images.example/a.png"]);
}

#[test]
fn private_hosts_are_no_outage() {
    let server = website();
    let mut uris = vec![format!("{}/pub/image.png", server.origin()); 30];
    uris.extend((0..30).map(|row| format!("http://10.0.0.{row}/a.png")));
    let workplace = Workplace::with_images(1, 1000);
    let mut command = public(&workplace, &uris);
    command.args(["--set", "limits.outage_after=3"]);
    assert!(outcomes(&workplace, command).iter().all(|(kind, _)| kind == "forbidden"));
    assert!(server.requests().is_empty(), "{:?}", server.requests());
}
