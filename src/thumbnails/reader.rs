//! Thumbnails of rows of a view. Each row's picture is looked for where its own run read it; those of a compaction, and of runs whose plan
//! is gone, where the newest run did.

use std::collections::BTreeMap;

use super::Thumbnail;
use super::input::{ImageInput, NAME_THE_JOB};
use super::picture_row::{CONTENT_HASH, PictureRow};
use super::source::ImageFolder;
use crate::job::Job;
use crate::output::OutputError;
use crate::output::records::plan::{Plan, load_plan};
use crate::output::view::{View, ViewPart};

/// Rows whose pictures are read together.
const CHUNK: usize = 1024;

/// Reads the pictures of rows. Keeps the keys of their manifests: 32 bytes for each manifest row.
pub struct ThumbnailReader {
    side: u32,
    runtime: tokio::runtime::Runtime,
    /// Opened manifests, or why one cannot be opened.
    folders: Vec<Result<ImageFolder, String>>,
    /// The folder of each run.
    of_run: BTreeMap<String, usize>,
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
        // Of every manifest, the plans of the runs that read it, newest first.
        let mut inputs: Vec<Vec<Plan>> = Vec::new();
        let mut of_run = BTreeMap::new();
        for run in view.runs().iter().rev().filter(|run| run.supersedes.is_empty()) {
            let plan = load_plan(view.store(), &run.run)?;
            let input = |plan: &Plan| {
                plan.identity
                    .get("input")
                    .map(|input| (input["manifest"].clone(), input["key"].clone(), input["image"].clone()))
            };
            let at = inputs.iter().position(|plans| plans.first().map(input) == Some(input(&plan)));
            let at = at.unwrap_or_else(|| {
                inputs.push(Vec::new());
                inputs.len() - 1
            });
            of_run.insert(run.run.clone(), at);
            inputs[at].push(plan);
        }
        let newest = (!inputs.is_empty()).then_some(0);
        let folders = inputs.iter().map(|plans| ImageInput::of_plans(plans).and_then(open)).collect();
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
                let folder = self.of_run.get(&row.run).copied().or(self.newest);
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
            let columns = [run.key.as_str(), CONTENT_HASH];
            let known = |name: &&str| view.schema().index_of(name).is_ok();
            let columns: Vec<&str> = columns.into_iter().filter(known).collect();
            let wanted: Vec<u32> = numbers.iter().map(|(_, row)| *row).collect();
            let batch = view.take(part, &wanted, &columns)?;
            let found = PictureRow::of_batch(&run.run, &run.key, &batch)?;
            rows.extend(numbers.into_iter().map(|(number, _)| number).zip(found));
        }
        rows.sort_by_key(|(number, _)| *number);
        let rows: Vec<PictureRow> = rows.into_iter().map(|(_, row)| row).collect();
        Ok(self.read(&rows))
    }
}
