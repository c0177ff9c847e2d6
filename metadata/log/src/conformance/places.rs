//! Checks with one writer: what a place holds, how long it may be, where a read ends, what a removal takes.

use bytes::Bytes;
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use super::{BrokenPromise, Ground, Promise, TRIES_MAX, broken, expect_that, read, settle, show, show_all};
use crate::Append;

/// More than twice the largest batch of any backend (100 keys in DynamoDB), and no multiple of one.
const MANY: usize = 231;

/// The entry that the checks put at a position: tells position and round, so that a mix-up shows.
fn entry(label: &str, seq: usize) -> Bytes {
    Bytes::from(format!("{label} {seq}"))
}

/// An absent place takes the bytes and says `Appended`; afterwards it is `Occupied`, holds the first bytes, hands them
/// over, and a repeat by its own writer gets its own bytes back.
pub async fn creates_if_absent(ground: &Ground) -> Result<(), BrokenPromise> {
    let place = Place::begin_of(ground.fresh_epoch());
    let first = Bytes::from_static(b"first");
    let second = Bytes::from_static(b"second, longer than the first");

    let absent = ground.look(place).await?;
    expect_that(Promise::CreatesIfAbsent, absent.is_none(), || format!("unused place {place} is occupied"))?;

    ground.put(place, &first).await?;
    let stored = ground.look(place).await?;
    expect_that(Promise::CreatesIfAbsent, stored.as_ref() == Some(&first), || {
        format!("after the append of {} place {place} holds {stored:?}", show(&first))
    })?;

    for again in [&second, &first] {
        match ground.append(place, again).await? {
            Append::Occupied(existing) => {
                expect_that(Promise::OccupiedHasTheBytes, existing == first, || {
                    format!("place {place} holds {}, occupied said {}", show(&first), show(&existing))
                })?;
            }
            outcome => {
                return broken(
                    Promise::NeverOverwrites,
                    format!("an append of {} to taken place {place} ended as {outcome:?}", show(again)),
                );
            }
        }
        let stored = ground.look(place).await?;
        expect_that(Promise::NeverOverwrites, stored.as_ref() == Some(&first), || {
            format!("place {place} held {} and now {stored:?}", show(&first))
        })?;
    }
    Ok(())
}

/// Zeros, line ends, text that is no UTF-8, and all 256 byte values come back as they went in.
pub async fn keeps_every_byte(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    let all_values: Vec<u8> = (0..=255).collect();
    let samples: [&[u8]; 6] =
        [b"\0", b"\0\0\0\0", b"\r\n\r\n", b"\xff\xfe\x00\xc3\x28", b"  \t ", &all_values];
    for (seq, sample) in (0..).zip(samples) {
        let place = Place::new(epoch, LogSeq(seq));
        ground.put(place, &Bytes::copy_from_slice(sample)).await?;
        let stored = ground.look(place).await?;
        expect_that(Promise::KeepsEveryByte, stored.as_deref() == Some(sample), || {
            format!("put {}, got {}", show(sample), stored.as_deref().map_or("nothing".into(), show))
        })?;
    }
    Ok(())
}

/// 1 byte and the maximum are taken whole; none and one more than the maximum are refused, and nothing is there after.
pub async fn bounds_entries(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    let bytes_max = ground.one.entry_bytes_max();
    let of_length = |length: usize| -> Bytes { (0..length).map(|i| (i % 251) as u8).collect() };

    for (seq, length) in (0..).zip([1, 1023, 1024, 1025, bytes_max - 1, bytes_max]) {
        let place = Place::new(epoch, LogSeq(seq));
        let bytes = of_length(length);
        ground.put(place, &bytes).await?;
        let stored = ground.look(place).await?;
        expect_that(Promise::BoundsEntries, stored.as_ref() == Some(&bytes), || {
            format!("an entry of {length} bytes came back as {:?} bytes", stored.map(|stored| stored.len()))
        })?;
    }

    let place = Place::begin_of(ground.fresh_epoch());
    for length in [0, bytes_max + 1, bytes_max * 2] {
        let outcome = ground.one.append(ground.shard, place, of_length(length)).await;
        let refused = matches!(&outcome, Append::Unknown(error)
            if !error.retryable && error.cause.contains(&bytes_max.to_string()));
        expect_that(Promise::BoundsEntries, refused, || {
            format!(
                "{length} bytes should be refused for good with an error that names the maximum {bytes_max}, \
                 ended as {outcome:?}"
            )
        })?;
        let stored = ground.look(place).await?;
        expect_that(Promise::BoundsEntries, stored.is_none(), || {
            format!("{length} bytes were refused, and yet place {place} is taken")
        })?;
    }
    Ok(())
}

