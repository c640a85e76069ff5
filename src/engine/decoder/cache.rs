//! The state of a decoder between two steps: its cache, the encoder outputs that it attends to, and the length of every
//! sequence. In: tensors with one row for each sequence, and which sequences leave the batch, are duplicated (beams) or join it. Out:
//! the tensors of the new batch. No graph of a model is run here.

use crate::onnx::{OnnxError, RowGather, Tensor};

/// The index of a sequence in the decoder's batch: on axis 0 of every input and output of the decoder. Slots are assigned again
/// whenever a sequence leaves or joins; the row of a sequence is another index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

/// Everything the decoder needs for the next step of a batch.
#[derive(Debug)]
pub(crate) struct DecoderState {
    /// For each slot the slot of the prefill that its sequence came from. Slots of one origin (beams of one image) differ in
    /// their tokens only, so that encoder outputs and static cache entries are the same for them.
    pub(crate) origins: Vec<usize>,
    /// In the order of [`Decoder::encoder_outputs`](super::run::Decoder), then what was precomputed from them.
    pub(crate) encoder_outputs: Vec<Tensor>,
    /// In the order of the decoder's cache ports; empty for a decoder without a cache, and before a prefill graph has run.
    pub(crate) cache: Vec<CacheEntry>,
    /// All tokens of each slot so far, for a decoder without a cache.
    pub(crate) tokens: Vec<Vec<i64>>,
    /// How many tokens of each slot were processed.
    pub(crate) lengths: Vec<usize>,
}

/// One tensor of the cache, `[slots, ...]`.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    pub(crate) value: Tensor,
    pub(crate) kind: CacheKind,
}

/// How a cache entry changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// It does not change after the prefill (keys and values of cross-attention).
    Static,
    /// Every step returns a new tensor for it. It may be longer than the previous one; all slots have the same number of tokens.
    Replaced,
    /// Every step appends to this axis, and slots have different numbers of tokens: shorter ones are padded with zeros at the
    /// beginning, so that all end at the same index.
    Growing(usize),
}

impl CacheKind {
    /// The axis that is padded at its beginning, and the size that it is to have.
    fn padded(self, size: usize) -> Option<(usize, usize)> {
        match self {
            Self::Growing(axis) => Some((axis, size)),
            Self::Static | Self::Replaced => None,
        }
    }
}

impl DecoderState {
    /// How many slots are in use.
    pub(crate) fn slots(&self) -> usize {
        self.origins.len()
    }

    /// Keeps the sequences of `slots`, in this order; a slot that is named several times is duplicated.
    pub(crate) fn keep(&mut self, slots: &[Slot], row_gather: &mut RowGather) -> Result<(), OnnxError> {
        let rows: Vec<usize> = slots.iter().map(|slot| slot.0).collect();
        if rows.iter().copied().eq(0..self.slots()) {
            return Ok(());
        }
        let origins: Vec<usize> = rows.iter().map(|&row| self.origins[row]).collect();
        // what does not depend on tokens is not moved between beams of the same image
        let moved = origins != self.origins;
        let same_origin = |(slot, &row): (usize, &usize)| match self.origins.get(slot) {
            Some(origin) if *origin == self.origins[row] => slot,
            _ => row,
        };
        let by_origin: Vec<usize> = rows.iter().enumerate().map(same_origin).collect();
        if moved {
            // int64 values are sizes, the same for every slot
            for value in self.encoder_outputs.iter_mut().filter(|value| value.dtype().is_float()) {
                row_gather.gather_in_place(value, &by_origin)?;
            }
        }
        let before = self.longest();
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        let longest = self.longest();
        for CacheEntry { value, kind } in &mut self.cache {
            match kind {
                CacheKind::Static if moved => row_gather.gather_in_place(value, &by_origin)?,
                CacheKind::Static => {}
                CacheKind::Growing(axis) if longest < before => {
                    *value = row_gather.concat(&[(value, &rows)], Some((*axis, longest)))?;
                }
                CacheKind::Replaced | CacheKind::Growing(_) => row_gather.gather_in_place(value, &rows)?,
            }
        }
        self.tokens = rows.iter().map(|&row| self.tokens[row].clone()).collect();
        self.origins = origins;
        Ok(())
    }

    /// Whether the sequences of `others` can join these: the encoder outputs and static cache entries have the same shape.
    pub(crate) fn can_join(&self, others: &Self) -> bool {
        let alike = |this: &Tensor, that: &Tensor| this.shape().get(1..) == that.shape().get(1..);
        let fits = |(this, that): (&CacheEntry, &CacheEntry)| {
            matches!(this.kind, CacheKind::Growing(_)) || alike(&this.value, &that.value)
        };
        self.encoder_outputs.iter().zip(&others.encoder_outputs).all(|(this, that)| alike(this, that))
            && self.cache.iter().zip(&others.cache).all(fits)
    }

    /// Appends the slots of `others` to these.
    pub(crate) fn join(&mut self, others: Self, row_gather: &mut RowGather) -> Result<(), OnnxError> {
        let (these, those): (Vec<_>, Vec<_>) = ((0..self.slots()).collect(), (0..others.slots()).collect());
        let mut join =
            |this: &Tensor, that: &Tensor, padded| row_gather.concat(&[(this, &these), (that, &those)], padded);
        for (this, that) in self.encoder_outputs.iter_mut().zip(&others.encoder_outputs) {
            if this.dtype().is_float() {
                *this = join(this, that, None)?;
            }
        }
        self.lengths.extend(others.lengths);
        let longest = self.longest();
        for (this, that) in self.cache.iter_mut().zip(&others.cache) {
            this.value = join(&this.value, &that.value, this.kind.padded(longest))?;
        }
        self.tokens.extend(others.tokens);
        let first = self.origins.iter().max().map_or(0, |last| last + 1);
        self.origins.extend(others.origins.into_iter().map(|origin| first + origin));
        Ok(())
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }
}
