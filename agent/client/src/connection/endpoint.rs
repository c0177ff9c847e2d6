//! Addresses of agents.

use std::fmt;
use std::str::FromStr;

use crate::error::ConnectError;

/// Default port of an agent.
const DEFAULT_PORT: u16 = 7070;

/// Address of an agent: `http://HOST:PORT`. The scheme may be left out, and the port is 7070 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a list of addresses, divided by commas.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ConnectError> {
        text.split(',').map(|one| one.trim().parse()).collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let invalid = |problem| ConnectError::InvalidEndpoint { endpoint: text.to_owned(), problem };
        if let Some((_, host)) = text.rsplit_once('@') {
            // What stands before it may be a secret, which is not repeated.
            let endpoint = format!("…@{host}");
            return Err(ConnectError::InvalidEndpoint { endpoint, problem: "has credentials in it" });
        }
        if text.starts_with("https://") {
            return Err(invalid("asks for TLS, which this version does not speak"));
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: tonic::codegen::http::Uri = full.parse().map_err(|_| invalid("is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("has another scheme than http"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("names no host"))?;
        if authority.host().is_empty() {
            return Err(invalid("names no host"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("has a path"));
        }
        if authority.as_str().ends_with(':') {
            return Err(invalid("has no port behind its colon"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        if has_port && authority.port_u16().is_none() {
            return Err(invalid("has a port that is none"));
        }
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self(format!("http://{}:{port}", authority.host())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_completed_or_refused() {
        for (text, full) in [
            ("http://127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("localhost", "http://localhost:7070"),
            ("log.example:80/", "http://log.example:80"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(full.to_owned()), "{text}");
        }
        for text in [
            "",
            "http://",
            "https://h:1",
            "ftp://h",
            "http://h:99999",
            "http://h:",
            "h/p",
            "a b",
            "http://u@h",
            "http://u:hush@h",
            "https://u:hu/hush@h",
            ":1",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(matches!(&error, ConnectError::InvalidEndpoint { .. }), "{text}: {error}");
            assert!(!error.to_string().contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn lists_are_divided_by_commas() {
        let parsed =
            |text| Endpoint::parse_list(text).map(|list| list.iter().map(Endpoint::to_string).collect());
        let both = vec!["http://a:1".to_owned(), "http://b:7070".to_owned()];
        assert_eq!(parsed("a:1, http://b"), Ok(both));
        assert_eq!(parsed("a:1"), Ok(vec!["http://a:1".to_owned()]));
        for wrong in ["", ",", "a:1,", "a:1,,b:1", "a:1 b:1"] {
            assert!(Endpoint::parse_list(wrong).is_err(), "{wrong:?}");
        }
    }
}
