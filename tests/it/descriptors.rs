//! A process that runs out of its own file descriptors: no row is lost to that.

use crate::common::Workplace;

#[test]
fn too_few_descriptors_fail_no_row() {
    let workplace = Workplace::with_images(40, 10);
    let binary = env!("CARGO_BIN_EXE_nightcap");
    let mut ended = Vec::new();
    for limit in (12..=60).step_by(4).chain([64, 70, 80, 100, 128]) {
        let output = workplace.path(&format!("out-{limit}"));
        let command = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let job = format!("output.path={}", output.display());
        let run = std::process::Command::new("sh")
            .args(["-c", &command, binary, "run", workplace.path("job.toml").to_str().unwrap(), "--set", &job])
            .args(["--set", "limits.outage_after=0"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        let code = run.status.code();
        assert!(matches!(code, Some(0 | 2 | 75)) && !said.contains("panic"), "{limit}: {code:?} {said}");
        let name = format!("out-{limit}");
        if output.exists() {
            for run in workplace.published(&name) {
                assert!(
                    workplace.rows(&name, Some(&run)).text("error_kind").iter().all(Option::is_none),
                    "{limit}: {said}"
                );
            }
            // Nor in the parts of a run that is not published yet.
            for entry in std::fs::read_dir(&output).unwrap() {
                let folder = entry.unwrap().path();
                let Some(run) = folder.file_name().unwrap().to_str().unwrap().strip_prefix("run=").map(str::to_owned)
                else {
                    continue;
                };
                for (part, _) in workplace.parts(&name, &run) {
                    let rows = crate::common::Rows(crate::common::read_parquet(&folder.join(part)));
                    assert!(rows.text("error_kind").iter().all(Option::is_none), "{limit}: {said}");
                }
            }
        }
        if code == Some(2) {
            assert!(said.contains("ulimit -n"), "{limit}: {said}");
        }
        ended.push((limit, code));
    }
    assert!(ended.iter().any(|(_, code)| *code == Some(2)) && ended.last().unwrap().1 == Some(0), "{ended:?}");
}
