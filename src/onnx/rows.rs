//! Rows of tensors, on axis 0: kept, repeated, put together. In: tensors, and which rows of each. Out: tensors with these rows, where
//! those were: in the host's memory, or in a device's by [`super::rows_on_device`].

use half::f16;

use super::error::OnnxError;
use super::port::DataType;
use super::rows_on_device;
use super::value::{Element, Place, Value, failed, misfit};

impl Value {
    /// The rows `rows` of axis 0, in that order; their elements are copied.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn gather(&self, rows: &[usize]) -> Result<Self, OnnxError> {
        Self::stack(&[(self, rows)], None)
    }

    /// Goes on with the rows `rows` of axis 0, in that order. Where each of them stays in its place or comes from behind the last
    /// place, as when the last rows fill the gaps of others, only those that come are copied; in a device's memory all are.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn keep(&mut self, rows: &[usize]) -> Result<(), OnnxError> {
        let held = self.shape().first().copied().unwrap_or(0);
        let stays = |(&row, place): (&usize, usize)| row == place || row >= rows.len();
        if self.device().is_some() || rows.len() > held || !rows.iter().zip(0..).all(stays) {
            *self = self.gather(rows)?;
            return Ok(());
        }
        match self.dtype() {
            DataType::F16 => self.fill_gaps::<f16>(rows, held)?,
            DataType::I64 => self.fill_gaps::<i64>(rows, held)?,
            _ => self.fill_gaps::<f32>(rows, held)?,
        }
        self.place = Place::Host(Some(rows.len()));
        Ok(())
    }

    /// Rows of one tensor after the other, `(tensor, rows)`, as one; their elements are copied. With `aligned`, an axis and its
    /// size, the ends of that axis stand at its end: the beginning of a longer one is left out, that of a shorter one is zeros.
    ///
    /// # Errors
    /// When a row does not exist, tensors differ in type or in a size that is not aligned, their elements are no floats or
    /// int64, or memory ran out.
    pub fn stack(parts: &[(&Self, &[usize])], aligned: Option<(usize, usize)>) -> Result<Self, OnnxError> {
        if let Some(device) = parts.iter().find_map(|(part, _)| part.device()) {
            return rows_on_device::stack(device, parts, aligned);
        }
        match parts.first().map(|(first, _)| first.dtype()) {
            Some(DataType::F16) => Self::stack_as::<f16>(parts, aligned),
            Some(DataType::I64) => Self::stack_as::<i64>(parts, aligned),
            _ => Self::stack_as::<f32>(parts, aligned),
        }
    }

    fn fill_gaps<T: Element>(&mut self, rows: &[usize], held: usize) -> Result<(), OnnxError> {
        let width: usize = self.shape().iter().skip(1).product();
        if let Some(row) = rows.iter().find(|row| **row >= held) {
            return Err(no_row(*row, held));
        }
        let (_, data) = self.tensor.try_extract_tensor_mut::<T>().map_err(|error| failed(&error))?;
        for (place, &row) in rows.iter().enumerate().filter(|(place, row)| place != *row) {
            data.copy_within(row * width..(row + 1) * width, place * width);
        }
        Ok(())
    }

    fn stack_as<T: Element>(parts: &[(&Self, &[usize])], aligned: Option<(usize, usize)>) -> Result<Self, OnnxError> {
        let all_rows: usize = parts.iter().map(|(_, rows)| rows.len()).sum();
        let mut stacked: Option<Vec<usize>> = None;
        let mut data = Vec::new();
        for (value, rows) in parts {
            let mut shape = value.shape();
            let [held, inner @ ..] = shape.as_slice() else {
                return Err(misfit("rows of a tensor without axes".to_owned()));
            };
            let (held, width) = (*held, inner.iter().product::<usize>());
            // a row is `runs` runs of `old` elements, which become `new` elements each
            let (runs, old, new) = match aligned {
                Some((axis @ 1.., size)) if shape.get(axis).is_some_and(|&found| found != size) => {
                    let after = shape[axis + 1..].iter().product::<usize>();
                    (shape[1..axis].iter().product(), shape[axis] * after, size * after)
                }
                _ => (1, width, width),
            };
            if stacked.is_none() {
                data.reserve_exact(all_rows * runs * new);
            }
            let from = value.slice::<T>()?;
            for &row in *rows {
                let part = from.get(row * width..(row + 1) * width);
                let part = part.ok_or_else(|| no_row(row, held))?;
                for run in 0..runs {
                    data.extend(std::iter::repeat_n(T::default(), new.saturating_sub(old)));
                    data.extend_from_slice(&part[run * old + old.saturating_sub(new)..(run + 1) * old]);
                }
            }
            if let Some((axis, size)) = aligned.filter(|(axis, _)| *axis < shape.len()) {
                shape[axis] = size;
            }
            shape[0] = rows.len();
            match &mut stacked {
                None => stacked = Some(shape),
                Some(all) if all[1..] == shape[1..] => all[0] += rows.len(),
                Some(all) => return Err(misfit(format!("rows of shapes {all:?} and {shape:?} in one tensor"))),
            }
        }
        Self::owned(&stacked.unwrap_or_default(), data)
    }
}

pub(super) fn no_row(row: usize, held: usize) -> OnnxError {
    misfit(format!("row {row} of a tensor with {held} rows"))
}
