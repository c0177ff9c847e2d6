//! Logs: text on a terminal, JSON otherwise, always on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Logging settings of a server role.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// How logs are written
    #[arg(long, env = "TIDELOG_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a tracing filter such as "info,tidelog_agent=debug"
    #[arg(long, env = "TIDELOG_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

impl LogArgs {
    /// Whether logs are JSON.
    pub fn is_json(&self) -> bool {
        match self.log_format {
            LogFormat::Auto => !std::io::stderr().is_terminal(),
            LogFormat::Text => false,
            LogFormat::Json => true,
        }
    }

    /// Begins logging, once per process. A wrong filter is told and replaced by `default`, which holds where none is given.
    pub fn start(&self, default: &str) {
        let (filter, wrong) = match EnvFilter::try_new(self.log.as_deref().unwrap_or(default)) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(default), Some(error)),
        };
        let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let started = if self.is_json() {
            builder.json().flatten_event(true).with_target(false).finish().try_init()
        } else {
            builder.with_ansi(colour).with_target(false).finish().try_init()
        };
        if started.is_ok()
            && let Some(error) = wrong
        {
            tracing::warn!(event = "log_filter", %error, "the filter is wrong, the default is used");
        }
    }
}
