//! What the tests share: a folder with a manifest, a job file, and a way to run it and look at the output.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use nightcap::onnx::Device;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnPath;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// More rows than a test of the engine has.
pub const BATCH: usize = 16;

/// A file of this repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where runs are made: on `NIGHTCAP_TEST_DEVICE`, such as `cuda:0`, on a machine that has one; on the processor otherwise.
pub fn device() -> String {
    std::env::var("NIGHTCAP_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned())
}

/// Where models are run: as runs are, but the processor takes the place of a GPU too.
pub fn devices() -> Vec<Device> {
    match device().parse().unwrap() {
        Device::Cpu => vec![Device::Cpu, Device::StandIn],
        device => vec![device],
    }
}

/// The binary under test, with nothing inherited that would change what it does.
pub fn nightcap() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nightcap"));
    for name in [
        "SLURM_ARRAY_TASK_ID",
        "JOB_COMPLETION_INDEX",
        "AWS_BATCH_JOB_ARRAY_INDEX",
        "NIGHTCAP_LOG",
        "NIGHTCAP_KILL_AT",
        "NIGHTCAP_STOP_AT",
        "NIGHTCAP_HEARTBEAT_SECONDS",
        "NIGHTCAP_PING_URL",
    ] {
        command.env_remove(name);
    }
    command
}

/// Starts `command`, which stops itself at `point` as if its machine were suspended there, and waits until it has.
pub fn stopped_at(command: &mut std::process::Command, point: &str) -> Child {
    try_stopped_at(command, point).unwrap_or_else(|ended| panic!("{point} was not reached: {ended:?}"))
}

