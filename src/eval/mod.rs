//! Scores of an OUTPUT: its captions against reference captions, and its vectors by retrieval. In: the newest ok rows, references joined
//! by key, vectors of the references. Out: scores, and intervals for the difference of two OUTPUTs. Never here: models.
//!
//! [`references`] and [`rows`] read both sides, [`words`] makes tokens of captions. One file holds one measure: [`bleu`], [`rouge`],
//! [`cider`], [`diversity`], [`retrieval`]. [`measured`] keeps what each row contributes, so that [`bootstrap`] can draw rows again.
//! All conventions are those of `jobs/train/metrics.py`, and so of pycocoevalcap.

pub mod bleu;
pub mod bootstrap;
pub mod cider;
pub mod diversity;
pub mod measured;
mod ngrams;
pub mod references;
pub mod retrieval;
pub mod rouge;
pub mod rows;
pub mod words;

/// A sentence: the numbers of its words in a [`words::Vocabulary`].
pub type Sentence = Vec<u32>;
