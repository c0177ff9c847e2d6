//! Entries of the metadata log and their bytes.

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use prost::Message;
use tidelog_types::{AgentInstance, ClusterId, Place, TimestampMs};
use uuid::Uuid;

use crate::command::Proposal;
use crate::wire;

/// The feature level of this version: what its `apply` knows. Any change of `apply`'s result on any input raises it.
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel(1);

/// Which `apply` an entry needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeatureLevel(pub u32);

/// Unique id of an entry; the same for every try to append it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub Uuid);

/// One entry of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Feature level needed to apply it.
    pub level: FeatureLevel,
    /// Its id; that of a seal is the seal's id.
    pub id: EntryId,
    /// The writer's time.
    pub time: TimestampMs,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// The cluster begins; at (0, 0) only.
    Genesis {
        /// The cluster's id.
        cluster: ClusterId,
    },
    /// The epoch begins; at place 0 of every later epoch.
    Begin(Begin),
    /// The epoch ends.
    Seal,
    /// Commands in order.
    Batch(Vec<Proposal>),
}

/// The beginning of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// Id of the seal that closed the epoch before.
    pub seal: EntryId,
    /// Who leads.
    pub leader: AgentInstance,
    /// Where other agents reach the leader; may be empty.
    pub address: String,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotRef>,
    /// Digest of all outcomes up to the seal.
    pub digest: u64,
}

/// A snapshot in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The first place that it does not contain.
    pub next: Place,
    /// The last part of its object's name.
    pub name: String,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The frame is wrong: too short, no magic, unknown flags.
    #[error("not a metadata entry: {0}")]
    Frame(&'static str),
    /// The checksum does not match.
    #[error("checksum is {computed:08x}, stored is {stored:08x}")]
    Checksum {
        /// Over the bytes that were read.
        computed: u32,
        /// In the bytes that were read.
        stored: u32,
    },
    /// It decompresses to more than an entry can be.
    #[error("entry does not decompress to at most {max} bytes")]
    Compression {
        /// The limit.
        max: usize,
    },
    /// The payload is no message of `tidelog.meta.v1`.
    #[error("payload is malformed: {0}")]
    Payload(String),
    /// The message lacks something or has it out of range.
    #[error("field {field} is missing or out of range")]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// A newer version wrote it.
    #[error("entry needs feature level {needed}, this version has {}", FEATURE_LEVEL.0)]
    Level {
        /// The level that it needs.
        needed: u32,
    },
}

const MAGIC: &[u8; 4] = b"TLE1";
const HEADER_BYTES: usize = 9;
const FLAG_ZSTD: u8 = 1;
/// Entries above this are compressed (one write unit of DynamoDB).
const COMPRESS_ABOVE_BYTES: usize = 1024;
/// Largest payload after decompression; an entry of 256 KiB holds numbers and names, which do not shrink 64-fold.
const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Entry {
    /// The bytes of the entry as they are stored.
    pub fn encode(&self) -> Bytes {
        frame(&wire::Entry::from(self).encode_to_vec())
    }

    /// Reads an entry back. Any bytes give an entry or an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let payload = unframe(bytes)?;
        let message = wire::Entry::decode(&*payload).map_err(|e| EntryError::Payload(e.to_string()))?;
        // Before anything else: the fields of a newer level may mean something else.
        if message.level > FEATURE_LEVEL.0 || message.level == 0 {
            return Err(EntryError::Level { needed: message.level });
        }
        Self::try_from(message)
    }
}

/// Puts magic, flags and checksum before a payload, and compresses it if it is long.
pub(crate) fn frame(payload: &[u8]) -> Bytes {
    let compressed = (payload.len() > COMPRESS_ABOVE_BYTES)
        .then(|| zstd::bulk::compress(payload, 1).ok())
        .flatten()
        .filter(|compressed| compressed.len() < payload.len());
    let (flags, payload) = compressed.as_deref().map_or((0, payload), |compressed| (FLAG_ZSTD, compressed));
    let mut framed = Vec::with_capacity(HEADER_BYTES + payload.len());
    framed.extend_from_slice(MAGIC);
    framed.push(flags);
    framed.extend_from_slice(&checksum(flags, payload).to_le_bytes());
    framed.extend_from_slice(payload);
    framed.into()
}

