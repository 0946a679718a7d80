//! The scan, forward and backward, with z, D, bias and softplus, N = 16, activations in bf16.

use statetune::ssm_kernels::random::normal;
use statetune::ssm_kernels::runtime::cuda::{Array, Cuda, CudaError, ElementType, View};
use statetune::ssm_kernels::scan::cuda::{
    ScanGradViews, ScanViews, Strided, TableView, boundaries_len, scan_backward, scan_forward,
};

use super::median;

const N: usize = 16;

/// (B, D, L), and what mamba_ssm 2.3.2 takes on an H200, forward and backward, in milliseconds.
const SHAPES: [(usize, usize, usize, f64, f64); 5] = [
    (4, 1536, 512, 0.0585, 0.2242),
    (4, 1536, 2048, 0.2301, 0.9075),
    (8, 4096, 1024, 0.5622, 2.3044),
    (4, 4096, 2048, 0.5868, 2.3080),
    (1, 4096, 16384, 1.4768, 4.9861),
];

/// A capture of work, to be timed without the time that launching takes.
fn timed(cuda: &Cuda, mut work: impl FnMut() -> Result<(), CudaError>) -> anyhow::Result<f64> {
    work()?;
    let graph = cuda.capture(|| (0..10).try_for_each(|_| work()))?.expect("no plan");
    // As long as clocks take to rise, after the numbers were made on the host.
    let start = std::time::Instant::now();
    while start.elapsed().as_millis() < 200 {
        cuda.time(|| graph.launch())?;
    }
    let mut times = Vec::new();
    for _ in 0..15 {
        times.push(cuda.time(|| graph.launch())? * 1e3 / 10.0);
    }
    Ok(median(times))
}

fn numbers(cuda: &Cuda, act: bool, len: usize, mean: f64, std: f64, stream: u64) -> Result<Array, CudaError> {
    let mut values = vec![0f32; len];
    normal(&mut values, mean, std, 7, stream);
    if !act {
        return cuda.upload(&values);
    }
    cuda.upload(&values.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>())
}

/// Every shape, plain, with a state offset, with an initial state.
pub fn run(cuda: &Cuda) -> anyhow::Result<()> {
    for (b, d, l, their_forward, their_backward) in SHAPES {
        let t = b * l;
        let act = |len, std, stream| numbers(cuda, true, len, 0.0, std, stream);
        let (u, delta, z, dout) = (act(t * d, 1.0, 1)?, act(t * d, 0.5, 2)?, act(t * d, 1.0, 3)?, act(t * d, 1.0, 4)?);
        let (bm, cm) = (act(t * N, 1.0, 5)?, act(t * N, 1.0, 6)?);
        let a: Vec<f32> = (0..d * N).map(|i| -((i % N + 1) as f32)).collect();
        let (a, bias) = (cuda.upload(&a)?, numbers(cuda, false, d, -4.0, 0.5, 7)?);
        let skip = numbers(cuda, false, d, 1.0, 0.1, 8)?;
        let table = numbers(cuda, false, d * N, 0.0, 0.1, 9)?;
        let offsets: Vec<u32> = (0..=b).map(|s| (s * l) as u32).collect();
        let (offsets, rows) = (cuda.upload(&offsets)?, cuda.upload(&vec![0u32; b])?);
        let out = cuda.array(ElementType::Bf16, t * d)?;
        let boundaries = cuda.array(ElementType::F32, boundaries_len(t, b, d, N))?;
        let gradient = |len| cuda.array(ElementType::Bf16, len);
        let (du, ddelta, dz, db, dc) =
            (gradient(t * d)?, gradient(t * d)?, gradient(t * d)?, gradient(t * N)?, gradient(t * N)?);
        let dtable = cuda.array(ElementType::F32, d * N)?;
        let mut plain = [0.0; 2];
        for variant in ["plain", "offset", "initial"] {
            let row = || Some(TableView { values: view_of(&table), row_of: view_of(&rows) });
            let views = ScanViews {
                u: strided(&u, d),
                delta: strided(&delta, d),
                delta_bias: Some(view_of(&bias)),
                delta_softplus: true,
                a: view_of(&a),
                b: strided(&bm, N),
                c: strided(&cm, N),
                d_skip: Some(view_of(&skip)),
                z: Some(strided(&z, d)),
                initial: row().filter(|_| variant == "initial"),
                state_scale: None,
                state_extra: None,
                state_offset: row().filter(|_| variant == "offset"),
                c_previous: None,
                output_offset: None,
                offsets: view_of(&offsets),
                tokens: t,
                d_inner: d,
                d_state: N,
            };
            let forward =
                timed(cuda, || scan_forward(cuda, strided(&out, d), None, Some(view_of(&boundaries)), &views))?;
            let backward = timed(cuda, || {
                let grads = ScanGradViews {
                    du: Some(strided(&du, d)),
                    ddelta: Some(strided(&ddelta, d)),
                    db: Some(strided(&db, N)),
                    dc: Some(strided(&dc, N)),
                    dz: Some(strided(&dz, d)),
                    dinitial: Some(view_of(&dtable)).filter(|_| variant == "initial"),
                    dstate_offset: Some(view_of(&dtable)).filter(|_| variant == "offset"),
                    ..ScanGradViews::default()
                };
                scan_backward(cuda, grads, strided(&dout, d), None, view_of(&boundaries), &views)
            })?;
            let name = format!("cuda/scan/{b}x{d}x{l}/{variant}");
            println!("METRIC:{name}/forward_ms:{forward:.4}:ms");
            println!("METRIC:{name}/backward_ms:{backward:.4}:ms");
            if variant == "plain" {
                plain = [forward, backward];
                // 4.17 T exponentials per second is what an H200 does.
                let floor = (t * d * N) as f64 / 4.17e12 * 1e3;
                println!("METRIC:{name}/forward_share_of_exp_limit:{:.3}:of 1", floor / forward);
                println!("METRIC:{name}/forward_speedup_over_mamba_ssm:{:.2}:x", their_forward / forward);
                println!("METRIC:{name}/backward_speedup_over_mamba_ssm:{:.2}:x", their_backward / backward);
            } else {
                println!("METRIC:{name}/forward_over_plain:{:.3}:x", forward / plain[0]);
                println!("METRIC:{name}/backward_over_plain:{:.3}:x", backward / plain[1]);
            }
        }
    }
    Ok(())
}

fn strided(array: &Array, width: usize) -> Strided<'_> {
    Strided { view: array.view(), stride: width }
}

fn view_of(array: &Array) -> View<'_> {
    array.view()
}
