//! Files of web servers, as lenient as `urllib`: servers that say less than `object_store` expects are read all the same.
//!
//! In: one URL. Out: what `object_store` calls a store, with this one file in it. An answer without a length, or in a content coding
//! that nobody asked for, is written to a temporary file first, so that its size is known; of a server without ranges, the whole file
//! is kept in one. Never here: an answer that was cut off, or a part of another version of the file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use backon::Retryable;
use bytes::Bytes;
use chrono::DateTime;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_MATCH,
    LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path as ObjectPath;
use object_store::{
    Attributes, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tempfile::{SpooledData, SpooledTempFile};
use url::Url;

use super::answers::{Refusal, WrongAnswer, date};
use super::error::generic;
use super::failure::{Failure, retry_after};
use super::settings::pauses;

/// Bytes of a file without a known length that are kept in memory.
const MOST_IN_MEMORY: usize = 1 << 20;
/// Content codings that web servers may answer in and that are not read.
const UNKNOWN_CODINGS: [&str; 6] = ["br", "zstd", "compress", "x-compress", "dcb", "dcz"];

/// One file of a web server.
#[derive(Debug)]
pub(super) struct WebFile {
    pub(super) url: Url,
    pub(super) client: HttpClient,
    /// Further attempts after a transient failure.
    pub(super) retries: u32,
    /// The most bytes of a file without a known length.
    pub(super) most_bytes: Option<u64>,
    /// All of the file, of a server without ranges.
    whole: OnceLock<Whole>,
}

#[derive(Debug, Clone)]
struct Whole {
    meta: ObjectMeta,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Memory(Bytes),
    Disk(Arc<File>),
}

impl Content {
    fn part(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Self::Disk(file) => {
                let mut part = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut part, range.start)?;
                Ok(part.into())
            }
        }
    }
}

impl Whole {
    fn result(self, range: Range<u64>) -> Result<GetResult> {
        let payload = match &self.content {
            Content::Disk(file) if range == (0..self.meta.size) => {
                GetResultPayload::File(file.try_clone().map_err(io_error)?, "a temporary file".into())
            }
            content => stream_of(content.part(range.clone()).map_err(io_error)?),
        };
        Ok(result(payload, self.meta, range))
    }
}

fn stream_of(bytes: Bytes) -> GetResultPayload {
    GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed())
}

fn result(payload: GetResultPayload, meta: ObjectMeta, range: Range<u64>) -> GetResult {
    GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Extensions::default() }
}

fn io_error(error: io::Error) -> Error {
    generic(error.into())
}

fn wrong(answer: WrongAnswer) -> Error {
    generic(answer.into())
}

impl WebFile {
    pub(super) fn new(url: Url, client: HttpClient, retries: u32, most_bytes: Option<u64>) -> Self {
        Self { url, client, retries, most_bytes, whole: OnceLock::new() }
    }

    async fn send(&self, method: Method, headers: &[(HeaderName, String)]) -> Result<HttpResponse> {
        let mut request = http::Request::builder().method(method).uri(self.url.as_str());
        request = request.header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request: HttpRequest = request.body(HttpRequestBody::empty()).map_err(|error| generic(error.into()))?;
        let response = self.client.execute(request).await.map_err(|error| generic(error.into()))?;
        let (status, path) = (response.status(), String::new());
        let source = || Box::new(Refusal { status: status.as_u16(), code: None, retry_after: None });
        match status.as_u16() {
            200..300 => Ok(response),
            304 => Err(Error::NotModified { path, source: source() }),
            401 => Err(Error::Unauthenticated { path, source: source() }),
            403 => Err(Error::PermissionDenied { path, source: source() }),
            404 => Err(Error::NotFound { path, source: source() }),
            412 => Err(Error::Precondition { path, source: source() }),
            _ => Err(generic(source())),
        }
    }

    async fn get_once(&self, options: &GetOptions) -> Result<GetResult> {
        match &options.range {
            _ if options.head => {
                let meta = self.head().await?;
                let size = meta.size;
                Ok(result(stream_of(Bytes::new()), meta, 0..size))
            }
            None => self.file().await,
            Some(GetRange::Bounded(range)) if range.start < range.end => {
                self.part(range.clone(), options.if_match.as_deref()).await
            }
            Some(_) => Err(only_read()),
        }
    }

    /// Size and version of the file. A server that refuses HEAD, or answers it without a length, is asked for the first byte.
    async fn head(&self) -> Result<ObjectMeta> {
        if let Ok(response) = self.send(Method::HEAD, &[]).await
            && let Some(size) = length(response.headers())
            && codings(response.headers())?.is_empty()
        {
            return Ok(meta(response.headers(), size));
        }
        self.part(0..1, None).await.map(|part| part.meta)
    }

