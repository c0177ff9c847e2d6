//! Settings of an agent: data, without the components that it runs on.

use std::time::Duration;

/// Settings of an agent. The defaults suit an object store on the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long the first byte of a segment waits for company before the segment is uploaded. Each halving doubles what
    /// PUTs cost: at 250 ms a busy agent pays for 4 PUTs a second, on S3 some 52 $ a month.
    pub flush_interval: Duration,
    /// A segment is uploaded at once when it has this many bytes.
    pub flush_bytes: usize,
    /// Bytes of produce requests that may be in the agent at once, from before they are read until they are answered.
    pub buffer_memory: usize,
    /// Bytes of segments that are kept for readers.
    pub cache_memory: usize,
    /// Segments that are uploaded at the same time, 1 or more.
    pub uploads_in_flight: usize,
    /// How long an upload is tried, from when its segment was closed.
    pub upload_deadline: Duration,
    /// How long one try of an upload may take.
    pub upload_try: Duration,
    /// How long the outcome of a commit is waited for.
    pub commit_deadline: Duration,
    /// How long one read of the object store may take.
    pub read_deadline: Duration,
    /// How long an administrative operation may take.
    pub admin_deadline: Duration,
    /// Whether producing to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// How many partitions such a topic gets.
    pub auto_create_partitions: u32,
    /// How long a shutdown may take to write what is buffered.
    pub drain_deadline: Duration,
    /// How old a connection of a client becomes before it is asked to make a new one, so that load spreads over agents that come.
    /// Should differ a little between agents, so that clients do not all come at once.
    pub connection_age: Duration,
    /// Where clients reach this agent, as far as it knows; for people who look at the cluster.
    pub clients_at: String,
    /// Limits of one fetch.
    pub fetch: FetchLimits,
}

/// What one fetch may ask for; more is cut down to this, not refused.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Bytes of batches in one answer.
    pub bytes_max: usize,
    /// How long it may wait.
    pub wait_max: Duration,
    /// Partitions named by one request; those beyond are refused by the front end.
    pub partitions_max: usize,
    /// Slices read for one answer: bounds the GETs that many tiny slices cost.
    pub slices_max: usize,
    /// Reads of the object store in flight for the newest records.
    pub tail_reads: usize,
    /// Reads of the object store in flight for older records. They have a pool of their own, so that somebody who reads
    /// a week of records does not slow down those who follow the end.
    pub cold_reads: usize,
    /// Bytes that are loaded at the same time, each for the newest records and for older ones; who needs more waits.
    pub load_memory: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(250),
            flush_bytes: 8 * 1024 * 1024,
            buffer_memory: 128 * 1024 * 1024,
            cache_memory: 128 * 1024 * 1024,
            uploads_in_flight: 4,
            upload_deadline: Duration::from_secs(20),
            upload_try: Duration::from_secs(8),
            commit_deadline: Duration::from_secs(20),
            read_deadline: Duration::from_secs(20),
            admin_deadline: Duration::from_secs(10),
            auto_create_topics: false,
            auto_create_partitions: 1,
            drain_deadline: Duration::from_secs(20),
            connection_age: Duration::from_secs(600),
            clients_at: String::new(),
            fetch: FetchLimits::default(),
        }
    }
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            bytes_max: 16 * 1024 * 1024,
            wait_max: Duration::from_secs(30),
            partitions_max: 10_000,
            slices_max: 256,
            tail_reads: 32,
            cold_reads: 8,
            load_memory: 64 * 1024 * 1024,
        }
    }
}
