//! ROUGE-L: Lin, *ROUGE: A Package for Automatic Evaluation of Summaries*, 2004.
//!
//! With `l_i` the length of the longest common subsequence of caption and reference i, P the best of `l_i / |caption|`, R the best of
//! `l_i / |reference i|` (of all references, not of the same one) and b = 1.2, as in pycocoevalcap:
//!
//! ```text
//! ROUGE-L = (1 + b^2) * P * R / (R + b^2 * P)
//! ```

use super::Sentence;

/// ROUGE-L of a caption, from 0 to 1.
#[must_use]
pub fn rouge_l(caption: &[u32], references: &[Sentence]) -> f64 {
    const BETA: f64 = 1.2;
    let common = references.iter().map(|reference| {
        let common = longest_common_subsequence(caption, reference) as f64;
        (common / caption.len().max(1) as f64, common / reference.len().max(1) as f64)
    });
    let (precision, recall) = common.fold((0.0, 0.0), |(p, r), (p2, r2)| (f64::max(p, p2), f64::max(r, r2)));
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

fn longest_common_subsequence(a: &[u32], b: &[u32]) -> u32 {
    // `longest[i]`: of the words of `a` that were seen and the first i of `b`.
    let mut longest = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = longest[at + 1];
            longest[at + 1] = if word == other { diagonal + 1 } else { above.max(longest[at]) };
            diagonal = above;
        }
    }
    longest[b.len()]
}
