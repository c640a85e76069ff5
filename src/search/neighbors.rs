//! The nearest rows of every row, exactly: each vector is scored with every other one, in blocks that fit a core's cache.

use rayon::prelude::*;

use super::kernel::scores;

/// Rows whose neighbors are looked for together.
const ROWS: usize = 64;
/// Rows that they are compared with at once.
const BLOCK: usize = 256;

/// A row's number and its cosine.
pub type Neighbor = (u32, f32);

/// For each of `vectors` `[rows, width]`, L2-normalised, the `top` other rows with the highest cosines, best first; equal ones by their
/// numbers. `done` is told how many rows are done, on any thread; None: `stop` said so, which is asked again and again.
#[must_use]
pub fn neighbors(
    vectors: &[f32],
    width: usize,
    top: usize,
    stop: &(dyn Fn() -> bool + Sync),
    done: &(dyn Fn(usize) + Sync),
) -> Option<Vec<Vec<Neighbor>>> {
    if width == 0 || top == 0 {
        return Some(Vec::new());
    }
    let of_rows = |(chunk, rows): (usize, &[f32])| {
        let mut best = vec![Vec::with_capacity(top + 1); rows.len() / width];
        let mut found = vec![0.0; BLOCK];
        for (block, others) in vectors.chunks(BLOCK * width).enumerate() {
            if stop() {
                return None;
            }
            let found = &mut found[..others.len() / width];
            for ((row, vector), best) in (chunk * ROWS..).zip(rows.chunks_exact(width)).zip(&mut best) {
                scores(others, vector, found);
                let numbered = (block * BLOCK..).zip(found.iter().copied());
                numbered.filter(|(other, _)| *other != row).for_each(|(other, score)| add(best, top, other, score));
            }
        }
        done(best.len());
        Some(best)
    };
    let found: Option<Vec<_>> = vectors.par_chunks(ROWS * width).enumerate().map(of_rows).collect();
    Some(found?.into_iter().flatten().collect())
}

/// Keeps the best `top`; rows come in the order of their numbers, so that a later one goes behind those of equal score.
fn add(best: &mut Vec<Neighbor>, top: usize, row: usize, score: f32) {
    if best.len() == top && best.last().is_some_and(|(_, worst)| score <= *worst) {
        return;
    }
    let at = best.partition_point(|(_, other)| *other >= score);
    best.insert(at, (row as u32, score));
    best.truncate(top);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn neighbors_are_those_of_a_full_sort() {
        let (rows, width, top) = (700_usize, 5, 9);
        // Few different values, so that many scores are equal.
        let vectors: Vec<f32> = (0..rows * width).map(|at| ((at * at * 7 + at / 3) % 4) as f32 - 1.5).collect();
        let (all, done) = (|vectors: &[f32]| neighbors(vectors, width, top, &|| false, &|_| ()), AtomicUsize::new(0));
        let found = neighbors(&vectors, width, top, &|| false, &|rows| {
            done.fetch_add(rows, Relaxed);
        })
        .unwrap();
        assert_eq!(done.into_inner(), rows);
        assert_eq!(found.len(), rows);
        for (row, found) in found.iter().enumerate() {
            let vector = |row: usize| &vectors[row * width..][..width];
            let score = |other: usize| vector(row).iter().zip(vector(other)).map(|(a, b)| a * b).sum::<f32>();
            let mut expected: Vec<Neighbor> =
                (0..rows).filter(|other| *other != row).map(|other| (other as u32, score(other))).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(top);
            assert_eq!(*found, expected, "row {row}");
        }
        assert_eq!(all(&vectors[..2 * width]).unwrap()[0].len(), 1);
    }

    #[test]
    fn a_stop_ends_the_work_at_once() {
        let (vectors, asked, done) = (vec![0.5; 4_000 * 8], AtomicUsize::new(0), AtomicUsize::new(0));
        let stop = || asked.fetch_add(1, Relaxed) >= 20;
        let found = neighbors(&vectors, 8, 3, &stop, &|rows| {
            done.fetch_add(rows, Relaxed);
        });
        assert_eq!(found, None);
        // 16 blocks for each of 63 chunks, had it gone on.
        let (asked, done) = (asked.into_inner(), done.into_inner());
        assert!(asked < 20 + 63 && done <= ROWS, "{asked} {done}");
    }
}
