//! The one function that changes what the cluster knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use tidelog_types::{
    AgentInstance, GroupName, LogEpoch, LogSeq, Offset, Place, ProducerEpoch, ProducerId, TimestampMs,
    TopicId, TopicName, TopicPartition,
};

use crate::command::{Command, Outcome, Proposal, ProposalNumber, Refusal};
use crate::config::TopicConfig;
use crate::entry::{Begin, Entry, EntryBody};
use crate::limits::{PARTITIONS_PER_CLUSTER_MAX, PARTITIONS_PER_TOPIC_MAX};
use crate::producer::Producer;
use crate::state::{AgentMemory, Leader, State};
use crate::topic::{Partition, Topic};

/// What an entry did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The outcome of each proposal in it.
    pub outcomes: Vec<(AgentInstance, ProposalNumber, Arc<Outcome>)>,
    /// Partitions that have a new end or log start; a partition may appear twice.
    pub changed: Vec<TopicPartition>,
    /// Groups in which a member came, went or changed, or has another part.
    pub groups: BTreeSet<GroupName>,
}

/// What commands do beside their outcome.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// See [`Applied::changed`].
    pub changed: Vec<TopicPartition>,
    /// See [`Applied::groups`].
    pub groups: BTreeSet<GroupName>,
    /// Groups in which it is to be worked out anew who is to own what.
    pub unsettled: BTreeSet<GroupName>,
}

impl Effects {
    /// Somebody came, went or changed in a group.
    pub fn members_changed(&mut self, group: &GroupName) {
        self.groups.insert(group.clone());
        self.unsettled.insert(group.clone());
    }
}

/// Why an entry cannot be applied here. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Not the next place.
    #[error("entry is of place {found}, next is {expected}")]
    NotNext {
        /// Place of the entry.
        found: Place,
        /// Next place.
        expected: Place,
    },
    /// An entry of this kind cannot stand at this place.
    #[error("{kind} cannot stand at place {place}")]
    Misplaced {
        /// Kind of entry.
        kind: &'static str,
        /// Where it was found.
        place: Place,
    },
    /// The Begin follows another seal: this replica stands on a branch that never became the log.
    #[error("begin at {place} follows another seal: this replica followed a dead branch")]
    DeadBranch {
        /// Place of the Begin.
        place: Place,
    },
    /// This replica came to other outcomes than the leader that wrote the Begin.
    #[error("state digest is {own:016x}, the leader's at {place} is {leader:016x}")]
    Diverged {
        /// Place of the Begin.
        place: Place,
        /// Digest of this replica.
        own: u64,
        /// Digest in the Begin.
        leader: u64,
    },
}

impl State {
    /// Applies the entry at `place`. Every replica that applies the same entries in the same order comes to the same
    /// state and the same outcomes.
    pub fn apply(&mut self, place: Place, entry: &Entry) -> Result<Applied, ApplyError> {
        if place != self.next {
            return Err(ApplyError::NotNext { found: place, expected: self.next });
        }
        self.check_kind(place, &entry.body)?;
        let mut applied = Applied::default();
        let log_time = self.log_time.max(entry.time);
        self.digest.word(place.seq.0);
        match &entry.body {
            EntryBody::Genesis { cluster } => {
                self.cluster = Some(*cluster);
                self.next = place.next();
            }
            EntryBody::Seal => {
                self.epoch_ends.insert(place.epoch, place.seq);
                self.seal = Some(entry.id);
                self.leader = None;
                self.next = Place::begin_of(place.epoch.next());
            }
            EntryBody::Begin(begin) => {
                self.seal = None;
                self.leader = Some(Leader { agent: begin.leader, address: begin.address.clone() });
                if let Some(snapshot) = &begin.snapshot
                    && self.snapshot() != Some(snapshot)
                {
                    self.snapshots.push(snapshot.clone());
                }
                self.next = place.next();
            }
            EntryBody::Batch(proposals) => {
                self.log_time = log_time;
                let mut effects = Effects::default();
                for proposal in proposals {
                    let outcome = self.propose(proposal, &mut effects);
                    self.digest.outcome(&outcome);
                    applied.outcomes.push((proposal.agent, proposal.number, outcome));
                }
                self.settle_groups(&mut effects);
                (applied.changed, applied.groups) = (effects.changed, effects.groups);
                self.next = place.next();
            }
        }
        self.log_time = log_time;
        self.index.0 += 1;
        Ok(applied)
    }

