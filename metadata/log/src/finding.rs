//! What a probe of a store says: `tidelog init`, `tidelog doctor` and the start of an agent ask before they trust one.

use std::fmt;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Check {
    /// It answers, with these credentials.
    Reachable,
    /// A second create of one name is refused.
    CreateIfAbsent,
    /// Of many creates of one name at once, one succeeds.
    CreateRace,
    /// What was written is read at once, also after a read that found nothing.
    ReadAfterWrite,
    /// Its clock and this machine's agree.
    Clock,
    /// Whether these credentials may delete.
    Delete,
    /// The table is the one that `tidelog init` creates.
    TableSchema,
    /// The table has no feature switched on that breaks a promise.
    TableSettings,
    /// The stores belong to a cluster, and to the same one.
    Initialised,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reachable => "reachable",
            Self::CreateIfAbsent => "create-if-absent",
            Self::CreateRace => "create-if-absent under a race",
            Self::ReadAfterWrite => "read after write",
            Self::Clock => "clock",
            Self::Delete => "delete permission",
            Self::TableSchema => "table schema",
            Self::TableSettings => "table settings",
            Self::Initialised => "initialised",
        })
    }
}

/// Whether the store can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Usable, but worth knowing, or right for one role and wrong for another.
    Note,
    /// Not to be used as it is.
    Bad,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "bad",
        })
    }
}

/// One result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// What it means.
    pub verdict: Verdict,
    /// What was seen, in a sentence without a full stop.
    pub seen: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<&'static str>,
}

impl Finding {
    /// All is as it should be.
    pub fn good(check: Check, seen: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, seen: seen.into(), remedy: None }
    }

    /// Usable, but worth knowing.
    pub fn note(check: Check, seen: impl Into<String>, remedy: &'static str) -> Self {
        Self { check, verdict: Verdict::Note, seen: seen.into(), remedy: Some(remedy) }
    }

    /// Not to be used.
    pub fn bad(check: Check, seen: impl Into<String>, remedy: &'static str) -> Self {
        Self { check, verdict: Verdict::Bad, seen: seen.into(), remedy: Some(remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.verdict, self.check, self.seen)?;
        match self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
