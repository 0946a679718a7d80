//! The update of one trained tensor, where it lives.

use statetune_ssm_kernels::adamw::{self as kernel, AdamWStep};

use crate::{Buffer, Device, Result, Tensor, with_float};

/// One AdamW step of a parameter and its moments, in place. On a CUDA device moments that are still on the host are moved
/// there.
///
/// # Errors
/// When the types differ, or the device fails.
pub fn adamw(
    device: &Device,
    parameter: &Buffer,
    (m, v): (&mut Tensor, &mut Tensor),
    gradient: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let cpu = match device {
        Device::Cpu(cpu) => cpu,
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            (*m, *v) = (m.to(device)?, v.to(device)?);
            let parameter = parameter.tensor();
            let (m, v, gradient) = (m.on_cuda(cuda)?, v.on_cuda(cuda)?, gradient.on_cuda(cuda)?.dense()?);
            let (parameter, m, v) = (parameter.on_cuda(cuda)?.view(), m.view(), v.view());
            return Ok(kernel::cuda::adamw(cuda, parameter, m, v, gradient.view(), step)?);
        }
    };
    with_float!(gradient.dtype(), "adamw", T => {
        let (m, v) = (m.make_mut::<T>()?, v.make_mut::<T>()?);
        let gradient = gradient.as_slice::<T>()?;
        parameter.update::<T, _>(|parameter| kernel::adamw(cpu, parameter, m, v, gradient, step))
    })
}
