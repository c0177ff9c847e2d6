//! Appends that break the protocol on purpose; see [`crate::Mistake`].

use bytes::Bytes;
use tidelog_metadata_log::Append;
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
        let gives_up = match mistake {
            Some(Mistake::UnknownIsFailure) => false,
            Some(Mistake::ReusePlaceAfterAbsentReadBack) => true,
            _ => return self.append(place, bytes).await,
        };
        match self.log.append(self.shard, place, bytes.clone()).await {
            Append::Appended => Landed::Own,
            Append::Occupied(found) if found == bytes => Landed::Own,
            Append::Occupied(found) => Landed::Other(found),
            Append::Unknown(_) if gives_up => {
                match self.log.read(self.shard, place.epoch, place.seq, 1).await {
                    Ok(found) if found.is_empty() => Landed::GivenUp,
                    _ => self.append(place, bytes).await,
                }
            }
            Append::Unknown(_) => Landed::GivenUp,
        }
    }
}
