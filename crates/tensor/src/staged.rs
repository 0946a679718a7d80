//! Host values that operations look up: token ids, starts of sequences, rows. On a device they have a copy, made at the
//! first use and shared by all clones.

use std::ops::Deref;
use std::sync::Arc;

/// Values of the host, with a copy on the device that needed them.
#[derive(Clone)]
pub struct Staged<T: Stage>(Arc<Inner<T>>);

struct Inner<T: Stage> {
    values: Box<[T]>,
    #[cfg(feature = "cuda")]
    device: std::sync::OnceLock<statetune_ssm_kernels::runtime::cuda::Array>,
}

/// What may be staged.
pub trait Stage: Copy + Send + Sync + std::fmt::Debug + 'static {
    /// What stands for it on a device.
    #[cfg(feature = "cuda")]
    type OnDevice: statetune_ssm_kernels::runtime::cuda::HostElement;
    /// Its value there.
    #[cfg(feature = "cuda")]
    fn on_device(self) -> Self::OnDevice;
}

macro_rules! stage {
    ($($t:ty as $device:ty),*) => {
        $(impl Stage for $t {
            #[cfg(feature = "cuda")]
            type OnDevice = $device;
            #[cfg(feature = "cuda")]
            fn on_device(self) -> $device {
                self as $device
            }
        })*
    };
}
stage!(u32 as u32, u64 as u64, usize as u32, f32 as f32);

impl<T: Stage> Staged<T> {
    /// These values.
    pub fn new(values: impl Into<Box<[T]>>) -> Staged<T> {
        Staged(Arc::new(Inner {
            values: values.into(),
            #[cfg(feature = "cuda")]
            device: std::sync::OnceLock::new(),
        }))
    }
}

#[cfg(feature = "cuda")]
mod on_device {
    use statetune_ssm_kernels::runtime::cuda::{Cuda, View};

    use super::{Stage, Staged};
    use crate::{Result, TensorError};

    impl<T: Stage> Staged<T> {
        /// The copy on this device.
        ///
        /// # Errors
        /// When the device fails, or the values were first used on another.
        pub fn on(&self, cuda: &Cuda) -> Result<View<'_>> {
            if self.0.device.get().is_none() {
                let values: Vec<T::OnDevice> = self.0.values.iter().map(|value| value.on_device()).collect();
                // Should another thread have been quicker, its copy is as good.
                let _ = self.0.device.set(cuda.upload(&values)?);
            }
            let array = self.0.device.get().expect("just set");
            match array.cuda().same(cuda) {
                true => Ok(array.view()),
                false => Err(TensorError::Device {
                    what: "a list of indices".into(),
                    found: format!("{:?}", array.cuda()),
                    expected: format!("{cuda:?}"),
                }),
            }
        }

        /// Overwrites the copy on the device with values of another list of the same length, for a captured graph to see; the
        /// values on the host stay.
        ///
        /// # Errors
        /// When the device fails.
        ///
        /// # Panics
        /// When the lengths differ.
        pub fn rewrite(&self, cuda: &Cuda, values: &[T]) -> Result<()> {
            let values: Vec<T::OnDevice> = values.iter().map(|value| value.on_device()).collect();
            Ok(cuda.write(self.on(cuda)?, &values)?)
        }
    }
}

impl<T: Stage> Deref for Staged<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0.values
    }
}

impl<T: Stage> From<Vec<T>> for Staged<T> {
    fn from(values: Vec<T>) -> Staged<T> {
        Staged::new(values)
    }
}

impl<T: Stage> From<&[T]> for Staged<T> {
    fn from(values: &[T]) -> Staged<T> {
        Staged::new(values)
    }
}

impl<T: Stage> From<&Vec<T>> for Staged<T> {
    fn from(values: &Vec<T>) -> Staged<T> {
        Staged::new(values.as_slice())
    }
}

impl<T: Stage, const N: usize> From<&[T; N]> for Staged<T> {
    fn from(values: &[T; N]) -> Staged<T> {
        Staged::new(values.as_slice())
    }
}

impl<T: Stage, const N: usize> From<[T; N]> for Staged<T> {
    fn from(values: [T; N]) -> Staged<T> {
        Staged::new(values.to_vec())
    }
}

impl<T: Stage> FromIterator<T> for Staged<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Staged<T> {
        Staged::new(values.into_iter().collect::<Vec<T>>())
    }
}

impl<T: Stage + PartialEq> PartialEq for Staged<T> {
    fn eq(&self, other: &Staged<T>) -> bool {
        self.0.values == other.0.values
    }
}

impl<T: Stage> std::fmt::Debug for Staged<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.values.fmt(f)
    }
}
