//! The conformance suite on stores that need no service: memory, and a local directory.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use tidelog_metadata_log::conformance::{Ground, Race, races, run_all};
use tidelog_metadata_objectstore::{DurableLocal, ObjectStoreLog};

fn ground_on(store: Arc<dyn ObjectStore>) -> Ground {
    let prefix = Path::from("cluster/one");
    Ground::new(
        Arc::new(ObjectStoreLog::new(Arc::clone(&store), &prefix)),
        Arc::new(ObjectStoreLog::new(store, &prefix)),
    )
}

const LONG_RACE: Race = Race { writers: 32, rounds: 200 };

#[tokio::test(flavor = "multi_thread")]
async fn object_store_in_memory() {
    let ground = ground_on(Arc::new(InMemory::new()));
    run_all(&ground).await.expect("every promise is kept");
    races::race(&ground, LONG_RACE).await.expect("one winner");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ground = ground_on(Arc::new(DurableLocal::open(directory.path()).expect("a fresh directory opens")));
    run_all(&ground).await.expect("every promise is kept");
    races::race(&ground, LONG_RACE).await.expect("one winner");
}
