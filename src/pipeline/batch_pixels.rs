//! The pixels of a batch in one piece of memory for each model. In: images with memory of their own. Out: the same images as parts of
//! the memory of their batch. Memory is used again when no image needs it any more.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::onnx::{Element, HostMemory, HostValues};
use crate::preprocess::{PixelData, PixelValues, Preprocessed, SharedValues, Values};

/// The most bytes of one piece of memory, unless one image has more: a batch of images of many tiles may have gigabytes.
const MOST_BYTES: usize = 1 << 30;

/// Copies the pixels of batches.
pub(super) struct BatchPixels {
    memory: HostMemory,
    /// For `[model]`, and for the model that `[embedding]` names.
    pools: [Pools; 2],
    taken: Vec<Taken>,
}

/// The memory for one model, whose images all have values of one type.
struct Pools {
    floats: Pool<f32>,
    halves: Pool<f16>,
}

/// Where the pixels of one image are.
struct Taken {
    row: usize,
    places: [Option<Place>; 2],
}

/// A range of one of the pieces of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    piece: usize,
    range: Range<usize>,
}

/// Pieces of memory for values of one type.
struct Pool<T: Element> {
    batch_size: usize,
    /// The pieces of this batch.
    pieces: Vec<Arc<HostValues<T>>>,
    /// How much of the last one is filled.
    filled: usize,
    /// Pieces of earlier batches.
    used: Vec<Arc<HostValues<T>>>,
}

impl BatchPixels {
    /// Copies batches of `batch_size` images to `memory`.
    pub(super) fn new(memory: HostMemory, batch_size: usize) -> Self {
        let pools = || Pools { floats: Pool::new(batch_size), halves: Pool::new(batch_size) };
        Self { memory, pools: [pools(), pools()], taken: Vec::new() }
    }

    /// Copies the pixels of `image`, of the row with this number in the batch, and releases its own memory.
    pub(super) fn take(&mut self, row: usize, image: &mut Preprocessed) {
        let [model, embedding] = &mut self.pools;
        let model = model.take(&mut image.model, &self.memory);
        let embedding = image.embedding.as_mut().and_then(|pixels| embedding.take(pixels, &self.memory));
        self.taken.push(Taken { row, places: [model, embedding] });
    }

    /// Ends a batch: gives the images of `rows` that were taken their pixels again.
    pub(super) fn give<'a>(&mut self, rows: impl IntoIterator<Item = Option<&'a mut Preprocessed>>) {
        let mut taken = self.taken.drain(..).peekable();
        for (row, image) in rows.into_iter().enumerate() {
            let Some(Taken { places: [model, embedding], .. }) = taken.next_if(|taken| taken.row == row) else {
                continue;
            };
            let Some(image) = image else { continue };
            let [pools, pools_of_embedding] = &self.pools;
            pools.give(&mut image.model, model);
            if let Some(pixels) = &mut image.embedding {
                pools_of_embedding.give(pixels, embedding);
            }
        }
        drop(taken);
        for Pools { floats, halves } in &mut self.pools {
            floats.end_batch();
            halves.end_batch();
        }
    }
}

impl Pools {
    /// Takes the values out of `pixels`.
    fn take(&mut self, pixels: &mut PixelValues, memory: &HostMemory) -> Option<Place> {
        match &mut pixels.data {
            PixelData::F32(values) => self.floats.take(values, memory),
            PixelData::F16(values) => self.halves.take(values, memory),
        }
    }

    /// Puts the values at `place` into `pixels`.
    fn give(&self, pixels: &mut PixelValues, place: Option<Place>) {
        match &mut pixels.data {
            PixelData::F32(values) => self.floats.give(values, place),
            PixelData::F16(values) => self.halves.give(values, place),
        }
    }
}

impl<T: Element + Send + Sync> Pool<T> {
    fn new(batch_size: usize) -> Self {
        Self { batch_size, pieces: Vec::new(), filled: 0, used: Vec::new() }
    }

