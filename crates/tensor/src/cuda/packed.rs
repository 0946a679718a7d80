//! Factors of low-rank additions as the kernels read them: kept beside the numbers, which an operation in need of them would
//! otherwise round anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use statetune_ssm_kernels::low_rank::cuda::{MOST_RANK, Packed, Unpacked, pack};
use statetune_ssm_kernels::runtime::cuda::{Array, Cuda, ElementType};

use super::DeviceTensor;
use crate::ops::Factor;
use crate::{DType, Result};

/// A factor in the kernels' orders, of what its tensor held when it was packed.
#[derive(Debug)]
pub(super) struct PackedFactor {
    array: Array,
    which: Factor,
    width: usize,
    rank: usize,
}

impl DeviceTensor {
    /// It as this factor, if it has been packed as such.
    pub(crate) fn packed(&self, which: Factor) -> Option<Packed<'_>> {
        let packed = self.packed.as_deref().filter(|packed| packed.which == which)?;
        Some(Packed::new(packed.array.view(), packed.width, packed.rank))
    }
}

/// Its width and rank, if the kernels are written for it.
fn sizes(factor: &DeviceTensor, which: Factor) -> Option<[usize; 2]> {
    let &[rows, columns] = factor.shape() else { return None };
    let [width, rank] = if which == Factor::A { [columns, rows] } else { [rows, columns] };
    let begins = factor.spread().pointer().is_multiple_of(16);
    let fits = factor.dtype == DType::F32 && factor.is_dense() && begins && width.is_multiple_of(8);
    (fits && (1..=MOST_RANK).contains(&rank)).then_some([width, rank])
}

/// These tensors, packed where they are not yet and the kernels are written for them; those of one rank together.
pub(crate) fn packed_factors(cuda: &Cuda, factors: &[(&DeviceTensor, Factor)]) -> Result<Vec<DeviceTensor>> {
    let mut arrays: Vec<Option<PackedFactor>> = Vec::with_capacity(factors.len());
    for (factor, which) in factors {
        let sizes = sizes(factor, *which).filter(|_| factor.packed(*which).is_none());
        arrays.push(match sizes {
            Some([width, rank]) => {
                let array = cuda.array(ElementType::Bf16, Packed::len(width, rank))?;
                Some(PackedFactor { array, which: *which, width, rank })
            }
            None => None,
        });
    }
    let mut by_rank: BTreeMap<usize, Vec<Unpacked>> = BTreeMap::new();
    for ((factor, which), packed) in factors.iter().zip(&arrays) {
        let Some(PackedFactor { array, width, rank, .. }) = packed else { continue };
        let (factor, is_a) = (factor.view(), *which == Factor::A);
        by_rank.entry(*rank).or_default().push(Unpacked { factor, is_a, width: *width, out: array.view() });
    }
    for (&rank, factors) in &by_rank {
        pack(cuda, factors, rank)?;
    }
    let with = |(factor, packed): (&DeviceTensor, Option<PackedFactor>)| match packed {
        Some(packed) => DeviceTensor { packed: Some(Arc::new(packed)), ..factor.clone() },
        None => factor.clone(),
    };
    Ok(factors.iter().map(|(factor, _)| *factor).zip(arrays).map(with).collect())
}
