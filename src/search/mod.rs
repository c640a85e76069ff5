//! Exact search: the rows of an OUTPUT whose vectors are nearest to those of queries. In: the newest rows, query vectors. Out: the best
//! hits of each query.
//!
//! [`kernel`] computes scores, [`best`] keeps the highest, [`scan`] reads the vectors and does both on all cores. [`neighbors`] compares
//! vectors in memory with each other.

pub mod best;
pub mod kernel;
pub mod neighbors;
pub mod scan;

pub use self::best::{Best, Hit, Key};
pub use self::scan::{Scan, search};
