//! Services as containers, by way of testcontainers.
//!
//! Images are pinned; `TIDELOG_TEST_IMAGE_MINIO`, `_DYNAMODB`, `_LOCALSTACK` and `_SEAWEEDFS` name others. Ports are
//! published on 127.0.0.1 only. Besides the engine this needs the command `docker`: `run.sh` follows the log with it
//! and removes the container, also when the starter is killed, where testcontainers' own removal does not happen.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

use crate::process::{Launch, Process, Run, free_ports};
use crate::{ACCESS_KEY_ID, Kind, SECRET_ACCESS_KEY, ServiceError};

/// What a container of one kind is made from.
struct Recipe {
    /// `name:tag`.
    image: &'static str,
    /// The variable that names another image.
    image_variable: &'static str,
    /// The port inside.
    port: u16,
    /// Arguments of the image's entry point.
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

fn recipe(kind: Kind) -> Recipe {
    match kind {
        Kind::Minio => Recipe {
            image: "minio/minio:RELEASE.2025-09-07T16-13-09Z",
            image_variable: "TIDELOG_TEST_IMAGE_MINIO",
            port: 9000,
            arguments: &["server", "/data", "--address=:9000"],
            environment: &[
                ("MINIO_ROOT_USER", ACCESS_KEY_ID),
                ("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY),
                ("MINIO_BROWSER", "off"),
                ("MINIO_UPDATE", "off"),
            ],
        },
        Kind::DynamoDbLocal => Recipe {
            image: "amazon/dynamodb-local:2.6.1",
            image_variable: "TIDELOG_TEST_IMAGE_DYNAMODB",
            port: 8000,
            arguments: &[
                "-Xmx512m",
                "-jar",
                "DynamoDBLocal.jar",
                "-inMemory",
                "-disableTelemetry",
                "-port",
                "8000",
            ],
            environment: &[],
        },
        Kind::LocalStack => Recipe {
            image: "localstack/localstack:4.14.0",
            image_variable: "TIDELOG_TEST_IMAGE_LOCALSTACK",
            port: 4566,
            arguments: &[],
            environment: &[
                ("SERVICES", "s3,dynamodb"),
                ("EAGER_SERVICE_LOADING", "1"),
                ("DYNAMODB_IN_MEMORY", "1"),
                ("DISABLE_EVENTS", "1"),
                ("SKIP_SSL_CERT_DOWNLOAD", "1"),
            ],
        },
        Kind::SeaweedFs => Recipe {
            image: "chrislusf/seaweedfs:4.48",
            image_variable: "TIDELOG_TEST_IMAGE_SEAWEEDFS",
            port: 8333,
            arguments: &[
                "mini",
                "-dir=/data",
                "-ip=127.0.0.1",
                "-ip.bind=0.0.0.0",
                "-master.telemetry=false",
                "-admin.ui=false",
                "-webdav=false",
            ],
            environment: &[
                ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
                ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
            ],
        },
    }
}

impl Recipe {
    fn image(&self) -> String {
        match std::env::var(self.image_variable) {
            Ok(image) if !image.is_empty() => image,
            _ => self.image.to_owned(),
        }
    }
}

/// Whether a container can be had without a download. Blocking.
pub(crate) fn is_at_hand(kind: Kind) -> bool {
    docker_succeeds(&["image", "inspect", &recipe(kind).image()])
}

fn docker_succeeds(arguments: &[&str]) -> bool {
    let mut docker = Command::new("docker");
    docker.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    docker.status().is_ok_and(|status| status.success())
}

/// Starts a container, pulling its image if need be. Gives the process that holds it and the port on 127.0.0.1.
pub(crate) async fn start(kind: Kind) -> Result<(Process, u16), ServiceError> {
    let failed = |reason: String| ServiceError::Container { kind, reason };
    let engine = tokio::task::spawn_blocking(|| docker_succeeds(&["version"])).await;
    if !engine.unwrap_or(false) {
        return Err(failed(
            "`docker version` reaches no engine; start one, or set TIDELOG_TEST_SERVICES=native".into(),
        ));
    }
    let recipe = recipe(kind);
    let image = recipe.image();
    // An image named by its digest is split as well as one named by a tag.
    let Some((name, tag)) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
        return Err(failed(format!("{} is {image:?}, allowed is name:tag", recipe.image_variable)));
    };
    let run = Run::create(kind).map_err(|error| failed(error.to_string()))?;
    let [port] = free_ports().map_err(|error| failed(error.to_string()))?;
    let container = format!("tidelog-{}-{}-{port}", kind.name(), std::process::id());

    // Before the container, so that there is no moment at which nobody would remove it.
    let process = Process::spawn(&run, &holder(&container)).map_err(|error| failed(error.to_string()))?;
    let request = GenericImage::new(name, tag)
        .with_cmd(recipe.arguments.iter().copied())
        .with_container_name(&container)
        .with_mapped_port(port, recipe.port.tcp())
        .with_host_config_modifier(|host| {
            for binding in
                host.port_bindings.iter_mut().flat_map(|ports| ports.values_mut()).flatten().flatten()
            {
                binding.host_ip = Some("127.0.0.1".to_owned());
            }
        });
    let request =
        recipe.environment.iter().fold(request, |request, (name, value)| request.with_env_var(*name, *value));
    let started = request.start().await.map_err(|error| failed(format!("{image}: {error}")))?;
    // Its drop would remove the container by means of the runtime of this test, which a shared service outlives.
    std::mem::forget(started);
    Ok((process, port))
}

/// Follows the container's log from its start to its end. `run.sh` runs this and removes the container after it.
fn holder(container: &str) -> Launch {
    let follow = format!(
        "until docker container inspect {container} >/dev/null 2>&1; do sleep 0.1; done; exec docker logs -f {container}"
    );
    Launch {
        program: PathBuf::from("bash"),
        arguments: vec!["-c".to_owned(), follow],
        environment: vec![("TIDELOG_SERVICE_CLEANUP", format!("docker rm -fv {container}"))],
    }
}
