//! Settings of a node.

use std::time::Duration;

use tidelog_types::{AgentInstance, ClusterId, ShardId};

/// Settings of a node. The defaults are the design's figures.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Which log it takes part in; only [`ShardId::ZERO`] in this version.
    pub shard: ShardId,
    /// This run of this process.
    pub instance: AgentInstance,
    /// The cluster that the object store belongs to; a log of another cluster is refused.
    pub cluster: ClusterId,
    /// Where other agents reach this one; may be empty.
    pub address: String,
    /// Nobody else can be alive on these stores, because this process holds their lock: take over at once, without
    /// looking for signs of life of another leader.
    pub exclusive: bool,
    /// Roll to a new epoch, with a snapshot, after this many entries …
    pub roll_entries: u64,
    /// … or this many bytes of entries.
    pub roll_bytes: u64,
    /// How long the log's end is watched for growth before its leader counts as gone.
    pub witness_interval: Duration,
    /// How often a follower reads the log's end.
    pub follow_interval: Duration,
    /// How often a leader tells its followers that it lives.
    pub beat_interval: Duration,
    /// A leader that was silent for this long is doubted.
    pub silence_max: Duration,
    /// A leader whose append or confirmation takes longer than this falls silent: another may reach the stores.
    pub stall_max: Duration,
    /// First pause before an append or read is repeated; it doubles up to 32 times itself, with jitter.
    pub retry_pause: Duration,
    /// A candidate whose wall clock differs from the store's by more than this does not lead.
    pub clock_tolerance: Duration,
    /// How often the leader looks for idle producers to forget.
    pub expiry_interval: Duration,
    /// A rule to break on purpose; has no effect without the feature `planted-mistakes`.
    pub mistake: Option<Mistake>,
    /// Encode snapshots where the node runs instead of on a thread of their own; for simulation.
    pub snapshots_inline: bool,
}

impl NodeConfig {
    /// The defaults for one agent of a cluster.
    pub fn new(cluster: ClusterId, instance: AgentInstance) -> Self {
        Self {
            shard: ShardId::ZERO,
            instance,
            cluster,
            address: String::new(),
            exclusive: false,
            roll_entries: 5_000,
            roll_bytes: 32 * 1024 * 1024,
            witness_interval: Duration::from_millis(500),
            follow_interval: Duration::from_millis(250),
            beat_interval: Duration::from_millis(100),
            silence_max: Duration::from_millis(400),
            stall_max: Duration::from_secs(1),
            retry_pause: Duration::from_millis(20),
            clock_tolerance: Duration::from_secs(60),
            expiry_interval: Duration::from_secs(600),
            mistake: None,
            snapshots_inline: false,
        }
    }
}

/// A rule of the protocol that a node breaks on purpose, so that the simulation can show that it would notice. Only a
/// build with the feature `planted-mistakes` can break one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Takes an absent place for the end of the log without looking at the next epoch, also to confirm that it leads.
    SkipSuccessorCheck,
    /// Does not check that a Begin names the seal that it followed.
    SkipSealCheck,
    /// After an append of unknown outcome, reads the place and, if it is absent, puts another entry there.
    ReusePlaceAfterAbsentReadBack,
    /// Takes an append of unknown outcome for a failure, and says so to the callers.
    UnknownIsFailure,
    /// Repeats an append of unknown outcome with other bytes: the same proposals under a new entry id.
    RepeatWithNewId,
    /// Truncates its own open epoch below a snapshot that no Begin names yet.
    TruncateOpenEpoch,
    /// Truncates seals as well.
    TruncateSeals,
    /// Leads as soon as its seal has landed, without a Begin.
    LeadWithoutBegin,
    /// Answers linearizable reads without asking the store.
    SkipConfirm,
    /// Names an older snapshot in its Begin than the Begin before.
    NameOlderSnapshot,
    /// Acknowledges before the append has landed.
    AcknowledgeEarly,
    /// Answers linearizable reads while an append is in flight, whose entry others may have seen already.
    ConfirmBeforeAppendResolves,
    /// Shows readers the replica of a booting node before it has caught up.
    ShowUnfinishedBoot,
    /// Stamps entries with the wall clock as it is, whoever may have set it since it was checked.
    TrustWallClock,
    /// Does not look for a successor while it has no work.
    NeverLookForSuccessor,
    /// Says that proposals which a leader may yet give effect had none.
    RefuseWhatMayLand,
    /// Gives proposals that are handed on again new numbers.
    RenumberRepeats,
    /// Streams entries to followers before they are in the log.
    StreamEarly,
    /// Answers linearizable reads as a follower without asking anyone.
    AnswerWithoutAsking,
    /// Takes up followers' proposals that were meant for an earlier leadership.
    KeepForeignProposals,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::SkipSuccessorCheck,
        Self::SkipSealCheck,
        Self::ReusePlaceAfterAbsentReadBack,
        Self::UnknownIsFailure,
        Self::RepeatWithNewId,
        Self::TruncateOpenEpoch,
        Self::TruncateSeals,
        Self::LeadWithoutBegin,
        Self::SkipConfirm,
        Self::NameOlderSnapshot,
        Self::AcknowledgeEarly,
        Self::ConfirmBeforeAppendResolves,
        Self::ShowUnfinishedBoot,
        Self::TrustWallClock,
        Self::NeverLookForSuccessor,
        Self::RefuseWhatMayLand,
        Self::RenumberRepeats,
        Self::StreamEarly,
        Self::AnswerWithoutAsking,
        Self::KeepForeignProposals,
    ];
}
