//! The static decoder: steps of one shape, on tensors that stay where they are. In: rows of prefilled states. Out: after each step,
//! the best tokens of every row, their log-probabilities, and whether the row's logits are finite.
//!
//! # Why
//! On a device, a step of an exported decoder allocates new caches, starts some hundred kernels and returns all logits. Here caches have
//! room for every token from the start ([`static_step`](crate::onnx::edit::static_step)), rows of different lengths share a batch, tokens are
//! chosen in the graph ([`choose`](crate::onnx::choose)), and on CUDA a step is replayed as one graph.
//!
//! # Slots
//! A batch has as many slots as a *bucket*: every number of slots needs tensors and a captured graph of its own. Slots beyond the live
//! rows hold copies, whose results nobody reads. Rows leave and join when all rows are placed into the tensors of the next batch. Beams
//! of one image differ in their caches only: these are reordered between two sets of tensors, and what they attend to stays where it is.

use super::cache::{CacheKind, DecoderState};
use super::encoder_outputs::StepInvariant;
use super::run::Decoder;
use crate::onnx::choose::{Choice, names};
use crate::onnx::{
    AttentionKernels, BoundRun, Capture, DataType, GraphOptions, OnnxError, OnnxErrorKind, RowPlacement, RowSource,
    Rows, Session, StaticGraph, Tensor, open_choice, open_static_step,
};

/// The numbers of slots of a batch that is not full.
const BUCKETS: [usize; 14] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024];
/// Caches have room for a multiple of this many tokens, so that prompts of similar lengths use the same tensors.
const ROOM_STEP: usize = 8;

/// A decoder's step with static caches, and the tensors of its batches.
#[derive(Debug)]
pub(crate) struct StaticDecoder {
    step: Session,
    capture: Capture,
    /// Chooses the first token of prompts that another graph has processed.
    prefill_choice: Session,
    placement: RowPlacement,
    fixed: Vec<FixedInput>,
    caches: Vec<StaticCachePort>,
    /// A cache of one token, of zeros, for each cache: it begins rows without tokens.
    zeros: Vec<Tensor>,
    candidates: usize,
    has_shortest: bool,
    /// Tensors that no batch uses now.
    free: Vec<StaticBatch>,
    slots: usize,
}

/// An input that is the same in every step, `[slots, ...]`.
#[derive(Debug)]
struct FixedInput {
    name: String,
    dtype: DataType,
    source: FixedSource,
}

/// Where the rows of an input that is the same in every step come from.
#[derive(Debug, Clone, Copy)]
enum FixedSource {
    /// The cache entry at this index of [`DecoderState::cache`].
    Cache(usize),
    /// An encoder output, or a mask of it.
    Invariant(StepInvariant),
}

/// A cache `[slots, heads, room, width]`, which a step writes in place.
#[derive(Debug)]
struct StaticCachePort {
    input: String,
    output: String,
    dtype: DataType,
    heads: usize,
    width: usize,
    /// The index in [`DecoderState::cache`].
    index: usize,
}

/// The tensors of a batch, bound to the step's graph.
#[derive(Debug)]
pub(crate) struct StaticBatch {
    slots: usize,
    /// How many tokens the caches have room for.
    room: usize,
    fixed: Vec<Tensor>,
    /// The caches of the next step, and the run that is bound to them.
    caches: CacheSet,
    /// Where caches are reordered to; none if the graph chooses the tokens.
    spare: Option<CacheSet>,
    tokens: Tensor,
    lengths: Tensor,
    shortest: Tensor,
    chosen: Tensor,
}

/// The caches of a batch, and the step that is bound to them.
#[derive(Debug)]
struct CacheSet {
    caches: Vec<Tensor>,
    run: BoundRun,
}

/// The numbers of a row that a step depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowStart {
    /// The token that the next step processes.
    pub(crate) token: i64,
    /// How many tokens are in the cache.
    pub(crate) length: usize,
    /// The row does not end while fewer tokens than this are in the cache.
    pub(crate) shortest: usize,
}

