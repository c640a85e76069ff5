//! Chat templates. In: the Jinja template of a model repository and a question about an image. Out: the prompt. Rendered as
//! `apply_chat_template` of transformers does it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

/// The prompt of one user message that holds an image and `question`, up to where the answer begins.
pub(crate) fn render(
    template: &str,
    question: &str,
    special: impl Fn(&str) -> Option<String>,
) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    let content = vec![context! { type => "image" }, context! { type => "text", text => question }];
    environment.render_str(
        &without_generation_tags(template),
        context! {
            messages => vec![context! { role => "user", content => content }],
            add_generation_prompt => true,
            bos_token => special("bos_token"),
            eos_token => special("eos_token"),
        },
    )
}

/// `template` without the `generation` tags, which mark the assistant's answer for training.
fn without_generation_tags(template: &str) -> String {
    let mut text = template.to_owned();
    for (tag, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            text = text.replace(&format!("{open} {tag} {close}"), &format!("{open} {plain} {close}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn a_template_of_smolvlm_is_rendered_as_jinja2_does_it() {
        let template = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
            {% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
            {% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text'].strip()}}\
            {% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n\
            {% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
        let text = render(template, " What is it? ", |_| None).unwrap_or_default();
        assert_eq!(text, "<|im_start|>User:<image>What is it?<end_of_utterance>\nAssistant:");
    }

    #[test]
    fn marks_of_what_an_assistant_says_change_nothing() {
        let text = render("a {%- generation %} b {% endgeneration -%} c", "?", |_| None).unwrap_or_default();
        assert_eq!(text, "a b c");
    }

    #[test]
    fn what_a_template_refuses_is_an_error() {
        let error = render("{{ raise_exception('no images, please') }}", "?", |_| None);
        assert!(error.is_err_and(|error| error.to_string().contains("no images, please")));
    }
}
