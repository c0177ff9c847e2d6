//! The measured part of a run, and what came out of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cpu::Process;
use super::histogram::Percentiles;
use crate::failure::{Exit, Failure};
use crate::output::{Listing, json_lines};

const MIB: f64 = 1024.0 * 1024.0;
/// How often a run looks whether it has reached its number of records.
const LOOK: Duration = Duration::from_millis(5);

/// What the connections of a run have done so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records acknowledged or read.
    pub records: AtomicU64,
    /// Their bytes: values, before compression. Batches that are read compressed count as they are.
    pub bytes: AtomicU64,
    /// Bytes of payload on the wire.
    pub wire_bytes: AtomicU64,
    /// Whether latencies count now.
    pub measuring: AtomicBool,
}

impl Counters {
    /// Counts some records.
    pub fn add(&self, records: u64, bytes: u64, wire_bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.wire_bytes.fetch_add(wire_bytes, Ordering::Relaxed);
    }

    fn look(&self) -> (u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.records), load(&self.bytes), load(&self.wire_bytes))
    }
}

/// How long a run takes, and whose CPU time is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct WindowArgs {
    /// How long is measured
    #[arg(long, value_parser = crate::size::parse_duration, default_value = "10s", value_name = "DURATION")]
    pub duration: Duration,
    /// How long the load runs before that
    #[arg(long, value_parser = crate::size::parse_duration, default_value = "2s", value_name = "DURATION")]
    pub warm_up: Duration,
    /// End after so many records, if that is earlier
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
    /// Process id of the agent, whose CPU time is then measured, too; of several agents, divided by commas
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,
    #[command(flatten)]
    pub listing: Listing,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Length of the measured part.
    pub seconds: f64,
    /// Records in it.
    pub records: u64,
    /// Records a second.
    pub records_per_second: f64,
    /// MiB of their values.
    pub mib: f64,
    /// MiB a second.
    pub mib_per_second: f64,
    /// MiB of payload on the wire.
    pub wire_mib: f64,
    /// CPU-seconds of the agent, or of all agents.
    pub agent_cpu_seconds: Option<f64>,
    /// MiB for each of them.
    pub mib_per_agent_cpu_second: Option<f64>,
    /// CPU-seconds of this process.
    pub client_cpu_seconds: Option<f64>,
}

/// Runs the warm-up and the measured part while the load runs elsewhere. Ends early with what failed.
pub async fn measure(
    args: &WindowArgs,
    counters: &Counters,
    stop: &CancellationToken,
) -> Result<Measured, Failure> {
    let agents = args.pid.iter().map(|pid| Process::with_id(*pid)).collect::<Result<Vec<_>, _>>()?;
    // All together; unknown if one of them has gone.
    let cpu = || (!agents.is_empty()).then(|| agents.iter().map(Process::cpu_seconds).sum()).flatten();
    let own = Process::own();
    tokio::select! {
        biased;
        () = stop.cancelled() => return Err(ended()),
        () = tokio::time::sleep(args.warm_up) => {}
    }
    let (agent_before, own_before) = (cpu(), own.cpu_seconds());
    let (before, begin) = (counters.look(), Instant::now());
    counters.measuring.store(true, Ordering::Relaxed);
    let is_enough = || args.records.is_some_and(|records| counters.look().0 - before.0 >= records);
    while begin.elapsed() < args.duration && !is_enough() {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(ended()),
            () = tokio::time::sleep(LOOK.min(args.duration.saturating_sub(begin.elapsed()))) => {}
        }
    }
    counters.measuring.store(false, Ordering::Relaxed);
    let (after, seconds) = (counters.look(), begin.elapsed().as_secs_f64());
    let used = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    let agent_cpu_seconds = used(agent_before, cpu());
    let mib = float(after.1 - before.1) / MIB;
    let records = after.0 - before.0;
    Ok(Measured {
        seconds,
        records,
        records_per_second: float(records) / seconds,
        mib,
        mib_per_second: mib / seconds,
        wire_mib: float(after.2 - before.2) / MIB,
        agent_cpu_seconds,
        mib_per_agent_cpu_second: agent_cpu_seconds.filter(|cpu| *cpu > 0.0).map(|cpu| mib / cpu),
        client_cpu_seconds: used(own_before, own.cpu_seconds()),
    })
}

/// The load ended before its time; what ended it is reported by whoever ran it.
fn ended() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}

#[expect(clippy::cast_precision_loss, reason = "for people; 2^53 bytes are 8 PiB")]
fn float(number: u64) -> f64 {
    number as f64
}

/// A result for people or programs.
#[derive(Debug, Serialize)]
pub struct ResultRow {
    /// Which bench.
    pub bench: &'static str,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// Milliseconds from sending to the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledge_ms: Option<Percentiles>,
    /// Milliseconds from sending until a consumer has the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_ms: Option<Percentiles>,
}

/// Writes a result to standard output.
pub fn report(row: &ResultRow, listing: Listing) -> Result<(), Failure> {
    if listing.is_json() {
        return json_lines([row]);
    }
    let measured = &row.measured;
    let mut lines = vec![
        format!("{} for {:.1} s", row.bench, measured.seconds),
        format!(
            "throughput  {:.1} MiB/s, {:.0} records/s ({:.1} MiB, {} records)",
            measured.mib_per_second, measured.records_per_second, measured.mib, measured.records
        ),
    ];
    for (name, latency) in [("acknowledge", row.acknowledge_ms), ("deliver", row.deliver_ms)] {
        if let Some(ms) = latency {
            lines.push(format!(
                "{name:<11} p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
                ms.p50, ms.p90, ms.p99, ms.p99_9, ms.max
            ));
        }
    }
    if let (Some(cpu), Some(rate)) = (measured.agent_cpu_seconds, measured.mib_per_agent_cpu_second) {
        lines.push(format!("agent       {cpu:.2} CPU-seconds, {rate:.0} MiB per CPU-second"));
    }
    if let Some(cpu) = measured.client_cpu_seconds {
        lines.push(format!("client      {cpu:.2} CPU-seconds"));
    }
    let text = lines.join("\n") + "\n";
    use std::io::Write;
    crate::output::written(std::io::stdout().write_all(text.as_bytes()))
}
