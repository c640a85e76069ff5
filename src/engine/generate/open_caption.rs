//! A caption that is being generated on a device. In: what a step gives for its slots. Out: the caption with one more token in each of
//! its sequences, or finished.

use std::ops::ControlFlow;

use super::beam_search::BeamSearch;
use super::sampler::Sampler;
use super::sequence::{DecodeContext, Sequence, SequenceRequest, Told};
use super::settings::{GenerationSettings, Strategy};
use crate::engine::decoder::cache::Slot;
use crate::engine::decoder::chosen::Chosen;
use crate::engine::decoder::run::Logits;
use crate::engine::decoder::static_batch::RowStart;
use crate::onnx::OnnxError;

/// A caption that is being generated.
#[derive(Debug)]
pub(super) struct OpenCaption {
    pub(super) request: SequenceRequest,
    search: Search,
    /// How many tokens are in the cache before the next step.
    pub(super) length: usize,
    /// The caption does not end while fewer tokens than this are in the cache.
    pub(super) shortest: usize,
}

/// The state of the search for the tokens of one caption.
#[derive(Debug)]
enum Search {
    Sampler(Sampler),
    Beams(BeamSearch),
}

/// A caption after a step.
#[derive(Debug)]
pub(super) enum Selected {
    GoesOn(OpenCaption),
    /// With its row.
    Finished(usize, Sequence),
    /// All logits are needed to select its next tokens; the caption before the step.
    Unknown(OpenCaption),
}

impl OpenCaption {
    /// The caption of `request`, without tokens yet, in `slot`.
    pub(super) fn new(request: SequenceRequest, slot: Slot, settings: &GenerationSettings) -> Self {
        let search = match settings.strategy {
            Strategy::Beam(beams) => Search::Beams(BeamSearch::new(beams, slot)),
            Strategy::Greedy | Strategy::Sample(_) => Search::Sampler(Sampler::new(slot)),
        };
        // the step that chooses the first token processes the last one of the prompt
        let length = request.prompt.len().saturating_sub(1);
        let shortest = length + settings.fewest_new(request.prompt.len());
        Self { request, search, length, shortest }
    }

    /// With `more` tokens in its cache than it was known to have.
    pub(super) fn longer_by(self, more: usize) -> Self {
        Self { length: self.length + more, shortest: self.shortest + more, ..self }
    }

    /// Its slots are those from `first` on.
    pub(super) fn assign_slots(&mut self, first: usize) {
        match &mut self.search {
            Search::Sampler(sampler) => sampler.assign_slots(first),
            Search::Beams(beams) => beams.assign_slots(first),
        };
    }

    /// The slot that each of its sequences comes from, and the token that the next step processes; the first again for sequences that
    /// there are not, up to `beams`.
    fn sequences(&self, beams: usize) -> Vec<(Slot, i64)> {
        let last_of_prompt = self.request.prompt.last().copied().unwrap_or(0);
        let mut sequences = match &self.search {
            Search::Sampler(sampler) => vec![sampler.slot_and_token(last_of_prompt)],
            Search::Beams(search) => search.slots_and_tokens(last_of_prompt),
        };
        let first = sequences.first().copied();
        sequences.extend(first.into_iter().cycle().take(beams.saturating_sub(sequences.len())));
        sequences
    }

    /// The slots of its sequences.
    pub(super) fn live_slots(&self) -> Vec<Slot> {
        self.sequences(1).into_iter().map(|(slot, _)| slot).collect()
    }

    /// The slots that its sequences come from, one for each of `beams`.
    pub(super) fn slots(&self, beams: usize) -> Vec<usize> {
        self.sequences(beams).into_iter().map(|(Slot(slot), _)| slot).collect()
    }

    /// What the next step processes, one entry for each of `beams`.
    pub(super) fn starts(&self, beams: usize) -> Vec<RowStart> {
        let start = |(_, token)| RowStart { token, length: self.length, shortest: self.shortest };
        self.sequences(beams).into_iter().map(start).collect()
    }

    /// Selects its next tokens among those that `chosen` has for its slots.
    pub(super) fn select_among(
        self,
        chosen: &[Chosen],
        vocabulary: usize,
        context: &DecodeContext<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<Selected, OnnxError> {
        let Self { request, search, length, shortest } = self;
        let told = match search {
            Search::Sampler(sampler) => {
                let (Slot(slot), _) = sampler.slot_and_token(0);
                let chosen = chosen.get(slot).ok_or_else(|| OnnxError::of_run("a slot without candidates"))?;
                match sampler.select_among(&request, chosen, vocabulary, context, scores)? {
                    Told::Next(next) => Told::Next(next.map_continue(Search::Sampler)),
                    Told::Unknown(sampler) => Told::Unknown(Search::Sampler(sampler)),
                }
            }
            Search::Beams(beams) => match beams.select_among(&request, chosen, vocabulary, context, scores)? {
                Told::Next(next) => Told::Next(next.map_continue(Search::Beams)),
                Told::Unknown(beams) => Told::Unknown(Search::Beams(beams)),
            },
        };
        Ok(match told {
            Told::Next(next) => Self::after(request, length, shortest, next),
            Told::Unknown(search) => Selected::Unknown(Self { request, search, length, shortest }),
        })
    }

    /// Selects its next tokens by the logits of its slots.
    pub(super) fn select(
        self,
        logits: &Logits,
        context: &DecodeContext<'_>,
        scores: &mut Vec<f32>,
    ) -> Result<Selected, OnnxError> {
        let Self { request, search, length, shortest } = self;
        let next = match search {
            Search::Sampler(sampler) => {
                sampler.select(&request, logits, context, scores)?.map_continue(Search::Sampler)
            }
            Search::Beams(beams) => beams.select(&request, logits, context)?.map_continue(Search::Beams),
        };
        Ok(Self::after(request, length, shortest, next))
    }

    /// What it is after its next tokens were selected.
    fn after(
        request: SequenceRequest,
        length: usize,
        shortest: usize,
        next: ControlFlow<Sequence, Search>,
    ) -> Selected {
        match next {
            ControlFlow::Continue(search) => Selected::GoesOn(Self { request, search, length: length + 1, shortest }),
            ControlFlow::Break(sequence) => Selected::Finished(request.row, sequence),
        }
    }
}
