//! Arrow files, as Hugging Face's `datasets` saves them. In: a stream or file of Arrow IPC. Out: a Parquet file of its rows, in which images
//! of the struct {bytes, path} are named by their place in the Arrow file. Never here: the bytes of these images, which stay where they are.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericBinaryArray, OffsetSizeTrait, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::{Message, MessageHeader, root_as_message};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};

use super::job_columns::is_image;
use super::source::Source;
use super::text::strings;
use crate::storage::{Location, byte_range};
use crate::support::unwind::caught;

/// What a file of Arrow IPC begins with, and not a stream.
const MAGIC: &[u8] = b"ARROW1\0\0";
/// What a message begins with.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes of rows in memory after which they are written.
const MOST_WAITING: usize = 64 << 20;
/// Values of a column without bytes.
const MOST_OF_NOTHING: u64 = 1 << 20;
/// Rows of a row group.
const GROUP_ROWS: usize = 1 << 15;

/// Whether a file has a name of Arrow IPC.
pub(super) fn is_arrow(location: &Location) -> bool {
    let name = location.file_name().to_ascii_lowercase();
    [".arrow", ".feather"].iter().any(|end| name.ends_with(end))
}

/// Writes the rows of `source`, which images are named as parts of by `uri`, as a Parquet file into `to`.
///
/// # Errors
/// What was expected and found, and failures to read and write.
pub(super) fn convert(source: &Source, uri: &str, to: File) -> Result<(), String> {
    let mut messages = Messages::new(source)?;
    let first = messages.next().ok_or("expected a schema, found an empty file")??;
    let schema = first.schema()?;
    let places = Places::of(&schema);
    let written: Arc<Schema> = Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| if in_place(field) { named(field) } else { field.as_ref().clone() })
            .collect::<Vec<_>>(),
    ));
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let mut writer = ArrowWriter::try_new(to, written.clone(), Some(properties)).map_err(|error| error.to_string())?;
    let mut dictionaries = HashMap::new();
    for message in messages {
        let message = message?;
        let header = message.header()?;
        match header.header_type() {
            MessageHeader::DictionaryBatch => {
                let batch = header.header_as_dictionary_batch().ok_or("expected a dictionary, found none")?;
                let body = message.body(&[])?;
                let read = caught(|| read_dictionary(&body, batch, &schema, &mut dictionaries, &header.version()))?;
                read.map_err(|error| error.to_string())?;
            }
            MessageHeader::RecordBatch => {
                let rows = message.rows(&header, &schema, &places, &dictionaries)?;
                let columns = schema.fields().iter().zip(rows.columns()).enumerate().map(|(at, (field, column))| {
                    if !in_place(field) {
                        return Ok(column.clone());
                    }
                    let bytes = places.bytes.iter().find(|(column, _)| *column == at).map(|(_, buffer)| *buffer);
                    let start = bytes
                        .and_then(|buffer| message.buffer(&header, buffer))
                        .ok_or("expected image bytes, found none")?;
                    names(column, uri, start.start)
                });
                let columns = columns.collect::<Result<Vec<ArrayRef>, String>>()?;
                let rows = RecordBatch::try_new(written.clone(), columns).map_err(|error| error.to_string())?;
                writer.write(&rows).map_err(|error| error.to_string())?;
                if writer.in_progress_size() > MOST_WAITING {
                    writer.flush().map_err(|error| error.to_string())?;
                }
            }
            _ => return Err(format!("byte {}: expected rows, found another message", message.start)),
        }
    }
    writer.close().map(drop).map_err(|error| error.to_string())
}

/// Whether a column holds images, whose bytes are not copied.
fn in_place(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Struct(_)) && is_image(field.data_type())
}

fn named(field: &Field) -> Field {
    Field::new(field.name(), DataType::Utf8, true)
}

/// The buffers of a batch that hold image bytes.
#[derive(Debug, Default)]
struct Places {
    /// A column and the number of the buffer with its image bytes.
    bytes: Vec<(usize, usize)>,
}

