//! Captions, token by token, in the slots of a batch. In: the rows to be captioned, each batch of them as the decoder begins with
//! it. Out: the tokens of each caption with their log-probability. How a caption's tokens are found is [`super::single`]'s and
//! [`super::beam`]'s; rows that are finished leave the batch, and others take their slots where the decoder allows it.

use std::ops::ControlFlow;

use rayon::ThreadPool;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::beam::Beams;
use super::decoder::{Decoder, Logits};
use super::decoding::Decoding;
use super::settings::{GenerationSettings, Strategy};
use super::single::Single;
use super::tokens::TextTokenizer;
use crate::onnx::{OnnxError, OnnxErrorKind, Value};

/// Rows join once this part of the slots is free: each time costs a copy of what all rows have of earlier steps.
const WORTHWHILE: usize = 4;

/// A generated caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// The text, without special tokens and without the prompt.
    pub text: String,
    /// The sum over generated tokens, end token included, of the log-softmax of the decoder's logits.
    pub logprob: f32,
    /// The generated tokens, end token included, start token and prompt not.
    pub token_ids: Vec<i64>,
    /// How many they are.
    pub tokens: i32,
    /// Why it ended.
    pub finish: Finish,
    /// The cosine of the image's embedding with the caption's, if asked for and the model compares them.
    pub similarity: Option<f32>,
}

/// Why a caption ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The end token.
    Eos,
    /// One of the texts in `stop`, which is the end of the caption.
    Stop,
    /// `max_new_tokens`.
    Length,
}

impl Finish {
    /// The name written to the `caption_finish` column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// The tokens of one caption.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequence {
    /// The generated tokens, end token included, start token and prompt not.
    pub(super) tokens: Vec<i64>,
    pub(super) logprob: f64,
    pub(super) finish: Finish,
    /// Whether every logit was finite; if not, the row fails.
    pub(super) finite: bool,
}

impl Sequence {
    /// One without tokens.
    pub(super) fn begun() -> Self {
        Self { tokens: Vec::new(), logprob: 0.0, finish: Finish::Length, finite: true }
    }
}

/// A row that is captioned.
#[derive(Debug)]
pub(super) struct Begun {
    /// Which one.
    pub(super) row: usize,
    /// The hash of its key.
    pub(super) key: u64,
    /// The tokens that its caption goes on from.
    pub(super) prefix: Vec<i64>,
}

/// What captions begin with, one row for each.
#[derive(Debug)]
pub(super) struct Start {
    /// Their prefixes are of one length.
    pub(super) rows: Vec<Begun>,
    /// What the decoder attends to, `[rows, ...]`, in the order of [`Decoder::contexts`].
    pub(super) contexts: Vec<Value>,
    /// The vectors of the prefixes, if these are not what the tokens alone stand for.
    pub(super) embedded: Option<Value>,
}

/// How captions are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing<'a> {
    pub(super) settings: &'a GenerationSettings,
    pub(super) tokenizer: &'a TextTokenizer,
    /// Choose the tokens of a step, each those of some captions.
    pub(super) workers: &'a ThreadPool,
}

impl Writing<'_> {
    /// Why `tokens`, none of whose beginnings was finished, are; `None` if they are not.
    pub(super) fn finish(&self, tokens: &[i64]) -> Result<Option<Finish>, OnnxError> {
        if tokens.last().is_some_and(|last| self.settings.eos_token_ids.contains(last)) {
            return Ok(Some(Finish::Eos));
        }
        if !self.settings.stop.is_empty() {
            let text = self.tokenizer.decode_all(tokens).map_err(|error| OnnxError {
                kind: OnnxErrorKind::Run,
                graph: None,
                what: format!("the tokenizer failed: {error}"),
                hint: None,
            })?;
            if self.settings.stop.iter().any(|stop| text.contains(stop)) {
                return Ok(Some(Finish::Stop));
            }
        }
        Ok((tokens.len() >= self.settings.max_new_tokens).then_some(Finish::Length))
    }
}

/// How the tokens of one caption are found.
#[derive(Debug)]
enum Search {
    Single(Single),
    Beams(Beams),
}

/// The captions of a batch between two steps.
#[derive(Debug)]
struct Running {
    batch: Decoding,
    captions: Vec<(Begun, Search)>,
}

