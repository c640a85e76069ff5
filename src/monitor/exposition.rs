//! Metrics in the classic text format of Prometheus (version 0.0.4), which promtool and the node exporter's textfile collector read.
//! Names and units follow <https://prometheus.io/docs/practices/naming/>.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, Result, TextEncoder};

use super::observed::{Observed, RunProgress};
use crate::support::metrics::{DeviceTraffic, Metrics, ModelWaits, PartTotals, StageTimes};
use crate::support::nvidia_smi::GpuMemory;

/// The metric that is carried from file to file, with the prefix.
pub(super) const LAST_SUCCESS: &str = "nightcap_last_success_timestamp_seconds";

/// The text of `observed`; `labels` are those of every metric, `last_success` is in seconds since 1970.
pub(super) fn text(observed: &Observed, labels: &HashMap<String, String>, last_success: Option<f64>) -> Result<String> {
    let page = Page { registry: Registry::new(), labels };
    let started = observed.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    page.gauge("start_timestamp_seconds", "When the command started, since 1970.", "", [("", started)])?;
    page.gauge(
        "running",
        "1 while the command runs, 0 when it has ended.",
        "",
        [("", f64::from(u8::from(observed.status.is_none())))],
    )?;
    if let Some(status) = observed.status {
        page.gauge(
            "exit_status",
            "Exit status of the command: 0 done, 1 too many rows failed, 2 refused, 75 stopped.",
            "",
            [("", f64::from(status))],
        )?;
    }
    if let Some(last) = last_success {
        page.gauge(
            "last_success_timestamp_seconds",
            "When the command last ended with status 0, since 1970.",
            "",
            [("", last)],
        )?;
    }
    if let Some(run) = &observed.run {
        page.run(run, observed.started.elapsed().as_secs_f64())?;
    }
    if !observed.gpus.is_empty() {
        page.gpu_memory(&observed.gpus)?;
    }
    TextEncoder::new().encode_to_string(&page.registry.gather())
}

/// The metrics of one file.
struct Page<'a> {
    registry: Registry,
    /// Those of every metric.
    labels: &'a HashMap<String, String>,
}

impl Page<'_> {
    fn gpu_memory(&self, gpus: &[GpuMemory]) -> Result<()> {
        let of = |bytes: fn(&GpuMemory) -> u64| gpus.iter().map(move |gpu| (gpu.gpu.as_str(), bytes(gpu) as f64));
        self.gauge(
            "gpu_memory_used_bytes",
            "Memory that all processes use on a GPU of this machine, by its number in nvidia-smi.",
            "gpu",
            of(|gpu| gpu.used_bytes),
        )?;
        self.gauge(
            "gpu_memory_total_bytes",
            "Memory of a GPU of this machine, by its number in nvidia-smi.",
            "gpu",
            of(|gpu| gpu.total_bytes),
        )
    }

    fn run(&self, run: &RunProgress, elapsed_s: f64) -> Result<()> {
        self.gauge("run_info", "1; the run that the command works on.", "run", [(run.run.as_str(), 1.0)])?;
        self.gauge("planned_rows", "Rows that the command is to make.", "", [("", run.planned_rows as f64)])?;
        self.gauge("planned_parts", "Parts that the command is to make.", "", [("", run.planned_parts as f64)])?;
        if let Some(metrics) = &run.metrics {
            self.stages(metrics)?;
        }
        let made = run.metrics.as_ref().map(|metrics| metrics.parts()).unwrap_or_default();
        self.counter("parts_total", "Parts put into OUTPUT by this command.", "", [("", made.parts as f64)])?;
        self.counter(
            "halved_batches_total",
            "Batches that were halved, because memory ran out or a run failed.",
            "",
            [("", made.halved as f64)],
        )?;
        let PartTotals { counts, .. } = &made;
        self.gauge(
            "rows_per_second",
            "Rows in finished parts, by the time since the start.",
            "",
            [("", counts.rows as f64 / elapsed_s.max(1e-3))],
        )?;
        let counts = run.published.as_ref().unwrap_or(counts);
        self.counter(
            "rows_total",
            "Rows in finished parts.",
            "status",
            [("ok", counts.ok as f64), ("failed", counts.failed as f64)],
        )?;
        let kinds = counts.failures.iter().map(|(kind, rows)| (kind.as_str(), *rows as f64));
        self.counter("failed_rows_total", "Failed rows in finished parts, by error_kind.", "kind", kinds)?;
        let captions = [("empty", counts.empty_captions as f64), ("repeating", counts.repeating_captions as f64)];
        self.counter(
            "odd_captions_total",
            "Captions in finished parts that are empty or repeat themselves.",
            "kind",
            captions,
        )
    }

    fn stages(&self, metrics: &Metrics) -> Result<()> {
        let stages = metrics.stages();
        let of = |value: fn(&StageTimes) -> f64| stages.iter().map(move |times| (times.stage, value(times)));
        self.counter(
            "stage_busy_seconds_total",
            "Time that a stage worked, summed over its threads.",
            "stage",
            of(|times| times.busy_s),
        )?;
        self.counter(
            "stage_wait_input_seconds_total",
            "Time that a stage waited for the one before.",
            "stage",
            of(|times| times.wait_input_s),
        )?;
        self.counter(
            "stage_wait_output_seconds_total",
            "Time that a stage waited for the one after.",
            "stage",
            of(|times| times.wait_output_s),
        )?;
        self.counter(
            "stage_bytes_total",
            "Bytes that a stage gave to the one after.",
            "stage",
            of(|times| times.bytes as f64),
        )?;
        let ModelWaits { pixels_s, host_s, nothing_s } = metrics.model_waits();
        self.counter(
            "model_seconds_total",
            "Time of the model, by what it waited for; nothing: its graphs ran.",
            "waited_for",
            [("pixels", pixels_s), ("host", host_s), ("nothing", nothing_s)],
        )?;
        if let Some(DeviceTraffic { bytes_to_device, bytes_to_host, .. }) = metrics.device_traffic() {
            self.counter(
                "device_bytes_total",
                "Bytes that crossed between the memory of the host and those of GPUs.",
                "to",
                [("device", bytes_to_device as f64), ("host", bytes_to_host as f64)],
            )?;
        }
        self.counter(
            "copied_rows_total",
            "Rows copied from earlier runs by content.",
            "",
            [("", metrics.copied_rows() as f64)],
        )
    }

    fn gauge<'v>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) -> Result<()> {
        let gauge = GaugeVec::new(self.named(name, help), &of(label, label))?;
        values.into_iter().for_each(|(value, number)| gauge.with_label_values(&of(label, value)).set(number));
        self.add(gauge)
    }

    fn counter<'v>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) -> Result<()> {
        let counter = CounterVec::new(self.named(name, help), &of(label, label))?;
        values.into_iter().for_each(|(value, number)| counter.with_label_values(&of(label, value)).inc_by(number));
        self.add(counter)
    }

    fn named(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("nightcap").const_labels(self.labels.clone())
    }

    fn add(&self, metric: impl Collector + 'static) -> Result<()> {
        self.registry.register(Box::new(metric))
    }
}

/// The values of a metric's labels: `value`, or none if `label` is empty.
fn of<'a>(label: &str, value: &'a str) -> Vec<&'a str> {
    if label.is_empty() { Vec::new() } else { vec![value] }
}
