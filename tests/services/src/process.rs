//! A service as a process of this machine: its ports, its log, its end.
//!
//! `run.sh` stands between us and the service; it says why. Stopping is closing a pipe, so a test binary that is
//! killed stops its services as well as one that returns.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Kind;

/// Where ports are taken from: below what Linux gives to outgoing connections (32768 and up), so that no connection of
/// a busy test takes the port between our look and the service's bind.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// How much of a log an error quotes.
const QUOTED_LINES: usize = 15;

/// A program to run and what to give it.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// A folder for the data of one run, and a file for its log. Both are new.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) work: PathBuf,
    pub(crate) log: PathBuf,
}

impl Run {
    /// Makes the folder and the file under the services' folder.
    pub(crate) fn create(kind: Kind) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (runs, logs) = (services_dir().join("run"), services_dir().join("logs"));
        fs::create_dir_all(&runs)?;
        fs::create_dir_all(&logs)?;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{}-{count}", kind.name(), std::process::id());
            let work = runs.join(&name);
            match fs::create_dir(&work) {
                Ok(()) => {
                    let log = logs.join(format!("{name}.log"));
                    File::create(&log)?;
                    return Ok(Self { work, log });
                }
                // Left by a run that was cut off by a power loss, under a process id that came round again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A service under `run.sh`. Dropping it stops the service and waits until it is gone (at most about 6 s).
#[derive(Debug)]
pub(crate) struct Process {
    runner: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program. It has not bound its ports when this returns.
    pub(crate) fn spawn(run: &Run, launch: &Launch) -> io::Result<Self> {
        let runner = Command::new(manifest_dir().join("run.sh"))
            .arg(&run.log)
            .arg(&run.work)
            .arg(&launch.program)
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal is for us; the runner notices our end.
            .process_group(0)
            .spawn();
        match runner {
            Ok(runner) => Ok(Self { runner, log: run.log.clone() }),
            Err(error) => {
                // No runner, so nobody else removes the folder.
                let _ = fs::remove_dir_all(&run.work);
                Err(error)
            }
        }
    }

    /// Where the service writes what it has to say.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the service ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.runner.try_wait(), Ok(None))
    }

    fn stop(&mut self) {
        // The end of its input is the runner's sign to stop; it bounds how long that takes.
        drop(self.runner.stdin.take());
        let _ = self.runner.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ports of the loopback interface that nothing listens on, each different from those this process got before.
pub(crate) fn free_ports<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let width = PORTS.end - PORTS.start;
    // Neighbouring process ids start 16 apart: parallel test binaries do not try the same ports at the same time.
    let offset = std::process::id().wrapping_mul(16);
    let mut ports = [0; COUNT];
    let mut found = 0;
    for _ in PORTS {
        if found == COUNT {
            return Ok(ports);
        }
        let candidate = PORTS.start + offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % width;
        let candidate = u16::try_from(candidate).map_err(io::Error::other)?;
        // All interfaces: a service elsewhere on this machine may hold the port on one of them.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, candidate)).is_ok() {
            ports[found] = candidate;
            found += 1;
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no free port between {} and {}", PORTS.start, PORTS.end),
    ))
}

/// The end of a log, in one line.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join(" | ")
}

/// Where services are installed, run and log: `TIDELOG_SERVICES_DIR`, or `target/services` of this repository.
pub(crate) fn services_dir() -> PathBuf {
    match std::env::var_os("TIDELOG_SERVICES_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        // Two folders up from this crate is the repository.
        _ => manifest_dir().ancestors().nth(2).unwrap_or(manifest_dir()).join("target/services"),
    }
}

/// The folder of this crate, where its scripts lie.
pub(crate) fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
