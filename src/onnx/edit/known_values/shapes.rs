//! Shapes of the outputs of operators.

use super::elements::divide;
use super::known::{INT64, Known, KnownElement, KnownValues, MOST_AXES, Size, integers_of, place, whole, with};
use crate::onnx::edit::graph_index::{integer, integers};
use crate::onnx::proto::NodeProto;

impl KnownValues {
    pub(super) fn broadcast(&mut self, one: Option<Vec<Size>>, other: Option<Vec<Size>>) -> Option<Vec<Size>> {
        let (one, other) = (one?, other?);
        let rank = one.len().max(other.len());
        let at = |shape: &[Size], axis: usize| {
            (axis + shape.len()).checked_sub(rank).map_or(Size::Number(1), |axis| shape[axis])
        };
        let axis = |axis| match (at(&one, axis), at(&other, axis)) {
            (Size::Number(1), size) | (size, Size::Number(1)) => size,
            (a, b) if a == b => a,
            (Size::Number(number), Size::Named(_)) | (Size::Named(_), Size::Number(number)) => Size::Number(number),
            _ => self.fresh(),
        };
        Some((0..rank).map(axis).collect())
    }

    pub(super) fn product(&mut self, one: Option<Vec<Size>>, other: Option<Vec<Size>>) -> Option<Vec<Size>> {
        let (one, other) = (one?, other?);
        let ([batch @ .., rows, _], [other_batch @ .., _, columns]) = (one.as_slice(), other.as_slice()) else {
            return None;
        };
        let mut shape = self.broadcast(Some(batch.to_vec()), Some(other_batch.to_vec()))?;
        shape.extend([*rows, *columns]);
        Some(shape)
    }

    /// The shape that the elements of `target` say.
    pub(super) fn target(&mut self, target: &Known) -> Option<Vec<Size>> {
        let size = |element: &KnownElement| match *element {
            KnownElement::Number(number) if number >= 0.0 => whole(number),
            KnownElement::Size(name) => Size::Named(name),
            _ => self.fresh(),
        };
        if let Some(elements) = &target.elements {
            return Some(elements.iter().map(size).collect());
        }
        // the rank is known if the length of the vector is
        let [length] = target.shape.as_deref()? else { return None };
        let rank = length.number().filter(|&rank| rank <= MOST_AXES)?;
        Some((0..rank).map(|_| self.fresh()).collect())
    }

    pub(super) fn reshaped(&mut self, from: Option<Vec<Size>>, target: &Known) -> Option<Vec<Size>> {
        let mut shape = self.target(target)?;
        let elements = target.elements.as_deref().unwrap_or_default();
        for (axis, element) in elements.iter().enumerate() {
            // 0 keeps the size; no exporter that is known sets `allowzero`
            if *element == KnownElement::Number(0.0) {
                shape[axis] = from.as_ref().and_then(|from| from.get(axis).copied()).unwrap_or_else(|| self.fresh());
            }
        }
        let inferred: Vec<usize> =
            (0..elements.len()).filter(|&axis| elements[axis] == KnownElement::Number(-1.0)).collect();
        if let ([axis], Some(from)) = (inferred.as_slice(), from) {
            let others = shape.iter().enumerate().filter(|(other, _)| other != axis).map(|(_, size)| *size);
            let quotient = divide(self.expand(from), self.expand(others));
            if let Some(quotient) = quotient {
                shape[*axis] = self.product_of(quotient);
            }
        }
        Some(shape)
    }

    pub(super) fn concatenated(&mut self, node: &NodeProto, inputs: &[Known]) -> Known {
        let first = inputs.first().cloned().unwrap_or_default();
        let elements = inputs.iter().map(|input| input.elements.clone()).collect::<Option<Vec<_>>>();
        let shapes: Option<Vec<_>> = inputs.iter().map(|input| input.shape.clone()).collect();
        let Some((shapes, axis)) = shapes.zip(integer(node, "axis")) else {
            // vectors, one of unknown length: not even the rank of what they describe is known
            return Known {
                shape: first.shape.map(|shape| shape.iter().map(|_| self.fresh()).collect()),
                elements: None,
                ..first
            };
        };
        let Some((mut shape, axis)) =
            shapes.first().cloned().and_then(|shape| Some((shape.clone(), place(axis, shape.len())?)))
        else {
            return Known::default();
        };
        let sizes: Option<Vec<Size>> = shapes.iter().map(|shape| shape.get(axis).copied()).collect();
        let total = sizes.and_then(|sizes| match sizes.as_slice() {
            [one] => Some(*one),
            sizes => {
                let add = |sum: i64, size: &Size| sum.checked_add(i64::try_from(size.number()?).ok()?);
                sizes.iter().try_fold(0, add).map(Size::Number)
            }
        });
        shape[axis] = total.unwrap_or_else(|| self.fresh());
        for other in (0..shape.len()).filter(|other| *other != axis) {
            // any of them may be the one whose number is known
            if let Some(number) =
                shapes.iter().filter_map(|s| s.get(other)).find(|size| matches!(size, Size::Number(_)))
            {
                shape[other] = *number;
            }
        }
        let elements = elements.filter(|_| shape.len() == 1).map(|all| all.concat()).filter(|all| all.len() <= 64);
        Known { shape: Some(shape), elements, ..first }
    }

