//! Snapshots and truncation: what keeps boots short and the log small. Both run beside the commits.

use std::sync::Arc;

use tidelog_metadata_state::{Command, SnapshotRef, State};
use tidelog_types::{LogSeq, Place};

use crate::append::Backoff;
use crate::config::Mistake;
use crate::handle::MetadataStats;
use crate::lead::Term;
use crate::node::Node;
use crate::time::LeaderClock;

/// Places removed in one call.
const REMOVE_PLACES: usize = 500;

impl Node {
    /// Writes a snapshot once the epoch is long enough; the next epoch's Begin will name it.
    pub(crate) fn start_snapshot(&mut self, term: &mut Term) {
        let long = term.entries >= self.config.roll_entries || term.bytes >= self.config.roll_bytes;
        if !long || term.snapshot.is_some() || term.snapshot_ready.is_some() {
            return;
        }
        // A cheap clone; encoding and upload happen beside the commits.
        let state = self.shared.state.read().clone();
        let next = state.next();
        let name = format!("{:010}-{:010}-{}.snap", next.epoch.0, next.seq.0, self.entropy.uuid());
        let (store, shared, entropy) =
            (Arc::clone(&self.snapshots), Arc::clone(&self.shared), self.entropy.clone());
        let (clock, tolerance) = (Arc::clone(&self.clock), self.config.clock_tolerance);
        let (inline, mut pause) = (self.config.snapshots_inline, Backoff::new(self.config.retry_pause));
        term.snapshot = Some(Box::pin(async move {
            let bytes = encode(state, inline).await;
            loop {
                match store.write(&name, bytes.clone()).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(event = "snapshot_retry", name, %error),
                }
                pause.wait(&entropy).await;
            }
            MetadataStats::add(&shared.stats.snapshots, 1);
            // Whoever begins an epoch has compared its clock with the store's not long ago, also if it led before.
            let checked = LeaderClock::checked(clock, store, entropy.uuid(), tolerance).await;
            (SnapshotRef { next, name }, checked.ok().and_then(Result::ok))
        }));
    }

    /// Removes the places that the newest Begin's snapshot makes superfluous, and snapshots that no booting node can
    /// still ask for. An interrupted removal is taken up by the next leader.
    pub(crate) fn start_truncation(&mut self, term: &mut Term) {
        let (places, below, stale) = {
            let state = self.shared.state.read();
            let Some(snapshot) = state.snapshot() else { return };
            let older = state.older_snapshots();
            let stale: Vec<String> =
                older[..older.len().saturating_sub(1)].iter().map(|snapshot| snapshot.name.clone()).collect();
            (state.removable_places(), snapshot.next, stale)
        };
        if places.is_empty() {
            return;
        }
        let (log, snapshots, shard) = (Arc::clone(&self.log), Arc::clone(&self.snapshots), self.config.shard);
        let seals_too = self.errs(Mistake::TruncateSeals);
        term.truncation = Some(Box::pin(async move {
            for (epoch, range) in places {
                let end = if seals_too { range.end + 2 } else { range.end };
                let seqs: Vec<LogSeq> = (range.start..end).map(LogSeq).collect();
                for chunk in seqs.chunks(REMOVE_PLACES) {
                    if let Err(error) = log.remove(shard, epoch, chunk).await {
                        tracing::warn!(event = "truncation_failed", %error, "left to the next roll");
                        return None;
                    }
                }
            }
            for name in stale {
                if let Err(error) = snapshots.delete(&name).await {
                    // Agents may lack the permission to delete; what is left over is named by age.
                    tracing::warn!(event = "snapshot_delete_failed", name, %error);
                }
            }
            Some(below)
        }));
    }

    /// Lets the log know that a truncation is finished.
    pub(crate) fn truncated(&mut self, below: Option<Place>) {
        if let Some(below) = below {
            self.propose_own(Command::NoteTruncation { below });
        }
    }
}

async fn encode(state: State, inline: bool) -> bytes::Bytes {
    if inline {
        return state.encode_snapshot();
    }
    let fallback = state.clone();
    match tokio::task::spawn_blocking(move || state.encode_snapshot()).await {
        Ok(bytes) => bytes,
        // The runtime is shutting down, or the encoder panicked: try where a panic is seen.
        Err(_) => fallback.encode_snapshot(),
    }
}
