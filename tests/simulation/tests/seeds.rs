//! Every seed holds every invariant, and the same seed gives the same run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelog_metadata_node::Mistake;
use tidelog_simulation::{Failure, Options, Report, simulate};

/// Every so many seeds, one is run twice (INV-25).
const TWICE_EVERY: u64 = 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, allowed is a number"))
    })
}

#[test]
fn seeds() {
    let (first, seeds) = (number("TIDELOG_SIM_FIRST_SEED", 0), number("TIDELOG_SIM_SEEDS", 1_000));
    let verbose = std::env::var_os("TIDELOG_SIM_TRACE").is_some();
    if verbose {
        tracing_subscriber::fmt()
            .without_time()
            .with_max_level(tracing::Level::DEBUG)
            .with_test_writer()
            .init();
    }
    let mistake = std::env::var("TIDELOG_SIM_MISTAKE").ok().map(|name| {
        let named = Mistake::ALL.into_iter().find(|mistake| format!("{mistake:?}") == name);
        named.unwrap_or_else(|| panic!("TIDELOG_SIM_MISTAKE is {name:?}, allowed are {:?}", Mistake::ALL))
    });
    let options = Options { mistake, verbose };
    let next = AtomicU64::new(first);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let reports: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || failed.lock().unwrap().is_some() {
                return;
            }
            match simulate(seed, options) {
                Ok(report) => {
                    if seed.is_multiple_of(TWICE_EVERY) && !verbose {
                        let again = simulate(seed, options);
                        assert_eq!(again, Ok(report), "INV-25: two runs of seed {seed} differ");
                    }
                    reports.lock().unwrap().push(report);
                }
                Err(failure) => {
                    failed.lock().unwrap().get_or_insert(failure);
                }
            }
        }
    };
    // A seed runs in one thread; several seeds may run side by side.
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(failure) = failed.lock().unwrap().take() {
        panic!("{failure}");
    }
    let reports = reports.into_inner().unwrap();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    println!(
        "{} seeds: {} epochs, {} entries, {} acknowledged, {} refused, {} unknown, {} linearizable reads, {} s of virtual time",
        reports.len(),
        sum(|r| r.epochs),
        sum(|r| r.entries),
        sum(|r| r.acknowledged),
        sum(|r| r.refused),
        sum(|r| r.unknown),
        sum(|r| r.reads),
        sum(|r| r.virtual_time.as_secs()),
    );
    println!("{} links between nodes, {} proposals handed on", sum(|r| r.links), sum(|r| r.handed_on));
    println!(
        "{} places removed, {} of them filled again, {} by a late seal",
        sum(|r| r.removed),
        sum(|r| r.refilled),
        sum(|r| r.late_seals),
    );
    if seeds >= 1_000 {
        // What no run meets is not tested.
        for (what, count) in [
            ("refusals", sum(|r| r.refused)),
            ("unknown outcomes", sum(|r| r.unknown)),
            ("places filled again", sum(|r| r.refilled)),
            ("late seals", sum(|r| r.late_seals)),
            ("proposals handed on", sum(|r| r.handed_on)),
        ] {
            assert!(count > 0, "{seeds} seeds had no {what}");
        }
    }
}
