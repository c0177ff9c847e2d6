//! Whether an object store keeps what Tidelog relies on.
//!
//! `tidelog init` and `tidelog doctor` ask all of it ([`probe`]), the start of an agent what costs one refused PUT
//! ([`probe_start`]). Objects are written below `meta/probe/`, where agents may write.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tidelog_metadata_log::env::{Clock, Entropy};
use tidelog_metadata_log::{Check, Finding};
use tidelog_types::TimestampMs;
use tokio::time::timeout;

/// Writers of one race.
const RACERS: usize = 16;
/// Races. One that is not atomic shows itself within a few.
const RACES: usize = 4;
/// How far the clocks may be apart before an agent does not lead.
const CLOCK_OFF_MAX_MS: i64 = 60_000;
/// For one step of the probe; races on slow services take seconds.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);

const CHECK_ACCESS: &str = "check bucket, endpoint, region and credentials (AWS_ACCESS_KEY_ID or role), and that the role may do \
     PutObject and GetObject on meta/* and wal/*; `tidelog init --create-bucket` makes a missing bucket";
const NO_CONDITION: &str = "use a store that keeps If-None-Match on PutObject (S3, MinIO, SeaweedFS 4, R2; on a gateway or a proxy, \
     let the header pass): without it two agents overwrite each other's data";
const NOT_CONSISTENT: &str =
    "use a store whose reads are strongly consistent, and put no cache between it and Tidelog";
const SET_CLOCK: &str =
    "set this machine's clock (NTP): an agent that is off by more than 60 s does not lead";
const AGENTS_NEED_NO_DELETE: &str = "right for an agent; a compactor and truncation in the object store need DeleteObject. The probe's objects stay";

/// Everything that can be found out. Writes some dozens of small objects and deletes them again, if it may.
pub async fn probe(store: &dyn ObjectStore, clock: &dyn Clock, entropy: &Entropy) -> Vec<Finding> {
    let root = Path::from(format!("meta/probe/{}", entropy.uuid()));
    let mut written = Vec::new();
    let findings = probe_below(store, clock, &root, &mut written).await;
    let deletion = delete_all(store, &written).await;
    findings.into_iter().chain(deletion).collect()
}

async fn probe_below(
    store: &dyn ObjectStore,
    clock: &dyn Clock,
    root: &Path,
    written: &mut Vec<Path>,
) -> Vec<Finding> {
    let key = root.clone().join("first");
    let reached = step(Check::Reachable, read_after_write(store, &key)).await;
    let answers = reached.check != Check::Reachable;
    if !answers {
        return vec![reached];
    }
    written.push(key.clone());
    let mut findings = vec![Finding::good(Check::Reachable, format!("{store} answers")), reached];
    findings.push(step(Check::CreateIfAbsent, second_create(store, &key)).await);
    findings.push(step(Check::Clock, clock_difference(store, clock, &root.clone().join("clock"))).await);
    written.push(root.clone().join("clock"));
    let races: Vec<_> = (0..RACES).map(|round| root.clone().join(format!("race-{round}"))).collect();
    written.extend(races.iter().cloned());
    findings.push(step(Check::CreateRace, all_races(store, &races)).await);
    findings
}

/// What an agent asks before it starts: does the store answer, and does it refuse to overwrite?
///
/// The object has a fixed name, so that starts leave no more than one behind.
pub async fn probe_start(store: &dyn ObjectStore) -> Vec<Finding> {
    let key = Path::from("meta/probe/create-if-absent");
    let reached = step(Check::Reachable, async {
        match create(store, &key, b"1").await {
            Ok(()) | Err(Error::AlreadyExists { .. }) => {
                Ok(Finding::good(Check::Reachable, format!("{store} answers")))
            }
            Err(error) => Err(error),
        }
    })
    .await;
    if reached.remedy.is_some() {
        return vec![reached];
    }
    vec![reached, step(Check::CreateIfAbsent, second_create(store, &key)).await]
}

