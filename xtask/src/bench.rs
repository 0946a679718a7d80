//! `cargo xtask bench`: the registry of benches, their metrics, and the record that is kept of a run.
//!
//! A bench is an example program that prints lines `METRIC:<name>:<value>:<unit>`. `record` writes them down with the
//! machine and the commit, `peers` runs the same step in PyTorch.

mod peers;
mod record;

use anyhow::{Context, bail, ensure};

use crate::command::{UserError, cargo, run_lines, shown};
use crate::{Task, unknown};

/// A bench.
struct Bench {
    name: &'static str,
    package: &'static str,
    example: &'static str,
    /// Whether `benches/peers` has a counterpart.
    peers: bool,
    /// Whether it needs a GPU, and is run only when it is named.
    gpu: bool,
}

const BENCHES: [Bench; 6] = [
    Bench { name: "matmul", package: "statetune-ssm-kernels", example: "matmul_bench", peers: false, gpu: false },
    Bench { name: "scan", package: "statetune-ssm-kernels", example: "scan_bench", peers: false, gpu: false },
    Bench { name: "train", package: "statetune", example: "train_bench", peers: true, gpu: false },
    Bench { name: "decode", package: "statetune-mamba-model", example: "decode_bench", peers: false, gpu: false },
    Bench { name: "methods", package: "statetune", example: "methods_bench", peers: false, gpu: false },
    Bench { name: "cuda", package: "statetune", example: "cuda_bench", peers: false, gpu: true },
];

pub const TASK: Task = Task {
    name: "bench",
    usage: "[matmul|scan|train|decode|methods|cuda] [--peers [--quick]] [--no-record] [-- arguments of the bench], or cuda --from \
            LOG  (keeps what the bench of a bundle printed on another machine)",
    about: "Run one bench, or all, and keep the metrics in benches/runs",
    run: bench,
};

/// Keeps values that another task measured, as a bench's are kept, on a GPU if one is named; returns the record's path.
pub fn keep(
    name: &str,
    typed: &str,
    values: &[(String, f64, &str)],
    gpu: Option<&str>,
) -> anyhow::Result<std::path::PathBuf> {
    let metric = |(name, value, unit): &(String, f64, &str)| Metric {
        name: name.clone(),
        value: *value,
        unit: (*unit).to_owned(),
    };
    record::write(name, typed, &values.iter().map(metric).collect::<Vec<_>>(), gpu)
}

/// A measured value.
#[derive(Debug, Clone, PartialEq)]
struct Metric {
    name: String,
    value: f64,
    unit: String,
}

impl Metric {
    /// The metric on a line that has one.
    ///
    /// # Errors
    /// The line starts like a metric and is none.
    fn parse(line: &str) -> anyhow::Result<Option<Metric>> {
        let Some(rest) = line.strip_prefix("METRIC:") else { return Ok(None) };
        let malformed = || format!("expected `METRIC:<name>:<value>:<unit>`, found `{line}`");
        let parts: Vec<&str> = rest.split(':').collect();
        let [name, value, unit] = parts[..] else { bail!(malformed()) };
        let value: f64 = value.trim().parse().with_context(malformed)?;
        ensure!(value.is_finite(), malformed());
        Ok(Some(Metric { name: name.to_owned(), value, unit: unit.to_owned() }))
    }
}

