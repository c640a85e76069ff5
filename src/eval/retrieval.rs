//! Retrieval in the space that images and texts share: at which rank an image finds its own references, and a reference its image.
//!
//! The rank of an image is that of the best of its own texts among all texts; the rank of a text is that of its image among all images.
//! Others count as better only if their cosine is higher, so a tie never makes a rank worse. recall@k is the share of ranks up to k: Hodosh
//! et al., *Framing Image Description as a Ranking Task*, 2013.
//!
//! Vectors of images stay in memory, 4 bytes a number; those of texts go through a file without a name.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use rayon::prelude::*;

use crate::search::kernel::scores;

/// Texts that are read at once.
const BLOCK: usize = 256;
/// Images that are compared with a block of texts while they are in a core's cache.
const TILE: usize = 64;

/// The vectors of images.
#[derive(Debug, Default)]
pub struct Images {
    /// Numbers in a vector.
    pub width: usize,
    /// The row of each image.
    pub rows: Vec<u32>,
    /// `[images, width]`, L2-normalised.
    pub vectors: Vec<f32>,
}

impl Images {
    fn vector(&self, image: usize) -> &[f32] {
        &self.vectors[image * self.width..][..self.width]
    }
}

/// A rank, from 0, and the row to which it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// The row.
    pub row: u32,
    /// How many others are nearer.
    pub rank: u32,
}

/// The ranks of all images and texts.
#[derive(Debug, Default)]
pub struct Ranks {
    /// Of each image that has a text.
    pub to_text: Vec<Rank>,
    /// Of each text.
    pub to_image: Vec<Rank>,
}

/// Texts that are added one after the other, and then compared with all images.
#[derive(Debug)]
pub struct Texts<'a> {
    images: &'a Images,
    file: BufWriter<File>,
    /// By text: the image that it describes, and the cosine with it.
    own: Vec<(u32, f32)>,
}

impl<'a> Texts<'a> {
    /// None yet.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn new(images: &'a Images) -> io::Result<Self> {
        Ok(Self { images, file: BufWriter::new(tempfile::tempfile()?), own: Vec::new() })
    }

    /// Adds the vector of a text of the `image`th image; as wide as the images' vectors, L2-normalised.
    ///
    /// # Errors
    /// When the temporary file cannot be written.
    pub fn add(&mut self, image: usize, vector: &[f32]) -> io::Result<()> {
        let mut score = [0.0];
        scores(self.images.vector(image), vector, &mut score);
        self.own.push((image as u32, score[0]));
        vector.iter().try_for_each(|value| self.file.write_all(&value.to_le_bytes()))
    }

    /// Texts so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Compares every text with every image, on all cores. `stop` is asked before each block of texts; then there is no result.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn ranks(self, stop: &dyn Fn() -> bool) -> io::Result<Option<Ranks>> {
        let (images, own) = (self.images, self.own);
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        let mut file = BufReader::new(file);
        // The best of an image's own texts; none: nothing is better.
        let mut best = vec![f32::INFINITY; images.rows.len()];
        for (image, score) in &own {
            let best = &mut best[*image as usize];
            *best = if best.is_infinite() { *score } else { best.max(*score) };
        }
        let mut better_texts = vec![0_u32; images.rows.len()];
        let mut to_image = Vec::with_capacity(own.len());
        let mut bytes = vec![0; BLOCK * images.width * size_of::<f32>()];
        for block in own.chunks(BLOCK) {
            if stop() {
                return Ok(None);
            }
            let bytes = &mut bytes[..block.len() * images.width * size_of::<f32>()];
            file.read_exact(bytes)?;
            let texts: Vec<f32> = bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
            let tiles = images.vectors.par_chunks(TILE * images.width).zip(best.par_chunks(TILE));
            let compare = |mut better_images: Vec<u32>,
                           ((vectors, best), better_texts): ((&[f32], &[f32]), &mut [u32])| {
                let mut found = [0.0; TILE];
                let found = &mut found[..best.len()];
                for (number, text) in texts.chunks_exact(images.width).enumerate() {
                    scores(vectors, text, found);
                    let own = block[number].1;
                    better_images[number] += found.iter().filter(|score| **score > own).count() as u32;
                    let images = found.iter().zip(best).zip(better_texts.iter_mut());
                    images.for_each(|((score, best), better)| *better += u32::from(score > best));
                }
                better_images
            };
            let none = || vec![0_u32; block.len()];
            let counts = tiles.zip(better_texts.par_chunks_mut(TILE)).fold(none, compare);
            let better_images = counts.reduce(none, |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<u32>>());
            let ranks = block.iter().zip(better_images);
            to_image.extend(ranks.map(|((image, _), rank)| Rank { row: images.rows[*image as usize], rank }));
        }
        let with_text = images.rows.iter().zip(better_texts).zip(best).filter(|(_, best)| best.is_finite());
        let to_text = with_text.map(|((row, rank), _)| Rank { row: *row, rank }).collect();
        Ok(Some(Ranks { to_text, to_image }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_plain_comparison() {
        let (width, count) = (5, 150);
        let mut state = 1_u32;
        let mut vector = || -> Vec<f32> {
            // Few values, so that there are ties.
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 30) as f32
            };
            (0..width).map(|_| next()).collect()
        };
        let images = Images {
            width,
            rows: (0..count).map(|row| row * 2).collect(),
            vectors: (0..count).flat_map(|_| vector()).collect(),
        };
        // Image i has i % 4 texts.
        let texts: Vec<(usize, Vec<f32>)> =
            (0..count as usize).flat_map(|image| vec![image; image % 4]).map(|image| (image, vector())).collect();
        let mut added = Texts::new(&images).unwrap();
        for (image, text) in &texts {
            added.add(*image, text).unwrap();
        }
        assert_eq!((added.len(), added.is_empty()), (texts.len(), false));
        let found = added.ranks(&|| false).unwrap().unwrap();

        let dot = |image: usize, text: &[f32]| images.vector(image).iter().zip(text).map(|(a, b)| a * b).sum::<f32>();
        let to_image = texts.iter().map(|(own, text)| {
            let better = (0..count as usize).filter(|image| dot(*image, text) > dot(*own, text)).count() as u32;
            Rank { row: *own as u32 * 2, rank: better }
        });
        assert_eq!(found.to_image, to_image.collect::<Vec<_>>());
        let to_text = (0..count as usize).filter(|image| image % 4 > 0).map(|image| {
            let own =
                texts.iter().filter(|(of, _)| *of == image).map(|(_, text)| dot(image, text)).fold(f32::MIN, f32::max);
            let better = texts.iter().filter(|(_, text)| dot(image, text) > own).count() as u32;
            Rank { row: image as u32 * 2, rank: better }
        });
        assert_eq!(found.to_text, to_text.collect::<Vec<_>>());
        let stopped = Texts::new(&images).unwrap();
        assert!(stopped.ranks(&|| true).unwrap().is_some(), "without texts there is no block");
    }
}
