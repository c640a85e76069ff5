//! Thumbnails of rows of a view. Each row's picture is looked for where its own run read it, also if a compaction holds the row now.

use std::collections::BTreeMap;

use super::Thumbnail;
use super::input::{ImageInput, NAME_THE_JOB};
use super::picture_row::{CONTENT_HASH, PictureRow, RUN_SEQ};
use super::source::ImageFolder;
use crate::job::Job;
use crate::output::OutputError;
use crate::output::records::picture_source::PictureSource;
use crate::output::records::plan::load_plan;
use crate::output::view::{View, ViewPart};

/// Rows whose pictures are read together.
const CHUNK: usize = 1024;

/// Reads the pictures of rows. Keeps the keys of their manifests: 32 bytes for each manifest row.
pub struct ThumbnailReader {
    side: u32,
    runtime: tokio::runtime::Runtime,
    /// Opened manifests, or why one cannot be opened.
    folders: Vec<Result<ImageFolder, String>>,
    /// The folder of each run, by `run_seq`.
    of_run: BTreeMap<i64, usize>,
    /// That of the newest run whose records say where its pictures are.
    newest: Option<usize>,
}

impl ThumbnailReader {
    /// Opens the manifests of the runs of `view`, or that of `job`, which also says how storage is reached and what may be read.
    /// Thumbnails have at most `side` pixels on their longer side. A manifest that cannot be opened is no error here: its rows are
    /// [`Thumbnail::Unreadable`].
    ///
    /// # Errors
    /// [`OutputError`] when the records of OUTPUT cannot be read.
    pub fn open(view: &View, job: Option<&Job>, side: u32) -> Result<Self, OutputError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| OutputError::View { message: format!("cannot read images: {error}") })?;
        let open = |input: ImageInput| ImageFolder::open(input).map_err(|error| error.to_string());
        if let Some(job) = job {
            let folder = ImageInput::of_job(job).ok_or_else(|| "the job has no images".to_owned()).and_then(open);
            return Ok(Self { side, runtime, folders: vec![folder], of_run: BTreeMap::new(), newest: Some(0) });
        }
        let mut sources = Vec::new();
        for run in view.runs().iter().rev() {
            sources.extend(load_plan(view.store(), &run.run)?.picture_sources());
        }
        let sources = PictureSource::merged(sources);
        let runs = sources.iter().enumerate();
        let of_run = runs.flat_map(|(at, source)| source.run_seqs.iter().map(move |run| (*run, at))).collect();
        let newest = (!sources.is_empty()).then_some(0);
        let folders = sources.into_iter().map(|source| ImageInput::of_source(source).and_then(open)).collect();
        Ok(Self { side, runtime, folders, of_run, newest })
    }

    /// The thumbnails of `rows`, in their order.
    #[must_use]
    pub fn read(&self, rows: &[PictureRow]) -> Vec<Thumbnail> {
        let nowhere = format!("no record says where it was read\n{NAME_THE_JOB}");
        let mut found = vec![Thumbnail::Unreadable(nowhere); rows.len()];
        for start in (0..rows.len()).step_by(CHUNK) {
            let mut by_folder: BTreeMap<usize, Vec<(usize, &PictureRow)>> = BTreeMap::new();
            for (number, row) in rows.iter().enumerate().skip(start).take(CHUNK) {
                let folder = self.of_run.get(&row.run_seq).copied().or(self.newest);
                if let Some(folder) = folder {
                    by_folder.entry(folder).or_default().push((number, row));
                }
            }
            for (folder, rows) in by_folder {
                match &self.folders[folder] {
                    Ok(folder) => folder.read(&self.runtime, self.side, &rows, &mut found),
                    Err(why) => {
                        for (number, _) in &rows {
                            found[*number] = Thumbnail::Unreadable(why.clone());
                        }
                    }
                }
            }
        }
        found
    }

    /// The thumbnails of rows of `view`, given by their parts and numbers there, in their order.
    ///
    /// # Errors
    /// [`OutputError`] when the parts cannot be read, or have no such rows.
    pub fn read_places(&self, view: &View, places: &[(ViewPart, u32)]) -> Result<Vec<Thumbnail>, OutputError> {
        let mut by_part: BTreeMap<ViewPart, Vec<(usize, u32)>> = BTreeMap::new();
        let numbered = places.iter().enumerate();
        numbered.for_each(|(number, (part, row))| by_part.entry(*part).or_default().push((number, *row)));
        let mut rows = Vec::with_capacity(places.len());
        for (part, numbers) in by_part {
            let run = view.run_of(part);
            let columns = [run.key.as_str(), RUN_SEQ, CONTENT_HASH];
            let known = |name: &&str| view.schema().index_of(name).is_ok();
            let columns: Vec<&str> = columns.into_iter().filter(known).collect();
            let wanted: Vec<u32> = numbers.iter().map(|(_, row)| *row).collect();
            let batch = view.take(part, &wanted, &columns)?;
            let found = PictureRow::of_batch(&run.key, &batch)?;
            rows.extend(numbers.into_iter().map(|(number, _)| number).zip(found));
        }
        rows.sort_by_key(|(number, _)| *number);
        let rows: Vec<PictureRow> = rows.into_iter().map(|(_, row)| row).collect();
        Ok(self.read(&rows))
    }
}