    /// The bytes of `range`, of the version `tag` if there is one.
    async fn part(&self, range: Range<u64>, tag: Option<&str>) -> Result<GetResult> {
        let whole = if let Some(whole) = self.whole.get() {
            whole.clone()
        } else {
            let mut headers = vec![(RANGE, GetRange::Bounded(range.clone()).to_string())];
            // A weak tag matches nothing in this header.
            headers.extend(tag.filter(|tag| !is_weak(tag)).map(|tag| (IF_MATCH, tag.to_owned())));
            let response = match self.send(Method::GET, &headers).await {
                // Of an empty file, or one of another size.
                Err(error) if status(&error) == Some(416) => self.send(Method::GET, &[]).await?,
                response => response?,
            };
            let partial = response.status() == StatusCode::PARTIAL_CONTENT;
            let answered = content_range(response.headers()).filter(|_| partial);
            let response = match answered {
                Some((sent, size))
                    if sent == (range.start..range.end.min(size)) && codings(response.headers())?.is_empty() =>
                {
                    let meta = meta(response.headers(), size);
                    same_version(&meta, tag)?;
                    let body = response.into_body().bytes_stream().map_err(|error| generic(error.into()));
                    return Ok(result(GetResultPayload::Stream(body.boxed()), meta, sent));
                }
                // Not the range that was asked for.
                _ if partial => {
                    drop(response);
                    self.send(Method::GET, &[]).await?
                }
                _ => response,
            };
            tracing::debug!("the web server does not send ranges: the whole file is fetched");
            let whole = self.whole(response).await?;
            self.whole.get_or_init(|| whole).clone()
        };
        same_version(&whole.meta, tag)?;
        let end = range.end.min(whole.meta.size);
        whole.result(range.start.min(end)..end)
    }

    /// The whole file.
    async fn file(&self) -> Result<GetResult> {
        let response = self.send(Method::GET, &[]).await?;
        if let Some(size) = length(response.headers())
            && codings(response.headers())?.is_empty()
            && is_whole(&response)
        {
            let meta = meta(response.headers(), size);
            let body = response.into_body().bytes_stream().map_err(|error| generic(error.into()));
            return Ok(result(GetResultPayload::Stream(body.boxed()), meta, 0..size));
        }
        let whole = self.whole(response).await?;
        let size = whole.meta.size;
        whole.result(0..size)
    }

    /// Reads an answer to its end, and decodes it.
    async fn whole(&self, response: HttpResponse) -> Result<Whole> {
        let (codings, most) = (codings(response.headers())?, self.most_bytes.unwrap_or(u64::MAX));
        if !is_whole(&response) {
            return Err(wrong(WrongAnswer::Part));
        }
        let (head, body) = response.into_parts();
        let mut body = body.bytes_stream();
        let (mut file, mut size) = (SpooledTempFile::new(MOST_IN_MEMORY), 0);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| generic(error.into()))?;
            size += chunk.len() as u64;
            if size > most {
                return Err(wrong(WrongAnswer::TooLong { most }));
            }
            file.write_all(&chunk).map_err(io_error)?;
        }
        let file = if codings.is_empty() {
            file
        } else {
            let decoded = tokio::task::spawn_blocking(move || decoded(file, &codings, most)).await;
            decoded.map_err(|error| generic(error.into()))??
        };
        let content = match file.into_inner() {
            SpooledData::InMemory(bytes) => Content::Memory(bytes.into_inner().into()),
            SpooledData::OnDisk(file) => Content::Disk(Arc::new(file)),
        };
        let size = match &content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk(file) => file.metadata().map_err(io_error)?.len(),
        };
        Ok(Whole { meta: meta(&head.headers, size), content })
    }
}

