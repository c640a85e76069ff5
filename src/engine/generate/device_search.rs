//! Greedy and beam search on a device: the scheduler for decoders with a static step ([`StaticDecoder`]). In: tokenized requests. Out:
//! the tokens of each caption with their log-probability. The graph chooses tokens, or the candidates of each beam; here captions
//! end, leave the batch, and waiting requests take their slots (continuous batching). Which rows share a batch depends on their order
//! and lengths only.

use std::ops::ControlFlow;

use super::beam_search::BeamSearch;
use super::logits_processors::only_ban_tokens;
use super::prefill::{PrefillBatch, PrefillBuilder, PromptedRequest};
use super::scheduler::RequestQueue;
use super::sequence::{DecodeContext, Sequence, SequenceRequest};
use super::settings::{GenerationSettings, Strategy};
use crate::engine::decoder::cache::Slot;
use crate::engine::decoder::run::Decoder;
use crate::engine::decoder::static_decoder::{Chosen, NewRows, RowStart, StaticBatch, StaticDecoder};
use crate::onnx::OnnxError;
use crate::onnx::choose::Choice;

/// Waiting requests join once one in this many slots is free: whenever some join, all rows are moved.
const SLOTS_PER_FREE_SLOT: usize = 4;

/// Generates captions, at most `captions` at once.
#[derive(Debug)]
pub(crate) struct DeviceSearch<'a> {
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) static_decoder: &'a mut StaticDecoder,
    pub(crate) prefill_builder: PrefillBuilder<'a>,
    pub(crate) queue: RequestQueue<'a>,
    pub(crate) captions: usize,
    pub(crate) context: DecodeContext<'a>,
}

/// A caption that is being generated.
#[derive(Debug)]
struct Caption {
    request: SequenceRequest,
    search: SearchState,
    /// How many tokens are in the cache before the next step.
    length: usize,
    /// The caption does not end while fewer tokens than this are in the cache.
    shortest: usize,
}

/// The state of the search for the tokens of one caption.
#[derive(Debug)]
enum SearchState {
    Greedy(Slot, Sequence),
    Beams(BeamSearch),
}

/// The captions of a batch, each in as many slots as there are beams; none where one is finished.
#[derive(Debug)]
struct Running {
    batch: StaticBatch,
    captions: Vec<Option<Caption>>,
}

/// Captions whose prompts are processed. Their slots are rows of the tensors.
#[derive(Debug)]
struct Prefilled {
    tensors: NewRows,
    /// How many tokens their caches, and those of all others in the queue, need room for.
    room: usize,
    captions: Vec<Caption>,
}

/// A search between two steps.
#[derive(Debug)]
pub(super) struct Progress {
    running: Option<Running>,
    /// It cannot join the running batch, because what it attends to has another shape.
    next: Option<Prefilled>,
    pub(super) finished: Finished,
    /// How many tokens a caption has at most, its prompt included.
    most_tokens: usize,
}

/// Finished captions with their rows.
type Finished = Vec<(usize, Sequence)>;

impl Choice {
    /// What the graph chooses by for `settings`; `None` if these ask for more than the graph does.
    pub(crate) fn of(settings: &GenerationSettings, vocabulary: usize) -> Option<Self> {
        let candidates = match &settings.strategy {
            Strategy::Greedy => 1,
            Strategy::Beam(beams) => beams.candidates(settings),
            Strategy::Sample(_) => return None,
        };
        // tokens come to the host as float32
        let exact = vocabulary < 1 << f32::MANTISSA_DIGITS;
        (only_ban_tokens(settings) && exact && candidates <= vocabulary).then(|| Self {
            vocabulary,
            candidates,
            ends: if settings.min_new_tokens > 0 { settings.eos_token_ids.clone() } else { Vec::new() },
            suppressed: settings.suppress_tokens.clone(),
        })
    }
}