fn unframe(bytes: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, EntryError> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(EntryError::Frame("shorter than its header"));
    };
    let [m0, m1, m2, m3, flags, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(EntryError::Frame("magic is not TLE1"));
    }
    let (stored, computed) = (u32::from_le_bytes([c0, c1, c2, c3]), checksum(flags, payload));
    if stored != computed {
        return Err(EntryError::Checksum { computed, stored });
    }
    match flags {
        0 => Ok(payload.into()),
        FLAG_ZSTD => decompress(payload).map(Into::into),
        _ => Err(EntryError::Frame("unknown flags")),
    }
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, EntryError> {
    use std::io::Read;
    let too_large = |_| EntryError::Compression { max: PAYLOAD_BYTES_MAX };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload).map_err(too_large)?;
    // Otherwise a few bytes can ask for a window of 128 MiB.
    decoder.window_log_max(PAYLOAD_BYTES_MAX.ilog2()).map_err(too_large)?;
    let mut out = Vec::new();
    decoder.take(PAYLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut out).map_err(too_large)?;
    if out.len() > PAYLOAD_BYTES_MAX {
        return Err(EntryError::Compression { max: PAYLOAD_BYTES_MAX });
    }
    Ok(out)
}

fn checksum(flags: u8, payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    digest.update(&[flags]);
    digest.update(payload);
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

impl Proposal {
    /// Its bytes on the way to a leader: a `tidelog.meta.v1.Proposal`.
    pub fn encode(&self) -> Bytes {
        wire::Proposal::from(self).encode_to_vec().into()
    }

    /// Reads one back. Any bytes give a proposal or an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        wire::Proposal::decode(bytes).map_err(|error| EntryError::Payload(error.to_string()))?.try_into()
    }
}

/// Packs proposals into one entry, up to a size.
#[derive(Debug)]
pub struct BatchBuilder {
    message: wire::Batch,
    proposals: Vec<Proposal>,
    bytes: usize,
    bytes_max: usize,
}

/// Upper bound for what an entry adds to its proposals: frame, level, id, time, tags and lengths.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// Upper bound for what a batch adds to each proposal: its tag and length.
const PROPOSAL_OVERHEAD_BYTES: usize = 6;

impl BatchBuilder {
    /// A builder of an entry of at most `entry_bytes_max` bytes.
    pub fn new(entry_bytes_max: usize) -> Self {
        Self {
            message: wire::Batch::default(),
            proposals: Vec::new(),
            bytes: ENTRY_OVERHEAD_BYTES,
            bytes_max: entry_bytes_max,
        }
    }

    /// Adds a proposal, or gives it back with the size of an entry that would hold it alone.
    pub fn push(&mut self, proposal: Proposal) -> Result<(), (Proposal, usize)> {
        let message = wire::Proposal::from(&proposal);
        let bytes = message.encoded_len() + PROPOSAL_OVERHEAD_BYTES;
        if self.bytes + bytes > self.bytes_max {
            return Err((proposal, bytes + ENTRY_OVERHEAD_BYTES));
        }
        self.bytes += bytes;
        self.message.proposals.push(message);
        self.proposals.push(proposal);
        Ok(())
    }

    /// Size of an entry that holds this proposal alone, in bytes before compression.
    pub fn entry_bytes(proposal: &Proposal) -> usize {
        wire::Proposal::from(proposal).encoded_len() + PROPOSAL_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES
    }

    /// The proposal that was added last.
    pub fn last(&self) -> Option<&Proposal> {
        self.proposals.last()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty()
    }

    /// The entry and its bytes.
    pub fn finish(self, id: EntryId, time: TimestampMs) -> (Entry, Bytes) {
        let entry = Entry { level: FEATURE_LEVEL, id, time, body: EntryBody::Batch(self.proposals) };
        let message = wire::Entry {
            level: FEATURE_LEVEL.0,
            id: Bytes::copy_from_slice(id.0.as_bytes()),
            time_ms: time.0,
            body: Some(wire::entry::Body::Batch(self.message)),
        };
        let bytes = frame(&message.encode_to_vec());
        debug_assert_eq!(Entry::decode(&bytes).as_ref(), Ok(&entry), "an entry reads back as it was written");
        (entry, bytes)
    }
}
