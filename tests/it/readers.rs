//! The output as its readers see it: real `DuckDB` and real Polars, from their Python packages.

use std::process::Command;

use crate::common::{Workplace, repo, skip};

/// The Python with `duckdb` and `polars`, which `make setup` prepares; None skips, except where nothing may be skipped.
pub(crate) fn python() -> Option<String> {
    let python =
        std::env::var("NIGHTCAP_PYTHON").unwrap_or_else(|_| repo(".venv/bin/python").to_string_lossy().into_owned());
    let ready = Command::new(&python)
        .args(["-c", "import duckdb, polars"])
        .output()
        .is_ok_and(|output| output.status.success());
    if ready {
        return Some(python);
    }
    skip(&format!("{python} cannot import duckdb and polars; `make setup` installs them"));
    None
}

#[test]
fn duckdb_and_polars_read_what_was_written() {
    let Some(python) = python() else { return };
    let workplace = Workplace::with_images(20, 6);
    std::fs::write(workplace.path("photos/7.png"), b"not an image").unwrap();
    std::fs::write(workplace.path("photos/8.png"), b"").unwrap();
    workplace.run_ok(&[]);
    let script = repo("tests/readers/check_output.py");
    let output = Command::new(python).arg(script).arg(workplace.path("out")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["rows"], &summary["ok"], &summary["failed"]), (&20.into(), &18.into(), &2.into()));
    let written = workplace.rows("out", None);
    let names: std::collections::BTreeSet<_> =
        written.0.schema().fields().iter().map(|field| field.name().clone()).collect();
    let read: std::collections::BTreeSet<_> =
        summary["columns"].as_object().unwrap().keys().filter(|name| *name != "run").cloned().collect();
    assert_eq!(read, names);
}
