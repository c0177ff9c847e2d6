//! Three agents on MinIO and DynamoDB Local, and what befalls them.

use std::time::Duration;

use tidelog_integration::{Balancer, BalancerKind, Server, Stores, StoresKind};
use tokio::time::Instant;

/// Longer than any time-out between agents.
const FROZEN: Duration = Duration::from_secs(5);
/// Longer than a leader may be silent, shorter than a session.
const FROZEN_SHORTLY: Duration = Duration::from_millis(1_200);

/// What befalls an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT after longer than any time-out.
    Freeze,
    /// The same for a moment.
    FreezeShortly,
    /// SIGTERM, and started again.
    Restart,
}

/// Agents, their stores and the balancer in front of them.
pub struct Cluster {
    stores: Stores,
    agents: Vec<Server>,
    /// When each of them goes on.
    frozen_until: [Option<Instant>; 3],
    balancer: Balancer,
}

impl Cluster {
    /// Starts them; `None` if the run was asked to do without services.
    pub async fn start(kind: BalancerKind, name: &str) -> Option<Self> {
        let stores = Stores::new(StoresKind::MinioDynamoDb, name).await?;
        let mut agents = Vec::new();
        for _ in 0..3 {
            let (role, arguments) = arguments(&stores);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            agents.push(Server::start(role, &arguments, stores.directory()).await);
        }
        let balancer = Balancer::start(kind, [&agents[0], &agents[1], &agents[2]], stores.directory()).await;
        Some(Self { stores, agents, frozen_until: [None; 3], balancer })
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        self.balancer.endpoint()
    }

    /// Has something befall an agent. One that stands still goes on first.
    pub async fn strike(&mut self, agent: usize, event: Event) {
        self.thaw(agent).await;
        match event {
            Event::Kill => {
                self.agents[agent].kill().await;
                self.start_again(agent);
            }
            Event::Restart => {
                // A drain is what befalls an agent that serves.
                let ready = self.agents[agent].ready().await;
                assert!(ready.is_ok(), "{ready:?}: {}", self.agents[agent].log());
                let code = self.agents[agent].terminate().await;
                assert_eq!(code, Some(0), "a drain ends well: {}", self.agents[agent].log());
                self.start_again(agent);
            }
            Event::Freeze => self.freeze(agent, FROZEN).await,
            Event::FreezeShortly => {
                self.freeze(agent, FROZEN_SHORTLY).await;
                tokio::time::sleep(FROZEN_SHORTLY).await;
            }
        }
        for other in 0..3 {
            if self.frozen_until[other].is_some_and(|until| until <= Instant::now()) {
                self.thaw(other).await;
            }
        }
    }

    async fn freeze(&mut self, agent: usize, time: Duration) {
        self.agents[agent].signal("STOP").await;
        self.frozen_until[agent] = Some(Instant::now() + time);
    }

    async fn thaw(&mut self, agent: usize) {
        if let Some(until) = self.frozen_until[agent].take() {
            tokio::time::sleep_until(until).await;
            self.agents[agent].signal("CONT").await;
        }
    }

    fn start_again(&mut self, agent: usize) {
        let (role, arguments) = arguments(&self.stores);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.agents[agent].start_again(role, &arguments, self.stores.directory());
    }

    /// Ends all disturbances, and waits until all agents are ready.
    pub async fn heal(&mut self) {
        for agent in 0..3 {
            self.thaw(agent).await;
        }
        for agent in &mut self.agents {
            let ready = agent.ready().await;
            assert!(ready.is_ok(), "{ready:?}: {}", agent.log());
        }
    }

    /// What the agents' metrics say.
    pub async fn summary(&self) -> String {
        let mut elections = 0.0;
        for agent in &self.agents {
            elections += agent.metric("tidelog_metadata_elections_total", &[]).await;
        }
        format!("{elections} elections by the processes that run now")
    }

    /// Ends all.
    pub async fn stop(mut self) {
        for agent in &mut self.agents {
            assert_eq!(agent.terminate().await, Some(0), "{}", agent.log());
        }
        self.balancer.stop().await;
    }
}

fn arguments(stores: &Stores) -> (&'static str, Vec<String>) {
    let (role, mut arguments) = stores.server();
    arguments.extend(["--flush-interval".into(), "50ms".into()]);
    (role, arguments)
}
