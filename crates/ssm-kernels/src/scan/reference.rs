//! The scan as its formula says, one channel at a time, for `f32` and `f64`.
//!
//! The backward recomputes the states of one channel of one sequence from its first token, so it holds len·N values
//! and reads no boundaries.

use super::{CHUNK, ScanGrads, ScanInputs};
use crate::{Real, Table};

/// Channel `d` of sequence `s`: its row of the tables, with the values an absent operand stands for.
struct Channel<'a, T> {
    a: &'a [T],                    // [N]
    initial: Vec<T>,               // [N]
    state_scale: Option<&'a [T]>,  // [N]
    state_extra: Option<&'a [T]>,  // [N]
    state_offset: Option<&'a [T]>, // [N]
    output_offset: T,
    d_skip: T,
}

impl<'a, T: Real> Channel<'a, T> {
    fn new(inputs: &ScanInputs<'a, T>, s: usize, d: usize) -> Self {
        let (d_inner, n) = (inputs.d_inner, inputs.d_state);
        let row = |table: Option<Table<'a, T>>| table.map(|table| &table.row(s, d_inner * n)[d * n..][..n]);
        Channel {
            a: &inputs.a[d * n..][..n],
            initial: row(inputs.initial).map_or_else(|| vec![T::ZERO; n], <[T]>::to_vec),
            state_scale: row(inputs.state_scale),
            state_extra: row(inputs.state_extra),
            state_offset: row(inputs.state_offset),
            output_offset: inputs.output_offset.map_or(T::ZERO, |table| table.row(s, d_inner)[d]),
            d_skip: inputs.d_skip.map_or(T::ZERO, |skip| skip[d]),
        }
    }

    /// S C + E for state `n`, given C.
    fn readout(&self, n: usize, c: T) -> T {
        self.state_scale.map_or(T::ONE, |s| s[n]) * c + self.state_extra.map_or(T::ZERO, |e| e[n])
    }
}

/// delta + bias, the value under the softplus.
fn raw_delta<T: Real>(inputs: &ScanInputs<T>, t: usize, d: usize) -> T {
    inputs.delta[t * inputs.d_inner + d] + inputs.delta_bias.map_or(T::ZERO, |bias| bias[d])
}

fn delta<T: Real>(inputs: &ScanInputs<T>, t: usize, d: usize) -> T {
    let raw = raw_delta(inputs, t, d);
    if inputs.delta_softplus { raw.softplus() } else { raw }
}

/// h_t from h_{t-1}, in place.
fn step<T: Real>(h: &mut [T], channel: &Channel<T>, inputs: &ScanInputs<T>, t: usize, d: usize) {
    let (n_states, delta) = (inputs.d_state, delta(inputs, t, d));
    for n in 0..n_states {
        let input = delta * inputs.u[t * inputs.d_inner + d] * inputs.b[t * n_states + n];
        h[n] = (delta * channel.a[n]).exp() * h[n] + input;
    }
}

/// y_t, before the gate.
fn readout<T: Real>(h: &[T], previous: &[T], channel: &Channel<T>, inputs: &ScanInputs<T>, t: usize, d: usize) -> T {
    let n_states = inputs.d_state;
    let mut y = channel.output_offset + channel.d_skip * inputs.u[t * inputs.d_inner + d];
    for n in 0..n_states {
        let c = inputs.c[t * n_states + n];
        y += h[n] * channel.readout(n, c);
        y += channel.state_offset.map_or(T::ZERO, |o| o[n]) * c;
        y += previous[n] * inputs.c_previous.map_or(T::ZERO, |c| c[t * n_states + n]);
    }
    y
}

pub(super) fn forward<T: Real>(
    out: &mut [T],
    mut final_state: Option<&mut [T]>,
    mut boundaries: Option<&mut [T]>,
    inputs: &ScanInputs<T>,
) {
    let (d_inner, n_states) = (inputs.d_inner, inputs.d_state);
    let mut first_boundary = 0;
    for s in 0..inputs.sequences.len() {
        let tokens = inputs.sequences.range(s);
        for d in 0..d_inner {
            let channel = Channel::new(inputs, s, d);
            let mut h = channel.initial.clone();
            for t in tokens.clone() {
                let i = t - tokens.start;
                if let Some(boundaries) = boundaries.as_mut().filter(|_| i > 0 && i.is_multiple_of(CHUNK)) {
                    let boundary = first_boundary + i / CHUNK - 1;
                    for n in 0..n_states {
                        boundaries[(boundary * n_states + n) * d_inner + d] = h[n];
                    }
                }
                let previous = h.clone();
                step(&mut h, &channel, inputs, t, d);
                let y = readout(&h, &previous, &channel, inputs, t, d);
                out[t * d_inner + d] = y * inputs.z.map_or(T::ONE, |z| z[t * d_inner + d].silu());
            }
            if let Some(state) = &mut final_state {
                state[(s * d_inner + d) * n_states..][..n_states].copy_from_slice(&h);
            }
        }
        first_boundary += super::interior_chunks(&inputs.sequences, s);
    }
}

