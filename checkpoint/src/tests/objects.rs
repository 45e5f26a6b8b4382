//! An object store whose calls fail, each in turn, before they are done or after.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::{assert_as_written, newest, options, write_checkpoint};
use crate::backend::Objects;
use crate::{Options, Store};

/// More calls than a save and a removal make.
const CALLS_MAX: u64 = 1000;

/// When a call fails: its answer may be lost too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

/// Fails one call.
#[derive(Debug)]
struct Plan {
    call: u64,
    moment: Moment,
    calls: AtomicU64,
}

impl Plan {
    /// When the call that begins now fails, if it does.
    fn next(&self) -> Option<Moment> {
        (self.calls.fetch_add(1, Ordering::Relaxed) + 1 == self.call).then_some(self.moment)
    }

    fn fired(&self) -> bool {
        self.calls.load(Ordering::Relaxed) >= self.call
    }

    async fn around<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next() {
            Some(Moment::Before) => Err(failed()),
            Some(Moment::After) => call.await.and(Err(failed())),
            None => call.await,
        }
    }
}

fn failed() -> object_store::Error {
    object_store::Error::Generic { store: "test", source: "the network is gone".into() }
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<InMemory>,
    plan: Arc<Plan>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.plan.around(self.inner.put_opts(to, bytes, how)).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.plan.around(self.inner.put_multipart_opts(to, how)).await?;
        Ok(Box::new(FaultyUpload { inner, plan: Arc::clone(&self.plan) }))
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        self.plan.around(self.inner.get_opts(from, how)).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.plan.around(self.inner.get_ranges(from, ranges)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.plan.next() {
            Some(Moment::Before) => stream::once(async { Err(failed()) }).boxed(),
            Some(Moment::After) => {
                self.inner.delete_stream(paths).map(|done| done.and(Err(failed()))).boxed()
            }
            None => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.plan.next() {
            Some(_) => stream::once(async { Err(failed()) }).boxed(),
            None => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.plan.around(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.plan.around(self.inner.copy_opts(from, to, how)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    plan: Arc<Plan>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let plan = Arc::clone(&self.plan);
        let part = self.inner.put_part(bytes);
        Box::pin(async move { plan.around(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let plan = Arc::clone(&self.plan);
        plan.around(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let plan = Arc::clone(&self.plan);
        plan.around(self.inner.abort()).await
    }
}

fn store(inner: &Arc<InMemory>, plan: &Arc<Plan>, tries: u32) -> Store {
    let faulty = Faulty { inner: Arc::clone(inner), plan: Arc::clone(plan) };
    let options = Options { tries, ..options() };
    let prefix = Path::from("jobs/one");
    let objects = Objects::new(Arc::new(faulty), prefix, "test://jobs/one", &options);
    Store::over(Arc::new(objects.expect("a thread")), &options)
}

fn plan(call: u64, moment: Moment) -> Arc<Plan> {
    Arc::new(Plan { call, moment, calls: AtomicU64::new(0) })
}

/// Saves twice in peace, once while call `call` fails. Returns whether it did.
fn save_with_fault(call: u64, moment: Moment, tries: u32) -> bool {
    let inner = Arc::new(InMemory::new());
    let peace = store(&inner, &plan(0, Moment::Before), tries);
    for _ in 0..2 {
        write_checkpoint(&peace).expect("no fault");
    }

    let fault = plan(call, moment);
    let disturbed = store(&inner, &fault, tries);
    let saved = write_checkpoint(&disturbed);
    let retained = disturbed.retain(2);
    if tries > 1 {
        saved.as_ref().unwrap_or_else(|error| panic!("call {call} {moment:?}: {error}"));
        retained.unwrap_or_else(|error| panic!("call {call} {moment:?}: {error}"));
    }

    let context = format!("call {call} {moment:?}, {saved:?}");
    let found = newest(&peace);
    assert_eq!(found.passed_over, [], "{context}");
    let checkpoint = found.checkpoint.expect("the second at least");
    assert_as_written(&checkpoint);
    if let Ok(manifest) = saved {
        assert_eq!(checkpoint.manifest(), &manifest, "{context}");
    }
    write_checkpoint(&peace).expect("no fault");
    peace.retain(2).expect("no fault");
    assert_eq!(peace.list().expect("no fault").len(), 2, "{context}");
    fault.fired()
}

#[test]
fn a_call_that_fails_before_or_after_it_is_done_costs_at_most_the_new_checkpoint() {
    for moment in [Moment::Before, Moment::After] {
        let calls = (1..CALLS_MAX).take_while(|&call| save_with_fault(call, moment, 1)).count();
        assert!(calls >= 30, "{calls} calls");
    }
}

#[test]
fn a_call_that_fails_once_is_made_again_and_costs_nothing() {
    for moment in [Moment::Before, Moment::After] {
        let calls = (1..CALLS_MAX).take_while(|&call| save_with_fault(call, moment, 3)).count();
        assert!(calls >= 30, "{calls} calls");
    }
}

#[test]
fn a_store_that_is_not_built_in_or_no_store_is_named() {
    let error = |place: &str| match Store::open(place, &options()) {
        Ok(store) => panic!("{} was opened", store.place()),
        Err(error) => error.to_string(),
    };
    if cfg!(not(feature = "s3")) {
        let expected = "'s3://a/b': this gradwire was built without the feature `s3`";
        assert_eq!(error("s3://a/b"), expected);
    }
    assert!(error("ftp://a/b").contains("is no store"), "{}", error("ftp://a/b"));
    assert!(error("file://a/b").contains("absolute"), "{}", error("file://a/b"));
    assert!(error("").contains("empty"), "{}", error(""));
}
