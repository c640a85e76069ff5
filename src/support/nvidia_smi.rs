//! What NVIDIA's `nvidia-smi` says of the machine's GPUs. Out: its answer as text, or the memory of each GPU.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that it may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
const PROGRAM: &str = "nvidia-smi";

/// The memory of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GpuMemory {
    /// Its number among the machine's GPUs.
    pub(crate) gpu: String,
    /// Bytes that all processes use.
    pub(crate) used_bytes: u64,
    /// Bytes that it has.
    pub(crate) total_bytes: u64,
}

/// The answer to `--query-gpu=FIELDS --format=FORMAT`.
///
/// # Errors
/// A message, when it is not installed, fails, or does not answer in time.
pub(crate) fn query(fields: &str, format: &str) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    command
        .args([format!("--query-gpu={fields}"), format!("--format={format}")])
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|_| format!("{PROGRAM} is not installed"))?;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(Some(status)) => return Err(format!("{PROGRAM} ended with {status}")),
            Ok(None) if started.elapsed() < TIME_LIMIT => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                // It may have ended by itself.
                let _ = child.kill();
                return Err(format!("{PROGRAM} did not answer within {} s", TIME_LIMIT.as_secs()));
            }
        }
    }
    child
        .stdout
        .take()
        .map(std::io::read_to_string)
        .and_then(Result::ok)
        .ok_or_else(|| format!("{PROGRAM} said nothing readable"))
}

/// The memory of each GPU; empty when nothing can be learned.
pub(crate) fn memory() -> Vec<GpuMemory> {
    let answer = query("index,memory.used,memory.total", "csv,noheader,nounits").unwrap_or_default();
    answer.lines().filter_map(of_line).collect()
}

/// `3, 1024, 81559`: the number of the GPU, and mebibytes.
fn of_line(line: &str) -> Option<GpuMemory> {
    let mut fields = line.split(',').map(str::trim);
    let gpu = fields.next()?.to_owned();
    let mut bytes = || fields.next()?.parse::<u64>().ok()?.checked_mul(1 << 20);
    Some(GpuMemory { gpu, used_bytes: bytes()?, total_bytes: bytes()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mebibytes_become_bytes_and_gpus_without_figures_are_left_out() {
        let of = |gpu: &str, used_bytes, total_bytes| Some(GpuMemory { gpu: gpu.to_owned(), used_bytes, total_bytes });
        assert_eq!(of_line("0, 3, 143771"), of("0", 3 << 20, 143_771 << 20));
        // a GPU that is divided (MIG), or one that was lost
        assert_eq!(of_line("1, [N/A], [N/A]"), None);
        assert_eq!(of_line("No devices were found"), None);
    }
}
