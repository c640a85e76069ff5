//! Beam search over a batch of rows, as transformers 4.57 does it (`GenerationMixin._beam_search`). In: the decoder at its
//! start. Out: the best caption of every row. Rows are searched independently of each other; a row that is done leaves
//! the batch.

use super::decoder::{Decoder, Decoding, Logits};
use super::finite::is_finite;
use super::generate::{Ends, Finish, Sequence};
use super::processors::process;
use super::settings::{BeamSettings, EarlyStopping, GenerationSettings};
use super::softmax::Softmax;
use crate::onnx::OnnxError;

/// A caption that can still grow.
struct Beam {
    tokens: Vec<i64>,
    /// The sum of its tokens' processed log-probabilities.
    score: f64,
    /// The sum of the model's own.
    logprob: f64,
    /// Its place in the decoder's batch before this step.
    place: usize,
}

/// One row's search.
struct Search {
    row: usize,
    /// Best first, as many as beams; one at the start, where all would be the same.
    beams: Vec<Beam>,
    /// Finished captions with their scores after the length penalty, best first, at most as many as beams.
    finished: Vec<(f64, Sequence)>,
}

/// Writes the best caption for each row of `batch`, which was fed `prefixes` and gave `logits`.
pub(super) fn search(
    decoder: &mut Decoder,
    mut batch: Decoding,
    mut logits: Logits,
    prefixes: &[Vec<i64>],
    settings: &GenerationSettings,
    beams: BeamSettings,
    ends: &Ends<'_>,
) -> Result<Vec<Sequence>, OnnxError> {
    let rows = prefixes.len();
    let mut results: Vec<_> = prefixes.iter().map(|_| Sequence::begun()).collect();
    let begin = |row| Search {
        row,
        beams: vec![Beam { tokens: Vec::new(), score: 0.0, logprob: 0.0, place: row }],
        finished: Vec::new(),
    };
    let mut searches: Vec<_> = (0..rows).map(begin).collect();
    loop {
        let mut open = Vec::with_capacity(searches.len());
        for mut search in searches {
            let scored = search.score(&logits, settings, &prefixes[search.row]);
            let Some(scored) = scored else {
                results[search.row].finite = false;
                continue;
            };
            let keep = beams.num_beams * (1 + settings.eos_token_ids.len()).max(2);
            if search.step(&scored, keep, beams, ends)? {
                open.push(search);
            } else if let Some((_, best)) = search.finished.into_iter().next() {
                results[search.row] = best;
            }
        }
        searches = open;
        if searches.is_empty() {
            return Ok(results);
        }
        let running: Vec<&Beam> = searches.iter().flat_map(|search| &search.beams).collect();
        batch.keep(&running.iter().map(|beam| beam.place).collect::<Vec<_>>())?;
        let tokens: Vec<i64> = running.iter().filter_map(|beam| beam.tokens.last().copied()).collect();
        logits = decoder.next(&mut batch, &tokens)?;
        for (place, beam) in searches.iter_mut().flat_map(|search| &mut search.beams).enumerate() {
            beam.place = place;
        }
    }
}

/// What the next tokens of one beam are worth.
struct Scored<'a> {
    logits: &'a [f32],
    softmax: Softmax,
    /// The log-probabilities after processing.
    processed: Vec<f32>,
}

impl Search {
    /// Scores every token after every beam; `None` if a logit is not finite.
    fn score<'a>(&self, logits: &'a Logits, settings: &GenerationSettings, prefix: &[i64]) -> Option<Vec<Scored<'a>>> {
        let score = |beam: &Beam| {
            let logits = logits.row(beam.place).filter(|logits| is_finite(logits))?;
            let softmax = Softmax::of(logits);
            let mut processed: Vec<f32> = logits.iter().map(|&logit| softmax.logprob(logit) as f32).collect();
            process(settings, prefix.len(), &[prefix, &beam.tokens].concat(), &mut processed);
            Some(Scored { logits, softmax, processed })
        };
        self.beams.iter().map(score).collect()
    }

    /// Goes one token further: the `keep` best continuations are looked at, of which the best unfinished ones go on. Says
    /// whether the search goes on.
    fn step(
        &mut self,
        scored: &[Scored<'_>],
        keep: usize,
        settings: BeamSettings,
        ends: &Ends<'_>,
    ) -> Result<bool, OnnxError> {
        let mut running = Vec::with_capacity(settings.num_beams);
        for (rank, (score, beam, token)) in self.best(scored, keep).into_iter().enumerate() {
            let from = &self.beams[beam];
            let tokens: Vec<i64> = from.tokens.iter().copied().chain([token as i64]).collect();
            let logprob = from.logprob + scored[beam].softmax.logprob(scored[beam].logits[token]);
            match ends.finish(&tokens)? {
                None if running.len() < settings.num_beams => {
                    running.push(Beam { tokens, score, logprob, place: from.place });
                }
                // what ranks below is looked at only so that enough beams go on
                Some(finish) if rank < settings.num_beams => {
                    let penalised = score / (tokens.len() as f64).powf(settings.length_penalty);
                    self.finished.push((penalised, Sequence { tokens, logprob, finish, finite: true }));
                }
                _ => {}
            }
        }
        // stable: what was finished first stays first among equals
        self.finished.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        self.finished.truncate(settings.num_beams);
        self.beams = running;
        Ok(self.can_improve(settings, ends.max_new_tokens()))
    }

    /// The `keep` best continuations: score, beam, token; the lowest beam and token among equals. Tokens that cannot come
    /// next are none.
    fn best(&self, scored: &[Scored<'_>], keep: usize) -> Vec<(f64, usize, usize)> {
        let mut all: Vec<(f64, usize, usize)> = Vec::new();
        for (beam, scored) in scored.iter().enumerate() {
            let tokens = scored.processed.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY);
            all.extend(tokens.map(|(token, &score)| (self.beams[beam].score + f64::from(score), beam, token)));
        }
        let order = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
            b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        };
        if keep < all.len() {
            all.select_nth_unstable_by(keep, order);
            all.truncate(keep);
        }
        all.sort_unstable_by(order);
        all
    }

    /// Whether a running beam may still become better than the finished captions.
    fn can_improve(&self, settings: BeamSettings, max_new_tokens: usize) -> bool {
        let Some(best) = self.beams.first() else { return false };
        let full = self.finished.len() == settings.num_beams;
        let Some((worst, _)) = self.finished.last().filter(|_| full) else { return true };
        let longest = settings.early_stopping == EarlyStopping::Never && settings.length_penalty > 0.0;
        let length = if longest { max_new_tokens } else { best.tokens.len() };
        settings.early_stopping != EarlyStopping::True
            && best.score / (length as f64).powf(settings.length_penalty) > *worst
    }
}

impl Sequence {
    /// One without tokens.
    pub(super) fn begun() -> Self {
        Self { tokens: Vec::new(), logprob: 0.0, finish: Finish::Length, finite: true }
    }
}
