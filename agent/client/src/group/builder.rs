//! Settings of a consumer of a group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelog_proto::v1;
use tidelog_types::{GroupName, InstanceId, MemberId, TopicName};

use super::assignor::Assignor;
use super::identity::random_member_id;
use super::listener::{NoListener, RebalanceListener};
use super::partition::TopicPartition;
use super::{GroupConsumer, shared::Shared};
use crate::connection::Client;
use crate::consumer::ConsumerOptions;

/// Where to begin with a partition for which the group has committed nothing, or nothing that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// At the first record that can be read.
    Earliest,
    /// At what comes next.
    #[default]
    Latest,
    /// Nowhere: it is an error, and the application seeks.
    None,
}

/// What a consumer wants to read.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// A share of topics.
    Subscription { topics: Vec<TopicName>, pattern: String },
    /// Exactly these, whoever else reads them.
    Partitions(Vec<TopicPartition>),
}

/// Settings as they are used.
pub(super) struct Options {
    pub group: GroupName,
    pub wanted: Wanted,
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub assignor: Assignor,
    pub user_data: Bytes,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub reset: OffsetReset,
    pub auto_commit: Option<Duration>,
    pub listener: Arc<dyn RebalanceListener>,
    pub consumer: ConsumerOptions,
}

impl Options {
    /// Whether there is a membership.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.wanted, Wanted::Subscription { .. })
    }

    /// As it goes over the wire.
    pub(super) fn member_options(&self, client_id: &str) -> v1::MemberOptions {
        let milliseconds = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
        let (topics, pattern) = match &self.wanted {
            Wanted::Subscription { topics, pattern } => (topics.as_slice(), pattern.as_str()),
            Wanted::Partitions(_) => (&[][..], ""),
        };
        v1::MemberOptions {
            topics: topics.iter().map(TopicName::to_string).collect(),
            topic_pattern: pattern.to_owned(),
            assignor: self.assignor.to_wire().into(),
            session_timeout_ms: milliseconds(self.session_timeout),
            rebalance_timeout_ms: milliseconds(self.rebalance_timeout),
            instance_id: self.instance_id.as_ref().map(InstanceId::to_string).unwrap_or_default(),
            client_id: client_id.to_owned(),
            user_data: self.user_data.clone(),
        }
    }
}

/// Makes a [`GroupConsumer`]. Begun by [`Client::group_consumer`].
pub struct GroupConsumerBuilder {
    client: Client,
    options: Options,
}

impl Client {
    /// A consumer that takes part in a group. It subscribes to nothing yet.
    pub fn group_consumer(&self, group: GroupName) -> GroupConsumerBuilder {
        let options = Options {
            group,
            wanted: Wanted::Subscription { topics: Vec::new(), pattern: String::new() },
            member_id: random_member_id(&self.options().client_id, &self.options().entropy),
            instance_id: None,
            assignor: Assignor::default(),
            user_data: Bytes::new(),
            session_timeout: Duration::from_secs(15),
            rebalance_timeout: Duration::from_secs(300),
            reset: OffsetReset::default(),
            auto_commit: Some(Duration::from_secs(5)),
            listener: Arc::new(NoListener),
            consumer: ConsumerOptions::default(),
        };
        GroupConsumerBuilder { client: self.clone(), options }
    }
}

impl GroupConsumerBuilder {
    /// Subscribes to topics, besides those that match the pattern. They need not exist yet. At most 1,000.
    pub fn topics(mut self, names: impl IntoIterator<Item = TopicName>) -> Self {
        let pattern = match self.options.wanted {
            Wanted::Subscription { pattern, .. } => pattern,
            Wanted::Partitions(_) => String::new(),
        };
        self.options.wanted = Wanted::Subscription { topics: names.into_iter().collect(), pattern };
        self
    }

    /// Subscribes to all topics whose whole name matches a regular expression (RE2 syntax, at most 1,000 bytes), also those that are created
    /// later.
    pub fn pattern(mut self, expression: impl Into<String>) -> Self {
        let topics = match self.options.wanted {
            Wanted::Subscription { topics, .. } => topics,
            Wanted::Partitions(_) => Vec::new(),
        };
        self.options.wanted = Wanted::Subscription { topics, pattern: expression.into() };
        self
    }

    /// Reads exactly these partitions, in place of a subscription. The consumer does not become a member: it uses the group's committed offsets,
    /// and can commit as long as the group has no members. No listener is called.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.options.wanted = Wanted::Partitions(partitions.into_iter().collect());
        self
    }

    /// How to share; sticky unless said.
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.options.assignor = assignor;
        self
    }

    /// What this member says of itself to an assignor of a client, at most 4,096 bytes.
    pub fn user_data(mut self, data: impl Into<Bytes>) -> Self {
        self.options.user_data = data.into();
        self
    }

    /// How long the member may be silent until its partitions go to others: 1 s to 30 min; 15 s unless said.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.options.session_timeout = timeout;
        self
    }

    /// How long the member may take to give partitions back, a record in the application's hands and the listener included: 1 s to 1 h; 5 min
    /// unless said. After that it loses its membership.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.options.rebalance_timeout = timeout;
        self
    }

    /// Makes the membership static (Kafka's `group.instance.id`): when a member of this name leaves, its partitions wait for its return until its
    /// session would have expired.
    pub fn instance_id(mut self, id: InstanceId) -> Self {
        self.options.instance_id = Some(id);
        self
    }

    /// The id of the member, unique in its group; made of the client's name and a random part unless said.
    pub fn member_id(mut self, id: MemberId) -> Self {
        self.options.member_id = id;
        self
    }

    /// Where to begin without a committed offset; at what comes next unless said.
    pub fn offset_reset(mut self, reset: OffsetReset) -> Self {
        self.options.reset = reset;
        self
    }

    /// Commits that often what the application is through with; every 5 s unless said.
    pub fn auto_commit_every(mut self, interval: Duration) -> Self {
        self.options.auto_commit = Some(interval.max(Duration::from_millis(1)));
        self
    }

    /// Leaves all commits to the application.
    pub fn manual_commit(mut self) -> Self {
        self.options.auto_commit = None;
        self
    }

    /// Who is told of partitions that come and go.
    pub fn listener(mut self, listener: impl RebalanceListener) -> Self {
        self.options.listener = Arc::new(listener);
        self
    }

    /// How partitions are read.
    pub fn consumer_options(mut self, options: ConsumerOptions) -> Self {
        self.options.consumer = options;
        self
    }

    /// Starts the consumer, which becomes a member in the background: what goes wrong is told by the stream. Has to be called in a tokio runtime.
    pub fn start(self) -> GroupConsumer {
        GroupConsumer::start(Arc::new(Shared::new(self.client, self.options)))
    }
}

impl std::fmt::Debug for GroupConsumerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options { group, wanted, member_id, .. } = &self.options;
        f.debug_struct("GroupConsumerBuilder")
            .field("group", group)
            .field("wanted", wanted)
            .field("member_id", member_id)
            .finish_non_exhaustive()
    }
}
