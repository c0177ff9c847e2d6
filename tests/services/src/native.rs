//! Installing services from package registries and how each is started as a process.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Launch, free_ports, manifest_dir};
use crate::{ACCESS_KEY_ID, Kind, SECRET_ACCESS_KEY, ServiceError};

/// Runs `install.sh`, which returns at once if the service is there, and gives the folder it lies in. Blocking: it may
/// take minutes, and says on stderr what it does.
pub(crate) fn install(kind: Kind) -> Result<PathBuf, ServiceError> {
    run_install_script(kind.name()).map_err(|last_lines| ServiceError::Install { kind, last_lines })
}

fn run_install_script(service: &str) -> Result<PathBuf, String> {
    let script = manifest_dir().join("install.sh");
    let mut child = Command::new(&script)
        .arg(service)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    // Its one line on stdout fits into the pipe, so it is read after the messages.
    let mut said = Vec::new();
    for line in child.stderr.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
        let line = line.unwrap_or_default();
        // Not eprintln!, which the test harness would withhold: somebody is waiting for minutes.
        let _ = writeln!(io::stderr(), "{line}");
        said.push(line);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(said[said.len().saturating_sub(10)..].join(" | "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().last().map(PathBuf::from).ok_or_else(|| "it named no folder".to_owned())
}

/// What to run, and the port that will answer.
pub(crate) fn launch(kind: Kind, installed: &Path, work: &Path) -> io::Result<(Launch, u16)> {
    match kind {
        Kind::Minio => minio(installed, work),
        Kind::DynamoDbLocal => dynamodb_local(installed, work),
        Kind::LocalStack => local_stack(installed, work),
        Kind::SeaweedFs => seaweed_fs(installed, work),
    }
}

fn minio(installed: &Path, work: &Path) -> io::Result<(Launch, u16)> {
    let [port, console] = free_ports()?;
    let arguments = vec![
        "server".to_owned(),
        path(&work.join("data")),
        format!("--address=127.0.0.1:{port}"),
        format!("--console-address=127.0.0.1:{console}"),
    ];
    let environment = vec![
        ("MINIO_ROOT_USER", ACCESS_KEY_ID.to_owned()),
        ("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY.to_owned()),
        ("MINIO_BROWSER", "off".to_owned()),
        // No question to the maker whether there is a newer version.
        ("MINIO_UPDATE", "off".to_owned()),
        // Certificates and settings of the user are none of ours.
        ("HOME", path(work)),
    ];
    Ok((Launch { program: installed.join("minio"), arguments, environment }, port))
}

fn dynamodb_local(installed: &Path, work: &Path) -> io::Result<(Launch, u16)> {
    let [port] = free_ports()?;
    let lib = path(&installed.join("DynamoDBLocal_lib"));
    let arguments = vec![
        // A heap as large as the machine allows would starve what is tested.
        "-Xmx512m".to_owned(),
        // Nothing in /tmp: neither its unpacked libraries nor its performance counters.
        format!("-Djava.io.tmpdir={}", path(work)),
        "-XX:-UsePerfData".to_owned(),
        format!("-Djava.library.path={lib}"),
        "-cp".to_owned(),
        format!("{lib}/*:{}", path(&installed.join("classes"))),
        "DynamoDbOnLoopback".to_owned(),
        "-inMemory".to_owned(),
        "-port".to_owned(),
        port.to_string(),
    ];
    Ok((Launch { program: PathBuf::from("java"), arguments, environment: Vec::new() }, port))
}

fn local_stack(installed: &Path, work: &Path) -> io::Result<(Launch, u16)> {
    let [port] = free_ports()?;
    let arguments = vec![
        path(&manifest_dir().join("start_localstack.py")),
        path(installed),
        path(work),
        port.to_string(),
    ];
    Ok((Launch { program: installed.join("venv/bin/python"), arguments, environment: Vec::new() }, port))
}

fn seaweed_fs(installed: &Path, work: &Path) -> io::Result<(Launch, u16)> {
    let [s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc, admin, admin_grpc] =
        free_ports()?;
    let arguments = vec![
        "-logtostderr=true".to_owned(),
        "mini".to_owned(),
        format!("-dir={}", path(work)),
        "-ip=127.0.0.1".to_owned(),
        "-ip.bind=127.0.0.1".to_owned(),
        "-master.telemetry=false".to_owned(),
        // What else it would start, on fixed ports.
        "-admin.ui=false".to_owned(),
        "-webdav=false".to_owned(),
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
        format!("-admin.port={admin}"),
        format!("-admin.port.grpc={admin_grpc}"),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
        format!("-filer.localSocket={}", path(&work.join("filer.sock"))),
        format!("-s3.localSocket={}", path(&work.join("s3.sock"))),
    ];
    let sockets = [s3_grpc, master_grpc, volume_grpc, filer_grpc, admin_grpc]
        .map(|port| format!("/tmp/seaweedfs-*-grpc-{port}.sock"));
    let environment = vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned()),
        // These sockets are at fixed places, and it leaves them there.
        ("TIDELOG_SERVICE_CLEANUP", format!("rm -f {}", sockets.join(" "))),
    ];
    Ok((Launch { program: installed.join("venv/bin/weed"), arguments, environment }, s3))
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
