//! The benchmark as a program, with numbers so small that its figures say nothing: every part must come to an end and leave
//! what it promises.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The modes of each part. `startup`, `wire`, `loss` and `slices` are not among them: they start the daemon, which is not built
/// for this test.
const PARTS: &[(&str, &[&str])] = &[
    (
        "inprocess",
        &["macswap", "limit", "limit-bare", "dr", "nat-in", "nat-out", "tun", "fullnat-in", "fullnat-out"],
    ),
    ("newconn", &["dr", "nat-in", "fullnat-in"]),
    ("memory", &["dr", "nat-in"]),
    ("workers", &["macswap", "dr", "nat-own", "nat-crossed"]),
    ("silence", &["expire", "fill", "publish", "list"]),
];

fn bench(output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["--quick", "--runs", "1", "--flows", "1000", "--packets", "2000", "--frames", "60"]);
    command.args(["--capacity", "4096", "--expiring", "2048", "--services", "20", "--listed", "500"]);
    command.arg("--output").arg(output);
    command
}

#[test]
fn every_part_leaves_its_figures() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("figures").join("bench.json");
    let names: Vec<_> = PARTS.iter().map(|(part, _)| *part).collect();
    let finished = bench(&output).args(["--parts", &names.join(",")]).output().unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&finished.stdout), String::from_utf8_lossy(&finished.stderr));
    assert!(finished.status.success(), "{errors}\n{out}");

    let list: Value = serde_json::from_str(&fs::read_to_string(&output).unwrap()).unwrap();
    let list = list.as_array().unwrap();
    for &(part, modes) in PARTS {
        for &mode in modes {
            let of_mode = |object: &&Value| object["part"] == part && object["mode"] == mode;
            let objects: Vec<_> = list.iter().filter(of_mode).collect();
            assert!(!objects.is_empty(), "{part} has no figures of {mode}: {out}");
            for object in objects {
                let [value, min, max] = ["value", "min", "max"].map(|key| object[key].as_f64().unwrap());
                assert!(min <= value && value <= max, "{object}");
                for key in ["protocol", "metric", "unit", "commit", "cpu"] {
                    assert!(object[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {object}");
                }
                for key in ["flows", "frame_bytes", "workers", "runs", "tsc_hz"] {
                    assert!(object[key].as_u64().is_some_and(|number| number > 0), "{key}: {object}");
                }
                let metric = object["metric"].as_str().unwrap();
                let words: Vec<_> = metric.split_inclusive('_').collect();
                assert!(words.iter().all(|word| out.contains(word)), "{metric} is not in the table: {out}");
            }
        }
    }
    for scheduler in ["rr", "mh"] {
        let of = |object: &&Value| object["part"] == "newconn" && object["scheduler"] == scheduler;
        assert!(list.iter().any(|object| of(&object)), "no new connections by {scheduler}: {out}");
    }
    let plot = fs::read_to_string(output.with_extension("svg")).unwrap();
    let plot = roxmltree::Document::parse(&plot).unwrap();
    assert!(
        plot.descendants().any(|node| node.text().is_some_and(|text| text.trim() == "nat-out")),
        "the plot has no such mode"
    );
}

#[test]
fn what_cannot_be_measured_is_said_and_has_no_figures() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("bench.json");
    fs::write(output.with_extension("svg"), "of an earlier run").unwrap();
    let missing = directory.path().join("no-such-daemon");
    let mut command = bench(&output);
    let finished =
        command.args(["--parts", "startup,wire,loss,slices", "--director"]).arg(&missing).output().unwrap();
    assert!(!finished.status.success());
    let errors = String::from_utf8_lossy(&finished.stderr);
    for part in ["start-up of the daemon", "on a wire, tcp with 1000 flows", "two workers on a wire"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(errors.contains("no-such-daemon is not there"), "{errors}");
    assert_eq!(fs::read_to_string(&output).unwrap().trim(), "[]");
    assert!(!output.with_extension("svg").exists(), "the plot of an earlier run is left");
}
