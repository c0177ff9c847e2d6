//! Checks with many writers, and with replies that are lost.

use std::sync::Arc;

use bytes::Bytes;
use tidelog_types::{LogSeq, Place};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{
    BrokenPromise, Ground, LostReplies, Promise, broken, expect_that, settle, settle_counting, show,
};
use crate::Append;

/// How many writers race for how many places.
#[derive(Debug, Clone, Copy)]
pub struct Race {
    /// Writers that start at once on the same place.
    pub writers: usize,
    /// Places, one after the other.
    pub rounds: usize,
}

/// What a [`race`] saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RaceReport {
    /// Places raced for; each has one winner.
    pub rounds: usize,
    /// Winners that were told `Appended`. The others found out by repeating that the bytes are their own.
    pub told_at_once: usize,
    /// Appends that ended as `Unknown` and were repeated.
    pub unknowns: usize,
}

/// One writer's end.
struct Finish {
    writer: usize,
    outcome: Append,
    unknowns: usize,
}

/// Writers race for one place, round after round; each repeats its append until it knows the outcome.
///
/// Then all agree on the same bytes, these are exactly one writer's, nobody else was told `Appended`, and a second
/// handle reads them. A winner may have seen `Unknown` first; but somebody who never did and won was told so.
pub async fn race(ground: &Ground, race: Race) -> Result<RaceReport, BrokenPromise> {
    let epoch = ground.fresh_epoch();
    let mut report = RaceReport::default();
    for round in 0..race.rounds {
        let place = Place::new(epoch, LogSeq(round as u64));
        let finishes = run_round(ground, place, race.writers).await?;
        let winner_bytes = judge_round(place, &finishes)?;

        let stored = ground.look(place).await?;
        expect_that(Promise::OneWinner, stored.as_ref() == Some(&winner_bytes), || {
            format!("all writers of {place} agreed on {}, a read returned {stored:?}", show(&winner_bytes))
        })?;
        report.rounds += 1;
        report.told_at_once += finishes.iter().filter(|finish| finish.outcome == Append::Appended).count();
        report.unknowns += finishes.iter().map(|finish| finish.unknowns).sum::<usize>();
    }
    Ok(report)
}

fn bytes_of(place: Place, writer: usize) -> Bytes {
    // Different lengths, so that a mix of two writers' bytes could not pass for either.
    Bytes::from(format!("writer {writer} of place {place} {}", "x".repeat(writer % 40)))
}

async fn run_round(ground: &Ground, place: Place, writers: usize) -> Result<Vec<Finish>, BrokenPromise> {
    let start = Arc::new(Barrier::new(writers));
    let mut running = JoinSet::new();
    for writer in 0..writers {
        let log = Arc::clone(if writer % 2 == 0 { &ground.one } else { &ground.other });
        let (shard, start) = (ground.shard, Arc::clone(&start));
        running.spawn(async move {
            start.wait().await;
            let bytes = bytes_of(place, writer);
            let (outcome, unknowns) = settle_counting(&*log, shard, place, &bytes).await?;
            Ok(Finish { writer, outcome, unknowns })
        });
    }
    let mut finishes = Vec::with_capacity(writers);
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok(finish) => finishes.push(finish?),
            Err(error) => {
                return broken(Promise::Answers, format!("a writer of {place} ended early: {error}"));
            }
        }
    }
    Ok(finishes)
}

/// The bytes that won, if the round kept the promise.
fn judge_round(place: Place, finishes: &[Finish]) -> Result<Bytes, BrokenPromise> {
    let mut seen: Vec<Bytes> = Vec::new();
    for finish in finishes {
        match &finish.outcome {
            Append::Appended => seen.push(bytes_of(place, finish.writer)),
            Append::Occupied(bytes) => seen.push(bytes.clone()),
            Append::Unknown(error) => return broken(Promise::Answers, error.to_string()),
        }
    }
    let Some(winning) = seen.first().cloned() else {
        return broken(Promise::OneWinner, "a race without writers has no winner".to_owned());
    };
    if let Some(differing) = seen.iter().find(|bytes| **bytes != winning) {
        return broken(
            Promise::OneWinner,
            format!("writers of {place} saw both {} and {}", show(&winning), show(differing)),
        );
    }
    let Some(owner) = finishes.iter().find(|finish| bytes_of(place, finish.writer) == winning) else {
        return broken(Promise::OneWinner, format!("{place} holds no writer's bytes: {}", show(&winning)));
    };
    let told = owner.outcome == Append::Appended;
    expect_that(Promise::OneWinner, told || owner.unknowns > 0, || {
        format!("writer {} won {place} with its first append and was told that it was occupied", owner.writer)
    })?;
    Ok(winning)
}

/// A reply lost after the effect is found out by repeating the append: the place is occupied by the writer's own bytes.
/// A reply lost without effect of ours likewise: occupied by another's.
pub async fn repeat_resolves(ground: &Ground) -> Result<(), BrokenPromise> {
    let lost_per_place = 2;
    let lossy = LostReplies::new(Arc::clone(&ground.one), lost_per_place);
    let epoch = ground.fresh_epoch();

    let ours = Bytes::from_static(b"ours");
    let place = Place::begin_of(epoch);
    let outcome = settle(&lossy, ground.shard, place, &ours).await?;
    expect_that(Promise::RepeatResolves, outcome == Append::Occupied(ours.clone()), || {
        format!("the append took effect and its reply was lost; its repeat ended as {outcome:?}")
    })?;
    let stored = ground.look(place).await?;
    expect_that(Promise::RepeatResolves, stored.as_ref() == Some(&ours), || {
        format!("the append of {} was repeated, the place holds {stored:?}", show(&ours))
    })?;

    let theirs = Bytes::from_static(b"theirs");
    let place = place.next();
    ground.put(place, &theirs).await?;
    let outcome = settle(&lossy, ground.shard, place, &ours).await?;
    expect_that(Promise::RepeatResolves, outcome == Append::Occupied(theirs), || {
        format!("the place was another's and the refusal was lost; the repeat ended as {outcome:?}")
    })?;
    expect_that(Promise::RepeatResolves, lossy.lost() >= 2 * lost_per_place, || {
        format!("{} replies were lost, fewer than {}", lossy.lost(), 2 * lost_per_place)
    })?;
    Ok(())
}
