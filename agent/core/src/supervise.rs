//! The agent's background tasks and who looks after them.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

type Run = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// A background task: a name and what to run until it is cancelled.
pub(crate) struct Task {
    name: &'static str,
    run: Run,
}

impl Task {
    pub fn new<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, run: Box::new(move |cancel| run(cancel).boxed()) }
    }
}

/// The tasks that have to run for an agent to do its work.
pub struct AgentTasks {
    tasks: Vec<Task>,
    draining: CancellationToken,
    drain_deadline: Duration,
}

impl fmt::Debug for AgentTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tasks.iter().map(|task| task.name)).finish()
    }
}

/// Why the tasks ended other than by being cancelled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A task panicked, or ended on its own: a defect. The process should end, so that its successor starts clean.
    #[error("task {task} ended unexpectedly: {cause}")]
    Ended {
        /// Which one.
        task: &'static str,
        /// What it said.
        cause: String,
    },
    /// Not everything could be written in time; what was not answered is of unknown outcome.
    #[error("the shutdown took longer than {deadline:?}")]
    DrainDeadline {
        /// How long it could take.
        deadline: Duration,
    },
}

impl AgentTasks {
    pub(crate) fn new(tasks: Vec<Task>, draining: CancellationToken, drain_deadline: Duration) -> Self {
        Self { tasks, draining, drain_deadline }
    }

    /// Runs until `cancel`, then writes, commits and acknowledges what is buffered, within a deadline. If a task ends
    /// before, the others are drained and the error says which it was.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), TaskError> {
        let mut running = JoinSet::new();
        let stop = CancellationToken::new();
        for task in self.tasks {
            let run = (task.run)(stop.clone());
            let name = task.name;
            running.spawn(async move {
                let ended = std::panic::AssertUnwindSafe(run).catch_unwind().await;
                (name, ended.map_err(|panic| text_of(&*panic)))
            });
        }
        let ended_early = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            ended = running.join_next() => Some(ended),
        };
        self.draining.cancel();
        stop.cancel();
        let drained = tokio::time::timeout(self.drain_deadline, async {
            let mut panicked = None;
            while let Some(ended) = running.join_next().await {
                if let Ok((task, Err(cause))) = ended {
                    panicked = Some(TaskError::Ended { task, cause });
                }
            }
            panicked
        });
        let drained = drained.await;
        if let Some(Some(ended)) = ended_early {
            let (task, cause) = match ended {
                Ok((task, Ok(()))) => (task, "it returned".to_owned()),
                Ok((task, Err(cause))) => (task, cause),
                Err(error) => ("unknown", error.to_string()),
            };
            tracing::error!(event = "task_ended", task, cause, "a task ended unexpectedly");
            return Err(TaskError::Ended { task, cause });
        }
        match drained {
            Ok(None) => Ok(()),
            Ok(Some(panicked)) => Err(panicked),
            Err(_) => Err(TaskError::DrainDeadline { deadline: self.drain_deadline }),
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(task: Task) -> AgentTasks {
        AgentTasks::new(vec![task], CancellationToken::new(), Duration::from_secs(5))
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_noticed() {
        let ended =
            tasks(Task::new("bad", |_| async { panic!("defect") })).run(CancellationToken::new()).await;
        assert_eq!(ended, Err(TaskError::Ended { task: "bad", cause: "defect".into() }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_bounded() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let stuck = Task::new("stuck", |_| std::future::pending());
        assert!(matches!(tasks(stuck).run(cancel.clone()).await, Err(TaskError::DrainDeadline { .. })));
        let good = Task::new("good", |cancel| async move { cancel.cancelled().await });
        assert_eq!(tasks(good).run(cancel).await, Ok(()));
    }
}
