//! A deadline for each call of a store.
//!
//! Owns the thread that a call is made on: a disk that hangs cannot be interrupted, only left
//! alone. Sinks and sources are not bounded here, but by the threads that own them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::{Backend, Folder, New, Sink, Source, Stored};
use crate::error::StoreError;
use crate::layout::{CheckpointNumber, Object};

/// A store whose calls end in time.
pub(crate) struct Timed {
    inner: Arc<dyn Backend>,
    limit: Duration,
}

impl Timed {
    pub(crate) fn new(inner: Arc<dyn Backend>, limit: Duration) -> Timed {
        Timed { inner, limit }
    }

    fn call<T: Send + 'static>(
        &self,
        object: Option<&Object>,
        doing: &'static str,
        work: impl FnOnce(&dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let name = || object.map_or(self.place().to_owned(), |object| self.name(object));
        within(self.limit, name, doing, move || work(&*inner))
    }
}

/// Does `work` on a thread of its own, and waits for it no longer than `limit`.
fn within<T: Send + 'static>(
    limit: Duration,
    object: impl Fn() -> String,
    doing: &'static str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (done, result) = bounded(1);
    let thread = thread::Builder::new().name("checkpoint-call".to_owned());
    // A result that comes too late has no reader.
    let spawned = thread.spawn(move || drop(done.send(work())));
    if let Err(error) = spawned {
        let why = format!("no thread: {error}");
        return Err(StoreError::Failed { object: object(), doing, offset: None, why });
    }
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            Err(StoreError::TimedOut { object: object(), doing, limit })
        }
        Err(RecvTimeoutError::Disconnected) => panic!("a store's call ended without a result"),
    }
}

impl Backend for Timed {
    fn place(&self) -> &str {
        self.inner.place()
    }

    fn list(&self) -> Result<Vec<Folder>, StoreError> {
        self.call(None, "list", |inner| inner.list())
    }

    fn files(&self, number: CheckpointNumber) -> Result<Vec<Stored>, StoreError> {
        self.call(None, "list", move |inner| inner.files(number))
    }

    fn claim(&self, number: CheckpointNumber) -> Result<New, StoreError> {
        self.call(None, "claim a number", move |inner| inner.claim(number))
    }

    fn create(&self, object: &Object) -> Result<Box<dyn Sink>, StoreError> {
        let own = object.clone();
        self.call(Some(object), "create", move |inner| inner.create(&own))
    }

    fn put_new(&self, object: &Object, bytes: &[u8]) -> Result<New, StoreError> {
        let (own, bytes) = (object.clone(), bytes.to_vec());
        self.call(Some(object), "write", move |inner| inner.put_new(&own, &bytes))
    }

    fn open(&self, object: &Object) -> Result<Box<dyn Source>, StoreError> {
        let own = object.clone();
        self.call(Some(object), "open", move |inner| inner.open(&own))
    }

    fn remove(&self, object: &Object) -> Result<(), StoreError> {
        let own = object.clone();
        self.call(Some(object), "remove", move |inner| inner.remove(&own))
    }

    fn remove_folder(&self, number: CheckpointNumber) -> Result<(), StoreError> {
        self.call(None, "remove", move |inner| inner.remove_folder(number))
    }

    fn get(&self, object: &Object, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let own = object.clone();
        self.call(Some(object), "read", move |inner| inner.get(&own, bytes_max))
    }
}
