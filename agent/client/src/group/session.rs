//! The task behind a consumer of a group: one membership after the other, until it is closed.

use std::sync::Arc;

use tidelog_proto::status::ApiError;
use tidelog_proto::v1;
use tidelog_types::Incarnation;
use tokio::sync::watch;

use super::builder::Wanted;
use super::error::{CommitError, GroupError};
use super::handle::GroupHandle;
use super::identity::Identity;
use super::link::{self, Link};
use super::shared::Shared;
use super::steps::Steps;
use crate::request::Repeat;

/// How a membership ended.
enum End {
    /// As the application wanted: everything was given back.
    Closed(Result<(), CommitError>),
    /// No heartbeat was answered in time: the service may take the member for alive.
    TimedOut,
    /// The service knows nothing of the member.
    Unknown,
    /// The service does not want the member.
    Refused(ApiError),
}

/// Runs until the consumer is closed, or the group does not take it. Returns why the last commit of a closing consumer failed. `leave`: whether
/// it gives up a static membership when it is closed.
pub(super) async fn run(shared: Arc<Shared>, leave: watch::Receiver<bool>) -> Result<(), CommitError> {
    let _ended = Ended(Arc::clone(&shared));
    if let Wanted::Partitions(partitions) = &shared.options.wanted {
        shared.ledger.lock().choose(partitions.iter().cloned());
        // Nothing ends it but the application.
        let (_never, over) = watch::channel(false);
        return Steps::new(&shared, over).run().await;
    }
    let handle = GroupHandle::new(&shared);
    loop {
        let incarnation = Incarnation(shared.client.options().entropy.uuid());
        let group = shared.options.group.clone();
        let identity = Arc::new(Identity { group, member_id: shared.options.member_id.clone(), incarnation });
        let end = membership(&shared, &identity).await;
        if let End::Closed(committed) = end {
            let permanently = *leave.borrow();
            give_up_membership(&shared, &identity, permanently).await;
            return committed;
        }
        let lost = shared.ledger.lock().lose();
        shared.changed();
        if !lost.is_empty() {
            tracing::debug!(group = %shared.options.group, partitions = ?lost, "partitions are lost");
            shared.options.listener.on_lost(&handle, &lost).await;
        }
        match end {
            End::Refused(error) => {
                shared.ledger.lock().report(GroupError::Refused(Box::new(error)));
                return Err(CommitError::NotMember);
            }
            // What was read is not read any more, so this is safe; and the next incarnation need not wait for this one's end.
            End::TimedOut => give_up_membership(&shared, &identity, false).await,
            End::Unknown | End::Closed(_) => {}
        }
        if shared.ledger.lock().is_closing() {
            return Err(CommitError::NotMember);
        }
    }
}

/// However the task ends, nobody waits for records any longer.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut ledger = self.0.ledger.lock();
        ledger.suspend();
        ledger.end();
    }
}

/// One membership from beginning to end.
async fn membership(shared: &Arc<Shared>, identity: &Arc<Identity>) -> End {
    shared.ledger.lock().begin(Arc::clone(identity));
    let (over, told_over) = watch::channel(false);
    let mut steps = Box::pin(Steps::new(shared, told_over).run());
    let end = {
        let link = Link::new(shared, identity).run();
        tokio::pin!(link);
        tokio::select! {
            biased;
            () = shared.session_ended() => End::TimedOut,
            end = &mut link => match end {
                link::End::Unknown => End::Unknown,
                link::End::Refused(error) => End::Refused(error),
            },
            committed = &mut steps => End::Closed(committed),
        }
    };
    if !matches!(end, End::Closed(_)) {
        shared.ledger.lock().suspend();
        over.send_replace(true);
        // A listener that has begun is heard to its end.
        let _ = steps.await;
    }
    end
}

/// Tells the service that the member is gone. If it does not hear it, it notices.
async fn give_up_membership(shared: &Shared, identity: &Identity, permanently: bool) {
    let request = v1::LeaveGroupRequest { member: Some(identity.to_wire()), permanently };
    let left = shared.client.group_request(Repeat::Always, request, async |mut service, request| {
        service.leave_group(request).await
    });
    if let Err(error) = left.await {
        tracing::debug!(%error, group = %shared.options.group, "member could not say that it leaves");
    }
}