    fn take(&mut self, values: &mut Values<T>, memory: &HostMemory) -> Option<Place> {
        let length = values.as_slice().len();
        if self.pieces.last().is_none_or(|piece| (**piece).as_ref().len() < self.filled + length) {
            let most = (MOST_BYTES / size_of::<T>()).min(self.batch_size.saturating_mul(length));
            let piece = self.free_piece(most.max(length), memory);
            self.pieces.push(piece);
            self.filled = 0;
        }
        let range = self.filled..self.filled + length;
        let piece = self.pieces.last_mut().and_then(Arc::get_mut)?;
        piece.as_mut().get_mut(range.clone())?.copy_from_slice(values.as_slice());
        *values = Values::Own(Vec::new());
        self.filled = range.end;
        Some(Place { piece: self.pieces.len() - 1, range })
    }

    /// A piece that no image needs any more, or a new one.
    fn free_piece(&mut self, length: usize, memory: &HostMemory) -> Arc<HostValues<T>> {
        let is_free = |piece: &Arc<HostValues<T>>| Arc::strong_count(piece) == 1;
        let fits = |piece: &Arc<HostValues<T>>| is_free(piece) && (**piece).as_ref().len() >= length;
        if let Some(index) = self.used.iter().position(fits) {
            return self.used.swap_remove(index);
        }
        // those that are free are too small
        self.used.retain(|piece| !is_free(piece));
        Arc::new(memory.zeros(length))
    }

    fn give(&self, values: &mut Values<T>, place: Option<Place>) {
        let Some((piece, range)) = place.and_then(|place| Some((self.pieces.get(place.piece)?, place.range))) else {
            return;
        };
        let memory: SharedValues<T> = piece.clone();
        *values = Values::Shared(memory, range);
    }

    fn end_batch(&mut self) {
        self.used.append(&mut self.pieces);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: &[f32]) -> Preprocessed {
        let pixels = |data| PixelValues { data, height: 1, width: 1, grid: None };
        let halves: Vec<_> = values.iter().map(|&value| f16::from_f32(value)).collect();
        Preprocessed { model: pixels(values.to_vec().into()), embedding: Some(pixels(halves.into())) }
    }

    #[test]
    fn the_images_of_a_batch_follow_each_other_in_memory_that_is_used_again() {
        let mut batches = BatchPixels::new(HostMemory::default(), 3);
        let mut pieces = Vec::new();
        for batch in 0..6 {
            let first = 10.0 * batch as f32;
            let expected: Vec<_> = (0..4).map(|row| image(&[first + row as f32, 1.0])).collect();
            let mut rows = expected.clone();
            // a row without an image of its own, between the others
            for row in [0, 2, 3] {
                batches.take(row, &mut rows[row]);
            }
            batches.give(rows.iter_mut().map(Some));
            assert_eq!(rows, expected);
            let floats: Vec<_> = rows.iter().map(|row| &row.model.data).collect();
            let of = |row: usize| match floats[row] {
                PixelData::F32(values) => values,
                PixelData::F16(_) => unreachable!("float32 was put in"),
            };
            assert_eq!(
                Values::joined(&[of(0), of(2), of(3)]).unwrap(),
                [first, 1.0, first + 2.0, 1.0, first + 3.0, 1.0]
            );
            assert_eq!(Values::joined(&[of(2), of(3)]).unwrap(), [first + 2.0, 1.0, first + 3.0, 1.0]);
            assert_eq!(Values::joined(&[of(1)]).unwrap(), [first + 1.0, 1.0]);
            for apart in [[0, 3], [2, 0], [0, 1], [1, 2]] {
                assert!(Values::joined(&apart.map(of)).is_none(), "{apart:?}");
            }
            pieces.push(of(0).as_slice().as_ptr());
            if batch == 2 {
                // an image that is still needed keeps its memory
                std::mem::forget(rows.swap_remove(0));
            }
        }
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), 2, "the memory of a batch that is gone, and another one for the image that is kept");
    }

    #[test]
    fn images_of_different_sizes_share_a_piece_as_long_as_they_fit() {
        let mut batches = BatchPixels::new(HostMemory::default(), 2);
        let mut rows = [image(&[1.0; 4]), image(&[2.0; 6]), image(&[3.0; 2])];
        let expected = rows.clone();
        for (row, image) in rows.iter_mut().enumerate() {
            batches.take(row, image);
        }
        batches.give(rows.iter_mut().map(Some));
        assert_eq!(rows, expected);
    }
}
