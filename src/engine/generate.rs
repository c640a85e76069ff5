//! Greedy decoding with a key/value cache. In: the states that the decoder attends to, one row for each caption. Out: the
//! tokens of each caption with their log-probability. Rows that are finished leave the batch; nothing but greedy search
//! is done here.

use super::settings::GenerationSettings;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Outputs, Value};

/// A generated caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// The text, without special tokens.
    pub text: String,
    /// The sum over generated tokens, end token included, of the log-softmax of the decoder's logits.
    pub logprob: f32,
    /// How many tokens were generated, end token included.
    pub tokens: i32,
    /// Why it ended.
    pub finish: Finish,
    /// The cosine of the image's embedding with the caption's, if asked for and the model compares them.
    pub similarity: Option<f32>,
}

/// Why a caption ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The end token.
    Eos,
    /// `max_new_tokens`.
    Length,
}

impl Finish {
    /// The name written to the `caption_finish` column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Length => "length",
        }
    }
}

/// The tokens of one caption.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequence {
    /// The generated tokens, end token included, start token not.
    pub(super) tokens: Vec<i64>,
    pub(super) logprob: f64,
    pub(super) finish: Finish,
    /// Whether every logit was finite; if not, the row fails.
    pub(super) finite: bool,
}

/// The decoder graph and its inputs.
#[derive(Debug)]
pub(super) struct Decoder {
    graph: Graph,
    step: String,
    /// Inputs that stay the same over all steps, with what feeds them.
    pub(super) contexts: Vec<Context>,
    states: Vec<State>,
    settings: GenerationSettings,
}

/// A decoder input that stays the same over all steps.
#[derive(Debug)]
pub(super) struct Context {
    input: String,
    pub(super) dtype: DataType,
    pub(super) role: Role,
    pub(super) output: String,
}

/// A cache: grows along axis 2, goes out of one step and into the next.
#[derive(Debug)]
struct State {
    input: String,
    output: String,
    dtype: DataType,
    heads: usize,
    width: usize,
}

impl Decoder {
    pub(super) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        settings: GenerationSettings,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Decoder) else { return Ok(None) };
        let (mut step, mut contexts, mut states) = (None, Vec::new(), Vec::new());
        for (name, producer) in directory.bindings().of(Role::Decoder) {
            let Some(port) = file.header.input(name) else { continue };
            let (input, dtype) = (name.clone(), port.dtype);
            match producer {
                Producer::Output(role, output) => {
                    contexts.push(Context { input, dtype, role: *role, output: output.clone() });
                }
                Producer::State(output) => {
                    let (heads, width) = (port.fixed(1).unwrap_or(0), port.fixed(3).unwrap_or(0));
                    states.push(State { input, output: output.clone(), dtype, heads, width });
                }
                _ => step = Some(input),
            }
        }
        let graph = Graph::open(&file.path, options)?;
        let step = step
            .ok_or_else(|| OnnxError::new(OnnxErrorKind::Load, &file.file, "has no input for the tokens of a step"))?;
        Ok(Some(Self { graph, step, contexts, states, settings }))
    }

    /// Writes one caption for each row of `contexts`, which are `[rows, ...]` in the order of [`Self::contexts`].
    pub(super) fn generate(&mut self, mut contexts: Vec<Value>, rows: usize) -> Result<Vec<Sequence>, OnnxError> {
        let begun = Sequence { tokens: Vec::new(), logprob: 0.0, finish: Finish::Length, finite: true };
        let mut sequences = vec![begun; rows];
        let mut active: Vec<usize> = (0..rows).collect();
        let mut ids = vec![self.settings.decoder_start_token_id; rows];
        let mut past = self.empty_past(rows)?;
        for step in 0..self.settings.max_new_tokens {
            if active.is_empty() {
                break;
            }
            let mut outputs = self.step(ids, &contexts, past)?;
            let logits = outputs.take("logits", active.len())?;
            past =
                self.states.iter().map(|state| outputs.take(&state.output, active.len())).collect::<Result<_, _>>()?;
            let vocabulary = logits.shape().last().copied().unwrap_or(0).max(1);
            let logits = logits.to_f32()?;
            let size = logits.len() / active.len();
            let ends = self.settings.eos_token_ids.as_slice();
            let banned = if step < self.settings.min_new_tokens { ends } else { &[] };
            let mut going = Vec::with_capacity(active.len());
            ids = Vec::with_capacity(active.len());
            for (place, (&row, logits)) in active.iter().zip(logits.chunks_exact(size.max(1))).enumerate() {
                let sequence = &mut sequences[row];
                let Some((token, logprob)) = choose(last_position(logits, vocabulary), banned) else {
                    sequence.finite = false;
                    continue;
                };
                sequence.tokens.push(token);
                sequence.logprob += logprob;
                if ends.contains(&token) {
                    sequence.finish = Finish::Eos;
                } else {
                    going.push(place);
                    ids.push(token);
                }
            }
            if going.len() < active.len() {
                let drop_finished =
                    |values: Vec<Value>| values.iter().map(|value| value.gather(&going)).collect::<Result<Vec<_>, _>>();
                past = drop_finished(past)?;
                contexts = drop_finished(contexts)?;
                active = going.into_iter().map(|place| active[place]).collect();
            }
        }
        Ok(sequences)
    }

    fn empty_past(&self, rows: usize) -> Result<Vec<Value>, OnnxError> {
        self.states.iter().map(|state| Value::empty(state.dtype, &[rows, state.heads, 0, state.width])).collect()
    }

    /// Runs one step: `ids` holds the last token of every row; `past` is moved in, so that nothing is copied.
    fn step(&mut self, ids: Vec<i64>, contexts: &[Value], past: Vec<Value>) -> Result<Outputs, OnnxError> {
        let mut feeds = Vec::with_capacity(1 + contexts.len() + past.len());
        feeds.push((self.step.as_str(), Input::Owned(Value::from_i64(&[ids.len(), 1], ids)?)));
        let shared =
            self.contexts.iter().zip(contexts).map(|(context, value)| (context.input.as_str(), Input::Shared(value)));
        feeds.extend(shared);
        feeds.extend(self.states.iter().zip(past).map(|(state, value)| (state.input.as_str(), Input::Owned(value))));
        self.graph.run(feeds)
    }
}

