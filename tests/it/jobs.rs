//! The job files in `jobs/` and the command line's own words.

use nightcap::job::Job;

use crate::common::{nightcap, repo};

#[test]
fn every_job_file_parses() {
    let mut parsed = 0;
    for entry in std::fs::read_dir(repo("jobs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Job::load(&path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            parsed += 1;
        }
    }
    assert!(parsed >= 2);
}

#[test]
fn overrides_take_toml_values_and_bare_strings() {
    let set = ["runtime.batch_size=3", "output.path=/elsewhere", "embedding.text=false", "input.where=\"a = 'b'\""];
    let job = Job::load(&repo("jobs/sample.toml"), &set.map(str::to_owned)).unwrap();
    assert_eq!(job.runtime.batch_size, Some(3));
    assert_eq!(job.output.path.local(), Some(std::path::Path::new("/elsewhere")));
    assert_eq!(job.embedding.text, Some(false));
    assert_eq!(job.input.predicate.as_deref(), Some("a = 'b'"));
}

#[test]
fn help_says_what_there_is() {
    let help = |arguments: &[&str]| String::from_utf8(nightcap().args(arguments).output().unwrap().stdout).unwrap();
    insta::assert_snapshot!(help(&["--help"]), @r"
    Captions image collections overnight and builds search indexes from them: Parquet in, Parquet out

    Usage: nightcap [OPTIONS] <COMMAND>

    Commands:
      run       Run a job: caption and embed every selected row, write parts, publish the run
      plan      Say what `run` would do: rows, parts, bytes, columns. Writes nothing
      status    List the runs of an OUTPUT: parts, counts, failures by kind
      finalize  Check that every part of a run is there, then publish it
      discard   Remove an unpublished run
      compact   Rewrite the newest row of every key into one run and remove the runs it replaces
      model     Look at a model directory
      help      Print this message or the help of the given subcommand(s)

    Options:
          --log-format <LOG_FORMAT>
              How log lines on stderr look

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version
    ");
    insta::assert_snapshot!(help(&["run", "--help"]), @r"
    Run a job: caption and embed every selected row, write parts, publish the run

    Usage: nightcap run [OPTIONS] <JOB.toml>

    Arguments:
      <JOB.toml>
              The job file

    Options:
          --set <SECTION.KEY=VALUE>
              Set a key of the job file, as in `--set runtime.batch_size=8`

          --limit <N>
              Take only the first N rows that are new or changed

          --retry-failed
              Take permanently failed rows again, too

          --full
              Take every row, also what is unchanged since it was published

          --run-id <ID>
              Name the run, or go on with the run of that name. Default: go on with this job's unfinished run, or start one named like `r20261123t041500z`

          --shard <I/N>
              Make only every Nth part, starting with part I; `/N` takes I from `JOB_COMPLETION_INDEX` or `AWS_BATCH_JOB_ARRAY_INDEX`

          --log-format <LOG_FORMAT>
              How log lines on stderr look

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')
    ");
}
