//! Reads, in batches that grow.
//!
//! A batch read is no snapshot: its items are read one by one, while others append. An entry behind an absent place
//! says nothing, so a read ends at the first absent one. And a batch may leave keys "unprocessed" (throttling, an answer
//! larger than 16 MB): these are asked again and never taken as absent.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use bytes::Bytes;
use tidelog_metadata_log::LogError;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use crate::DynamoDbLog;
use crate::failure::Failure;
use crate::log::{PLACE, entry_of, key_of};

/// Keys of the first batch: a follower that is a few entries behind gets them at once. Absent items cost as much as
/// small ones, so it is not more.
const KEYS_FIRST: usize = 8;
/// What DynamoDB allows.
const KEYS_MAX: usize = 100;
/// Rounds for the unprocessed keys of one batch; with the pauses below that is about 3 s.
const ROUNDS_MAX: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(800);

impl DynamoDbLog {
    pub(crate) async fn read_batches(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let mut entries = Vec::new();
        let mut batch = KEYS_FIRST;
        while entries.len() < limit {
            let first = from.0.saturating_add(entries.len() as u64);
            let wanted = batch.min(limit - entries.len());
            let keys: Vec<_> = (first..u64::MAX)
                .take(wanted)
                .map(|seq| key_of(shard, Place::new(epoch, LogSeq(seq))))
                .collect();
            let Some(first_key) = keys.first() else { break };
            let found = match keys.as_slice() {
                // What boots and confirms ask: one place, and as fast as can be.
                [only] => self.get(only).await.map(|entry| entry.into_iter().collect()),
                _ => self.get_dense(&keys).await,
            };
            let found: Vec<Bytes> = found.map_err(|failure| self.error("read", first_key, failure))?;
            let ended = found.len() < keys.len();
            entries.extend(found);
            if ended {
                break;
            }
            batch = (batch * 4).min(KEYS_MAX);
        }
        Ok(entries)
    }

    /// The entries of these keys up to the first absent one.
    async fn get_dense(&self, keys: &[String]) -> Result<Vec<Bytes>, Failure> {
        let mut outcome = BatchOutcome::default();
        let mut pause = PAUSE_FIRST;
        for _ in 0..ROUNDS_MAX {
            let asked = outcome.open(keys);
            if asked.is_empty() {
                return Ok(outcome.into_dense(keys));
            }
            match self.get_batch(&asked).await {
                Ok(answer) => outcome.add(&asked, answer),
                // "Nothing of the batch could be processed" comes as this error.
                Err(failure) if failure.is("ProvisionedThroughputExceededException") => {}
                Err(failure) => return Err(failure),
            }
            if !outcome.open(keys).is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        match outcome.open(keys).len() {
            0 => Ok(outcome.into_dense(keys)),
            open => Err(Failure::new(
                format!("{open} of {} keys were still unprocessed after {ROUNDS_MAX} rounds", keys.len()),
                true,
            )),
        }
    }

    async fn get_batch(&self, keys: &[String]) -> Result<Answer, Failure> {
        let mut request = KeysAndAttributes::builder().consistent_read(true);
        for key in keys {
            request = request.keys([(PLACE.to_owned(), AttributeValue::S(key.clone()))].into());
        }
        let request = request.build().map_err(|error| Failure::new(error.to_string(), false))?;
        let answer = self.client.batch_get_item().request_items(&self.url.table, request).send().await?;

        let mut found = BTreeMap::new();
        // Under the name that was asked for; a table asked for by its ARN would come back so.
        for item in answer.responses.unwrap_or_default().into_values().flatten() {
            let Some(AttributeValue::S(place)) = item.get(PLACE).cloned() else {
                return Err(Failure::new(format!("an item has no attribute `{PLACE}` of type S"), false));
            };
            let entry = entry_of(item)
                .map_err(|failure| Failure::new(format!("{place}: {}", failure.text), failure.retryable))?;
            found.insert(place, entry);
        }
        let unprocessed =
            answer.unprocessed_keys.unwrap_or_default().into_values().flat_map(|left| left.keys);
        let mut left = Vec::new();
        for mut key in unprocessed {
            match key.remove(PLACE) {
                Some(AttributeValue::S(place)) => left.push(place),
                _ => return Err(Failure::new("an unprocessed key is not ours", true)),
            }
        }
        Ok(Answer { found, unprocessed: left })
    }
}

/// One answer of the service.
#[derive(Debug, Default)]
struct Answer {
    found: BTreeMap<String, Bytes>,
    unprocessed: Vec<String>,
}

/// What is known of the keys of one batch, over all rounds.
#[derive(Debug, Default)]
struct BatchOutcome {
    /// Present with its bytes, or absent. Not in here: not known.
    known: BTreeMap<String, Option<Bytes>>,
}

impl BatchOutcome {
    fn add(&mut self, asked: &[String], mut answer: Answer) {
        for key in asked {
            match answer.found.remove(key) {
                Some(bytes) => self.known.insert(key.clone(), Some(bytes)),
                None if answer.unprocessed.contains(key) => None,
                None => self.known.insert(key.clone(), None),
            };
        }
    }

    /// The keys that have to be asked (again): those not known, as far as the first known to be absent.
    fn open(&self, keys: &[String]) -> Vec<String> {
        keys.iter()
            .take_while(|key| !matches!(self.known.get(*key), Some(None)))
            .filter(|key| !self.known.contains_key(*key))
            .cloned()
            .collect()
    }

    /// The entries up to the first key that is not present.
    fn into_dense(mut self, keys: &[String]) -> Vec<Bytes> {
        keys.iter().map_while(|key| self.known.remove(key).flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn answer(found: &[&str], unprocessed: &[&str]) -> Answer {
        Answer {
            found: found.iter().map(|key| ((*key).to_owned(), Bytes::from((*key).to_owned()))).collect(),
            unprocessed: keys(unprocessed),
        }
    }

    #[test]
    fn unprocessed_is_asked_again_and_never_absent() {
        let all = keys(&["a", "b", "c", "d"]);
        let mut outcome = BatchOutcome::default();
        assert_eq!(outcome.open(&all), all);

        outcome.add(&all, answer(&["a", "d"], &["b", "c"]));
        assert_eq!(outcome.open(&all), ["b", "c"]);
        outcome.add(&keys(&["b", "c"]), answer(&["c"], &["b"]));
        assert_eq!(outcome.open(&all), ["b"]);
        outcome.add(&keys(&["b"]), answer(&["b"], &[]));
        assert!(outcome.open(&all).is_empty());
        assert_eq!(outcome.into_dense(&all), ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_first_absent_place_ends_it_and_nothing_behind_is_asked() {
        let all = keys(&["a", "b", "c", "d"]);
        let mut outcome = BatchOutcome::default();
        outcome.add(&all, answer(&["a", "d"], &["c"]));
        assert!(outcome.open(&all).is_empty(), "c is unprocessed, but behind b, which is absent");
        assert_eq!(outcome.into_dense(&all), ["a"]);

        let mut outcome = BatchOutcome::default();
        outcome.add(&all, answer(&["c"], &["a", "d"]));
        assert_eq!(outcome.open(&all), ["a"], "a is before b, which is absent");
        outcome.add(&keys(&["a"]), answer(&[], &[]));
        assert!(outcome.into_dense(&all).is_empty());
    }
}