impl Places {
    fn of(schema: &Schema) -> Self {
        let (mut places, mut next) = (Self::default(), 0);
        for (column, field) in schema.fields().iter().enumerate() {
            if let DataType::Struct(children) = field.data_type()
                && in_place(field)
            {
                let before = children.iter().take_while(|child| child.name() != "bytes");
                let before = before.map(|child| buffers(child.data_type())).sum::<Option<usize>>();
                // The validity of the struct and of the bytes, and where each value ends.
                places.bytes.extend(before.map(|before| (column, next + 1 + before + 2)));
            }
            // Behind a type whose buffers differ from batch to batch, no place is known.
            let Some(own) = buffers(field.data_type()) else { return places };
            next += own;
        }
        places
    }
}

/// How many buffers a column of this type has; None: that differs.
fn buffers(kind: &DataType) -> Option<usize> {
    match kind {
        DataType::Null => Some(0),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Some(3),
        DataType::List(child) | DataType::LargeList(child) | DataType::Map(child, _) => {
            Some(2 + buffers(child.data_type())?)
        }
        DataType::FixedSizeList(child, _) => Some(1 + buffers(child.data_type())?),
        DataType::Struct(children) => {
            children.iter().map(|child| buffers(child.data_type())).sum::<Option<usize>>().map(|all| all + 1)
        }
        DataType::Utf8View
        | DataType::BinaryView
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..) => None,
        _ => Some(2),
    }
}

/// What names each image of a column whose bytes begin at `start` of the file.
fn names(column: &ArrayRef, uri: &str, start: u64) -> Result<ArrayRef, String> {
    fn ranges<O: OffsetSizeTrait>(bytes: &GenericBinaryArray<O>, row: usize) -> Option<Range<u64>> {
        let at = |index: usize| bytes.value_offsets().get(index).map(|offset| offset.as_usize() as u64);
        Some(at(row)?..at(row + 1)?)
    }
    let images = column.as_struct();
    let bytes = images.column_by_name("bytes").ok_or("expected image bytes, found none")?;
    let paths = images.column_by_name("path").map(strings).transpose().map_err(|error| error.to_string())?;
    let name = |row: usize| {
        if images.is_null(row) {
            return None;
        }
        if bytes.is_null(row) {
            return paths.as_ref().filter(|paths| paths.is_valid(row)).map(|paths| paths.value(row).to_owned());
        }
        let range = match bytes.data_type() {
            DataType::LargeBinary => ranges(bytes.as_binary::<i64>(), row),
            _ => ranges(bytes.as_binary::<i32>(), row),
        };
        range
            .filter(|range| !range.is_empty())
            .map(|range| byte_range::join(uri, &(start + range.start..start + range.end)))
    };
    Ok(Arc::new((0..images.len()).map(name).collect::<StringArray>()))
}

/// The messages of a file, one after the other.
struct Messages<'a> {
    source: &'a Source,
    at: u64,
}

/// One of them.
struct Framed<'a> {
    source: &'a Source,
    start: u64,
    metadata: bytes::Bytes,
    /// Where its body lies.
    body: Range<u64>,
}

impl<'a> Messages<'a> {
    fn new(source: &'a Source) -> Result<Self, String> {
        let start = source.get_bytes(0, source.len().min(8) as usize).map_err(|error| error.to_string())?;
        Ok(Self { source, at: if start == MAGIC { MAGIC.len() as u64 } else { 0 } })
    }

    fn read(&mut self) -> Result<Option<Framed<'a>>, String> {
        let (source, start, end) = (self.source, self.at, self.source.len());
        if start >= end {
            return Ok(None);
        }
        let word = |at: u64| -> Result<[u8; 4], String> {
            let word = source.get_bytes(at, 4).map_err(|error| cut_off(start, &error))?;
            word.first_chunk().copied().ok_or_else(|| cut_off(start, &"it is short"))
        };
        let (mut length, mut at) = (word(start)?, start + 4);
        // Files before Arrow 0.15 have none.
        if length == CONTINUATION {
            (length, at) = (word(at)?, at + 4);
        }
        let Ok(length) = u32::try_from(i32::from_le_bytes(length)) else { return Err(no_arrow(start)) };
        if length == 0 {
            return Ok(None);
        }
        if at + u64::from(length) > end {
            return Err(if start == 0 { no_arrow(start) } else { cut_off(start, &"its head is longer than the file") });
        }
        let metadata = source.get_bytes(at, length as usize).map_err(|error| cut_off(start, &error))?;
        let at = at + u64::from(length);
        let body = root_as_message(&metadata).map_err(|_| no_arrow(start))?.bodyLength();
        let body = u64::try_from(body).ok().and_then(|length| at.checked_add(length));
        let Some(body) = body.filter(|body| *body <= end) else {
            return Err(cut_off(start, &format!("its rows end behind the end of the file at byte {end}")));
        };
        self.at = body;
        Ok(Some(Framed { source, start, metadata, body: at..body }))
    }
}

