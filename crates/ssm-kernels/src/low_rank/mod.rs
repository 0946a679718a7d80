//! Low-rank additions to a linear layer on a device, y += s (x Aᵀ) Bᵀ, and their gradients: three launches in place of seven
//! products and casts. The processor has plain products.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
