//! The cluster as people look at it: which agents there are, who leads, how far each is.

use std::fmt;

use futures::future::BoxFuture;
use tidelog_metadata_node::{AgentCard, Metadata};
use tidelog_types::{AgentInstance, ClusterId, LogEpoch, LogIndex};
use tokio::time::Instant;

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSeen {
    /// Who it is.
    pub card: AgentCard,
    /// How many entries of the metadata log it has applied, as far as the leader knows.
    pub applied: LogIndex,
}

/// The cluster as one agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Its id; `None` while the metadata is read.
    pub cluster: Option<ClusterId>,
    /// The epoch of the metadata log.
    pub epoch: LogEpoch,
    /// How many entries of the metadata log the agent that was asked has applied.
    pub applied: LogIndex,
    /// Who leads, as far as the agent that was asked knows.
    pub leader: Option<AgentInstance>,
    /// Number of topics.
    pub topics: usize,
    /// Number of partitions of all topics.
    pub partitions: u64,
    /// The agent that was asked.
    pub asked: AgentCard,
    /// The leader first, then its followers; just the one that was asked if there is no leader that answers.
    pub agents: Vec<AgentSeen>,
    /// Why `agents` is not complete.
    pub incomplete: Option<String>,
}

/// Asks a leader that is another agent which agents it knows of.
pub trait ClusterLink: fmt::Debug + Send + Sync {
    /// The leader first. Fails with a reason for people.
    fn agents(&self, deadline: Instant) -> BoxFuture<'_, Result<Vec<AgentSeen>, String>>;
}

/// The agents that a leading one knows of, itself first; `None` if it does not lead.
pub fn agents_of_leader(metadata: &Metadata, own: &AgentCard) -> Option<Vec<AgentSeen>> {
    let (_, leads) = metadata.leader();
    leads.then(|| {
        let applied = metadata.read(tidelog_metadata_state::State::index);
        let mut agents = vec![AgentSeen { card: own.clone(), applied }];
        let followers = metadata.followers_seen().into_iter();
        agents.extend(followers.map(|seen| AgentSeen { card: seen.card, applied: seen.applied }));
        agents
    })
}

/// Looks at the cluster.
pub(crate) async fn look(
    metadata: &Metadata,
    own: &AgentCard,
    link: Option<&dyn ClusterLink>,
    deadline: Instant,
) -> ClusterView {
    let agents = match (agents_of_leader(metadata, own), link) {
        (Some(agents), _) => Ok(agents),
        (None, Some(link)) => link.agents(deadline).await,
        (None, None) => Err("this agent does not lead, and reaches no other".to_owned()),
    };
    let view = metadata.read(|state| ClusterView {
        cluster: state.cluster(),
        epoch: state.next().epoch,
        applied: state.index(),
        leader: state.leader().map(|leader| leader.agent),
        topics: state.topics_after(None).count(),
        partitions: state.partitions_total(),
        asked: own.clone(),
        agents: Vec::new(),
        incomplete: None,
    });
    let (agents, incomplete) = match agents {
        Ok(agents) => (agents, None),
        Err(why) => (vec![AgentSeen { card: own.clone(), applied: view.applied }], Some(why)),
    };
    ClusterView { agents, incomplete, ..view }
}