/// Content codings of an answer that have to be undone, the last one first.
fn codings(headers: &HeaderMap) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING).iter().rev() {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        for coding in text.split(',').rev().map(str::trim) {
            match coding {
                "gzip" | "x-gzip" => found.push("gzip"),
                "deflate" => found.push("deflate"),
                other => {
                    // Whatever else stands there, such as "utf-8" or "none", is no coding.
                    if let Some(coding) = UNKNOWN_CODINGS.iter().find(|coding| **coding == other) {
                        return Err(wrong(WrongAnswer::Coding(coding)));
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Undoes `codings`. Bytes that do not look like what a header says are taken as they are: some servers send images with a wrong one.
fn decoded(mut file: SpooledTempFile, codings: &[&'static str], most: u64) -> Result<SpooledTempFile> {
    for &coding in codings {
        file.rewind().map_err(io_error)?;
        let mut start = [0; 2];
        let is_short = file.read_exact(&mut start).is_err();
        file.rewind().map_err(io_error)?;
        let is_zlib = start[0] & 0x0f == 8 && u16::from_be_bytes(start) % 31 == 0;
        let decoder: Box<dyn Read> = match coding {
            "gzip" if start == [0x1f, 0x8b] => Box::new(MultiGzDecoder::new(&mut file)),
            "deflate" if is_zlib => Box::new(ZlibDecoder::new(&mut file)),
            _ if is_short || coding == "gzip" => continue,
            _ => Box::new(DeflateDecoder::new(&mut file)),
        };
        let mut plain = SpooledTempFile::new(MOST_IN_MEMORY);
        let copied = io::copy(&mut decoder.take(most.saturating_add(1)), &mut plain);
        match copied {
            Ok(copied) if copied > most => return Err(wrong(WrongAnswer::TooLong { most })),
            Ok(_) => file = plain,
            // Raw deflate has no mark.
            Err(_) if coding == "deflate" && !is_zlib => {}
            Err(why) => return Err(wrong(WrongAnswer::Damaged { coding, why: why.to_string() })),
        }
    }
    Ok(file)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

/// The range that an answer holds, and the size of the file.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, size) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, size): (u64, u64, u64) = (start.parse().ok()?, end.parse().ok()?, size.parse().ok()?);
    (start <= end && end < size).then(|| (start..end + 1, size))
}

/// Whether an answer to a request without a range holds all of the file.
fn is_whole(response: &HttpResponse) -> bool {
    let range = content_range(response.headers());
    response.status() != StatusCode::PARTIAL_CONTENT || range.is_some_and(|(range, size)| range == (0..size))
}

fn is_weak(tag: &str) -> bool {
    tag.starts_with("W/")
}

/// The file's version. A time of modification that is no date stands for a weak tag.
fn meta(headers: &HeaderMap, size: u64) -> ObjectMeta {
    let modified = text(headers, LAST_MODIFIED);
    let date = modified.and_then(date);
    let of_time = || modified.filter(|_| date.is_none()).map(|text| format!("W/\"{text}\""));
    let e_tag = text(headers, ETAG).filter(|tag| !tag.is_empty()).map(str::to_owned).or_else(of_time);
    let last_modified = date.unwrap_or(DateTime::UNIX_EPOCH);
    ObjectMeta { location: ObjectPath::default(), last_modified, size, e_tag, version: None }
}

/// Refuses an answer of another version than `tag`.
fn same_version(meta: &ObjectMeta, tag: Option<&str>) -> Result<()> {
    let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    match (tag, &meta.e_tag) {
        (Some(expected), Some(found)) if bare(expected) != bare(found) => {
            Err(Error::Precondition { path: String::new(), source: "another ETag".into() })
        }
        _ => Ok(()),
    }
}

/// The status of a refused request.
fn status(error: &Error) -> Option<u16> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |&cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<Refusal>()).map(|refusal| refusal.status)
}

impl fmt::Display for WebFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("web server")
    }
}

fn only_read() -> Error {
    Error::NotImplemented { operation: "anything but reading one file".into(), implementer: "web server".into() }
}

type Answered<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

fn only_reads<'a, T: Send + 'a>() -> Answered<'a, T> {
    Box::pin(std::future::ready(Err(only_read())))
}

impl ObjectStore for WebFile {
    fn get_opts<'a, 'b, 'c>(&'a self, _: &'b ObjectPath, options: GetOptions) -> Answered<'c, GetResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let get = || self.get_once(&options);
            let get = get.retry(pauses(self.retries)).when(|error| Failure::of(error).kind.is_transient());
            get.adjust(|error, pause| Some(pause?.max(retry_after(error).unwrap_or_default()))).await
        })
    }

    fn put_opts<'a, 'b, 'c>(&'a self, _: &'b ObjectPath, _: PutPayload, _: PutOptions) -> Answered<'c, PutResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        only_reads()
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        _: &'b ObjectPath,
        _: PutMultipartOptions,
    ) -> Answered<'c, Box<dyn MultipartUpload>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        only_reads()
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        futures::stream::once(async { Err(only_read()) }).boxed()
    }

    fn list(&self, _: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::once(async { Err(only_read()) }).boxed()
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, _: Option<&'b ObjectPath>) -> Answered<'c, ListResult>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        only_reads()
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, _: &'b ObjectPath, _: &'d ObjectPath, _: CopyOptions) -> Answered<'c, ()>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        only_reads()
    }
}
