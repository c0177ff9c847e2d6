//! Topic names.

use std::fmt;
use std::sync::Arc;

/// Longest topic name, in bytes (Kafka's limit).
pub const TOPIC_NAME_MAX: usize = 249;

/// A topic's name: 1 to 249 characters of `[a-zA-Z0-9._-]`, neither `.` nor `..` (Kafka's rule), so that it is safe as
/// a path element. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a text is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The name has no characters.
    #[error("topic name is empty, allowed are 1 to {TOPIC_NAME_MAX} characters of a-z A-Z 0-9 . _ -")]
    Empty,
    /// The name is too long.
    #[error("topic name has {0} bytes, allowed are 1 to {TOPIC_NAME_MAX}")]
    TooLong(usize),
    /// `.` and `..` mean directories.
    #[error("topic name {0:?} is reserved: it would mean a directory")]
    Reserved(String),
    /// A character outside the allowed set.
    #[error("topic name has character {found:?} at byte {position}, allowed are a-z A-Z 0-9 . _ -")]
    Character {
        /// The first character that is not allowed.
        found: char,
        /// Its position in bytes from the start.
        position: usize,
    },
}

impl TopicName {
    /// Checks and wraps a name.
    pub fn new(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > TOPIC_NAME_MAX {
            return Err(TopicNameError::TooLong(name.len()));
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Reserved(name.to_owned()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some((position, found)) = name.char_indices().find(|(_, c)| !allowed(*c)) {
            return Err(TopicNameError::Character { found, position });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl std::str::FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_kafka_accepts() {
        for name in ["a", "orders", "orders.v1_x-y", "...", "A9", &"x".repeat(249)] {
            assert_eq!(TopicName::new(name).map(|n| n.as_str().to_owned()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn refuses_what_is_no_safe_path() {
        assert_eq!(TopicName::new(""), Err(TopicNameError::Empty));
        assert_eq!(TopicName::new(&"x".repeat(10_240)), Err(TopicNameError::TooLong(10_240)));
        assert_eq!(TopicName::new("."), Err(TopicNameError::Reserved(".".into())));
        assert_eq!(TopicName::new(".."), Err(TopicNameError::Reserved("..".into())));
        // A slash, NUL, right-to-left override, composed and decomposed é, blanks, a query sign.
        for name in
            ["a/b", "a\0b", "a\u{202e}b", "caf\u{e9}", "cafe\u{301}", " a", "a b", "a?b", "a%2fb", "a\\b"]
        {
            assert!(matches!(TopicName::new(name), Err(TopicNameError::Character { .. })), "{name:?}");
        }
    }
}
