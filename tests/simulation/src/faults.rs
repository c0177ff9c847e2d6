//! Which faults a seed has, how often, and what a call to a store meets.

use std::time::Duration;

use crate::dice::Dice;
use crate::world::Link;

/// How often things go wrong in one run, per 10,000 calls, and how slow the stores are. Each seed has its own mix: some
/// have a single kind of fault, some have all, a few have none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Profile {
    /// The request never reaches the store.
    pub lost_request: u32,
    /// The request takes effect and the caller does not learn it.
    pub lost_reply: u32,
    /// The request takes effect long after its caller has given up.
    pub late: u32,
    /// The request reaches the store twice.
    pub duplicate: u32,
    /// The store refuses for a moment.
    pub throttled: u32,
    /// A batch read takes pauses between places.
    pub torn_read: u32,
    /// The call takes much longer than usual, and ends well.
    pub slow: u32,
    /// The calling node stops like a process under SIGSTOP, before the call or after it.
    pub freeze: u32,
    /// The calling node dies, before the call or after it.
    pub crash: u32,
    /// Longest delay of late effects.
    pub late_ms_max: u64,
    /// Usual longest time of a request, and of a reply, in milliseconds.
    pub usual_ms: u64,
    /// Disturbances from outside; see [`Disturbance`].
    pub disturbances: [bool; DISTURBANCES.len()],
    /// Usual time between two of them, in milliseconds; 0 means none.
    pub disturbance_ms: u64,
}

/// What happens to nodes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// A node stops for a while, past time-outs.
    Freeze,
    /// A node dies and starts again as another instance.
    Crash,
    /// A node is asked to stop, as by SIGTERM, and starts again as another instance.
    Stop,
    /// A node cannot reach the stores.
    Partition,
    /// A node reaches the stores, and no reply reaches it.
    RepliesLost,
    /// Nobody reaches the stores.
    Outage,
    /// A node's wall clock is set wrong, by up to an hour or two.
    Skew,
    /// A fresh node boots and has to come to the same state.
    Boot,
    /// A node and the others do not reach each other; all reach the stores.
    Apart,
}

/// All disturbances.
pub const DISTURBANCES: [Disturbance; 9] = [
    Disturbance::Freeze,
    Disturbance::Crash,
    Disturbance::Stop,
    Disturbance::Partition,
    Disturbance::RepliesLost,
    Disturbance::Outage,
    Disturbance::Skew,
    Disturbance::Boot,
    Disturbance::Apart,
];

impl Profile {
    /// The mix of one seed.
    pub fn draw(dice: &mut Dice) -> Self {
        let usual_ms = dice.pick(&[3, 10, 40]);
        let late_ms_max = dice.pick(&[3_000, 10_000, 20_000]);
        let mut profile = Self { usual_ms, late_ms_max, ..Self::default() };
        // One in twenty has no faults: what breaks there is no matter of faults.
        if dice.chance(500) {
            return profile;
        }
        // One in four has a single kind of fault, and much of it.
        if dice.chance(2_500) {
            profile.one_kind(dice);
            return profile;
        }
        let often = |dice: &mut Dice| dice.pick(&[0, 0, 50, 200, 600, 1_500]);
        profile.lost_request = often(dice);
        profile.lost_reply = often(dice);
        profile.late = often(dice);
        profile.duplicate = often(dice);
        profile.throttled = often(dice);
        profile.slow = often(dice);
        profile.torn_read = dice.pick(&[0, 500, 3_000]);
        profile.freeze = dice.pick(&[0, 0, 10, 40]);
        profile.crash = dice.pick(&[0, 0, 10, 40]);
        profile.disturbance_ms = dice.pick(&[0, 400, 1_200, 3_000]);
        for enabled in &mut profile.disturbances {
            *enabled = dice.chance(5_000);
        }
        profile
    }