/// Adds to an element of a gradient, if that gradient is asked for.
fn add<T: Real>(grad: &mut Option<&mut [T]>, i: usize, x: T) {
    if let Some(grad) = grad {
        grad[i] += x;
    }
}

pub(super) fn backward<T: Real>(mut grads: ScanGrads<T>, dout: &[T], d_final: Option<&[T]>, inputs: &ScanInputs<T>) {
    let (d_inner, n_states) = (inputs.d_inner, inputs.d_state);
    for (_, grad) in grads.each() {
        grad.into_iter().for_each(|grad| grad.fill(T::ZERO));
    }
    for s in 0..inputs.sequences.len() {
        let tokens = inputs.sequences.range(s);
        // The start of this sequence's row in a table of rows [D, N].
        let row_start = |table: Option<Table<T>>| table.map_or(0, |table| table.row_of[s] * d_inner * n_states);
        for d in 0..d_inner {
            let channel = Channel::new(inputs, s, d);
            let mut states = vec![channel.initial.clone()]; // [len + 1, N], h_0 first
            for t in tokens.clone() {
                let mut h = states[t - tokens.start].clone();
                step(&mut h, &channel, inputs, t, d);
                states.push(h);
            }
            // dL/dh_t without what y_t adds; starts as the gradient of the final state.
            let mut carry = vec![T::ZERO; n_states];
            if let Some(d_final) = d_final {
                carry.copy_from_slice(&d_final[(s * d_inner + d) * n_states..][..n_states]);
            }
            for t in tokens.clone().rev() {
                let (i, td) = (t - tokens.start, t * d_inner + d);
                let (h, previous) = (&states[i + 1], &states[i]);
                let (u, delta) = (inputs.u[td], delta(inputs, t, d));

                let mut dy = dout[td];
                if let Some(z) = inputs.z {
                    if grads.dz.is_some() {
                        let y = readout(h, previous, &channel, inputs, t, d);
                        add(&mut grads.dz, td, dout[td] * y * z[td].silu_derivative());
                    }
                    dy *= z[td].silu();
                }
                add(&mut grads.dd_skip, d, dy * u);
                let output_row = inputs.output_offset.map_or(0, |table| table.row_of[s] * d_inner);
                add(&mut grads.doutput_offset, output_row + d, dy);

                let mut du = dy * channel.d_skip;
                let mut ddelta = T::ZERO;
                for n in 0..n_states {
                    let (dn, tn) = (d * n_states + n, t * n_states + n);
                    let (b, c) = (inputs.b[tn], inputs.c[tn]);
                    let offset = channel.state_offset.map_or(T::ZERO, |o| o[n]);
                    let scale = channel.state_scale.map_or(T::ONE, |s| s[n]);
                    add(&mut grads.dc, tn, dy * (scale * h[n] + offset));
                    add(&mut grads.dc_previous, tn, dy * previous[n]);
                    add(&mut grads.dstate_scale, row_start(inputs.state_scale) + dn, dy * h[n] * c);
                    add(&mut grads.dstate_extra, row_start(inputs.state_extra) + dn, dy * h[n]);
                    add(&mut grads.dstate_offset, row_start(inputs.state_offset) + dn, dy * c);

                    let dh = carry[n] + dy * channel.readout(n, c);
                    let decay = (delta * channel.a[n]).exp();
                    let d_exponent = dh * previous[n] * decay;
                    add(&mut grads.da, dn, d_exponent * delta);
                    add(&mut grads.db, tn, dh * delta * u);
                    ddelta += d_exponent * channel.a[n] + dh * u * b;
                    du += dh * delta * b;
                    carry[n] = dh * decay + dy * inputs.c_previous.map_or(T::ZERO, |c| c[tn]);
                }
                if inputs.delta_softplus {
                    ddelta *= raw_delta(inputs, t, d).sigmoid();
                }
                add(&mut grads.du, td, du);
                add(&mut grads.ddelta, td, ddelta);
                add(&mut grads.ddelta_bias, d, ddelta);
            }
            for n in 0..n_states {
                add(&mut grads.dinitial, row_start(inputs.initial) + d * n_states + n, carry[n]);
            }
        }
    }
}
