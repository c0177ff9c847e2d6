//! A load balancer in front of agents, with the configuration of `infra/`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant};

use crate::{Server, free_port};

/// Which balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerKind {
    /// HAProxy, which balances requests.
    Haproxy,
    /// HAProxy, which balances connections.
    HaproxyLayer4,
    /// nginx.
    Nginx,
}

/// A running balancer; ended when dropped.
#[derive(Debug)]
pub struct Balancer {
    child: Child,
    port: u16,
}

impl Balancer {
    /// Starts it in front of three agents, from the file that users are given, with its addresses replaced.
    pub async fn start(kind: BalancerKind, agents: [&Server; 3], directory: &Path) -> Self {
        let port = free_port();
        let (file, listen) = match kind {
            BalancerKind::Haproxy => ("infra/haproxy/haproxy.cfg", "bind 127.0.0.1:7070"),
            BalancerKind::HaproxyLayer4 => ("infra/haproxy/layer4.cfg", "bind 127.0.0.1:7070"),
            BalancerKind::Nginx => ("infra/nginx/nginx.conf", "listen 127.0.0.1:7070"),
        };
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        let mut text = std::fs::read_to_string(&source).expect("a file of this repository");
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "{file} has no {from:?}");
            text = text.replace(from, to);
        };
        replace(listen, &listen.replace("7070", &port.to_string()));
        for (number, agent) in (1..).zip(agents) {
            let name = format!("agent-{number}.internal:7070");
            let address = format!("127.0.0.1:{}", agent.port());
            match kind {
                BalancerKind::Haproxy | BalancerKind::HaproxyLayer4 => {
                    let to = format!("{address} port {}", agent.admin_port());
                    replace(&format!("{name} port 7071"), &to);
                }
                BalancerKind::Nginx => replace(&name, &address),
            }
        }
        let config = directory.join(format!("balancer-{port}.conf"));
        std::fs::write(&config, text).expect("the test's own directory");
        let log = directory.join(format!("balancer-{port}.log"));
        let log_file = std::fs::File::create(&log).expect("the same");
        let mut command = match kind {
            BalancerKind::Haproxy | BalancerKind::HaproxyLayer4 => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(&config);
                command
            }
            BalancerKind::Nginx => {
                let mut command = Command::new("nginx");
                // One process, which ends as one.
                let own =
                    format!("daemon off; master_process off; pid {}/nginx-{port}.pid;", directory.display());
                command.arg("-p").arg(directory).arg("-c").arg(&config).args(["-g", &own]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{kind:?} does not start ({error}): tests/services/install.sh balancers installs it")
        });
        let balancer = Self { child, port };
        let end = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < end, "{kind:?} does not listen: {}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        balancer
    }

    /// URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("our own child");
    }
}
