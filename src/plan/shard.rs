//! Shards: which parts of a plan one worker makes.

use super::PlanError;

/// Worker `index` of `count`; it makes the parts whose number is `index` modulo `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: u64,
    /// At least 1.
    pub count: u64,
}

impl Shard {
    /// The whole plan in one process.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether this worker makes `part`.
    #[must_use]
    pub const fn makes(self, part: u64) -> bool {
        part % self.count == self.index
    }

    /// The shard of the flag `--shard` (`I/N`, or `/N` with the index from the scheduler), or without the flag the one of a
    /// contiguous Slurm array, or None. `variable` looks up an environment variable.
    ///
    /// # Errors
    /// [`PlanError::Shard`] for malformed, out-of-range or contradictory values.
    pub fn resolve(
        flag: Option<&str>,
        variable: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, PlanError> {
        let number = |name: &'static str| -> Result<Option<u64>, PlanError> {
            let Some(text) = variable(name) else { return Ok(None) };
            let parsed = text.parse();
            parsed.map(Some).map_err(|_| PlanError::Shard(format!("{name} is {text:?}: expected a number")))
        };
        let Some(flag) = flag else {
            let Some(task) = number("SLURM_ARRAY_TASK_ID")? else { return Ok(None) };
            let fields =
                (number("SLURM_ARRAY_TASK_MIN")?, number("SLURM_ARRAY_TASK_MAX")?, number("SLURM_ARRAY_TASK_COUNT")?);
            return match fields {
                (Some(min), Some(max), Some(count)) if max + 1 == min + count && (min..=max).contains(&task) => {
                    Self::checked(task - min, count).map(Some)
                }
                _ => Err(PlanError::Shard(
                    "this is a Slurm array whose task ids are not contiguous, so the shard cannot be inferred\n\
                     hint: use --array=0-N without steps or gaps, or give --shard I/N"
                        .to_owned(),
                )),
            };
        };
        let malformed = || PlanError::Shard(format!("--shard {flag}: expected I/N with 0 <= I < N, as in 0/4, or /N"));
        let (index, count) = flag.split_once('/').ok_or_else(malformed)?;
        let count = count.parse().map_err(|_| malformed())?;
        let index = if index.is_empty() {
            match (number("JOB_COMPLETION_INDEX")?, number("AWS_BATCH_JOB_ARRAY_INDEX")?) {
                (Some(index), _) | (None, Some(index)) => index,
                (None, None) => {
                    return Err(PlanError::Shard(format!(
                        "--shard {flag}: neither JOB_COMPLETION_INDEX nor AWS_BATCH_JOB_ARRAY_INDEX is set\n\
                         hint: give the index, as in --shard 0/{count}"
                    )));
                }
            }
        } else {
            index.parse().map_err(|_| malformed())?
        };
        Self::checked(index, count).map(Some)
    }

    fn checked(index: u64, count: u64) -> Result<Self, PlanError> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(PlanError::Shard(format!("shard {index}/{count}: expected 0 <= I < N, counted from 0, as in 0/2 and 1/2")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Shard>, String> {
        let variable = |name: &'static str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Shard::resolve(flag, variable).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_and_schedulers() {
        let shard = |index, count| Ok(Some(Shard { index, count }));
        assert_eq!(resolve(None, &[]), Ok(None));
        assert_eq!(resolve(Some("2/5"), &[]), shard(2, 5));
        assert_eq!(resolve(Some("/5"), &[("JOB_COMPLETION_INDEX", "3")]), shard(3, 5));
        assert_eq!(resolve(Some("/5"), &[("AWS_BATCH_JOB_ARRAY_INDEX", "4")]), shard(4, 5));
        let slurm = |id, min, max, count| {
            [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_MAX", max),
                ("SLURM_ARRAY_TASK_COUNT", count),
            ]
        };
        assert_eq!(resolve(None, &slurm("3", "1", "4", "4")), shard(2, 4));
        assert!(resolve(None, &slurm("2", "0", "6", "4")).is_err(), "a stepped array");
        for wrong in ["5/5", "a/5", "1", "1/0", "/5", "-1/5"] {
            assert!(resolve(Some(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
