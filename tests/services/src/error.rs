//! Why a service could not be had.

use std::path::PathBuf;

use crate::Kind;

/// Why a service could not be had. Every variant names what to look at.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// `TIDELOG_TEST_SERVICES` holds something else than its four values.
    #[error("TIDELOG_TEST_SERVICES is {found:?}, allowed are auto, native, containers and none")]
    UnknownMode {
        /// What it holds.
        found: String,
    },
    /// `TIDELOG_TEST_SERVICES=none` asks for a run without services.
    #[error("{kind} was not started because TIDELOG_TEST_SERVICES is none")]
    SwitchedOff {
        /// The service asked for.
        kind: Kind,
    },
    /// `install.sh` did not bring the service.
    #[error("{kind} could not be installed by tests/services/install.sh: {last_lines}")]
    Install {
        /// The service asked for.
        kind: Kind,
        /// The end of what the script said.
        last_lines: String,
    },
    /// The operating system refused a process, a file or a port.
    #[error("{kind} could not be started: {action} failed, see {}", log.display())]
    Start {
        /// The service asked for.
        kind: Kind,
        /// What was refused.
        action: String,
        /// The log of the service.
        log: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
    /// The process ended before it answered.
    #[error("{kind} ended before it was ready, see {}: {last_lines}", log.display())]
    Ended {
        /// The service asked for.
        kind: Kind,
        /// The log of the service.
        log: PathBuf,
        /// The end of that log.
        last_lines: String,
    },
    /// The process runs and does not answer as it should.
    #[error("{kind} was not ready after {seconds} s ({last_answer}), see {}: {last_lines}", log.display())]
    NotReady {
        /// The service asked for.
        kind: Kind,
        /// How long it was waited for.
        seconds: u64,
        /// What it said to the last question.
        last_answer: String,
        /// The log of the service.
        log: PathBuf,
        /// The end of that log.
        last_lines: String,
    },
    /// A running service refused a request.
    #[error("{kind} refused to {action} ({answer}), see {}", log.display())]
    Refused {
        /// The service asked.
        kind: Kind,
        /// What was asked.
        action: String,
        /// Its answer.
        answer: String,
        /// The log of the service.
        log: PathBuf,
    },
    /// The service asked does not have the interface asked for.
    #[error("{kind} has no {interface} interface")]
    NoInterface {
        /// The service asked.
        kind: Kind,
        /// The interface it lacks.
        interface: &'static str,
    },
    /// Containers were asked for and cannot be had.
    #[error("{kind} could not be started as a container: {reason}")]
    Container {
        /// The service asked for.
        kind: Kind,
        /// What stands in the way, and what helps.
        reason: String,
    },
}
