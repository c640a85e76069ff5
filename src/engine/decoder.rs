//! The decoder's graphs, step by step. In: the states that they attend to, then tokens. Out: logits for the next token of
//! every row. What is kept between steps (caches, kept and recurrent states, or nothing but the tokens) follows from the
//! model directory's bindings; which token comes next is not decided here.

use std::borrow::Cow;

use super::context::{Context, Once};
use super::decoding::{Decoding, Form, Held};
use super::embed::{SharedGraph, TokenEmbedder};
use super::joining::joins;
use super::step::{Step, StepGraph};
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, GraphOptions, Input, OnnxError, Outputs, RowGather, Value};

/// The decoder's graphs and what feeds them.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Does the first step, if that is another graph.
    prefill: Option<StepGraph>,
    /// Gives the states that are kept, if it does not.
    kept: Option<Once>,
    pub(super) step: StepGraph,
    /// Turns tokens into vectors, for graphs that take these.
    pub(super) embedder: Option<TokenEmbedder>,
    /// Inputs that stay the same over all steps.
    pub(super) contexts: Vec<Context>,
    pub(super) states: Vec<State>,
    /// Whether rows may join a batch that is under way.
    pub(super) joins: bool,
    /// Moves the rows of what is kept.
    pub(super) mover: RowGather,
}

/// A value that goes from one step into the next ones.
#[derive(Debug)]
pub(super) struct State {
    input: String,
    output: String,
    pub(super) form: Form,
    pub(super) dtype: DataType,
    /// The shape of its zeros without the batch axis; an axis that grows has size 0.
    pub(super) inner: Vec<usize>,
}

/// Logits `[rows, vocabulary]` for the token after the last one fed.
#[derive(Debug)]
pub(super) struct Logits {
    /// `[rows, tokens, vocabulary]`, of which the last token's count.
    value: Value,
    /// Elements of a row.
    width: usize,
    vocabulary: usize,
}

impl Logits {
    /// Those of the row at `place`.
    pub(super) fn row(&self, place: usize) -> Option<Cow<'_, [f32]>> {
        let end = (place + 1) * self.width;
        self.value.range_to_f32(end.checked_sub(self.vocabulary)?..end).ok()
    }
}

impl State {
    pub(super) fn held(&self, value: Value) -> Held {
        Held { value, form: self.form }
    }
}

impl Decoder {
    /// `text` is the opened text graph.
    pub(super) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        text: Option<&SharedGraph>,
    ) -> Result<Option<Self>, OnnxError> {
        let mut contexts = Vec::new();
        let kept = Once::kept_states(directory, options, &mut contexts)?;
        let prefill = match kept {
            Some(_) => None,
            None => StepGraph::open(directory, Role::Prefill, options, &mut contexts)?,
        };
        let Some(step) = StepGraph::open(directory, Role::Decoder, options, &mut contexts)? else { return Ok(None) };
        let states = directory.bindings().of(Role::Decoder).iter().filter_map(|(input, producer)| {
            let port = directory.graph(Role::Decoder)?.header.input(input)?;
            let (output, form) = match producer {
                Producer::State(output) => (output.clone(), Form::Renewed),
                Producer::Kept(output) => (output.clone(), Form::Kept),
                _ => return None,
            };
            let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(0)).collect();
            Some(State { input: input.clone(), output, form, dtype: port.dtype, inner })
        });
        let embedder = TokenEmbedder::open(directory, options, text)?;
        let states = states.collect();
        let mover = RowGather::new(options);
        let mut decoder = Self { prefill, kept, step, embedder, contexts, states, joins: false, mover };
        decoder.joins = joins(&mut decoder);
        Ok(Some(decoder))
    }

    /// A batch of `rows` rows whose `contexts`, `[rows, ...]`, are in the order of [`Self::contexts`].
    pub(super) fn begin(&mut self, contexts: Vec<Value>, rows: usize) -> Result<Decoding, OnnxError> {
        let bring = |context| self.mover.bring(context);
        let mut contexts = contexts.into_iter().map(bring).collect::<Result<Vec<_>, _>>()?;
        let kept = match &mut self.kept {
            Some(kept) => Some(kept.run(&contexts, rows)?),
            None => None,
        };
        let states = if self.prefill.is_some() { Vec::new() } else { self.first_states(kept, rows)? };
        self.step.begin(&mut contexts, rows)?;
        let (origins, fed, lengths) = ((0..rows).collect(), vec![Vec::new(); rows], vec![0; rows]);
        Ok(Decoding { origins, contexts, states, fed, lengths })
    }

    /// Feeds the tokens that every row begins with, as many for each; `embedded` are their vectors, if these are not what the
    /// tokens alone stand for.
    pub(super) fn first(
        &mut self,
        batch: &mut Decoding,
        prefixes: &[Vec<i64>],
        embedded: Option<Value>,
    ) -> Result<Logits, OnnxError> {
        // several tokens at once are right only where no earlier state is there to attend to, or the graph is told so; one that
        // has always had a graph for the first step beside it may have been made for one token
        let told = self.step.takes_several() && self.kept.is_none();
        let whole = self.states.is_empty() || self.prefill.is_some() || told;
        let length = prefixes.first().map_or(0, Vec::len);
        if whole || length < 2 {
            return self.advance(batch, prefixes, embedded);
        }
        let mut logits = self.advance(batch, &column(prefixes, 0), None)?;
        for place in 1..length {
            logits = self.advance(batch, &column(prefixes, place), None)?;
        }
        Ok(logits)
    }

    /// Feeds the next token of every row.
    pub(super) fn next(&mut self, batch: &mut Decoding, tokens: &[i64]) -> Result<Logits, OnnxError> {
        self.advance(batch, &tokens.iter().map(|&token| vec![token]).collect::<Vec<_>>(), None)
    }

    fn advance(
        &mut self,
        batch: &mut Decoding,
        tokens: &[Vec<i64>],
        embedded: Option<Value>,
    ) -> Result<Logits, OnnxError> {
        let (embedder, past) = (self.embedder.as_ref(), batch.lengths.clone());
        batch.lengths.iter_mut().zip(tokens).for_each(|(length, tokens)| *length += tokens.len());
        if self.states.is_empty() {
            batch.fed.iter_mut().zip(tokens).for_each(|(fed, tokens)| fed.extend(tokens));
            let step = Step { tokens: &batch.fed, past: &vec![0; past.len()], embedded, contexts: &batch.contexts };
            return logits(&mut self.step.run(step, embedder, Vec::new())?, batch.rows());
        }
        let begins = past.iter().all(|&length| length == 0);
        let step = Step { tokens, past: &past, embedded, contexts: &batch.contexts };
        if let Some(prefill) = self.prefill.as_mut().filter(|_| begins) {
            let mut outputs = prefill.run(step, embedder, Vec::new())?;
            for state in &self.states {
                batch.states.push(state.held(outputs.take(&state.output, batch.rows())?));
            }
            return logits(&mut outputs, batch.rows());
        }
        // what the first step of a branching graph is given for kept states is not kept
        let settled = !begins || self.kept.is_some();
        let states = self.states.iter().zip(std::mem::take(&mut batch.states));
        let (kept, moved): (Vec<_>, Vec<_>) = states.partition(|(state, _)| state.form == Form::Kept && settled);
        let mut feeds: Vec<_> =
            moved.into_iter().map(|(state, held)| (state.input.as_str(), Input::Owned(held.value))).collect();
        feeds.extend(kept.iter().map(|(state, held)| (state.input.as_str(), Input::Shared(&held.value))));
        let mut outputs = self.step.run(step, embedder, feeds)?;
        let mut kept = kept.into_iter().map(|(_, held)| held);
        for state in &self.states {
            let held = if state.form == Form::Kept && settled { kept.next() } else { None };
            batch.states.push(match held {
                Some(held) => held,
                None => state.held(outputs.take(&state.output, batch.rows())?),
            });
        }
        logits(&mut outputs, batch.rows())
    }

    /// Zeros, but for the states that are kept where these, `kept`, are known.
    fn first_states(&self, mut kept: Option<Outputs>, rows: usize) -> Result<Vec<Held>, OnnxError> {
        let first = |state: &State| {
            let shape: Vec<usize> = std::iter::once(rows).chain(state.inner.iter().copied()).collect();
            let value = match kept.as_mut().filter(|_| state.form == Form::Kept) {
                Some(kept) => kept.take(&state.output, rows),
                None => Value::zeros(state.dtype, &shape),
            };
            value.map(|value| state.held(value))
        };
        self.states.iter().map(first).collect()
    }
}