fn no_arrow(at: u64) -> String {
    format!("byte {at}: expected a message of Arrow IPC, found something else")
}

fn cut_off(at: u64, why: &dyn std::fmt::Display) -> String {
    format!("byte {at}: expected a whole message of Arrow IPC: {why}")
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Framed<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if matches!(read, Some(Err(_))) {
            self.at = u64::MAX;
        }
        read
    }
}

impl Framed<'_> {
    fn header(&self) -> Result<Message<'_>, String> {
        root_as_message(&self.metadata).map_err(|_| no_arrow(self.start))
    }

    fn schema(&self) -> Result<SchemaRef, String> {
        let schema = self.header()?.header_as_schema().ok_or_else(|| no_arrow(self.start))?;
        let schema = caught(|| try_fb_to_schema(schema))?.map_err(|error| error.to_string())?;
        Ok(Arc::new(schema))
    }

    /// Where the buffer `number` of a batch lies in the file.
    fn buffer(&self, header: &Message<'_>, number: usize) -> Option<Range<u64>> {
        let buffers = header.header_as_record_batch()?.buffers()?;
        let buffer = (number < buffers.len()).then(|| *buffers.get(number))?;
        let start = self.body.start.checked_add(u64::try_from(buffer.offset()).ok()?)?;
        let end = start.checked_add(u64::try_from(buffer.length()).ok()?)?;
        (end <= self.body.end).then_some(start..end)
    }

    /// The body with zeros in the place of `left_out`, which take no memory until something is written there.
    fn body(&self, left_out: &[Range<u64>]) -> Result<Buffer, String> {
        let mut body = vec![0; (self.body.end - self.body.start) as usize];
        let mut left_out = left_out.to_vec();
        left_out.sort_unstable_by_key(|range| range.start);
        let mut at = self.body.start;
        for range in left_out.into_iter().chain(std::iter::once(self.body.end..self.body.end)) {
            if range.start > at {
                let read = self.source.get_bytes(at, (range.start - at) as usize);
                let read = read.map_err(|error| cut_off(self.start, &error))?;
                let to = (at - self.body.start) as usize;
                body.get_mut(to..to + read.len()).ok_or_else(|| no_arrow(self.start))?.copy_from_slice(&read);
            }
            at = at.max(range.end);
        }
        Ok(Buffer::from_vec(body))
    }

    fn rows(
        &self,
        header: &Message<'_>,
        schema: &SchemaRef,
        places: &Places,
        dictionaries: &HashMap<i64, ArrayRef>,
    ) -> Result<RecordBatch, String> {
        let batch = header.header_as_record_batch().ok_or_else(|| no_arrow(self.start))?;
        if batch.compression().is_some() {
            return Err(
                "expected rows without compression, whose images can be read in place, found compressed ones\nhint: `datasets.save_to_disk` does not compress"
                    .to_owned(),
            );
        }
        // Columns of nothing may claim any number of values.
        let most = (8 * (self.body.end - self.body.start)).max(MOST_OF_NOTHING);
        let claimed = batch.nodes().into_iter().flatten().map(arrow::ipc::FieldNode::length).chain([batch.length()]);
        if claimed.clone().any(|length| u64::try_from(length).is_ok_and(|length| length > most)) {
            return Err(format!("byte {}: expected at most {most} values in so many bytes, found more", self.start));
        }
        let images: Vec<_> = places.bytes.iter().filter_map(|(_, number)| self.buffer(header, *number)).collect();
        let body = self.body(&images)?;
        let read = caught(|| read_record_batch(&body, batch, schema.clone(), dictionaries, None, &header.version()))?;
        read.map_err(|error| format!("byte {}: {error}", self.start))
    }
}
