//! The scheduler of caption generation: it takes requests out of a queue, runs the decoder, and passes logits to the search of
//! every caption ([`super::sampler`] and [`super::beam_search`]) until all are finished. In: tokenized requests. Out: the tokens of each
//! caption with their log-probability. Finished captions leave the batch; with continuous batching, waiting
//! requests take their slots.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::beam_search::BeamSearch;
use super::prefill::{PrefillBatch, PrefillBuilder, PromptedRequest};
use super::sampler::Sampler;
use super::sequence::{DecodeContext, Sequence, SequenceRequest};
use super::settings::Strategy;
use crate::engine::decoder::cache::{DecoderState, Slot};
use crate::engine::decoder::run::{Decoder, Logits};
use crate::onnx::OnnxError;

/// New sequences join once one in this many slots is free: whenever some join, the cache of all sequences is copied.
const SLOTS_PER_FREE_SLOT: usize = 4;

/// Requests that wait for a slot. Those that can be prefilled together follow each other: prompts of one length, so that none
/// is padded, and, if the decoder attends to fused states, states of one run of the fusion graph.
#[derive(Debug)]
pub(crate) struct RequestQueue<'a> {
    waiting: VecDeque<PromptedRequest<'a>>,
    by_fusion_run: bool,
}

/// Generates captions, at most `slots` at once.
#[derive(Debug)]
pub(crate) struct Scheduler<'a> {
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) prefill_builder: PrefillBuilder<'a>,
    pub(crate) queue: RequestQueue<'a>,
    pub(crate) slots: usize,
    pub(crate) continuous_batching: bool,
    pub(crate) context: DecodeContext<'a>,
}

/// The state of the search for the tokens of one caption.
#[derive(Debug)]
enum SearchState {
    Sampler(Sampler),
    BeamSearch(BeamSearch),
}

/// The captions that are being generated, between two steps.
#[derive(Debug)]
struct RunningBatch {
    state: DecoderState,
    captions: Vec<(SequenceRequest, SearchState)>,
}

/// Finished captions with their rows.
type Finished = Vec<(usize, Sequence)>;

impl<'a> RequestQueue<'a> {
    pub(crate) fn new(mut requests: Vec<PromptedRequest<'a>>, by_fusion_run: bool) -> Self {
        requests.sort_by_key(|request| Self::group(request, by_fusion_run));
        Self { waiting: requests.into(), by_fusion_run }
    }

    /// The next requests that can be prefilled together, at most `most`; none if the queue is empty.
    pub(super) fn next_batch(&mut self, most: usize) -> Vec<PromptedRequest<'a>> {
        let by_fusion_run = self.by_fusion_run;
        let group = move |request: &PromptedRequest<'a>| Self::group(request, by_fusion_run);
        let first = self.waiting.front().map(group);
        let alike = self.waiting.iter().take(most).take_while(|request| Some(group(request)) == first).count();
        self.waiting.drain(..alike).collect()
    }

    /// The number of tokens of the longest prompt that waits.
    pub(super) fn longest_prompt(&self) -> usize {
        self.waiting.iter().map(|request| request.prompt.decoder_tokens().len()).max().unwrap_or(0)
    }

    fn group(request: &PromptedRequest<'_>, by_fusion_run: bool) -> (usize, usize) {
        (request.prompt.ids.len(), if by_fusion_run { request.request.fused.map_or(0, |fused| fused.run) } else { 0 })
    }
}

