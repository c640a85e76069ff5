//! The factor between the product of queries and keys and the softmax. In: the factors on the way. Out: their product.

/// A product of numbers, some of which may not be known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) known: f64,
    pub(super) unknown: bool,
}

impl Scale {
    pub(super) const ONE: Self = Self { known: 1.0, unknown: false };
}

impl std::ops::Mul for Scale {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self { known: self.known * other.known, unknown: self.unknown || other.unknown }
    }
}
