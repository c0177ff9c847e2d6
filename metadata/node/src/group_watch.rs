//! Who is woken when consumer groups change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidelog_types::GroupName;
use tokio::sync::Notify;

use crate::handle::{Metadata, Shared};

/// All who wait for groups.
#[derive(Debug, Default)]
pub(crate) struct GroupWatchers {
    /// In an order, so that who is woken first does not depend on the process.
    by_group: Mutex<BTreeMap<GroupName, Vec<Arc<Notify>>>>,
    lists: Mutex<Vec<Weak<Collected>>>,
}

#[derive(Debug, Default)]
struct Collected {
    changed: Mutex<ChangedGroups>,
    notify: Notify,
}

/// Groups that have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedGroups {
    /// These.
    Some(BTreeSet<GroupName>),
    /// Perhaps all: the state was replaced as a whole.
    All,
}

impl Default for ChangedGroups {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl GroupWatchers {
    pub fn wake(&self, groups: &BTreeSet<GroupName>) {
        if groups.is_empty() {
            return;
        }
        let by_group = self.by_group.lock();
        for group in groups {
            by_group.get(group).into_iter().flatten().for_each(|notify| notify.notify_one());
        }
        drop(by_group);
        self.collect(|changed| {
            if let ChangedGroups::Some(names) = changed {
                names.extend(groups.iter().cloned());
            }
        });
    }

    pub fn wake_all(&self) {
        self.by_group.lock().values().flatten().for_each(|notify| notify.notify_one());
        self.collect(|changed| *changed = ChangedGroups::All);
    }

    fn collect(&self, note: impl Fn(&mut ChangedGroups)) {
        self.lists.lock().retain(|list| {
            let Some(list) = list.upgrade() else { return false };
            note(&mut list.changed.lock());
            list.notify.notify_one();
            true
        });
    }
}

impl Metadata {
    /// Watches a group, from now on: members that come, go or change, and what they own. Offsets do not count.
    pub fn watch_group(&self, group: &GroupName) -> GroupWatch {
        let notify = Arc::new(Notify::new());
        let mut by_group = self.shared.groups.by_group.lock();
        by_group.entry(group.clone()).or_default().push(Arc::clone(&notify));
        drop(by_group);
        GroupWatch { shared: Arc::clone(&self.shared), group: group.clone(), notify }
    }

    /// Watches all groups, from now on.
    pub fn watch_groups(&self) -> GroupsWatch {
        let collected = Arc::new(Collected::default());
        self.shared.groups.lists.lock().push(Arc::downgrade(&collected));
        GroupsWatch { collected }
    }
}

/// Tells when a group has changed.
#[derive(Debug)]
pub struct GroupWatch {
    shared: Arc<Shared>,
    group: GroupName,
    notify: Arc<Notify>,
}

impl GroupWatch {
    /// Returns once the group has changed since the watch was made, or since this function last returned. It may
    /// return without a change.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for GroupWatch {
    fn drop(&mut self) {
        let mut by_group = self.shared.groups.by_group.lock();
        if let Some(notifies) = by_group.get_mut(&self.group) {
            notifies.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if notifies.is_empty() {
                by_group.remove(&self.group);
            }
        }
    }
}

/// Tells which groups have changed.
#[derive(Debug)]
pub struct GroupsWatch {
    collected: Arc<Collected>,
}

impl GroupsWatch {
    /// The groups that have changed since the watch was made, or since this function last returned; waits for one.
    pub async fn changed(&self) -> ChangedGroups {
        loop {
            self.collected.notify.notified().await;
            let changed = std::mem::take(&mut *self.collected.changed.lock());
            if changed != ChangedGroups::default() {
                return changed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tidelog_types::AgentInstance;

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<GroupName> {
        names.iter().map(|name| GroupName::new(name).expect("a name")).collect()
    }

    #[test]
    fn those_who_watch_are_woken_and_no_others() {
        let (metadata, shared, _requests) = Metadata::new(AgentInstance(uuid::Uuid::nil()));
        let group = GroupName::new("a").expect("a name");
        let (one, all) = (metadata.watch_group(&group), metadata.watch_groups());
        assert_eq!(one.changed().now_or_never(), None);
        shared.groups.wake(&names(&["b", "c"]));
        assert_eq!(one.changed().now_or_never(), None);
        shared.groups.wake(&names(&["a", "b"]));
        assert_eq!(one.changed().now_or_never(), Some(()));
        assert_eq!(one.changed().now_or_never(), None, "once");
        let changed = all.changed().now_or_never();
        assert_eq!(changed, Some(ChangedGroups::Some(names(&["a", "b", "c"]))));
        assert_eq!(all.changed().now_or_never(), None);
        shared.groups.wake_all();
        shared.groups.wake(&names(&["a"]));
        assert_eq!(one.changed().now_or_never(), Some(()));
        assert_eq!(all.changed().now_or_never(), Some(ChangedGroups::All));
        drop((one, all));
        shared.groups.wake_all();
        assert!(shared.groups.by_group.lock().is_empty() && shared.groups.lists.lock().is_empty());
    }
}
