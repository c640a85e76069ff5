//! Generation on a device: the scheduler for decoders with a static step ([`StaticDecoder`]). In: tokenized requests. Out: the tokens of
//! each caption with their log-probability. The graph chooses tokens, or gives candidates, among which those of each caption are selected
//! ([`super::token_selection`]); here captions end, leave the batch, and waiting requests take their slots (continuous batching). Which
//! rows share a batch depends on their order and lengths only.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::open_caption::{OpenCaption, Selected};
use super::prefill::{PrefillBatch, PrefillBuilder, PromptedRequest};
use super::scheduler::RequestQueue;
use super::sequence::{DecodeContext, Sequence};
use crate::engine::decoder::cache::Slot;
use crate::engine::decoder::chosen::Chosen;
use crate::engine::decoder::run::{Decoder, Logits};
use crate::engine::decoder::static_batch::{RowStart, StaticBatch};
use crate::engine::decoder::static_decoder::{NewRows, StaticDecoder};
use crate::onnx::{OnnxError, Tensor};

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

/// The captions of a batch, each in as many slots as there are beams; none where one is finished.
#[derive(Debug)]
struct Running {
    batch: StaticBatch,
    captions: Vec<Option<OpenCaption>>,
}

/// Captions whose prompts are processed. Their slots are rows of the tensors.
#[derive(Debug)]
struct Prefilled {
    tensors: NewRows,
    /// How many tokens their caches, and those of all others in the queue, need room for.
    room: usize,
    captions: Vec<OpenCaption>,
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
        let (prompt, settings) = (self.queue.longest_prompt(), self.context.settings);
        let most_tokens = settings.max_length.map_or(prompt + settings.max_new_tokens, |length| length.max(prompt));
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
        let Running { batch, captions } = match progress.running.take() {
            Some(running) if joining.is_none() && !shrinks(&running) => self.go_on(running)?,
            None if joining.is_none() => return Ok(false),
            running => self.place(running, joining)?,
        };
        let chosen = self.static_decoder.step(&batch)?;
        let captions = self.select(captions, &chosen, batch.logits(), &mut progress.finished)?;
        progress.running = Some(Running { batch, captions });
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
        let captions = sequences.into_iter().enumerate();
        let captions: Vec<_> =
            captions.map(|(slot, request)| OpenCaption::new(request, Slot(slot), settings)).collect();
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
        let selected = self.select(captions.into_iter().map(Some).collect(), &chosen, Some(&logits), finished)?;
        drop(logits);
        let tensors = self.static_decoder.new_rows(state, true)?;
        // some decoders have the image's states in their cache, before the prompt
        let length = prompts.first().map_or(0, Vec::len);
        let more = tensors.tokens().saturating_sub(length);
        let most = (length + more + self.context.settings.most_new(length)).saturating_sub(1);
        if let Some(positions) = self.static_decoder.positions().filter(|positions| most > *positions) {
            let what =
                format!("rows may have {most} tokens in their cache, and a step on a GPU has {positions} positions");
            return Err(OnnxError::of_run(what));
        }
        let unfinished = selected.into_iter().flatten().map(|caption| caption.longer_by(more));
        Ok(Prefilled { tensors, room: StaticDecoder::room(most_tokens + more), captions: unfinished.collect() })
    }

    /// Selects the next tokens of `captions`, with `chosen` for each slot; `logits`, `[slots, tokens, vocabulary]`, are read where that
    /// does not tell. Finished captions go to `finished`.
    fn select(
        &mut self,
        captions: Vec<Option<OpenCaption>>,
        chosen: &[Chosen],
        logits: Option<&Tensor>,
        finished: &mut Finished,
    ) -> Result<Vec<Option<OpenCaption>>, OnnxError> {
        let (context, vocabulary) = (self.context, self.static_decoder.vocabulary());
        let select = |scores: &mut Vec<f32>, caption: Option<OpenCaption>| {
            caption.map(|caption| caption.select_among(chosen, vocabulary, &context, scores)).transpose()
        };
        let selected: Vec<_> = if self.static_decoder.chooses() {
            captions.into_iter().map(|caption| select(&mut Vec::new(), caption)).collect::<Result<_, _>>()?
        } else {
            let all = || captions.into_par_iter().map_init(Vec::new, select).collect::<Result<_, _>>();
            context.workers.install(all)?
        };
        let unknown = selected.iter().flatten().filter_map(|selected| match selected {
            Selected::Unknown(caption) => Some(caption.live_slots()),
            Selected::GoesOn(_) | Selected::Finished(..) => None,
        });
        let unknown: Vec<Slot> = unknown.flatten().collect();
        let read = match logits.filter(|_| !unknown.is_empty()) {
            Some(logits) => {
                let rows: Vec<_> = unknown.iter().map(|Slot(slot)| *slot).collect();
                let rows = self.decoder.row_gather.gather(logits, &rows)?.to_host()?;
                Some(Logits::of_slots(rows, unknown)?)
            }
            None => None,
        };
        let (mut left, mut scores) = (Vec::with_capacity(selected.len()), Vec::new());
        for selected in selected {
            let selected = match (selected, &read) {
                (Some(Selected::Unknown(caption)), Some(logits)) => {
                    Some(caption.select(logits, &context, &mut scores)?)
                }
                (selected, _) => selected,
            };
            left.push(match selected {
                Some(Selected::GoesOn(caption)) => Some(caption),
                Some(Selected::Finished(row, sequence)) => {
                    finished.push((row, sequence));
                    None
                }
                Some(Selected::Unknown(_)) => return Err(OnnxError::of_run("a step without logits")),
                None => None,
            });
        }
        Ok(left)
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
        let slots =
            |captions: &[OpenCaption]| captions.iter().flat_map(|caption| caption.slots(beams)).collect::<Vec<_>>();
        let kept = slots(&captions);
        let mut tensors = None;
        if let Some(Prefilled { tensors: mut new, captions: others, .. }) = joining {
            new.rows = slots(&others);
            tensors = Some(new);
            captions.extend(others);
        }
        let mut batch = self.static_decoder.place(old.map(|batch| (batch, kept.as_slice())), tensors.as_ref(), room)?;
        let starts: Vec<_> = captions.iter().flat_map(|caption| caption.starts(beams)).collect();
        batch.start(&starts)?;
        let mut captions: Vec<_> = captions.into_iter().map(Some).collect();
        assign_slots(&mut captions, beams);
        Ok(Running { batch, captions })
    }

    /// The next step of the same captions in the same slots. If the graph chose the tokens, it has its input already.
    fn go_on(&mut self, running: Running) -> Result<Running, OnnxError> {
        let (Running { mut batch, mut captions }, beams) = (running, self.beams());
        if !self.static_decoder.chooses() {
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
            batch.start(&starts.collect::<Vec<_>>())?;
            assign_slots(&mut captions, beams);
        }
        Ok(Running { batch, captions })
    }
}

/// Gives every caption the slots of its index.
fn assign_slots(captions: &mut [Option<OpenCaption>], beams: usize) {
    for (index, caption) in captions.iter_mut().enumerate() {
        if let Some(caption) = caption {
            caption.assign_slots(index * beams);
        }
    }
}

impl Running {
    /// How many captions are unfinished.
    fn live(&self) -> usize {
        self.captions.iter().flatten().count()
    }
}
