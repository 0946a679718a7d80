//! The builds of every kernel source that are compiled with NVRTC for each generation of devices, where the library is but
//! no device (`cargo xtask test --nvrtc`).
//!
//! Wrappers choose defines by sizes, types and operands, and all their combinations would be thousands. Here every value of
//! every define comes at least once, and in tests a launch whose values are not among them panics ([`assert_listed`]): what
//! a wrapper begins to ask for has to be listed. Numbers that a source takes as they come (`RANGES`) are listed by their
//! ends.

use std::sync::OnceLock;

use crate::runtime::cuda::{Define, Source};
use crate::{
    adamw, columns, conv1d, cross_entropy, decode, elementwise, embedding, low_rank, norm, random, reduce, scan, values,
};

/// Defines of which any number between the smallest and the largest that are listed may come.
const RANGES: [&str; 6] = ["N", "PER", "COLS", "MOST_RANK", "RING", "SLOTS"];

const BOTH: &[i64] = &[0, 1];

/// One build of a source.
struct Build {
    source: &'static Source,
    defines: Vec<Define>,
}

type Axis<'a> = (&'static str, &'a [i64]);

/// Every combination.
fn all(source: &'static Source, axes: &[Axis]) -> Vec<Build> {
    let mut found: Vec<Vec<Define>> = vec![Vec::new()];
    for (name, numbers) in axes {
        let extended = |before: &Vec<Define>| {
            let with = |&number: &i64| before.iter().copied().chain([(*name, number)]).collect();
            numbers.iter().map(with).collect::<Vec<_>>()
        };
        found = found.iter().flat_map(extended).collect();
    }
    found.into_iter().map(|defines| Build { source, defines }).collect()
}

/// Every value of every define, each define at its own pace: as many builds as the longest list has.
fn in_turn(source: &'static Source, axes: &[Axis]) -> Vec<Build> {
    let builds = axes.iter().map(|(_, numbers)| numbers.len()).max().unwrap_or(0);
    let build = |i: usize| {
        let value = |(shift, &(name, numbers)): (usize, &Axis)| (name, numbers[(i + shift) % numbers.len()]);
        Build { source, defines: axes.iter().enumerate().map(value).collect() }
    };
    (0..builds).map(build).collect()
}

/// The scan's backward with these of its defines on.
fn scan_backward(bf16: i64, warps: i64, on: &[&str]) -> Build {
    let names = [
        "HAS_Z",
        "SOFTPLUS",
        "HAS_STATE_OFFSET",
        "DZ",
        "DC",
        "DB",
        "DU",
        "DDELTA",
        "DBIAS",
        "DSTATE_OFFSET",
        "DA",
        "DINITIAL",
        "EARLY",
    ];
    let known = on.iter().all(|name| *name == "*" || names.contains(name));
    assert!(known, "{on:?}");
    let flags = names.map(|name| (name, i64::from(on.contains(&name) || on == ["*"])));
    let defines = [("ACT_BF16", bf16)].into_iter().chain(flags).chain([("WARPS", warps)]).collect();
    Build { source: &scan::cuda::BACKWARD, defines }
}

