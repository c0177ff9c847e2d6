//! The metadata log as one node reaches it: slow, lossy, and never wrong.
//!
//! A request travels, takes effect in the [`Oracle`](crate::oracle::Oracle), and its reply travels back. The request
//! goes on without the node that sent it, so that it may take effect after that node gave up, or died.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidelog_metadata_log::{Append, LogError, MetadataLog, check_entry_length};
use tidelog_metadata_state::{Entry, EntryBody};
use tidelog_types::{AgentInstance, LogEpoch, LogSeq, Place, ShardId};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::checks;
use crate::faults::Fate;
use crate::trace::fingerprint;
use crate::world::World;

/// DynamoDB's limit, the lowest of the backends.
const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// One process's way to the log.
#[derive(Debug, Clone)]
pub struct SimLog {
    world: World,
    machine: usize,
    instance: AgentInstance,
}

impl SimLog {
    /// The log as the process `instance` on a machine reaches it.
    pub fn new(world: World, machine: usize, instance: AgentInstance) -> Self {
        Self { world, machine, instance }
    }

    /// Each call is a point at which the node may be compared with the truth, and at which something may befall it.
    async fn begin(&self) -> Fate {
        checks::compare(&self.world, self.machine, self.instance);
        let fate = self.world.fate(self.machine);
        self.world.befall(self.machine, self.instance, fate.before).await;
        fate
    }

    async fn end(&self, fate: &Fate) {
        self.world.befall(self.machine, self.instance, fate.after).await;
    }

    fn append_now(&self, place: Place, bytes: &Bytes) -> Append {
        let now = self.world.true_time();
        let at = self.world.elapsed();
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        let snapshots = &inner.snapshots;
        let (existing, checked) =
            inner.oracle.append(place, bytes, self.instance, now, |name| snapshots.contains_key(name));
        inner.writes += 1;
        let (machine, taken) = (self.machine, existing.is_some());
        let numbers = [3, machine as u64, place.epoch.0, place.seq.0, fingerprint(bytes), taken.into()];
        inner.trace.event(at, &numbers, || {
            let kind = Entry::decode(bytes).map(|entry| kind(&entry.body));
            format!(
                "node {machine} {} at {place}: {}",
                kind.unwrap_or("garbage"),
                if taken { "taken" } else { "lands" }
            )
        });
        if let Err((invariant, what)) = checked {
            self.world.violate_in(inner, invariant, what);
        }
        existing.map_or(Append::Appended, Append::Occupied)
    }
}

fn kind(body: &EntryBody) -> &'static str {
    match body {
        EntryBody::Genesis { .. } => "genesis",
        EntryBody::Begin(_) => "begin",
        EntryBody::Seal => "seal",
        EntryBody::Batch(_) => "batch",
    }
}

fn no_answer(operation: &'static str, target: String) -> LogError {
    LogError { operation, target, cause: "no answer".into(), retryable: true }
}

/// Sends a request on its way: `effect` happens when it arrives, each time that it arrives.
pub(crate) async fn send<T: Send + 'static>(
    world: &World,
    fate: &Fate,
    effect: impl Fn() -> T + Clone + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let mut reply = Some(reply);
    for (second, arrival) in [(false, fate.first), (true, fate.second)] {
        let Some(arrival) = arrival else { continue };
        let reply = if second == fate.reply_of_second { reply.take().zip(fate.reply) } else { None };
        let (world, effect) = (world.clone(), effect.clone());
        world.lock().on_their_way += 1;
        tokio::spawn(async move {
            sleep(arrival).await;
            let result = effect();
            world.lock().on_their_way -= 1;
            if let Some((reply, delay)) = reply {
                sleep(delay).await;
                // The caller may have given up.
                let _ = reply.send(result);
            }
        });
    }
    let answer = async {
        match answer.await {
            Ok(result) => result,
            // Nobody will answer: the caller waits until it gives up.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::time::timeout(fate.patience, answer).await.ok()
}

/// Reads places one after the other, not all at one moment, while the caller waits or stands still.
async fn read_places(
    world: World,
    from: Place,
    limit: usize,
    torn: bool,
    (there, back): (Duration, Duration),
    reply: oneshot::Sender<Vec<Bytes>>,
) {
    sleep(there).await;
    let mut found = Vec::new();
    let mut place = from;
    while found.len() < limit {
        let (bytes, pause) = {
            let mut inner = world.lock();
            let bytes = inner.oracle.place(place).cloned();
            let pause = (torn && inner.dice.chance(2_000)).then(|| inner.dice.ms(1, 400));
            (bytes, pause)
        };
        let Some(bytes) = bytes else { break };
        found.push(bytes);
        place = place.next();
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
    sleep(back).await;
    // The caller may have given up.
    let _ = reply.send(found);
}

#[async_trait]
impl MetadataLog for SimLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        let target = format!("simulated, shard {}, place {place}", shard.0);
        if let Err(refused) = check_entry_length(&target, bytes.len(), ENTRY_BYTES_MAX) {
            return Append::Unknown(refused);
        }
        let mut fate = self.begin().await;
        if matches!(Entry::decode(&bytes), Ok(Entry { body: EntryBody::Seal, .. })) {
            self.world.repeat_seal(&mut fate);
        }
        let store = self.clone();
        let answer = send(&self.world, &fate, move || store.append_now(place, &bytes)).await;
        self.end(&fate).await;
        answer.unwrap_or_else(|| Append::Unknown(no_answer("append", target)))
    }

    async fn read(
        &self,
        _shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let fate = self.begin().await;
        let found = match (fate.first, fate.reply) {
            (Some(first), Some(back)) => {
                let (reply, answer) = oneshot::channel();
                tokio::spawn(read_places(
                    self.world.clone(),
                    Place::new(epoch, from),
                    limit,
                    fate.torn,
                    (first, back),
                    reply,
                ));
                tokio::time::timeout(fate.patience, answer).await.ok().and_then(Result::ok)
            }
            _ => {
                sleep(fate.patience).await;
                None
            }
        };
        self.end(&fate).await;
        found.ok_or_else(|| no_answer("read", format!("simulated, place {}", Place::new(epoch, from))))
    }

    async fn remove(&self, _shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        let places: Vec<Place> = seqs.iter().map(|seq| Place::new(epoch, *seq)).collect();
        // Judged when it is sent: what is forbidden then may be allowed when it arrives.
        let checked = {
            let inner = self.world.lock();
            places.iter().try_for_each(|place| inner.oracle.may_remove(place.epoch, place.seq))
        };
        self.world.check(checked);
        let fate = self.begin().await;
        let (world, machine) = (self.world.clone(), self.machine);
        let removed = places.clone();
        let answer = send(&self.world, &fate, move || {
            let at = world.elapsed();
            let mut inner = world.lock();
            // Each place is a request of its own in a real store: some may fail.
            let some =
                if inner.dice.chance(1_000) { inner.dice.index(removed.len() + 1) } else { removed.len() };
            removed[..some].iter().for_each(|place| inner.oracle.remove(*place));
            inner.trace.event(at, &[4, machine as u64, epoch.0, some as u64], || {
                format!("node {machine} removes {some} of {} places of epoch {}", removed.len(), epoch.0)
            });
            some == removed.len()
        })
        .await;
        self.end(&fate).await;
        match answer {
            Some(true) => Ok(()),
            _ => Err(no_answer("remove", format!("simulated, epoch {}", epoch.0))),
        }
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }
}
