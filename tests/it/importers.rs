//! The tools that docs/queries.md names read an exported file: the page's blocks `python tools` and `sh tools` are run as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::{nightcap, repo, skip};
use crate::documents::{Block, blocks};

/// The Python that `make` prepares in `.venv-importers` (`NIGHTCAP_IMPORTERS_PYTHON`); None skips.
fn python() -> Option<PathBuf> {
    let python =
        std::env::var_os("NIGHTCAP_IMPORTERS_PYTHON").map_or_else(|| repo(".venv-importers/bin/python"), PathBuf::from);
    if python.exists() && python.with_file_name("../.installed").exists() {
        return Some(python);
    }
    skip(&format!("{} is missing; `make test` installs it", python.display()));
    None
}

/// A command in `folder` that finds the tools, keeps its caches there and asks no hub.
///
/// `PostgreSQL` refuses to be run by root: then its user is `nobody` in a namespace of its own, where root's files stay readable.
fn command(folder: &Path, python: &Path, words: &[&str]) -> Output {
    let path = format!("{}:{}", python.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut all = vec!["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"];
    if !rustix::process::geteuid().is_root() {
        all.clear();
    }
    all.extend(words);
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).current_dir(folder).env("PATH", path).env("HOME", folder);
    for name in ["XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "HF_HOME"] {
        command.env(name, folder.join(name));
    }
    command.env("HF_HUB_OFFLINE", "1").output().unwrap()
}

/// Runs a block; what it has printed.
fn follow(block: &Block, folder: &Path, python: &Path) -> String {
    let words = match block.language.as_str() {
        "python tools" => ["python", "-c", &block.text],
        _ => ["bash", "-euc", &block.text],
    };
    let output = command(folder, python, &words);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{}\n{said}", block.origin, block.text);
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with `captions.parquet`: the sample's rows as the page exports them.
fn exported() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(repo("sample_data"), folder.path().join("sample_data")).unwrap();
    std::fs::create_dir(folder.path().join("jobs")).unwrap();
    std::fs::copy(repo("jobs/sample.toml"), folder.path().join("jobs/sample.toml")).unwrap();
    let commands = blocks("docs/queries.md").into_iter().filter(|block| block.language == "sh");
    let export = commands.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
    let export = export.into_iter().find(|line| line.starts_with("nightcap export ")).unwrap();
    for line in ["nightcap run jobs/sample.toml", &export] {
        let output = nightcap().args(line.split(' ').skip(1)).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    folder
}

#[test]
fn the_tools_of_the_page_read_an_exported_file() {
    let Some(python) = python() else { return };
    let folder = exported();
    let run = |code: &str| {
        let output = command(folder.path(), &python, &["python", "-c", code]);
        assert!(output.status.success(), "{code}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // `INSTALL vss` of the page downloads nothing where the extension is there: the same file, from its package.
    run("from duckdb_extensions import import_extension; import_extension('vss')");
    let nearest = run("import polars as pl\n\
         rows = pl.read_parquet('captions.parquet')\n\
         vectors = rows['image_embedding'].to_numpy()\n\
         print(*rows['id'][(-vectors @ vectors[0]).argsort()[:3].tolist()])");
    let nearest: Vec<&str> = nearest.split_whitespace().collect();
    let (mut indexes, mut pictures, mut silent) = (0, 0, 0);
    for block in blocks("docs/queries.md").iter().filter(|block| block.language.ends_with(" tools")) {
        let printed = follow(block, folder.path(), &python);
        // An index answers with the row itself and its two nearest, in this order.
        let words: Vec<&str> = printed.split(['\'', '"']).filter(|word| nearest.contains(word)).collect();
        match (words.is_empty(), printed.starts_with("(128, ")) {
            (false, _) => {
                assert_eq!(words, nearest, "{}: {printed}", block.origin);
                indexes += 1;
            }
            (true, true) => pictures += 1,
            (true, false) => silent += 1,
        }
    }
    assert_eq!((indexes, pictures, silent), (6, 1, 2));
    // What the page of embedding-atlas shows is the whole file.
    let shown = run("import io, zipfile, polars as pl\n\
         shown = pl.read_parquet(io.BytesIO(zipfile.ZipFile('atlas.zip').read('data/dataset.parquet')))\n\
         rows = pl.read_parquet('captions.parquet')\n\
         assert shown['caption'].to_list() == rows['caption'].to_list()\n\
         near = [row['ids'] for row in shown['neighbors'].to_list()]\n\
         assert near == [row['ids'] for row in rows['neighbors'].to_list()]\n\
         assert all(picture['bytes'][:2] == b'\\xff\\xd8' for picture in shown['thumbnail'].to_list())\n\
         print(len(shown))");
    assert_eq!(shown.trim(), "32");
}