/// The token of each row at `place`.
fn column(rows: &[Vec<i64>], place: usize) -> Vec<Vec<i64>> {
    rows.iter().map(|row| row.get(place).copied().into_iter().collect()).collect()
}

/// The logits of the last position of each row.
fn logits(outputs: &mut Outputs, rows: usize) -> Result<Logits, OnnxError> {
    let value = outputs.take(StepGraph::LOGITS, rows)?;
    // what cannot be read is told here; float16 stays what it is, and a row's are made float32 where its token is chosen, beside
    // those of other rows
    value.range_to_f32(0..0)?;
    let shape = value.shape();
    let (vocabulary, width) = (shape.last().copied().unwrap_or(0), shape.iter().skip(1).product());
    Ok(Logits { value, width, vocabulary })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Decoder;
    use crate::model::{ModelDirectory, Role};
    use crate::onnx::{Device, GraphOptions, Value};

    #[test]
    fn what_goes_from_step_to_step_stays_in_the_memory_of_a_device() {
        for model in ["vit_gpt2", "trocr", "blip"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
            let directory = ModelDirectory::open(&path, None).unwrap();
            let mut graphs = [Role::Decoder, Role::Prefill].into_iter().filter_map(|role| directory.graph(role));
            let width = graphs.find_map(|graph| graph.header.input("encoder_hidden_states")?.fixed(2));
            let options = GraphOptions { device: Device::StandIn, threads: 1, varies: true };
            let mut decoder = Decoder::open(&directory, options, None).unwrap().unwrap();
            let states = |dtype| Value::ones(dtype, &[2, 5, width.unwrap()]).unwrap();
            let contexts = decoder.contexts.iter().map(|context| states(context.dtype)).collect();
            let mut batch = decoder.begin(contexts, 2).unwrap();
            decoder.first(&mut batch, &[vec![1], vec![1]], None).unwrap();
            for rows in [vec![1, 0, 0], vec![2], vec![0]] {
                let tokens = vec![1; batch.rows()];
                decoder.next(&mut batch, &tokens).unwrap();
                let kept = batch.states.iter().map(|held| &held.value).chain(&batch.contexts);
                let readable = kept.filter(|value| value.dtype().is_float() && value.to_f32().is_ok()).count();
                assert!(readable == 0 && !batch.states.is_empty(), "{model}: {readable} in the host's memory");
                batch.keep(&rows, &mut decoder.mover).unwrap();
            }
        }
    }
}
