//! The decoder's graphs, step by step. In: the states that they attend to, then tokens. Out: logits for the next token of
//! every row. What is kept between steps (caches, kept and recurrent states, or nothing but the tokens) follows from the
//! model directory's bindings; which token comes next is not decided here.

use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Outputs, Value};

/// The decoder's graphs and what feeds them.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Does the first step, if that is another graph.
    prefill: Option<StepGraph>,
    step: StepGraph,
    /// Inputs that stay the same over all steps.
    pub(super) contexts: Vec<Context>,
    states: Vec<State>,
}

/// A decoder input that stays the same over all steps, and what feeds it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) dtype: DataType,
    pub(super) role: Role,
    pub(super) output: String,
}

/// One graph that takes tokens and gives logits.
#[derive(Debug)]
struct StepGraph {
    graph: Graph,
    tokens: String,
    /// The input that says whether there is a step before.
    has_past: Option<String>,
    /// Inputs that stay the same, each with its place in [`Decoder::contexts`].
    contexts: Vec<(String, usize)>,
}

/// A value that goes from one step into the next ones.
#[derive(Debug)]
struct State {
    input: String,
    output: String,
    /// Whether it stays what the first step made of it.
    kept: bool,
    dtype: DataType,
    /// The shape of its zeros without the batch axis; an axis that grows has size 0.
    inner: Vec<usize>,
}

/// A batch on its way through the decoder.
#[derive(Debug)]
pub(super) struct Decoding {
    /// For each row the one of the first step that it came from; rows of one origin differ in their tokens only.
    origins: Vec<usize>,
    contexts: Vec<Value>,
    /// In the order of the decoder's states; none before the first step.
    states: Vec<Value>,
    /// Which of the states stay what the first step made of them.
    kept: Vec<bool>,
    /// The tokens of each row so far, for a decoder without states.
    fed: Vec<Vec<i64>>,
}

/// Logits `[rows, vocabulary]` for the token after the last one fed.
#[derive(Debug)]
pub(super) struct Logits {
    values: Vec<f32>,
    vocabulary: usize,
}

impl Logits {
    /// Those of the row at `place`.
    pub(super) fn row(&self, place: usize) -> Option<&[f32]> {
        self.values.get(place * self.vocabulary..(place + 1) * self.vocabulary)
    }
}

impl Decoder {
    pub(super) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let mut contexts = Vec::new();
        let prefill = StepGraph::open(directory, Role::Prefill, options, &mut contexts)?;
        let Some(step) = StepGraph::open(directory, Role::Decoder, options, &mut contexts)? else { return Ok(None) };
        let states = directory.bindings().of(Role::Decoder).iter().filter_map(|(input, producer)| {
            let port = directory.graph(Role::Decoder)?.header.input(input)?;
            let (output, kept) = match producer {
                Producer::State(output) => (output.clone(), false),
                Producer::Kept(output) => (output.clone(), true),
                _ => return None,
            };
            let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(0)).collect();
            Some(State { input: input.clone(), output, kept, dtype: port.dtype, inner })
        });
        Ok(Some(Self { prefill, step, contexts, states: states.collect() }))
    }

    /// A batch of `rows` rows whose `contexts`, `[rows, ...]`, are in the order of [`Self::contexts`].
    pub(super) fn begin(&self, contexts: Vec<Value>, rows: usize) -> Decoding {
        let kept = self.states.iter().map(|state| state.kept).collect();
        let (origins, fed) = ((0..rows).collect(), vec![Vec::new(); rows]);
        Decoding { origins, contexts, states: Vec::new(), kept, fed }
    }

    /// Feeds the tokens that every row begins with.
    pub(super) fn first(&mut self, batch: &mut Decoding, prefix: &[i64]) -> Result<Logits, OnnxError> {
        // several tokens at once are right only where no earlier state is there to attend to
        let whole = self.states.is_empty() || self.prefill.is_some() || self.step.has_past.is_some();
        let (now, later) = prefix.split_at(if whole { prefix.len() } else { prefix.len().min(1) });
        let mut logits = self.advance(batch, vec![now.to_vec(); batch.rows()])?;
        for &token in later {
            logits = self.advance(batch, vec![vec![token]; batch.rows()])?;
        }
        Ok(logits)
    }

    /// Feeds the next token of every row.
    pub(super) fn next(&mut self, batch: &mut Decoding, tokens: &[i64]) -> Result<Logits, OnnxError> {
        self.advance(batch, tokens.iter().map(|&token| vec![token]).collect())
    }

    fn advance(&mut self, batch: &mut Decoding, tokens: Vec<Vec<i64>>) -> Result<Logits, OnnxError> {
        let begins = batch.states.is_empty();
        let mut outputs = if self.states.is_empty() {
            batch.fed.iter_mut().zip(tokens).for_each(|(fed, tokens)| fed.extend(tokens));
            self.step.run(&batch.fed, &batch.contexts, false, Vec::new())?
        } else if let Some(prefill) = self.prefill.as_mut().filter(|_| begins) {
            prefill.run(&tokens, &batch.contexts, false, Vec::new())?
        } else {
            if begins {
                batch.states = self.zeros(batch.rows())?;
            }
            let values = self.states.iter().zip(std::mem::take(&mut batch.states));
            // what the first step of a branching graph is given for kept states is not kept
            let (held, moved): (Vec<_>, Vec<_>) = values.partition(|(state, _)| state.kept && !begins);
            let mut feeds: Vec<_> =
                moved.into_iter().map(|(state, value)| (state.input.as_str(), Input::Owned(value))).collect();
            feeds.extend(held.iter().map(|(state, value)| (state.input.as_str(), Input::Shared(value))));
            let mut outputs = self.step.run(&tokens, &batch.contexts, !begins, feeds)?;
            let mut held = held.into_iter().map(|(_, value)| value);
            for state in &self.states {
                let value = if state.kept && !begins { held.next() } else { None };
                batch.states.push(match value {
                    Some(value) => value,
                    None => outputs.take(&state.output, batch.rows())?,
                });
            }
            return logits(&mut outputs, batch.rows());
        };
        for state in &self.states {
            batch.states.push(outputs.take(&state.output, batch.rows())?);
        }
        logits(&mut outputs, batch.rows())
    }

    fn zeros(&self, rows: usize) -> Result<Vec<Value>, OnnxError> {
        let zeros = |state: &State| {
            let shape: Vec<usize> = std::iter::once(rows).chain(state.inner.iter().copied()).collect();
            Value::zeros(state.dtype, &shape)
        };
        self.states.iter().map(zeros).collect()
    }
}