impl Scheduler<'_> {
    /// Generates the captions of all requests in the queue. Returns them with their rows, in the order in which they were
    /// finished.
    pub(crate) fn run(mut self) -> Result<Finished, OnnxError> {
        let mut finished = Vec::new();
        let mut running: Option<RunningBatch> = None;
        // prefilled, but it cannot join the running batch, because its encoder outputs have another shape
        let mut next: Option<RunningBatch> = None;
        loop {
            running = running.or_else(|| next.take());
            let may_join = self.continuous_batching && self.free(running.as_ref()) * SLOTS_PER_FREE_SLOT >= self.slots;
            while next.is_none() && (running.is_none() || (may_join && self.free(running.as_ref()) > 0)) {
                let requests = self.queue.next_batch(self.free(running.as_ref()));
                if requests.is_empty() {
                    break;
                }
                let Some(prefilled) = self.prefill(&requests, &mut finished)? else { continue };
                match &mut running {
                    None => running = Some(prefilled),
                    Some(running) if running.state.can_join(&prefilled.state) => {
                        running.join(prefilled, self.decoder)?;
                    }
                    Some(_) => next = Some(prefilled),
                }
            }
            let Some(mut batch) = running.take() else { return Ok(finished) };
            let tokens: Vec<_> = batch.live_sequences().map(|(_, token)| token).collect();
            let logits = self.decoder.step(&mut batch.state, &tokens)?;
            running = batch.select(&logits, self.decoder, self.context, &mut finished)?;
        }
    }

    /// How many captions can be added to `running`.
    fn free(&self, running: Option<&RunningBatch>) -> usize {
        self.slots - running.map_or(0, |running| running.captions.len())
    }

    /// Processes the prompts of `requests` and selects their first tokens; `None` if all captions are finished with these.
    fn prefill(
        &mut self,
        requests: &[PromptedRequest<'_>],
        finished: &mut Finished,
    ) -> Result<Option<RunningBatch>, OnnxError> {
        let PrefillBatch { sequences, encoder_outputs, embedded } =
            self.prefill_builder.build(requests, self.decoder)?;
        let prompts: Vec<_> = sequences.iter().map(|sequence| sequence.prompt.clone()).collect();
        let (state, logits) = self.decoder.prefill(encoder_outputs, &prompts, embedded)?;
        let search = |slot| match self.context.settings.strategy {
            Strategy::Beam(settings) => SearchState::BeamSearch(BeamSearch::new(settings, slot)),
            Strategy::Greedy | Strategy::Sample(_) => SearchState::Sampler(Sampler::new(slot)),
        };
        let captions = sequences.into_iter().zip(0..).map(|(request, slot)| (request, search(Slot(slot)))).collect();
        RunningBatch { state, captions }.select(&logits, self.decoder, self.context, finished)
    }
}

impl RunningBatch {
    /// Selects the next token of every caption. Finished captions go to `finished`; `None` if all are.
    fn select(
        mut self,
        logits: &Logits,
        decoder: &mut Decoder,
        context: DecodeContext<'_>,
        finished: &mut Finished,
    ) -> Result<Option<Self>, OnnxError> {
        let select = |scores: &mut Vec<f32>, (request, search): (SequenceRequest, SearchState)| {
            let next = match search {
                SearchState::Sampler(sampler) => {
                    sampler.select(&request, logits, &context, scores)?.map_continue(SearchState::Sampler)
                }
                SearchState::BeamSearch(beams) => {
                    beams.select(&request, logits, &context)?.map_continue(SearchState::BeamSearch)
                }
            };
            Ok::<_, OnnxError>((request, next))
        };
        let select_all = || self.captions.into_par_iter().map_init(Vec::new, select).collect::<Result<Vec<_>, _>>();
        let mut unfinished = Vec::new();
        for (request, next) in context.workers.install(select_all)? {
            match next {
                ControlFlow::Continue(search) => unfinished.push(Some((request, search))),
                ControlFlow::Break(sequence) => {
                    finished.push((request.row, sequence));
                    unfinished.push(None);
                }
            }
        }
        // the last captions take the slots of finished ones, so that few rows of tensors are copied
        while let Some(gap) = unfinished.iter().position(Option::is_none) {
            unfinished.swap_remove(gap);
        }
        self.captions = unfinished.into_iter().flatten().collect();
        if self.captions.is_empty() {
            return Ok(None);
        }
        let slots: Vec<_> = self.live_sequences().map(|(slot, _)| slot).collect();
        self.state.keep(&slots, &mut decoder.row_gather)?;
        self.assign_slots(0);
        Ok(Some(self))
    }

    /// Appends the captions of `others`.
    fn join(&mut self, mut others: Self, decoder: &mut Decoder) -> Result<(), OnnxError> {
        others.assign_slots(self.state.slots());
        self.state.join(others.state, &mut decoder.row_gather)?;
        self.captions.extend(others.captions);
        Ok(())
    }

    /// The slots of all unfinished sequences, several for a caption with beams, and the last token of each.
    fn live_sequences(&self) -> impl Iterator<Item = (Slot, i64)> {
        self.captions.iter().flat_map(|(_, search)| match search {
            SearchState::Sampler(sampler) => sampler.live_sequence().into_iter().collect::<Vec<_>>(),
            SearchState::BeamSearch(beams) => beams.live_sequences().collect(),
        })
    }

    /// Numbers the slots of all live sequences from `first` on, in their order.
    fn assign_slots(&mut self, first: usize) {
        let mut next = first;
        for (_, search) in &mut self.captions {
            next = match search {
                SearchState::Sampler(sampler) => sampler.assign_slots(next),
                SearchState::BeamSearch(beams) => beams.assign_slots(next),
            };
        }
    }
}
