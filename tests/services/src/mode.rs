//! What the environment asks for, and the helper that tests call.

use std::io::{self, Write};

use crate::{Kind, Service, ServiceError};

/// What `TIDELOG_TEST_SERVICES` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Containers where they can be had, else native.
    Auto,
    /// Processes of this machine.
    Native,
    /// Containers or failure.
    Containers,
    /// No services: tests that need them are skipped.
    None,
}

impl Mode {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`ServiceError::UnknownMode`].
    pub fn from_env() -> Result<Self, ServiceError> {
        let value = std::env::var_os("TIDELOG_TEST_SERVICES").unwrap_or_default();
        Self::parse(&value.to_string_lossy())
    }

    fn parse(value: &str) -> Result<Self, ServiceError> {
        match value {
            "" | "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "containers" => Ok(Self::Containers),
            "none" => Ok(Self::None),
            _ => Err(ServiceError::UnknownMode { found: value.to_owned() }),
        }
    }
}

/// The shared service for a test, or `None`, said loudly, if `TIDELOG_TEST_SERVICES=none` asks for a run without:
///
/// ```no_run
/// # use tidelog_test_services::{Kind, require};
/// # async fn test() {
/// let Some(minio) = require(Kind::Minio).await else { return };
/// # }
/// ```
///
/// # Panics
/// If the service cannot be had: a test that needs one and gets none has failed.
pub async fn require(kind: Kind) -> Option<&'static Service> {
    match Service::shared(kind).await {
        Ok(service) => Some(service),
        Err(ServiceError::SwitchedOff { kind }) => {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("a test");
            // Not eprintln!, which the test harness would withhold from a passing test.
            let _ = writeln!(io::stderr(), "SKIPPED {test}: needs {kind}, and TIDELOG_TEST_SERVICES is none");
            None
        }
        Err(error) => panic!("{error} (TIDELOG_TEST_SERVICES=none skips the tests that need services)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_others_are_refused() {
        assert_eq!(Mode::parse("").unwrap(), Mode::Auto);
        assert_eq!(Mode::parse("containers").unwrap(), Mode::Containers);
        let error = Mode::parse("docker").unwrap_err().to_string();
        assert_eq!(
            error,
            "TIDELOG_TEST_SERVICES is \"docker\", allowed are auto, native, containers and none"
        );
    }
}
