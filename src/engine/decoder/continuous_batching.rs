//! Continuous batching: whether new sequences can join a batch while others are being generated, so that no slot stays empty once
//! a caption is finished (Yu et al., *Orca: A Distributed Serving System for Transformer-Based Generative Models*, OSDI 2022).
//! In: the decoder. Out: yes for recurrent decoders, whose steps do not depend on the number of tokens, and for decoders without
//! cross-attention that take an attention mask and position ids, as language models do. The latter are tested when they are opened:
//! two sequences of different lengths in one batch must get the logits that each gets alone.

use super::cache::{CacheEntry, CacheKind, DecoderState, Slot};
use super::run::{CachePort, Decoder};
use crate::onnx::{OnnxError, Tensor};

/// How many tokens the cached sequences of the test have.
const LENGTHS: [usize; 2] = [2, 9];
/// How far logits may differ, relative to their range: more than rounding in float16, less than the difference that int8
/// arithmetic makes when other sequences are in the batch. Attending to padding by mistake makes a much larger one.
const TOLERANCE: f32 = 0.003;

/// Whether sequences can join a batch that is being generated. If so, cache entries that grow are marked as such, so that their
/// sequences can have different lengths.
pub(crate) fn enable_continuous_batching(decoder: &mut Decoder) -> bool {
    if is_recurrent(decoder) {
        return true;
    }
    let Some(kinds) = growing(decoder) else { return false };
    let set = |decoder: &mut Decoder, kinds: Vec<CacheKind>| {
        decoder.cache_ports.iter_mut().zip(kinds).for_each(|(port, kind)| port.kind = kind);
    };
    let before = decoder.cache_ports.iter().map(|port| port.kind).collect();
    set(decoder, kinds);
    let agrees = agrees(decoder);
    tracing::debug!(?agrees, "tested sequences of different lengths in one batch");
    let agrees = agrees.unwrap_or(false);
    if !agrees {
        set(decoder, before);
    }
    agrees
}

/// Whether a step does not depend on the number of previous tokens: no cache entry grows, and no input counts tokens.
fn is_recurrent(decoder: &Decoder) -> bool {
    // a dynamic axis may grow
    let fixed =
        |port: &CachePort| port.kind == CacheKind::Static || !(port.inner.is_empty() || port.inner.contains(&0));
    let ports = &decoder.cache_ports;
    !ports.is_empty() && ports.iter().all(fixed) && !decoder.graph.accepts_several_tokens()
}

/// The kinds of the cache entries if sequences have different lengths; `None` if the decoder does not allow that.
fn growing(decoder: &Decoder) -> Option<Vec<CacheKind>> {
    let kind = |port: &CachePort| {
        let mut dynamic = (1..).zip(&port.inner).filter(|(_, size)| **size == 0).map(|(axis, _)| axis);
        let axis = dynamic.next().filter(|_| port.kind == CacheKind::Replaced && dynamic.next().is_none())?;
        Some(CacheKind::Growing(axis))
    };
    let ports = &decoder.cache_ports;
    let possible = decoder.graph.accepts_different_lengths() && decoder.encoder_outputs.is_empty() && !ports.is_empty();
    ports.iter().map(kind).collect::<Option<Vec<_>>>().filter(|_| possible)
}

/// Whether two sequences get the logits in one batch that each gets alone.
fn agrees(decoder: &mut Decoder) -> Result<bool, OnnxError> {
    let mut together = sequence(decoder, LENGTHS[0])?;
    together.join(sequence(decoder, LENGTHS[1])?, &mut decoder.row_gather)?;
    let joined = decoder.step(&mut together, &[1, 1])?;
    let mut agrees = true;
    for (slot, length) in LENGTHS.into_iter().enumerate() {
        let mut alone = sequence(decoder, length)?;
        let single = decoder.step(&mut alone, &[1])?;
        agrees &= are_close(&single.row(Slot(0))?, &joined.row(Slot(slot))?);
    }
    let grew = |entry: &CacheEntry| match entry.kind {
        CacheKind::Growing(axis) => entry.value.shape().get(axis) == Some(&(LENGTHS[1] + 1)),
        CacheKind::Static | CacheKind::Replaced => true,
    };
    Ok(agrees && together.cache.iter().all(grew))
}

/// A batch of one sequence with `length` tokens in its cache.
fn sequence(decoder: &Decoder, length: usize) -> Result<DecoderState, OnnxError> {
    let entry = |port: &CachePort| {
        let inner = port.inner.iter().map(|&size| if size == 0 { length } else { size });
        let shape: Vec<usize> = std::iter::once(1).chain(inner).collect();
        let data = (0..shape.iter().product()).map(|index| ((index + length) as f32).sin()).collect();
        Tensor::from_f32(port.dtype, &shape, data).map(|value| port.entry(value))
    };
    Ok(DecoderState {
        origins: vec![0],
        encoder_outputs: Vec::new(),
        cache: decoder.cache_ports.iter().map(entry).collect::<Result<_, _>>()?,
        tokens: vec![Vec::new()],
        lengths: vec![length],
    })
}

fn are_close(these: &[f32], those: &[f32]) -> bool {
    let most = these.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = most - these.iter().copied().fold(f32::INFINITY, f32::min);
    these.iter().zip(those).all(|(this, that)| (this - that).abs() <= TOLERANCE * range)
}
