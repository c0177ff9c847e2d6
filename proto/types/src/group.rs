//! Names and numbers of consumer groups.

use std::fmt;
use std::sync::Arc;

/// Longest name of a group, member or instance, in bytes (Kafka's limit for topics, which fits one file name).
pub const GROUP_NAME_MAX: usize = 249;

/// Why a text is no name of a group, a member or an instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupNameError {
    /// The name has no characters.
    #[error("{what} is empty, allowed are 1 to {GROUP_NAME_MAX} bytes")]
    Empty {
        /// Which name it is, e.g. `group name`.
        what: &'static str,
    },
    /// The name is too long.
    #[error("{what} has {bytes} bytes, allowed are 1 to {GROUP_NAME_MAX}")]
    TooLong {
        /// Which name it is.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// A character that the name cannot have.
    #[error("{what} has character {found:?} at byte {position}, allowed are {allowed}")]
    Character {
        /// Which name it is.
        what: &'static str,
        /// The first character that is not allowed.
        found: char,
        /// Its position in bytes from the start.
        position: usize,
        /// Which ones are.
        allowed: &'static str,
    },
}

fn check(
    what: &'static str,
    name: &str,
    allowed: (&'static str, fn(char) -> bool),
) -> Result<Arc<str>, GroupNameError> {
    if name.is_empty() {
        return Err(GroupNameError::Empty { what });
    }
    if name.len() > GROUP_NAME_MAX {
        return Err(GroupNameError::TooLong { what, bytes: name.len() });
    }
    let (allowed, is_allowed) = allowed;
    match name.char_indices().find(|(_, c)| !is_allowed(*c)) {
        Some((position, found)) => Err(GroupNameError::Character { what, found, position, allowed }),
        None => Ok(name.into()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            pub fn new(name: &str) -> Result<Self, GroupNameError> {
                check($what, name, $allowed).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = GroupNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
    };
}

const NO_CONTROL: (&str, fn(char) -> bool) = ("all but control characters", |c| !c.is_control());
const PLAIN: (&str, fn(char) -> bool) =
    ("a-z A-Z 0-9 . _ -", |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));

name! {
    /// A consumer group's name: 1 to 249 bytes of UTF-8 without control characters. It never becomes part of a path.
    /// Cheap to clone.
    GroupName, "group name", NO_CONTROL
}

name! {
    /// A member's id, unique in its group: 1 to 249 characters of `[a-zA-Z0-9._-]`. Cheap to clone.
    MemberId, "member id", PLAIN
}

name! {
    /// The name of a static member (Kafka's `group.instance.id`): 1 to 249 characters of `[a-zA-Z0-9._-]`.
    /// Cheap to clone.
    InstanceId, "instance id", PLAIN
}

/// A group's generation: rises with each change of who is to own or owns what, and is never used twice in a cluster,
/// whatever happens to the group. 0 comes before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// Before the first.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of an offset commit among those of one run of a member, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_any_name_that_can_be_shown() {
        for name in ["a", "orders / v2", "gr\u{fc}\u{df}e", "..", &"x".repeat(249)] {
            assert_eq!(GroupName::new(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
        let position_of = |name: &str| match GroupName::new(name) {
            Err(GroupNameError::Character { position, .. }) => position,
            other => panic!("{other:?}"),
        };
        assert_eq!(position_of("a\0"), 1);
        assert_eq!(position_of("\u{7f}"), 0);
        assert_eq!(position_of("\u{fc}\u{85}b"), 2, "control characters beyond ASCII as well");
        assert_eq!(GroupName::new(""), Err(GroupNameError::Empty { what: "group name" }));
        // 125 characters of two bytes.
        let too_long = GroupName::new(&"\u{fc}".repeat(125));
        assert_eq!(too_long, Err(GroupNameError::TooLong { what: "group name", bytes: 250 }));
    }

    #[test]
    fn members_and_instances_have_plain_names() {
        for name in ["a", "host-1.example_2", "..", &"x".repeat(249)] {
            assert_eq!(MemberId::new(name).map(|name| name.to_string()), Ok(name.to_owned()));
            assert_eq!(InstanceId::new(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
        for name in ["a b", "a/b", "\u{fc}", "a\n"] {
            assert!(matches!(MemberId::new(name), Err(GroupNameError::Character { .. })), "{name:?}");
        }
        assert_eq!(InstanceId::new(""), Err(GroupNameError::Empty { what: "instance id" }));
    }
}
