//! The services of the tests, by hand: starts those named, prints what to paste, and stops them at Ctrl-C or at the
//! end of standard input.
//!
//! ```text
//! cargo run -p tidelog-test-services -- up minio dynamodb
//! ```

use std::io::{self, Write};
use std::process::ExitCode;

use tidelog_test_services::{Kind, Service, ServiceError, credentials_env};

/// The bucket and the table in the printed URLs.
const NAME: &str = "tidelog";

const USAGE: &str =
    "usage: tidelog-services up [minio] [dynamodb] [localstack] [seaweedfs]     (default: minio dynamodb)";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(kinds) = parse(&arguments) else {
        let _ = writeln!(io::stderr(), "{USAGE}");
        return ExitCode::from(2);
    };
    // From the first service on, Ctrl-C is ours: it stops what runs by then.
    let result = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(Vec::new()),
        services = up(&kinds) => services,
    };
    match result {
        Ok(services) => {
            for service in services {
                service.stop().await;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "tidelog-services: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The services named, or `None` if that is not how this program is called.
fn parse(arguments: &[String]) -> Option<Vec<Kind>> {
    match arguments {
        [up] if up == "up" => Some(vec![Kind::Minio, Kind::DynamoDbLocal]),
        [up, names @ ..] if up == "up" => names.iter().map(|name| Kind::from_name(name)).collect(),
        _ => None,
    }
}

/// Starts the services, prints how to use them and returns them when standard input ends.
async fn up(kinds: &[Kind]) -> Result<Vec<Service>, ServiceError> {
    let mut services = Vec::new();
    for &kind in kinds {
        let service = Service::start(kind).await?;
        if kind.has_s3() {
            service.make_bucket(NAME).await?;
        }
        services.push(service);
    }
    // A closed standard output is no reason to stop.
    let _ = io::stdout().write_all(instructions(&services).as_bytes());
    let (ended, end) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for one of its blocking threads at the end.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        ended.send(())
    });
    let _ = end.await;
    Ok(services)
}

fn instructions(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        text += &format!(
            "# {:10} {}   log {}\n",
            service.kind(),
            service.endpoint(),
            service.log_file().display()
        );
    }
    for (name, value) in credentials_env() {
        text += &format!("export {name}={value}\n");
    }
    let metadata = services.iter().find(|service| service.kind().has_dynamodb());
    let metadata = metadata.map_or_else(|| "storage".to_owned(), |service| service.metadata_url(NAME));
    for service in services.iter().filter(|service| service.kind().has_s3()) {
        text += &format!("--storage '{}' --metadata '{metadata}'\n", service.storage_url(NAME, ""));
    }
    if services.iter().all(|service| !service.kind().has_s3()) {
        text += &format!("--metadata '{metadata}'\n");
    }
    text + "# Ctrl-C or the end of standard input stops them and removes their data.\n"
}
