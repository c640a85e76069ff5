//! The tensors of a batch of static steps, bound to the step's graph. In: numbers of slots and tokens. Out: a [`StaticBatch`]; those that
//! no batch uses any more are given again.

use crate::onnx::choose::names;
use crate::onnx::{BoundRun, Capture, DataType, OnnxError, OnnxErrorKind, Session, Tensor};

/// A cache `[slots, heads, room, width]`, which a step writes in place.
#[derive(Debug)]
pub(super) struct StaticCachePort {
    pub(super) input: String,
    pub(super) output: String,
    pub(super) dtype: DataType,
    pub(super) heads: usize,
    pub(super) width: usize,
}

/// What the tensors of a batch are, apart from its size.
#[derive(Debug)]
pub(super) struct BatchLayout {
    /// Inputs that are the same in every step, `[slots, ...]`.
    pub(super) fixed: Vec<(String, DataType)>,
    pub(super) caches: Vec<StaticCachePort>,
    /// How many candidates a row has; 1: the graph chooses the token.
    pub(super) candidates: usize,
    /// How many logits a row has.
    pub(super) vocabulary: usize,
    /// Whether caches are reordered between two steps.
    pub(super) reorders: bool,
    /// How many tokens a row may have, if that is limited.
    pub(super) positions: Option<usize>,
}

/// The step's session, and tensors that are bound to it.
#[derive(Debug)]
pub(super) struct Batches {
    session: Session,
    capture: Capture,
    layout: BatchLayout,
    has_shortest: bool,
    /// Tensors that no batch uses now.
    free: Vec<StaticBatch>,
    /// The most bytes that a slot of a batch took.
    slot_bytes: usize,
}

/// The tensors of a batch, bound to the step's graph.
#[derive(Debug)]
pub(crate) struct StaticBatch {
    pub(super) slots: usize,
    /// How many tokens the caches have room for.
    pub(super) room: usize,
    pub(super) fixed: Vec<Tensor>,
    /// The caches of the next step, and the run that is bound to them.
    pub(super) caches: CacheSet,
    /// Where caches are reordered to; none if they are not.
    pub(super) spare: Option<CacheSet>,
    tokens: Tensor,
    lengths: Tensor,
    shortest: Tensor,
    pub(super) chosen: Tensor,
    /// `[slots, 1, vocabulary]`; none if the graph chooses the token.
    logits: Option<Tensor>,
}

/// The caches of a batch, and the step that is bound to them.
#[derive(Debug)]
pub(super) struct CacheSet {
    pub(super) caches: Vec<Tensor>,
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

impl Batches {
    /// Without tensors yet.
    pub(super) fn new(session: Session, capture: Capture, layout: BatchLayout) -> Self {
        let has_shortest = session.inputs().iter().any(|port| port.name == names::SHORTEST);
        Self { session, capture, layout, has_shortest, free: Vec::new(), slot_bytes: 0 }
    }

    pub(super) fn layout(&self) -> &BatchLayout {
        &self.layout
    }

    /// Whether steps are replayed as CUDA graphs.
    pub(super) fn captures(&self) -> bool {
        self.capture == Capture::EachBinding
    }

    /// Whether rows may have a length before which they do not end.
    pub(super) fn has_shortest(&self) -> bool {
        self.has_shortest
    }

    /// The most bytes of the device's memory that a slot of a batch took so far.
    pub(super) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Steps start one kernel after the other from now on.
    #[cfg(test)]
    pub(super) fn capture_nothing(&mut self) {
        self.capture = Capture::Never;
        self.free.clear();
    }

    /// Runs a step of `batch`.
    pub(super) fn run(&mut self, batch: &StaticBatch) -> Result<(), OnnxError> {
        self.session.run_bound(&batch.caches.run)
    }

    /// Gives the tensors of `batch` back.
    pub(super) fn release(&mut self, batch: StaticBatch) {
        self.free.push(batch);
    }