    fn check_kind(&self, place: Place, body: &EntryBody) -> Result<(), ApplyError> {
        let (first, epoch_zero) = (place.seq == LogSeq::ZERO, place.epoch == LogEpoch::ZERO);
        let (kind, fits) = match body {
            EntryBody::Genesis { .. } => ("a genesis", first && epoch_zero),
            EntryBody::Seal => ("a seal", !first),
            EntryBody::Begin(begin) => {
                if first && !epoch_zero {
                    self.check_begin(place, begin)?;
                }
                ("a begin", first && !epoch_zero)
            }
            EntryBody::Batch(_) => ("a batch", !first && !epoch_zero),
        };
        if fits { Ok(()) } else { Err(ApplyError::Misplaced { kind, place }) }
    }

    fn check_begin(&self, place: Place, begin: &Begin) -> Result<(), ApplyError> {
        if self.seal != Some(begin.seal) {
            return Err(ApplyError::DeadBranch { place });
        }
        if begin.digest != self.digest.0 {
            return Err(ApplyError::Diverged { place, own: self.digest.0, leader: begin.digest });
        }
        let older = match (&begin.snapshot, self.snapshot()) {
            (Some(named), Some(last)) => named.next < last.next,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if older {
            return Err(ApplyError::Misplaced { kind: "a begin with an older snapshot", place });
        }
        if begin.snapshot.as_ref().is_some_and(|named| named.next >= place) {
            return Err(ApplyError::Misplaced { kind: "a begin with a snapshot of later places", place });
        }
        Ok(())
    }

    /// Gives a proposal its outcome: the first one, if it had one before.
    fn propose(&mut self, proposal: &Proposal, effects: &mut Effects) -> Arc<Outcome> {
        match self.agents.get(&proposal.agent) {
            Some(memory) if proposal.number < memory.lowest_unresolved => {
                return Arc::new(Outcome::Refused(Refusal::Superseded));
            }
            Some(memory) => {
                if let Some(first) = memory.outcomes.get(&proposal.number) {
                    return Arc::clone(first);
                }
            }
            // An agent that the floor cleared is forgotten; its late repeats must not take effect a second time.
            None if proposal.proposed_at < self.floor => {
                return Arc::new(Outcome::Refused(Refusal::BelowFloor { floor: self.floor }));
            }
            None => {}
        }
        let outcome = Arc::new(self.command(&proposal.command, effects).unwrap_or_else(Outcome::Refused));
        self.remember(proposal, Arc::clone(&outcome));
        outcome
    }

    fn remember(&mut self, proposal: &Proposal, outcome: Arc<Outcome>) {
        let last_index = self.index;
        let memory = self.agents.entry(proposal.agent).or_insert_with(|| AgentMemory {
            lowest_unresolved: proposal.lowest_unresolved,
            last_index,
            outcomes: OrdMap::new(),
        });
        memory.last_index = last_index;
        if proposal.lowest_unresolved > memory.lowest_unresolved {
            memory.lowest_unresolved = proposal.lowest_unresolved;
            while let Some((oldest, _)) = memory.outcomes.get_min() {
                let oldest = *oldest;
                if oldest >= proposal.lowest_unresolved {
                    break;
                }
                memory.outcomes.remove(&oldest);
            }
        }
        // A number that its own sender calls resolved is not asked for again.
        if proposal.number >= memory.lowest_unresolved {
            memory.outcomes.insert(proposal.number, outcome);
        }
    }

    fn command(&mut self, command: &Command, effects: &mut Effects) -> Result<Outcome, Refusal> {
        let changed = &mut effects.changed;
        match command {
            Command::CreateTopic { name, partitions, config } => {
                let outcome = self.create_topic(name, *partitions, config)?;
                effects.unsettled.extend(self.groups_of_topic(name).cloned());
                Ok(outcome)
            }
            Command::UpdateTopic { topic, config } => self.update_topic(*topic, config),
            Command::AddPartitions { topic, partitions } => {
                let outcome = self.add_partitions(*topic, *partitions)?;
                effects.unsettled.extend(self.groups_sharing(*topic).cloned());
                Ok(outcome)
            }
            Command::DeleteTopic { topic } => {
                let outcome = self.delete_topic(*topic, changed)?;
                effects.unsettled.extend(self.groups_sharing(*topic).cloned());
                effects.unsettled.extend(self.forget_topic_offsets(*topic));
                Ok(outcome)
            }
            Command::DeleteRecords { partition, before } => self.delete_records(*partition, *before, changed),
            Command::InitProducer { existing } => self.init_producer(*existing),
            Command::CommitSegment(commit) => self.commit_segment(commit, changed),
            Command::ExpireProducers { proposer_time } => Ok(self.expire_producers(*proposer_time)),
            Command::NoteTruncation { below } => self.note_truncation(*below),
            Command::Group(command) => self.change_group(command, effects).map(Outcome::Group),
            Command::ExpireOffsets { proposer_time } => {
                let expired = self.expire_offsets(*proposer_time);
                let count = u32::try_from(expired.len()).unwrap_or(u32::MAX);
                effects.groups.extend(expired);
                Ok(Outcome::OffsetsExpired(count))
            }
        }
    }

    /// A command alone, without the entry around it.
    #[cfg(test)]
    pub(crate) fn run_for_test(&mut self, command: &Command) -> Outcome {
        let mut effects = Effects::default();
        let outcome = self.command(command, &mut effects).unwrap_or_else(Outcome::Refused);
        self.settle_groups(&mut effects);
        self.index.0 += 1;
        outcome
    }

    fn create_topic(
        &mut self,
        name: &TopicName,
        partitions: u32,
        config: &[(String, String)],
    ) -> Result<Outcome, Refusal> {
        if let Some(topic) = self.names.get(name) {
            return Err(Refusal::TopicExists { topic: *topic });
        }
        self.check_partitions(0, partitions, 1)?;
        self.check_group_partitions(self.groups_of_topic(name).count(), partitions)?;
        let config = TopicConfig::new(config.iter().map(|(key, value)| (key.as_str(), value.as_str())))?;
        let id = TopicId(self.next_topic);
        self.next_topic += 1;
        let used = self.directories.entry(name.clone()).or_insert(0);
        *used += 1;
        let directory = if *used == 1 { name.to_string() } else { format!("{name}~{used}") };
        let topic = Topic {
            id,
            name: name.clone(),
            directory,
            created: self.log_time,
            config,
            partitions: (0..partitions).map(|_| Arc::new(Partition::default())).collect(),
        };
        self.partitions_total += u64::from(partitions);
        self.topics.insert(id, Arc::new(topic));
        self.names.insert(name.clone(), id);
        Ok(Outcome::TopicCreated(id))
    }

    fn check_partitions(&self, now: u32, asked: u32, low: u32) -> Result<(), Refusal> {
        if !(low..=PARTITIONS_PER_TOPIC_MAX).contains(&asked) {
            return Err(Refusal::PartitionCount { asked, low, high: PARTITIONS_PER_TOPIC_MAX });
        }
        let total = self.partitions_total + u64::from(asked - now);
        if total > PARTITIONS_PER_CLUSTER_MAX {
            return Err(Refusal::ClusterPartitions { asked: total, high: PARTITIONS_PER_CLUSTER_MAX });
        }
        Ok(())
    }

    fn update_topic(
        &mut self,
        id: TopicId,
        changes: &[(String, Option<String>)],
    ) -> Result<Outcome, Refusal> {
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(Refusal::UnknownTopic)?);
        let mut config = topic.config.clone();
        for (key, value) in changes {
            config.set(key, value.as_deref())?;
        }
        topic.config = config;
        Ok(Outcome::TopicUpdated)
    }

