//! How `finalize` reads parts from storage that answers slowly: many at the same time, and none twice.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;
use futures::stream::BoxStream;
use nightcap::output::process::OperatingSystem;
use nightcap::output::publish::finalize::finalize;
use nightcap::output::store::OutputStore;
use nightcap::storage::Location;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::common::Workplace;

/// Storage that counts how many reads of parts are under way at the same time.
#[derive(Debug, Default)]
struct Counting {
    objects: InMemory,
    under_way: AtomicUsize,
    most: AtomicUsize,
    reads: AtomicUsize,
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("storage that counts")
    }
}

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl ObjectStore for Counting {
    fn get_opts<'a, 'b, 'c>(&'a self, path: &'b Path, options: GetOptions) -> Answered<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            if path.as_ref().ends_with(".parquet") {
                self.reads.fetch_add(1, Ordering::SeqCst);
                let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(under_way, Ordering::SeqCst);
                // Every other request that can begin does so before this one goes on.
                tokio::task::yield_now().await;
                self.under_way.fetch_sub(1, Ordering::SeqCst);
            }
            self.objects.get_opts(path, options).await
        })
    }

    fn put_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Answered<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.objects.put_opts(path, payload, options)
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        path: &'b Path,
        options: PutMultipartOptions,
    ) -> Answered<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.objects.put_multipart_opts(path, options)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answered<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.objects.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, from: &'b Path, to: &'d Path, options: CopyOptions) -> Answered<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.objects.copy_opts(from, to, options)
    }
}

#[test]
fn finalize_fetches_many_parts_at_once_and_each_footer_once() {
    const PARTS: usize = 20;
    let workplace = Workplace::with_images(PARTS as u32, 1);
    workplace.run_ok(&["--run-id", "night", "--shard", "0/1"]);
    let storage = Arc::new(Counting::default());
    let root = workplace.path("out");
    for file in walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.unwrap()).filter(|e| e.file_type().is_file())
    {
        let name = file.path().strip_prefix(&root).unwrap().to_str().unwrap();
        block_on(storage.objects.put(&Path::from(name), std::fs::read(file.path()).unwrap().into())).unwrap();
    }
    let location = Location::Local("/".into()).resolve("s3://bucket/out").unwrap();
    let process = Arc::new(OperatingSystem::this());
    let store = OutputStore::over(storage.clone(), location, process, 0).unwrap();
    let published = finalize(&store, "night").unwrap();
    assert_eq!((published.parts, published.counts.rows), (PARTS as u64, PARTS as u64));
    let (most, reads) = (storage.most.load(Ordering::SeqCst), storage.reads.load(Ordering::SeqCst));
    assert!(most >= 16, "{most} reads at the same time at most");
    // Its footer and eight columns.
    assert!(reads <= 9 * PARTS, "{reads} reads of {PARTS} parts");
}
