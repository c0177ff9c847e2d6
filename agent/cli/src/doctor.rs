//! `tidelog doctor`: are the stores reachable, do they keep what Tidelog relies on, and if not, what to do.

use serde::Serialize;
use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_log::finding::{Check, Finding, Verdict};
use tidelog_metadata_node::genesis;

use crate::failure::{Exit, Failure};
use crate::stores::{ClusterStores, StoreArgs, with_causes};

/// Checks the stores of a cluster, and says what to do about each problem.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    stores: StoreArgs,
}

#[derive(Serialize)]
struct Row<'a> {
    store: &'a str,
    check: String,
    verdict: String,
    seen: &'a str,
    remedy: Option<&'a str>,
}

/// Runs `tidelog doctor`.
pub async fn run(args: DoctorArgs, json: bool) -> Result<(), Failure> {
    let stores = ClusterStores::open(&args.stores).await?;
    let mut findings = stores.probe(&SystemClock, &Entropy::from_os()).await;
    findings.push(("cluster".to_owned(), cluster(&stores).await));
    for (store, finding) in &findings {
        if json {
            let row = Row {
                store,
                check: finding.check.to_string(),
                verdict: finding.verdict.to_string(),
                seen: &finding.seen,
                remedy: finding.remedy,
            };
            println!("{}", serde_json::to_string(&row).map_err(|error| Failure::failed(error.to_string()))?);
        } else {
            println!("{store}: {finding}");
        }
    }
    let bad = findings.iter().filter(|(_, finding)| finding.verdict == Verdict::Bad).count();
    if bad > 0 {
        return Err(Failure::new(Exit::Unhealthy, format!("{bad} of {} checks failed", findings.len())));
    }
    Ok(())
}

async fn cluster(stores: &ClusterStores) -> Finding {
    const INITIALISE: &str = "run `tidelog init` with the same --storage and --metadata";
    const URLS: &str = "check --storage and --metadata: they have to belong to one cluster";
    match genesis::recognise(&*stores.data, &*stores.log).await {
        Ok(Some(cluster)) => {
            Finding::good(Check::Initialised, format!("both stores belong to cluster {cluster}"))
        }
        Ok(None) => Finding::bad(Check::Initialised, "the stores are not initialised", INITIALISE),
        Err(error) => Finding::bad(Check::Initialised, with_causes(&error), URLS),
    }
}