impl DeviceSearch<'_> {
    /// Generates the captions of all requests in the queue. Returns them with their rows, in the order in which they were
    /// finished.
    pub(crate) fn run(mut self) -> Result<Finished, OnnxError> {
        let mut progress = self.begin();
        while self.advance(&mut progress)? {}
        Ok(progress.finished)
    }

    /// A search that has not begun.
    pub(super) fn begin(&self) -> Progress {
        let most_tokens = self.queue.longest_prompt() + self.context.settings.max_new_tokens;
        Progress { running: None, next: None, finished: Vec::new(), most_tokens }
    }

    /// Takes waiting requests into free slots and makes one step; false if all captions are finished.
    pub(super) fn advance(&mut self, progress: &mut Progress) -> Result<bool, OnnxError> {
        let live = progress.running.as_ref().map_or(0, Running::live);
        if live == 0
            && let Some(Running { batch, .. }) = progress.running.take()
        {
            self.static_decoder.release(batch);
        }
        let free = self.captions - live;
        let mut joining = None;
        if progress.running.is_none() || free * SLOTS_PER_FREE_SLOT >= self.captions {
            joining = match progress.next.take() {
                Some(prefilled) => Some(prefilled),
                None => self.prefill_next(free, progress)?,
            };
            if let (Some(running), Some(prefilled)) = (&progress.running, &joining)
                && !StaticDecoder::can_join(&running.batch, &prefilled.tensors)
            {
                progress.next = joining.take();
            }
        }
        let shrinks = |running: &Running| self.static_decoder.bucket(live * self.beams()) < running.batch.slots();
        let mut running = match progress.running.take() {
            Some(running) if joining.is_none() && !shrinks(&running) => self.go_on(running)?,
            None if joining.is_none() => return Ok(false),
            running => self.place(running, joining)?,
        };
        let chosen = self.static_decoder.step(&running.batch)?;
        running.append(&chosen, self.context, &mut progress.finished)?;
        progress.running = Some(running);
        Ok(true)
    }

    /// How many slots a caption takes.
    fn beams(&self) -> usize {
        self.context.settings.strategy.beams()
    }

    /// Processes the prompts of the next requests, at most `most`; none if the queue is empty. Captions of one token go to
    /// `finished`.
    fn prefill_next(&mut self, most: usize, progress: &mut Progress) -> Result<Option<Prefilled>, OnnxError> {
        loop {
            let requests = self.queue.next_batch(most);
            if requests.is_empty() {
                return Ok(None);
            }
            let prefilled = self.prefill(&requests, progress.most_tokens, &mut progress.finished)?;
            if !prefilled.captions.is_empty() {
                return Ok(Some(prefilled));
            }
        }
    }

    fn prefill(
        &mut self,
        requests: &[PromptedRequest<'_>],
        most_tokens: usize,
        finished: &mut Finished,
    ) -> Result<Prefilled, OnnxError> {
        let PrefillBatch { sequences, encoder_outputs, embedded } =
            self.prefill_builder.build(requests, self.decoder)?;
        let settings = self.context.settings;
        let caption = |(slot, request): (usize, SequenceRequest)| {
            let search = match settings.strategy {
                Strategy::Beam(beams) => SearchState::Beams(BeamSearch::new(beams, Slot(slot))),
                Strategy::Greedy | Strategy::Sample(_) => SearchState::Greedy(Slot(slot), Sequence::empty()),
            };
            // the step that chooses the first token processes the last one of the prompt
            let length = request.prompt.len().saturating_sub(1);
            Caption { request, search, length, shortest: length + settings.min_new_tokens }
        };
        let mut captions: Vec<Caption> = sequences.into_iter().enumerate().map(caption).collect();
        let single = embedded.is_none() && captions.iter().all(|caption| caption.request.prompt.len() == 1);
        if single && self.decoder.begins_without_prefill() {
            let state = self.decoder.begin(encoder_outputs, captions.len())?;
            let tensors = self.static_decoder.new_rows(state, false)?;
            return Ok(Prefilled { tensors, room: StaticDecoder::room(most_tokens), captions });
        }
        let prompts: Vec<_> = captions.iter().map(|caption| caption.request.prompt.clone()).collect();
        let (state, logits) = self.decoder.prefill_on_device(encoder_outputs, &prompts, embedded)?;
        let starts: Vec<_> = captions.iter().flat_map(|caption| caption.starts(1)).collect();
        let chosen = self.static_decoder.choose_first(&logits, &starts)?;
        drop(logits);
        let tensors = self.static_decoder.new_rows(state, true)?;
        // some decoders have the image's states in their cache, before the prompt
        let more = tensors.tokens().saturating_sub(prompts.first().map_or(0, Vec::len));
        let mut unfinished = Vec::with_capacity(captions.len());
        for caption in captions.drain(..) {
            let Caption { length, shortest, .. } = caption;
            let caption = Caption { length: length + more, shortest: shortest + more, ..caption };
            unfinished.extend(caption.append(&chosen, self.context, finished)?);
        }
        Ok(Prefilled { tensors, room: StaticDecoder::room(most_tokens + more), captions: unfinished })
    }

    /// The next batch: the unfinished captions of `running`, then those of `joining`.
    fn place(&mut self, running: Option<Running>, joining: Option<Prefilled>) -> Result<Running, OnnxError> {
        let beams = self.beams();
        let rooms =
            [running.as_ref().map(|running| running.batch.room()), joining.as_ref().map(|joining| joining.room)];
        let room = rooms.into_iter().flatten().max().unwrap_or(0);
        let (old, mut captions) = match running {
            Some(Running { batch, captions }) => (Some(batch), captions.into_iter().flatten().collect()),
            None => (None, Vec::new()),
        };
        let slots = |captions: &[Caption]| captions.iter().flat_map(|caption| caption.slots(beams)).collect::<Vec<_>>();
        let kept = slots(&captions);
        let mut tensors = None;
        if let Some(Prefilled { tensors: mut new, captions: others, .. }) = joining {
            new.rows = slots(&others);
            tensors = Some(new);
            captions.extend(others);
        }
        let mut batch = self.static_decoder.place(old.map(|batch| (batch, kept.as_slice())), tensors.as_ref(), room)?;
        let starts: Vec<_> = captions.iter().flat_map(|caption| caption.starts(beams)).collect();
        StaticDecoder::start(&mut batch, &starts)?;
        let mut captions: Vec<_> = captions.into_iter().map(Some).collect();
        assign_slots(&mut captions, beams);
        Ok(Running { batch, captions })
    }

    /// The next step of the same captions in the same slots. If the graph chose the tokens, it has its input already.
    fn go_on(&mut self, running: Running) -> Result<Running, OnnxError> {
        let (Running { mut batch, mut captions }, beams) = (running, self.beams());
        if beams > 1 {
            let slots = captions.iter().enumerate().flat_map(|(index, caption)| match caption {
                Some(caption) => caption.slots(beams),
                None => (index * beams..(index + 1) * beams).collect(),
            });
            self.static_decoder.reorder(&mut batch, &slots.collect::<Vec<_>>())?;
            let idle = vec![RowStart { token: 0, length: 0, shortest: 0 }; beams];
            let starts = captions.iter().flat_map(|caption| match caption {
                Some(caption) => caption.starts(beams),
                None => idle.clone(),
            });
            StaticDecoder::start(&mut batch, &starts.collect::<Vec<_>>())?;
            assign_slots(&mut captions, beams);
        }
        Ok(Running { batch, captions })
    }
}

