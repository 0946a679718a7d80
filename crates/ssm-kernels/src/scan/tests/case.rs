//! A scan problem that owns its operands, so that tests can leave any out, move any element and change the number type.

use crate::scan::{ScanGrads, ScanInputs, scan_backward, scan_boundaries_len, scan_forward};
use crate::testing::numbers;
use crate::{Cpu, Real, Sequences, Table};

/// The operands in the order of [`ScanGrads`].
pub const NAMES: [&str; 14] = [
    "u",
    "delta",
    "delta_bias",
    "a",
    "b",
    "c",
    "d_skip",
    "z",
    "initial",
    "state_scale",
    "state_extra",
    "state_offset",
    "c_previous",
    "output_offset",
];

/// Which operands may be absent.
pub const OPTIONAL: [usize; 9] = [2, 6, 7, 8, 9, 10, 11, 12, 13];

/// Every operand of one scan; `None` where it is absent.
#[derive(Clone)]
pub struct Case<T> {
    pub offsets: Vec<usize>,
    pub d: usize,
    pub n: usize,
    pub softplus: bool,
    /// One table row per sequence, shared by several.
    pub row_of: Vec<usize>,
    pub operands: [Option<Vec<T>>; 14],
    /// The gradients that arrive: of out, and of the final states if they are used.
    pub dout: Vec<T>,
    pub d_final: Option<Vec<T>>,
}

/// What a forward writes.
pub struct Outputs<T> {
    pub out: Vec<T>,
    pub final_state: Vec<T>,
    pub boundaries: Vec<T>,
}

impl Case<f32> {
    /// Random operands; optional ones are there if their bit in `present` (by position in [`OPTIONAL`]) is set.
    pub fn new(lengths: &[usize], d: usize, n: usize, present: u32, softplus: bool) -> Case<f32> {
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        }));
        let (t, s) = (offsets[lengths.len()], lengths.len());
        // Two table rows for the first three sequences, and one more for those after: 0, 1, 0, 2, 2, ...
        let row_of: Vec<usize> = (0..s).map(|s| if s < 3 { s % 2 } else { 2 }).collect();
        let rows = row_of.iter().max().unwrap() + 1;
        let (table, map) = (rows * d * n, t * n);
        let lens = [t * d, t * d, d, d * n, map, map, d, t * d, table, table, table, table, map, rows * d];
        let mut operands: [Option<Vec<f32>>; 14] = std::array::from_fn(|i| {
            let there = OPTIONAL.iter().position(|&o| o == i).is_none_or(|bit| present >> bit & 1 == 1);
            there.then(|| numbers(lens[i], i as u64))
        });
        operands[3].as_mut().unwrap().iter_mut().for_each(|a| *a = -0.05 - 2.0 * a.abs());
        if !softplus {
            operands[1].as_mut().unwrap().iter_mut().for_each(|delta| *delta = delta.abs());
            operands[2].iter_mut().flatten().for_each(|bias| *bias = bias.abs());
        }
        let (dout, d_final) = (numbers(t * d, 20), Some(numbers(s * d * n, 21)));
        Case { offsets, d, n, softplus, row_of, operands, dout, d_final }
    }

    /// The same problem in double precision.
    pub fn widen(&self) -> Case<f64> {
        let wide = |x: &Vec<f32>| x.iter().map(|&x| f64::from(x)).collect();
        Case {
            offsets: self.offsets.clone(),
            d: self.d,
            n: self.n,
            softplus: self.softplus,
            row_of: self.row_of.clone(),
            operands: self.operands.each_ref().map(|o| o.as_ref().map(wide)),
            dout: wide(&self.dout),
            d_final: self.d_final.as_ref().map(wide),
        }
    }
}

impl<T: Real> Case<T> {
    pub fn inputs(&self) -> ScanInputs<'_, T> {
        let slice = |i: usize| self.operands[i].as_deref();
        let table = |i: usize| slice(i).map(|values| Table { values, row_of: &self.row_of });
        ScanInputs {
            u: slice(0).unwrap(),
            delta: slice(1).unwrap(),
            delta_bias: slice(2),
            delta_softplus: self.softplus,
            a: slice(3).unwrap(),
            b: slice(4).unwrap(),
            c: slice(5).unwrap(),
            d_skip: slice(6),
            z: slice(7),
            initial: table(8),
            state_scale: table(9),
            state_extra: table(10),
            state_offset: table(11),
            c_previous: slice(12),
            output_offset: table(13),
            sequences: Sequences::new(&self.offsets),
            d_inner: self.d,
            d_state: self.n,
        }
    }

    pub fn forward(&self, cpu: &Cpu) -> Outputs<T> {
        let inputs = self.inputs();
        let boundaries = scan_boundaries_len(&inputs.sequences, self.d, self.n);
        let mut outputs = Outputs {
            out: vec![T::ONE; self.dout.len()],
            final_state: vec![T::ONE; (self.offsets.len() - 1) * self.d * self.n],
            boundaries: vec![T::ONE; boundaries],
        };
        let Outputs { out, final_state, boundaries } = &mut outputs;
        scan_forward(cpu, out, Some(final_state), Some(boundaries), &inputs);
        outputs
    }

    /// The gradients of the operands that are there and for which `wanted` says so.
    pub fn gradients(&self, cpu: &Cpu, boundaries: &[T], wanted: impl Fn(usize) -> bool) -> [Option<Vec<T>>; 14] {
        // Not zero, to see that gradients are overwritten.
        let mut grads: [Option<Vec<T>>; 14] = std::array::from_fn(|i| {
            self.operands[i].as_ref().filter(|_| wanted(i)).map(|o| vec![T::from_f64(7.0); o.len()])
        });
        let [du, ddelta, ddelta_bias, da, db, dc, dd_skip, dz, dinitial, dscale, dextra, doffset, dprevious, doutput] =
            grads.each_mut().map(|g| g.as_deref_mut());
        let asked = ScanGrads {
            du,
            ddelta,
            ddelta_bias,
            da,
            db,
            dc,
            dd_skip,
            dz,
            dinitial,
            dstate_scale: dscale,
            dstate_extra: dextra,
            dstate_offset: doffset,
            dc_previous: dprevious,
            doutput_offset: doutput,
        };
        scan_backward(cpu, asked, &self.dout, self.d_final.as_deref(), boundaries, &self.inputs());
        grads
    }

    /// Σ dout · out + Σ d_final · final_state.
    pub fn loss(&self, cpu: &Cpu) -> T {
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(&a, &b)| a * b).sum::<T>();
        let outputs = self.forward(cpu);
        let states = self.d_final.as_ref().map_or(T::ZERO, |d| dot(d, &outputs.final_state));
        dot(&self.dout, &outputs.out) + states
    }
}
