//! An object store of checkpoints: S3 and its like, and memory.
//!
//! Owns the asynchronous runtime (one thread) that the crate `object_store` wants, and which calls
//! are repeated: those that may be made twice. Objects appear whole, and durable, once their last
//! request is answered, so there are no temporary names; a number is taken by a `claim` object.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    WriteMultipart,
};
use tokio::runtime::{Builder, Runtime};

use super::{Backend, Folder, New, Options, Sink, Source, Stored};
use crate::error::StoreError;
use crate::layout::{CLAIM, CheckpointNumber, Object, folder, number_of};

/// Length of a part of an upload, in bytes. Stores take 5 MiB at least, some only equal ones, and
/// 10 000 at most: a shard's part may have 156 GiB.
const UPLOAD_BYTES: usize = 16 << 20;

/// Parts of one upload under way.
const UPLOADS_MAX: usize = 2;

/// How much is asked for at once, in bytes.
const READ_BYTES: u64 = 8 << 20;

/// The pause before the second try; it doubles from try to try.
const PAUSE: Duration = Duration::from_millis(50);

/// What a `claim` object holds.
const CLAIM_TEXT: &[u8] = b"gradwire checkpoint\n";

/// A prefix in an object store.
pub(crate) struct Objects {
    calls: Calls,
    prefix: Path,
    place: String,
}

impl Objects {
    /// - Errors: no thread for the runtime.
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        place: &str,
        options: &Options,
    ) -> Result<Objects, StoreError> {
        let place = place.trim_end_matches('/').to_owned();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("checkpoint-store")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Place { place: place.clone(), why: error.to_string() })?;
        let (limit, tries) = (options.limit, options.tries);
        let calls = Calls { store, runtime: Arc::new(runtime), limit, tries };
        Ok(Objects { calls, prefix, place })
    }

    fn path(&self, object: &Object) -> Path {
        self.folder(object.number).join(object.file.as_str())
    }

    fn folder(&self, number: CheckpointNumber) -> Path {
        self.prefix.clone().join(folder(number))
    }

    fn below(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        self.calls.repeat(&self.place, "list", |store| {
            let (store, prefix) = (Arc::clone(store), prefix.clone());
            async move { store.list(Some(&prefix)).try_collect().await }
        })
    }
}

impl Backend for Objects {
    fn place(&self) -> &str {
        &self.place
    }

    fn list(&self) -> Result<Vec<Folder>, StoreError> {
        let mut folders: Vec<Folder> = Vec::new();
        let mut found = self.below(&self.prefix)?;
        found.sort_unstable_by(|one, other| one.location.cmp(&other.location));
        for meta in found {
            let Some(mut parts) = meta.location.prefix_match(&self.prefix) else { continue };
            let (Some(name), Some(file), None) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let Some(number) = number_of(name.as_ref()) else { continue };
            let stored = Stored { file: file.as_ref().to_owned(), bytes: meta.size };
            match folders.last_mut() {
                Some(last) if last.number == number => last.files.push(stored),
                _ => folders.push(Folder { number, files: vec![stored] }),
            }
        }
        folders.sort_unstable_by_key(|folder| folder.number);
        Ok(folders)
    }

    fn files(&self, number: CheckpointNumber) -> Result<Vec<Stored>, StoreError> {
        let folder = self.folder(number);
        let found = self.below(&folder)?.into_iter().filter_map(|meta| {
            let mut parts = meta.location.prefix_match(&folder)?;
            let file = parts.next()?.as_ref().to_owned();
            parts.next().is_none().then_some(Stored { file, bytes: meta.size })
        });
        Ok(found.collect())
    }

    fn claim(&self, number: CheckpointNumber) -> Result<New, StoreError> {
        self.put_new(&Object { number, file: CLAIM.to_owned() }, CLAIM_TEXT)
    }

    fn create(&self, object: &Object) -> Result<Box<dyn Sink>, StoreError> {
        let (path, name) = (self.path(object), self.name(object));
        let upload = self.calls.repeat(&name, "begin upload", |store| {
            let (store, path) = (Arc::clone(store), path.clone());
            async move { store.put_multipart(&path).await }
        })?;
        let upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_BYTES);
        Ok(Box::new(ObjectSink { calls: self.calls.clone(), upload, name, written: 0 }))
    }

    /// A try that was repeated may find what the one before made: then it says `Exists`.
    fn put_new(&self, object: &Object, bytes: &[u8]) -> Result<New, StoreError> {
        let (path, payload) = (self.path(object), PutPayload::from(bytes.to_vec()));
        self.calls.repeat(&self.name(object), "write", |store| {
            let (store, path, payload) = (Arc::clone(store), path.clone(), payload.clone());
            async move {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match store.put_opts(&path, payload, options).await {
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(New::Exists),
                    put => put.map(|_| New::Made),
                }
            }
        })
    }

    fn open(&self, object: &Object) -> Result<Box<dyn Source>, StoreError> {
        let (path, name) = (self.path(object), self.name(object));
        let meta = self.calls.repeat(&name, "open", |store| {
            let (store, path) = (Arc::clone(store), path.clone());
            async move { store.head(&path).await }
        })?;
        let (calls, bytes) = (self.calls.clone(), meta.size);
        Ok(Box::new(ObjectSource {
            calls,
            path,
            name,
            bytes,
            asked: 0,
            window: Vec::new(),
            used: 0,
        }))
    }

    fn remove(&self, object: &Object) -> Result<(), StoreError> {
        let path = self.path(object);
        let removed = self.calls.repeat(&self.name(object), "remove", |store| {
            let (store, path) = (Arc::clone(store), path.clone());
            async move { store.delete(&path).await }
        });
        match removed {
            Err(StoreError::Absent { .. }) => Ok(()),
            removed => removed,
        }
    }

    fn remove_folder(&self, number: CheckpointNumber) -> Result<(), StoreError> {
        self.remove(&Object { number, file: CLAIM.to_owned() })
    }
}

