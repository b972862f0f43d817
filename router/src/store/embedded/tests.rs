use super::*;
use crate::store::contract::{self, Harness};
use tempfile::TempDir;

struct Folder {
    store: Arc<Embedded>,
    folder: TempDir,
}

/// As in a test: nobody is in a hurry.
fn settings(folder: &std::path::Path) -> Settings {
    let call_timeout = Duration::from_secs(30);
    Settings { call_timeout, ..Settings::new(folder.to_owned()) }
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: Arc::new(Embedded::open(settings(folder.path())).unwrap()), folder }
    }
}

#[tonic::async_trait]
impl Harness for Folder {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = Arc::new(Embedded::open(settings(self.folder.path())).unwrap());
    }
}

#[tokio::test]
async fn the_embedded_store_keeps_the_rules() {
    contract::run_cases(&mut Folder::new()).await;
}

#[tokio::test]
async fn the_embedded_store_answers_as_the_reference_does() {
    contract::run_model(&mut Folder::new(), 4, 1_500).await;
}
