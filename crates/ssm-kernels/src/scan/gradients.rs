//! The gradients a caller may ask of the scan.

use super::ScanInputs;
use crate::Real;
use crate::real::as_f32_mut;

/// The gradients asked for; each is overwritten, and has the shape of its operand. Gradients of tables are summed over
/// the sequences that use a row.
#[derive(Debug)]
pub struct ScanGrads<'a, T> {
    /// Of `u`, `[T, D]`.
    pub du: Option<&'a mut [T]>,
    /// Of `delta`, `[T, D]`.
    pub ddelta: Option<&'a mut [T]>,
    /// Of `delta_bias`, `[D]`.
    pub ddelta_bias: Option<&'a mut [T]>,
    /// Of `a`, `[D, N]`.
    pub da: Option<&'a mut [T]>,
    /// Of `b`, `[T, N]`.
    pub db: Option<&'a mut [T]>,
    /// Of `c`, `[T, N]`.
    pub dc: Option<&'a mut [T]>,
    /// Of `d_skip`, `[D]`.
    pub dd_skip: Option<&'a mut [T]>,
    /// Of `z`, `[T, D]`.
    pub dz: Option<&'a mut [T]>,
    /// Of `initial`, its rows `[D, N]`.
    pub dinitial: Option<&'a mut [T]>,
    /// Of `state_scale`, its rows `[D, N]`.
    pub dstate_scale: Option<&'a mut [T]>,
    /// Of `state_extra`, its rows `[D, N]`.
    pub dstate_extra: Option<&'a mut [T]>,
    /// Of `state_offset`, its rows `[D, N]`.
    pub dstate_offset: Option<&'a mut [T]>,
    /// Of `c_previous`, `[T, N]`.
    pub dc_previous: Option<&'a mut [T]>,
    /// Of `output_offset`, its rows `[D]`.
    pub doutput_offset: Option<&'a mut [T]>,
}

impl<T> Default for ScanGrads<'_, T> {
    fn default() -> Self {
        ScanGrads {
            du: None,
            ddelta: None,
            ddelta_bias: None,
            da: None,
            db: None,
            dc: None,
            dd_skip: None,
            dz: None,
            dinitial: None,
            dstate_scale: None,
            dstate_extra: None,
            dstate_offset: None,
            dc_previous: None,
            doutput_offset: None,
        }
    }
}

impl<'a, T: Real> ScanGrads<'a, T> {
    /// Every gradient with its name, in the order of the fields.
    pub(super) fn each(&mut self) -> [(&'static str, Option<&mut &'a mut [T]>); 14] {
        [
            ("du", self.du.as_mut()),
            ("ddelta", self.ddelta.as_mut()),
            ("ddelta_bias", self.ddelta_bias.as_mut()),
            ("da", self.da.as_mut()),
            ("db", self.db.as_mut()),
            ("dc", self.dc.as_mut()),
            ("dd_skip", self.dd_skip.as_mut()),
            ("dz", self.dz.as_mut()),
            ("dinitial", self.dinitial.as_mut()),
            ("dstate_scale", self.dstate_scale.as_mut()),
            ("dstate_extra", self.dstate_extra.as_mut()),
            ("dstate_offset", self.dstate_offset.as_mut()),
            ("dc_previous", self.dc_previous.as_mut()),
            ("doutput_offset", self.doutput_offset.as_mut()),
        ]
    }

    /// The same slices where `T` is `f32`; without it, none of them.
    pub(super) fn into_f32(self) -> ScanGrads<'a, f32> {
        let as_f32 = |grad: Option<&'a mut [T]>| grad.and_then(as_f32_mut);
        ScanGrads {
            du: as_f32(self.du),
            ddelta: as_f32(self.ddelta),
            ddelta_bias: as_f32(self.ddelta_bias),
            da: as_f32(self.da),
            db: as_f32(self.db),
            dc: as_f32(self.dc),
            dd_skip: as_f32(self.dd_skip),
            dz: as_f32(self.dz),
            dinitial: as_f32(self.dinitial),
            dstate_scale: as_f32(self.dstate_scale),
            dstate_extra: as_f32(self.dstate_extra),
            dstate_offset: as_f32(self.dstate_offset),
            dc_previous: as_f32(self.dc_previous),
            doutput_offset: as_f32(self.doutput_offset),
        }
    }

    /// Each gradient must have the length of its operand, which must be there.
    #[track_caller]
    pub(super) fn check(&mut self, inputs: &ScanInputs<T>) {
        let operands = [
            Some(inputs.u.len()),
            Some(inputs.delta.len()),
            inputs.delta_bias.map(<[T]>::len),
            Some(inputs.a.len()),
            Some(inputs.b.len()),
            Some(inputs.c.len()),
            inputs.d_skip.map(<[T]>::len),
            inputs.z.map(<[T]>::len),
            inputs.initial.map(|t| t.values.len()),
            inputs.state_scale.map(|t| t.values.len()),
            inputs.state_extra.map(|t| t.values.len()),
            inputs.state_offset.map(|t| t.values.len()),
            inputs.c_previous.map(<[T]>::len),
            inputs.output_offset.map(|t| t.values.len()),
        ];
        for ((name, grad), operand) in self.each().into_iter().zip(operands) {
            if let Some(grad) = grad {
                let operand = operand.unwrap_or_else(|| panic!("scan: {name} asked for, but its operand is absent"));
                assert_eq!(grad.len(), operand, "scan: {name} has another length than its operand");
            }
        }
    }
}