/// How calls are made: each within a limit, and those that may be made twice more than once.
#[derive(Clone)]
struct Calls {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    limit: Duration,
    tries: u32,
}

impl Calls {
    fn repeat<T, F>(
        &self,
        object: &str,
        doing: &'static str,
        call: impl Fn(&Arc<dyn ObjectStore>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let end = Instant::now() + self.limit;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let left = end.saturating_duration_since(Instant::now());
            match self.wait(left, call(&self.store)) {
                None => break,
                Some(Err(error)) if attempt < self.tries && may_pass(&error) && pause < left => {
                    thread::sleep(pause);
                    pause *= 2;
                }
                Some(result) => {
                    return result.map_err(|error| failure(object, doing, None, &error));
                }
            }
        }
        Err(StoreError::TimedOut { object: object.to_owned(), doing, limit: self.limit })
    }

    fn once<T>(
        &self,
        object: &str,
        doing: &'static str,
        offset: u64,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        match self.wait(self.limit, call) {
            Some(result) => result.map_err(|error| failure(object, doing, Some(offset), &error)),
            None => {
                Err(StoreError::TimedOut { object: object.to_owned(), doing, limit: self.limit })
            }
        }
    }

    fn wait<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(limit, call).await.ok() })
    }
}

/// Whether a try later may end otherwise.
fn may_pass(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

fn failure(
    object: &str,
    doing: &'static str,
    offset: Option<u64>,
    error: &object_store::Error,
) -> StoreError {
    let object = object.to_owned();
    match error {
        object_store::Error::NotFound { .. } => StoreError::Absent { object },
        error => StoreError::Failed { object, doing, offset, why: error.to_string() },
    }
}

struct ObjectSink {
    calls: Calls,
    upload: WriteMultipart,
    name: String,
    written: u64,
}

impl Sink for ObjectSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        {
            let _entered = self.calls.runtime.enter();
            self.upload.write(bytes);
        }
        let room = self.upload.wait_for_capacity(UPLOADS_MAX);
        self.calls.once(&self.name, "upload", self.written, room)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let ObjectSink { calls, upload, name, written } = *self;
        calls.once(&name, "finish upload", written, upload.finish()).map(drop)
    }

    fn abandon(self: Box<Self>) {
        let ObjectSink { calls, upload, name, written } = *self;
        // What is left of an upload is not seen by anyone; stores have rules for its removal.
        let _ = calls.once(&name, "abandon upload", written, upload.abort());
    }
}

struct ObjectSource {
    calls: Calls,
    path: Path,
    name: String,
    bytes: u64,
    /// How far it was asked for: the end of the window.
    asked: u64,
    window: Vec<u8>,
    /// How much of the window was handed out.
    used: usize,
}

impl ObjectSource {
    fn next_window(&mut self) -> Result<(), StoreError> {
        let range = self.asked..self.bytes.min(self.asked + READ_BYTES);
        let read = self.calls.repeat(&self.name, "read", |store| {
            let (store, path) = (Arc::clone(store), self.path.clone());
            let range = Some(GetRange::Bounded(range.clone()));
            let options = GetOptions { range, ..GetOptions::default() };
            async move { store.get_opts(&path, options).await?.bytes().await }
        })?;
        self.asked += read.len() as u64;
        self.window = read.into();
        self.used = 0;
        Ok(())
    }
}

impl Source for ObjectSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        let mut read = 0;
        while read < into.len() {
            if self.used == self.window.len() {
                if self.asked >= self.bytes {
                    break;
                }
                self.next_window()?;
                if self.window.is_empty() {
                    break;
                }
            }
            let bytes = (into.len() - read).min(self.window.len() - self.used);
            into[read..read + bytes].copy_from_slice(&self.window[self.used..self.used + bytes]);
            self.used += bytes;
            read += bytes;
        }
        Ok(read)
    }
}
