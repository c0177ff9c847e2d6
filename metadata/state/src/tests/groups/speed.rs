//! What a join costs. The figures are printed, not judged: `cargo test --release speed -- --nocapture` shows them.

use super::{command, join, options, run};
use crate::command::Outcome;
use crate::group::Assignor;
use crate::group::command::{GroupOutcome, MemberOptions};
use crate::tests::bed::Bed;

/// Runs a command and returns how long it took, in microseconds.
#[expect(clippy::disallowed_methods, reason = "this measures real time and decides nothing by it")]
fn timed(bed: &mut Bed, command: &crate::Command) -> f64 {
    let started = std::time::Instant::now();
    let outcome = bed.state.run_for_test(command);
    let elapsed = started.elapsed().as_secs_f64() * 1e6;
    assert_eq!(outcome, Outcome::Group(GroupOutcome::Joined));
    elapsed
}

fn report(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: mean {mean:.0} us, median {:.0} us, most {:.0} us", at(0.5), at(1.0));
}

#[test]
fn joins_of_many_members_to_many_partitions() {
    for assignor in Assignor::ALL {
        let mut bed = Bed::new();
        for n in 0..10 {
            bed.topic(&format!("t{n}"), 100);
        }
        let names: Vec<String> = (0..10).map(|n| format!("t{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let wish = MemberOptions { assignor, ..options(&names) };
        let mut times = Vec::new();
        for n in 0..200_u128 {
            // In no order, as members come.
            let id = format!("m{:03}", n * 73 % 200);
            times.push(timed(&mut bed, &command("g", join(&run(&id, n), wish.clone()))));
        }
        report(&format!("{assignor:?}, 1,000 partitions, join of member 1 to 200"), times);
    }
}

/// Nobody wants the same: the worst that sticky can meet.
#[test]
fn joins_with_many_different_subscriptions() {
    let mut bed = Bed::new();
    for n in 0..50 {
        bed.topic(&format!("t{n}"), 20);
    }
    let mut times = Vec::new();
    for n in 0..200_u128 {
        let names: Vec<String> =
            (0..50_u128).filter(|t| (t * 7 + n * 13) % 11 < 5).map(|t| format!("t{t}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        times.push(timed(&mut bed, &command("g", join(&run(&format!("m{n}"), n), options(&names)))));
    }
    report("sticky, 1,000 partitions, 11 different subscriptions, join of member 1 to 200", times);
    let mut times = Vec::new();
    let mut bed = Bed::new();
    for n in 0..50 {
        bed.topic(&format!("t{n}"), 20);
    }
    for n in 0..200_u128 {
        let names: Vec<String> = (0..50_u128)
            .filter(|t| (t * t * 31 + n * n * 17 + t * n) % 7 < 3)
            .map(|t| format!("t{t}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        times.push(timed(&mut bed, &command("g", join(&run(&format!("m{n}"), n), options(&names)))));
    }
    report("sticky, 1,000 partitions, all subscriptions different, join of member 1 to 200", times);
}
