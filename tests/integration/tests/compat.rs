//! A client that nobody here wrote: Python's grpcio with stubs generated from `proto/`.

use tidelog_integration::{Server, Stores, StoresKind, binary};

#[tokio::test]
async fn python_grpcio() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../compat/client.py");
    let venv = concat!(env!("CARGO_MANIFEST_DIR"), "/../compat/venv.sh");
    if std::env::var_os("TIDELOG_TEST_SERVICES").is_some_and(|mode| mode == "none") {
        eprintln!("SKIPPED: the Python client, because TIDELOG_TEST_SERVICES=none");
        return;
    }
    let python = tokio::process::Command::new(venv).output().await.expect("venv.sh runs");
    assert!(python.status.success(), "venv.sh: {}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8_lossy(&python.stdout).lines().last().unwrap_or_default().to_owned();
    let stores = Stores::new(StoresKind::Embedded, "compat").await.expect("embedded needs no service");
    let server = Server::on(&stores).await;
    let endpoint = format!("127.0.0.1:{}", server.port());
    let mut command = tokio::process::Command::new(python);
    command.arg(script).args(["--endpoint", &endpoint]).arg("--tidelog").arg(binary());
    let output = command.output().await;
    let output = output.expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), server.log());
}
