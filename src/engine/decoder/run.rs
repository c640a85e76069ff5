//! The decoder: a prefill, then one step for each new token. In: encoder outputs and prompts, then the token selected for each
//! sequence. Out: the logits of the next token of every sequence. The model directory's bindings say what goes from one step into the
//! next; which token comes next is not decided here.

use std::borrow::Cow;

use super::cache::{CacheEntry, CacheKind, DecoderState, Slot};
use super::encoder_outputs::{EncoderOutput, Precomputed};
use super::step_graph::{StepGraph, StepInputs};
use super::token_embedder::TokenEmbedder;
use crate::engine::encode::shared_graph::SharedGraph;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, GraphOptions, OnnxError, Outputs, RowGather, SessionInput, Tensor};

/// The decoder's graphs and what feeds them.
#[derive(Debug)]
pub(crate) struct Decoder {
    prefill: Prefill,
    /// The graph of all later steps.
    pub(crate) graph: StepGraph,
    /// Embeds tokens for graphs that take `inputs_embeds`.
    pub(crate) embedder: Option<TokenEmbedder>,
    /// What it attends to.
    pub(crate) encoder_outputs: Vec<EncoderOutput>,
    pub(crate) cache_ports: Vec<CachePort>,
    /// Moves the rows of cache and encoder outputs.
    pub(crate) row_gather: RowGather,
    /// How many tokens the graph takes, if there is no cache and it takes no other number.
    fixed_tokens: Option<usize>,
    /// Whether logits stay in the memory of the device.
    logits_stay: bool,
}

/// How the prompt is processed and the cache is filled.
#[derive(Debug)]
pub(crate) enum Prefill {
    /// There is no cache: every step processes all tokens so far.
    Uncached,
    /// By a graph of its own (`decoder_model.onnx`), which returns the cache.
    Graph(Box<StepGraph>),
    /// By the decoder's graph with an empty cache, or one of zeros. Static entries are outputs of its first run only.
    EmptyCache,
    /// By the decoder's graph with a cache that holds only the keys and values of cross-attention, which a subgraph of the prefill
    /// graph computes.
    CrossAttention(Box<Precomputed>),
}

/// A cache entry as the decoder's graph declares it.
#[derive(Debug)]
pub(crate) struct CachePort {
    pub(crate) input: String,
    output: String,
    pub(crate) kind: CacheKind,
    pub(crate) dtype: DataType,
    /// The shape of an empty entry without the batch axis: size 0 on every dynamic axis.
    pub(crate) inner: Vec<usize>,
}

/// The logits of the next token of every slot.
#[derive(Debug)]
pub(crate) struct Logits {
    /// `[slots, tokens, vocabulary]`; only those of the last token are used.
    value: Tensor,
    /// `tokens * vocabulary`
    width: usize,
    vocabulary: usize,
    /// The slots that the rows are of; `None`: of all slots, in their order.
    slots: Option<Vec<Slot>>,
}

impl Logits {
    /// Float16 stays float16 here: it is converted slot by slot where tokens are selected, in parallel.
    fn of(value: Tensor) -> Result<Self, OnnxError> {
        value.range_to_f32(0..0)?;
        let shape = value.shape();
        let (vocabulary, width) = (shape.last().copied().unwrap_or(0), shape.iter().skip(1).product());
        if shape.len() < 2 || width == 0 {
            return Err(OnnxError::of_run(format!("expected logits [rows, tokens, vocabulary], found {shape:?}")));
        }
        Ok(Self { value, width, vocabulary, slots: None })
    }

    /// The logits of `slots`, a row for each.
    pub(crate) fn of_slots(value: Tensor, slots: Vec<Slot>) -> Result<Self, OnnxError> {
        Ok(Self { slots: Some(slots), ..Self::of(value)? })
    }

    /// The logits of a slot, one for each token of the vocabulary.
    pub(crate) fn row(&self, Slot(slot): Slot) -> Result<Cow<'_, [f32]>, OnnxError> {
        let row = match &self.slots {
            Some(slots) => slots.iter().position(|Slot(of)| *of == slot),
            None => Some(slot),
        };
        let row = row.ok_or_else(|| OnnxError::of_run(format!("no logits of slot {slot}")))?;
        let end = (row + 1) * self.width;
        self.value.range_to_f32(end - self.vocabulary..end)
    }
}

