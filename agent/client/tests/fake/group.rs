//! Groups as the contract has them, in memory: members, who owns what, committed offsets. Time is tokio's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, ErrorReason};
use tokio::time::Instant;

use super::TOPIC;

pub type Partition = (String, i32);

#[derive(Debug)]
pub struct Member {
    pub incarnation: Vec<u8>,
    pub options: v1::MemberOptions,
    pub deadline: Instant,
    pub away: bool,
    /// When its assignment changed last.
    generation: u64,
    /// Generations of earlier assignments with what each had, to judge releases by.
    told: BTreeMap<u64, BTreeSet<Partition>>,
    last_commit: Option<(u64, Vec<v1::OffsetCommitResult>)>,
    joined: u64,
}

#[derive(Debug, Default)]
pub struct Group {
    pub members: BTreeMap<String, Member>,
    target: BTreeMap<Partition, String>,
    /// Who owns each partition, and since which generation.
    pub owners: BTreeMap<Partition, (String, u64)>,
    pub offsets: BTreeMap<Partition, (i64, String)>,
    /// The assignment that a member is asked for: who, and under which generation.
    pub asked: Option<(String, u64)>,
}

/// What becomes of the answer to the next commit, in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFate {
    Answer,
    /// Committed, and the answer is lost.
    LoseAnswer,
    /// Refused as not available; nothing happens.
    Unavailable,
}

#[derive(Debug)]
pub struct Groups {
    pub groups: BTreeMap<String, Group>,
    pub topics: BTreeMap<String, i32>,
    /// Rises with every change.
    index: u64,
    /// Heartbeats are not answered while this is set, and do not count.
    pub deaf: bool,
    pub commit_fates: VecDeque<CommitFate>,
    /// Numbers of commits as they came, with the member's incarnation.
    pub commits: Vec<(Vec<u8>, u64)>,
    /// Joins as they came: member and incarnation.
    pub joins: Vec<(String, Vec<u8>)>,
    pub leaves: Vec<(String, bool)>,
    pub heartbeats: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            topics: [(TOPIC.to_owned(), super::PARTITIONS)].into(),
            index: 0,
            deaf: false,
            commit_fates: VecDeque::new(),
            commits: Vec::new(),
            joins: Vec::new(),
            leaves: Vec::new(),
            heartbeats: 0,
        }
    }
}

pub fn failed(reason: ErrorReason) -> ApiError {
    ApiError::new(reason, format!("the fake says {}", reason.as_str_name()))
}

fn timeout(options: &v1::MemberOptions) -> Duration {
    Duration::from_millis(u64::try_from(options.session_timeout_ms).expect("not negative"))
}

fn named(lists: &[v1::TopicPartitions]) -> BTreeSet<Partition> {
    let each = |list: &v1::TopicPartitions| {
        let topic = list.topic.clone();
        list.partitions.iter().map(move |partition| (topic.clone(), *partition)).collect::<Vec<_>>()
    };
    lists.iter().flat_map(each).collect()
}

pub fn listed<'a>(partitions: impl IntoIterator<Item = &'a Partition>) -> Vec<v1::TopicPartitions> {
    let mut lists: BTreeMap<&String, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        lists.entry(topic).or_default().push(*partition);
    }
    let list = |(topic, partitions): (&String, _)| v1::TopicPartitions {
        topic: topic.clone(),
        topic_id: 1,
        partitions,
    };
    lists.into_iter().map(list).collect()
}

impl Group {
    /// Wants this member to own everything from now on.
    pub fn prefer(&mut self, member: &str) {
        self.target.values_mut().for_each(|owner| *owner = member.to_owned());
    }
}

