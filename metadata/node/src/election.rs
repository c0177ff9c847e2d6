//! Taking over: a seal, then a Begin. Whoever lands the Begin leads.

use std::sync::Arc;
use std::time::Duration;

use tidelog_metadata_state::{Begin, Entry, EntryBody, EntryId, FEATURE_LEVEL, SnapshotRef};
use tidelog_types::TimestampMs;
use tokio_util::sync::CancellationToken;

use crate::append::Landed;
use crate::config::Mistake;
use crate::handle::MetadataStats;
use crate::node::Node;
use crate::replica::{LogEnd, ReplicaError};
use crate::time::LeaderClock;

/// How a try to take over ended.
pub(crate) enum Election {
    /// This node appended the Begin: it leads.
    Won,
    /// The epoch's leader goes on appending.
    LeaderLives,
    /// Another node was faster, or the stores did not answer; why.
    Lost(String),
    /// The node was asked to stop.
    Stopped,
}

/// A candidate gives up when a store has not answered for this long. Its seal or Begin may still land later; that
/// costs others a turn, and no safety: a seal is anybody's, and a Begin without its leader is sealed by the next one.
const CANDIDATE_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Looks for signs of life of the present leader, and takes over if there are none. `gone` says that there can be none:
    /// its process was heard before, and nobody listens at its address any more.
    pub(crate) async fn elect(
        &mut self,
        gone: bool,
        cancel: &CancellationToken,
    ) -> Result<Election, ReplicaError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(Election::Stopped),
            elected = tokio::time::timeout(CANDIDATE_PATIENCE, self.try_to_lead(gone)) => {
                match elected.unwrap_or_else(|_| Ok(Election::Lost("the stores do not answer".into()))) {
                    Err(ReplicaError::Log(error)) => Ok(Election::Lost(error.to_string())),
                    Err(ReplicaError::Snapshot(error)) => Ok(Election::Lost(error.to_string())),
                    other => other,
                }
            }
        }
    }

    async fn try_to_lead(&mut self, gone: bool) -> Result<Election, ReplicaError> {
        let mut end = self.catch_up().await?;
        if !self.config.exclusive && !gone && end == LogEnd::Open {
            // The store is the witness: a leader that lives and has work to do makes the log grow.
            let seen = self.next_place();
            tokio::time::sleep(self.config.witness_interval).await;
            end = self.catch_up().await?;
            if self.next_place() != seen {
                return Ok(if self.next_place().epoch == seen.epoch {
                    Election::LeaderLives
                } else {
                    Election::Lost("another agent took over first".into())
                });
            }
        }
        if let Some(refused) = self.check_clock().await? {
            return Ok(Election::Lost(refused));
        }
        if end == LogEnd::Open && !self.seal().await? {
            return Ok(Election::LeaderLives);
        }
        if self.errs(Mistake::LeadWithoutBegin) {
            return Ok(Election::Won);
        }
        let snapshot = self.shared.state.read().snapshot().cloned();
        if self.begin(snapshot).await? {
            MetadataStats::add(&self.shared.stats.elections, 1);
            self.lost_races = crate::append::Backoff::new(self.config.witness_interval);
            return Ok(Election::Won);
        }
        Ok(Election::Lost("another agent took over first".into()))
    }

    /// A node whose clock is wrong would stamp wrong times on everything: it does not lead.
    async fn check_clock(&mut self) -> Result<Option<String>, ReplicaError> {
        let (clock, store) = (Arc::clone(&self.clock), Arc::clone(&self.snapshots));
        let tolerance = self.config.clock_tolerance;
        match LeaderClock::checked(clock, store, self.entropy.uuid(), tolerance).await? {
            Ok(checked) => {
                self.leader_clock = checked;
                Ok(None)
            }
            Err(ahead_ms) => {
                let why = format!(
                    "this machine's clock is {ahead_ms} ms ahead of the object store's, allowed are {} ms either way: set the clock",
                    tolerance.as_millis()
                );
                tracing::error!(event = "clock_skew", ahead_ms, "{why}");
                Ok(Some(why))
            }
        }
    }

    /// Closes the open epoch. Returns false if its leader appended something else first: it lives.
    pub(crate) async fn seal(&mut self) -> Result<bool, ReplicaError> {
        let place = self.next_place();
        let entry = self.entry(EntryBody::Seal);
        let bytes = entry.encode();
        match self.appender().append(place, bytes.clone()).await {
            Landed::Own => self.apply(place, &entry, &bytes)?,
            // Another's seal does as well as ours.
            Landed::Other(bytes) => self.apply_bytes(place, &bytes)?,
            #[cfg(feature = "planted-mistakes")]
            Landed::GivenUp => {}
        }
        Ok(self.shared.state.read().open_seal().is_some())
    }

    /// Opens the next epoch behind the seal that this replica stands at. Returns whether this node leads it.
    pub(crate) async fn begin(&mut self, snapshot: Option<SnapshotRef>) -> Result<bool, ReplicaError> {
        let (place, seal, digest) = {
            let state = self.shared.state.read();
            (state.next(), state.open_seal(), state.digest())
        };
        let Some(seal) = seal else { return Ok(false) };
        let entry = self.entry(EntryBody::Begin(Begin {
            seal,
            leader: self.config.instance,
            address: self.config.address.clone(),
            snapshot,
            digest,
        }));
        let bytes = entry.encode();
        match self.appender().append(place, bytes.clone()).await {
            Landed::Own => {
                self.apply(place, &entry, &bytes)?;
                tracing::info!(event = "epoch_begun", epoch = place.epoch.0);
                Ok(true)
            }
            Landed::Other(bytes) => {
                self.apply_bytes(place, &bytes)?;
                Ok(false)
            }
            #[cfg(feature = "planted-mistakes")]
            Landed::GivenUp => Ok(false),
        }
    }

    fn entry(&self, body: EntryBody) -> Entry {
        Entry { level: FEATURE_LEVEL, id: EntryId(self.entropy.uuid()), time: self.entry_time(), body }
    }

    /// Log time never falls, whatever this machine's clock says.
    pub(crate) fn entry_time(&self) -> TimestampMs {
        let now = if self.errs(Mistake::TrustWallClock) { self.clock.now() } else { self.leader_clock.now() };
        now.max(self.shared.state.read().log_time())
    }
}