impl CachePort {
    pub(crate) fn entry(&self, value: Tensor) -> CacheEntry {
        CacheEntry { value, kind: self.kind }
    }
}

impl Decoder {
    /// `text` is the opened text graph, which embeds tokens for some models.
    pub(crate) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        text: Option<&SharedGraph>,
    ) -> Result<Option<Self>, OnnxError> {
        let mut encoder_outputs = Vec::new();
        let cross_attention = Precomputed::cross_attention(directory, options, &mut encoder_outputs)?;
        let first = match cross_attention {
            Some(_) => None,
            None => StepGraph::open(directory, Role::Prefill, options, &mut encoder_outputs)?,
        };
        let Some(graph) = StepGraph::open(directory, Role::Decoder, options, &mut encoder_outputs)? else {
            return Ok(None);
        };
        let ports = directory.bindings().of(Role::Decoder).iter().filter_map(|(input, producer)| {
            let port = directory.graph(Role::Decoder)?.header.input(input)?;
            let (output, kind) = match producer {
                Producer::Cache(output) => (output.clone(), CacheKind::Replaced),
                Producer::StaticCache(output) => (output.clone(), CacheKind::Static),
                _ => return None,
            };
            let inner = (1..port.rank().unwrap_or(1)).map(|axis| port.fixed(axis).unwrap_or(0)).collect();
            Some(CachePort { input: input.clone(), output, kind, dtype: port.dtype, inner })
        });
        let cache_ports: Vec<_> = ports.collect();
        let prefill = match (first, cross_attention) {
            _ if cache_ports.is_empty() => Prefill::Uncached,
            (Some(graph), _) => Prefill::Graph(Box::new(graph)),
            (None, Some(precomputed)) => Prefill::CrossAttention(Box::new(precomputed)),
            (None, None) => Prefill::EmptyCache,
        };
        let embedder = TokenEmbedder::open(directory, options, text)?;
        let row_gather = RowGather::new(options);
        let fixed_tokens = directory.uncached_tokens().map(|(_, tokens)| tokens);
        Ok(Some(Self {
            prefill,
            graph,
            embedder,
            encoder_outputs,
            cache_ports,
            row_gather,
            fixed_tokens,
            logits_stay: false,
        }))
    }

    /// The type of the embeddings that the graph of the prefill takes, if it takes any.
    pub(crate) fn embedded_type(&self) -> Option<DataType> {
        match &self.prefill {
            Prefill::Graph(graph) => graph.embedded_type(),
            Prefill::Uncached | Prefill::EmptyCache | Prefill::CrossAttention(_) => self.graph.embedded_type(),
        }
    }

    /// Processes `prompts`, one for each slot and all of one length. `encoder_outputs`, `[slots, ...]`, are in the order of
    /// [`Self::encoder_outputs`]; `embedded` are the embeddings of prompts that hold image features, `[slots, tokens, width]`.
    pub(crate) fn prefill(
        &mut self,
        encoder_outputs: Vec<Tensor>,
        prompts: &[Vec<i64>],
        embedded: Option<Tensor>,
    ) -> Result<(DecoderState, Logits), OnnxError> {
        self.logits_stay = false;
        let (state, logits) = self.process_prompts(encoder_outputs, prompts, embedded)?;
        Ok((state, Logits::of(logits)?))
    }

    /// As [`prefill`](Self::prefill), but returns logits, `[slots, tokens, vocabulary]`, that stay in the memory of the device.
    pub(crate) fn prefill_on_device(
        &mut self,
        encoder_outputs: Vec<Tensor>,
        prompts: &[Vec<i64>],
        embedded: Option<Tensor>,
    ) -> Result<(DecoderState, Tensor), OnnxError> {
        self.logits_stay = true;
        self.process_prompts(encoder_outputs, prompts, embedded)
    }

    /// Whether [`begin`](Self::begin) gives all that a first step needs: no other graph runs before it.
    pub(crate) fn begins_without_prefill(&self) -> bool {
        match self.prefill {
            Prefill::Uncached | Prefill::Graph(_) => false,
            Prefill::EmptyCache => self.cache_ports.iter().all(|port| port.kind != CacheKind::Static),
            Prefill::CrossAttention(_) => true,
        }
    }

    /// The state of `slots` sequences without tokens: what depends on `encoder_outputs` only is computed.
    pub(crate) fn begin(&mut self, encoder_outputs: Vec<Tensor>, slots: usize) -> Result<DecoderState, OnnxError> {
        let to_device = |value| self.row_gather.to_device(value);
        let mut encoder_outputs = encoder_outputs.into_iter().map(to_device).collect::<Result<Vec<_>, _>>()?;
        let cross_attention = match &mut self.prefill {
            Prefill::CrossAttention(precomputed) => Some(precomputed.run(&encoder_outputs, slots)?),
            Prefill::Uncached | Prefill::Graph(_) | Prefill::EmptyCache => None,
        };
        let cache = match self.prefill {
            Prefill::Uncached | Prefill::Graph(_) => Vec::new(),
            Prefill::EmptyCache | Prefill::CrossAttention(_) => self.empty_cache(cross_attention, slots)?,
        };
        self.graph.precompute(&mut encoder_outputs, slots)?;
        let (origins, tokens, lengths) = ((0..slots).collect(), vec![Vec::new(); slots], vec![0; slots]);
        Ok(DecoderState { origins, encoder_outputs, cache, tokens, lengths })
    }

    fn process_prompts(
        &mut self,
        encoder_outputs: Vec<Tensor>,
        prompts: &[Vec<i64>],
        embedded: Option<Tensor>,
    ) -> Result<(DecoderState, Tensor), OnnxError> {
        let mut state = self.begin(encoder_outputs, prompts.len())?;
        let length = prompts.first().map_or(0, Vec::len);
        let logits = match self.prefill {
            // every step would embed the whole prompt again, as text
            Prefill::Uncached if embedded.is_some() => {
                let what = "expected a decoder with a cache, because the prompt holds an image; found one without";
                return Err(OnnxError::of_run(what)
                    .with_hint("export the decoder with its past keys and values as inputs and outputs"));
            }
            Prefill::Uncached => self.run_uncached(&mut state, prompts)?,
            Prefill::Graph(_) => self.run_prefill_graph(&mut state, prompts, embedded)?,
            // a graph without an input for the mask, the positions or the branch may mask several tokens of one run wrongly; one
            // that was exported beside a prefill graph may accept single tokens only
            Prefill::EmptyCache if length < 2 || self.graph.accepts_several_tokens() => {
                self.run_cached(&mut state, prompts, embedded, false)?
            }
            Prefill::CrossAttention(_) if length < 2 => self.run_cached(&mut state, prompts, embedded, true)?,
            Prefill::EmptyCache | Prefill::CrossAttention(_) if embedded.is_some() => {
                let what = "the decoder processes one token at a time, but the prompt holds an image";
                return Err(OnnxError::of_run(what));
            }
            Prefill::EmptyCache | Prefill::CrossAttention(_) => {
                let static_known = matches!(self.prefill, Prefill::CrossAttention(_));
                let mut logits = self.run_cached(&mut state, &column(prompts, 0), None, static_known)?;
                for index in 1..length {
                    logits = self.run_cached(&mut state, &column(prompts, index), None, true)?;
                }
                logits
            }
        };
        Ok((state, logits))
    }

    /// Processes the next token of every slot.
    pub(crate) fn step(&mut self, state: &mut DecoderState, tokens: &[i64]) -> Result<Logits, OnnxError> {
        self.logits_stay = false;
        let tokens: Vec<_> = tokens.iter().map(|&token| vec![token]).collect();
        let logits = match self.prefill {
            Prefill::Uncached => self.run_uncached(state, &tokens),
            _ => self.run_cached(state, &tokens, None, true),
        };
        Logits::of(logits?)
    }

    /// Runs the graph on all tokens so far, those of the prefill included. A graph of one length gets the last token again and again after
    /// them: no token attends to later ones.
    fn run_uncached(&mut self, state: &mut DecoderState, tokens: &[Vec<i64>]) -> Result<Tensor, OnnxError> {
        advance(&mut state.lengths, tokens);
        state.tokens.iter_mut().zip(tokens).for_each(|(all, tokens)| all.extend(tokens));
        let (past, encoder_outputs) = (vec![0; state.slots()], state.encoder_outputs.as_slice());
        let length = state.tokens.first().map_or(0, Vec::len);
        let fixed = self.fixed_tokens.filter(|fixed| *fixed > length);
        let padded: Option<Vec<_>> = fixed.map(|fixed| state.tokens.iter().map(|row| padded(row, fixed)).collect());
        let (tokens, logits_stay) = (padded.as_ref().unwrap_or(&state.tokens), self.logits_stay);
        let inputs =
            StepInputs { tokens, past: &past, embedded: None, encoder_outputs, cache: Vec::new(), logits_stay };
        let logits = self.graph.run(inputs, self.embedder.as_mut())?.take(StepGraph::LOGITS, state.slots())?;
        if padded.is_some() { logits_after(&logits, length) } else { Ok(logits) }
    }

    /// Runs the graph for the prefill, whose outputs are the cache.
    fn run_prefill_graph(
        &mut self,
        state: &mut DecoderState,
        prompts: &[Vec<i64>],
        embedded: Option<Tensor>,
    ) -> Result<Tensor, OnnxError> {
        let Prefill::Graph(graph) = &mut self.prefill else {
            return Err(OnnxError::of_run("expected a graph for the prefill, found none"));
        };
        let past = advance(&mut state.lengths, prompts);
        let encoder_outputs = state.encoder_outputs.as_slice();
        let (cache, logits_stay) = (Vec::new(), self.logits_stay);
        let inputs = StepInputs { tokens: prompts, past: &past, embedded, encoder_outputs, cache, logits_stay };
        let mut outputs = graph.run(inputs, self.embedder.as_mut())?;
        for port in &self.cache_ports {
            state.cache.push(port.entry(outputs.take(&port.output, state.origins.len())?));
        }
        outputs.take(StepGraph::LOGITS, state.slots())
    }

    /// Runs the decoder's graph with its cache. If `static_known`, static entries are inputs and stay as they are; otherwise they are
    /// taken from the outputs, as all others.
    fn run_cached(
        &mut self,
        state: &mut DecoderState,
        tokens: &[Vec<i64>],
        embedded: Option<Tensor>,
        static_known: bool,
    ) -> Result<Tensor, OnnxError> {
        let past = advance(&mut state.lengths, tokens);
        let slots = state.slots();
        let entries = self.cache_ports.iter().zip(std::mem::take(&mut state.cache));
        let (fixed, changing): (Vec<_>, Vec<_>) =
            entries.partition(|(port, _)| port.kind == CacheKind::Static && static_known);
        let mut cache: Vec<_> =
            changing.into_iter().map(|(port, entry)| (port.input.as_str(), SessionInput::Owned(entry.value))).collect();
        cache.extend(fixed.iter().map(|(port, entry)| (port.input.as_str(), SessionInput::Shared(&entry.value))));
        let encoder_outputs = state.encoder_outputs.as_slice();
        let inputs =
            StepInputs { tokens, past: &past, embedded, encoder_outputs, cache, logits_stay: self.logits_stay };
        let mut outputs = self.graph.run(inputs, self.embedder.as_mut())?;
        let mut fixed = fixed.into_iter().map(|(_, entry)| entry);
        for port in &self.cache_ports {
            let known = if port.kind == CacheKind::Static && static_known { fixed.next() } else { None };
            state.cache.push(match known {
                Some(entry) => entry,
                None => port.entry(outputs.take(&port.output, slots)?),
            });
        }
        outputs.take(StepGraph::LOGITS, slots)
    }

    /// A cache without tokens; its static entries are taken from `computed`, if that is given.
    fn empty_cache(&self, mut computed: Option<Outputs>, slots: usize) -> Result<Vec<CacheEntry>, OnnxError> {
        let entry = |port: &CachePort| {
            let shape: Vec<usize> = std::iter::once(slots).chain(port.inner.iter().copied()).collect();
            let value = match computed.as_mut().filter(|_| port.kind == CacheKind::Static) {
                Some(computed) => computed.take(&port.output, slots),
                None => Tensor::zeros(port.dtype, &shape),
            };
            value.map(|value| port.entry(value))
        };
        self.cache_ports.iter().map(entry).collect()
    }
}

