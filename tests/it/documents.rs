//! README.md and docs/: their code blocks are run, and their links are checked.
//!
//! The language of a code block says what is done with it, in the order of its page, in a folder that looks like a checkout in
//! which both jobs were run (`sample_data`, `jobs`, `out/sample`, `out/texts`), with some images in `photos`:
//!
//! | block | what is done |
//! |---|---|
//! | `sh` | bash runs it with `nightcap` on PATH; every command has to succeed |
//! | `sh no-run` | the options of its `nightcap` commands have to exist: it wants a network, a GPU or a cluster |
//! | `sql` | `DuckDB` runs it after the views of docs/queries.md; a query has to find rows, N of them if it begins with `-- N rows` |
//! | `python` | Python runs it; it has to print something, and the text of its last line if that is a comment |
//! | `python tools`, `sh tools` | the same with the tools that read exported files (tests/it/importers.rs) |
//! | `toml` | a job file, or some sections of one, parses as it is and with its commented examples; a `nightcap.toml` fits a model |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nightcap::job::Job;
use nightcap::row::error::ErrorKind;
use tempfile::TempDir;

use crate::common::{nightcap, read_parquet, repo};
use crate::readers::python;

/// A fenced block of code in a page.
#[derive(Clone)]
pub(crate) struct Block {
    /// `docs/job.md:12`.
    pub origin: String,
    /// The info string behind the fence.
    pub language: String,
    pub text: String,
}

/// The pages in docs/.
fn docs() -> Vec<String> {
    let files = std::fs::read_dir(repo("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<_> = files.filter_map(|name| Some(format!("docs/{}.md", name.strip_suffix(".md")?))).collect();
    pages.sort();
    assert!(pages.len() >= 6, "{pages:?}");
    pages
}

/// Every page that users read.
fn pages() -> Vec<String> {
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "benches/README.md",
        "jobs/export/README.md",
        "jobs/train/README.md",
        "sample_data/README.md",
        "sample_data/model/README.md",
    ];
    others.map(str::to_owned).into_iter().chain(docs()).collect()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(repo(page)).unwrap()
}

pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in (1..).zip(read(page).lines()) {
        if let Some(language) = line.strip_prefix("```") {
            if !inside {
                let origin = format!("{page}:{number}");
                blocks.push(Block { origin, language: language.to_owned(), text: String::new() });
            }
            inside = !inside;
        } else if inside {
            let block = blocks.last_mut().unwrap();
            block.text += line;
            block.text += "\n";
        }
    }
    assert!(!inside, "{page} has a block without an end");
    blocks
}

/// The first block of docs/queries.md in `language`: the views in SQL, and the same in Polars.
pub(crate) fn views(language: &str) -> String {
    let mut found = blocks("docs/queries.md").into_iter().filter(|block| block.language == language);
    found.next().unwrap().text
}

/// The folder in which a page's blocks are run.
struct Checkout(TempDir);

