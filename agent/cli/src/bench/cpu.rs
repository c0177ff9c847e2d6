//! CPU time of processes, from `/proc`.

use crate::failure::{Exit, Failure};

/// Clock ticks a second in `/proc`: 100 on every Linux that can run this (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process whose CPU time is measured.
#[derive(Debug, Clone)]
pub struct Process(String);

impl Process {
    /// This process.
    pub fn own() -> Self {
        Self("self".into())
    }

    /// A process by its number; an error if it cannot be measured.
    pub fn with_id(id: u32) -> Result<Self, Failure> {
        let process = Self(id.to_string());
        process.cpu_seconds().map(|_| process).ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("--pid {id}: there is no such process, or no /proc/{id}/stat"),
            )
        })
    }

    /// CPU-seconds that it has used, in user and in kernel mode, all threads together.
    pub fn cpu_seconds(&self) -> Option<f64> {
        parse(&std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?)
    }
}

/// Fields 14 and 15 of proc_pid_stat(5). The command's name, field 2, stands in brackets and may hold anything.
fn parse(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 250 0 0 20 0 9";
        assert_eq!(parse(stat), Some(4.0));
        assert_eq!(parse("42 (a"), None);
        assert_eq!(parse("42 (a) S 1"), None);
        assert!(Process::own().cpu_seconds().is_some());
    }
}