/// The logits of the last position among a row's.
fn last_position(logits: &[f32], vocabulary: usize) -> &[f32] {
    &logits[logits.len().saturating_sub(vocabulary)..]
}

/// The likeliest token that is not `banned` (the lowest id among equals) and its log-probability among all; `None` if a
/// logit is not finite.
fn choose(logits: &[f32], banned: &[i64]) -> Option<(i64, f64)> {
    let mut best: Option<(i64, f32)> = None;
    let mut highest = f32::NEG_INFINITY;
    for (token, &logit) in (0..).zip(logits) {
        if !logit.is_finite() {
            return None;
        }
        highest = highest.max(logit);
        if best.is_none_or(|(_, held)| logit > held) && !banned.contains(&token) {
            best = Some((token, logit));
        }
    }
    let (token, logit) = best?;
    let highest = f64::from(highest);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    Some((token, f64::from(logit) - highest - sum.ln()))
}

#[cfg(test)]
mod tests {
    use super::choose;

    fn assert_choice(logits: &[f32], banned: &[i64], token: i64, logprob: f64) {
        let choice = choose(logits, banned);
        assert!(choice.is_some_and(|(t, l)| t == token && (l - logprob).abs() < 1e-12), "{choice:?}");
    }

    #[test]
    fn ties_go_to_the_lowest_id_and_banned_tokens_still_count_in_the_probability() {
        let sum = 1.0_f64.exp() + 2.0 * 3.0_f64.exp() + 1.0;
        assert_choice(&[1.0, 3.0, 3.0, 0.0], &[], 1, 3.0 - sum.ln());
        assert_choice(&[1.0, 3.0, 3.0, 0.0], &[1, 2], 0, 1.0 - sum.ln());
    }

    #[test]
    fn large_logits_do_not_overflow_and_others_are_refused() {
        assert_choice(&[-3e38, 3e38], &[], 1, 0.0);
        assert!(choose(&[0.0, f32::NAN], &[]).is_none());
        assert!(choose(&[0.0, f32::INFINITY], &[]).is_none());
        assert!(choose(&[0.0], &[0]).is_none());
    }
}
