//! A simulation that finds nothing proves nothing: nodes that break a rule on purpose have to be found.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidelog_metadata_node::Mistake;
use tidelog_simulation::{Failure, Options, simulate};

/// Seeds within which each mistake has to be found.
const SEEDS: u64 = 500;

fn first_found(mistake: Mistake) -> Option<Failure> {
    let options = Options { mistake: Some(mistake), verbose: false };
    (0..SEEDS).find_map(|seed| simulate(seed, options).err())
}

#[test]
fn each_planted_mistake_is_found() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(mistake) = Mistake::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match first_found(*mistake) {
                Some(Failure { seed, violation, .. }) => println!("{mistake:?}: seed {seed}: {violation}"),
                None => missed.lock().unwrap().push(*mistake),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
