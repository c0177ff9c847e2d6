//! How a command fails: one line, and an exit code that scripts can rely on.

use std::fmt;

/// Exit codes; 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed that no other code names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// Not allowed.
    Auth = 4,
    /// Nobody answers, or not in time.
    Unavailable = 5,
    /// It exists already, or belongs to somebody else.
    Conflict = 6,
    /// It answers, and is not well.
    Unhealthy = 10,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One line for people.
    pub message: String,
}

impl Failure {
    /// A failure with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A failure that no special code names.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// Says which service did not answer, if that is what happened and it does not say so yet.
    pub fn at(mut self, endpoints: &str) -> Self {
        let hosts = endpoints.split(',').filter_map(|endpoint| endpoint.rsplit("://").next());
        let named =
            hosts.map(|host| host.trim().trim_end_matches('/')).any(|host| self.message.contains(host));
        if self.exit == Exit::Unavailable && !named {
            self.message = format!("{endpoints}: {}", self.message);
        }
        self
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