/// Adds `tokens` to `lengths`; returns the lengths before.
fn advance(lengths: &mut Vec<usize>, tokens: &[Vec<i64>]) -> Vec<usize> {
    let after = lengths.iter().zip(tokens).map(|(length, tokens)| length + tokens.len()).collect();
    std::mem::replace(lengths, after)
}

/// `tokens`, and the last of them as often as it takes to make them `length`.
fn padded(tokens: &[i64], length: usize) -> Vec<i64> {
    let last = tokens.last().into_iter().cycle();
    tokens.iter().chain(last).take(length).copied().collect()
}

/// Of `logits`, `[slots, tokens, vocabulary]`, those after `length` tokens, `[slots, 1, vocabulary]`.
fn logits_after(logits: &Tensor, length: usize) -> Result<Tensor, OnnxError> {
    let shape = logits.shape();
    let [slots, tokens, vocabulary] = shape[..] else {
        return Err(OnnxError::of_run(format!("expected logits [rows, tokens, vocabulary], found {shape:?}")));
    };
    if tokens < length || length == 0 {
        return Err(OnnxError::of_run(format!("expected logits after each of {length} tokens, found {shape:?}")));
    }
    let mut after = Vec::with_capacity(slots * vocabulary);
    for slot in 0..slots {
        let end = (slot * tokens + length) * vocabulary;
        after.extend_from_slice(&logits.range_to_f32(end - vocabulary..end)?);
    }
    Tensor::from_f32(logits.dtype(), &[slots, 1, vocabulary], after)
}