/// What was chosen for a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    /// Tokens with their log-probabilities, best first.
    pub(crate) candidates: Vec<(i64, f64)>,
    /// Whether all logits of the row are finite.
    pub(crate) finite: bool,
}

/// Rows that join a batch, in slots of their own.
#[derive(Debug)]
pub(crate) struct NewRows {
    fixed: Vec<Tensor>,
    /// None for rows without tokens.
    caches: Option<Vec<Tensor>>,
    /// Which rows of the tensors.
    pub(crate) rows: Vec<usize>,
}

impl StaticDecoder {
    /// Opens the static step of `decoder`, which chooses tokens as `choice` says.
    pub(crate) fn open(
        decoder: &Decoder,
        step: &StaticGraph,
        choice: &Choice,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let (session, capture) = open_static_step(step, choice, options, AttentionKernels::OneQuery)?;
        let index_of = |name: &str| decoder.cache_ports.iter().position(|port| port.input == name);
        let mut caches = Vec::with_capacity(step.caches.len());
        for cache in &step.caches {
            let index = index_of(&cache.input)
                .ok_or_else(|| OnnxError::of_run(format!("{:?} is no cache of the decoder", cache.input)))?;
            caches.push(StaticCachePort {
                input: cache.input.clone(),
                output: cache.output.clone(),
                dtype: cache.dtype,
                heads: cache.heads,
                width: cache.width,
                index,
            });
        }
        let mut fixed = Vec::new();
        let own = [names::TOKENS, names::LENGTHS, names::SHORTEST, names::LONGEST];
        for port in session.inputs() {
            let name = port.name.as_str();
            if own.contains(&name) || caches.iter().any(|cache| cache.input == name) {
                continue;
            }
            let cached = index_of(name).filter(|&index| decoder.cache_ports[index].kind == CacheKind::Static);
            let source = match (cached, decoder.graph.invariant(name)) {
                (Some(index), _) => FixedSource::Cache(index),
                (None, Some(invariant)) => FixedSource::Invariant(invariant),
                (None, None) => {
                    return Err(OnnxError::of_run(format!("nothing feeds input {name:?} of the static step")));
                }
            };
            fixed.push(FixedInput { name: name.to_owned(), dtype: port.dtype, source });
        }
        let placement = RowPlacement::new(
            options,
            fixed.iter().map(|input| input.dtype).collect(),
            caches.iter().map(|cache| cache.dtype).collect(),
        );
        let zeros = caches.iter().map(|cache| Tensor::zeros(cache.dtype, &[1, cache.heads, 1, cache.width]));
        let zeros = zeros.collect::<Result<_, _>>()?;
        let has_shortest = session.inputs().iter().any(|port| port.name == names::SHORTEST);
        let prefill_choice = open_choice(&step.graph, choice, options)?;
        Ok(Self {
            step: session,
            capture,
            prefill_choice,
            placement,
            fixed,
            caches,
            zeros,
            candidates: choice.candidates,
            has_shortest,
            free: Vec::new(),
            slots: 1,
        })
    }

    /// Whether steps are replayed as CUDA graphs.
    pub(crate) fn captures(&self) -> bool {
        self.capture == Capture::EachBinding
    }

    /// Steps start one kernel after the other from now on.
    #[cfg(test)]
    pub(crate) fn capture_nothing(&mut self) {
        self.capture = Capture::Never;
        self.free.clear();
    }

    /// Batches have at most `slots` slots from now on.
    pub(crate) fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// The number of slots of a batch of `rows` rows.
    pub(crate) fn bucket(&self, rows: usize) -> usize {
        BUCKETS.into_iter().find(|bucket| *bucket >= rows).unwrap_or(rows).min(self.slots.max(rows))
    }

    /// The room of caches for `tokens` tokens.
    pub(crate) fn room(tokens: usize) -> usize {
        tokens.next_multiple_of(ROOM_STEP)
    }

