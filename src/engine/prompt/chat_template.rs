//! Chat templates. In: the Jinja template of a model repository, its special tokens, a time, and a question about an image. Out: the prompt.
//! Rendered as `apply_chat_template` of transformers' processors does it, except that "now" is a time that is given.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};

use super::python_json::tojson;
use crate::model::SpecialTokens;
use crate::support::jinja;

/// The most bytes of a prompt: more than any model has positions for.
const MOST_PROMPT_BYTES: usize = 1 << 20;

/// A chat template with everything that it is rendered with, except the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    /// The template (Jinja).
    pub(crate) text: String,
    /// The file that it came from.
    pub(crate) source: String,
    /// Special tokens by name: one, or a list of them.
    pub(crate) variables: Vec<(String, Result<String, Vec<String>>)>,
    /// What `strftime_now` takes for the time. Fingerprints do not depend on it.
    now: DateTime<Utc>,
}

impl ChatTemplate {
    /// The template `text` of the file `source`; its time is that of 1 January 1970.
    pub(crate) fn new(text: String, source: String, tokens: &SpecialTokens) -> Self {
        Self { text, source, variables: tokens.variables(), now: DateTime::UNIX_EPOCH }
    }

    /// Whether its prompts depend on the time.
    pub(crate) fn is_dated(&self) -> bool {
        self.text.contains("strftime_now")
    }

    /// Takes `time` for the time.
    pub(crate) fn set_time(&mut self, time: DateTime<Utc>) {
        self.now = time;
    }

    /// The prompt of one user message that holds an image and `question`, up to where the answer begins.
    ///
    /// # Errors
    /// What is wrong with the template, in words. One that is very long, that does not end or that makes a very long text is refused
    /// too.
    pub(crate) fn render(&self, question: &str) -> Result<String, String> {
        jinja::check_length(&self.text)?;
        let template = without_generation_tags(&self.text);
        let rendered = jinja::on_large_stack(|| self.environment()?.render_str(&template, self.context(question)));
        let text = rendered.map_err(|error| error.to_string())?.map_err(|error| jinja::explain(&error))?;
        if text.len() > MOST_PROMPT_BYTES {
            return Err(format!("expected a prompt of at most {MOST_PROMPT_BYTES} bytes, found one of {}", text.len()));
        }
        Ok(text)
    }

    /// The environment of transformers' `_compile_jinja_template`.
    fn environment(&self) -> Result<Environment<'static>, Error> {
        let mut environment = jinja::environment();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let now = self.now;
        environment.add_function("strftime_now", move |state: &mut State<'_, '_>, format: String| {
            jinja::pay(state, &[Value::from(format.as_str())], 8)?;
            let mut text = String::new();
            let unknown = || Error::new(ErrorKind::InvalidOperation, "strftime_now: unknown format");
            write!(text, "{}", now.format(&format)).map_err(|_| unknown())?;
            Ok::<_, Error>(text)
        });
        Ok(environment)
    }

    fn context(&self, question: &str) -> BTreeMap<&str, Value> {
        let content = vec![context! { type => "image" }, context! { type => "text", text => question }];
        let values = [
            ("messages", Value::from(vec![context! { role => "user", content => content }])),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(true)),
        ];
        let tokens = self.variables.iter().map(|(name, value)| {
            let value = value.as_ref().map_or_else(|list| Value::from(list.clone()), |one| Value::from(one.as_str()));
            (name.as_str(), value)
        });
        tokens.chain(values).collect()
    }
}

