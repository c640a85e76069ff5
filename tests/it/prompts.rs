//! Prompts that are templates over manifest columns.

use std::path::{Path, PathBuf};

use crate::common::{Workplace, repo, strings, write_parquet};
use crate::generation::fixture;

fn manifest(path: &Path, titles: [Option<&str>; 4]) {
    let columns = vec![
        ("id", strings((0..4).map(|row| Some(format!("row-{row}"))))),
        ("image", strings((0..4).map(|row| Some(format!("photos/{}.png", row % 2))))),
        ("title", strings(titles)),
    ];
    write_parquet(path, columns, 4);
}

fn workplace(titles: [Option<&str>; 4]) -> Workplace {
    let workplace = Workplace::with_images(2, 10);
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
    assert_ne!(filled[1], filled[3], "one image, two prompts");
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
    let first = workplace.published("out");
    assert_eq!(run(), 2);
    let newest = workplace.published("out").into_iter().find(|run| !first.contains(run)).unwrap();
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
    assert!(broken.contains("is not a template") && broken.contains("double braces"), "{broken}");
    workplace.run_ok(&["--set", "generation.prompt=\"{{ title + 1 if title == 'di ba' else title }}\""]);
    let rows = workplace.rows("out", None);
    let kinds = rows.text("error_kind");
    assert_eq!(kinds, [None, Some("invalid_prompt".to_owned()), None, None], "{:?}", rows.text("error_message"));
}

/// A workplace of `model` with a row for each of `titles`.
fn of_model(model: &Path, titles: &[String], settings: &str) -> Workplace {
    let workplace = Workplace::with_images(1, 100);
    let columns = vec![
        ("id", strings((0..titles.len()).map(|row| Some(format!("row-{row}"))))),
        ("image", strings(titles.iter().map(|_| Some("photos/0.png")))),
        ("title", strings(titles.iter().map(Some))),
    ];
    write_parquet(&workplace.path("manifest.parquet"), columns, 100);
    workplace.job(&format!(
        "[input]\nmanifest = \"manifest.parquet\"\nkey = \"id\"\nimage = \"image\"\n[model]\npath = \"{}\"\n\
         [output]\npath = \"out\"\n[runtime]\nbatch_size = 4\nthreads = 1\n[generation]\n{settings}",
        model.display()
    ));
    workplace
}

fn words(count: usize) -> String {
    vec!["ba"; count].join(" ")
}

#[test]
fn a_prompt_that_is_too_long_for_the_decoder_fails_its_row_alone() {
    // 32 positions: the start token, one token a word and five of the six new ones, since the last is not fed
    let titles: Vec<_> = [1, 26, 27, 200, 2].map(words).to_vec();
    let settings = "max_new_tokens = 6\nmin_new_tokens = 6\nprompt = \"{{ title }}\"\n";
    let workplace = of_model(&fixture("trocr"), &titles, settings);
    workplace.run_ok(&["--set", "limits.max_failed_fraction=1"]);
    let rows = workplace.rows("out", None);
    let too_long = Some("prompt_too_long".to_owned());
    assert_eq!(rows.text("error_kind"), [None, None, too_long.clone(), too_long, None]);
    assert_eq!(rows.text("error_stage")[2].as_deref(), Some("generate"));
    insta::assert_snapshot!(rows.text("error_message")[2].as_deref().unwrap_or_default(), @"the prompt has 28 tokens and max_new_tokens is 6, but config.json (decoder) gives the decoder 32 positions; shorten the prompt by 1 token, or set max_new_tokens to at most 5");
    assert_eq!(rows.text("caption").iter().flatten().count(), 3);
    // what the same rows get without the long ones beside them
    let short = of_model(&fixture("trocr"), &[1, 26, 2].map(words), settings);
    short.run_ok(&[]);
    let (all, few) = (rows.text("caption"), short.rows("out", None).text("caption"));
    assert_eq!([&all[0], &all[1], &all[4]], [&few[0], &few[1], &few[2]]);
}

#[test]
fn a_prompt_that_is_too_long_for_every_row_is_refused_at_the_start() {
    let title = [words(1)];
    for (model, count) in [("trocr", 27), ("florence2", 129)] {
        let settings = format!("max_new_tokens = 6\nprompt = \"{}\"\n", words(count));
        let workplace = of_model(&fixture(model), &title, &settings);
        let output = workplace.command("plan", &[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{model}: {said}");
        assert!(said.contains("positions") && said.contains("hint:"), "{model}: {said}");
    }
}

#[test]
fn a_prompt_that_is_too_long_for_the_encoder_fails_its_row_alone() {
    // 128 positions of the prompt's encoder: the image's features, the two ends and the words
    let titles: Vec<_> = [1, 20, 130, 2].map(words).to_vec();
    let workplace = of_model(&fixture("florence2"), &titles, "max_new_tokens = 6\nprompt = \"{{ title }}\"\n");
    workplace.run_ok(&["--set", "limits.max_failed_fraction=1"]);
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("error_kind"), [None, None, Some("prompt_too_long".to_owned()), None]);
    assert!(rows.text("error_message")[2].as_deref().is_some_and(|said| said.contains("128 positions")));
}

#[test]
fn rotary_positions_have_no_end() {
    // config.json says 256, which is what the model was trained with
    let titles: Vec<_> = [1, 300].map(words).to_vec();
    let workplace = of_model(&fixture("llava"), &titles, "max_new_tokens = 6\nprompt = \"{{ title }}\"\n");
    workplace.run_ok(&[]);
    assert_eq!(workplace.rows("out", None).text("error_kind"), [None, None]);
    workplace.run_ok(&["--set", "generation.max_new_tokens=300", "--set", "output.path=long", "--limit", "1"]);
}

#[test]
fn a_prompt_around_an_image_that_cannot_be_tokenized_fails_its_row_alone() {
    let copy = tempfile::tempdir().unwrap();
    for entry in walk(&fixture("llava")) {
        let to = copy.path().join(entry.strip_prefix(fixture("llava")).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&entry, to).unwrap();
    }
    // a tokenizer without any token for a character that it does not know
    let tokenizer = std::fs::read_to_string(copy.path().join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["model"]["unk_token"] = "<absent>".into();
    tokenizer["model"]["byte_fallback"] = false.into();
    std::fs::write(copy.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for content in messages[0]['content'] %}{{ content['text'] or '<image>' }}{% endfor %}";
    std::fs::write(copy.path().join("chat_template.jinja"), template).unwrap();
    let titles = ["ba".to_owned(), "\u{1f415}".to_owned(), "bi".to_owned()];
    let workplace = of_model(copy.path(), &titles, "max_new_tokens = 6\nprompt = \"{{ title }}\"\n");
    workplace.run_ok(&["--set", "limits.max_failed_fraction=1"]);
    let rows = workplace.rows("out", None);
    assert_eq!(rows.text("error_kind"), [None, Some("invalid_prompt".to_owned()), None]);
    assert!(rows.text("error_message")[1].as_deref().is_some_and(|said| said.contains("cannot be tokenized")));
}

/// Every file below `folder`.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
