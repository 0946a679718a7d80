//! Speed of the products and of the fused cross-entropy, per level, as `METRIC:<name>:<value>:<unit>` lines.
//!
//! `cargo run --release -p statetune-ssm-kernels --example matmul_bench [threads]`. The peak is measured on
//! one core in the same run (independent fused multiply-adds in registers) and multiplied by the threads.

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use statetune_ssm_kernels::cross_entropy::linear_cross_entropy;
use statetune_ssm_kernels::matmul::{matmul_nn, matmul_nt, matmul_tn};
use statetune_ssm_kernels::simd::Lanes;
use statetune_ssm_kernels::{Cpu, Level, WeightSlice, dispatch_level};

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |n| n.parse().expect("a number of threads"));
    for level in Level::available().into_iter().filter(|&level| level != Level::Reference) {
        let cpu = Cpu::new(level, threads).expect("a CPU");
        let peak = peak(level) * threads as f64;
        println!("METRIC:matmul/{level}/{threads}t/peak:{peak:.1}:GFLOP/s");
        for (m, n, k) in [
            (512, 3072, 768),
            (512, 768, 1536),
            (512, 80, 1536),
            (512, 1536, 48),
            (64, 3072, 768),
            (32, 3072, 768),
            (1, 3072, 768),
        ] {
            products(&cpu, peak, m, n, k);
        }
        cross_entropy(&cpu, peak);
    }
}

/// Median seconds of a few runs of at least 50 ms together each.
fn seconds(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    let repeats = (0.05 / start.elapsed().as_secs_f64()).ceil().clamp(1.0, 10_000.0) as usize;
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..repeats).for_each(|_| run());
            start.elapsed().as_secs_f64() / repeats as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 1e-3).collect()
}

fn report(cpu: &Cpu, what: &str, seconds: f64, operations: f64, peak: f64) {
    let (level, threads) = (cpu.level(), cpu.threads());
    let speed = operations / seconds * 1e-9;
    println!("METRIC:matmul/{level}/{threads}t/{what}:{speed:.1}:GFLOP/s");
    println!("METRIC:matmul/{level}/{threads}t/{what}/of_peak:{:.0}:%", 100.0 * speed / peak);
}

fn products(cpu: &Cpu, peak: f64, m: usize, n: usize, k: usize) {
    let (x, w, dy) = (values(m * k), values(n * k), values(m * n));
    let narrow: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
    let (mut y, mut dx, mut dw) = (vec![0f32; m * n], vec![0f32; m * k], vec![0f32; n * k]);
    let operations = 2.0 * (m * n * k) as f64;
    for (name, w) in [("f32", WeightSlice::F32(&w)), ("bf16", WeightSlice::Bf16(&narrow))] {
        let time = seconds(|| matmul_nt(cpu, &mut y, &x, w, None, 1.0, m, n, k, false));
        report(cpu, &format!("nt/{name}/{m}x{n}x{k}"), time, operations, peak);
        if m > 1 {
            let time = seconds(|| matmul_nn(cpu, &mut dx, &dy, w, 1.0, m, k, n, false));
            report(cpu, &format!("nn/{name}/{m}x{k}x{n}"), time, operations, peak);
        }
    }
    if m > 64 {
        let time = seconds(|| matmul_tn(cpu, &mut dw, &dy, &x, 1.0, n, k, m, false));
        report(cpu, &format!("tn/f32/{n}x{k}x{m}"), time, operations, peak);
    }
}

fn cross_entropy(cpu: &Cpu, peak: f64) {
    let (rows, vocab, k) = (512, 50_280, 768);
    let (x, w) = (values(rows * k), values(vocab * k));
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 97).collect();
    let (mut losses, mut dx) = (vec![0f32; rows], vec![0f32; rows * k]);
    let time = seconds(|| {
        let dx = Some(&mut dx[..]);
        let w = WeightSlice::F32(&w);
        linear_cross_entropy(cpu, &mut losses, None, dx, None, &x, w, &mut [], &targets, 1.0, rows, vocab, k);
    });
    report(cpu, &format!("cross_entropy/f32/{rows}x{vocab}x{k}"), time, 4.0 * (rows * vocab * k) as f64, peak);
}

/// GFLOP/s of one core in fused multiply-adds on registers.
fn peak(level: Level) -> f64 {
    const ROUNDS: usize = 200_000;
    let mut out = [0f32; 16];
    let time = seconds(|| burn(level, black_box(&mut out)));
    let lanes = if level == Level::Avx512 { 16 } else { 8 };
    assert!(out[0].is_finite());
    2.0 * (ROUNDS * 10 * lanes) as f64 / time * 1e-9
}

fn burn(level: Level, out: &mut [f32]) {
    dispatch_level!(level, multiply_adds(out: &mut [f32]));
}

/// # Safety
/// Runs where the lanes' instructions are enabled.
#[inline(always)]
unsafe fn multiply_adds<L: Lanes>(out: &mut [f32]) {
    // SAFETY: `out` holds sixteen elements, no vector is longer.
    unsafe {
        // Opaque values: known ones would be multiplied by the compiler.
        let (a, b) = (L::splat(black_box(0.999)), L::splat(black_box(1e-3)));
        let mut sums = [L::splat(0.0); 10];
        sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = L::splat(black_box(i as f32)));
        for _ in 0..200_000 {
            for sum in &mut sums {
                *sum = L::fma(*sum, a, b);
            }
        }
        let total = sums.into_iter().reduce(|x, y| L::add(x, y)).expect("ten sums");
        L::store(out.as_mut_ptr(), total);
    }
}