/// Gives every caption the slots of its index.
fn assign_slots(captions: &mut [Option<Caption>], beams: usize) {
    for (index, caption) in captions.iter_mut().enumerate() {
        match caption.as_mut().map(|caption| &mut caption.search) {
            Some(SearchState::Greedy(slot, _)) => *slot = Slot(index * beams),
            Some(SearchState::Beams(search)) => drop(search.assign_slots(index * beams)),
            None => {}
        }
    }
}

impl Running {
    /// How many captions are unfinished.
    fn live(&self) -> usize {
        self.captions.iter().flatten().count()
    }

    /// Appends what a step chose to the captions.
    fn append(
        &mut self,
        chosen: &[Chosen],
        context: DecodeContext<'_>,
        finished: &mut Finished,
    ) -> Result<(), OnnxError> {
        for caption in &mut self.captions {
            if let Some(unfinished) = caption.take() {
                *caption = unfinished.append(chosen, context, finished)?;
            }
        }
        Ok(())
    }
}

impl Caption {
    /// The slot that each of its sequences comes from, and the token that the next step processes; the first again for sequences that
    /// there are not, up to `beams`.
    fn sequences(&self, beams: usize) -> Vec<(Slot, i64)> {
        let last_of_prompt = self.request.prompt.last().copied().unwrap_or(0);
        let mut sequences = match &self.search {
            SearchState::Greedy(slot, sequence) => vec![(*slot, *sequence.tokens.last().unwrap_or(&last_of_prompt))],
            SearchState::Beams(search) => search.slots_and_tokens(last_of_prompt),
        };
        let first = sequences.first().copied();
        sequences.extend(first.into_iter().cycle().take(beams.saturating_sub(sequences.len())));
        sequences
    }

    fn slots(&self, beams: usize) -> Vec<usize> {
        self.sequences(beams).into_iter().map(|(Slot(slot), _)| slot).collect()
    }

    fn starts(&self, beams: usize) -> Vec<RowStart> {
        let start = |(_, token)| RowStart { token, length: self.length, shortest: self.shortest };
        self.sequences(beams).into_iter().map(start).collect()
    }

    /// The caption with one more token; `None`, and it goes to `finished`, if that ends it.
    fn append(
        self,
        chosen: &[Chosen],
        context: DecodeContext<'_>,
        finished: &mut Finished,
    ) -> Result<Option<Self>, OnnxError> {
        let candidates = |Slot(slot): Slot| {
            let chosen = chosen.get(slot).filter(|chosen| chosen.finite)?;
            Some(chosen.candidates.clone())
        };
        let next = match self.search {
            SearchState::Greedy(slot, sequence) => match candidates(slot).and_then(|all| all.first().copied()) {
                Some(choice) => sequence.with(choice, &context)?.map_continue(|more| SearchState::Greedy(slot, more)),
                None => ControlFlow::Break(Sequence { finite: false, ..sequence }),
            },
            SearchState::Beams(search) => search.select_among(candidates, &context)?.map_continue(SearchState::Beams),
        };
        Ok(match next {
            ControlFlow::Continue(search) => Some(Self { search, length: self.length + 1, ..self }),
            ControlFlow::Break(sequence) => {
                finished.push((self.request.row, sequence));
                None
            }
        })
    }
}

impl Sequence {
    /// The sequence with one more token and its log-probability; it breaks if that ends it.
    fn with(
        mut self,
        (token, logprob): (i64, f64),
        context: &DecodeContext<'_>,
    ) -> Result<ControlFlow<Self, Self>, OnnxError> {
        self.tokens.push(token);
        self.logprob += logprob;
        Ok(match context.finish(&self.tokens)? {
            Some(finish) => ControlFlow::Break(Self { finish, ..self }),
            None => ControlFlow::Continue(self),
        })
    }
}