/// Bounds a step in time and turns its error into a finding.
async fn step(check: Check, work: impl Future<Output = object_store::Result<Finding>>) -> Finding {
    match timeout(STEP_TIME_MAX, work).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(error @ (Error::NotImplemented { .. } | Error::NotSupported { .. }))) => {
            Finding::bad(check, error.to_string(), NO_CONDITION)
        }
        Ok(Err(error)) => {
            let seen = error.to_string();
            // What S3 clients make of it: the status alone is left.
            let remedy = if seen.contains("501 Not Implemented") { NO_CONDITION } else { CHECK_ACCESS };
            Finding::bad(check, seen, remedy)
        }
        Err(_) => {
            Finding::bad(check, format!("no answer within {} s", STEP_TIME_MAX.as_secs()), CHECK_ACCESS)
        }
    }
}

async fn create(store: &dyn ObjectStore, key: &Path, bytes: &'static [u8]) -> object_store::Result<()> {
    store.put_opts(key, bytes.into(), PutMode::Create.into()).await.map(|_| ())
}

/// The bytes at a key; `None` if it is not found.
async fn look(store: &dyn ObjectStore, key: &Path) -> object_store::Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Not found, written, found: a cache of what was not found would show.
async fn read_after_write(store: &dyn ObjectStore, key: &Path) -> object_store::Result<Finding> {
    let before = look(store, key).await?;
    create(store, key, b"1").await?;
    let after = look(store, key).await?;
    if before.is_none() && after.as_deref() == Some(b"1") {
        return Ok(Finding::good(Check::ReadAfterWrite, "what was written was read at once"));
    }
    let seen = format!("before the write {before:?} was read, after it {after:?}");
    Ok(Finding::bad(Check::ReadAfterWrite, seen, NOT_CONSISTENT))
}

/// A second create of a key that is there has to be refused, and may not change it.
async fn second_create(store: &dyn ObjectStore, key: &Path) -> object_store::Result<Finding> {
    let second = create(store, key, b"2").await;
    let stored = look(store, key).await?;
    match second {
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) if stored.as_deref() == Some(b"1") => {
            Ok(Finding::good(Check::CreateIfAbsent, "a second create was refused"))
        }
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
            let seen = format!("a second create was refused, and yet the object holds {stored:?}");
            Ok(Finding::bad(Check::CreateIfAbsent, seen, NO_CONDITION))
        }
        Ok(()) => {
            let seen = "a second create of one key was accepted; it should have been refused";
            Ok(Finding::bad(Check::CreateIfAbsent, seen, NO_CONDITION))
        }
        Err(error) => Err(error),
    }
}

async fn all_races(store: &dyn ObjectStore, keys: &[Path]) -> object_store::Result<Finding> {
    for key in keys {
        if let Some(problem) = race(store, key).await? {
            return Ok(Finding::bad(Check::CreateRace, problem, NO_CONDITION));
        }
    }
    let seen =
        format!("{RACES} times {RACERS} writers at once: never more than one won, and its bytes are there");
    Ok(Finding::good(Check::CreateRace, seen))
}

/// What went wrong in one race.
async fn race(store: &dyn ObjectStore, key: &Path) -> object_store::Result<Option<String>> {
    let bytes_of = |racer: usize| Bytes::from(format!("racer {racer}"));
    let puts = (0..RACERS).map(|racer| store.put_opts(key, bytes_of(racer).into(), PutMode::Create.into()));
    let ended = join_all(puts).await;
    let winners: Vec<_> =
        ended.iter().enumerate().filter(|(_, end)| end.is_ok()).map(|(racer, _)| racer).collect();
    let stored = look(store, key).await?;
    Ok(match (winners.as_slice(), stored) {
        ([winner], Some(stored)) if stored == bytes_of(*winner) => None,
        // Nobody was told, which retries inside the client can cause; but somebody's bytes are there.
        ([], Some(stored)) if (0..RACERS).any(|racer| stored == bytes_of(racer)) => None,
        ([], None) => match ended.into_iter().find_map(Result::err) {
            Some(error) => return Err(error),
            None => Some("nobody won".to_owned()),
        },
        (winners, stored) => {
            Some(format!("{} of {RACERS} writers of one key won, it holds {stored:?}", winners.len()))
        }
    })
}

