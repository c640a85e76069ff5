//! Calculates with numbers and named sizes: the elements of small vectors.

use super::known::{Factors, Known, KnownElement, KnownValues, Size, whole};

impl KnownValues {
    /// The factors of the product of `sizes`; none if it is too large.
    pub(super) fn expand(&self, sizes: impl IntoIterator<Item = Size>) -> Option<Factors> {
        let (mut number, mut names) = (1i64, Vec::new());
        for size in sizes {
            match size {
                Size::Number(factor) => number = number.checked_mul(factor)?,
                Size::Named(name) => match self.factors.get(&name) {
                    Some((factor, inner)) => {
                        number = number.checked_mul(*factor)?;
                        names.extend(inner);
                    }
                    None => names.push(name),
                },
            }
        }
        names.sort_unstable();
        (names.len() <= 8).then_some((number, names))
    }

    pub(super) fn product_of(&mut self, factors: Factors) -> Size {
        match (factors.0, factors.1.as_slice()) {
            (number, []) => Size::Number(number),
            (1, [name]) => Size::Named(*name),
            _ => {
                let known = self.products.get(&factors).copied();
                Size::Named(known.unwrap_or_else(|| {
                    self.names += 1;
                    self.products.insert(factors.clone(), self.names);
                    self.factors.insert(self.names, factors);
                    self.names
                }))
            }
        }
    }

    pub(super) fn arithmetic(&mut self, op_type: &str, one: &Known, other: &Known) -> Option<Vec<KnownElement>> {
        let (a, b) = (one.elements.as_ref()?, other.elements.as_ref()?);
        let count = if a.len() == 1 { b.len() } else { a.len() };
        if a.len().min(b.len()) != 1 && a.len() != b.len() {
            return None;
        }
        let at = |all: &[KnownElement], number: usize| if all.len() == 1 { all[0] } else { all[number] };
        Some((0..count).map(|number| self.calculate(op_type, at(a, number), at(b, number), one.is_integer())).collect())
    }

    fn calculate(&mut self, op_type: &str, one: KnownElement, other: KnownElement, integer: bool) -> KnownElement {
        let size = |element| match element {
            KnownElement::Number(number) if number >= 1.0 => Some(whole(number)),
            KnownElement::Size(name) => Some(Size::Named(name)),
            _ => None,
        };
        match (op_type, one, other) {
            // a size is never negative
            ("Equal", KnownElement::Size(_), KnownElement::Number(number))
            | ("Equal", KnownElement::Number(number), KnownElement::Size(_))
                if number < 0.0 =>
            {
                KnownElement::Number(0.0)
            }
            ("Equal", KnownElement::Number(a), KnownElement::Number(b)) if integer => {
                KnownElement::Number(f64::from(u8::from((a - b).abs() < 0.5)))
            }
            (_, KnownElement::Number(a), KnownElement::Number(b)) => match op_type {
                "Add" => KnownElement::Number(a + b),
                "Sub" => KnownElement::Number(a - b),
                "Mul" => KnownElement::Number(a * b),
                "Div" if integer => KnownElement::Number((a / b).trunc()),
                "Div" => KnownElement::Number(a / b),
                "Mod" if integer && a >= 0.0 && b > 0.0 => KnownElement::Number(a % b),
                "Pow" if !integer => KnownElement::Number(a.powf(b)),
                _ => KnownElement::Unknown,
            },
            ("Add" | "Sub", size, KnownElement::Number(0.0))
            | ("Add", KnownElement::Number(0.0), size)
            | ("Div", size, KnownElement::Number(1.0)) => size,
            ("Mul", a, b) if integer => match size(a).zip(size(b)).and_then(|(a, b)| self.expand([a, b])) {
                Some(factors) => match self.product_of(factors) {
                    Size::Named(name) => KnownElement::Size(name),
                    Size::Number(_) => KnownElement::Unknown,
                },
                None => KnownElement::Unknown,
            },
            _ => KnownElement::Unknown,
        }
    }
}

/// `dividend / divisor`, if it is a whole number whatever the named sizes are.
pub(super) fn divide(dividend: Option<Factors>, divisor: Option<Factors>) -> Option<Factors> {
    let ((number, mut names), (divisor, other)) = (dividend?, divisor?);
    for name in other {
        names.remove(names.iter().position(|have| *have == name)?);
    }
    (divisor > 0 && number % divisor == 0).then(|| (number / divisor, names))
}

pub(super) fn choose(condition: &Known, then: &Known, otherwise: &Known) -> Option<Vec<KnownElement>> {
    let (condition, then, otherwise) =
        (condition.elements.as_ref()?, then.elements.as_ref()?, otherwise.elements.as_ref()?);
    let count = condition.len();
    if then.len() != count || otherwise.len() != count {
        return None;
    }
    let one = |number: usize| match condition[number] {
        KnownElement::Number(0.0) => otherwise[number],
        KnownElement::Number(_) => then[number],
        _ => KnownElement::Unknown,
    };
    Some((0..count).map(one).collect())
}

pub(super) fn square_root(element: KnownElement) -> KnownElement {
    match element {
        KnownElement::Number(number) => KnownElement::Number(number.sqrt()),
        _ => KnownElement::Unknown,
    }
}