/// Writes captions, at most `slots` at once. `more` gives the next rows, at most as many as it is asked for, until there are none.
/// Returns the captions with their rows, in the order in which they were finished.
pub(super) fn generate(
    decoder: &mut Decoder,
    slots: usize,
    mut more: impl FnMut(&mut Decoder, usize) -> Result<Option<Start>, OnnxError>,
    writing: Writing<'_>,
) -> Result<Vec<(usize, Sequence)>, OnnxError> {
    let mut done = Vec::new();
    // what has begun, but attends to more or less than the batch under way, waits until that is done
    let (mut running, mut apart): (Option<Running>, Option<Running>) = (None, None);
    loop {
        running = running.or_else(|| apart.take());
        let free = |running: &Option<Running>| slots - running.as_ref().map_or(0, |running| running.captions.len());
        let refills = decoder.joins && free(&running) * WORTHWHILE >= slots;
        while apart.is_none() && (running.is_none() || (refills && free(&running) > 0)) {
            let Some(start) = more(decoder, free(&running))? else { break };
            let (fresh, logits) = Running::begin(decoder, start, writing.settings)?;
            let Some(fresh) = fresh.step(decoder, &logits, writing, &mut done)? else { continue };
            match &mut running {
                None => running = Some(fresh),
                Some(running) if running.batch.fits(&fresh.batch) => running.join(fresh, decoder)?,
                Some(_) => apart = Some(fresh),
            }
        }
        let Some(mut batch) = running.take() else { return Ok(done) };
        let tokens: Vec<_> = batch.paths().map(|(_, token)| token).collect();
        let logits = decoder.next(&mut batch.batch, &tokens)?;
        running = batch.step(decoder, &logits, writing, &mut done)?;
    }
}

impl Running {
    /// The captions of `start` with the logits of their first tokens.
    fn begin(decoder: &mut Decoder, start: Start, settings: &GenerationSettings) -> Result<(Self, Logits), OnnxError> {
        let Start { rows, contexts, embedded } = start;
        let mut batch = decoder.begin(contexts, rows.len())?;
        let prefixes: Vec<_> = rows.iter().map(|row| row.prefix.clone()).collect();
        let logits = decoder.first(&mut batch, &prefixes, embedded)?;
        let search = |place| match settings.strategy {
            Strategy::Beam(beams) => Search::Beams(Beams::begun(beams, place)),
            Strategy::Greedy | Strategy::Sample(_) => Search::Single(Single::begun(place)),
        };
        let captions = rows.into_iter().enumerate().map(|(place, row)| (row, search(place))).collect();
        Ok((Self { batch, captions }, logits))
    }

    /// Takes every caption one token further. Those that are finished go to `done`; `None` if all are.
    fn step(
        mut self,
        decoder: &mut Decoder,
        logits: &Logits,
        writing: Writing<'_>,
        done: &mut Vec<(usize, Sequence)>,
    ) -> Result<Option<Self>, OnnxError> {
        let step = |scores: &mut Vec<f32>, (begun, search): (Begun, Search)| {
            let stepped = match search {
                Search::Single(single) => single.step(&begun, logits, &writing, scores)?.map_continue(Search::Single),
                Search::Beams(beams) => beams.step(&begun, logits, &writing)?.map_continue(Search::Beams),
            };
            Ok::<_, OnnxError>((begun, stepped))
        };
        let stepped = || self.captions.into_par_iter().map_init(Vec::new, step).collect::<Result<Vec<_>, _>>();
        let mut going = Vec::new();
        for (begun, stepped) in writing.workers.install(stepped)? {
            match stepped {
                ControlFlow::Continue(search) => going.push(Some((begun, search))),
                ControlFlow::Break(sequence) => {
                    done.push((begun.row, sequence));
                    going.push(None);
                }
            }
        }
        // the last ones fill the gaps, so that few rows have to move
        while let Some(gap) = going.iter().position(Option::is_none) {
            going.swap_remove(gap);
        }
        self.captions = going.into_iter().flatten().collect();
        if self.captions.is_empty() {
            return Ok(None);
        }
        let places: Vec<_> = self.paths().map(|(place, _)| place).collect();
        self.batch.keep(&places, &mut decoder.mover)?;
        self.settle(0);
        Ok(Some(self))
    }

    /// Puts the captions of `others` behind these.
    fn join(&mut self, mut others: Self, decoder: &mut Decoder) -> Result<(), OnnxError> {
        others.settle(self.batch.rows());
        self.batch.join(others.batch, &mut decoder.mover)?;
        self.captions.extend(others.captions);
        Ok(())
    }

    /// The places in the decoder's batch that go on, with the last token of each.
    fn paths(&self) -> impl Iterator<Item = (usize, i64)> {
        self.captions.iter().flat_map(|(_, search)| match search {
            Search::Single(single) => single.path().into_iter().collect::<Vec<_>>(),
            Search::Beams(beams) => beams.paths().collect(),
        })
    }

    /// Says that paths have the places from `first` on.
    fn settle(&mut self, first: usize) {
        let mut place = first;
        for (_, search) in &mut self.captions {
            place = match search {
                Search::Single(single) => single.settle(place),
                Search::Beams(beams) => beams.settle(place),
            };
        }
    }
}
