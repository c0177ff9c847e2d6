//! Where the table is: `dynamodb://table?endpoint=…&region=…`.

use std::fmt;

use url::Url;

/// The keys that the URL may have after its `?`.
const KEYS: &str = "endpoint and region";

/// Where the table is, and as whom to go there.
#[derive(Clone, PartialEq, Eq)]
pub struct DynamoDbUrl {
    pub(crate) table: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) credentials: Option<(String, String)>,
}

/// A URL that names no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It is no URL, or one for something else.
    #[error("\"{0}\" is no DynamoDB URL, expected dynamodb://TABLE?endpoint=URL&region=REGION")]
    NotDynamoDb(String),
    /// DynamoDB has rules for names.
    #[error("table name \"{0}\" is not 3 to 255 letters, digits, '_', '-' or '.'")]
    Table(String),
    /// A key that means nothing here.
    #[error("unknown key \"{0}\" in the DynamoDB URL, allowed are {KEYS}")]
    UnknownKey(String),
    /// A key that stands there twice.
    #[error("key \"{0}\" is given twice in the DynamoDB URL")]
    Repeated(String),
    /// A key whose value cannot be.
    #[error("\"{value}\" is no value for {key} in the DynamoDB URL, expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Somebody put a secret where it would be logged.
    #[error(
        "credentials do not belong into the DynamoDB URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
         or use a profile or an instance role"
    )]
    Credentials,
}

impl DynamoDbUrl {
    /// Reads `dynamodb://table?endpoint=…&region=…`. Both keys may be left out: then the AWS defaults apply.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        // What stands before an @ may be a secret, however the rest is written: then no part of it is repeated.
        Self::read(text).map_err(|error| if text.contains('@') { UrlError::Credentials } else { error })
    }

    fn read(text: &str) -> Result<Self, UrlError> {
        // By hand where `Url` would not keep the letters: it lowers the case of host names, table names have one.
        let Some(rest) = text.strip_prefix("dynamodb://") else {
            return Err(UrlError::NotDynamoDb(text.to_owned()));
        };
        let (table, query) = rest.split_once('?').unwrap_or((rest, ""));
        let table = table.strip_suffix('/').unwrap_or(table);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !(3..=255).contains(&table.len()) || !table.chars().all(allowed) {
            return Err(UrlError::Table(table.to_owned()));
        }
        let mut parsed = Self { table: table.to_owned(), endpoint: None, region: None, credentials: None };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let (slot, value) = match &*key {
                "endpoint" => (&mut parsed.endpoint, endpoint(&value)?),
                "region" => (&mut parsed.region, region(&value)?),
                _ => return Err(UrlError::UnknownKey(key.into_owned())),
            };
            if slot.replace(value).is_some() {
                return Err(UrlError::Repeated(key.into_owned()));
            }
        }
        Ok(parsed)
    }

    /// Uses these credentials and not the provider chain: for tests, whose process has none in its environment.
    #[must_use]
    pub fn with_static_credentials(mut self, access_key_id: &str, secret_access_key: &str) -> Self {
        self.credentials = Some((access_key_id.to_owned(), secret_access_key.to_owned()));
        self
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }
}

fn endpoint(value: &str) -> Result<String, UrlError> {
    let refused = UrlError::Value {
        key: "endpoint",
        value: value.to_owned(),
        expected: "http://HOST:PORT or https://HOST",
    };
    match Url::parse(value) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => Err(UrlError::Credentials),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() => {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(refused),
    }
}

fn region(value: &str) -> Result<String, UrlError> {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(value.to_owned());
    }
    Err(UrlError::Value { key: "region", value: value.to_owned(), expected: "a region such as eu-central-1" })
}

impl fmt::Display for DynamoDbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dynamodb://{}", self.table)?;
        let keys = [("endpoint", &self.endpoint), ("region", &self.region)];
        let given = keys.iter().filter_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        for ((key, value), separator) in given.zip(['?', '&']) {
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

/// Without the secret.
impl fmt::Debug for DynamoDbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynamoDbUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_they_went_in() {
        for text in [
            "dynamodb://tidelog",
            "dynamodb://Tide_Log.prod-1?region=eu-central-1",
            "dynamodb://tidelog?endpoint=http://127.0.0.1:8000&region=us-east-1",
            "dynamodb://tidelog?endpoint=https://dynamodb.example.org",
        ] {
            assert_eq!(DynamoDbUrl::parse(text).expect(text).to_string(), text);
        }
        let slashes =
            DynamoDbUrl::parse("dynamodb://tidelog/?endpoint=http://localhost:8000/").expect("allowed");
        assert_eq!(slashes.to_string(), "dynamodb://tidelog?endpoint=http://localhost:8000");
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        let rows = [
            ("dynamo://tidelog", "expected dynamodb://TABLE"),
            ("tidelog", "expected dynamodb://TABLE"),
            ("", "expected dynamodb://TABLE"),
            ("dynamodb://", "table name \"\""),
            ("dynamodb://ab", "table name \"ab\""),
            ("dynamodb://a/b", "table name \"a/b\""),
            ("dynamodb://tide%20log", "3 to 255"),
            (
                "dynamodb://tidelog?endpont=x",
                "unknown key \"endpont\" in the DynamoDB URL, allowed are endpoint and region",
            ),
            ("dynamodb://tidelog?region=a&region=b", "\"region\" is given twice"),
            ("dynamodb://tidelog?region=", "no value for region"),
            ("dynamodb://tidelog?region=a%00b", "no value for region"),
            ("dynamodb://tidelog?endpoint=localhost:8000", "expected http://HOST:PORT"),
            ("dynamodb://tidelog?endpoint=ftp://x", "expected http://HOST:PORT"),
            ("dynamodb://key:secret@tidelog", "credentials do not belong"),
            ("dynamodb://tidelog?endpoint=http://key:secret@x", "credentials do not belong"),
            ("dynamodb://key:sec?ret@tidelog", "credentials do not belong"),
            ("dynamodb://tidelog?endpoint=http://key:sec/r&t@x", "credentials do not belong"),
            ("postgres://key:secret@x", "credentials do not belong"),
        ];
        for (text, said) in rows {
            let error = DynamoDbUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(said) && !error.contains("sec"), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let url =
            DynamoDbUrl::parse("dynamodb://tidelog").expect("a URL").with_static_credentials("AKIA", "hush");
        for shown in [format!("{url:?}"), url.to_string()] {
            assert!(!shown.contains("hush") && !shown.contains("AKIA"), "{shown}");
        }
    }
}
