//! Ids of clusters, agents, topics, segments and runs of group members.

use std::fmt;

use uuid::Uuid;

/// A topic's id. Ids are never used twice in a cluster: a topic that is deleted and created again gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u64);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id! {
    /// A cluster: one log service on one object store and one metadata log. Written once, by `tidelog init`.
    ClusterId
}

uuid_id! {
    /// One run of an agent process; a restarted agent is another instance.
    AgentInstance
}

uuid_id! {
    /// The unique part of a segment object's name.
    SegmentId
}

uuid_id! {
    /// One run of a member of a consumer group: any 16 bytes that the member chose, which tell it from others that use
    /// the same member id.
    Incarnation
}