impl Checkout {
    fn new() -> Self {
        let checkout = Self(tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(repo("sample_data"), checkout.path("sample_data")).unwrap();
        for (from, to) in [("jobs", "jobs"), ("sample_data/photos", "photos")] {
            std::fs::create_dir(checkout.path(to)).unwrap();
            for entry in std::fs::read_dir(repo(from)).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    std::fs::copy(entry.path(), checkout.path(to).join(entry.file_name())).unwrap();
                }
            }
        }
        for job in ["sample", "texts"] {
            let run = nightcap().arg("run").arg(checkout.path(&format!("jobs/{job}.toml"))).output().unwrap();
            assert!(run.status.success(), "{}", said(&run));
        }
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Does what `block` asks for.
    fn follow(&self, block: &Block, python: &str) {
        let in_python = |script: &str| {
            let run = Command::new(python).args(["-c", script]).current_dir(self.0.path()).output().unwrap();
            assert!(run.status.success(), "{}\n{script}\n{}", block.origin, said(&run));
            String::from_utf8(run.stdout).unwrap()
        };
        match block.language.as_str() {
            "sh" => {
                let folder = Path::new(env!("CARGO_BIN_EXE_nightcap")).parent().unwrap();
                let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
                let mut bash = Command::new("bash");
                for (name, value) in nightcap().get_envs() {
                    assert!(value.is_none(), "{} is only taken away", name.display());
                    bash.env_remove(name);
                }
                bash.args(["-euo", "pipefail", "-c", &block.text]).env("PATH", path).current_dir(self.0.path());
                let run = bash.output().unwrap();
                assert!(run.status.success(), "{}\n{}\n{}", block.origin, block.text, said(&run));
            }
            "sql" => {
                let views = views("sql");
                let views = if block.text == views { String::new() } else { views };
                let rows: Vec<usize> = serde_json::from_str(&in_python(&format!(
                    "import duckdb, json\n\
                     duckdb.execute({views:?})\n\
                     found = []\n\
                     for statement in duckdb.extract_statements({:?}):\n    \
                         rows = duckdb.execute(statement).fetchall()\n    \
                         if statement.type == duckdb.StatementType.SELECT: found.append(len(rows))\n\
                     print(json.dumps(found))",
                    block.text
                )))
                .unwrap();
                let first = block.text.lines().next().unwrap_or_default();
                match first.strip_prefix("-- ").and_then(|first| first.strip_suffix(" rows")) {
                    Some(expected) => assert_eq!(rows, [expected.parse::<usize>().unwrap()], "{}", block.origin),
                    None => assert!(rows.iter().all(|rows| *rows > 0), "{}: {rows:?} rows", block.origin),
                }
            }
            "python" => {
                let printed = in_python(&block.text);
                let last = block.text.lines().last().unwrap_or_default();
                let expected = last.strip_prefix("# ").unwrap_or_default();
                assert!(!printed.is_empty() && printed.contains(expected), "{}: {printed}", block.origin);
            }
            language => panic!("{}: {language} is not run", block.origin),
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The blocks of a page that are run.
fn blocks_to_run(page: &str) -> Vec<Block> {
    blocks(page).into_iter().filter(|block| ["sh", "sql", "python"].contains(&block.language.as_str())).collect()
}

/// Does what a page says, from its first block to its last.
fn follow(page: &str, python: &str) -> Checkout {
    let checkout = Checkout::new();
    for block in blocks_to_run(page) {
        checkout.follow(&block, python);
    }
    checkout
}

/// The keys of a job file with their sections, also those that are commented out.
fn keys(job: &str) -> BTreeSet<String> {
    let (mut section, mut keys) = (String::new(), BTreeSet::new());
    for line in job.lines() {
        if let Some(header) = line.strip_prefix('[') {
            header.split(']').next().unwrap().clone_into(&mut section);
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

#[test]
fn the_readme_leads_from_a_folder_of_images_to_captions() {
    let Some(python) = python() else { return };
    let checkout = follow("README.md", &python);
    let written = std::fs::read_to_string(checkout.path("job.toml")).unwrap();
    let documented = blocks("docs/job.md").into_iter().find(|block| block.language == "toml").unwrap();
    assert_eq!(keys(&written), keys(&documented.text), "`nightcap init` writes every key, and docs/job.md has them");
}

#[test]
fn commands_and_queries_in_docs_run() {
    let Some(python) = python() else { return };
    let pages: Vec<_> = docs().into_iter().filter(|page| !blocks_to_run(page).is_empty()).collect();
    for page in &pages {
        follow(page, &python);
    }
    assert!(pages.contains(&"docs/queries.md".to_owned()), "{pages:?}");
}

#[test]
fn job_files_in_the_documents_parse_with_their_examples_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut sections = BTreeSet::new();
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.language == "toml") {
        if block.text.contains("[graphs]") || block.text.contains("[bind]") {
            continue;
        }
        for text in [block.text.clone(), block.text.replace("\n# ", "\n")] {
            let written: toml::Table =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", block.origin));
            sections.extend(written.keys().cloned());
            let mut whole: toml::Table = toml::from_str(
                "input = { manifest = 'm.parquet', key = 'id', image = 'image' }\nmodel = { path = 'model' }\noutput = { path = 'out' }",
            )
            .unwrap();
            for (section, keys) in written {
                let table = whole.entry(section).or_insert_with(|| toml::Table::new().into());
                table.as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
            }
            Job::parse(&toml::to_string(&whole).unwrap(), &block.origin, folder.path(), &[])
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
    let all = ["embedding", "generation", "input", "limits", "model", "output", "runtime", "storage"];
    assert!(sections.iter().eq(all), "{sections:?}");
}

/// A copy of the sample's model whose image graph has the name that the documents give it.
#[test]
fn the_documents_nightcap_toml_fits_a_model() {
    let examples: Vec<_> =
        docs().iter().flat_map(|page| blocks(page)).filter(|block| block.text.contains("[graphs]")).collect();
    assert_eq!(examples.len(), 1);
    let example: toml::Table = toml::from_str(&examples[0].text).unwrap();
    let model = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(repo("sample_data/model")).unwrap().map(Result::unwrap) {
        std::os::unix::fs::symlink(entry.path(), model.path().join(entry.file_name())).unwrap();
    }
    let vision = example["graphs"]["vision"].as_str().unwrap();
    std::fs::rename(model.path().join("vision_model.onnx"), model.path().join(vision)).unwrap();
    std::fs::write(model.path().join("nightcap.toml"), &examples[0].text).unwrap();
    let inspect = nightcap().args(["model", "inspect"]).arg(model.path()).output().unwrap();
    assert!(inspect.status.success() && said(&inspect).contains(vision), "{}", said(&inspect));
}

#[test]
fn commands_that_are_not_run_have_options_that_exist() {
    let mut checked = 0;
    for block in pages().iter().flat_map(|page| blocks(page)).filter(|block| block.language == "sh no-run") {
        let lines = block.text.replace("\\\n", " ");
        for line in lines.lines().filter(|line| line.starts_with("nightcap ")) {
            let help = format!("{} --help", line.split(" #").next().unwrap().replacen("nightcap", "\"$0\"", 1));
            let run = Command::new("bash").args(["-c", &help, env!("CARGO_BIN_EXE_nightcap")]).output().unwrap();
            assert!(run.status.success(), "{}: {line}\n{}", block.origin, said(&run));
            checked += 1;
        }
    }
    assert!(checked > 2, "{checked} commands");
}

#[test]
fn every_command_and_option_is_documented() {
    let page = read("docs/job.md");
    let help = |words: &[&str]| said(&nightcap().args(words).arg("--help").output().unwrap());
    let commands = |help: &str| -> Vec<String> {
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
        names.filter(|name| !name.is_empty() && name != "help").collect()
    };
    let (mut documented, mut undocumented) = (0, Vec::new());
    for command in commands(&help(&[])) {
        let within = commands(&help(&[&command]));
        let leaves = if within.is_empty() {
            vec![command]
        } else {
            within.iter().map(|leaf| format!("{command} {leaf}")).collect()
        };
        for leaf in leaves {
            let help = help(&leaf.split(' ').collect::<Vec<_>>());
            let starts = |line: &str| line.trim_start().starts_with('-');
            let options = help.lines().filter(|line| starts(line)).flat_map(|line| line.split([' ', ',']));
            let options = options.filter(|word| word.starts_with("--") && *word != "--help");
            // an optional value: --name[=<VALUE>]
            let options = options.map(|word| word.split('[').next().unwrap_or(word).to_owned());
            let row = page.lines().find(|line| line.starts_with(&format!("nightcap {leaf} "))).unwrap_or_default();
            let missing: Vec<_> =
                options.filter(|option| !row.contains(option.as_str()) && option != "--log-format").collect();
            if row.is_empty() || !missing.is_empty() {
                undocumented.push(format!("nightcap {leaf}: {missing:?}"));
            }
            documented += 1;
        }
    }
    assert!(undocumented.is_empty() && documented >= 8, "docs/job.md lacks {undocumented:?} ({documented} commands)");
    assert!(page.contains("--log-format"));
}

#[test]
fn every_output_column_is_documented() {
    let (page, checkout) = (read("docs/output.md"), Checkout::new());
    for (job, carried) in
        [("sample", ["id", "image", "title", "source", "licence"].as_slice()), ("texts", &["id", "text"])]
    {
        let run = std::fs::read_dir(checkout.path(&format!("out/{job}"))).unwrap().map(|entry| entry.unwrap().path());
        let run = run.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("run=")).unwrap();
        let part = read_parquet(&run.join("part-000000.parquet"));
        for field in part.schema().fields().iter().filter(|field| !carried.contains(&field.name().as_str())) {
            assert!(page.contains(&format!("`{}`", field.name())), "docs/output.md does not tell of {}", field.name());
        }
    }
}

#[test]
fn every_error_kind_is_documented() {
    let page = read("docs/output.md");
    let table = page.split("## Error kinds").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: BTreeSet<_> = table
        .lines()
        .filter_map(|line| {
            let [name, _stage, permanent] = line.strip_prefix("| `")?.splitn(4, " | ").take(3).collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            Some((name.trim_end_matches('`'), permanent))
        })
        .collect();
    let known = ErrorKind::ALL.iter().map(|kind| (kind.as_str(), if kind.is_transient() { "no" } else { "yes" }));
    assert_eq!(documented, known.collect(), "the kinds in docs/output.md, and whether each is permanent");
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    let mut inside = false;
    let text = read(page);
    let headings = text.lines().filter(|line| {
        inside ^= line.starts_with("```");
        !inside && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.starts_with("http") || target.starts_with('<') {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { page.clone() } else { beside(&page, path) };
            assert!(repo(&file).exists(), "{page}: {target} leads nowhere");
            assert!(
                anchor.is_empty() || anchors(&file).iter().any(|found| found == anchor),
                "{page}: no anchor {target}"
            );
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed} links");
}

/// The path of a link in `page`, relative to the repository.
fn beside(page: &str, path: &str) -> String {
    let mut folder: Vec<_> = page.split('/').collect();
    folder.pop();
    for step in path.split('/') {
        match step {
            ".." => drop(folder.pop().unwrap()),
            step => folder.push(step),
        }
    }
    folder.join("/")
}
