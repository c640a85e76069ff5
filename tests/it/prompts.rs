//! Prompts that are templates over manifest columns.

use std::path::Path;

use crate::common::{Workplace, repo, strings, write_parquet};

fn manifest(path: &Path, titles: [Option<&str>; 4]) {
    let columns = vec![
        ("id", strings((0..4).map(|row| Some(format!("row-{row}"))))),
        ("image", strings((0..4).map(|row| Some(format!("photos/{}.png", row % 2))))),
        ("title", strings(titles)),
    ];
    write_parquet(path, columns, 4);
}

fn workplace(titles: [Option<&str>; 4]) -> Workplace {
    let workplace = Workplace::with_pictures(2, 10);
    manifest(&workplace.path("manifest.parquet"), titles);
    workplace.job(&format!(
        "[input]\nmanifest = \"manifest.parquet\"\nkey = \"id\"\nimage = \"image\"\n\
         [model]\npath = \"{}\"\n[output]\npath = \"out\"\n[runtime]\nbatch_size = 4\nthreads = 1\n\
         [generation]\nmax_new_tokens = 6\n",
        repo("tests/fixtures/models/trocr").display()
    ));
    workplace
}

/// The captions of a run into `output` whose every row has `prompt`.
fn captions(workplace: &Workplace, output: &str, prompt: &str) -> Vec<Option<String>> {
    let prompt = format!("generation.prompt={}", toml::Value::from(prompt));
    workplace.run_ok(&["--set", &format!("output.path={output}"), "--set", &prompt]);
    workplace.rows(output, None).text("caption")
}

#[test]
fn a_template_is_filled_in_for_every_row() {
    let workplace = workplace([Some("baba"), Some("di ba"), None, Some("baba")]);
    let filled = captions(&workplace, "template", "ku {{ title }}");
    for (row, prompt) in ["ku baba", "ku di ba", "ku ", "ku baba"].into_iter().enumerate() {
        assert_eq!(captions(&workplace, &format!("fixed-{row}"), prompt)[row], filled[row], "{prompt}");
    }
    assert_ne!(filled[1], filled[3], "one picture, two prompts");
    let conditional = captions(&workplace, "conditional", "ku {% if title %}{{ title | upper | lower }}{% endif %}");
    assert_eq!(conditional, filled);
}

#[test]
fn a_changed_column_of_the_template_makes_the_row_new() {
    let workplace = workplace([Some("baba"), Some("di ba"), None, None]);
    let run = || {
        workplace.run_ok(&["--set", "generation.prompt=\"ku {{ title }}\""]);
        workplace.published("out").len()
    };
    assert_eq!((run(), run()), (1, 1), "nothing is new");
    manifest(&workplace.path("manifest.parquet"), [Some("baba"), Some("di"), None, None]);
    assert_eq!(run(), 2);
    let newest = workplace.published("out").into_iter().max().unwrap();
    assert_eq!(workplace.rows("out", Some(&newest)).text("id"), [Some("row-1".to_owned())]);
}

#[test]
fn templates_that_cannot_be_filled_in_are_refused_and_rows_fail_alone() {
    let workplace = workplace([Some("baba"), Some("di ba"), None, None]);
    let said = |prompt: &str| {
        let output = workplace.run(&["--set", &format!("generation.prompt={}", toml::Value::from(prompt))]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let unknown = said("ku {{ titel }}");
    assert!(
        unknown.contains("generation.prompt") && unknown.contains("titel") && unknown.contains("title"),
        "{unknown}"
    );
    let broken = said("ku {{ title ");
    assert!(broken.contains("is no template") && broken.contains("double braces"), "{broken}");
    workplace.run_ok(&["--set", "generation.prompt=\"{{ title + 1 if title == 'di ba' else title }}\""]);
    let rows = workplace.rows("out", None);
    let kinds = rows.text("error_kind");
    assert_eq!(kinds, [None, Some("invalid_prompt".to_owned()), None, None], "{:?}", rows.text("error_message"));
}
