use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use tempfile::TempDir;

use super::disk::Syncs;
use super::*;

/// What the disk was asked, in order; fails the sync whose path contains a word.
#[derive(Debug, Clone, Default)]
struct Script {
    synced: Arc<Mutex<Vec<String>>>,
    fails_at: Arc<Mutex<Option<&'static str>>>,
}

/// How the script calls the sync of a whole file system.
const EVERYTHING: &str = "everything";

impl Syncs for Script {
    fn sync(&self, path: &FilePath, file: &File) -> io::Result<()> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let fails = self.fails_at.lock().is_some_and(|word| name.contains(word));
        self.synced.lock().push(name);
        if fails { Err(io::Error::other("input/output error")) } else { file.sync_all() }
    }

    fn sync_all(&self, path: &FilePath, _directory: &File) -> io::Result<()> {
        let fails = *self.fails_at.lock() == Some(EVERYTHING);
        self.synced.lock().push(format!("{EVERYTHING} below {}", path.display()));
        if fails { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}

impl Script {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.synced.lock())
    }
}

struct Scripted {
    store: DurableLocal,
    script: Script,
    last_words: Arc<Mutex<Vec<String>>>,
    directory: TempDir,
}

fn scripted() -> Scripted {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = Script::default();
    let last_words: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&last_words);
    let fatal: Fatal = Arc::new(move |message: &str| heard.lock().push(message.to_owned()));
    let store = DurableLocal::open_on(directory.path(), Disk::new(Box::new(script.clone()), fatal))
        .expect("a fresh directory opens");
    script.take();
    Scripted { store, script, last_words, directory }
}

async fn create(store: &DurableLocal, key: &str, bytes: &'static [u8]) -> Result<PutResult> {
    store.put_opts(&Path::from(key), bytes.into(), PutMode::Create.into()).await
}

async fn bytes_of(store: &DurableLocal, key: &str) -> Result<Bytes> {
    store.get(&Path::from(key)).await?.bytes().await
}

#[tokio::test]
async fn a_create_syncs_file_then_directory_and_new_directories_first() {
    let Scripted { store, script, directory, .. } = scripted();
    create(&store, "a/b/one", b"1").await.expect("created");
    let root = directory.path().file_name().map(|name| name.to_string_lossy().into_owned()).expect("a name");
    assert_eq!(script.take(), ["b", "a", &root, "one#1", "b"]);
    create(&store, "a/b/two", b"2").await.expect("created");
    assert_eq!(script.take(), ["two#2", "b"], "known directories are synced for their own new entries only");
}

#[tokio::test]
async fn already_exists_is_synced_before_it_is_said() {
    let Scripted { store, script, .. } = scripted();
    create(&store, "wal/one", b"first").await.expect("created");
    script.take();
    let refused = create(&store, "wal/one", b"second").await;
    assert!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
    assert_eq!(script.take(), ["one#2", "one", "wal"]);
    assert_eq!(bytes_of(&store, "wal/one").await.expect("readable"), "first");
    assert!(store.inner.unsettled.lock().is_empty());
}

#[tokio::test]
async fn a_read_of_an_unsynced_name_syncs_it_and_others_do_not() {
    let Scripted { store, script, .. } = scripted();
    create(&store, "wal/one", b"1").await.expect("created");
    script.take();
    bytes_of(&store, "wal/one").await.expect("readable");
    assert!(script.take().is_empty());

    // As between another writer's link and its sync.
    let path = store.path().join("wal/one");
    store.inner.mark_unsettled(&path);
    bytes_of(&store, "wal/one").await.expect("readable");
    assert_eq!(script.take(), ["wal"]);
    store.get_ranges(&Path::from("wal/one"), &[0..1, 0..1]).await.expect("readable");
    assert_eq!(script.take(), ["wal"]);
    store.head(&Path::from("wal/one")).await.expect("readable");
    assert_eq!(script.take(), ["wal"]);
}

#[tokio::test]
async fn a_failed_sync_is_the_last_thing_that_happens() {
    for (word, visible) in [("one#", false), ("wal", true)] {
        let Scripted { store, script, last_words, .. } = scripted();
        create(&store, "wal/zero", b"0").await.expect("created");
        *script.fails_at.lock() = Some(word);
        create(&store, "wal/one", b"1").await.expect_err("not acknowledged");
        let said = last_words.lock().clone();
        assert_eq!(said.len(), 1, "the process would have ended once: {said:?}");
        assert!(said[0].contains(word) && said[0].contains("input/output error"), "{said:?}");

        // The disk claims to be well again, as the kernel does after it has reported an error. Nobody believes it.
        *script.fails_at.lock() = None;
        script.take();
        create(&store, "wal/one", b"1").await.expect_err("no second try");
        bytes_of(&store, "wal/zero").await.expect_err("no read either");
        assert!(script.take().is_empty());
        assert_eq!(store.path().join("wal/one").exists(), visible);
    }
}

#[tokio::test]
async fn a_sync_that_failed_on_a_taken_name_or_a_read_is_fatal_too() {
    let Scripted { store, script, last_words, .. } = scripted();
    create(&store, "wal/one", b"1").await.expect("created");
    *script.fails_at.lock() = Some("wal");
    let refused = create(&store, "wal/one", b"2").await;
    assert!(matches!(refused, Err(Error::Generic { .. })), "not believed to exist: {refused:?}");
    assert_eq!(last_words.lock().len(), 1);

    let Scripted { store, script, last_words, .. } = scripted();
    create(&store, "wal/one", b"1").await.expect("created");
    store.inner.mark_unsettled(&store.path().join("wal/one"));
    *script.fails_at.lock() = Some("wal");
    bytes_of(&store, "wal/one").await.expect_err("not believed");
    assert_eq!(last_words.lock().len(), 1);
}