    fn add_partitions(&mut self, id: TopicId, partitions: u32) -> Result<Outcome, Refusal> {
        let now = self.topic(id).ok_or(Refusal::UnknownTopic)?.partition_count();
        self.check_partitions(now, partitions, now.saturating_add(1))?;
        self.check_group_partitions(self.groups_sharing(id).count(), partitions - now)?;
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(Refusal::UnknownTopic)?);
        topic.partitions.extend((now..partitions).map(|_| Arc::new(Partition::default())));
        self.partitions_total += u64::from(partitions - now);
        Ok(Outcome::PartitionsAdded)
    }

    fn delete_topic(&mut self, id: TopicId, changed: &mut Vec<TopicPartition>) -> Result<Outcome, Refusal> {
        let topic = self.topics.remove(&id).ok_or(Refusal::UnknownTopic)?;
        self.names.remove(&topic.name);
        self.partitions_total -= u64::from(topic.partition_count());
        for (at, partition) in topic.partitions() {
            for slice in partition.slices.iter() {
                self.release(slice.object);
            }
            changed.push(at);
        }
        Ok(Outcome::TopicDeleted)
    }

    fn delete_records(
        &mut self,
        at: TopicPartition,
        before: Option<Offset>,
        changed: &mut Vec<TopicPartition>,
    ) -> Result<Outcome, Refusal> {
        let topic = Arc::make_mut(self.topics.get_mut(&at.topic).ok_or(Refusal::UnknownTopic)?);
        let partitions = topic.partition_count();
        let partition = topic
            .partitions
            .get_mut(at.partition.position())
            .ok_or(Refusal::UnknownPartition { partitions, asked: at.partition })?;
        let before = before.unwrap_or(partition.end);
        if before > partition.end {
            return Err(Refusal::OffsetOutOfRange { start: partition.log_start, end: partition.end });
        }
        if before <= partition.log_start {
            return Ok(Outcome::RecordsDeleted { log_start: partition.log_start });
        }
        let partition = Arc::make_mut(partition);
        partition.log_start = before;
        let mut released = Vec::new();
        while partition.slices.first().is_some_and(|slice| slice.end_offset() <= before) {
            let Some(slice) = partition.slices.pop_first() else { break };
            partition.bytes -= u64::from(slice.length);
            released.push(slice.object);
        }
        released.into_iter().for_each(|object| self.release(object));
        changed.push(at);
        Ok(Outcome::RecordsDeleted { log_start: before })
    }

    fn init_producer(&mut self, existing: Option<(ProducerId, ProducerEpoch)>) -> Result<Outcome, Refusal> {
        if let Some((id, epoch)) = existing {
            let producer = self.producers.get_mut(&id).ok_or(Refusal::UnknownProducer)?;
            if epoch != producer.epoch {
                return Err(Refusal::ProducerFenced { current: producer.epoch });
            }
            if let Some(next) = producer.epoch.next() {
                *producer = Producer { epoch: next, last_used: self.log_time };
                return Ok(Outcome::ProducerReady { id, epoch: next });
            }
            // The id has used up its epochs: it gets a successor, as in Kafka.
        }
        let id = ProducerId::new(self.next_producer).map_err(|_| Refusal::Malformed)?;
        self.next_producer += 1;
        self.producers.insert(id, Producer { epoch: ProducerEpoch::ZERO, last_used: self.log_time });
        Ok(Outcome::ProducerReady { id, epoch: ProducerEpoch::ZERO })
    }

    fn expire_producers(&mut self, proposer_time: TimestampMs) -> Outcome {
        let cutoff = self.expiry_cutoff(proposer_time);
        let expired: Vec<ProducerId> = self
            .producers
            .iter()
            .filter(|(_, producer)| producer.last_used < cutoff)
            .map(|(id, _)| *id)
            .collect();
        for id in &expired {
            self.producers.remove(id);
        }
        let gone = |id: ProducerId| expired.binary_search(&id).is_ok();
        let topics: Vec<TopicId> = self.topics.keys().copied().collect();
        for topic in topics {
            let has_windows = |partition: &Arc<Partition>| partition.windows.iter().any(|(id, _)| gone(id));
            let affected =
                self.topics.get(&topic).is_some_and(|topic| topic.partitions.iter().any(has_windows));
            let Some(topic) = self.topics.get_mut(&topic).filter(|_| affected) else { continue };
            for partition in Arc::make_mut(topic).partitions.iter_mut().filter(|p| has_windows(p)) {
                Arc::make_mut(partition).windows.remove(gone);
            }
        }
        Outcome::ProducersExpired(u32::try_from(expired.len()).unwrap_or(u32::MAX))
    }

    fn note_truncation(&mut self, below: Place) -> Result<Outcome, Refusal> {
        // Only what lies below a snapshot is removable.
        if self.snapshot().is_none_or(|snapshot| below > snapshot.next) {
            return Err(Refusal::Malformed);
        }
        self.truncated_below = self.truncated_below.max(below);
        let finished: Vec<LogEpoch> = self.epoch_ends.range(..below.epoch).map(|(epoch, _)| *epoch).collect();
        for epoch in finished {
            self.epoch_ends.remove(&epoch);
        }
        // The one in force stays, and the one before it: a booting agent may have read the Begin that named it.
        let kept = self.snapshots.len().min(2);
        self.snapshots.drain(..self.snapshots.len() - kept);
        Ok(Outcome::TruncationNoted)
    }
}
