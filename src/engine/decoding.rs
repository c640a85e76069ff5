//! A batch on its way through the decoder: what each row attends to and what it has of earlier steps. In: tensors with one row
//! for each caption. Out: the same with other rows. Rows leave the batch, are repeated, and join it while others are half way.

use crate::onnx::{OnnxError, RowGather, Value};

/// The rows of a batch between two steps.
#[derive(Debug)]
pub(super) struct Decoding {
    /// For each row the one of the first step that it came from; rows of one origin differ in their tokens only.
    pub(super) origins: Vec<usize>,
    /// In the order of the decoder's contexts.
    pub(super) contexts: Vec<Value>,
    /// In the order of the decoder's states; none before the prefill graph gives them.
    pub(super) states: Vec<Held>,
    /// The tokens of each row so far, for a decoder without states.
    pub(super) fed: Vec<Vec<i64>>,
    /// How many tokens of each row were fed.
    pub(super) lengths: Vec<usize>,
}

/// A state of all rows.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) value: Value,
    pub(super) form: Form,
}

/// What becomes of a state from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// It stays what the first step made of it.
    Kept,
    /// Every step makes it anew.
    Renewed,
    /// Every step adds to this axis. Rows that are shorter than others have zeros before their own.
    Aligned(usize),
}

impl Form {
    /// The axis that ends of rows are aligned on, and the size that it is to have.
    fn aligned(self, size: usize) -> Option<(usize, usize)> {
        match self {
            Self::Aligned(axis) => Some((axis, size)),
            Self::Kept | Self::Renewed => None,
        }
    }
}

impl Decoding {
    pub(super) fn rows(&self) -> usize {
        self.origins.len()
    }

    /// Goes on with these rows, in this order; one may come several times.
    pub(super) fn keep(&mut self, rows: &[usize], mover: &mut RowGather) -> Result<(), OnnxError> {
        if rows.iter().copied().eq(0..self.rows()) {
            return Ok(());
        }
        let origins: Vec<usize> = rows.iter().map(|&row| self.origins[row]).collect();
        // beams that change places within their row share what does not depend on tokens
        let moved = origins != self.origins;
        let stays = |(place, &row): (usize, &usize)| match self.origins.get(place) {
            Some(origin) if *origin == self.origins[row] => place,
            _ => row,
        };
        let by_origin: Vec<usize> = rows.iter().enumerate().map(stays).collect();
        if moved {
            // sizes are the same for every row
            for context in self.contexts.iter_mut().filter(|context| context.dtype().is_float()) {
                mover.keep(context, &by_origin)?;
            }
        }
        let before = self.longest();
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        let longest = self.longest();
        for Held { value, form } in &mut self.states {
            match form {
                Form::Kept if moved => mover.keep(value, &by_origin)?,
                Form::Kept => {}
                Form::Aligned(axis) if longest < before => {
                    *value = mover.stack(&[(value, rows)], Some((*axis, longest)))?;
                }
                Form::Renewed | Form::Aligned(_) => mover.keep(value, rows)?,
            }
        }
        self.fed = rows.iter().map(|&row| self.fed[row].clone()).collect();
        self.origins = origins;
        Ok(())
    }

    /// Whether the rows of `others` can join these: what they attend to is as large.
    pub(super) fn fits(&self, others: &Self) -> bool {
        let alike = |this: &Value, that: &Value| this.shape().get(1..) == that.shape().get(1..);
        let fits =
            |(this, that): (&Held, &Held)| matches!(this.form, Form::Aligned(_)) || alike(&this.value, &that.value);
        self.contexts.iter().zip(&others.contexts).all(|(this, that)| alike(this, that))
            && self.states.iter().zip(&others.states).all(fits)
    }

    /// Puts the rows of `others` behind these.
    pub(super) fn join(&mut self, others: Self, mover: &mut RowGather) -> Result<(), OnnxError> {
        let (these, those): (Vec<_>, Vec<_>) = ((0..self.rows()).collect(), (0..others.rows()).collect());
        let mut join = |this: &Value, that: &Value, aligned| mover.stack(&[(this, &these), (that, &those)], aligned);
        for (this, that) in self.contexts.iter_mut().zip(&others.contexts) {
            if this.dtype().is_float() {
                *this = join(this, that, None)?;
            }
        }
        self.lengths.extend(others.lengths);
        let longest = self.longest();
        for (this, that) in self.states.iter_mut().zip(&others.states) {
            this.value = join(&this.value, &that.value, this.form.aligned(longest))?;
        }
        self.fed.extend(others.fed);
        let first = self.origins.iter().max().map_or(0, |last| last + 1);
        self.origins.extend(others.origins.into_iter().map(|origin| first + origin));
        Ok(())
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }
}
