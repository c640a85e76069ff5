//! Whether rows may join a batch that is under way, so that captions that are finished leave no place empty. In: the decoder.
//! Out: yes for recurrent decoders, whose steps are all alike, and for those that attend to nothing but their cache and are told
//! each row's positions and which states are its own, as language models are. These are tried: such a decoder has to say the
//! same of two rows of different lengths together as of each alone.
//!
//! Batching by iteration is that of Yu et al., *Orca: A Distributed Serving System for Transformer-Based Generative Models*, OSDI 2022.

use super::decoder::{Decoder, State};
use super::decoding::{Decoding, Form, Held};
use crate::onnx::{OnnxError, Value};

/// How many tokens the rows of the trial have.
const LENGTHS: [usize; 2] = [2, 9];
/// How far logits may differ, as a part of their range: more than rounding in float16, less than what the arithmetic of int8 makes of
/// other neighbours. States that are attended to by mistake are most of the shorter row's.
const TOLERANCE: f32 = 0.003;

/// Whether rows may join; the forms of the decoder's states are set accordingly.
pub(super) fn joins(decoder: &mut Decoder) -> bool {
    if is_recurrent(decoder) {
        return true;
    }
    let Some(forms) = aligned(decoder) else { return false };
    let set = |decoder: &mut Decoder, forms: Vec<Form>| {
        decoder.states.iter_mut().zip(forms).for_each(|(state, form)| state.form = form);
    };
    let before = decoder.states.iter().map(|state| state.form).collect();
    set(decoder, forms);
    let agrees = agrees(decoder);
    tracing::debug!(?agrees, "rows of different lengths were tried in one batch");
    let agrees = agrees.unwrap_or(false);
    if !agrees {
        set(decoder, before);
    }
    agrees
}

/// Whether every step does the same, whatever went before: no state grows, and nothing says which step it is.
fn is_recurrent(decoder: &Decoder) -> bool {
    // an axis of which the size is not known may grow
    let fixed = |state: &State| state.form == Form::Kept || !(state.inner.is_empty() || state.inner.contains(&0));
    !decoder.states.is_empty() && decoder.states.iter().all(fixed) && !decoder.step.takes_several()
}

/// The forms of states whose rows have lengths of their own, if there may be such.
fn aligned(decoder: &Decoder) -> Option<Vec<Form>> {
    let form = |state: &State| {
        let mut growing = (1..).zip(&state.inner).filter(|(_, size)| **size == 0).map(|(axis, _)| axis);
        let axis = growing.next().filter(|_| state.form == Form::Renewed && growing.next().is_none())?;
        Some(Form::Aligned(axis))
    };
    let told = decoder.step.takes_lengths() && decoder.contexts.is_empty() && !decoder.states.is_empty();
    decoder.states.iter().map(form).collect::<Option<Vec<_>>>().filter(|_| told)
}

/// Whether two rows get the logits together that each gets alone.
fn agrees(decoder: &mut Decoder) -> Result<bool, OnnxError> {
    let mut together = row(decoder, LENGTHS[0])?;
    together.join(row(decoder, LENGTHS[1])?, &mut decoder.mover)?;
    let joined = decoder.next(&mut together, &[1, 1])?;
    let mut agrees = true;
    for (place, length) in LENGTHS.into_iter().enumerate() {
        let mut alone = row(decoder, length)?;
        let single = decoder.next(&mut alone, &[1])?;
        agrees &= single.row(0).zip(joined.row(place)).is_some_and(|(single, joined)| are_close(&single, &joined));
    }
    let grown = |state: &Held| match state.form {
        Form::Aligned(axis) => state.value.shape().get(axis) == Some(&(LENGTHS[1] + 1)),
        Form::Kept | Form::Renewed => true,
    };
    Ok(agrees && together.states.iter().all(grown))
}

/// A row with states of `length` tokens.
fn row(decoder: &Decoder, length: usize) -> Result<Decoding, OnnxError> {
    let state = |state: &State| {
        let inner = state.inner.iter().map(|&size| if size == 0 { length } else { size });
        let shape: Vec<usize> = std::iter::once(1).chain(inner).collect();
        let data = (0..shape.iter().product()).map(|place| ((place + length) as f32).sin()).collect();
        Value::from_f32(state.dtype, &shape, data).map(|value| state.held(value))
    };
    Ok(Decoding {
        origins: vec![0],
        contexts: Vec::new(),
        states: decoder.states.iter().map(state).collect::<Result<_, _>>()?,
        fed: vec![Vec::new()],
        lengths: vec![length],
    })
}

fn are_close(these: &[f32], those: &[f32]) -> bool {
    let most = these.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = most - these.iter().copied().fold(f32::INFINITY, f32::min);
    these.iter().zip(those).all(|(this, that)| (this - that).abs() <= TOLERANCE * range)
}
