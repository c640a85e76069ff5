//! One graph of the decoder. In: the tokens of a step and what else the model directory's bindings say feeds it. Out: its
//! outputs. What is kept from step to step is [`super::decoder`]'s business.

use super::context::{Context, Invariant, InvariantInput, Once};
use super::embed::TokenEmbedder;
use super::trial::trials;
use crate::model::{GraphFile, ModelDirectory, Producer, Role};
use crate::onnx::{DataType, DecoderGraph, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Outputs, Value};

/// One graph that takes tokens and gives logits.
#[derive(Debug)]
pub(super) struct StepGraph {
    graph: Graph,
    inputs: Vec<StepInput>,
    /// What of it depends on contexts only.
    once: Option<Once>,
}

#[derive(Debug, Clone)]
struct StepInput {
    name: String,
    dtype: DataType,
    feed: Feed,
}

/// What feeds an input that is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Feed {
    Tokens,
    /// The tokens as vectors.
    Embedded,
    HasPast,
    Positions,
    /// Ones for all tokens so far, behind zeros where other rows have more.
    Mask,
    /// What stays the same over all steps.
    Invariant(Invariant),
}

/// What one run is about.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// As many for every row.
    pub(super) tokens: &'a [Vec<i64>],
    /// How many tokens of each row went before these.
    pub(super) past: &'a [usize],
    /// The tokens as vectors, `[rows, tokens, width]`, if they are known already.
    pub(super) embedded: Option<Value>,
    /// In the order of [`Decoder::contexts`](super::decoder::Decoder).
    pub(super) contexts: &'a [Value],
}

impl StepGraph {
    /// The output that is read; what others give goes into the next step, and stays where the graph runs.
    pub(super) const LOGITS: &str = "logits";

    /// Opens the graph of `role`, if there is one; adds what it attends to to `contexts`. The decoder's comes last: what is
    /// computed for it once has its place after all contexts.
    pub(super) fn open(
        directory: &ModelDirectory,
        role: Role,
        options: GraphOptions,
        contexts: &mut Vec<Context>,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(role) else { return Ok(None) };
        let mut inputs = Vec::new();
        for (input, producer) in directory.bindings().of(role) {
            let Some(port) = file.header.input(input) else { continue };
            let feed = match producer {
                Producer::Step => Feed::Tokens,
                Producer::StepOutput(..) => Feed::Embedded,
                Producer::HasPast => Feed::HasPast,
                Producer::Positions => Feed::Positions,
                Producer::StepMask => Feed::Mask,
                other => match Invariant::of(other, port.dtype, contexts) {
                    Some(invariant) => Feed::Invariant(invariant),
                    None => continue,
                },
            };
            inputs.push(StepInput { name: input.clone(), dtype: port.dtype, feed });
        }
        if !inputs.iter().any(|input| matches!(input.feed, Feed::Tokens | Feed::Embedded)) {
            return Err(OnnxError::new(OnnxErrorKind::Load, &file.file, "has no input for the tokens of a step"));
        }
        if role != Role::Decoder {
            return Ok(Some(Self { graph: file.source.open(options)?, inputs, once: None }));
        }
        let DecoderGraph { once, step, .. } = open_decoder(directory, file, options)?;
        let invariant = |input: &StepInput| match input.feed {
            Feed::Invariant(value) => Some(InvariantInput { name: input.name.clone(), dtype: input.dtype, value }),
            _ => None,
        };
        let invariant = inputs.iter().filter_map(invariant).collect();
        let once = once.map(|once| Once::new(once.graph, invariant, once.values));
        inputs.retain(|input| step.inputs().iter().any(|port| port.name == input.name));
        for (name, place) in once.iter().flat_map(|once| &once.values).zip(contexts.len()..) {
            let feed = Feed::Invariant(Invariant::Context(place));
            inputs.push(StepInput { name: name.clone(), dtype: DataType::F32, feed });
        }
        Ok(Some(Self { graph: step, inputs, once }))
    }

    /// Adds to `contexts`, `[rows, ...]`, what is computed from them once.
    pub(super) fn begin(&mut self, contexts: &mut Vec<Value>, rows: usize) -> Result<(), OnnxError> {
        if let Some(once) = &mut self.once {
            let mut computed = once.run(contexts, rows)?;
            for name in &once.values {
                contexts.push(computed.remove(name)?);
            }
        }
        Ok(())
    }

    /// Whether it takes several tokens at once where earlier states are given: it must be told which there are.
    pub(super) fn takes_several(&self) -> bool {
        [Feed::HasPast, Feed::Mask, Feed::Positions].into_iter().any(|feed| self.is_told(feed))
    }

    /// Whether each row may have a length of its own: it is told which of the states are the row's, and where the row is.
    pub(super) fn takes_lengths(&self) -> bool {
        self.is_told(Feed::Mask) && self.is_told(Feed::Positions)
    }

    fn is_told(&self, feed: Feed) -> bool {
        self.inputs.iter().any(|input| input.feed == feed)
    }

    /// One run; `states` are further inputs by name.
    pub(super) fn run(
        &mut self,
        mut step: Step<'_>,
        embedder: Option<&TokenEmbedder>,
        states: Vec<(&str, Input<'_>)>,
    ) -> Result<Outputs, OnnxError> {
        let (rows, tokens) = (step.tokens.len(), step.tokens.first().map_or(0, Vec::len));
        let longest = step.past.iter().copied().max().unwrap_or(0);
        let mut feeds = Vec::with_capacity(self.inputs.len() + states.len());
        for input in &self.inputs {
            let value = match input.feed {
                Feed::Invariant(invariant) => invariant.value(step.contexts, input.dtype, rows)?,
                Feed::Tokens => Input::Owned(Value::from_i64(&[rows, tokens], step.tokens.concat())?),
                Feed::Embedded => {
                    let embedded = match (step.embedded.take(), embedder) {
                        (Some(embedded), _) => embedded,
                        (None, Some(embedder)) => embedder.embed(step.tokens, Some(input.dtype))?,
                        (None, None) => {
                            let what = format!("nothing gives {:?} the vectors of its tokens", input.name);
                            return Err(OnnxError::new(OnnxErrorKind::Run, input.name.clone(), what));
                        }
                    };
                    Input::Owned(embedded.into_float(input.dtype)?)
                }
                Feed::HasPast => Input::Owned(Value::from_bool(longest > 0)?),
                Feed::Positions => {
                    let positions = step.past.iter().flat_map(|&past| past..past + tokens);
                    let positions = positions.map(|position| position as i64).collect();
                    Input::Owned(Value::from_i64(&[rows, tokens], positions)?)
                }
                Feed::Mask => {
                    let so_far = longest + tokens;
                    let own = step.past.iter().flat_map(|past| (0..so_far).map(move |place| place + past >= longest));
                    Input::Owned(Value::mask(input.dtype, &[rows, so_far], own.collect())?)
                }
            };
            feeds.push((input.name.as_str(), value));
        }
        feeds.extend(states);
        self.graph.run_on_device(&feeds, &[Self::LOGITS])
    }
}

/// Opens the decoder's graph, in `file`, as captions are written with it.
///
/// # Errors
/// When the file cannot be read, or ONNX Runtime refuses it.
pub fn open_decoder(
    directory: &ModelDirectory,
    file: &GraphFile,
    options: GraphOptions,
) -> Result<DecoderGraph, OnnxError> {
    let trials = trials(directory, Role::Decoder)?;
    DecoderGraph::open(&file.source, &directory.bindings().invariant(), trials, options)
}
