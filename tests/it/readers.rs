//! The output as its readers see it: real `DuckDB` and real Polars, from their Python packages.

use std::process::Command;

use crate::common::{Workplace, nightcap, repo};

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
    assert!(std::env::var("NIGHTCAP_NO_SKIP").is_err(), "{python} cannot import duckdb and polars; run `make setup`");
    eprintln!("skipped: {python} cannot import duckdb and polars; `make setup` installs them");
    None
}

#[test]
fn duckdb_and_polars_read_what_was_written() {
    let Some(python) = python() else { return };
    let workplace = Workplace::with_pictures(20, 6);
    std::fs::write(workplace.path("photos/7.png"), b"not a picture").unwrap();
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

/// The code blocks of the README in `language`.
pub(crate) fn readme_blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(repo("README.md")).unwrap();
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_readmes_queries_run_on_the_sample_photographs() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    for job in ["sample", "texts"] {
        let set = format!("output.path={}", folder.path().join("out").join(job).display());
        let run = nightcap().arg("run").arg(repo(&format!("jobs/{job}.toml"))).args(["--set", &set]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
    let (queries, scripts) = (readme_blocks("sql"), readme_blocks("python"));
    assert_eq!((queries.len(), scripts.len()), (4, 1));
    let views = &queries[0];
    let count = |query| format!("import duckdb\nduckdb.sql({views:?})\nprint(len(duckdb.sql({query:?}).fetchall()))\n");
    let counted = queries[1..].iter().map(count);
    let said: Vec<String> = counted
        .chain(scripts)
        .map(|script| {
            let output = Command::new(&python).args(["-c", &script]).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    assert_eq!(
        said[..3],
        ["32\n", "5\n", "12\n"],
        "32 good photographs, 5 similar ones, a picture for each of 12 texts"
    );
    assert!(said[3].contains("shape: (32, 3)"), "{}", said[3]);
}