    /// The rows of `state`; `prefilled`: whether their prompts were processed, so that their caches have tokens.
    pub(crate) fn new_rows(&self, state: DecoderState, prefilled: bool) -> Result<NewRows, OnnxError> {
        let slots = state.slots();
        let DecoderState { encoder_outputs, cache, .. } = state;
        let mut cache: Vec<_> = cache.into_iter().map(|entry| Some(entry.value)).collect();
        let lost = || OnnxError::of_run("a cache entry of the prefill is used twice");
        let mut fixed = Vec::with_capacity(self.fixed.len());
        let mut shared: Vec<Option<Tensor>> = encoder_outputs.into_iter().map(Some).collect();
        for input in &self.fixed {
            fixed.push(match input.source {
                FixedSource::Cache(index) => cache.get_mut(index).and_then(Option::take).ok_or_else(lost)?,
                FixedSource::Invariant(StepInvariant::Tensor(index)) => {
                    shared.get_mut(index).and_then(Option::take).ok_or_else(lost)?
                }
                FixedSource::Invariant(StepInvariant::Ones(index)) => {
                    let value = shared.get(index).and_then(Option::as_ref).ok_or_else(lost)?;
                    Tensor::ones(input.dtype, &[slots, value.shape().get(1).copied().unwrap_or(0)])?
                }
            });
        }
        let caches = self.caches.iter().map(|port| cache.get_mut(port.index).and_then(Option::take).ok_or_else(lost));
        let caches = prefilled.then(|| caches.collect::<Result<Vec<_>, _>>()).transpose()?;
        Ok(NewRows { fixed, caches, rows: (0..slots).collect() })
    }

    /// Whether `new` can be in one batch with the rows of `running`: what they attend to has the same shape.
    pub(crate) fn can_join(running: &StaticBatch, new: &NewRows) -> bool {
        running.fixed.iter().zip(&new.fixed).all(|(this, that)| this.shape().get(1..) == that.shape().get(1..))
    }

    /// The next batch: the rows `kept` of `running`, then `new`; caches have room for `room` tokens. At least one row is needed. The
    /// tensors of `running` are free afterwards.
    pub(crate) fn place(
        &mut self,
        running: Option<(StaticBatch, &[usize])>,
        new: Option<&NewRows>,
        room: usize,
    ) -> Result<StaticBatch, OnnxError> {
        let kept = running.as_ref().map_or(0, |(_, rows)| rows.len());
        let joining = new.map_or(0, |new| new.rows.len());
        let slots = self.bucket(kept + joining);
        let example = running.as_ref().map(|(batch, _)| &batch.fixed).or(new.map(|new| &new.fixed));
        let shapes: Vec<Vec<usize>> = example
            .into_iter()
            .flatten()
            .map(|value| std::iter::once(slots).chain(value.shape().into_iter().skip(1)).collect())
            .collect();
        let mut batch = self.take(slots, room, &shapes)?;
        // the slots beyond the last row hold copies of it
        let padded = |rows: &[usize], missing: usize| -> Vec<usize> {
            let copies = std::iter::repeat_n(rows.last().copied().unwrap_or(0), missing);
            rows.iter().copied().chain(copies).collect()
        };
        let missing = slots - kept - joining;
        let old_rows = running.as_ref().map(|(_, rows)| padded(rows, if joining == 0 { missing } else { 0 }));
        let new_rows = new.map(|new| padded(&new.rows, missing));
        let no_rows = vec![0; joining + missing];
        let mut sources = Vec::with_capacity(2);
        if let (Some((old, _)), Some(rows)) = (&running, &old_rows) {
            let (fixed, caches) = (Rows { tensors: &old.fixed, rows }, Rows { tensors: &old.caches.caches, rows });
            sources.extend((kept > 0).then_some(RowSource { fixed, caches }));
        }
        if let (Some(new), Some(rows)) = (new.filter(|_| joining > 0), &new_rows) {
            let caches = match &new.caches {
                Some(caches) => Rows { tensors: caches, rows },
                None => Rows { tensors: &self.zeros, rows: &no_rows },
            };
            sources.push(RowSource { fixed: Rows { tensors: &new.fixed, rows }, caches });
        }
        self.placement.place(&sources, room, &mut batch.fixed, &mut batch.caches.caches)?;
        self.free.extend(running.map(|(batch, _)| batch));
        Ok(batch)
    }

