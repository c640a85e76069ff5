//! What happens when a batch fails as a whole.
//!
//! - **Memory ran out**: the batch is repeated in halves, and no later batch is larger than them. For one row it is an error.
//! - **The device failed**: an error at once.
//! - **Anything else** may be the fault of one row. Each half of its rows is run again, down to single rows. Later batches have
//!   the full size again.
//!
//! # A row that fails alone
//! It becomes a failed row (`model_error`) if the model computes the trial row ([`super::trial_row`]) right after it. Otherwise the
//! model is at fault, whatever the size of the batch, and the job's run ends with an error.
//!
//! # A batch of which every row fails alone
//! If the batch is full (the plan's batch size), the run of the job ends: a graph that fails on whatever this job gives it must not
//! make ten million failed rows. Fewer rows are not enough to tell: the last ones of a part, or as many as memory has room for. For
//! those the trial row decides, and batches count together until a row of the part succeeds: as many rows as in a full batch end the
//! run, and [`ENOUGH_SINGLE_ROWS`] where the plan says one at a time.
//!
//! # Which rows have which results
//! Which rows are repeated depends on the rows of the batch only, and batches never cross parts. So a part has the same bytes
//! however often the run was interrupted, unless memory ran out. The part's footer says how often a batch was halved, for either
//! reason.

use std::ops::AddAssign;

use crate::error::Error;
use crate::onnx::{OnnxError, OnnxErrorKind};
use crate::row::error::{ErrorKind, RowError, Stage};

/// The most characters of an error message in a part.
const LONGEST_MESSAGE: usize = 300;

/// So many rows of a part that fail one after the other say that the model is at fault, where the plan's batch size is one row.
const ENOUGH_SINGLE_ROWS: usize = 32;

/// What batches of rows are run through.
pub(super) trait Runs<Row> {
    /// The result of one row.
    type Output;

    /// Runs `rows`, at most `at_once` at a time. A result for each row, or the error of the whole run.
    fn run(&mut self, rows: &[Row], at_once: usize) -> Result<Vec<Result<Self::Output, RowError>>, OnnxError>;

    /// Runs the trial row.
    fn try_out(&mut self) -> Result<(), OnnxError>;

    /// The stage in which `error` occurred.
    fn stage(&self, error: &OnnxError) -> Stage;
}

/// The batch size, and how often a batch was halved.
#[derive(Debug)]
pub(super) struct Halving {
    /// The plan's batch size.
    planned: usize,
    /// The current batch size: smaller after memory ran out.
    at_once: usize,
    halved: u32,
    /// Whether it was logged already that a batch was repeated.
    warned: bool,
}

/// The failures of a batch.
#[derive(Debug, Default)]
struct Failures {
    /// Rows that failed alone.
    rows: usize,
    /// The error of the last one.
    last: Option<OnnxError>,
}

impl AddAssign for Failures {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.last = other.last.or(self.last.take());
    }
}

impl Halving {
    /// Starts with a batch size of `at_once`.
    pub(super) const fn new(at_once: usize) -> Self {
        Self { planned: at_once, at_once, halved: 0, warned: false }
    }

    /// The current batch size.
    pub(super) const fn at_once(&self) -> usize {
        self.at_once
    }

    /// How often a batch was halved since the last call of this.
    pub(super) const fn take_count(&mut self) -> u32 {
        std::mem::replace(&mut self.halved, 0)
    }

    /// Runs `rows`, `batches` batches in a call. A result for each of them. `in_succession`: how many rows of the part failed alone
    /// since a batch held one that did not.
    ///
    /// # Errors
    /// When memory ran out for a single row, the device failed, or the model and not a row is at fault.
    pub(super) fn run<Row, M: Runs<Row>>(
        &mut self,
        model: &mut M,
        rows: &[Row],
        batches: usize,
        in_succession: &mut usize,
    ) -> Result<Vec<Result<M::Output, RowError>>, Error> {
        let enough = if self.planned == 1 { ENOUGH_SINGLE_ROWS } else { self.planned };
        let mut results = Vec::with_capacity(rows.len());
        while results.len() < rows.len() {
            let rest = &rows[results.len()..];
            let batch = &rest[..rest.len().min(batches * self.at_once)];
            let failures = self.run_call(model, batch, batches, &mut results)?;
            *in_succession = if failures.rows == batch.len() { *in_succession + batch.len() } else { 0 };
            if let Some(error) = failures.last.filter(|_| *in_succession >= enough) {
                let of = if *in_succession == batch.len() { "of a batch" } else { "in succession" };
                let what = format!("{}; each of {in_succession} rows {of} fails alone", error.what);
                let hint = "the model is taken to be at fault, not the rows. If it works for others, leave these out with `input.where`";
                return Err(OnnxError { what, hint: Some(hint.to_owned()), ..error }.into());
            }
        }
        Ok(results)
    }

