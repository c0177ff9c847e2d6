//! Uploading one segment: create-if-absent, tried again under the same name with the same bytes until a deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidelog_metadata_log::env::Entropy;
use tidelog_types::{LogIndex, SegmentId};
use tokio::time::Instant;

/// The name of a segment's object. Listing order is age.
pub(crate) fn segment_path(named_at: LogIndex, id: SegmentId) -> Path {
    Path::from(format!("wal/{:020}-{}.seg", named_at.0, id))
}

/// Uploads segments.
#[derive(Debug, Clone)]
pub(crate) struct Uploader {
    pub store: Arc<dyn ObjectStore>,
    pub entropy: Entropy,
    /// How long one try may take.
    pub try_max: Duration,
}

/// Pause before an upload is tried again; it doubles up to [`PAUSE_MAX`], with jitter.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why a segment is not durable, as far as this agent knows. It was never committed, so its records are definitely not
/// written, whatever became of the object: at worst an orphan, which is collected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("upload of {object} failed: {cause}")]
pub(crate) struct UploadError {
    pub object: String,
    pub cause: String,
}

/// What one try showed.
enum Tried {
    Durable,
    /// The name is taken by other bytes than ours.
    Foreign,
    Again(String),
}

impl Uploader {
    /// Uploads a segment under a name that begins with `named_at`; returns the rest of its name once it is durable.
    pub async fn upload(
        &self,
        named_at: LogIndex,
        payload: &PutPayload,
        deadline: Instant,
    ) -> Result<SegmentId, UploadError> {
        let mut id = SegmentId(self.entropy.uuid());
        let mut pause = PAUSE_FIRST;
        loop {
            let path = segment_path(named_at, id);
            let this_try = deadline.min(Instant::now() + self.try_max);
            let tried = match tokio::time::timeout_at(this_try, self.try_once(&path, payload)).await {
                Ok(tried) => tried,
                // It may land yet; the next try finds out, because the name and the bytes are the same.
                Err(_) => Tried::Again("no answer in time".to_owned()),
            };
            let cause = match tried {
                Tried::Durable => return Ok(id),
                Tried::Foreign => {
                    tracing::error!(event = "segment_name_taken", object = %path, "the name holds other bytes, another name is taken");
                    id = SegmentId(self.entropy.uuid());
                    "the name holds other bytes".to_owned()
                }
                Tried::Again(cause) => cause,
            };
            let wait = pause / 2
                + Duration::from_micros(
                    self.entropy.below(u64::try_from(pause.as_micros()).unwrap_or(0) / 2 + 1),
                );
            if Instant::now() + wait >= deadline {
                return Err(UploadError { object: path.to_string(), cause });
            }
            tracing::warn!(event = "upload_retry", object = %path, cause, "upload is tried again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_once(&self, path: &Path, payload: &PutPayload) -> Tried {
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(path, payload.clone(), create).await {
            Ok(_) => Tried::Durable,
            // Stores answer "exists" to an earlier try of ours that took effect, and some also to a conflict in which
            // nothing was written: only the bytes decide.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.compare(path, payload).await
            }
            Err(error) => Tried::Again(error.to_string()),
        }
    }

    async fn compare(&self, path: &Path, payload: &PutPayload) -> Tried {
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => {
                return Tried::Again("taken, then not found: a conflict".to_owned());
            }
            Err(error) => return Tried::Again(error.to_string()),
        };
        if found.meta.size != payload.content_length() as u64 {
            return Tried::Foreign;
        }
        match found.bytes().await {
            Ok(bytes) if same_bytes(&bytes, payload) => Tried::Durable,
            Ok(_) => Tried::Foreign,
            Err(error) => Tried::Again(error.to_string()),
        }
    }
}

fn same_bytes(found: &Bytes, payload: &PutPayload) -> bool {
    let mut rest = &found[..];
    for chunk in payload {
        match rest.split_at_checked(chunk.len()) {
            Some((head, tail)) if head == chunk => rest = tail,
            _ => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn names_sort_by_age() {
        let name = |index| segment_path(LogIndex(index), SegmentId(Uuid::nil())).to_string();
        assert_eq!(name(7), "wal/00000000000000000007-00000000-0000-0000-0000-000000000000.seg");
        assert!(name(9) < name(10) && name(99) < name(u64::MAX));
    }

    #[test]
    fn comparison_crosses_chunks() {
        let payload: PutPayload =
            [Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cde")].into_iter().collect();
        assert!(same_bytes(&Bytes::from_static(b"abcde"), &payload));
        assert!(!same_bytes(&Bytes::from_static(b"abcdX"), &payload));
        assert!(!same_bytes(&Bytes::from_static(b"abcd"), &payload));
        assert!(!same_bytes(&Bytes::from_static(b"abcdef"), &payload));
    }
}
