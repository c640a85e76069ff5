//! Rows of tensors: kept, repeated, put together, aligned at the end of an axis; in the host's memory and in a device's.

use nightcap::onnx::{DataType, Device, GraphOptions, GraphSource, RowGather, Session, SessionInput, Tensor};
use proptest::prelude::*;

use crate::common::devices;
use crate::graph_writer::{directory, model, node, port};

/// The element at `place` of a row and its half; all elements are different, and not zero.
fn element(length: usize, row: usize, half: usize, place: usize) -> f32 {
    (row * 100 + half * 50 + (length - place)) as f32
}

/// `[rows, 2, length]`
fn tensor(dtype: DataType, rows: usize, length: usize) -> Tensor {
    let data = picked(length, &(0..rows).collect::<Vec<_>>(), length);
    Tensor::from_f32(dtype, &[rows, 2, length], data).unwrap()
}

/// The rows `rows` of a tensor whose last axis has `length` elements, with its ends at the end of an axis of `aligned`.
fn picked(length: usize, rows: &[usize], aligned: usize) -> Vec<f32> {
    let at =
        |row, half, place: usize| (place + length).checked_sub(aligned).map(|place| element(length, row, half, place));
    let halves = rows.iter().flat_map(|row| [(*row, 0), (*row, 1)]);
    halves.flat_map(|(row, half)| (0..aligned).map(move |place| at(row, half, place).unwrap_or(0.0))).collect()
}

/// Moves rows on a device, and reads what it made there.
struct OnDevice {
    rows: RowGather,
    read: [Session; 2],
}

