//! Snapshots whose groups contradict themselves.

use crate::tests::damaged::{change, field, incoherent};
use crate::wire;

#[test]
fn groups_and_members_have_to_make_sense() {
    let out_of_order = "groups are out of order or too many";
    assert_eq!(incoherent(change!(Group, g => g.name = "zzz".into())), out_of_order);
    assert_eq!(field(change!(Group, g => g.name = "\0".into())), "group.name");
    assert_eq!(field(change!(Group, g => g.assignor = 0)), "group.assignor");
    assert_eq!(
        incoherent(change!(Group, g => g.generation = 1 << 40)),
        "a group has a generation from the future"
    );
    let number = "a group lacks records or has too many";
    assert_eq!(incoherent(change!(Group, g => g.members += 1)), number);
    assert_eq!(incoherent(change!(Group, g => g.offsets += 1)), number);
    assert_eq!(incoherent(change!(Group, g => g.partitions += 1)), number);
    assert_eq!(incoherent(change!(Group, g => g.subscriptions += 1)), number);
    let asked = "a group asked nobody for an assignment";
    assert_eq!(
        incoherent(change!(Group, g => if g.asked_member > 0 { g.asked_member += 1 } else { return false })),
        asked
    );
    assert_eq!(field(change!(Member, m => m.who = None)), "who");
    assert_eq!(field(change!(Member, m => m.options = None)), "member.options");
    let subscription = "a member has an unknown subscription";
    assert_eq!(incoherent(change!(Member, m => m.subscription = 99)), subscription);
    let wants = "a member subscribes to what it does not want";
    assert_eq!(
        incoherent(change!(Member, m => if m.topics != m.subscription {
        (m.topics, m.subscription) = (m.subscription, m.topics)
    } else { return false })),
        wants
    );
    let key = "a member's key is nobody's or another one's";
    assert_eq!(incoherent(change!(Member, m => m.key = 0)), key);
    assert_eq!(incoherent(change!(Member, m => m.key = 1 << 40)), key);
    let generation = "a member's generation is not one of its group";
    assert_eq!(incoherent(change!(Member, m => m.generation = 0)), generation);
    assert_eq!(incoherent(change!(Member, m => m.generation += 1 << 40)), generation);
    assert_eq!(incoherent(change!(Member, m => m.renewed = 1 << 40)), "a member joined after the last entry");
    let range = "a member's options are out of range";
    let timeout = change!(Member, m => if let Some(o) = &mut m.options { o.session_timeout_ms = 1 });
    assert_eq!(incoherent(timeout), range);
    let away = "a member is away without being static";
    let dynamic = change!(Member, m => if let Some(o) = &mut m.options && m.away { o.instance.clear() } else { return false });
    assert_eq!(incoherent(dynamic), away);
    let commit = change!(Member, m => if let Some(last) = &mut m.last_commit { last.number = 0 } else { return false });
    assert_eq!(incoherent(commit), "a member's last commit is none");
}

#[test]
fn owners_and_offsets_have_to_agree() {
    let owners = |change: &dyn Fn(&mut wire::SnapshotOwners)| change!(Owners, o => if o.owners[0] > 0 { change(o) } else { return false });
    let lengths = "arrays of owners differ in length";
    assert_eq!(incoherent(owners(&|o| o.since.clear())), lengths);
    assert_eq!(incoherent(owners(&|o| o.first = 1)), "owners have gaps");
    let unknown = "a partition belongs to an unknown member";
    assert_eq!(incoherent(owners(&|o| o.owners[0] = 1 << 40)), unknown);
    assert_eq!(incoherent(owners(&|o| o.targets[0] = 1 << 40)), unknown);
    assert_eq!(incoherent(owners(&|o| o.owners[0] = 0)), "a partition lacks its owner");
    assert_eq!(incoherent(owners(&|o| o.moved[0] ^= 1 << 40)), "a partition is released by mistake");
    let future = "a partition has a generation from the future";
    assert_eq!(incoherent(owners(&|o| o.since[0] = 1 << 40)), future);
    assert_eq!(incoherent(owners(&|o| o.since[0] = 0)), "a partition has an owner since ever");
    let nowhere = "a group shares partitions that there are not";
    assert_eq!(incoherent(owners(&|o| o.topic = 1 << 40)), nowhere);
    let nobody = owners(&|o| (o.targets[0], o.moved[0]) = (0, o.since[0]));
    assert_eq!(incoherent(nobody), "a group leaves partitions to nobody");
    let lengths = "arrays of offsets differ in length";
    assert_eq!(incoherent(change!(Offsets, o => o.committed_deltas.clear())), lengths);
    assert_eq!(field(change!(Offsets, o => o.offsets = None)), "offsets.offsets");
    let offsets = |change: &dyn Fn(&mut wire::TopicOffsets)| change!(Offsets, o => if let Some(offsets) = &mut o.offsets { change(offsets) });
    assert_eq!(incoherent(offsets(&|o| o.topic = 1 << 40)), "an offset belongs to no partition");
    assert_eq!(incoherent(offsets(&|o| o.partitions[0] = 99)), "an offset belongs to no partition");
    assert_eq!(field(offsets(&|o| o.partitions[0] = -1)), "partition");
    assert_eq!(field(offsets(&|o| o.offsets[0] = -1)), "offsets.offsets");
    assert_eq!(incoherent(offsets(&|o| o.partitions.swap(0, 1))), "offsets are out of order");
    let long = wire::OffsetMetadata { position: 0, text: "x".repeat(4_097) };
    assert_eq!(
        incoherent(offsets(&|o| o.metadata = vec![long.clone()])),
        "an offset's metadata are too long"
    );
}
