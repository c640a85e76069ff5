//! What a step on a device says of each row: its best tokens. In: the numbers that the graph gives. Out: [`Chosen`].

use crate::onnx::{OnnxError, Tensor};

/// What was chosen for a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    /// The best tokens, best first; one if the graph chose it.
    pub(crate) candidates: Vec<Candidate>,
    /// Whether all logits of the row are finite.
    pub(crate) finite: bool,
}

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) token: i64,
    /// Its log-probability before any token is banned.
    pub(crate) logprob: f64,
    /// What candidates are ordered by; minus infinity if the graph bans the token.
    pub(crate) score: f32,
}

impl Chosen {
    /// Of each row of [`CHOSEN`](crate::onnx::choose::names::CHOSEN), `[rows, width]`.
    pub(super) fn of_numbers(chosen: &Tensor) -> Result<Vec<Self>, OnnxError> {
        let width = chosen.shape().last().copied().unwrap_or(0).max(1);
        Ok(chosen.to_f32()?.chunks_exact(width).map(Self::of_row).collect())
    }

    /// Tokens, their log-probabilities, their scores unless it is one token, and 1 if the row is finite.
    fn of_row(numbers: &[f32]) -> Self {
        let count = if numbers.len() > 3 { numbers.len() / 3 } else { 1 };
        let (tokens, rest) = numbers.split_at(count.min(numbers.len()));
        let (logprobs, rest) = rest.split_at(count.min(rest.len()));
        let scores = if count > 1 { rest } else { logprobs };
        // the graph adds the lowest number to the scores of banned tokens
        let score = |score: f32| if score < f32::MIN / 2.0 { f32::NEG_INFINITY } else { score };
        let candidates = tokens.iter().zip(logprobs).zip(scores).map(|((token, logprob), found)| Candidate {
            token: *token as i64,
            logprob: f64::from(*logprob),
            score: score(*found),
        });
        Self { candidates: candidates.collect(), finite: rest.last().is_some_and(|finite| *finite > 0.0) }
    }

    /// No token beyond the candidates has a higher score than this; minus infinity if there is none that may come next.
    pub(crate) fn bound(&self, vocabulary: usize) -> f32 {
        match self.candidates.last() {
            Some(last) if self.candidates.len() < vocabulary => last.score,
            _ => f32::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Chosen};
    use crate::onnx::{DataType, Tensor};

    #[test]
    fn rows_are_read_as_the_graph_writes_them() {
        let tensor = |width: usize, numbers: &[f32]| {
            Tensor::from_f32(DataType::F32, &[numbers.len() / width, width], numbers.to_vec()).unwrap()
        };
        let candidate = |token, logprob: f32, score| Candidate { token, logprob: f64::from(logprob), score };
        let greedy = Chosen::of_numbers(&tensor(3, &[7.0, -0.5, 1.0, 2.0, -1.5, 0.0])).unwrap();
        assert_eq!(greedy[0], Chosen { candidates: vec![candidate(7, -0.5, -0.5)], finite: true });
        assert_eq!(greedy[1], Chosen { candidates: vec![candidate(2, -1.5, -1.5)], finite: false });
        let best = Chosen::of_numbers(&tensor(7, &[7.0, 3.0, -0.5, -1.0, 4.5, f32::MIN, 1.0])).unwrap();
        let expected = vec![candidate(7, -0.5, 4.5), candidate(3, -1.0, f32::NEG_INFINITY)];
        assert_eq!(best[0], Chosen { candidates: expected, finite: true });
        assert!(best[0].bound(9) < f32::MIN && best[0].bound(2) < f32::MIN);
        assert!((greedy[0].bound(9) + 0.5).abs() < f32::EPSILON);
    }
}