impl Decoding {
    fn rows(&self) -> usize {
        self.origins.len()
    }

    /// Goes on with these rows, in this order; one may come several times.
    pub(super) fn keep(&mut self, rows: &[usize]) -> Result<(), OnnxError> {
        if rows.iter().copied().eq(0..self.origins.len()) {
            return Ok(());
        }
        let origins: Vec<usize> = rows.iter().map(|&row| self.origins[row]).collect();
        // beams that change places within their row share what does not depend on tokens
        let moved = origins != self.origins;
        if moved {
            self.contexts = self.contexts.iter().map(|value| value.gather(rows)).collect::<Result<_, _>>()?;
        }
        for (state, kept) in self.states.iter_mut().zip(&self.kept) {
            if moved || !kept {
                *state = state.gather(rows)?;
            }
        }
        self.fed = rows.iter().map(|&row| self.fed[row].clone()).collect();
        self.origins = origins;
        Ok(())
    }
}

impl StepGraph {
    fn open(
        directory: &ModelDirectory,
        role: Role,
        options: GraphOptions,
        contexts: &mut Vec<Context>,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(role) else { return Ok(None) };
        let (mut tokens, mut has_past, mut places) = (None, None, Vec::new());
        for (input, producer) in directory.bindings().of(role) {
            let Some(port) = file.header.input(input) else { continue };
            match producer {
                Producer::Output(role, output) => {
                    let context = Context { dtype: port.dtype, role: *role, output: output.clone() };
                    let known = contexts.iter().position(|known| {
                        (known.dtype, known.role, &known.output) == (context.dtype, context.role, &context.output)
                    });
                    places.push((input.clone(), known.unwrap_or(contexts.len())));
                    contexts.extend(known.is_none().then_some(context));
                }
                Producer::Step => tokens = Some(input.clone()),
                Producer::HasPast => has_past = Some(input.clone()),
                _ => {}
            }
        }
        let graph = Graph::open(&file.path, options)?;
        let tokens = tokens
            .ok_or_else(|| OnnxError::new(OnnxErrorKind::Load, &file.file, "has no input for the tokens of a step"))?;
        Ok(Some(Self { graph, tokens, has_past, contexts: places }))
    }

    /// One run; `tokens` are as many for every row.
    fn run(
        &mut self,
        tokens: &[Vec<i64>],
        contexts: &[Value],
        has_past: bool,
        states: Vec<(&str, Input<'_>)>,
    ) -> Result<Outputs, OnnxError> {
        let shape = [tokens.len(), tokens.first().map_or(0, Vec::len)];
        let mut feeds = vec![(self.tokens.as_str(), Input::Owned(Value::from_i64(&shape, tokens.concat())?))];
        if let Some(input) = &self.has_past {
            feeds.push((input, Input::Owned(Value::from_bool(has_past)?)));
        }
        feeds.extend(self.contexts.iter().map(|(input, place)| (input.as_str(), Input::Shared(&contexts[*place]))));
        feeds.extend(states);
        self.graph.run(feeds)
    }
}

/// The logits of the last position of each row.
fn logits(outputs: &mut Outputs, rows: usize) -> Result<Logits, OnnxError> {
    let logits = outputs.take("logits", rows)?;
    let vocabulary = logits.shape().last().copied().unwrap_or(0).max(1);
    let values = logits.to_f32()?;
    let size = (values.len() / rows.max(1)).max(vocabulary);
    let last = values.chunks_exact(size).flat_map(|row| &row[size - vocabulary..]).copied().collect();
    Ok(Logits { values: last, vocabulary })
}