    /// Runs the rows of one call, or some of them.
    fn run_call<Row, M: Runs<Row>>(
        &mut self,
        model: &mut M,
        rows: &[Row],
        batches: usize,
        results: &mut Vec<Result<M::Output, RowError>>,
    ) -> Result<Failures, Error> {
        let (mut failures, mut done) = (Failures::default(), 0);
        while done < rows.len() {
            // Memory may have run out since: then the batch size is smaller.
            let next = &rows[done..rows.len().min(done + batches * self.at_once)];
            let at_once = next.len().min(self.at_once);
            match model.run(next, self.at_once) {
                Ok(found) if found.len() == next.len() => results.extend(found),
                Ok(found) => {
                    let what = format!("the model gave {} results for {} rows", found.len(), next.len());
                    return Err(Error::Internal(what));
                }
                Err(error) if error.kind == OnnxErrorKind::OutOfMemory && at_once > 1 => {
                    self.at_once = at_once.div_ceil(2);
                    self.halved += 1;
                    let (rows, now) = (at_once, self.at_once);
                    tracing::warn!(rows, now, "memory ran out; batches are halved from here on: {}", error.what);
                    continue;
                }
                Err(error) if error.kind == OnnxErrorKind::Run && next.len() > 1 => {
                    self.halved += 1;
                    self.warn_once(next.len(), &error);
                    let (first, second) = next.split_at(next.len().div_ceil(2));
                    failures += self.run_call(model, first, batches, results)?;
                    failures += self.run_call(model, second, batches, results)?;
                }
                Err(error) if error.kind == OnnxErrorKind::Run => {
                    results.push(Err(failed_alone::<Row, M>(model, &error)?));
                    failures += Failures { rows: 1, last: Some(error) };
                }
                Err(error) => return Err(error.into()),
            }
            done += next.len();
        }
        Ok(failures)
    }

    fn warn_once(&mut self, rows: usize, error: &OnnxError) {
        if self.warned {
            tracing::debug!(rows, "a run failed and is repeated on each half of its rows: {error}");
        } else {
            tracing::warn!(
                rows,
                "a run failed and is repeated on each half of its rows, to find those at fault: {error}"
            );
            self.warned = true;
        }
    }
}