/// The token at `index` of every prompt.
fn column(prompts: &[Vec<i64>], index: usize) -> Vec<Vec<i64>> {
    prompts.iter().map(|prompt| prompt.get(index).copied().into_iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Decoder, Logits};
    use crate::engine::decoder::cache::Slot;
    use crate::model::{ModelDirectory, Role};
    use crate::onnx::{DataType, Device, GraphOptions, OnnxErrorKind, Tensor};

    #[test]
    fn what_goes_from_step_to_step_stays_in_the_memory_of_a_device() {
        for model in ["vit_gpt2", "trocr", "blip"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
            let directory = ModelDirectory::open(&path, None).unwrap();
            let mut graphs = [Role::Decoder, Role::Prefill].into_iter().filter_map(|role| directory.graph(role));
            let width = graphs.find_map(|graph| graph.header.input("encoder_hidden_states")?.fixed(2));
            let options = GraphOptions { device: Device::StandIn, threads: 1, dynamic_shapes: true, repeatable: true };
            let mut decoder = Decoder::open(&directory, options, None).unwrap().unwrap();
            let states = |dtype| Tensor::ones(dtype, &[2, 5, width.unwrap()]).unwrap();
            let encoder_outputs = decoder.encoder_outputs.iter().map(|output| states(output.dtype)).collect();
            let (mut state, _) = decoder.prefill(encoder_outputs, &[vec![1], vec![1]], None).unwrap();
            for slots in [vec![1, 0, 0], vec![2], vec![0]] {
                let tokens = vec![1; state.slots()];
                decoder.step(&mut state, &tokens).unwrap();
                let tensors = state.cache.iter().map(|entry| &entry.value).chain(&state.encoder_outputs);
                let readable = tensors.filter(|value| value.dtype().is_float() && value.to_f32().is_ok()).count();
                assert!(readable == 0 && !state.cache.is_empty(), "{model}: {readable} in the host's memory");
                let slots: Vec<_> = slots.into_iter().map(Slot).collect();
                state.keep(&slots, &mut decoder.row_gather).unwrap();
            }
        }
    }

    #[test]
    fn logits_that_are_not_there_are_an_error() {
        let data: Vec<f32> = (0..12).map(|number| number as f32).collect();
        let logits = Logits::of(Tensor::from_f32(DataType::F32, &[2, 2, 3], data).unwrap()).unwrap();
        assert_eq!(logits.row(Slot(0)).unwrap().as_ref(), [3.0, 4.0, 5.0]);
        assert_eq!(logits.row(Slot(1)).unwrap().as_ref(), [9.0, 10.0, 11.0]);
        assert_eq!(logits.row(Slot(2)).unwrap_err().kind, OnnxErrorKind::Run);
        for shape in [&[2, 0, 3][..], &[2, 2, 0], &[4]] {
            let size = shape.iter().product::<usize>();
            let value = if size == 0 {
                Tensor::zeros(DataType::F32, shape)
            } else {
                Tensor::from_f32(DataType::F32, shape, vec![0.0; size])
            };
            let error = Logits::of(value.unwrap()).unwrap_err();
            assert!(error.to_string().contains("expected logits [rows, tokens, vocabulary]"), "{error}");
        }
    }
}