impl Groups {
    fn next(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// The topics that a member subscribes to. The fake knows one kind of pattern: a prefix and `.*`.
    fn subscribed(&self, options: &v1::MemberOptions) -> BTreeSet<String> {
        let prefix = options.topic_pattern.strip_suffix(".*");
        let matches = |name: &&String| prefix.is_some_and(|prefix| name.starts_with(prefix));
        options.topics.iter().chain(self.topics.keys().filter(matches)).cloned().collect()
    }

    pub fn join(&mut self, who: &v1::MemberIdentity, options: &v1::MemberOptions) -> Result<(), ApiError> {
        self.expire();
        self.joins.push((who.member_id.clone(), who.incarnation.to_vec()));
        let index = self.next();
        let group = self.groups.entry(who.group.clone()).or_default();
        if !options.instance_id.is_empty() {
            let same = |(id, member): (&String, &Member)| {
                let other = *id != who.member_id || member.incarnation != who.incarnation;
                (member.options.instance_id == options.instance_id && other)
                    .then(|| (id.clone(), member.away))
            };
            match group.members.iter().find_map(same) {
                Some((_, false)) => return Err(failed(ErrorReason::MemberExists)),
                Some((id, true)) => {
                    // Its successor takes over what it had.
                    let before = group.members.remove(&id).expect("found");
                    group.members.insert(who.member_id.clone(), before);
                    let renamed = |owner: &mut String| {
                        if *owner == id {
                            owner.clone_from(&who.member_id);
                        }
                    };
                    group.owners.values_mut().for_each(|(owner, since)| {
                        renamed(owner);
                        *since = index;
                    });
                    group.target.values_mut().for_each(renamed);
                    let member = group.members.get_mut(&who.member_id).expect("inserted");
                    member.incarnation = who.incarnation.to_vec();
                    (member.away, member.last_commit, member.generation) = (false, None, index);
                }
                None => {}
            }
        }
        if group.members.get(&who.member_id).is_some_and(|member| member.incarnation != who.incarnation) {
            return Err(failed(ErrorReason::MemberExists));
        }
        let deadline = Instant::now() + timeout(options);
        let member = group.members.entry(who.member_id.clone()).or_insert_with(|| Member {
            incarnation: who.incarnation.to_vec(),
            options: options.clone(),
            deadline,
            away: false,
            generation: index,
            told: BTreeMap::new(),
            last_commit: None,
            joined: index,
        });
        member.deadline = deadline;
        member.options = options.clone();
        self.rebalance(&who.group);
        Ok(())
    }

    fn member(&mut self, who: &v1::MemberIdentity) -> Result<&mut Member, ApiError> {
        let group = self.groups.get_mut(&who.group);
        let member = group.and_then(|group| group.members.get_mut(&who.member_id));
        let member = member.filter(|member| member.incarnation == who.incarnation && !member.away);
        member.ok_or_else(|| failed(ErrorReason::UnknownMember))
    }

    /// Whether the heartbeat is to be answered.
    pub fn beat(
        &mut self,
        who: &v1::MemberIdentity,
        owned: &[v1::TopicPartitions],
        known: u64,
    ) -> Result<bool, ApiError> {
        self.expire();
        let deaf = self.deaf;
        let member = self.member(who)?;
        if deaf {
            return Ok(false);
        }
        member.deadline = Instant::now() + timeout(&member.options);
        let seen = member.told.get(&known).cloned();
        self.heartbeats += 1;
        let owned = named(owned);
        let group = self.groups.get_mut(&who.group).expect("it has a member");
        let target = &group.target;
        let before = group.owners.len();
        // Released: no longer wanted here, not owned any more, and the assignment that the member acts upon did not have it.
        group.owners.retain(|partition, (owner, _)| {
            let released = *owner == who.member_id
                && target.get(partition) != Some(owner)
                && !owned.contains(partition)
                && seen.as_ref().is_some_and(|seen| !seen.contains(partition));
            !released
        });
        if group.owners.len() != before {
            self.hand_over(&who.group);
        }
        Ok(true)
    }

    pub fn leave(&mut self, who: &v1::MemberIdentity, permanently: bool) {
        self.leaves.push((who.member_id.clone(), permanently));
        let Ok(member) = self.member(who) else { return };
        if !member.options.instance_id.is_empty() && !permanently {
            member.away = true;
            return;
        }
        self.remove(&who.group, &who.member_id);
    }

    pub fn remove(&mut self, group: &str, member_id: &str) {
        if let Some(found) = self.groups.get_mut(group) {
            found.members.remove(member_id);
            found.owners.retain(|_, (owner, _)| owner != member_id);
        }
        self.rebalance(group);
    }

    /// Removes members whose time is over.
    pub fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<(String, String)> = self
            .groups
            .iter()
            .flat_map(|(name, group)| group.members.iter().map(move |(id, member)| (name, id, member)))
            .filter(|(_, _, member)| member.deadline <= now)
            .map(|(name, id, _)| (name.clone(), id.clone()))
            .collect();
        for (group, member) in over {
            self.remove(&group, &member);
        }
    }