    pub(super) fn split(&mut self, node: &NodeProto, inputs: &[Known]) -> Vec<Known> {
        let Some(first) = inputs.first() else { return Vec::new() };
        let axis = integer(node, "axis").unwrap_or(0);
        let Some(shape) = first.shape.clone() else { return Vec::new() };
        let Some(axis) = place(axis, shape.len()) else { return Vec::new() };
        let count = node.output.len();
        let given = inputs.get(1).map_or_else(|| Some(integers(node, "split").to_vec()), integers_of);
        let sizes = match given {
            Some(sizes) if sizes.len() == count => sizes.into_iter().map(Size::Number).collect(),
            _ => match shape[axis] {
                Size::Number(all) if inputs.len() == 1 && i64::try_from(count).is_ok_and(|n| n > 0 && all % n == 0) => {
                    vec![Size::Number(all / i64::try_from(count).unwrap_or(1)); count]
                }
                _ => (0..count).map(|_| self.fresh()).collect::<Vec<_>>(),
            },
        };
        sizes
            .into_iter()
            .map(|size| Known { shape: Some(with(shape.clone(), axis, size)), elements: None, ..first.clone() })
            .collect()
    }

    pub(super) fn sliced(&mut self, inputs: &[Known]) -> Known {
        let data = inputs.first().cloned().unwrap_or_default();
        let Some(shape) = data.shape.clone() else { return Known { shape: None, elements: None, ..data } };
        let parameter = |number: usize| inputs.get(number).filter(|known| **known != Known::default()).map(integers_of);
        let starts = parameter(1).flatten();
        let ends = parameter(2).flatten();
        let count = inputs.get(1).and_then(|known| known.shape.as_ref()?.first()?.number()).unwrap_or(shape.len());
        let axes = match parameter(3) {
            None => Some((0..count).filter_map(|axis| i64::try_from(axis).ok()).collect()),
            Some(axes) => axes,
        };
        let steps = match parameter(4) {
            None => Some(vec![1; count]),
            Some(steps) => steps,
        };
        let Some(axes) = axes else {
            return Known { shape: Some(shape.iter().map(|_| self.fresh()).collect()), elements: None, ..data };
        };
        let (mut sliced, mut elements) = (shape.clone(), data.elements.clone());
        for (number, axis) in axes.into_iter().enumerate() {
            let Some(axis) = place(axis, shape.len()) else { return Known::default() };
            let at = |all: &Option<Vec<i64>>| all.as_ref().and_then(|all| all.get(number).copied());
            let range = match (at(&starts), at(&ends), at(&steps), shape[axis]) {
                (Some(0), Some(end), Some(1), size) if end >= i64::from(i32::MAX) => {
                    sliced[axis] = size;
                    continue;
                }
                (Some(start), Some(end), Some(1), Size::Number(size)) => {
                    let clamp = |at: i64| if at < 0 { at.saturating_add(size).max(0) } else { at.min(size) };
                    Some((clamp(start), clamp(end).max(clamp(start))))
                }
                _ => None,
            };
            sliced[axis] = range.map_or_else(|| self.fresh(), |(start, end)| Size::Number(end - start));
            elements = range.and_then(|(start, end)| {
                let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
                elements.filter(|_| shape.len() == 1)?.get(start..end).map(<[KnownElement]>::to_vec)
            });
        }
        Known { shape: Some(sliced), elements, ..data }
    }
}

pub(super) fn gathered(node: &NodeProto, data: &Known, indices: &Known) -> Known {
    let axis = data.shape.as_ref().and_then(|shape| place(integer(node, "axis").unwrap_or(0), shape.len()));
    let shape =
        data.shape.as_ref().zip(axis).zip(indices.shape.as_ref()).map(|((data, axis), indices)| {
            data[..axis].iter().chain(indices).chain(&data[axis + 1..]).copied().collect()
        });
    let elements = data.elements.as_ref().zip(integers_of(indices)).and_then(|(data, indices)| {
        indices.into_iter().map(|index| place(index, data.len()).map(|index| data[index])).collect()
    });
    Known { shape, elements, data_type: data.data_type }
}

pub(super) fn shape_of(node: &NodeProto, shape: &[Size]) -> Known {
    let rank = i64::try_from(shape.len()).unwrap_or(i64::MAX);
    let clamp =
        |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0);
    let (start, end) = (integer(node, "start").map_or(0, clamp), integer(node, "end").map_or(shape.len(), clamp));
    let element = |size: &Size| match size {
        #[allow(clippy::cast_precision_loss, reason = "a size")]
        Size::Number(number) => KnownElement::Number(*number as f64),
        Size::Named(name) => KnownElement::Size(*name),
    };
    let elements: Vec<KnownElement> = shape.get(start..end).unwrap_or_default().iter().map(element).collect();
    Known { shape: Some(vec![whole_size(elements.len())]), elements: Some(elements), data_type: INT64 }
}

pub(super) fn unsqueezed(mut shape: Vec<Size>, axes: &[i64]) -> Option<Vec<Size>> {
    let rank = shape.len() + axes.len();
    let mut places = axes.iter().map(|&axis| place(axis, rank)).collect::<Option<Vec<_>>>()?;
    places.sort_unstable();
    for axis in places {
        (axis <= shape.len()).then(|| shape.insert(axis, Size::Number(1)))?;
    }
    Some(shape)
}

pub(super) fn squeezed(shape: Vec<Size>, axes: &[i64]) -> Option<Vec<Size>> {
    if axes.is_empty() {
        return None;
    }
    let places = axes.iter().map(|&axis| place(axis, shape.len())).collect::<Option<Vec<_>>>()?;
    Some(shape.into_iter().enumerate().filter(|(axis, _)| !places.contains(axis)).map(|(_, size)| size).collect())
}

fn whole_size(count: usize) -> Size {
    Size::Number(i64::try_from(count).unwrap_or(i64::MAX))
}
