//! Buffers: handles to values that change in place, seen through tensors that do not.

use statetune_tensor::{Buffer, DType, Tensor};

fn buffer() -> Buffer {
    Buffer::new(Tensor::from_vec(vec![1f32, 2., 3., 4.], &[2, 2]).unwrap())
}

fn address(buffer: &Buffer) -> *const f32 {
    buffer.tensor().as_slice::<f32>().unwrap().as_ptr()
}

#[test]
fn updates_happen_in_place() {
    let buffer = buffer();
    let before = address(&buffer);
    let sum = buffer.update(|values: &mut [f32]| {
        values[1] = 20.0;
        values.iter().sum::<f32>()
    });
    assert_eq!(sum.unwrap(), 28.0);
    assert_eq!(buffer.tensor().to_f64_vec(), [1., 20., 3., 4.]);
    assert_eq!(address(&buffer), before);
}

#[test]
fn a_tensor_taken_earlier_does_not_change() {
    let buffer = buffer();
    let taken = buffer.tensor();
    buffer.update(|values: &mut [f32]| values.fill(0.0)).unwrap();
    assert_eq!(taken.to_f64_vec(), [1., 2., 3., 4.]);
    assert_eq!(buffer.tensor().to_f64_vec(), [0.0; 4]);
}

#[test]
fn clones_are_handles() {
    let (buffer, other) = (buffer(), buffer().clone());
    let handle = buffer.clone();
    handle.update(|values: &mut [f32]| values[0] = 9.0).unwrap();
    assert_eq!(buffer.tensor().to_f64_vec()[0], 9.0);
    assert_eq!(other.tensor().to_f64_vec()[0], 1.0);
}

#[test]
fn set_keeps_shape_and_element_type() {
    let buffer = buffer();
    buffer.set(Tensor::from_vec(vec![5f32; 4], &[2, 2]).unwrap()).unwrap();
    assert_eq!(buffer.tensor().to_f64_vec(), [5.0; 4]);
    let shape = buffer.set(Tensor::zeros(DType::F32, &[4])).unwrap_err().to_string();
    assert!(shape.contains("[2, 2]") && shape.contains("[4]"), "{shape}");
    let dtype = buffer.set(Tensor::zeros(DType::F64, &[2, 2])).unwrap_err().to_string();
    assert!(dtype.contains("f32") && dtype.contains("f64"), "{dtype}");
    assert!(buffer.update(|_: &mut [f64]| ()).is_err());
    assert_eq!((buffer.shape(), buffer.dtype()), (vec![2, 2], DType::F32));
    assert_eq!(buffer.tensor().to_f64_vec(), [5.0; 4], "a refused value changes nothing");
}
