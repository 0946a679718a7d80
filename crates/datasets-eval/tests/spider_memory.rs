//! Memory of predicted SQL. SQLite's heap limit is one for the process, so this test has a process of its own.

use statetune_datasets_eval::metrics::spider::{OnBadGold, RunFailure, RunLimits, SpiderExample};

#[path = "support/pets.rs"]
mod pets;

use pets::Pets;

/// A table of 200 MB, made before its first row is asked for.
const GREEDY: &str = "WITH RECURSIVE c(x, y) AS (SELECT 1, zeroblob(100000) UNION ALL SELECT x + 1, zeroblob(100000) FROM c LIMIT 2000) \
    SELECT a.x FROM c AS a, c AS b WHERE a.y = b.y ORDER BY a.y, b.y LIMIT 1";
/// One of 4 MB, which has room alone.
const MODEST: &str = "WITH RECURSIVE c(x, y) AS (SELECT 1, zeroblob(100000) UNION ALL SELECT x + 1, zeroblob(100000) FROM c LIMIT 40) \
    SELECT count(*) FROM (SELECT DISTINCT x, y FROM c ORDER BY y DESC, x) WHERE x <= 4";

#[test]
fn greedy_statements_end_and_others_do_not() {
    let pets = Pets::new();
    let evaluator = pets.limited(RunLimits { heap_bytes: 24 << 20, ..RunLimits::default() });
    let gold = "SELECT count(*) FROM Pet";
    let examples: Vec<SpiderExample> = (0..60)
        .map(|i| SpiderExample {
            prediction: [GREEDY, MODEST, gold][i % 3].into(),
            gold: gold.into(),
            db_id: "pets".into(),
            file: "golds.sql".into(),
            line: i + 1,
        })
        .collect();
    for threads in [1, 4] {
        let evaluation = evaluator.evaluate_all(&examples, threads, OnBadGold::Stop).unwrap();
        for (i, record) in evaluation.records.iter().enumerate() {
            let execution = record.execution.as_ref().unwrap();
            let expected = (i % 3 == 0).then_some(RunFailure::Limit("memory"));
            assert_eq!(execution.failure, expected, "example {i}, {threads} threads");
            assert_eq!(execution.strict, i % 3 != 0, "example {i}, {threads} threads");
        }
    }
}