    /// Moves the caches of `batch`: slot `i` gets those of slot `rows[i]`. Slots behind the last of `rows` keep theirs.
    pub(crate) fn reorder(&mut self, batch: &mut StaticBatch, rows: &[usize]) -> Result<(), OnnxError> {
        let rows: Vec<_> = rows.iter().copied().chain(rows.len()..batch.slots).collect();
        let Some(spare) = batch.spare.as_mut().filter(|_| !rows.iter().copied().eq(0..batch.slots)) else {
            return Ok(());
        };
        let caches = Rows { tensors: &batch.caches.caches, rows: &rows };
        self.placement.place_caches(caches, batch.room, &mut spare.caches)?;
        std::mem::swap(&mut batch.caches, spare);
        Ok(())
    }

    /// Sets what the next step processes, one entry for each slot of `batch`.
    pub(crate) fn start(batch: &mut StaticBatch, rows: &[RowStart]) -> Result<(), OnnxError> {
        let slot = |slot: usize| rows.get(slot).or(rows.last());
        let numbers = |number: fn(&RowStart) -> i64| (0..batch.slots).filter_map(slot).map(number).collect::<Vec<_>>();
        let tokens = Tensor::from_i64(&[batch.slots, 1], numbers(|row| row.token))?;
        let lengths = Tensor::from_i64(&[batch.slots], numbers(|row| row.length as i64))?;
        let shortest = Tensor::from_i64(&[batch.slots], numbers(|row| row.shortest as i64))?;
        tokens.copy_into(&mut batch.tokens)?;
        lengths.copy_into(&mut batch.lengths)?;
        shortest.copy_into(&mut batch.shortest)
    }

    /// Runs one step; returns what was chosen for each slot. If that is one token, it is the input of the next step; otherwise
    /// [`start`](Self::start) sets that.
    pub(crate) fn step(&mut self, batch: &StaticBatch) -> Result<Vec<Chosen>, OnnxError> {
        self.step.run_bound(&batch.caches.run)?;
        read(&batch.chosen)
    }

    /// Chooses the tokens after prompts with these logits, `[rows, tokens, vocabulary]` in the memory of the device.
    pub(crate) fn choose_first(&mut self, logits: &Tensor, rows: &[RowStart]) -> Result<Vec<Chosen>, OnnxError> {
        use crate::onnx::SessionInput::{Owned, Shared};
        let numbers = |number: fn(&RowStart) -> i64| Tensor::from_i64(&[rows.len()], rows.iter().map(number).collect());
        let mut feeds = vec![(names::LOGITS, Shared(logits))];
        if self.has_shortest {
            feeds.push((names::LENGTHS, Owned(numbers(|row| row.length as i64)?)));
            feeds.push((names::SHORTEST, Owned(numbers(|row| row.shortest as i64)?)));
        }
        let outputs = self.prefill_choice.run_on_device(&feeds, &[names::CHOSEN])?;
        of_numbers(outputs.get(names::CHOSEN, rows.len())?)
    }

    /// Gives the tensors of `batch` back.
    pub(crate) fn release(&mut self, batch: StaticBatch) {
        self.free.push(batch);
    }

    /// Free tensors of these shapes, or new ones.
    fn take(&mut self, slots: usize, room: usize, fixed: &[Vec<usize>]) -> Result<StaticBatch, OnnxError> {
        let fits = |batch: &StaticBatch| {
            batch.slots == slots
                && batch.room == room
                && batch.fixed.iter().map(Tensor::shape).eq(fixed.iter().cloned())
        };
        match self.free.iter().position(fits) {
            Some(index) => Ok(self.free.swap_remove(index)),
            None => match self.allocate(slots, room, fixed) {
                // those that no batch uses now may be what is missing
                Err(error) if error.kind == OnnxErrorKind::OutOfMemory && !self.free.is_empty() => {
                    self.free.clear();
                    self.allocate(slots, room, fixed)
                }
                allocated => allocated,
            },
        }
    }

