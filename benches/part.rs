//! Writing one part: 1000 rows with captions and vectors of 512 values as Parquet bytes in memory, without storage.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may panic; criterion_group! writes undocumented items"
)]

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nightcap::engine::{Caption, Finish, RowOutput};
use nightcap::job::VectorType;
use nightcap::output::part::columns::{OutputColumns, RunStamp, part_schema};
use nightcap::output::part::result::RowResult;
use nightcap::output::part::writer::PartEncoder;
use nightcap::row::signature::Signature;

const ROWS: usize = 1000;
const WIDTH: usize = 512;

/// A generator of numbers that do not compress (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A row as a captioner with a shared space makes it.
fn row(noise: &mut Noise) -> RowResult {
    const WORDS: [&str; 8] =
        ["a dog", "two people", "a red car", "on the beach", "in the snow", "with", "a ball", "near"];
    let words: Vec<&str> = (0..4).map(|_| WORDS[(noise.next() % 8) as usize]).collect();
    let caption = Caption {
        text: words.join(" "),
        logprob: 10.0 * noise.float(),
        token_ids: Vec::new(),
        tokens: 11,
        finish: Finish::Eos,
        similarity: Some(noise.float()),
    };
    let output = RowOutput {
        image_embedding: Some((0..WIDTH).map(|_| noise.float()).collect()),
        text_embedding: None,
        fused_embedding: None,
        image_text_similarity: None,
        image_text_match: None,
        caption: Some(caption),
    };
    RowResult {
        outcome: Ok(output),
        copy: None,
        image_size: Some((640, 480)),
        content_hash: Some(blake3::hash(&noise.next().to_le_bytes())),
        content_signature: Signature { content: noise.next(), text: 1 },
    }
}

fn part(criterion: &mut Criterion) {
    let mut noise = Noise(1);
    let results: Vec<RowResult> = (0..ROWS).map(|_| row(&mut noise)).collect();
    let ids: ArrayRef = Arc::new((0..ROWS).map(|row| Some(format!("row-{row:07}"))).collect::<StringArray>());
    let uris: ArrayRef = Arc::new((0..ROWS).map(|row| Some(format!("photos/{row:07}.jpg"))).collect::<StringArray>());
    let carried = ["id", "image"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(carried.clone())), vec![ids, uris]).unwrap();
    let mut group = criterion.benchmark_group(format!("part of {ROWS} rows, vectors of {WIDTH}"));
    group.sample_size(30);
    for (name, dtype) in [("f32", VectorType::F32), ("f16", VectorType::F16)] {
        let columns = OutputColumns {
            caption: true,
            caption_similarity: true,
            image_embedding: Some(WIDTH),
            text_embedding: None,
            fused_embedding: None,
            image_text_similarity: false,
            image_text_match: false,
            image: true,
            dtype,
        };
        let stamp = RunStamp {
            run: "bench".to_owned(),
            plan_digest: "0".repeat(64),
            run_seq: 1,
            caption_fingerprint: Some("0123456789abcdef-0123456789abcdef".to_owned()),
            embedding_fingerprint: Some("0123456789abcdef-fedcba9876543210".to_owned()),
        };
        let schema = part_schema(carried.clone(), &columns).unwrap();
        let encoder = PartEncoder::new(schema, columns, stamp);
        let encode = || encoder.encode(0, std::slice::from_ref(&rows), &results, None, 0).unwrap();
        group.throughput(Throughput::Bytes(encode().bytes.len() as u64));
        group.bench_function(name, |b| b.iter(encode));
    }
    group.finish();
}

criterion_group!(benches, part);
criterion_main!(benches);