    /// Free tensors of these shapes, or new ones.
    pub(super) fn take(&mut self, slots: usize, room: usize, fixed: &[Vec<usize>]) -> Result<StaticBatch, OnnxError> {
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
        let Self { session, layout, .. } = self;
        let allocated = layout.fixed.iter().zip(shapes).map(|((_, dtype), shape)| session.allocate(*dtype, shape));
        let fixed = allocated.collect::<Result<Vec<_>, _>>()?;
        let numbers = || session.allocate(DataType::I64, &[slots]);
        let (mut lengths, shortest, mut longest) = (numbers()?, numbers()?, numbers()?);
        let mut tokens = session.allocate(DataType::I64, &[slots, 1])?;
        // rows that are finished stay in their slots and grow up to this
        let most = layout.positions.map_or(room, |positions| room.min(positions)).saturating_sub(1);
        Tensor::from_i64(&[slots], vec![most as i64; slots])?.copy_into(&mut longest)?;
        let chooses = layout.candidates == 1;
        let width = if chooses { 3 } else { 3 * layout.candidates + 1 };
        let mut chosen = session.allocate(DataType::F32, &[slots, width])?;
        let mut logits = match session.outputs().iter().find(|port| port.name == names::LOGITS) {
            Some(port) => Some(session.allocate(port.dtype, &[slots, 1, layout.vocabulary])?),
            None => None,
        };
        let mut sets = Vec::with_capacity(2);
        for _ in 0..if layout.reorders { 2 } else { 1 } {
            let cache = |port: &StaticCachePort| session.allocate(port.dtype, &[slots, port.heads, room, port.width]);
            let mut caches = layout.caches.iter().map(cache).collect::<Result<Vec<_>, _>>()?;
            let mut inputs: Vec<_> =
                layout.fixed.iter().zip(&fixed).map(|((name, _), value)| (name.as_str(), value)).collect();
            inputs.extend(self.has_shortest.then_some((names::SHORTEST, &shortest)));
            let ports = layout.caches.iter().map(|port| [port.input.as_str(), port.output.as_str()]);
            let mut in_place: Vec<_> = ports.zip(&mut caches).collect();
            if chooses {
                inputs.push((names::LONGEST, &longest));
                in_place.push(([names::TOKENS, names::NEXT_TOKENS], &mut tokens));
                in_place.push(([names::LENGTHS, names::NEXT_LENGTHS], &mut lengths));
            } else {
                inputs.extend([(names::TOKENS, &tokens), (names::LENGTHS, &lengths)]);
            }
            let mut outputs = vec![(names::CHOSEN, &mut chosen)];
            outputs.extend(logits.as_mut().map(|logits| (names::LOGITS, logits)));
            let run = session.bind(&inputs, &mut outputs, &mut in_place, self.capture)?;
            sets.push(CacheSet { caches, run });
        }
        let spare = if layout.reorders { sets.pop() } else { None };
        let Some(caches) = sets.pop() else { return Err(OnnxError::of_run("a batch without caches")) };
        let mut batch = StaticBatch { slots, room, fixed, caches, spare, tokens, lengths, shortest, chosen, logits };
        self.slot_bytes = self.slot_bytes.max(batch.bytes().div_ceil(slots.max(1)));
        if self.captures() {
            // the run that captures the graph is not a step: it runs several times, on whatever is there
            batch.start(&[RowStart { token: 0, length: 0, shortest: 0 }])?;
            for set in std::iter::once(&batch.caches).chain(&batch.spare) {
                self.session.run_bound(&set.run)?;
            }
        }
        Ok(batch)
    }
}

impl StaticBatch {
    /// How many tokens its caches have room for.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// The bytes of its tensors.
    fn bytes(&self) -> usize {
        let caches = std::iter::once(&self.caches).chain(&self.spare).flat_map(|set| &set.caches);
        caches.chain(&self.fixed).chain([&self.chosen]).chain(&self.logits).map(Tensor::bytes).sum()
    }

    /// How many slots it has.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// The logits of the last step, `[slots, 1, vocabulary]` in the memory of the device; none if the graph chooses the token.
    pub(crate) fn logits(&self) -> Option<&Tensor> {
        self.logits.as_ref()
    }

    /// Sets what the next step processes, one entry for each slot.
    pub(crate) fn start(&mut self, rows: &[RowStart]) -> Result<(), OnnxError> {
        let slot = |slot: usize| rows.get(slot).or(rows.last());
        let numbers = |number: fn(&RowStart) -> i64| (0..self.slots).filter_map(slot).map(number).collect::<Vec<_>>();
        let tokens = Tensor::from_i64(&[self.slots, 1], numbers(|row| row.token))?;
        let lengths = Tensor::from_i64(&[self.slots], numbers(|row| row.length as i64))?;
        let shortest = Tensor::from_i64(&[self.slots], numbers(|row| row.shortest as i64))?;
        tokens.copy_into(&mut self.tokens)?;
        lengths.copy_into(&mut self.lengths)?;
        shortest.copy_into(&mut self.shortest)
    }
}
