//! A running `tidelog dev` or `tidelog agent`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::{Said, Stores, binary, free_port, tidelog};

/// How long a server may take until it is ready before a test fails. Not a measure: machines are slow at times.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A server process on loopback; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    admin_port: u16,
    log: std::path::PathBuf,
    ready_after: Duration,
}

impl Server {
    /// Starts a role (`dev` or `agent`) with arguments, and waits until it is ready.
    pub async fn start(role: &str, arguments: &[&str], log_directory: &Path) -> Self {
        loop {
            let mut server = Self::spawn(free_port(), role, arguments, log_directory);
            match server.ready().await {
                Ok(()) => return server,
                // Somebody else has taken one of the ports since.
                Err(status) if status.code() == Some(6) && server.log().contains("in use (os error") => {}
                Err(status) => panic!("{role} ended with {status} before it was ready: {}", server.log()),
            }
        }
    }

    /// The same on a port of the caller's.
    pub async fn start_on(port: u16, role: &str, arguments: &[&str], log_directory: &Path) -> Self {
        let mut server = Self::spawn(port, role, arguments, log_directory);
        if let Err(status) = server.ready().await {
            panic!("{role} ended with {status} before it was ready: {}", server.log());
        }
        server
    }

    /// Starts it again on the same ports, after it ended, without waiting for anything.
    pub fn start_again(&mut self, role: &str, arguments: &[&str], log_directory: &Path) {
        *self = Self::spawn_on((self.port, self.admin_port), role, arguments, log_directory, &[]);
    }

    /// Sends it a signal, by name without SIG.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().await;
        assert!(sent.expect("kill is there").success());
    }

    /// Waits until it is ready; fails with its status if it ends.
    pub async fn ready(&mut self) -> Result<(), std::process::ExitStatus> {
        let started = Instant::now();
        while self.http("/readyz").await.is_none_or(|(status, _)| status != 200) {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Err(status);
            }
            assert!(started.elapsed() < READY_WITHIN, "it is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ready_after = started.elapsed();
        Ok(())
    }

    /// Starts `agent`, or `dev` for embedded ones, on stores that are initialised.
    pub async fn on(stores: &Stores) -> Self {
        let (role, arguments) = stores.server();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Self::start(role, &arguments, stores.directory()).await
    }

    /// Starts a role without waiting for anything.
    pub fn spawn(port: u16, role: &str, arguments: &[&str], log_directory: &Path) -> Self {
        Self::spawn_with(port, role, arguments, log_directory, &[])
    }

    /// The same with further variables in its environment.
    pub fn spawn_with(
        port: u16,
        role: &str,
        arguments: &[&str],
        log_directory: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::spawn_on((port, free_port()), role, arguments, log_directory, environment)
    }

    fn spawn_on(
        (port, admin_port): (u16, u16),
        role: &str,
        arguments: &[&str],
        log_directory: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let log = log_directory.join(format!("{role}-{port}-{admin_port}.log"));
        // One that is started again goes on where it was.
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let file = file.expect("the test's own directory");
        let mut command = Command::new(binary());
        command
            .arg(role)
            .args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--admin-listen",
                &format!("127.0.0.1:{admin_port}"),
            ])
            .args(arguments)
            .envs(tidelog_test_services::credentials_env())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true);
        let child = command.spawn().expect("the binary starts");
        Self { child, port, admin_port, log, ready_after: Duration::ZERO }
    }

    /// URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for probes and metrics.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// How long it took from start to ready.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs a client command against it.
    pub async fn run(&self, arguments: &[&str], input: impl Into<Vec<u8>>) -> Said {
        tidelog(Some(&self.endpoint()), arguments, input.into()).await
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("our own child");
    }

    /// Ends it as SIGTERM does; returns its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let ended = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await;
        assert!(ended.expect("kill is there").success());
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        status.expect("a drain is bounded").expect("our own child").code()
    }

    /// Whether it still runs, or its exit code.
    pub async fn exited(&mut self, within: Duration) -> Option<std::process::ExitStatus> {
        tokio::time::timeout(within, self.child.wait())
            .await
            .ok()
            .map(|status| status.expect("our own child"))
    }

    /// `GET path` at the admin port: status and body; `None` if nobody listens.
    pub async fn http(&self, path: &str) -> Option<(u16, String)> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin_port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// The sum of all series of a metric whose labels contain each of `labels` (`name="value"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (status, body) = self.http("/metrics").await.expect("the server runs");
        assert_eq!(status, 200, "{body}");
        body.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