    fn one_kind(&mut self, dice: &mut Dice) {
        let kinds = [
            &mut self.lost_request,
            &mut self.lost_reply,
            &mut self.late,
            &mut self.duplicate,
            &mut self.throttled,
            &mut self.slow,
            &mut self.torn_read,
        ];
        let chosen = dice.index(kinds.len() + 2 + DISTURBANCES.len());
        let often = dice.pick(&[300, 1_000, 2_500]);
        match chosen {
            0 => self.freeze = often / 20,
            1 => self.crash = often / 20,
            _ => match kinds.into_iter().nth(chosen - 2) {
                Some(kind) => *kind = often,
                None => {
                    self.disturbances[dice.index(DISTURBANCES.len())] = true;
                    self.disturbance_ms = dice.pick(&[100, 300]);
                }
            },
        }
    }

    /// The same stores without faults.
    pub fn calm(self) -> Self {
        Self { usual_ms: self.usual_ms, late_ms_max: self.late_ms_max, ..Self::default() }
    }
}

/// What a call meets on its way.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    /// When the request reaches the store; `None` if never.
    pub first: Option<Duration>,
    /// When it reaches it a second time.
    pub second: Option<Duration>,
    /// Whether the reply to the second one is what the caller gets.
    pub reply_of_second: bool,
    /// How long the reply takes; `None` if it is lost.
    pub reply: Option<Duration>,
    /// When the caller gives up.
    pub patience: Duration,
    /// Pauses between the places of a batch read.
    pub torn: bool,
    /// What befalls the caller before the call, and after it.
    pub before: Option<Stop>,
    /// See `before`.
    pub after: Option<Stop>,
}

/// What befalls a node in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It stands still for this long.
    Freeze(Duration),
    /// It dies.
    Crash,
}

impl Fate {
    /// Draws what one call of a node meets.
    pub fn draw(dice: &mut Dice, profile: &Profile, link: Link) -> Self {
        let usual = profile.usual_ms;
        let mut fate = Self {
            first: Some(dice.ms(0, usual)),
            second: None,
            reply_of_second: false,
            reply: Some(dice.ms(0, usual)),
            patience: dice.pick(&[
                Duration::from_millis(300),
                Duration::from_millis(1_000),
                Duration::from_secs(3),
            ]),
            torn: dice.chance(profile.torn_read),
            before: stop(dice, profile),
            after: stop(dice, profile),
        };
        if dice.chance(profile.lost_request) {
            fate.first = None;
        }
        if dice.chance(profile.lost_reply) {
            fate.reply = None;
        }
        if dice.chance(profile.late) {
            fate.first = Some(dice.ms(200, profile.late_ms_max));
        }
        if dice.chance(profile.slow) {
            fate.first = fate.first.map(|first| first + dice.ms(50, 900));
        }
        if dice.chance(profile.duplicate) {
            fate.second = Some(dice.ms(0, profile.late_ms_max));
            fate.reply_of_second = dice.chance(5_000);
        }
        if dice.chance(profile.throttled) {
            // Told at once, and nothing happened.
            (fate.first, fate.second, fate.patience) = (None, None, dice.ms(1, 2 * usual));
        }
        match link {
            Link::Up => {}
            Link::Down => (fate.first, fate.second) = (None, None),
            Link::RepliesLost => fate.reply = None,
        }
        if fate.first.is_none() || fate.reply.is_none() {
            // A connection that is reset tells at once, one that hangs when the caller gives up.
            if dice.chance(5_000) {
                fate.patience = dice.ms(1, 2 * usual);
            }
        }
        fate
    }
}

fn stop(dice: &mut Dice, profile: &Profile) -> Option<Stop> {
    if dice.chance(profile.freeze) {
        return Some(Stop::Freeze(freeze_time(dice)));
    }
    dice.chance(profile.crash).then_some(Stop::Crash)
}

/// How long a node stands still: mostly past the time-outs of everyone who waits for it.
pub fn freeze_time(dice: &mut Dice) -> Duration {
    let longest = dice.pick(&[200, 2_000, 12_000]);
    dice.ms(10, longest)
}
