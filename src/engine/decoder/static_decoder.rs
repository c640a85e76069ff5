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
use super::chosen::Chosen;
use super::encoder_outputs::StepInvariant;
use super::run::Decoder;
use super::static_batch::{BatchLayout, Batches, RowStart, StaticBatch, StaticCachePort};
use crate::onnx::choose::{Choice, names};
use crate::onnx::{
    AttentionKernels, GraphOptions, OnnxError, RowPlacement, RowSource, Rows, Session, StaticGraph, Tensor,
    open_choice, open_static_step,
};

/// The numbers of slots of a batch that is not full.
const BUCKETS: [usize; 14] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024];
/// Caches have room for a multiple of this many tokens, so that prompts of similar lengths use the same tensors.
const ROOM_STEP: usize = 8;

/// A decoder's step with static caches, and the tensors of its batches.
#[derive(Debug)]
pub(crate) struct StaticDecoder {
    batches: Batches,
    /// Chooses the first token of prompts that another graph has processed.
    prefill_choice: Session,
    placement: RowPlacement,
    /// Of each input that is the same in every step.
    sources: Vec<FixedSource>,
    /// The index of each cache in [`DecoderState::cache`].
    cache_entries: Vec<usize>,
    /// A cache of one token, of zeros, for each cache: it begins rows without tokens.
    zeros: Vec<Tensor>,
    slots: usize,
}

/// Where the rows of an input that is the same in every step come from.
#[derive(Debug, Clone, Copy)]
enum FixedSource {
    /// The cache entry at this index of [`DecoderState::cache`].
    Cache(usize),
    /// An encoder output, or a mask of it.
    Invariant(StepInvariant),
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
    /// Opens the static step of `decoder`, which chooses tokens as `choice` says; `beams`: how many sequences a caption has.
    pub(crate) fn open(
        decoder: &Decoder,
        step: &StaticGraph,
        choice: &Choice,
        beams: usize,
        options: GraphOptions,
    ) -> Result<Self, OnnxError> {
        let (session, capture) = open_static_step(step, choice, options, AttentionKernels::OneQuery)?;
        let index_of = |name: &str| decoder.cache_ports.iter().position(|port| port.input == name);
        let (mut caches, mut cache_entries) = (Vec::with_capacity(step.caches.len()), Vec::new());
        for cache in &step.caches {
            let index = index_of(&cache.input)
                .ok_or_else(|| OnnxError::of_run(format!("{:?} is no cache of the decoder", cache.input)))?;
            cache_entries.push(index);
            let (input, output) = (cache.input.clone(), cache.output.clone());
            let (dtype, heads, width) = (cache.dtype, cache.heads, cache.width);
            caches.push(StaticCachePort { input, output, dtype, heads, width });
        }
        let (mut fixed, mut sources) = (Vec::new(), Vec::new());
        let own = [names::TOKENS, names::LENGTHS, names::SHORTEST, names::LONGEST];
        for port in session.inputs() {
            let name = port.name.as_str();
            if own.contains(&name) || caches.iter().any(|cache| cache.input == name) {
                continue;
            }
            let cached = index_of(name).filter(|&index| decoder.cache_ports[index].kind == CacheKind::Static);
            sources.push(match (cached, decoder.graph.invariant(name)) {
                (Some(index), _) => FixedSource::Cache(index),
                (None, Some(invariant)) => FixedSource::Invariant(invariant),
                (None, None) => {
                    return Err(OnnxError::of_run(format!("nothing feeds input {name:?} of the static step")));
                }
            });
            fixed.push((name.to_owned(), port.dtype));
        }
        let placement = RowPlacement::new(
            options,
            fixed.iter().map(|(_, dtype)| *dtype).collect(),
            caches.iter().map(|cache| cache.dtype).collect(),
        );
        let zeros = caches.iter().map(|cache| Tensor::zeros(cache.dtype, &[1, cache.heads, 1, cache.width]));
        let zeros = zeros.collect::<Result<_, _>>()?;
        let prefill_choice = open_choice(&step.graph, choice, options)?;
        let Choice { candidates, vocabulary, .. } = *choice;
        let layout =
            BatchLayout { fixed, caches, candidates, vocabulary, reorders: beams > 1, positions: step.positions() };
        let batches = Batches::new(session, capture, layout);
        Ok(Self { batches, prefill_choice, placement, sources, cache_entries, zeros, slots: 1 })
    }

