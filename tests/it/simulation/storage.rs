//! The storage of a simulation: `object_store`'s `InMemory`, behind the turns, the failures and the clock of the [`World`].

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::world::{Answer, Effect, LateRequest, Operation, Verdict, World};

/// The storage, as one process reaches it.
#[derive(Clone)]
pub struct SimulatedStorage {
    pub world: Arc<World>,
    pub process: usize,
}

/// The time of the world as a date.
pub fn date(time: std::time::Duration) -> DateTime<Utc> {
    let start = DateTime::from_timestamp(1_795_407_300, 0).unwrap_or_default();
    start + TimeDelta::from_std(time).unwrap_or_default()
}

fn timeout() -> Error {
    let source = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("no answer"));
    Error::Generic { store: "simulation", source: Box::new(source) }
}

fn crash() -> Error {
    Error::NotImplemented { operation: "work after a crash".to_owned(), implementer: "a dead process".to_owned() }
}

/// `answer`, unless the process does not learn it.
fn told<T>(verdict: Verdict, answer: Result<T>) -> Result<T> {
    match verdict.answer {
        Answer::Real => answer,
        Answer::Timeout => Err(timeout()),
        Answer::Crash => Err(crash()),
    }
}

fn say<T>(answer: &Result<T>) -> &'static str {
    match answer {
        Ok(_) => "done",
        Err(Error::NotFound { .. }) => "not found",
        Err(Error::AlreadyExists { .. }) => "exists",
        Err(_) => "failed",
    }
}

impl World {
    /// Puts an object now.
    fn put(&self, name: &str, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let renewed = options.mode == PutMode::Overwrite;
        let bytes = bytes::Bytes::from(payload.clone());
        // `InMemory` never waits.
        let answer = self.objects.put_opts(path, payload, options).now_or_never().unwrap();
        let mut state = self.lock();
        state.note(name, &format!("put {path} -> {}", say(&answer)));
        if answer.is_ok() {
            let now = state.now;
            state.modified.insert(path.to_string(), now);
            let step = state.schedule.len();
            state.ledger.put(path.as_ref(), &bytes, renewed, now, step);
        }
        answer
    }

    fn delete(&self, name: &str, path: &Path) {
        self.objects.delete(path).now_or_never().unwrap().unwrap();
        let mut state = self.lock();
        let was = state.modified.remove(path.as_ref());
        state.note(name, &format!("delete {path} -> {}", if was.is_some() { "done" } else { "not found" }));
        let (now, step) = (state.now, state.schedule.len());
        state.ledger.delete(path.as_ref(), now, step);
    }

    /// A request arrives of which nobody waits for the answer.
    pub fn land(&self, request: LateRequest) {
        match request {
            LateRequest::Put { name, path, bytes, options } => {
                drop(self.put(&format!("{name}, late"), &Path::from(path), bytes.into(), options));
            }
            LateRequest::Delete { name, path } => self.delete(&format!("{name}, late"), &Path::from(path)),
        }
    }
}

impl SimulatedStorage {
    fn name(&self) -> String {
        self.world.lock().processes[self.process].name.clone()
    }

    /// Takes a turn for an operation that changes nothing; `what` is noted with the answer.
    fn read<T>(&self, path: &str, what: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let verdict = if self.world.reads_on(self.process, path) {
            Verdict::DO
        } else {
            self.world.turn(self.process, Operation::Read(path.to_owned()))
        };
        if verdict.answer == Answer::Crash {
            return Err(crash());
        }
        let answer = told(verdict, read());
        let name = self.name();
        self.world.lock().note(&name, &format!("{what} {path} -> {}", say(&answer)));
        answer
    }

    /// The clock of the storage is the world's.
    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = self.world.lock().modified.get(meta.location.as_ref()) {
            meta.last_modified = date(*time);
        }
        meta
    }

    fn noted_loss(&self, verdict: Verdict, what: &str, path: &Path) {
        let how = match (verdict.effect, verdict.answer) {
            (Effect::Now, Answer::Real) => return,
            (Effect::Now, Answer::Timeout) => "took effect, but the answer is lost",
            (Effect::Now, Answer::Crash) => "took effect, and the process crashes",
            (Effect::Never, Answer::Crash) => "crashes before it",
            (Effect::Never, _) => "had no effect, and no answer comes",
            (Effect::Later, Answer::Crash) => "is on its way, and the process crashes",
            (Effect::Later, _) => "is on its way, and no answer comes",
        };
        let name = self.name();
        self.world.lock().note(&name, &format!("{what} {path}: {how}"));
    }
}

impl fmt::Debug for SimulatedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the storage of a simulation, process {}", self.process)
    }
}

impl fmt::Display for SimulatedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

fn not_used<'a, T: Send + 'a>(operation: &str) -> Answered<'a, T> {
    let error = Error::NotImplemented { operation: operation.to_owned(), implementer: "a simulation".to_owned() };
    Box::pin(std::future::ready(Err(error)))
}

impl ObjectStore for SimulatedStorage {
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
        Box::pin(async move {
            let verdict = self.world.turn(self.process, Operation::Put(path.to_string()));
            if self.world.lock().processes[self.process].crashed && verdict == Verdict::DEAD {
                return Err(crash());
            }
            self.noted_loss(verdict, "put", path);
            let name = self.name();
            match verdict.effect {
                Effect::Now => told(verdict, self.world.put(&name, path, payload, options)),
                Effect::Never => told(verdict, Err(timeout())),
                Effect::Later => {
                    let (path, bytes) = (path.to_string(), payload.into());
                    self.world.lock().late.push(LateRequest::Put { name, path, bytes, options });
                    told(verdict, Err(timeout()))
                }
            }
        })
    }

    fn get_opts<'a, 'b, 'c>(&'a self, path: &'b Path, options: GetOptions) -> Answered<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let what = if options.head { "look at" } else { "read" };
            let objects = &self.world.objects;
            let read = || objects.get_opts(path, options).now_or_never().unwrap();
            let mut found = self.read(path.as_ref(), what, read)?;
            found.meta = self.dated(found.meta);
            Ok(found)
        })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |path: Result<Path>| {
            let path = path?;
            let verdict = this.world.turn(this.process, Operation::Delete(path.to_string()));
            this.noted_loss(verdict, "delete", &path);
            let name = this.name();
            match verdict.effect {
                Effect::Now => this.world.delete(&name, &path),
                Effect::Never => {}
                Effect::Later => {
                    let path = path.to_string();
                    this.world.lock().late.push(LateRequest::Delete { name, path });
                }
            }
            told(verdict, Ok(path))
        };
        paths.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.map(ToString::to_string).unwrap_or_default();
        let all = || self.world.objects.list(prefix).collect::<Vec<_>>().now_or_never().unwrap().into_iter().collect();
        let found: Result<Vec<ObjectMeta>> = self.read(&path, "list", all);
        let found = match found {
            Ok(found) => found.into_iter().map(|meta| Ok(self.dated(meta))).collect(),
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(found).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> Answered<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let path = prefix.map(ToString::to_string).unwrap_or_default();
            let list = || self.world.objects.list_with_delimiter(prefix).now_or_never().unwrap();
            self.read(&path, "list folders of", list)
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        _: &'b Path,
        _: PutMultipartOptions,
    ) -> Answered<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        not_used("multipart uploads")
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, _: &'b Path, _: &'d Path, _: CopyOptions) -> Answered<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        not_used("copies")
    }
}

impl Deref for SimulatedStorage {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}
