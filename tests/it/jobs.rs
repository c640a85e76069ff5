//! The job files in `jobs/`, and the help texts of the command line.

use nightcap::job::Job;

use crate::common::{nightcap, repo};

#[test]
fn every_job_file_parses() {
    let mut parsed = 0;
    for entry in std::fs::read_dir(repo("jobs")).unwrap() {
        let path = entry.unwrap().path();
        // The other TOML file there says how the Python is checked.
        if path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with("pyproject.toml") {
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

fn help(arguments: &[&str]) -> String {
    String::from_utf8(nightcap().args(arguments).output().unwrap().stdout).unwrap()
}

#[test]
fn help_says_what_there_is() {
    insta::assert_snapshot!(help(&["--help"]), @r"
    Captions image collections overnight and builds search indexes from them: Parquet in, Parquet out

    Usage: nightcap [OPTIONS] <COMMAND>

    Commands:
      manifest     Write a manifest of the images in a folder: paths, sizes, modification times
      init         Write a commented job file for a manifest or a folder of images
      run          Run a job: caption and embed every selected row, write parts, publish the run
      plan         Say what `run` would do: rows, parts, bytes, columns. Writes nothing
      status       List the runs of an OUTPUT: parts, counts, failures by kind
      finalize     Check that all parts of a run exist, then publish it
      discard      Remove an unpublished run
      search       Find the rows whose vectors are nearest to a text, an image or another row
      eval         Score the captions and vectors of an OUTPUT against reference captions
      sample       Show the captions of some rows of an OUTPUT
      report       Write a page about an OUTPUT: what ran, distributions, pictures with their captions, failures, changes
      export       Write the newest ok rows as one Parquet file for other tools, with thumbnails and neighbors if asked for
      compact      Rewrite the newest row of every key into one run that replaces the others, which are removed after a while
      model        Explain a model directory, or what loading it does
      doctor       Say what this machine has of what jobs may need: ONNX Runtime, GPUs, credentials, caches
      completions  Print the completions of a shell
      man          Write man pages into a folder
      help         Print this message or the help of the given subcommand(s)

    Options:
          --log-format <LOG_FORMAT>
              Form of the log lines on stderr

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
              Also take rows that failed permanently

          --full
              Take every row, even if it is unchanged since it was published

          --run-id <ID>
              Name of the run to start or resume. Default: resume this job's unfinished run, or start one named like `r20261123t041500z-k3f9`

          --shard <I/N>
              Make only every Nth part, starting with part I (0 to N-1); `/N` takes I from `JOB_COMPLETION_INDEX` or `AWS_BATCH_JOB_ARRAY_INDEX`

          --metrics-file <PATH>
              Write metrics for Prometheus to this file, every 15 seconds and at the end

          --ping <URL>
              Request URL/start at the start, URL at the end, or URL/STATUS if the exit status is not 0. Default: the environment variable `NIGHTCAP_PING_URL`, which other users of the machine cannot see

          --log-format <LOG_FORMAT>
              Form of the log lines on stderr

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')
    ");
}

#[test]
fn help_of_the_first_commands() {
    insta::assert_snapshot!(help(&["manifest", "--help"]), @r"
    Write a manifest of the images in a folder: paths, sizes, modification times

    Usage: nightcap manifest [OPTIONS] --output <FILE.parquet> <FOLDER>

    Arguments:
      <FOLDER>
              The folder of images, searched with all folders below it, or tar shards: a path, a glob, or a URI of s3://, gs:// or az://

    Options:
      -o, --output <FILE.parquet>
              The Parquet file to write. An existing one is replaced

          --skip-unreadable
              Leave out folders that this user may not read, instead of refusing to write an incomplete manifest

          --log-format <LOG_FORMAT>
              Form of the log lines on stderr

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')
    ");
    insta::assert_snapshot!(help(&["init", "--help"]), @r"
    Write a commented job file for a manifest or a folder of images

    Usage: nightcap init [OPTIONS] <FOLDER|MANIFEST>

    Arguments:
      <FOLDER|MANIFEST>
              A manifest (Parquet file, folder of them, glob or URI), or a folder of images, for which manifest.parquet is written beside the job file

    Options:
      -o, --output <JOB.toml>
              The job file to write. An existing one is never replaced
              
              [default: job.toml]

          --model <DIR>
              The model directory. Default: `model` or `sample_data/model` beside the job file, if there is one

          --key <COLUMN>
              The column that names a row. Default: chosen by type and name

          --image <COLUMN>
              The column with the images. Default: chosen by type and name

          --text <COLUMN>
              The column with a text that comes with the image. Default: chosen by type and name

          --log-format <LOG_FORMAT>
              Form of the log lines on stderr

              Possible values:
              - text: For people
              - json: One JSON object a line
              
              [default: text]

      -h, --help
              Print help (see a summary with '-h')
    ");
}