    /// Decides who is to own what: evenly, and so that nobody gives up more than it has to.
    pub fn rebalance(&mut self, name: &str) {
        let index = self.next();
        let Some(group) = self.groups.get(name) else { return };
        let clients =
            group.members.values().filter(|member| member.options.assignor == v1::Assignor::Client as i32);
        let by_joining =
            group.members.iter().min_by_key(|(_, member)| member.joined).map(|(id, _)| id.clone());
        if clients.count() * 2 > group.members.len() {
            let group = self.groups.get_mut(name).expect("it exists");
            group.asked = by_joining.map(|id| (id, index));
            let members = &group.members;
            group.target.retain(|_, owner| members.contains_key(owner));
            self.hand_over(name);
            return;
        }
        let wishes: BTreeMap<String, BTreeSet<String>> =
            group.members.iter().map(|(id, member)| (id.clone(), self.subscribed(&member.options))).collect();
        let mut shares: BTreeMap<&String, usize> = wishes.keys().map(|id| (id, 0)).collect();
        let mut target = BTreeMap::new();
        let topics =
            self.topics.iter().filter(|(topic, _)| wishes.values().any(|wish| wish.contains(*topic)));
        let partitions: Vec<Partition> =
            topics.flat_map(|(topic, count)| (0..*count).map(|number| (topic.clone(), number))).collect();
        let quota = partitions.len().div_ceil(wishes.len().max(1));
        let mut homeless = Vec::new();
        for partition in partitions {
            let before = group.target.get(&partition).filter(|id| {
                wishes.get(*id).is_some_and(|wish| wish.contains(&partition.0)) && shares[*id] < quota
            });
            match before {
                Some(id) => {
                    *shares.get_mut(id).expect("a member") += 1;
                    target.insert(partition, id.clone());
                }
                None => homeless.push(partition),
            }
        }
        for partition in homeless {
            let willing = wishes.iter().filter(|(_, wish)| wish.contains(&partition.0));
            let Some(id) = willing.map(|(id, _)| id).min_by_key(|id| shares[id]) else { continue };
            *shares.get_mut(id).expect("a member") += 1;
            target.insert(partition, id.clone());
        }
        self.groups.get_mut(name).expect("it exists").target = target;
        self.hand_over(name);
    }

    /// Takes the assignment that a member was asked for.
    pub fn assigned(
        &mut self,
        who: &v1::MemberIdentity,
        generation: u64,
        members: &[v1::MemberAssignment],
    ) -> Result<(), ApiError> {
        self.member(who)?;
        let group = self.groups.get_mut(&who.group).expect("it has a member");
        if group.asked != Some((who.member_id.clone(), generation)) {
            return Err(failed(ErrorReason::StaleGeneration));
        }
        group.asked = None;
        group.target = members
            .iter()
            .flat_map(|share| named(&share.partitions).into_iter().map(|at| (at, share.member_id.clone())))
            .collect();
        self.hand_over(&who.group);
        Ok(())
    }