#[tokio::test]
async fn a_failed_sync_at_boot_refuses_the_directory() {
    for word in ["wal", EVERYTHING] {
        let Scripted { store, directory, script, last_words } = scripted();
        create(&store, "wal/one", b"1").await.expect("created");
        drop(store);
        *script.fails_at.lock() = Some(word);
        let heard = Arc::clone(&last_words);
        let fatal: Fatal = Arc::new(move |message: &str| heard.lock().push(message.to_owned()));
        DurableLocal::open_on(directory.path(), Disk::new(Box::new(script), fatal)).expect_err("refused");
        assert_eq!(last_words.lock().len(), 1, "{word}");
    }
}

#[tokio::test]
async fn boot_removes_leftovers_and_syncs_the_rest() {
    let Scripted { store, directory, script, last_words } = scripted();
    create(&store, "wal/one", b"1").await.expect("created");
    create(&store, "meta/log/0", b"2").await.expect("created");
    drop(store);
    let leftovers = ["wal/two.seg#1", "wal/one#77", "meta/log/1#3", "fitness#1"];
    for name in leftovers {
        fs::write(directory.path().join(name), b"half").expect("written");
    }
    fs::write(directory.path().join("wal/no#leftover"), b"kept").expect("written");
    script.take();

    let fatal: Fatal = Arc::new(move |message: &str| last_words.lock().push(message.to_owned()));
    let store =
        DurableLocal::open_on(directory.path(), Disk::new(Box::new(script.clone()), fatal)).expect("opens");
    for name in leftovers {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
    let mut found: Vec<String> =
        store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.expect("listed");
    found.sort();
    assert_eq!(found, ["meta/log/0", "wal/no#leftover", "wal/one"], "the lock file is no object");
    let synced = script.take();
    for name in ["wal", "meta", "log"] {
        assert!(synced.iter().any(|path| path == name), "{name} in {synced:?}");
    }
    let everything = format!("{EVERYTHING} below {}", store.path().display());
    assert!(synced.contains(&everything), "{synced:?}");
}

#[tokio::test]
async fn a_second_user_of_the_directory_is_refused_by_name_and_pid() {
    let Scripted { store, directory, .. } = scripted();
    create(&store, "wal/one", b"1").await.expect("created");
    let leftover = directory.path().join("wal/two#9");
    fs::write(&leftover, b"in the making").expect("written");

    let refused = DurableLocal::open(directory.path()).expect_err("in use");
    let said = refused.to_string();
    assert!(said.contains(&*directory.path().to_string_lossy()), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(leftover.exists(), "the loser touched nothing");

    let clone = store.clone();
    drop(store);
    DurableLocal::open(directory.path()).expect_err("a clone holds it still");
    drop(clone);
    DurableLocal::open(directory.path()).expect("free again");
}

#[tokio::test]
async fn a_dropped_call_keeps_the_lock_until_it_is_through() {
    let Scripted { store, directory, .. } = scripted();
    let key = Path::from("wal/one");
    {
        // Polled once, which starts the work, and dropped, as a time-out does.
        let put = store.put_opts(&key, Bytes::from(vec![7; 1 << 20]).into(), PutMode::Create.into());
        futures::future::select(put, std::future::ready(())).await;
    }
    drop(store);
    let reopened = loop {
        match DurableLocal::open(directory.path()) {
            Ok(store) => break store,
            Err(LocalError::InUse { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let found = bytes_of(&reopened, "wal/one").await.expect("the work went on");
    assert_eq!(found.len(), 1 << 20);
}

#[tokio::test]
async fn overwrite_delete_and_refusals() {
    let Scripted { store, script, .. } = scripted();
    store.put(&Path::from("a/one"), "old".into()).await.expect("written");
    store.put(&Path::from("a/one"), "new".into()).await.expect("overwritten");
    assert_eq!(bytes_of(&store, "a/one").await.expect("readable"), "new");
    script.take();
    store.delete(&Path::from("a/one")).await.expect("deleted");
    assert_eq!(script.take(), ["a"], "a deletion is durable too");
    assert!(matches!(store.delete(&Path::from("a/one")).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.get(&Path::from("a/one")).await, Err(Error::NotFound { .. })));

    let like_staging = Path::parse("a/one#1").expect("a key");
    store.put(&like_staging, "x".into()).await.expect_err("a key like a staging name");
    let update = PutMode::Update(object_store::UpdateVersion { e_tag: None, version: None });
    let refused = store.put_opts(&Path::from("a/one"), "x".into(), update.into()).await;
    assert!(matches!(refused, Err(Error::NotImplemented { .. })));
    assert!(store.put_multipart(&Path::from("a/one")).await.is_err());
    assert!(store.copy(&Path::from("a/one"), &Path::from("a/two")).await.is_err());
}

#[tokio::test]
async fn a_full_name_space_of_directories_is_made_durable_by_one_writer_for_all() {
    // Many writers that need the same new directories at once: each of them acknowledges only after they are synced.
    let Scripted { store, script, .. } = scripted();
    let writers = (0..32).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let key = Path::from(format!("deep/er/est/{n}"));
            store.put_opts(&key, "x".into(), PutMode::Create.into()).await
        })
    });
    for written in futures::future::join_all(writers).await {
        written.expect("not cancelled").expect("created");
    }
    let synced = script.take();
    let first_file = synced.iter().position(|name| name.contains('#')).expect("files were synced");
    assert!(synced[..first_file].contains(&"deep".to_owned()), "{synced:?}");
    assert_eq!(synced.iter().filter(|name| *name == "deep").count(), 1);
}
