//! How long each stage worked and waited, which shows what to tune.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counts::Counts;

/// The counters of one stage, added to from any thread.
#[derive(Debug, Default)]
pub struct Meter {
    busy_ns: AtomicU64,
    wait_input_ns: AtomicU64,
    wait_output_ns: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    /// Runs `work` and counts its time as work.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        timed(&self.busy_ns, work)
    }

    /// Runs `wait` and counts its time as waiting for the stage before.
    pub fn waiting_for_input<T>(&self, wait: impl FnOnce() -> T) -> T {
        timed(&self.wait_input_ns, wait)
    }

    /// Runs `wait` and counts its time as waiting for the stage after.
    pub fn waiting_for_output<T>(&self, wait: impl FnOnce() -> T) -> T {
        timed(&self.wait_output_ns, wait)
    }

    /// Awaits `work` and counts its time as work.
    pub async fn busy_async<T>(&self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let outcome = work.await;
        add(&self.busy_ns, start.elapsed());
        outcome
    }

    /// Awaits `wait` and counts its time as waiting for the stage after.
    pub async fn waiting_for_output_async<T>(&self, wait: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let outcome = wait.await;
        add(&self.wait_output_ns, start.elapsed());
        outcome
    }

    /// Counts bytes of the stage's output.
    pub fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn timed<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = work();
    add(counter, start.elapsed());
    outcome
}

fn add(counter: &AtomicU64, elapsed: Duration) {
    counter.fetch_add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// The meters of every stage of one run.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Manifest rows read.
    pub manifest: Meter,
    /// Image bytes read; its time is the sum over concurrent reads.
    pub fetch: Meter,
    /// Pixels prepared; its time is the sum over threads.
    pub preprocess: Meter,
    /// Encoders, fusion and decoder.
    pub model: Meter,
    /// Parts encoded and put.
    pub write: Meter,
    /// How long the graphs of the model stage ran.
    run_ns: AtomicU64,
    runs: AtomicU64,
    bytes_to_device: AtomicU64,
    bytes_to_host: AtomicU64,
    copied_rows: AtomicU64,
    parts: Mutex<PartTotals>,
}

/// What finished parts add up to.
#[derive(Debug, Clone, Default)]
pub struct PartTotals {
    /// Parts.
    pub parts: u64,
    /// Their rows.
    pub counts: Counts,
    /// How often a batch was halved.
    pub halved: u64,
}

/// One stage's counters in seconds and bytes.
#[derive(Debug, Clone, Copy)]
pub struct StageTimes {
    /// Its name.
    pub stage: &'static str,
    /// Working; the sum over concurrent work.
    pub busy_s: f64,
    /// Waiting for the stage before.
    pub wait_input_s: f64,
    /// Waiting for the stage after.
    pub wait_output_s: f64,
    /// Bytes of output.
    pub bytes: u64,
}

/// What the model waited for, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct ModelWaits {
    /// For pixels: the stages before it.
    pub pixels_s: f64,
    /// For the host: work between two runs of graphs, and parts that wait to be written.
    pub host_s: f64,
    /// For nothing: graphs ran.
    pub nothing_s: f64,
}

/// What crossed between the memory of the host and those of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTraffic {
    /// Runs of graphs.
    pub runs: u64,
    /// Bytes that went to devices.
    pub bytes_to_device: u64,
    /// Bytes that came from devices.
    pub bytes_to_host: u64,
}

impl Metrics {
    /// Counts what crossed between host and device.
    pub fn add_device_traffic(&self, traffic: DeviceTraffic) {
        let DeviceTraffic { runs, bytes_to_device, bytes_to_host } = traffic;
        self.runs.fetch_add(runs, Ordering::Relaxed);
        self.bytes_to_device.fetch_add(bytes_to_device, Ordering::Relaxed);
        self.bytes_to_host.fetch_add(bytes_to_host, Ordering::Relaxed);
    }

    /// What crossed between host and devices; `None` without a device that has a memory of its own.
    #[must_use]
    pub fn device_traffic(&self) -> Option<DeviceTraffic> {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (runs, bytes_to_device) = (number(&self.runs), number(&self.bytes_to_device));
        (bytes_to_device > 0).then(|| DeviceTraffic {
            runs,
            bytes_to_device,
            bytes_to_host: number(&self.bytes_to_host),
        })
    }

    /// Counts time in which graphs of the model stage ran.
    pub fn add_run_time(&self, time: Duration) {
        add(&self.run_ns, time);
    }

    /// What the model waited for.
    #[must_use]
    pub fn model_waits(&self) -> ModelWaits {
        let seconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1e9;
        let Meter { busy_ns, wait_input_ns, wait_output_ns, .. } = &self.model;
        let nothing_s = seconds(&self.run_ns);
        let host_s = (seconds(busy_ns) + seconds(wait_output_ns) - nothing_s).max(0.0);
        ModelWaits { pixels_s: seconds(wait_input_ns), host_s, nothing_s }
    }

    /// Counts rows whose results were copied from earlier runs.
    pub fn add_copied_rows(&self, rows: usize) {
        self.copied_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Rows whose results were copied from earlier runs.
    #[must_use]
    pub fn copied_rows(&self) -> u64 {
        self.copied_rows.load(Ordering::Relaxed)
    }

    /// Counts a part that is in OUTPUT.
    pub fn add_part(&self, counts: &Counts, halved: u32) {
        let mut totals = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        totals.parts += 1;
        totals.counts.add(counts);
        totals.halved += u64::from(halved);
    }

    /// What the parts in OUTPUT add up to, of those that this process has made.
    #[must_use]
    pub fn parts(&self) -> PartTotals {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stages in the order of the data.
    #[must_use]
    pub fn stages(&self) -> [StageTimes; 5] {
        let seconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / 1e9;
        let times = |stage, meter: &Meter| StageTimes {
            stage,
            busy_s: seconds(&meter.busy_ns),
            wait_input_s: seconds(&meter.wait_input_ns),
            wait_output_s: seconds(&meter.wait_output_ns),
            bytes: meter.bytes.load(Ordering::Relaxed),
        };
        [
            times("manifest", &self.manifest),
            times("fetch", &self.fetch),
            times("preprocess", &self.preprocess),
            times("model", &self.model),
            times("write", &self.write),
        ]
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "stage         busy s   waiting for input s   waiting for output s    MB out")?;
        for StageTimes { stage, busy_s, wait_input_s, wait_output_s, bytes } in self.stages() {
            let megabytes = bytes as f64 / 1e6;
            writeln!(f, "{stage:<11} {busy_s:>8.2} {wait_input_s:>21.2} {wait_output_s:>22.2} {megabytes:>9.1}")?;
        }
        let ModelWaits { pixels_s, host_s, nothing_s } = self.model_waits();
        writeln!(
            f,
            "the model waited {pixels_s:.2} s for pixels, {host_s:.2} s for the host, and ran for {nothing_s:.2} s"
        )?;
        if let Some(DeviceTraffic { runs, bytes_to_device, bytes_to_host }) = self.device_traffic() {
            let [to_device, to_host] = [bytes_to_device, bytes_to_host].map(|bytes| bytes as f64 / 1e6);
            writeln!(f, "its {runs} runs took {to_device:.1} MB from the host and gave {to_host:.1} MB back")?;
        }
        Ok(())
    }
}