fn builds() -> &'static [Build] {
    static BUILDS: OnceLock<Vec<Build>> = OnceLock::new();
    BUILDS.get_or_init(|| {
        let (act, types) = (("ACT_BF16", BOTH), &[0i64, 1, 2]);
        let mut builds = all(&adamw::cuda::SOURCE, &[("ACT_BF16", &[0])]);
        builds.extend(all(&columns::cuda::SOURCE, &[("Y_TYPE", BOTH), ("X_TYPE", BOTH)]));
        let widths = &[1, 2, 3, 4, 5, 6, 7, 8];
        let (silu, vec) = (("SILU", BOTH), ("VEC", &[1i64, 2, 4][..]));
        // The width that models have in both types, the others in turn.
        builds.extend(in_turn(&conv1d::cuda::SOURCE, &[act, ("K", widths), silu, vec, ("SUMS", BOTH)]));
        let usual = [act, ("K", &[4]), ("SILU", &[1]), ("VEC", &[4]), ("SUMS", BOTH)];
        builds.extend(all(&conv1d::cuda::SOURCE, &usual));
        builds.extend(all(&cross_entropy::cuda::SOURCE, &[act, ("GRADIENT", BOTH)]));
        builds.extend(all(&decode::cuda::CHOOSE, &[act, ("WIDTH", &[1])]));
        let (seqs, rows) = (("SEQS", &[1i64, 2, 3, 4][..]), ("ROWS", &[1i64, 4, 2][..]));
        let spread = [("VEC", &[1i64, 4, 8][..]), ("SPLIT", &[1, 2, 4, 8])];
        let slots = ("SLOTS", &[1i64, 8, 3][..]);
        let cols = ("COLS", &[1i64, 768, 1536, 2048, 33, 1024, 515, 2560][..]);
        builds.extend(in_turn(
            &decode::cuda::PROJECT,
            &[
                act,
                seqs,
                cols,
                spread[0],
                spread[1],
                rows,
                slots,
                ("NORM", BOTH),
                ("WIDTH", widths),
                ("EARLY", &[0, 1, 0]),
            ],
        ));
        // The widest vector.
        builds.extend(all(
            &decode::cuda::PROJECT,
            &[
                ("ACT_BF16", &[1]),
                ("SEQS", &[1]),
                ("COLS", &[22_528]),
                ("VEC", &[8]),
                ("SPLIT", &[8]),
                ("ROWS", &[1]),
                ("SLOTS", &[1]),
                ("NORM", BOTH),
                ("WIDTH", &[4]),
                ("EARLY", &[0]),
            ],
        ));
        let norm_cols = ("COLS", &[1i64, 768, 8192, 2048][..]);
        let (norm_vec, threads) = (("VEC", &[1i64, 4, 1][..]), ("THREADS", &[32i64, 256, 512, 64, 128][..]));
        let norm_parts = ("PARTS", &[0i64, 2, 3, 4, 0][..]);
        builds.extend(in_turn(&decode::cuda::NORM, &[act, norm_cols, norm_parts, norm_vec, threads, ("WIDTH", &[1])]));
        // As their wrappers lay products out, and the widths of convolutions in turn.
        let wide: [[i64; 3]; 8] =
            [[8, 1, 1], [768, 1, 9], [2048, 2, 9], [10_240, 3, 9], [4096, 4, 9], [1536, 4, 6], [40, 2, 1], [384, 2, 3]];
        builds.extend(wide.iter().zip(widths).map(|(&[cols, parts, slots], &width)| Build {
            source: &decode::cuda::WIDE,
            defines: vec![("ACT_BF16", 1), ("COLS", cols), ("PARTS", parts), ("SLOTS", slots), ("WIDTH", width)],
        }));
        let many: [[i64; 7]; 8] = [
            [8, 1, 1, 8, 1, 1, 1],
            [1536, 1, 1, 8, 2, 3, 3],
            [4096, 1, 1, 16, 2, 4, 4],
            [10_240, 1, 1, 16, 2, 4, 5],
            [128, 4, 2, 4, 1, 1, 1],
            [384, 2, 2, 8, 1, 2, 2],
            [768, 4, 2, 8, 1, 3, 3],
            [1032, 1, 1, 8, 2, 3, 12],
        ];
        builds.extend(many.iter().zip(widths).map(|(&[cols, tiles, tall, split, unit, ring, slots], &width)| {
            let layout = [("COLS", cols), ("TILES", tiles), ("TALL", tall), ("SPLIT", split), ("UNIT", unit)];
            let defines = [("ACT_BF16", 1)].into_iter().chain(layout);
            let defines = defines.chain([("RING", ring), ("SLOTS", slots), ("WIDTH", width)]).collect();
            Build { source: &decode::cuda::MANY, defines }
        }));
        builds.extend(in_turn(
            &decode::cuda::STATE,
            &[
                act,
                ("SOFTPLUS", &[1]),
                ("N", &[1, 16, 16, 5, 24, 256, 100, 8]),
                ("LOW_RANK", BOTH),
                ("WIDTH", widths),
                ("VEC", &[1, 4]),
                ("MAPS", &[1, 4, 1]),
                ("RANKS", &[1, 4, 8]),
                ("MOST_RANK", &[64, 0, 128, 512]),
                ("EACH", &[1, 2, 1]),
            ],
        ));
        let ops = &[0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21];
        for i in 0..3 {
            // Each function with each type, as what is written and as what is read.
            let (y, a) = (&types[i..=i], &types[2 - i..=2 - i]);
            builds.extend(all(&elementwise::cuda::SOURCE, &[("OP", ops), ("Y_TYPE", y), ("A_TYPE", a), ("B_TYPE", a)]));
        }
        builds.extend(all(&embedding::cuda::SOURCE, &[("Y_TYPE", BOTH), ("W_TYPE", types)]));
        builds.extend(all(
            &low_rank::cuda::SOURCE,
            &[
                ("ACT_BF16", &[1]),
                ("TILES", &[1, 2, 3, 4]),
                ("WHOLE", &[1]),
                ("COPIES", &[0]),
                ("COLUMNS", &[32]),
                ("THREADS", &[256, 512]),
            ],
        ));
        builds.extend(in_turn(
            &low_rank::cuda::SOURCE,
            &[
                ("ACT_BF16", &[1]),
                ("TILES", &[1, 2, 3, 4]),
                ("WHOLE", &[0, 1]),
                ("COPIES", &[1, 1, 0]),
                ("COLUMNS", &[16]),
                ("THREADS", &[256, 512]),
            ],
        ));
        let norm = &norm::cuda::SOURCE;
        let sizes = [(1, 1, 1), (1, 4, 8), (2, 1, 5), (4, 4, 8), (8, 4, 5), (16, 1, 8), (32, 4, 16), (32, 1, 64)];
        for (warps, vec, per) in sizes {
            builds.extend(all(norm, &[act, ("WARPS", &[warps]), ("VEC", &[vec]), ("PER", &[per])]));
        }
        builds.extend(all(&random::cuda::SOURCE, &[act]));
        builds.extend(all(&reduce::cuda::SOURCE, &[act]));
        for (i, way) in scan::cuda::WAYS.iter().enumerate() {
            let laid_out = way.defines().map(|(name, number)| (name, [number]));
            let layout = laid_out.each_ref().map(|(name, number)| (*name, &number[..]));
            let built = |bf16: &[i64], copy: i64, z: &[i64], softplus: i64, offset: &[i64]| {
                let (copy, softplus) = ([copy], [softplus]);
                let flags = [("HAS_Z", z), ("SOFTPLUS", &softplus[..]), ("HAS_STATE_OFFSET", offset)];
                let axes = [&[("ACT_BF16", bf16)][..], &layout, &[("COPY", &copy[..])], &flags].concat();
                all(&scan::cuda::FORWARD, &axes)
            };
            builds.extend(built(BOTH, 16, BOTH, 1, BOTH));
            // Rows that do not begin at whole sixteens of bytes.
            builds.extend(built(&[0], 8, BOTH, 1, &[0]));
            builds.extend(built(&[1], 4, BOTH, 1, &[0]));
            if i % 2 == 0 {
                builds.extend(built(BOTH, 16, &[0], 0, BOTH));
            }
        }
        builds.extend([(0, 2), (1, 2), (0, 4), (1, 4)].map(|(bf16, warps)| scan_backward(bf16, warps, &["*"])));
        let parts: [&[&str]; 9] = [
            &[],
            &["HAS_Z", "DZ"],
            &["HAS_Z", "SOFTPLUS", "DC"],
            &["SOFTPLUS", "HAS_STATE_OFFSET", "DB"],
            &["HAS_STATE_OFFSET", "DSTATE_OFFSET"],
            &["SOFTPLUS", "DDELTA"],
            &["HAS_Z", "SOFTPLUS", "DBIAS", "DU"],
            &["SOFTPLUS", "DA"],
            &["HAS_Z", "HAS_STATE_OFFSET", "DINITIAL"],
        ];
        builds.extend(parts.iter().enumerate().map(|(i, on)| scan_backward(i as i64 % 2, 4, on)));
        builds.extend(in_turn(&scan::cuda::GENERAL, &[act, ("N", &[1, 8, 16, 100, 256]), ("SOFTPLUS", BOTH)]));
        builds.extend(all(&scan::cuda::SUMS, &[act]));
        builds.extend(all(&scan::cuda_tests::POLYNOMIAL, &[("ACT_BF16", &[1])]));
        builds.extend(all(&values::cuda::SOURCE, &[("Y_TYPE", types), ("X_TYPE", types)]));
        builds
    })
}

