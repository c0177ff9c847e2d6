//! End-to-end tests against real processes and real stores: this library starts the `tidelog` binary, waits until it is
//! ready, runs its commands, and ends it in each way that a process can end. The tests lie in `tests/`.
//!
//! The binary is the one beside the test (`cargo build -p tidelog` makes it), or `TIDELOG_BIN`.
//!
//! Map: [`Server`] a running agent · [`Command`](tidelog) its command line · [`Stores`] what it runs on · [`Balancer`] what stands before several · [`dataset`]
//! real data.

mod balancer;
pub mod dataset;
mod server;
mod stores;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

pub use balancer::{Balancer, BalancerKind};
pub use server::Server;
pub use stores::{Stores, StoresKind};

/// Path of the binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDELOG_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    // target/<profile>/deps/<test>
    let path = test.ancestors().nth(2).expect("a target directory").join("tidelog");
    assert!(path.exists(), "{} is missing: build it first with `cargo build -p tidelog`", path.display());
    path
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error as text.
    pub err: String,
}

impl Said {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Itself, if the command succeeded; else the test ends with what it said.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.text(), self.err);
        self
    }
}

/// Runs `tidelog` with arguments and standard input, and waits for its end.
pub async fn tidelog(endpoint: Option<&str>, arguments: &[&str], input: Vec<u8>) -> Said {
    let endpoint = endpoint.map(|endpoint| ("TIDELOG_ENDPOINT", endpoint));
    tidelog_with(endpoint.as_slice(), arguments, input).await
}

/// The same with further variables in its environment.
pub async fn tidelog_with(environment: &[(&str, &str)], arguments: &[&str], input: Vec<u8>) -> Said {
    use tokio::io::AsyncWriteExt;
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).env_remove("TIDELOG_ENDPOINT").env("NO_COLOR", "1");
    command.envs(tidelog_test_services::credentials_env());
    command.envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let feed = tokio::spawn(async move {
        // A command that does not read to the end closes the pipe.
        let _ = stdin.write_all(&input).await;
    });
    let output = child.wait_with_output().await.expect("the command ends");
    feed.abort();
    Said {
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A port that was free a moment ago, and that no connection gets by itself: systems take those for connections from 32768 on.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run beside each other begin at different places.
    let begin = std::process::id().wrapping_mul(2_654_435_761) % PORTS.len() as u32;
    for _ in PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (begin + step) % PORTS.len() as u32;
        let port = u16::try_from(port).expect("below 2^16");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