/// `template` without the `generation` tags, which mark the assistant's answer for training; what is set inside is not known outside.
fn without_generation_tags(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        // In `{%}` one character is not both.
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else { break };
        let inner = &tag[2..end];
        let is_control = |character: char| matches!(character, '-' | '+');
        let name = inner.trim_start_matches(is_control).trim_end_matches(is_control).trim();
        match name {
            "generation" | "endgeneration" => {
                let plain = if name == "generation" { "with" } else { "endwith" };
                text.extend(["{%", &inner.replace(name, plain), "%}"]);
                rest = &tag[end + 2..];
            }
            _ => {
                text.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::ChatTemplate;
    use crate::model::SpecialTokens;

    fn render(template: &str, question: &str) -> Result<String, String> {
        ChatTemplate::new(template.to_owned(), "chat_template.jinja".to_owned(), &SpecialTokens::default())
            .render(question)
    }

    #[test]
    fn a_template_of_smolvlm_is_rendered_as_jinja2_does_it() {
        let template = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
            {% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
            {% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text'].strip()}}\
            {% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n\
            {% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
        let text = render(template, " What is it? ").unwrap_or_default();
        assert_eq!(text, "<|im_start|>User:<image>What is it?<end_of_utterance>\nAssistant:");
    }

    #[test]
    fn marks_of_what_an_assistant_says_change_nothing() {
        let text = render("a {%- generation %} b {% endgeneration -%} c", "?").unwrap_or_default();
        assert_eq!(text, "a b c");
    }

    #[test]
    fn what_a_template_refuses_is_an_error() {
        let error = render("{{ raise_exception('no images, please') }}", "?");
        assert!(error.is_err_and(|error| error.contains("no images, please")));
    }

    /// Templates that would take hours, gigabytes or the whole stack: each is refused at once, for the reason given.
    #[test]
    fn templates_that_do_not_end_or_grow_are_refused() {
        let long = |text: &str| text.repeat((1 << 16) / text.len());
        let inside = |text: &str| format!("{{{{ {} }}}}", &long(text)[..(1 << 16) - 10]);
        let counted = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
        let doubled =
            "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
        let added = doubled.replace('~', "+");
        let output = "{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}";
        let set = "{% set n = namespace(x='') %}{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}xxxxxxxx{% endset %}{% set n.x = y %}{% endfor %}";
        let macros = "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
        let many = "{% set s = 'x' * 120000 %}{% set l = [s] * 3000 %}";
        let nested = "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}";
        let of_many = |text: &str| format!("{many}{text}");
        let fuel = "takes more than 4000 instructions";
        let cases: Vec<(String, &str)> = vec![
            (counted.to_owned(), fuel),
            (doubled.to_owned(), fuel),
            (added, fuel),
            (output.to_owned(), fuel),
            (set.to_owned(), fuel),
            (nested.to_owned(), fuel),
            (macros.to_owned(), "recursion limit"),
            ("{{ 'x' * 10**9 }}".to_owned(), fuel),
            ("{{ ['x'] * 10**9 }}".to_owned(), ""),
            ("{{ range(10**9) | list }}".to_owned(), "too many elements"),
            ("{{ '%999999999d' | format(1) }}".to_owned(), fuel),
            ("{{ '{:999999999}'.format(1) }}".to_owned(), ""),
            ("{{ ('x' * 9999).replace('x', 'y' * 9999) }}".to_owned(), fuel),
            ("{{ ('x' * 9999) | replace('x', 'y' * 9999) }}".to_owned(), fuel),
            ("{{ ('x' * 9999).join('y' * 99999) }}".to_owned(), fuel),
            ("{{ ('x' * 99999) | list | join('y' * 9999) }}".to_owned(), fuel),
            ("{{ [1] | batch(999999999, 'x') }}".to_owned(), ""),
            ("{{ [1] | slice(999999999, 'x') }}".to_owned(), ""),
            ("{{ 'x\\ny' | indent(999999999) }}".to_owned(), fuel),
            (of_many("{{ l | join }}"), fuel),
            (of_many("{{ ''.join(l) }}"), fuel),
            (of_many("{{ l | string }}"), fuel),
            (of_many("{{ l | upper }}"), fuel),
            (of_many("{{ l | trim }}"), fuel),
            (of_many("{{ l | replace('x', 'y') }}"), fuel),
            (of_many("{{ l ~ l }}"), fuel),
            (of_many("{{ l }}"), fuel),
            (of_many("{{ '{0}{0}{0}{0}{0}{0}'.format(l) }}"), fuel),
            (of_many("{{ '%s' | format(l) }}"), fuel),
            (of_many("{{ l | pprint }}"), fuel),
            (of_many("{% set y %}{{ l }}{% endset %}"), fuel),
            (inside("-"), ""),
            (inside("not "), ""),
            (inside("("), ""),
            (inside("["), ""),
            (inside("{"), ""),
            (inside("a+"), ""),
            (inside("a."), ""),
            (inside("a|e|"), ""),
            (inside("a if b else "), ""),
            (inside("a~"), ""),
            (inside("a**"), ""),
            (inside("a and "), ""),
            (inside("f(f("), ""),
            (long("{% if a %}"), ""),
            (format!("{{% if a %}}{}{{% endif %}}", &long("{% elif a %}")[..60_000]), ""),
            (long("{% for a in b %}"), ""),
            ("-".repeat(100_000), "at most 65536 bytes"),
            (format!("{{{{ {}1 }}}}", "-".repeat(100_000)), "at most 65536 bytes"),
            (format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)), "at most 65536 bytes"),
        ];
        for (template, reason) in cases {
            let started = std::time::Instant::now();
            let shown: String = template.chars().take(90).collect();
            // one that is harmless once it has ended may be rendered; its prompt is short
            match render(&template, "?") {
                Err(said) => assert!(said.contains(reason) && said.len() < 400, "{shown}: {said}"),
                Ok(text) => {
                    assert!(reason.is_empty() && text.len() < 1 << 20, "{shown}: rendered {} bytes", text.len());
                }
            }
            println!("{shown}: {:?}", started.elapsed());
        }
    }
}
