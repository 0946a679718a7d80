//! The types of numbers in device memory.

use half::{bf16, f16};

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementType {
    /// Single precision.
    F32,
    /// Double precision: sums.
    F64,
    /// Brain float.
    Bf16,
    /// IEEE half precision: storage only.
    F16,
    /// Indices.
    U32,
    /// Identities, pointers.
    U64,
}

impl ElementType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            ElementType::F64 | ElementType::U64 => 8,
            ElementType::F32 | ElementType::U32 => 4,
            ElementType::Bf16 | ElementType::F16 => 2,
        }
    }

    /// Whether it is bf16: the value of the define `ACT_BF16`.
    pub fn is_bf16(self) -> bool {
        self == ElementType::Bf16
    }
}

/// A Rust type that has the bytes of an element.
pub trait HostElement: Copy + Default + 'static {
    /// Its type on the device.
    const ELEMENT: ElementType;
}

macro_rules! host_element {
    ($($t:ty => $element:ident),*) => {
        $(impl HostElement for $t {
            const ELEMENT: ElementType = ElementType::$element;
        })*
    };
}
host_element!(f32 => F32, f64 => F64, bf16 => Bf16, f16 => F16, u32 => U32, u64 => U64);
