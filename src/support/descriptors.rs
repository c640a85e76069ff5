//! The file descriptors of this process. Too few of them would look like images and storage that fail.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The fewest with which a command starts: logging, the storage, a model's files and the images of one lane at once.
const LEAST: u64 = 96;

/// Raises the soft limit to the hard one, and checks that it is enough.
///
/// # Errors
/// What was expected, what was found and what to do.
pub(crate) fn raise() -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where that is refused, the soft limit stays.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    match getrlimit(Resource::Nofile).current {
        Some(found) if found < LEAST => Err(format!(
            "expected at least {LEAST} file descriptors for this process, found a limit of {found}\nhint: raise it, as with `ulimit -n 1024`"
        )),
        _ => Ok(()),
    }
}

/// Whether `error`, or a cause of it, says that this process or machine ran out of descriptors or memory: then whatever was tried
/// is not at fault.
pub(crate) fn is_exhausted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(is_of_process))
}

fn is_of_process(error: &io::Error) -> bool {
    let inner = || error.get_ref().is_some_and(|inner| is_exhausted(inner));
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN))
        || inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_resources_counts() {
        let lack = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(is_exhausted(&lack));
        let nested = object_store::Error::Generic { store: "disk", source: io::Error::other(lack).into() };
        assert!(is_exhausted(&nested));
        for other in [libc::EACCES, libc::ENOENT, libc::EIO] {
            assert!(!is_exhausted(&io::Error::from_raw_os_error(other)));
        }
    }
}
