//! One signed HTTP request: all that readiness checks, bucket creation and smoke tests need of an AWS client.
//!
//! HTTP/1.0 on purpose: the server closes the connection after its answer and does not chunk it. Signatures are
//! [AWS Signature Version 4](https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html)
//! with the payload hash included.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

/// A service that does not answer one of these small requests within this time counts as not ready.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One request, signed with this crate's credentials.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The name that the signature is scoped to: `s3` or `dynamodb`.
    pub service: &'a str,
    /// `GET`, `PUT`, ...
    pub method: &'a str,
    /// The path, starting with `/`; only characters that need no escaping, and no query.
    pub path: &'a str,
    /// Headers besides the host, the length and the signature's.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, with invalid UTF-8 replaced.
    pub body: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}", self.status, self.body)
    }
}

impl Request<'_> {
    /// Sends the request to `authority` (`host:port`) and reads the answer to its end.
    ///
    /// # Errors
    /// What the connection returned, `TimedOut` after ten seconds, `InvalidData` if the answer is not HTTP.
    pub async fn send(&self, authority: &str) -> io::Result<Answer> {
        tokio::time::timeout(TIMEOUT, self.exchange(authority)).await.map_err(|_elapsed| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {TIMEOUT:?}"))
        })?
    }

    async fn exchange(&self, authority: &str) -> io::Result<Answer> {
        let mut connection = TcpStream::connect(authority).await?;
        let mut message = self.head(authority, unix_seconds()).into_bytes();
        message.extend_from_slice(self.body);
        connection.write_all(&message).await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        parse_answer(&answer).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP in {} bytes", answer.len()))
        })
    }

    /// Everything before the body.
    fn head(&self, authority: &str, now: u64) -> String {
        let payload_hash = hex(&Sha256::digest(self.body));
        let time = amz_date(now);
        let signature = self.signature(authority, &payload_hash, &time);
        let mut head = format!(
            "{} {} HTTP/1.0\r\nhost: {authority}\r\ncontent-length: {}\r\nx-amz-content-sha256: {payload_hash}\r\n\
             x-amz-date: {time}\r\nauthorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/{}, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}\r\n",
            self.method,
            self.path,
            self.body.len(),
            self.scope(&time),
        );
        for (name, value) in self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        head
    }

    fn scope(&self, time: &str) -> String {
        // The date is the time up to its `T`.
        format!("{}/{REGION}/{}/aws4_request", &time[..8], self.service)
    }

    fn signature(&self, authority: &str, payload_hash: &str, time: &str) -> String {
        // The empty line after the path is the empty query.
        let canonical = format!(
            "{}\n{}\n\nhost:{authority}\nx-amz-content-sha256:{payload_hash}\nx-amz-date:{time}\n\n\
             host;x-amz-content-sha256;x-amz-date\n{payload_hash}",
            self.method, self.path
        );
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{time}\n{}\n{}", self.scope(time), hex(&Sha256::digest(canonical)));
        let mut key = format!("AWS4{SECRET_ACCESS_KEY}").into_bytes();
        for part in [&time[..8], REGION, self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(&hmac(&key, &to_sign))
    }
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Real services compare signatures with the real time.
#[expect(clippy::disallowed_methods, reason = "real services check signatures against the real time")]
fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// `20150830T123600Z`. The calendar is Howard Hinnant's `civil_from_days`, with years that start in March.
fn amz_date(unix_seconds: u64) -> String {
    let days_since_0000_03_01 = unix_seconds / 86_400 + 719_468;
    let era = days_since_0000_03_01 / 146_097;
    let day_of_era = days_since_0000_03_01 % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second_of_day = unix_seconds % 86_400;
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `HTTP/1.1 200 OK`, headers, an empty line, the body.
fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim_end().parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_aws_wants_them() {
        assert_eq!(amz_date(1_440_938_160), "20150830T123600Z");
        assert_eq!(amz_date(1_709_164_800), "20240229T000000Z");
        assert_eq!(amz_date(1_735_689_599), "20241231T235959Z");
    }

    #[test]
    fn answers_are_read_and_other_bytes_are_refused() {
        let answer = parse_answer(b"HTTP/1.1 412 Precondition Failed\r\nA: b\r\n\r\n<Error/>");
        assert_eq!(answer, Some(Answer { status: 412, body: "<Error/>".to_owned() }));
        assert_eq!(parse_answer(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse_answer(b"HTTP/1.1 many\r\n\r\n"), None);
        assert_eq!(parse_answer(b""), None);
    }
}
