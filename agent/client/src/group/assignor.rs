//! How a group shares its partitions: as the service does it, or as the application wants.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidelog_proto::v1;
use tidelog_types::{InstanceId, MemberId, PartitionIndex, TopicName};

use super::partition::{Identified, TopicPartition, from_wire, to_wire};

/// How partitions are shared. The group does what most of its members ask for.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Assignor {
    /// As even as possible; each member keeps what it has as far as that allows.
    #[default]
    Sticky,
    /// Per topic, each member gets a run of neighbouring partitions, so that equal partitions of several topics meet.
    Range,
    /// All partitions dealt out in turn.
    RoundRobin,
    /// As this one decides. The service asks one of the members that want it.
    Own(Arc<dyn PartitionAssignor>),
}

impl fmt::Debug for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sticky => "Sticky",
            Self::Range => "Range",
            Self::RoundRobin => "RoundRobin",
            Self::Own(_) => "Own",
        })
    }
}

impl Assignor {
    pub(super) fn to_wire(&self) -> v1::Assignor {
        match self {
            Self::Sticky => v1::Assignor::Sticky,
            Self::Range => v1::Assignor::Range,
            Self::RoundRobin => v1::Assignor::RoundRobin,
            Self::Own(_) => v1::Assignor::Client,
        }
    }
}

/// Shares the partitions of a group among its members. A function of [`AssignmentInput`] is one, too.
pub trait PartitionAssignor: Send + Sync + 'static {
    /// Gives each member its partitions: of topics that it subscribes to, each partition to one member at most. Whoever is left out gets
    /// nothing. Equal input should give equal output: another member may be asked the next time. Runs on a thread of its own.
    fn assign(&self, group: &AssignmentInput) -> BTreeMap<MemberId, Vec<TopicPartition>>;
}

impl<F> PartitionAssignor for F
where
    F: Fn(&AssignmentInput) -> BTreeMap<MemberId, Vec<TopicPartition>> + Send + Sync + 'static,
{
    fn assign(&self, group: &AssignmentInput) -> BTreeMap<MemberId, Vec<TopicPartition>> {
        self(group)
    }
}

/// A group for which an assignment is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentInput {
    /// All members by id.
    pub members: BTreeMap<MemberId, AssignmentMember>,
    /// All topics that any of them subscribes to, with all their partitions.
    pub topics: BTreeMap<TopicName, Vec<PartitionIndex>>,
}

/// A member that takes part in an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentMember {
    /// The topics that it subscribes to, patterns resolved.
    pub topics: Vec<TopicName>,
    /// What it owns at present.
    pub owned: Vec<TopicPartition>,
    /// What it says of itself, see [`crate::GroupConsumerBuilder::user_data`].
    pub user_data: Bytes,
    /// Its instance id, if its membership is static.
    pub instance_id: Option<InstanceId>,
}

/// A request as it came, and what the answer needs to know of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub generation: u64,
    pub input: AssignmentInput,
    partitions: Identified,
}

impl Asked {
    /// Reads a request; an error says what is wrong with it.
    pub(super) fn from_wire(request: v1::AssignmentRequest) -> Result<Self, String> {
        let text = |error: tidelog_types::GroupNameError| error.to_string();
        let partitions = from_wire(&request.topics)?;
        let mut topics: BTreeMap<TopicName, Vec<PartitionIndex>> = BTreeMap::new();
        for at in partitions.keys() {
            topics.entry(at.topic.clone()).or_default().push(at.partition);
        }
        let mut members = BTreeMap::new();
        for member in request.members {
            let named =
                member.topics.iter().map(|topic| TopicName::new(topic).map_err(|error| error.to_string()));
            let instance = Some(&member.instance_id).filter(|id| !id.is_empty());
            let known = AssignmentMember {
                topics: named.collect::<Result<_, _>>()?,
                owned: from_wire(&member.owned)?.into_keys().collect(),
                user_data: member.user_data,
                instance_id: instance.map(|id| InstanceId::new(id)).transpose().map_err(text)?,
            };
            members.insert(MemberId::new(&member.member_id).map_err(text)?, known);
        }
        Ok(Self { generation: request.generation, input: AssignmentInput { members, topics }, partitions })
    }

    /// The answer.
    pub(super) fn answer(&self, shares: BTreeMap<MemberId, Vec<TopicPartition>>) -> v1::SessionAssign {
        let members = shares.into_iter().map(|(member_id, share)| {
            let identified = share.iter().map(|at| (at, self.partitions.get(at).copied().flatten()));
            v1::MemberAssignment { member_id: member_id.to_string(), partitions: to_wire(identified) }
        });
        v1::SessionAssign { generation: self.generation, members: members.collect() }
    }
}
