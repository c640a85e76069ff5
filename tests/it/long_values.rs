//! `error_message` is bounded, and never shows a long value of a column in full.

use crate::common::{Workplace, strings, write_parquet};
use crate::web::WebServer;

#[test]
fn messages_about_long_values_are_short_wherever_the_value_goes() {
    let (server, workplace) = (WebServer::start(), Workplace::with_images(1, 100));
    let job = std::fs::read_to_string(workplace.path("job.toml")).unwrap();
    workplace.job(&job.replace(
        "[runtime]",
        "[limits]\nmin_failed_rows = 1000\nretries = 0\noutage_after = 0\nallow_private_hosts = \"127.0.0.1\"\n[runtime]",
    ));
    let (long, origin) = ("x".repeat(3000), server.origin());
    let segments = vec!["deep words"; 300].join("/");
    let odd = vec!["a//b\t\u{1}\u{e9}"; 300].join(" ");
    let mut images = Vec::new();
    for value in [long, segments, odd] {
        images.extend([
            value.clone(),
            format!("/nowhere/{value}.png"),
            format!("file:///{value}"),
            format!("file://{value}/a.png"),
            format!("{value}://host/a.png"),
            format!("s3://{value}/a.png"),
            format!("s3:/{value}"),
            format!("s3://night//{value}.png"),
            format!("s3://night/{value}/"),
            format!("{origin}/{value}.png"),
            format!("{origin}/a.png?{value}#{value}"),
            format!("http://{value}/a.png"),
            format!("http:{value}@x/a.png"),
            format!("data:image/png;base64,{value}"),
            format!("data:{value}"),
        ]);
    }
    let columns = vec![
        ("id", strings(images.iter().enumerate().map(|(row, _)| Some(format!("row-{row:04}"))))),
        ("image", strings(images.iter().map(|image| Some(image.clone())))),
        ("title", strings(images.iter().map(|_| None::<&str>))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 16);
    let mut run = workplace.command("run", &[]);
    crate::seaweed::with_s3(&mut run, &origin);
    let run = run.output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let messages = workplace.rows("out", None).text("error_message");
    for (image, message) in images.iter().zip(&messages) {
        let message = message.as_ref().unwrap_or_else(|| panic!("{image:.40} did not fail"));
        assert!((1..=300).contains(&message.chars().count()), "{message}");
        assert!(!message.contains(image.as_str()) && !message.chars().any(char::is_control), "{message}");
    }
}