/// What was typed.
#[derive(Debug, Default, PartialEq)]
struct Options {
    name: Option<String>,
    peers: bool,
    quick: bool,
    no_record: bool,
    from: Option<String>,
    rest: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, UserError> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--peers" => options.peers = true,
                "--quick" => options.quick = true,
                "--no-record" => options.no_record = true,
                "--from" => {
                    let log = arguments.next().ok_or_else(|| UserError("--from names a log".into()))?;
                    options.from = Some(log.clone());
                }
                "--" => options.rest = arguments.by_ref().cloned().collect(),
                flag if flag.starts_with('-') => {
                    return Err(UserError(unknown("option", flag, ["--peers", "--quick", "--no-record", "--from"])));
                }
                name if options.name.is_none() && BENCHES.iter().any(|bench| bench.name == name) => {
                    options.name = Some(name.to_owned());
                }
                name => return Err(UserError(unknown("bench", name, BENCHES.map(|bench| bench.name)))),
            }
        }
        let with_peers = BENCHES.iter().any(|bench| bench.peers && options.name.as_deref() == Some(bench.name));
        if options.peers && !with_peers {
            return Err(UserError("--peers goes with the bench `train`".into()));
        }
        if options.from.is_some() && options.name.is_none() {
            return Err(UserError("--from goes with the name of a bench".into()));
        }
        if options.quick && !options.peers {
            return Err(UserError("--quick shortens the runs of --peers".into()));
        }
        Ok(options)
    }
}

fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    if let (Some(log), Some(name)) = (&options.from, &options.name) {
        let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {log}"))?;
        let metrics = text.lines().filter_map(|line| Metric::parse(line).transpose()).collect::<Result<Vec<_>, _>>()?;
        ensure!(!metrics.is_empty(), "{log} has no `METRIC:` line");
        let gpu = text.lines().find_map(|line| line.strip_prefix("GPU:"));
        let path = record::write(name, "run.sh of `cargo xtask bundle --cuda`", &metrics, gpu)?;
        println!("recorded in {}", path.display());
        return Ok(());
    }
    if options.peers {
        peers::check()?; // before minutes are spent on our own side
    }
    for bench in BENCHES.iter().filter(|bench| options.name.as_deref().map_or(!bench.gpu, |name| name == bench.name)) {
        let mut command = cargo(&["run", "--release", "--package", bench.package, "--example", bench.example]);
        if bench.name == "methods" && crate::test::has_openblas() {
            // PiSSA and OLoRA start from a decomposition.
            command.args(["--features", "lapack"]);
        }
        command.arg("--").args(&options.rest);
        let typed = shown(&command);
        let mut metrics = Vec::new();
        let mut malformed = Ok(());
        run_lines(command, |line| match Metric::parse(line) {
            Ok(metric) => metrics.extend(metric),
            Err(error) => malformed = Err(error),
        })?;
        malformed?;
        ensure!(!metrics.is_empty(), "the bench `{}` printed no `METRIC:` line", bench.name);
        if options.peers {
            peers::compare(&mut metrics, options.quick)?;
        }
        if !options.no_record {
            let path = record::write(bench.name, &typed, &metrics, None)?;
            println!("recorded in {}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_lines() {
        let metric = Metric::parse("METRIC:scan/avx2/1t/forward:0.25:ns/element").unwrap().unwrap();
        assert_eq!(
            (metric.name.as_str(), metric.value, metric.unit.as_str()),
            ("scan/avx2/1t/forward", 0.25, "ns/element")
        );
        assert_eq!(Metric::parse("warming up").unwrap(), None);
        for line in ["METRIC:a:b:c", "METRIC:a:1", "METRIC:a:NaN:s", "METRIC:a:1:s:more"] {
            assert!(Metric::parse(line).unwrap_err().to_string().contains("METRIC:<name>"), "{line}");
        }
    }

    #[test]
    fn options() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("train --peers --quick -- --layers 2").unwrap();
        assert!(options.peers && options.quick && !options.no_record);
        assert_eq!((options.name.as_deref(), options.rest.len()), (Some("train"), 2));
        assert!(parse("trian").unwrap_err().0.contains("did you mean `train`"));
        assert!(parse("train scan").is_err() && parse("--no-recrod").is_err());
        assert_eq!(parse("cuda --from a.log").unwrap().from.as_deref(), Some("a.log"));
        assert!(parse("--from a.log").is_err() && parse("cuda --from").is_err());
        assert!(parse("scan --peers").is_err() && parse("train --quick").is_err());
    }
}