/// The same for a place that `command` may not reach: then, how it ended.
pub fn try_stopped_at(command: &mut std::process::Command, point: &str) -> Result<Child, Output> {
    let child = command.env("NIGHTCAP_STOP_AT", point).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    loop {
        match state(&child) {
            'T' => return Ok(child),
            'Z' => return Err(child.wait_with_output().unwrap()),
            _ => assert!(started.elapsed() < Duration::from_mins(1), "{point} is not reached"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `command`, which kills itself at `point`.
pub fn killed_at(command: &mut std::process::Command, point: &str) {
    let ended = command.env("NIGHTCAP_KILL_AT", point).output().unwrap();
    assert_eq!(ended.status.code(), None, "{point} was not reached: {}", said(&ended));
}

/// What a command has said on stderr.
pub fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// The bytes of the part at `path` after a change of a column of vectors, which no decoder refuses, and after one within the footer; each
/// with the word that names it in a message.
pub fn changed_part(path: &Path) -> [(Vec<u8>, &'static str); 2] {
    let whole = std::fs::read(path).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let columns = reader.metadata().row_group(0).columns().iter();
    let vectors = columns.filter(|column| column.column_path().string().starts_with("image_embedding"));
    let (start, length) = vectors.last().unwrap().byte_range();
    [(start + length - 1, "`image_embedding`"), (whole.len() as u64 - 30, "footer")].map(|(at, name)| {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1;
        (bytes, name)
    })
}

/// Says that a test, or the rest of it, is skipped; where nothing may be skipped (`NIGHTCAP_NO_SKIP`), that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var("NIGHTCAP_NO_SKIP").is_err(), "nothing may be skipped here, but {why}");
    skip_anywhere(why);
}

/// As [`skip`], also where nothing else may be skipped: for what no registry has that the tests count on.
pub fn skip_anywhere(why: &str) {
    // Not by `println`, which is not shown for a test that passes. `make test` counts these lines.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    std::io::stdout().write_all(format!("skipped: {name}: {why}\n").as_bytes()).unwrap();
}

/// The state of a process that was not waited for: `T` stopped, `Z` ended, others at work.
pub fn state(child: &Child) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// Sends a signal to a process that was not waited for.
pub fn send(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
}

/// Lets a stopped process go on to its end.
pub fn go_on(child: Child) -> Output {
    send(&child, Signal::CONT);
    child.wait_with_output().unwrap()
}

/// Numbers that look random and are the same each time.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Different seeds give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        &these[self.below(these.len())]
    }
}

/// How many rounds a test that uses chance makes: `usual`, and `NIGHTCAP_TORTURE` times `each` in `make torture`.
pub fn rounds(usual: usize, each: usize) -> usize {
    std::env::var("NIGHTCAP_TORTURE").map_or(usual, |times| times.parse::<usize>().unwrap() * each)
}

/// Sends SIGKILL at random moments until `wanted` have hit a process in mid-work; one that ended before was not hit, and is
/// followed by earlier ones. `start` starts the process on the OUTPUT of this number, which is another one after it is complete;
/// `complete` lets that OUTPUT be completed and looks at it.
pub fn kill_at_random(
    seed: u64,
    wanted: usize,
    whole_run: Duration,
    start: impl Fn(usize) -> Child,
    complete: impl Fn(usize),
) {
    const A_ROUND: usize = 4;
    let (mut dice, mut within, mut hit) = (Dice::new(seed), whole_run, 0);
    for round in 0.. {
        assert!(round < 3 * wanted, "only {hit} of {wanted} kills have hit: {whole_run:?} a run, {within:?} at last");
        for _ in 0..A_ROUND {
            let mut child = start(round);
            std::thread::sleep(within.mul_f64(dice.below(1000) as f64 / 1000.0));
            // Ignored by a process that has ended and was not waited for.
            child.kill().unwrap();
            if child.wait().unwrap().code().is_none() {
                hit += 1;
            } else {
                within = within.mul_f64(0.8);
                break;
            }
        }
        complete(round);
        if hit >= wanted {
            println!("{hit} kills in mid-work, {round} outputs completed after the first");
            return;
        }
    }
}

/// Waits for a process; how it ended, and the most memory that it ever had (`VmHWM`), in bytes.
pub fn peak_memory(mut child: Child) -> (std::process::ExitStatus, u64) {
    let mut peak_kb = 0;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(peak_kb > 0, "the process ended before it was looked at");
            return (status, peak_kb * 1024);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kb = line.and_then(|kb| kb.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak_kb);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes the OUTPUT `to` of a workplace a copy of the OUTPUT `from`.
pub fn copy_output(workplace: &Workplace, from: &str, to: &str) {
    let _ = std::fs::remove_dir_all(workplace.path(to));
    let copied = std::process::Command::new("cp").arg("-a").args([from, to].map(|name| workplace.path(name))).status();
    assert!(copied.unwrap().success());
}

/// Makes the heartbeats of a run an hour old.
pub fn age_heartbeats(workplace: &Workplace, output: &str, run: &str) {
    let old = std::time::SystemTime::now() - Duration::from_hours(1);
    for entry in std::fs::read_dir(workplace.path(output).join("_nightcap/runs").join(run)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("heartbeat-") {
            std::fs::File::open(path).unwrap().set_modified(old).unwrap();
        }
    }
}

/// A small image that differs with `seed`, as PNG bytes.
pub fn png_image(seed: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let wave = |a: u32, b: u32| ((x * a + y * b + seed * 37) % 256) as u8;
        image::Rgb([wave(3 + seed % 7, 5), wave(11, 2 + seed % 5), wave(1 + seed % 3, 7 + seed % 11)])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(48, 40, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A column of strings, some null.
pub fn strings<S: AsRef<str>>(values: impl IntoIterator<Item = Option<S>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

/// Writes columns as a Parquet file with row groups of `group_rows`.
pub fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>, group_rows: usize) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let properties =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// All rows of a Parquet file.
pub fn read_parquet(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema: Arc<Schema> = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Replaces the rows of the part at `path`, as if nightcap had written these.
pub fn replace_part(path: &Path, columns: Vec<ArrayRef>, schema: &Schema) {
    let old = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let footer = old.metadata().file_metadata().key_value_metadata().unwrap().clone().into_iter();
    let own = |entry: &KeyValue| entry.key.starts_with("nightcap.") && entry.key != "nightcap.column_hashes";
    let mut properties = WriterProperties::builder().set_key_value_metadata(Some(footer.filter(own).collect()));
    for field in schema.fields() {
        if let DataType::FixedSizeList(element, _) = field.data_type() {
            let path = vec![field.name().clone(), "list".to_owned(), element.name().clone()];
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(path), false);
        }
    }
    let properties = properties.build();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(schema.fields().clone())), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.flush().unwrap();
    writer.sync().unwrap();
    let hashes = writer.flushed_row_groups()[0].columns().iter().map(|column| {
        let (start, length) = column.byte_range();
        blake3::hash(&writer.inner()[start as usize..(start + length) as usize]).to_hex()[..32].to_owned()
    });
    let hashes = hashes.collect::<Vec<_>>().join(" ");
    writer.append_key_value_metadata(KeyValue::new("nightcap.column_hashes".to_owned(), hashes));
    std::fs::write(path, writer.into_inner().unwrap()).unwrap();
}

/// A temporary folder with `manifest.parquet` and `job.toml`, writing to `out`.
pub struct Workplace {
    pub folder: TempDir,
}

impl Workplace {
    /// An empty one.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// `rows` images in files, every third row with a title, in parts of `part_rows`.
    pub fn with_images(rows: u32, part_rows: u32) -> Self {
        let workplace = Self::new();
        std::fs::create_dir(workplace.path("photos")).unwrap();
        for row in 0..rows {
            std::fs::write(workplace.path(&format!("photos/{row}.png")), png_image(row)).unwrap();
        }
        workplace.manifest(0..rows);
        workplace.job(&format!(
            "[input]\nmanifest = \"manifest.parquet\"\nkey = \"id\"\nimage = \"image\"\ntext = \"title\"\n\
             [model]\npath = \"{}\"\n[output]\npath = \"out\"\npart_rows = {part_rows}\n\
             [runtime]\nbatch_size = 4\nthreads = 1\n",
            repo("tests/fixtures/tiny_model").display()
        ));
        workplace
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `manifest.parquet` with these of the images.
    pub fn manifest(&self, rows: std::ops::Range<u32>) {
        let columns = vec![
            ("id", strings(rows.clone().map(|row| Some(format!("row-{row:04}"))))),
            ("image", strings(rows.clone().map(|row| Some(format!("photos/{row}.png"))))),
            ("title", strings(rows.map(|row| (row % 3 == 0).then(|| format!("a dog on the beach {row}"))))),
        ];
        write_parquet(&self.path("manifest.parquet"), columns, 16);
    }

    /// Writes `job.toml`.
    pub fn job(&self, text: &str) {
        std::fs::write(self.path("job.toml"), text).unwrap();
    }

    /// A command on `job.toml`.
    pub fn command(&self, name: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = nightcap();
        command.arg(name).arg(self.path("job.toml")).args(arguments);
        command
    }

    /// Runs the job and says how it ended.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command("run", arguments).output().unwrap()
    }

    /// Runs the job, which must succeed.
    pub fn run_ok(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The ids of published runs, oldest first.
    pub fn published(&self, output: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(output).join("_nightcap/published")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // A killed put may leave its staging file, `name.json#1`, which no reader takes for a record.
        let names = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
        let mut runs: Vec<(i64, String)> = names
            .map(|run| {
                let record = self.path(output).join(format!("_nightcap/published/{run}.json"));
                let record: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
                (record["run_seq"].as_i64().unwrap(), run)
            })
            .collect();
        runs.sort();
        runs.into_iter().map(|(_, run)| run).collect()
    }

    /// Publishes a run again whose parts a test has replaced.
    pub fn publish_again(&self, output: &str, run: &str) {
        std::fs::remove_file(self.path(output).join(format!("_nightcap/published/{run}.json"))).unwrap();
        let ended = nightcap().arg("finalize").arg(self.path(output)).args(["--run-id", run]).output().unwrap();
        assert!(ended.status.code() != Some(2), "{}", String::from_utf8_lossy(&ended.stderr));
    }

    /// The parts of a run by name.
    pub fn parts(&self, output: &str, run: &str) -> Vec<(String, Vec<u8>)> {
        let folder = self.path(output).join(format!("run={run}"));
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut parts: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
            .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
            .collect();
        parts.sort();
        parts
    }

    /// All rows of a published run, which must be the only one when `run` is None.
    pub fn rows(&self, output: &str, run: Option<&str>) -> Rows {
        let published = self.published(output);
        let run = run.unwrap_or_else(|| {
            assert_eq!(published.len(), 1, "one published run");
            &published[0]
        });
        let folder = self.path(output).join(format!("run={run}"));
        let batches: Vec<_> =
            self.parts(output, run).iter().map(|(name, _)| read_parquet(&folder.join(name))).collect();
        Rows(concat_batches(&batches[0].schema(), &batches).unwrap())
    }
}

/// Rows of the output by column.
pub struct Rows(pub RecordBatch);

impl Rows {
    pub fn len(&self) -> usize {
        self.0.num_rows()
    }

    pub fn column(&self, name: &str) -> &ArrayRef {
        self.0.column_by_name(name).unwrap_or_else(|| panic!("no column {name} in {:?}", self.0.schema()))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.column_by_name(name).is_some()
    }

    /// A string column.
    pub fn text(&self, name: &str) -> Vec<Option<String>> {
        self.column(name).as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
    }

    /// An f32 vector column.
    pub fn vectors(&self, name: &str) -> Vec<Option<Vec<f32>>> {
        let list: &FixedSizeListArray = self.column(name).as_fixed_size_list();
        (0..list.len())
            .map(|row| {
                list.is_valid(row).then(|| {
                    let values = list.value(row);
                    values.as_any().downcast_ref::<Float32Array>().unwrap().values().to_vec()
                })
            })
            .collect()
    }
}

/// The largest difference between two columns of vectors, which must be null in the same rows.
pub fn largest_difference(a: &[Option<Vec<f32>>], b: &[Option<Vec<f32>>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut largest = 0.0f32;
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.is_some(), b.is_some());
        for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
            largest = largest.max((a - b).abs());
        }
    }
    largest
}
