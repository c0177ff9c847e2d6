//! A service for the tests of commands, and what commands say.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

/// A service in memory on free ports; ended when dropped.
pub struct Service {
    pub child: Child,
    pub endpoint: String,
}

impl Service {
    pub fn start() -> Self {
        // Port 0 would be free for certain, but has to be found out; the banner tells it.
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidelog"))
            .args([
                "dev",
                "--memory",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--log-format",
                "text",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let mut banner = String::new();
        let endpoint = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("text") > 0, "no address in the banner: {banner}");
            if let Some(address) =
                line.trim().strip_prefix("gRPC ").and_then(|rest| rest.split_whitespace().next())
            {
                break format!("http://{address}");
            }
            banner.push_str(&line);
        };
        // Whatever it logs later does not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, endpoint }
    }

    /// No service, for commands that do not get as far.
    pub fn absent(endpoint: &str) -> Self {
        Self { child: Command::new("true").spawn().expect("exists"), endpoint: endpoint.to_owned() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidelog"));
        command.args(arguments).env("TIDELOG_ENDPOINT", &self.endpoint).env("NO_COLOR", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.command(arguments).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // A command that does not read to the end closes the pipe.
        let feeding = std::thread::spawn(move || stdin.write_all(&input));
        let said = Said::from(child.wait_with_output().expect("the command ends"));
        let _ = feeding.join();
        said
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), out: output.stdout, err }
    }
}

impl Said {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// It failed with this code, and said why in one line without a backtrace.
    #[track_caller]
    pub fn failed(&self, code: i32, why: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        let reason = self.err.lines().find(|line| line.contains(why));
        assert!(reason.is_some_and(|line| line.starts_with("tidelog: ")), "no {why:?} in {:?}", self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("RUST_BACKTRACE"), "{}", self.err);
    }
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill exists");
    assert!(sent.success());
}
