//! Rows of tensors: kept, repeated, put together, aligned at the end of an axis.

use nightcap::onnx::{DataType, Device, Value};
use proptest::prelude::*;

use crate::common::devices;

/// `[rows, 2, length]`, where an element says its row, its half and its place from the end.
fn tensor(rows: usize, length: usize) -> Value {
    let element = |row: usize, half: usize, place: usize| (row * 100 + half * 50 + (length - place)) as f32;
    let data = (0..rows).flat_map(|row| (0..2).map(move |half| (row, half)));
    let data = data.flat_map(|(row, half)| (0..length).map(move |place| element(row, half, place))).collect();
    Value::from_f32(DataType::F32, &[rows, 2, length], data).unwrap()
}

proptest! {
    #[test]
    fn rows_are_kept_as_they_are_gathered(first in prop::collection::vec(0..6_usize, 1..9), gaps in prop::collection::vec(any::<bool>(), 6)) {
        let gathered = tensor(6, 3).gather(&first).unwrap();
        let mut kept = tensor(6, 3);
        kept.keep(&first).unwrap();
        prop_assert_eq!(kept.shape(), gathered.shape());
        prop_assert_eq!(kept.as_f32().unwrap(), gathered.as_f32().unwrap());

        // gaps that the last rows fill, as when captions are finished, and once more from what is left
        let mut order: Vec<Option<usize>> = gaps.iter().zip(0..).map(|(gap, row)| (!gap).then_some(row)).collect();
        while let Some(gap) = order.iter().position(Option::is_none) {
            order.swap_remove(gap);
        }
        let order: Vec<usize> = order.into_iter().flatten().collect();
        let mut filled = tensor(6, 3);
        filled.keep(&order).unwrap();
        let gathered = tensor(6, 3).gather(&order).unwrap();
        prop_assert_eq!(filled.as_f32().unwrap(), gathered.as_f32().unwrap());
        if let Some((_, fewer)) = order.split_last() {
            filled.keep(&(0..fewer.len()).collect::<Vec<_>>()).unwrap();
            let gathered = tensor(6, 3).gather(fewer).unwrap();
            prop_assert_eq!(filled.as_f32().unwrap(), gathered.as_f32().unwrap());
        }
    }
}

/// The device of the tests that has a memory of its own.
fn device() -> Device {
    devices().into_iter().next_back().unwrap()
}

proptest! {
    #[test]
    fn a_device_moves_rows_as_the_host_does(
        these in prop::collection::vec(0..3_usize, 1..6),
        those in prop::collection::vec(0..3_usize, 1..6),
        lengths in (1..5_usize, 1..5_usize, 1..5_usize),
        dtype in prop::sample::select(vec![DataType::F32, DataType::F16]),
    ) {
        let (short, long, aligned) = lengths;
        let tensors = || [tensor(4, short), tensor(3, long)].map(|tensor| tensor.into_float(dtype).unwrap());
        let ([a, b], [c, d]) = (tensors(), tensors().map(|tensor| tensor.onto(device()).unwrap()));
        let stack = |a: &Value, b: &Value| Value::stack(&[(a, &these), (b, &those)], Some((2, aligned))).unwrap();
        // also where one of the two is in the host's memory
        for (host, on_device) in [(stack(&a, &b), stack(&c, &d)), (stack(&a, &b), stack(&a, &d)), (stack(&b, &a), stack(&d, &a))] {
            prop_assert_eq!((on_device.shape(), on_device.dtype()), (host.shape(), dtype));
            prop_assert_eq!(on_device.to_f32().unwrap(), host.to_f32().unwrap());
            prop_assert!(on_device.as_f32().unwrap_err().what.contains("not in the host's"));
        }
        let (mut host, mut on_device) = (a, c);
        host.keep(&these).unwrap();
        on_device.keep(&these).unwrap();
        prop_assert_eq!(on_device.to_f32().unwrap(), host.to_f32().unwrap());
        prop_assert!(on_device.gather(&[these.len()]).unwrap_err().what.contains("of a tensor with"));
        prop_assert!(Value::stack(&[(&d, &[0]), (&tensor(1, long + 1).into_float(dtype).unwrap(), &[0])], None).is_err());
    }
}

#[test]
fn a_row_that_does_not_exist_is_refused() {
    for rows in [vec![0, 6], vec![6], vec![1, 0, 6]] {
        let error = tensor(6, 3).keep(&rows).unwrap_err();
        assert!(error.what.contains("row 6 of a tensor with 6 rows"), "{error}");
    }
    let mut fewer = tensor(6, 3);
    fewer.keep(&[0, 1]).unwrap();
    assert!(fewer.gather(&[2]).unwrap_err().what.contains("row 2 of a tensor with 2 rows"));
}

#[test]
fn ends_are_aligned_behind_zeros() {
    let (short, long) = (tensor(2, 1), tensor(1, 3));
    let both = Value::stack(&[(&short, &[1, 0]), (&long, &[0])], Some((2, 3))).unwrap();
    assert_eq!(both.shape(), [3, 2, 3]);
    let expected = [0., 0., 101., 0., 0., 151., 0., 0., 1., 0., 0., 51., 3., 2., 1., 53., 52., 51.];
    assert_eq!(both.as_f32().unwrap(), expected);
    let cut = Value::stack(&[(&both, &[0, 2])], Some((2, 2))).unwrap();
    assert_eq!((cut.shape(), cut.as_f32().unwrap()), (vec![2, 2, 2], &[0., 101., 0., 151., 2., 1., 52., 51.][..]));
    let error = Value::stack(&[(&short, &[0]), (&long, &[0])], None).unwrap_err();
    assert!(error.what.contains("[1, 2, 1]") && error.what.contains("[1, 2, 3]"), "{error}");
}
