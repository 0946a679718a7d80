//! Times the scan and the convolution at the shape of mamba-130m: T = 512, D = 1536, N = 16, K = 4.
//!
//! `cargo run --release -p statetune-ssm-kernels --example scan_bench [-- level...]` prints one line per number,
//! `METRIC:<name>:<value>:<unit>`: the median over repeated calls and, as `<name>_min`, the least, per element T·D·N of the scan or T·D of the
//! convolution, at each level this processor has and with one and two threads.

use std::hint::black_box;
use std::time::Instant;

use statetune_ssm_kernels::conv1d::{Conv1dGrads, Conv1dInputs, conv1d_backward, conv1d_forward};
use statetune_ssm_kernels::random::uniform;
use statetune_ssm_kernels::scan::{ScanGrads, ScanInputs, scan_backward, scan_boundaries_len, scan_forward};
use statetune_ssm_kernels::{Cpu, Level, Sequences, Table};

const T: usize = 512;
const D: usize = 1536;
const N: usize = 16;
const K: usize = 4;

/// Numbers uniform in (-1, 1).
fn numbers(len: usize, stream: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    uniform(&mut x, -1.0, 1.0, 1, stream);
    x
}

/// Times `call` for about half a second after one call to warm up and prints the median per `count`, and the least, which
/// other work on the machine disturbs least; both in nanoseconds divided by `count`.
fn report(name: &str, unit: &str, count: f64, mut call: impl FnMut()) {
    call();
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_nanos() as f64 / count);
    }
    times.sort_by(f64::total_cmp);
    println!("METRIC:{name}:{:.4}:{unit}", times[times.len() / 2]);
    println!("METRIC:{name}_min:{:.4}:{unit}", times[0]);
}

fn scan(cpu: &Cpu, at: &str) {
    let [u, delta, z, dout] = [1, 2, 3, 4].map(|stream| numbers(T * D, stream));
    let [b, c] = [5, 6].map(|stream| numbers(T * N, stream));
    let a: Vec<f32> = (0..D * N).map(|i| -((i % N) as f32) - 1.0).collect();
    let [bias, skip] = [7, 8].map(|stream| numbers(D, stream));
    let bias: Vec<f32> = bias.iter().map(|x| x - 3.0).collect(); // Δ around 0.05, as trained models have it
    let offset = numbers(D * N, 9);
    let whole = [0, T];
    let inputs = ScanInputs {
        u: &u,
        delta: &delta,
        delta_bias: Some(&bias),
        delta_softplus: true,
        a: &a,
        b: &b,
        c: &c,
        d_skip: Some(&skip),
        z: Some(&z),
        initial: None,
        state_scale: None,
        state_extra: None,
        state_offset: None,
        c_previous: None,
        output_offset: None,
        sequences: Sequences::new(&whole),
        d_inner: D,
        d_state: N,
    };
    let with_offset = ScanInputs { state_offset: Some(Table { values: &offset, row_of: &[0] }), ..inputs };
    let elements = (T * D * N) as f64;
    let mut out = vec![0.0; T * D];
    let mut boundaries = vec![0.0; scan_boundaries_len(&inputs.sequences, D, N)];
    for (name, inputs) in [("scan_forward", &inputs), ("scan_forward_offset", &with_offset)] {
        report(&format!("{name}_{at}"), "ns/element", elements, || {
            scan_forward(cpu, black_box(&mut out), None, Some(&mut boundaries), inputs);
        });
    }

    let [mut du, mut ddelta, mut dz] = [(); 3].map(|()| vec![0.0; T * D]);
    let [mut db, mut dc] = [(); 2].map(|()| vec![0.0; T * N]);
    let [mut doffset, mut da] = [(); 2].map(|()| vec![0.0; D * N]);
    report(&format!("scan_backward_offset_{at}"), "ns/element", elements, || {
        let grads = ScanGrads {
            du: Some(&mut du),
            ddelta: Some(&mut ddelta),
            db: Some(&mut db),
            dc: Some(&mut dc),
            dz: Some(&mut dz),
            dstate_offset: Some(&mut doffset),
            ..ScanGrads::default()
        };
        scan_backward(cpu, grads, black_box(&dout), None, &boundaries, &with_offset);
    });
    let [mut dskip, mut dbias] = [(); 2].map(|()| vec![0.0; D]);
    report(&format!("scan_backward_full_{at}"), "ns/element", elements, || {
        let grads = ScanGrads {
            du: Some(&mut du),
            ddelta: Some(&mut ddelta),
            ddelta_bias: Some(&mut dbias),
            da: Some(&mut da),
            db: Some(&mut db),
            dc: Some(&mut dc),
            dd_skip: Some(&mut dskip),
            dz: Some(&mut dz),
            ..ScanGrads::default()
        };
        scan_backward(cpu, grads, black_box(&dout), None, &boundaries, &inputs);
    });

    for batch in [1, 16] {
        let starts: Vec<usize> = (0..=batch).collect();
        let rows: Vec<usize> = (0..batch).collect();
        let states = numbers(batch * D * N, 10);
        let step = ScanInputs {
            u: &u[..batch * D],
            delta: &delta[..batch * D],
            b: &b[..batch * N],
            c: &c[..batch * N],
            z: Some(&z[..batch * D]),
            initial: Some(Table { values: &states, row_of: &rows }),
            state_offset: Some(Table { values: &offset, row_of: &rows.iter().map(|_| 0).collect::<Vec<_>>() }),
            sequences: Sequences::new(&starts),
            ..inputs
        };
        let mut next = vec![0.0; batch * D * N];
        report(&format!("scan_step_batch{batch}_{at}"), "us", 1e3, || {
            scan_forward(cpu, black_box(&mut out[..batch * D]), Some(&mut next), None, &step);
        });
    }
}

fn conv(cpu: &Cpu, at: &str) {
    let [x, dy] = [1, 2].map(|stream| numbers(T * D, stream));
    let (weight, bias, whole) = (numbers(D * K, 3), numbers(D, 4), [0, T]);
    let inputs = Conv1dInputs {
        x: &x,
        weight: &weight,
        bias: Some(&bias),
        init: None,
        silu: true,
        sequences: Sequences::new(&whole),
        channels: D,
        width: K,
    };
    let mut y = vec![0.0; T * D];
    let elements = (T * D) as f64;
    report(&format!("conv1d_forward_{at}"), "ns/element", elements, || {
        conv1d_forward(cpu, black_box(&mut y), None, &inputs);
    });
    report(&format!("conv1d_backward_dx_{at}"), "ns/element", elements, || {
        let grads = Conv1dGrads { dx: Some(&mut y), ..Conv1dGrads::default() };
        conv1d_backward(cpu, grads, black_box(&dy), None, &inputs);
    });
    let (mut dweight, mut dbias) = (vec![0.0; D * K], vec![0.0; D]);
    report(&format!("conv1d_backward_full_{at}"), "ns/element", elements, || {
        let grads = Conv1dGrads { dx: Some(&mut y), dweight: Some(&mut dweight), dbias: Some(&mut dbias), dinit: None };
        conv1d_backward(cpu, grads, black_box(&dy), None, &inputs);
    });
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut levels = std::env::args().skip(1).map(|name| name.parse()).collect::<Result<Vec<Level>, _>>()?;
    if levels.is_empty() {
        levels = Level::available();
    }
    for level in levels {
        for threads in [1, 2] {
            let cpu = Cpu::new(level, threads)?;
            let at = format!("{level}_{threads}t");
            scan(&cpu, &at);
            conv(&cpu, &at);
        }
    }
    Ok(())
}