    /// Whether steps are replayed as CUDA graphs.
    pub(crate) fn captures(&self) -> bool {
        self.batches.captures()
    }

    /// Steps start one kernel after the other from now on.
    #[cfg(test)]
    pub(crate) fn capture_nothing(&mut self) {
        self.batches.capture_nothing();
    }

    /// How many tokens a row may have in its cache and its step together, if that is limited.
    pub(crate) fn positions(&self) -> Option<usize> {
        self.batches.layout().positions
    }

    /// How many logits a row has.
    pub(crate) fn vocabulary(&self) -> usize {
        self.batches.layout().vocabulary
    }

    /// The bytes of the device's memory that all batches of at most `slots` slots take together, by the largest slot so far: tensors of
    /// each bucket are kept, and rows move from one batch to another.
    pub(crate) fn bytes(&self, slots: usize) -> usize {
        let smaller: usize = BUCKETS.into_iter().filter(|bucket| *bucket < slots).sum();
        self.batches.slot_bytes() * (smaller + 2 * slots)
    }

    /// Whether the graph chooses the tokens, which are then the input of its next step.
    pub(crate) fn chooses(&self) -> bool {
        self.batches.layout().candidates == 1
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
        let mut fixed = Vec::with_capacity(self.sources.len());
        let mut shared: Vec<Option<Tensor>> = encoder_outputs.into_iter().map(Some).collect();
        for (source, (_, dtype)) in self.sources.iter().zip(&self.batches.layout().fixed) {
            fixed.push(match *source {
                FixedSource::Cache(index) => cache.get_mut(index).and_then(Option::take).ok_or_else(lost)?,
                FixedSource::Invariant(StepInvariant::Tensor(index)) => {
                    shared.get_mut(index).and_then(Option::take).ok_or_else(lost)?
                }
                FixedSource::Invariant(StepInvariant::Ones(index)) => {
                    let value = shared.get(index).and_then(Option::as_ref).ok_or_else(lost)?;
                    Tensor::ones(*dtype, &[slots, value.shape().get(1).copied().unwrap_or(0)])?
                }
            });
        }
        let caches =
            self.cache_entries.iter().map(|&index| cache.get_mut(index).and_then(Option::take).ok_or_else(lost));
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
        let mut batch = self.batches.take(slots, room, &shapes)?;
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
        if let Some((batch, _)) = running {
            self.batches.release(batch);
        }
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

    /// Runs one step; returns what was chosen for each slot. If that is one token, it is the input of the next step; otherwise
    /// [`StaticBatch::start`] sets that.
    pub(crate) fn step(&mut self, batch: &StaticBatch) -> Result<Vec<Chosen>, OnnxError> {
        self.batches.run(batch)?;
        Chosen::of_numbers(&batch.chosen.to_host()?)
    }

    /// Chooses the tokens after prompts with these logits, `[rows, tokens, vocabulary]` in the memory of the device.
    pub(crate) fn choose_first(&mut self, logits: &Tensor, rows: &[RowStart]) -> Result<Vec<Chosen>, OnnxError> {
        use crate::onnx::SessionInput::{Owned, Shared};
        let numbers = |number: fn(&RowStart) -> i64| Tensor::from_i64(&[rows.len()], rows.iter().map(number).collect());
        let mut feeds = vec![(names::LOGITS, Shared(logits))];
        if self.batches.has_shortest() {
            feeds.push((names::LENGTHS, Owned(numbers(|row| row.length as i64)?)));
            feeds.push((names::SHORTEST, Owned(numbers(|row| row.shortest as i64)?)));
        }
        let outputs = self.prefill_choice.run_on_device(&feeds, &[names::CHOSEN])?;
        Chosen::of_numbers(outputs.get(names::CHOSEN, rows.len())?)
    }

    /// Gives the tensors of `batch` back.
    pub(crate) fn release(&mut self, batch: StaticBatch) {
        self.batches.release(batch);
    }
}

impl NewRows {
    /// How many tokens are in their caches.
    pub(crate) fn tokens(&self) -> usize {
        let cache = self.caches.as_ref().and_then(|caches| caches.first());
        cache.and_then(|cache| cache.shape().get(2).copied()).unwrap_or(0)
    }
}
