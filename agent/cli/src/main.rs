//! The `tidelog` binary: runs the service, and talks to it.
//!
//! Data goes to standard output, everything else to standard error. A command that fails says why in one line, and its exit code says what
//! kind of failure it was: see [`failure::Exit`].
//!
//! Map: `dev`, `agent`, `init`, `doctor` the service's side, on `serve`, `stores`, `admin`, `logging` · `topic`, `group`, `produce`, `consume`,
//! `bench` a client's, on `connect`, `interrupt`, `output`, `record_json`.

mod admin;
mod agent;
mod bench;
mod cluster;
mod connect;
mod consume;
mod dev;
mod doctor;
mod failure;
mod group;
mod init;
mod interrupt;
mod logging;
mod output;
mod produce;
mod record_json;
mod serve;
mod size;
mod stores;
mod topic;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A log service with Kafka's model on an object store.
#[derive(Debug, Parser)]
#[command(name = "tidelog", version, max_term_width = 120)]
struct Cli {
    /// Address of an agent, for the commands of a client; of several, divided by commas, any that answers is used
    #[arg(
        long,
        global = true,
        env = "TIDELOG_ENDPOINT",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    endpoint: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(Box<dev::DevArgs>),
    Agent(Box<agent::AgentArgs>),
    Init(init::InitArgs),
    Doctor {
        #[command(flatten)]
        args: doctor::DoctorArgs,
        #[command(flatten)]
        listing: output::Listing,
    },
    Topic(topic::TopicArgs),
    Group(group::GroupArgs),
    Produce(produce::ProduceArgs),
    Consume(Box<consume::ConsumeArgs>),
    Cluster(cluster::ClusterArgs),
    Status(cluster::StatusArgs),
    Bench(bench::BenchArgs),
    /// Writes a completion script for a shell to standard output
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
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
    match cli.command {
        Command::Dev(args) => dev::run(*args).await,
        Command::Agent(args) => agent::run(*args).await,
        Command::Init(args) => init::run(args).await,
        Command::Doctor { args, listing } => doctor::run(args, listing.is_json()).await,
        Command::Topic(args) => {
            topic::run(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Group(args) => {
            group::run(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Produce(args) => {
            produce::run(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Consume(args) => {
            consume::run(*args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Cluster(args) => {
            cluster::run(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Status(args) => {
            cluster::status(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Bench(args) => {
            bench::run(args, &cli.endpoint).await.map_err(|failure| failure.at(&cli.endpoint))
        }
        Command::Completion { shell } => completion(shell),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    use std::io::Write;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidelog", &mut script);
    output::written(std::io::stdout().write_all(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