    fn allocate(&mut self, slots: usize, room: usize, shapes: &[Vec<usize>]) -> Result<StaticBatch, OnnxError> {
        // those of other lengths of prompts will hardly be used again
        self.free.retain(|batch| batch.room == room);
        let session = &self.step;
        let allocated = self.fixed.iter().zip(shapes).map(|(input, shape)| session.allocate(input.dtype, shape));
        let fixed = allocated.collect::<Result<Vec<_>, _>>()?;
        let numbers = || session.allocate(DataType::I64, &[slots]);
        let (mut lengths, shortest, mut longest) = (numbers()?, numbers()?, numbers()?);
        let mut tokens = session.allocate(DataType::I64, &[slots, 1])?;
        let mut chosen = session.allocate(DataType::F32, &[slots, 2 * self.candidates + 1])?;
        Tensor::from_i64(&[slots], vec![room as i64 - 1; slots])?.copy_into(&mut longest)?;
        let chooses = self.candidates == 1;
        let mut sets = Vec::with_capacity(2);
        for _ in 0..if chooses { 1 } else { 2 } {
            let cache = |port: &StaticCachePort| session.allocate(port.dtype, &[slots, port.heads, room, port.width]);
            let mut caches = self.caches.iter().map(cache).collect::<Result<Vec<_>, _>>()?;
            let mut inputs: Vec<_> =
                self.fixed.iter().zip(&fixed).map(|(input, value)| (input.name.as_str(), value)).collect();
            inputs.extend(self.has_shortest.then_some((names::SHORTEST, &shortest)));
            let ports = self.caches.iter().map(|port| [port.input.as_str(), port.output.as_str()]);
            let mut in_place: Vec<_> = ports.zip(&mut caches).collect();
            if chooses {
                inputs.push((names::LONGEST, &longest));
                in_place.push(([names::TOKENS, names::NEXT_TOKENS], &mut tokens));
                in_place.push(([names::LENGTHS, names::NEXT_LENGTHS], &mut lengths));
            } else {
                inputs.extend([(names::TOKENS, &tokens), (names::LENGTHS, &lengths)]);
            }
            let run = session.bind(&inputs, &mut [(names::CHOSEN, &mut chosen)], &mut in_place, self.capture)?;
            sets.push(CacheSet { caches, run });
        }
        let spare = if chooses { None } else { sets.pop() };
        let Some(caches) = sets.pop() else { return Err(OnnxError::of_run("a batch without caches")) };
        let mut batch = StaticBatch { slots, room, fixed, caches, spare, tokens, lengths, shortest, chosen };
        if self.captures() {
            // the run that captures the graph is not a step: it runs several times, on whatever is there
            Self::start(&mut batch, &[RowStart { token: 0, length: 0, shortest: 0 }])?;
            for set in std::iter::once(&batch.caches).chain(&batch.spare) {
                self.step.run_bound(&set.run)?;
            }
        }
        Ok(batch)
    }
}

impl NewRows {
    /// How many tokens are in their caches.
    pub(crate) fn tokens(&self) -> usize {
        let cache = self.caches.as_ref().and_then(|caches| caches.first());
        cache.and_then(|cache| cache.shape().get(2).copied()).unwrap_or(0)
    }
}

impl StaticBatch {
    /// How many tokens its caches have room for.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// How many slots it has.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }
}

/// What was chosen, from the memory of the device.
fn read(chosen: &Tensor) -> Result<Vec<Chosen>, OnnxError> {
    let mut host = Tensor::zeros(DataType::F32, &chosen.shape())?;
    chosen.copy_into(&mut host)?;
    of_numbers(&host)
}

/// What [`names::CHOSEN`], `[rows, width]`, says of each row.
fn of_numbers(chosen: &Tensor) -> Result<Vec<Chosen>, OnnxError> {
    let width = chosen.shape().last().copied().unwrap_or(0).max(1);
    let row = |numbers: &[f32]| {
        let (tokens, rest) = numbers.split_at(width / 2);
        let candidates = tokens.iter().zip(rest).map(|(token, logprob)| (*token as i64, f64::from(*logprob)));
        Chosen { candidates: candidates.collect(), finite: rest.last().is_some_and(|finite| *finite > 0.0) }
    };
    Ok(chosen.to_f32()?.chunks_exact(width).map(row).collect())
}