/// Holes end a read, wherever it starts; what lies behind them is not returned.
pub async fn read_ends_at_first_absent_place(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    // Places 0, 1, 2 and 4, 5 are taken; 3 is the hole.
    for seq in [0_usize, 1, 2, 4, 5] {
        ground.put(Place::new(epoch, LogSeq(seq as u64)), &entry("hole", seq)).await?;
    }
    let rows = [
        (0, 100, 0..3),
        (0, 2, 0..2),
        (1, 1, 1..2),
        (2, 100, 2..3),
        (3, 100, 3..3),
        (3, 1, 3..3),
        (4, 100, 4..6),
        (5, 1, 5..6),
        (6, 100, 6..6),
        (1000, 100, 0..0),
    ];
    for (from, limit, wanted) in rows {
        let wanted: Vec<_> = wanted.map(|seq| entry("hole", seq)).collect();
        let got = ground.read(epoch, LogSeq(from), limit).await?;
        expect_that(Promise::ReadEndsAtFirstAbsentPlace, got == wanted, || {
            format!(
                "places 0-2, 4, 5 taken; read from {from}, limit {limit}: wanted {}, got {}",
                show_all(&wanted),
                show_all(&got)
            )
        })?;
    }
    Ok(())
}

/// The same over more entries than any backend reads at once, with limits at, below and above the usual batch sizes,
/// and with a hole that opens in the middle of a batch.
pub async fn read_crosses_batches(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    for seq in 0..MANY {
        ground.put(Place::new(epoch, LogSeq(seq as u64)), &entry("many", seq)).await?;
    }
    let limits = [1, 2, 7, 8, 9, 31, 32, 33, 99, 100, 101, 200, MANY - 1, MANY, MANY + 1, 10_000];
    for (from, limit) in limits.into_iter().flat_map(|limit| [(0, limit), (1, limit), (130, limit)]) {
        let wanted: Vec<_> = (from..MANY).take(limit).map(|seq| entry("many", seq)).collect();
        let got = ground.read(epoch, LogSeq(from as u64), limit).await?;
        expect_that(Promise::ReadEndsAtFirstAbsentPlace, got == wanted, || {
            format!(
                "places 0-{} taken; read from {from}, limit {limit}: wanted {}, got {}",
                MANY - 1,
                show_all(&wanted),
                show_all(&got)
            )
        })?;
    }

    let hole = 117;
    remove(ground, epoch, &[LogSeq(hole as u64)]).await?;
    let got = ground.read(epoch, LogSeq::ZERO, MANY).await?;
    expect_that(Promise::ReadEndsAtFirstAbsentPlace, got.len() == hole, || {
        format!("place {hole} was removed from {MANY}, and a read returned {}", show_all(&got))
    })?;
    Ok(())
}

