//! Names of segment objects.

use tidelog_types::{LogIndex, SegmentId};
use uuid::Uuid;

/// Folder of all segments, below a cluster's prefix.
pub const FOLDER: &str = "wal";
const SUFFIX: &str = ".seg";
const INDEX_DIGITS: usize = 20;

/// Name of a segment object. Ordered by age, as the names are when they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The log index that its writer had applied.
    pub named_at: LogIndex,
    /// What makes it unique.
    pub id: SegmentId,
}

impl SegmentName {
    /// The object's key, below the cluster's prefix: `wal/<20 digits>-<uuid>.seg`.
    pub fn key(&self) -> String {
        format!("{FOLDER}/{:0INDEX_DIGITS$}-{}{SUFFIX}", self.named_at.0, self.id)
    }

    /// Reads the name from a key below the cluster's prefix; `None` if it is no segment's.
    pub fn from_key(key: &str) -> Option<Self> {
        let name = key.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
        let (index, id) = name.split_at_checked(INDEX_DIGITS)?;
        if !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let parsed = Self {
            named_at: LogIndex(index.parse().ok()?),
            id: SegmentId(Uuid::parse_str(id.strip_prefix('-')?).ok()?),
        };
        // Uuid reads more forms than the one that is written.
        (parsed.key() == key).then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_come_back_and_sort_by_age(a: (u64, u128), b: (u64, u128)) {
            let name = |(index, id)| SegmentName { named_at: LogIndex(index), id: SegmentId(Uuid::from_u128(id)) };
            let (a, b) = (name(a), name(b));
            prop_assert_eq!(SegmentName::from_key(&a.key()), Some(a));
            prop_assert_eq!(a.key().cmp(&b.key()), a.cmp(&b));
        }

        #[test]
        fn any_text_is_a_key_or_none(text in ".{0,80}") {
            if let Some(name) = SegmentName::from_key(&text) {
                prop_assert_eq!(name.key(), text);
            }
        }
    }

    #[test]
    fn names_come_back_and_sort_by_age() {
        let name = |index, id| SegmentName { named_at: LogIndex(index), id: SegmentId(Uuid::from_u128(id)) };
        let young = name(10, 0);
        let old = name(9, u128::MAX);
        assert_eq!(young.key(), "wal/00000000000000000010-00000000-0000-0000-0000-000000000000.seg");
        assert_eq!(SegmentName::from_key(&young.key()), Some(young));
        assert_eq!(SegmentName::from_key(&name(u64::MAX, 7).key()), Some(name(u64::MAX, 7)));
        assert!(old < young && old.key() < young.key());
        for other in [
            "wal/10-00000000-0000-0000-0000-000000000000.seg",
            "wal/+0000000000000000010-00000000-0000-0000-0000-000000000000.seg",
            "wal/00000000000000000010-00000000000000000000000000000000.seg",
            "meta/00000000000000000010-00000000-0000-0000-0000-000000000000.seg",
            "wal/",
            "",
        ] {
            assert_eq!(SegmentName::from_key(other), None, "{other}");
        }
    }
}