    /// What a member's assignor is to be told.
    pub fn request(&self, name: &str) -> v1::AssignmentRequest {
        let group = &self.groups[name];
        let members = group.members.iter().map(|(id, member)| v1::AssignmentMember {
            member_id: id.clone(),
            topics: self.subscribed(&member.options).into_iter().collect(),
            owned: listed(group.owners.iter().filter(|(_, (owner, _))| owner == id).map(|(at, _)| at)),
            user_data: member.options.user_data.clone(),
            instance_id: member.options.instance_id.clone(),
        });
        let all: Vec<Partition> = self
            .topics
            .iter()
            .flat_map(|(topic, count)| (0..*count).map(move |number| (topic.clone(), number)))
            .collect();
        let generation = group.asked.as_ref().map_or(0, |(_, generation)| *generation);
        v1::AssignmentRequest { generation, members: members.collect(), topics: listed(&all) }
    }

    /// Gives free partitions to those who are to own them, and notes whose assignment has changed.
    fn hand_over(&mut self, name: &str) {
        let index = self.next();
        let Some(group) = self.groups.get_mut(name) else { return };
        for (partition, member) in &group.target {
            group.owners.entry(partition.clone()).or_insert_with(|| (member.clone(), index));
        }
        let Group { owners, target, members, .. } = group;
        for (id, member) in members.iter_mut() {
            let owned = owners.iter().filter(|(at, (owner, _))| owner == id && target.get(*at) == Some(id));
            let owned: BTreeSet<Partition> = owned.map(|(at, _)| at.clone()).collect();
            if member.told.last_key_value().is_none_or(|(_, last)| *last != owned) {
                member.generation = index;
                member.told.insert(index, owned);
            }
        }
    }

    /// What a member may own.
    pub fn assignment(&self, who: &v1::MemberIdentity) -> Option<v1::Assignment> {
        let group = self.groups.get(&who.group)?;
        let member =
            group.members.get(&who.member_id).filter(|member| member.incarnation == who.incarnation)?;
        let (generation, owned) = member.told.last_key_value()?;
        let waits = |(at, id): (&Partition, &String)| *id == who.member_id && !owned.contains(at);
        let waiting = group.target.iter().any(waits) || group.asked.is_some();
        Some(v1::Assignment {
            generation: member.generation.max(*generation),
            partitions: listed(owned),
            waiting,
        })
    }

    pub fn commit(&mut self, request: &v1::CommitOffsetsRequest) -> Vec<v1::OffsetCommitResult> {
        self.expire();
        let refuse = |reason| v1::OffsetCommitResult { error: Some(failed(reason).into()) };
        let all = |reason| vec![refuse(reason); request.offsets.len()];
        if let Some(who) = &request.member {
            self.commits.push((who.incarnation.to_vec(), request.number));
            match self.member(who) {
                Err(error) => return all(error.reason),
                Ok(Member { last_commit: Some((last, results)), .. }) if request.number <= *last => {
                    return results.clone();
                }
                Ok(_) => {}
            }
        } else if self.groups.get(&request.group).is_some_and(|group| !group.members.is_empty()) {
            return all(ErrorReason::GroupNotEmpty);
        }
        let topics = self.topics.clone();
        let group = self.groups.entry(request.group.clone()).or_default();
        let results: Vec<_> = request
            .offsets
            .iter()
            .map(|commit| {
                let at = (commit.topic.clone(), commit.partition);
                if !topics.contains_key(&commit.topic) {
                    return refuse(ErrorReason::UnknownTopic);
                }
                if let Some(who) = &request.member {
                    let owner = group.owners.get(&at);
                    if owner.is_none_or(|(id, since)| *id != who.member_id || request.generation < *since) {
                        return refuse(ErrorReason::StaleGeneration);
                    }
                }
                group.offsets.insert(at, (commit.offset, commit.metadata.clone()));
                v1::OffsetCommitResult { error: None }
            })
            .collect();
        if let Some(who) = &request.member
            && let Ok(member) = self.member(who)
        {
            member.last_commit = Some((request.number, results.clone()));
        }
        results
    }
}