impl OnDevice {
    fn new(device: Device) -> Self {
        let options = GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true };
        let read = [1, 10].map(|kind| {
            let identity =
                [node("Identity", &["x"], "y", &[]), port(11, "x", kind, &[0, 0, 0]), port(12, "y", kind, &[0, 0, 0])];
            let folder = directory(&[("graph.onnx", model(&identity))]);
            GraphSource::file(folder.path().join("graph.onnx")).open(options).unwrap()
        });
        Self { rows: RowGather::new(options), read }
    }

    fn read(&mut self, value: &Tensor) -> Vec<f32> {
        let graph = &mut self.read[usize::from(value.dtype() == DataType::F16)];
        graph.run(&[("x", SessionInput::Shared(value))]).unwrap().remove("y").unwrap().to_f32().unwrap().into_owned()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_are_kept_repeated_and_put_together(
        these in prop::collection::vec(0..6_usize, 1..9),
        those in prop::collection::vec(0..3_usize, 1..5),
        gaps in prop::collection::vec(any::<bool>(), 6),
        (short, long, aligned) in (1..5_usize, 1..5_usize, 1..5_usize),
        dtype in prop::sample::select(vec![DataType::F32, DataType::F16]),
    ) {
        // gaps that the last rows fill, as when captions are finished
        let mut order: Vec<Option<usize>> = gaps.iter().zip(0..).map(|(gap, row)| (!gap).then_some(row)).collect();
        while let Some(gap) = order.iter().position(Option::is_none) {
            order.swap_remove(gap);
        }
        let order: Vec<usize> = order.into_iter().flatten().collect();
        for device in devices() {
            let mut on = OnDevice::new(device);
            let mut first = on.rows.to_device(tensor(dtype, 6, short)).unwrap();
            // one of the two may be in the host's memory
            let second = tensor(dtype, 3, long);
            let both = on.rows.concat(&[(&first, &these), (&second, &those)], Some((2, aligned))).unwrap();
            prop_assert_eq!((both.shape(), both.dtype()), (vec![these.len() + those.len(), 2, aligned], dtype));
            let expected = [picked(short, &these, aligned), picked(long, &those, aligned)].concat();
            prop_assert_eq!(on.read(&both), expected, "{}", device);
            prop_assert_eq!(both.to_f32().is_err(), device != Device::Cpu);

            let mut kept = on.rows.to_device(tensor(dtype, 6, short)).unwrap();
            on.rows.gather_in_place(&mut kept, &these).unwrap();
            prop_assert_eq!(on.read(&kept), picked(short, &these, short));
            if let Some((_, fewer)) = order.split_last() {
                on.rows.gather_in_place(&mut first, &order).unwrap();
                prop_assert_eq!(on.read(&first), picked(short, &order, short));
                if !fewer.is_empty() {
                    // once more, from what is left
                    on.rows.gather_in_place(&mut first, &(0..fewer.len()).collect::<Vec<_>>()).unwrap();
                    prop_assert_eq!(on.read(&first), picked(short, fewer, short));
                    let last = on.rows.gather(&first, &[fewer.len() - 1]).unwrap();
                    prop_assert_eq!(on.read(&last), picked(short, &fewer[fewer.len() - 1..], short));
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let mut rows = RowGather::new(GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true });
        for wrong in [vec![0, 6], vec![6], vec![1, 0, 6]] {
            let mut six = rows.to_device(tensor(DataType::F32, 6, 3)).unwrap();
            let error = rows.gather_in_place(&mut six, &wrong).unwrap_err();
            assert!(error.what.contains("row 6 of a tensor with 6 rows"), "{error}");
        }
        let mut fewer = rows.to_device(tensor(DataType::F32, 6, 3)).unwrap();
        rows.gather_in_place(&mut fewer, &[0, 1]).unwrap();
        assert!(rows.gather(&fewer, &[2]).unwrap_err().what.contains("row 2 of a tensor with 2 rows"));
        let (short, long) = (tensor(DataType::F32, 2, 1), tensor(DataType::F32, 1, 3));
        let error = rows.concat(&[(&short, &[0]), (&long, &[0])], None).unwrap_err();
        assert!(error.what.contains("[2, 2, 1]") && error.what.contains("[1, 2, 3]"), "{error}");
    }
}

#[test]
fn outputs_stay_on_a_device_but_for_those_that_are_read() {
    for device in devices().into_iter().filter(|device| *device != Device::Cpu) {
        let graph = [
            node("Identity", &["x"], "logits", &[]),
            node("Identity", &["x"], "state", &[]),
            node("Shape", &["x"], "size", &[]),
            port(11, "x", 1, &[0, 2]),
            port(12, "logits", 1, &[0, 2]),
            port(12, "state", 1, &[0, 2]),
            port(12, "size", 7, &[2]),
        ];
        let folder = directory(&[("graph.onnx", model(&graph))]);
        let source = GraphSource::file(folder.path().join("graph.onnx"));
        let mut graph =
            source.open(GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true }).unwrap();
        let x = |first: f32| {
            Tensor::from_f32(DataType::F32, &[3, 2], (0..6_u8).map(|n| first + f32::from(n)).collect()).unwrap()
        };
        let mut first = graph.run_on_device(&[("x", SessionInput::Owned(x(0.0)))], &["logits"]).unwrap();
        let mut second = graph.run_on_device(&[("x", SessionInput::Owned(x(6.0)))], &["logits"]).unwrap();
        // what a run gave is not what a later one writes into
        for (outputs, expected) in [(&mut first, 0.0), (&mut second, 6.0)] {
            assert_eq!(outputs.remove("logits").unwrap().to_f32().unwrap()[..1], [expected], "{device}");
            assert_eq!(outputs.remove("size").unwrap().to_i64().unwrap(), [3, 2]);
            let state = outputs.remove("state").unwrap();
            assert!(state.to_f32().unwrap_err().what.contains("not in the host's"), "{device}");
            let read = graph.run(&[("x", SessionInput::Owned(state))]).unwrap().remove("state").unwrap();
            assert_eq!(read.to_f32().unwrap()[..1], [expected]);
        }
    }
}

#[test]
fn integers_are_moved_in_the_memory_of_the_host() {
    for device in devices() {
        let mut rows = RowGather::new(GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true });
        let integers = || Tensor::from_i64(&[3, 2], (0..6).collect()).unwrap();
        let mut both = rows.concat(&[(&integers(), &[2, 0]), (&integers(), &[1])], Some((1, 3))).unwrap();
        assert_eq!(both.to_i64().unwrap(), [0, 4, 5, 0, 0, 1, 0, 2, 3]);
        rows.gather_in_place(&mut both, &[2, 1]).unwrap();
        assert_eq!((both.shape(), both.to_i64().unwrap()), (vec![2, 3], &[0, 2, 3, 0, 0, 1][..]));
        assert_eq!(rows.to_device(both).unwrap().to_i64().unwrap(), [0, 2, 3, 0, 0, 1]);
        let none = rows.gather(&integers(), &[]).unwrap();
        assert_eq!((none.shape(), none.to_i64().unwrap().len()), (vec![0, 2], 0));
    }
}
