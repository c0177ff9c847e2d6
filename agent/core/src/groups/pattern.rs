//! Patterns of topic names.

use regex::bytes::{Regex, RegexBuilder};
use tidelog_metadata_state::group::subscription::Subscription;
use tidelog_metadata_state::limits::TOPICS_PER_SUBSCRIPTION_MAX;
use tidelog_types::TopicName;

/// Bytes that a compiled pattern may take: a thousand characters fit several times, repetitions of repetitions do not.
const COMPILED_BYTES_MAX: usize = 256 * 1024;
/// Brackets within brackets.
const NESTING_MAX: u32 = 50;

/// A pattern that whole names match or do not: a regular expression in the syntax of RE2, without Unicode classes, for
/// names are ASCII. Takes linear time, whatever the pattern.
#[derive(Debug)]
pub(super) struct Pattern(Regex);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a regular expression that is understood: {0}")]
pub struct PatternError(String);

fn compile(expression: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .nest_limit(NESTING_MAX)
        .build()
        // The last line says what is wrong; those before draw where.
        .map_err(|error| PatternError(error.to_string().lines().last().unwrap_or_default().trim().to_owned()))
}

impl Pattern {
    pub fn new(expression: &str) -> Result<Self, PatternError> {
        // Alone first: what is no expression by itself could become one inside the brackets.
        compile(expression)?;
        compile(&format!("\\A(?:{expression})\\z")).map(Self)
    }

    fn matches(&self, name: &TopicName) -> bool {
        self.0.is_match(name.as_str().as_bytes())
    }

    /// The names that match, at most as many as a subscription can have beside those that are named.
    pub fn resolve<'a>(
        &self,
        named: &Subscription,
        names: impl Iterator<Item = &'a TopicName>,
    ) -> Subscription {
        let room = TOPICS_PER_SUBSCRIPTION_MAX.saturating_sub(named.len());
        let new = |name: &&TopicName| !named.contains(name) && self.matches(name);
        Subscription::new(names.filter(new).take(room).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(expression: &str, names: &[&str]) -> Vec<String> {
        let names: Vec<TopicName> = names.iter().map(|name| TopicName::new(name).expect("a name")).collect();
        let pattern = Pattern::new(expression).expect("a pattern");
        let found = pattern.resolve(&Subscription::default(), names.iter());
        found.names().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whole_names_match() {
        let names = ["orders", "orders-v2", "old-orders", "clicks"];
        assert_eq!(resolved("orders", &names), ["orders"]);
        assert_eq!(resolved("orders.*", &names), ["orders", "orders-v2"]);
        assert_eq!(resolved("orders|clicks", &names), ["clicks", "orders"]);
        assert_eq!(resolved("^orders$", &names), ["orders"]);
        assert_eq!(resolved(r"(?i)ORDERS(-v\d)?", &names), ["orders", "orders-v2"]);
        assert_eq!(resolved("", &names), [] as [&str; 0]);
    }

    #[test]
    fn what_is_named_is_not_counted_twice_and_there_is_a_limit() {
        let names: Vec<TopicName> =
            (0..2_000).map(|n| TopicName::new(&format!("t{n}")).expect("a name")).collect();
        let pattern = Pattern::new(".*").expect("a pattern");
        let named = Subscription::new(names.iter().take(10).cloned());
        let found = pattern.resolve(&named, names.iter());
        assert_eq!(found.len(), TOPICS_PER_SUBSCRIPTION_MAX - 10);
        assert_eq!(named.union(&found).len(), TOPICS_PER_SUBSCRIPTION_MAX);
    }

    #[test]
    fn nonsense_is_refused() {
        for expression in ["(", "a)|(b", "[", "a{1000}{1000}", r"\p{Greek}", "(?=a)", r"(a)\1"] {
            assert!(Pattern::new(expression).is_err(), "{expression}");
        }
        let deep = format!("{}a{}", "(".repeat(400), ")".repeat(400));
        assert!(Pattern::new(&deep).is_err());
        let error = Pattern::new("(").expect_err("nonsense").to_string();
        assert!(error.contains("unclosed group") && !error.contains('\n'), "{error}");
    }
}
