//! The pictures of rows, for pages and terminals: thumbnails, or in words why there is none.

use std::cell::OnceCell;
use std::path::Path;

use crate::error::Error;
use crate::job::Job;
use crate::report::{Picture, Pictures};
use crate::thumbnails::{Thumbnail, ThumbnailReader};

/// The most pixels of a side on a page: about as wide as a card.
pub(super) const CARD: u32 = 288;

/// What gives the pictures of rows, with at most `side` pixels on their longer side. `job` says how their storage is reached and what may be read; without it, the plans of the runs do.
/// The manifests are opened once, for the runs of the first view.
pub(super) fn pictures(job: Option<&Path>, side: u32) -> Result<Box<Pictures<'static>>, Error> {
    let job = job.map(|job| Job::load(job, &[])).transpose()?;
    let reader = OnceCell::new();
    Ok(Box::new(move |view, places| {
        let opened =
            reader.get_or_init(|| ThumbnailReader::open(view, job.as_ref(), side).map_err(|error| error.to_string()));
        match opened {
            Ok(reader) => Ok(reader.read_places(view, places)?.into_iter().map(picture).collect()),
            // A page without pictures is better than none.
            Err(why) => Ok(vec![Picture::Missing(why.clone()); places.len()]),
        }
    }))
}

fn picture(thumbnail: Thumbnail) -> Picture {
    match thumbnail {
        Thumbnail::Jpeg(bytes) => Picture::Jpeg(bytes),
        Thumbnail::Gone => Picture::Missing("the image is no longer there".to_owned()),
        Thumbnail::Changed => Picture::Missing("the image has changed since".to_owned()),
        Thumbnail::Unreadable(why) => Picture::Missing(why),
    }
}
