//! `nightcap sample`: which rows are shown, and how.

use crate::common::{Workplace, nightcap, said};

fn sample(workplace: &Workplace, columns: &str, arguments: &[&str]) -> String {
    let mut command = nightcap();
    let output =
        command.args(["sample", "out"]).args(arguments).env("COLUMNS", columns).current_dir(workplace.path(""));
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The keys that are shown, in their order.
fn keys(table: &str) -> Vec<&str> {
    table.lines().filter(|line| line.starts_with("row-")).map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn some_rows_are_shown_in_the_order_of_their_keys() {
    let workplace = Workplace::with_images(40, 7);
    std::fs::write(workplace.path("photos/4.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "first", "--set", "limits.max_failed_fraction=1.0"]);
    let all = sample(&workplace, "120", &["--n", "100"]);
    assert!(all.starts_with("40 rows, 39 ok, 1 failed; 40 of them:\n\nid"), "{all}");
    assert!(all.contains("row-0004              [unsupported_format] "), "{all}");
    assert_eq!(keys(&all), (0..40).map(|row| format!("row-{row:04}")).collect::<Vec<_>>());
    let caption = workplace.rows("out", None).text("caption")[9].clone().unwrap();
    assert!(
        all.lines().any(|line| line.starts_with("row-0009  ") && line.contains(caption.split(' ').next().unwrap())),
        "{all}"
    );

    let some = sample(&workplace, "120", &["--n", "5"]);
    let mut sorted = keys(&some);
    sorted.sort_unstable();
    assert_eq!((keys(&some).len(), keys(&some)), (5, sorted));
    assert_eq!(some, sample(&workplace, "120", &["--n", "5", "--seed", "0"]));
    assert_ne!(some, sample(&workplace, "120", &["--n", "5", "--seed", "1"]));
    assert_eq!(keys(&sample(&workplace, "120", &[])).len(), 20);

    // A row is still the same row after a compaction, and one that is new is shown as it is now.
    std::fs::write(workplace.path("photos/5.png"), b"no image").unwrap();
    workplace.run_ok(&["--run-id", "second", "--set", "limits.max_failed_fraction=1.0"]);
    let compacted = nightcap().args(["compact", "out"]).current_dir(workplace.path("")).output().unwrap();
    assert!(compacted.status.success(), "{}", said(&compacted));
    let again = sample(&workplace, "120", &["--n", "5"]);
    assert_eq!(keys(&again), keys(&some));
    assert!(sample(&workplace, "120", &["--n", "100"]).starts_with("40 rows, 38 ok, 2 failed; 40 of them:"));
}

#[test]
fn tables_fit_the_terminal() {
    let workplace = Workplace::with_images(4, 4);
    workplace.run_ok(&[]);
    for columns in [40, 60, 200] {
        let table = sample(&workplace, &columns.to_string(), &[]);
        assert!(table.lines().skip(2).all(|line| line.chars().count() <= columns), "{columns}\n{table}");
        assert_eq!(keys(&table).len(), 4);
    }
}
