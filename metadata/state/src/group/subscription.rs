//! Lists of topic names that many members share.

use std::cmp::Ordering;
use std::sync::Arc;

use tidelog_types::TopicName;

use crate::digest::Digest;

/// Topic names, each once, in order. Cheap to clone. Members of a group that have equal ones share the memory, and
/// different ones are told apart without reading the names: a thousand members with a thousand names each are compared
/// at each join.
#[derive(Debug, Clone)]
pub struct Subscription(Arc<Names>);

#[derive(Debug)]
struct Names {
    digest: u64,
    names: Box<[TopicName]>,
}

impl Subscription {
    /// A subscription of these names, in any order.
    pub fn new(names: impl IntoIterator<Item = TopicName>) -> Self {
        let mut names: Vec<TopicName> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut digest = Digest::default();
        for name in &names {
            digest.word(name.as_str().len() as u64);
            for chunk in name.as_str().as_bytes().chunks(8) {
                digest.word(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            }
        }
        Self(Arc::new(Names { digest: digest.0, names: names.into() }))
    }

    /// The names in order.
    pub fn names(&self) -> &[TopicName] {
        &self.0.names
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// Whether it has no names.
    pub fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// Whether it has a name.
    pub fn contains(&self, name: &TopicName) -> bool {
        self.names().binary_search(name).is_ok()
    }

    /// All names of both.
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        Self::new(self.names().iter().chain(other.names()).cloned())
    }

    /// Bytes of all names, and of what holds them.
    pub(crate) fn bytes(&self) -> u64 {
        self.names().iter().map(|name| name.as_str().len() as u64 + 32).sum()
    }
}

impl Default for Subscription {
    fn default() -> Self {
        Self::new([])
    }
}

impl PartialEq for Subscription {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Subscription {}

impl PartialOrd for Subscription {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Some order, the same everywhere, but not that of the names.
impl Ord for Subscription {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.0.digest.cmp(&other.0.digest).then_with(|| self.names().cmp(other.names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Subscription {
        Subscription::new(names.iter().map(|name| TopicName::new(name).expect("a name")))
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        assert_eq!(of(&["b", "a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a"]), of(&["b"]));
        assert_ne!(of(&["ab"]), of(&["a", "b"]));
        assert_eq!(of(&["b"]).union(&of(&["a", "b"])), of(&["a", "b"]));
        assert_eq!(of(&["a"]).union(&of(&[])).names().len(), 1);
        assert!(of(&["a", "c"]).contains(&TopicName::new("c").expect("a name")));
        assert!(!of(&["a", "c"]).contains(&TopicName::new("b").expect("a name")));
    }
}
