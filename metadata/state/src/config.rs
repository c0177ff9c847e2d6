//! Topic configuration: the keys that exist, their defaults and their ranges. Names are Kafka's.

use std::collections::BTreeMap;

/// Largest `max.message.bytes`: a batch has to fit a request (16 MiB) with room for the rest of it.
pub const MAX_MESSAGE_BYTES_HIGH: u32 = 8 * 1024 * 1024;

/// One configuration key.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// Its name.
    pub name: &'static str,
    /// The value that holds where none is set.
    pub default: &'static str,
    /// What is allowed, in words.
    pub allowed: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    accepts: fn(&str) -> bool,
}

/// Every key that a topic can have.
pub const KEYS: [ConfigKey; 2] = [
    ConfigKey {
        name: "cleanup.policy",
        default: "delete",
        allowed: "delete (key compaction contradicts an archive that others read by glob; it is not supported)",
        doc: "what happens to old records",
        accepts: |value| value == "delete",
    },
    ConfigKey {
        name: "max.message.bytes",
        default: "1048576",
        allowed: "1024 to 8388608",
        doc: "largest record batch that the topic takes, in bytes",
        accepts: |value| matches!(value.parse::<u32>(), Ok(1024..=MAX_MESSAGE_BYTES_HIGH)),
    },
];

/// A key or value that a topic cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("topic configuration has no key {key:?}, allowed are {}", names())]
    UnknownKey {
        /// The key that was given.
        key: String,
    },
    /// The value is outside what the key allows.
    #[error("topic configuration {key} cannot be {value:?}, allowed: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value that was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

fn names() -> String {
    KEYS.map(|key| key.name).join(", ")
}

/// The configuration of one topic: what was set, over the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    set: BTreeMap<&'static str, String>,
}

impl TopicConfig {
    /// Checks and keeps `(key, value)` pairs; the last of equal keys holds.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in pairs {
            config.set(key, Some(value))?;
        }
        Ok(config)
    }

    /// Sets a key, or returns it to its default.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), ConfigError> {
        let known = KEYS
            .iter()
            .find(|known| known.name == key)
            .ok_or_else(|| ConfigError::UnknownKey { key: key.chars().take(100).collect() })?;
        let Some(value) = value else {
            self.set.remove(known.name);
            return Ok(());
        };
        if !(known.accepts)(value) {
            return Err(ConfigError::Value {
                key: known.name,
                value: value.chars().take(100).collect(),
                allowed: known.allowed,
            });
        }
        self.set.insert(known.name, value.to_owned());
        Ok(())
    }

    /// The pairs that were set, by key.
    pub fn overrides(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.set.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The value that holds for a key, set or default; `None` for a key that does not exist.
    pub fn get(&self, key: &str) -> Option<&str> {
        let known = KEYS.iter().find(|known| known.name == key)?;
        Some(self.set.get(known.name).map_or(known.default, String::as_str))
    }

    /// Largest record batch in bytes.
    pub fn max_message_bytes(&self) -> u32 {
        self.get("max.message.bytes").and_then(|value| value.parse().ok()).unwrap_or(1024 * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_allowed_values() {
        for key in KEYS {
            assert!((key.accepts)(key.default), "{}", key.name);
        }
        assert_eq!(TopicConfig::default().max_message_bytes(), 1024 * 1024);
    }

    #[test]
    fn refusals_name_what_is_allowed() {
        let unknown = TopicConfig::new([("retention.hours", "1")]).map_err(|e| e.to_string());
        assert_eq!(
            unknown,
            Err("topic configuration has no key \"retention.hours\", allowed are cleanup.policy, max.message.bytes"
                .into())
        );
        for (key, value) in [
            ("max.message.bytes", "0"),
            ("max.message.bytes", "-5"),
            ("max.message.bytes", "1MB"),
            ("cleanup.policy", "compact"),
        ] {
            assert!(
                matches!(TopicConfig::new([(key, value)]), Err(ConfigError::Value { .. })),
                "{key}={value}"
            );
        }
    }

    #[test]
    fn unset_returns_to_the_default() {
        let mut config = TopicConfig::new([("max.message.bytes", "2048")]).expect("allowed");
        assert_eq!(config.max_message_bytes(), 2048);
        config.set("max.message.bytes", None).expect("known");
        assert_eq!(config, TopicConfig::default());
    }
}
