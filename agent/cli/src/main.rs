//! The `tidelog` binary: runs the service, and talks to it.
//!
//! Data goes to standard output, everything else to standard error. A command that fails says why in one line, and its exit code says what
//! kind of failure it was: see [`failure::Exit`].
//!
//! Map: `dev`, `agent`, `init`, `doctor` the service's side, on `serve`, `stores`, `admin`, `logging` · the other commands are a client's.

mod admin;
mod agent;
mod dev;
mod doctor;
mod failure;
mod init;
mod logging;
mod serve;
mod size;
mod stores;

use clap::{Parser, Subcommand};

use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A log service with Kafka's model on an object store.
#[derive(Debug, Parser)]
#[command(name = "tidelog", version, max_term_width = 120)]
struct Cli {
    /// How listings are written: text for people, json one object a line
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(Box<dev::DevArgs>),
    Agent(Box<agent::AgentArgs>),
    Init(init::InitArgs),
    Doctor(doctor::DoctorArgs),
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidelog: cannot start: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // What still runs (a blocking read of standard input, say) does not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidelog: {failure}");
            std::process::ExitCode::from(failure.exit as u8)
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let json = cli.output == Output::Json;
    match cli.command {
        Command::Dev(args) => dev::run(*args).await,
        Command::Agent(args) => agent::run(*args).await,
        Command::Init(args) => init::run(args).await,
        Command::Doctor(args) => doctor::run(args, json).await,
    }
}