async fn clock_difference(
    store: &dyn ObjectStore,
    clock: &dyn Clock,
    key: &Path,
) -> object_store::Result<Finding> {
    let before = clock.now();
    create(store, key, b"1").await?;
    let after = clock.now();
    let stored = store.head(key).await?.last_modified.timestamp_millis();
    let off_ms = off_by_ms(TimestampMs(stored), before, after);
    let seen = if off_ms == 0 {
        "this machine and the store agree".to_owned()
    } else {
        format!(
            "the store is {} s {} this machine",
            off_ms.abs() / 1000,
            if off_ms > 0 { "ahead of" } else { "behind" }
        )
    };
    if off_ms.abs() > CLOCK_OFF_MAX_MS {
        return Ok(Finding::bad(Check::Clock, seen, SET_CLOCK));
    }
    // Half the limit leaves no room for a clock that drifts.
    if off_ms.abs() > CLOCK_OFF_MAX_MS / 2 {
        return Ok(Finding::note(Check::Clock, seen, SET_CLOCK));
    }
    Ok(Finding::good(Check::Clock, seen))
}

/// How far the store's time lies outside the time that the write took here, in milliseconds; positive if it is ahead.
/// Stores tell whole seconds, cut off.
fn off_by_ms(stored: TimestampMs, before: TimestampMs, after: TimestampMs) -> i64 {
    let earliest = before.0.saturating_sub(1000);
    if stored.0 > after.0 {
        stored.0.saturating_sub(after.0)
    } else if stored.0 < earliest {
        stored.0.saturating_sub(earliest)
    } else {
        0
    }
}

/// Tries to delete what the probe wrote.
async fn delete_all(store: &dyn ObjectStore, written: &[Path]) -> Option<Finding> {
    let first = written.first()?;
    let deleted = timeout(STEP_TIME_MAX, store.delete(first)).await;
    Some(match deleted {
        Ok(Ok(())) => {
            let others = written[1..].iter().map(|key| store.delete(key));
            // Best effort: what stays is a few bytes below meta/probe.
            let _ = timeout(STEP_TIME_MAX, join_all(others)).await;
            match timeout(STEP_TIME_MAX, look(store, first)).await {
                Ok(Ok(Some(_))) => Finding::bad(
                    Check::Delete,
                    "a deleted object is still there",
                    "switch bucket versioning retention or object lock off for the prefix, or use another bucket",
                ),
                _ => Finding::good(Check::Delete, "allowed"),
            }
        }
        Ok(Err(error)) => Finding::note(Check::Delete, error.to_string(), AGENTS_NEED_NO_DELETE),
        Err(_) => Finding::note(Check::Delete, "no answer in time", AGENTS_NEED_NO_DELETE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_the_seconds_that_stores_tell() {
        let at = TimestampMs;
        let rows = [
            // Written between 10.2 and 10.4 s, told as 10 s: no difference to be seen.
            (10_000, 10_200, 10_400, 0),
            (10_300, 10_200, 10_400, 0),
            (9_200, 10_200, 10_400, 0),
            (9_199, 10_200, 10_400, -1),
            (80_400, 10_200, 10_400, 70_000),
            (0, 100_000, 100_400, -99_000),
            (i64::MAX, i64::MIN, i64::MIN, i64::MAX),
        ];
        for (stored, before, after, off) in rows {
            assert_eq!(off_by_ms(at(stored), at(before), at(after)), off, "{stored} {before} {after}");
        }
    }
}