/// The first define whose value no build of the source with the same defines has.
fn unlisted(source: &Source, defines: &[Define]) -> Option<Define> {
    let names = |defines: &[Define]| defines.iter().map(|define| define.0).collect::<Vec<_>>();
    let alike = |build: &&Build| build.source.name == source.name && names(&build.defines) == names(defines);
    let builds: Vec<&Build> = builds().iter().filter(alike).collect();
    let is_listed = |&(i, &(name, number)): &(usize, &Define)| {
        let listed = builds.iter().map(|build| build.defines[i].1);
        match RANGES.contains(&name) {
            true => listed.clone().min() <= Some(number) && Some(number) <= listed.max(),
            false => listed.into_iter().any(|one| one == number),
        }
    };
    defines.iter().enumerate().find(|define| !is_listed(define)).map(|(_, define)| *define)
}

/// A launch in a test is of values that are compiled for all devices.
///
/// # Panics
/// When one is not: it would be compiled for some device on a user's machine for the first time.
#[track_caller]
pub(crate) fn assert_listed(source: &Source, defines: &[Define]) {
    if let Some((name, number)) = unlisted(source, defines) {
        panic!("`{}` is launched with {defines:?}: add a build with {name}={number} to builds.rs", source.name);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::runtime::cuda::{compile_for, nvrtc_version};

    /// The first devices that are supported, and those that this is made for.
    const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

    /// The names of a source's entries.
    fn entries(text: &str) -> Vec<&str> {
        text.split("__global__").skip(1).map(entry).collect()
    }

    /// The word before the bracket that opens the parameters.
    fn entry(signature: &str) -> &str {
        let after_bounds = match signature.split_once("__launch_bounds__(") {
            Some((before, rest)) if !before.contains('(') => rest.split_once(')').expect("the bounds end").1,
            _ => signature,
        };
        let (head, _) = after_bounds.split_once('(').expect("parameters");
        head.split_whitespace().next_back().expect("a name")
    }

    fn source_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                source_files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "cu") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_source_file_has_a_build() {
        let mut files = Vec::new();
        source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        assert!(files.len() >= 15, "{files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let built = builds().iter().any(|build| build.source.text.contains(&text));
            assert!(built, "{} is compiled in no build of builds.rs", file.display());
        }
    }

    /// The compiler may load what it is told nobody writes before the kernel waits for who does (decode/chain.cuh).
    #[test]
    fn chained_sources_do_not_promise_that_memory_stays() {
        let chained: Vec<&Build> = builds().iter().filter(|build| build.source.chained).collect();
        assert!(!chained.is_empty());
        for build in chained {
            let promises = ["* __restrict__", "*__restrict__", "__ldg", "ld.global.nc"];
            let found = promises.iter().find(|promise| build.source.text.contains(**promise));
            assert_eq!(found, None, "{}", build.source.name);
        }
    }

    /// Likewise what `scan_carries` leaves to `scan_backward`, which begins before that ends; all else stays indeed.
    #[test]
    fn the_scans_backward_does_not_promise_that_carries_stay() {
        let text = scan::cuda::BACKWARD.text;
        let (_, signature) = text.split_once("scan_backward(\n").expect("the kernel");
        let (signature, body) = signature.split_once(") {").expect("its parameters");
        let (before, _) = body.split_once("await_previous()").expect("a wait");
        let before = before.replace("scan_carries", "");
        for name in ["carries", "step_sums"] {
            assert!(signature.contains(&format!("const float *{name},")), "{name} in {signature}");
            assert!(!before.contains(name), "{name} is read before the wait");
        }
    }

    #[test]
    fn a_value_that_is_not_listed_is_found() {
        let sums = &scan::cuda::SUMS;
        assert_eq!(unlisted(sums, &[("ACT_BF16", 1)]), None);
        assert_eq!(unlisted(sums, &[("ACT_BF16", 2)]), Some(("ACT_BF16", 2)));
        assert!(unlisted(sums, &[("ACT_BF16", 1), ("MORE", 1)]).is_some(), "another define");
        let general = |n| unlisted(&scan::cuda::GENERAL, &[("ACT_BF16", 0), ("N", n), ("SOFTPLUS", 0)]);
        assert_eq!(general(7), None);
        assert_eq!(general(257), Some(("N", 257)));
        assert!(unlisted(&Source::new("new", ""), &[("N", 1)]).is_some(), "another source");
    }

    /// With the real compiler: a machine code of each build for each generation, with every entry in it.
    #[test]
    fn nvrtc_compiles_every_kernel_for_every_architecture() {
        let version = nvrtc_version().expect("tests named nvrtc_... need the library");
        let jobs: Vec<(&Build, &str)> =
            builds().iter().flat_map(|build| ARCHITECTURES.map(|architecture| (build, architecture))).collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((build, architecture)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let what = format!("{} {:?} for {architecture}", build.source.name, build.defines);
                        let image = compile_for(build.source, architecture, &build.defines)
                            .unwrap_or_else(|error| panic!("{what}: {error}"));
                        // ELF of machine 190: not what an emulator of the compiler makes.
                        let machine = image.get(18..20).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
                        assert!(image.starts_with(b"\x7fELF") && machine == Some(190), "{what}: no code of a GPU");
                        for entry in entries(build.source.text) {
                            let there = image.windows(entry.len()).any(|bytes| bytes == entry.as_bytes());
                            assert!(there, "{what}: no entry `{entry}` in it");
                        }
                    }
                });
            }
        });
        println!("{} builds for each of {ARCHITECTURES:?} by NVRTC {version:?}", builds().len());
    }
}
