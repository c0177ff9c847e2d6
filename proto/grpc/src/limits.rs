//! Message sizes that both sides set, because tonic's defaults (4 MiB to decode, no bound to encode) fit neither.

/// Largest request message in bytes, decompressed: for `max_decoding_message_size` of servers and `max_encoding_message_size` of clients.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of records in one response of Fetch or one message of Subscribe, as far as they can be divided.
pub const FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest response message in bytes: for `max_decoding_message_size` of clients and `max_encoding_message_size` of servers. The double of
/// [`FETCH_BYTES_MAX`]: around the records are offsets and names, and one record or batch may exceed that limit.
pub const RESPONSE_BYTES_MAX: usize = 2 * FETCH_BYTES_MAX;

/// Partitions that one request may name: as many as a segment may hold slices.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 2_000;

/// Longest `client_id` in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 249;

/// Topics in one page of ListTopics.
pub const PAGE_SIZE_MAX: usize = 1_000;

/// Topics in one page of ListTopics if the request does not say.
pub const PAGE_SIZE_DEFAULT: usize = 100;

/// Milliseconds that Fetch waits at most: below the idle time-outs of common balancers (60 s).
pub const FETCH_WAIT_MS_MAX: u32 = 30_000;

/// Milliseconds that Fetch waits if the request does not say.
pub const FETCH_WAIT_MS_DEFAULT: u32 = 500;

/// Bytes that Fetch waits for if the request does not say.
pub const FETCH_MIN_BYTES_DEFAULT: u32 = 1;

/// Milliseconds between heartbeats of Subscribe at most, if nothing else was sent.
pub const HEARTBEAT_MS_MAX: u64 = 15_000;