/// The error of a row that fails alone with `error`.
///
/// # Errors
/// When the model fails without the row too.
fn failed_alone<Row, M: Runs<Row>>(model: &mut M, error: &OnnxError) -> Result<RowError, Error> {
    match model.try_out() {
        Ok(()) => {}
        Err(without) if without.kind == OnnxErrorKind::Run => {
            let what = format!("{}; it fails without any row of the job too", error.what);
            return Err(OnnxError { what, ..error.clone() }.into());
        }
        Err(other) => return Err(other.into()),
    }
    // The name alone: the folder of the model differs between machines, and the bytes of a part must not.
    let graph = error.graph.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
    let message = format!("{} fails on this row: {}", graph.unwrap_or("the model"), error.what);
    let message = message.chars().take(LONGEST_MESSAGE).collect::<String>();
    Ok(RowError::new(model.stage(error), ErrorKind::ModelError, message))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Doubles numbers, but fails on some of them, on too many at once, and without any if it is broken.
    #[derive(Default)]
    struct Doubler {
        bad: BTreeSet<u32>,
        fits: Option<usize>,
        is_broken: bool,
        lost_at: Option<u32>,
        largest: usize,
    }

    impl Runs<u32> for Doubler {
        type Output = u32;

        fn run(&mut self, rows: &[u32], at_once: usize) -> Result<Vec<Result<u32, RowError>>, OnnxError> {
            let fail = |kind| Err(OnnxError::new(kind, "/models/doubler.onnx", "x".repeat(1000)));
            let rows_at_once = rows.len().min(at_once);
            if self.fits.is_some_and(|fits| rows_at_once > fits) {
                return fail(OnnxErrorKind::OutOfMemory);
            }
            if self.lost_at.is_some_and(|row| rows.contains(&row)) {
                return fail(OnnxErrorKind::Device);
            }
            if self.is_broken || rows.iter().any(|row| self.bad.contains(row)) {
                return fail(OnnxErrorKind::Run);
            }
            self.largest = self.largest.max(rows_at_once);
            Ok(rows.iter().map(|row| Ok(row * 2)).collect())
        }

        fn try_out(&mut self) -> Result<(), OnnxError> {
            let error = OnnxError::new(OnnxErrorKind::Run, "doubler.onnx", "broken");
            if self.is_broken { Err(error) } else { Ok(()) }
        }

        fn stage(&self, _error: &OnnxError) -> Stage {
            Stage::Encode
        }
    }

    /// The results of the rows `0..rows`; None for a row that failed.
    fn run(model: &mut Doubler, rows: u32, at_once: usize, batches: usize) -> Result<Vec<Option<u32>>, Error> {
        let rows: Vec<u32> = (0..rows).collect();
        let results = Halving::new(at_once).run(model, &rows, batches, &mut 0)?;
        Ok(results.into_iter().map(Result::ok).collect())
    }

    proptest! {
        #[test]
        fn the_rows_at_fault_fail_and_all_others_have_their_own_result(
            bad in prop::collection::btree_set(0_u32..60, 0..6),
            at_once in 7_usize..20,
            batches in 1_usize..4,
            fits in prop::option::of(1_usize..20),
        ) {
            // Never all rows of a full batch, which has seven or more.
            let expected: Vec<_> = (0..60).map(|row| (!bad.contains(&row)).then_some(row * 2)).collect();
            let mut model = Doubler { bad, fits, ..Doubler::default() };
            let found = run(&mut model, 60, at_once, batches).unwrap();
            prop_assert_eq!(found, expected);
            prop_assert!(model.largest <= at_once.min(fits.unwrap_or(at_once)));
        }
    }

    #[test]
    fn a_full_batch_of_rows_at_fault_ends_the_run_and_a_smaller_one_does_not() {
        let bad = |rows: std::ops::Range<u32>| Doubler { bad: rows.collect(), ..Doubler::default() };
        assert!(
            run(&mut bad(4..8), 12, 4, 1).unwrap_err().to_string().contains("each of 4 rows of a batch fails alone")
        );
        assert_eq!(run(&mut bad(4..7), 12, 4, 1).unwrap().iter().flatten().count(), 9);
        assert_eq!(run(&mut bad(6..10), 12, 4, 1).unwrap().iter().flatten().count(), 8, "of two batches");
        assert_eq!(run(&mut bad(8..11), 11, 4, 1).unwrap().iter().flatten().count(), 8, "the last rows");
        assert_eq!(run(&mut bad(0..1), 1, 4, 1).unwrap(), [None], "the only row");
        assert_eq!(run(&mut bad(0..3), 3, 1, 1).unwrap(), [None; 3], "one at a time");
    }

    #[test]
    fn many_rows_at_fault_in_succession_end_the_run_however_few_are_run_at_once() {
        let of = |bad: std::ops::Range<u32>, fits| Doubler { bad: bad.collect(), fits, ..Doubler::default() };
        assert_eq!(run(&mut of(1..32, None), 40, 1, 1).unwrap().iter().flatten().count(), 9);
        let error = run(&mut of(1..33, None), 40, 1, 1).unwrap_err().to_string();
        assert!(error.contains("each of 32 rows in succession fails alone"), "{error}");
        // Memory has room for one row of four.
        assert_eq!(run(&mut of(1..4, Some(1)), 9, 4, 1).unwrap().iter().flatten().count(), 6);
        let error = run(&mut of(5..9, Some(1)), 9, 4, 1).unwrap_err().to_string();
        assert!(error.contains("each of 4 rows in succession fails alone"), "{error}");
        // Rows come in several calls, as those of a part do.
        let (mut halving, mut in_succession) = (Halving::new(4), 0);
        let mut few = |rows: &[u32]| halving.run(&mut of(0..9, None), rows, 1, &mut in_succession);
        assert!(few(&[1, 2, 3]).is_ok() && few(&[10]).is_ok() && few(&[1, 2, 3]).is_ok());
        assert!(few(&[4]).is_err());
    }

    #[test]
    fn a_broken_model_makes_no_failed_row_however_small_the_batch_is() {
        for rows in [1, 3, 30] {
            let mut model = Doubler { is_broken: true, ..Doubler::default() };
            let error = run(&mut model, rows, 4, 1).unwrap_err();
            assert!(matches!(&error, Error::Onnx(error) if error.kind == OnnxErrorKind::Run), "{error}");
            assert!(error.to_string().contains("fails without any row of the job too"), "{error}");
        }
    }

    #[test]
    fn a_lost_device_is_no_rows_fault() {
        let mut model = Doubler { lost_at: Some(5), bad: [1].into(), ..Doubler::default() };
        let error = run(&mut model, 12, 4, 1).unwrap_err();
        assert!(matches!(&error, Error::Onnx(error) if error.kind == OnnxErrorKind::Device), "{error}");
    }

    #[test]
    fn messages_are_bounded_and_name_no_folder() {
        let mut halving = Halving::new(4);
        let results =
            halving.run(&mut Doubler { bad: [2].into(), ..Doubler::default() }, &[0, 1, 2, 3, 4], 1, &mut 0).unwrap();
        let error = results[2].as_ref().unwrap_err();
        assert_eq!((error.kind, error.message.chars().count()), (ErrorKind::ModelError, 300));
        assert!(error.message.starts_with("doubler.onnx fails on this row: xxx"), "{error}");
        assert_eq!((halving.take_count(), halving.take_count(), halving.at_once()), (2, 0, 4), "4 to 2, and to 1");
    }
}
