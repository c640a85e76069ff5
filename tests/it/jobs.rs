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
    insta::assert_snapshot!(help(&["--help"]), @"");
    insta::assert_snapshot!(help(&["run", "--help"]), @"");
    insta::assert_snapshot!(help(&["manifest", "--help"]), @"");
    insta::assert_snapshot!(help(&["init", "--help"]), @"");
}

#[test]
fn the_readmes_job_file_parses_with_its_examples_too() {
    let readme = std::fs::read_to_string(repo("README.md")).unwrap();
    let block = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for text in [block.to_owned(), block.replace("\n# ", "\n")] {
        Job::parse(&text, "README.md", folder.path(), &[]).unwrap();
    }
}