/// The same position in another epoch or shard is another place. Also with numbers whose digits run into each other.
pub async fn keeps_shards_and_epochs_apart(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    let neighbour = ShardId(ground.shard.0 ^ 1);
    let far = |n: u64| LogEpoch(epoch.0 + n * 1_000_000);
    let places = [
        (ground.shard, Place::new(epoch, LogSeq(1))),
        (ground.shard, Place::new(epoch.next(), LogSeq(1))),
        (neighbour, Place::new(epoch, LogSeq(1))),
        (ground.shard, Place::new(epoch, LogSeq(11))),
        (ground.shard, Place::new(epoch, LogSeq(1_000_000_001))),
        (ground.shard, Place::new(far(1), LogSeq(1))),
        (ground.shard, Place::new(far(10), LogSeq(1))),
    ];
    for (shard, place) in places {
        let bytes = Bytes::from(format!("shard {} place {place}", shard.0));
        match settle(&*ground.one, shard, place, &bytes).await? {
            Append::Appended => {}
            Append::Occupied(existing) if existing == bytes => {}
            outcome => {
                return broken(
                    Promise::KeepsShardsAndEpochsApart,
                    format!("an append to unused shard {} place {place} ended as {outcome:?}", shard.0),
                );
            }
        }
    }
    for (shard, place) in places {
        let wanted = format!("shard {} place {place}", shard.0);
        let got = read(&*ground.other, shard, place.epoch, place.seq, 3).await?;
        expect_that(Promise::KeepsShardsAndEpochsApart, got == [wanted.as_bytes()], || {
            format!("read from {wanted}: got {}", show_all(&got))
        })?;
    }

    remove(ground, epoch, &[LogSeq(1)]).await?;
    let kept = read(&*ground.other, neighbour, epoch, LogSeq(1), 1).await?.len()
        + ground.read(epoch.next(), LogSeq(1), 1).await?.len();
    expect_that(Promise::KeepsShardsAndEpochsApart, kept == 2, || {
        "a removal in one shard and epoch took the same position of a neighbour".to_owned()
    })
}

/// Removal takes what it names and nothing else, absent places are no error, and a removed place is free again.
pub async fn removes_exactly(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    let count = 130;
    for seq in 0..count {
        ground.put(Place::new(epoch, LogSeq(seq as u64)), &entry("old", seq)).await?;
    }
    remove(ground, epoch, &[]).await?;
    // More than one batch of any backend, some absent, one named twice. 0 and the last two stay, as in a truncation.
    let mut named: Vec<_> = (1..count as u64 - 2).chain(5000..5003).map(LogSeq).collect();
    named.push(LogSeq(7));
    remove(ground, epoch, &named).await?;
    remove(ground, epoch, &named).await?;

    for seq in 0..count {
        let place = Place::new(epoch, LogSeq(seq as u64));
        let wanted = (seq == 0 || seq >= count - 2).then(|| entry("old", seq));
        let stored = ground.look(place).await?;
        expect_that(Promise::RemovesExactly, stored == wanted, || {
            format!("after the removal of 1 to {} place {place} holds {stored:?}", count - 3)
        })?;
    }

    let place = Place::new(epoch, LogSeq(7));
    let outcome = ground.append(place, &entry("new", 7)).await?;
    let stored = ground.look(place).await?;
    expect_that(Promise::RemovesExactly, stored == Some(entry("new", 7)), || {
        format!("an append to removed place {place} ended as {outcome:?}, and it holds {stored:?}")
    })
}

/// What one handle appended, the other reads at once, again and again; and what is absent is absent for both.
pub async fn reads_after_writes(ground: &Ground) -> Result<(), BrokenPromise> {
    let epoch = ground.fresh_epoch();
    for seq in 0..50_usize {
        let place = Place::new(epoch, LogSeq(seq as u64));
        // The absence is looked at first, so that a cache of "not found" would show.
        let before = ground.look(place).await?;
        ground.put(place, &entry("fresh", seq)).await?;
        let after = ground.look(place).await?;
        expect_that(
            Promise::ReadsAfterWrites,
            before.is_none() && after == Some(entry("fresh", seq)),
            || format!("place {place}: before its append {before:?}, after it {after:?}"),
        )?;
    }
    let all = ground.read(epoch, LogSeq::ZERO, 100).await?;
    expect_that(Promise::ReadsAfterWrites, all.len() == 50, || {
        format!("50 appends were answered, a read returned {}", show_all(&all))
    })
}

async fn remove(ground: &Ground, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), BrokenPromise> {
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        match ground.one.remove(ground.shard, epoch, seqs).await {
            Ok(()) => return Ok(()),
            Err(error) if error.retryable => last = error.to_string(),
            Err(error) => return broken(Promise::RemovesExactly, error.to_string()),
        }
    }
    broken(Promise::Answers, format!("{TRIES_MAX} removals without an answer, the last: {last}"))
}
