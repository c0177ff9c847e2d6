//! Appends that break the protocol on purpose; see [`crate::Mistake`].

use bytes::Bytes;
use tidelog_metadata_log::Append;
use tidelog_metadata_state::{Entry, EntryId};
use tidelog_types::Place;

use crate::append::{Appender, Landed};
use crate::config::Mistake;

impl Appender {
    pub(crate) async fn append_mistaken(
        &self,
        place: Place,
        bytes: Bytes,
        mistake: Option<Mistake>,
    ) -> Landed {
        use Mistake::{RepeatWithNewId, ReusePlaceAfterAbsentReadBack, UnknownIsFailure};
        if !matches!(mistake, Some(UnknownIsFailure | ReusePlaceAfterAbsentReadBack | RepeatWithNewId)) {
            // As without this feature, which all crates of a build share: repeated, paused and counted alike.
            return self.append(place, bytes).await;
        }
        let first = self.log.append(self.shard, place, bytes.clone()).await;
        if !matches!(first, Append::Unknown(_)) {
            return landed(first, &bytes);
        }
        match mistake {
            Some(Mistake::UnknownIsFailure) => Landed::GivenUp,
            Some(Mistake::ReusePlaceAfterAbsentReadBack) => {
                match self.log.read(self.shard, place.epoch, place.seq, 1).await {
                    Ok(found) if found.is_empty() => Landed::GivenUp,
                    _ => self.append(place, bytes).await,
                }
            }
            Some(Mistake::RepeatWithNewId) => {
                let Ok(entry) = Entry::decode(&bytes) else { return Landed::GivenUp };
                let renamed = Entry { id: EntryId(self.entropy.uuid()), ..entry };
                // The bytes that landed are looked at, but not as this node's own.
                match self.append(place, renamed.encode()).await {
                    Landed::Own => Landed::Other(renamed.encode()),
                    other => other,
                }
            }
            _ => self.append(place, bytes).await,
        }
    }
}

fn landed(answer: Append, bytes: &Bytes) -> Landed {
    match answer {
        Append::Appended => Landed::Own,
        Append::Occupied(found) if found == bytes => Landed::Own,
        Append::Occupied(found) => Landed::Other(found),
        Append::Unknown(_) => Landed::GivenUp,
    }
}
