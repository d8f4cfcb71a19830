//! Replays every recording in the project, as `make replay` does, and holds what differs against the list of what is known to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Where recordings are, from the workspace's root.
const PLACES: [&str; 4] =
    ["replay/tests/data", "replay/tests/data/sched", "dataplane/tests/data/sched", "control/tests/data"];

/// What is known to differ.
#[derive(Deserialize)]
struct Known {
    /// By the file's name.
    file: BTreeMap<String, Vec<Reason>>,
}

#[derive(Deserialize)]
struct Reason {
    /// Why.
    because: String,
    /// The first lines of the parts that differ. All of the file where there are none.
    #[serde(default)]
    lines: Vec<usize>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Recordings by name. Rules and lists of sysctls are none.
fn recordings() -> BTreeMap<String, PathBuf> {
    let files = PLACES.iter().flat_map(|place| std::fs::read_dir(root().join(place)).unwrap());
    let files =
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "txt"));
    let named = files.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    named.filter(|(name, _)| name != "rules.txt" && name != "sysctl.txt").collect()
}

/// The lines at which parts begin that differ, and what was printed.
fn replay(options: &[&str], file: &Path) -> (BTreeSet<usize>, String, i32) {
    let done = Command::new(env!("CARGO_BIN_EXE_replay")).args(options).arg(file).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    let line = |line: &str| line.strip_prefix("differs: line ")?.split(':').next()?.parse().ok();
    let lines = said.lines().filter_map(line).collect();
    (lines, format!("{}{said}", String::from_utf8(done.stdout).unwrap()), done.status.code().unwrap())
}

#[test]
fn recordings_come_out_as_recorded_but_for_what_is_known() {
    let known: Known = toml::from_str(include_str!("known.toml")).unwrap();
    let recordings = recordings();
    assert!(recordings.len() > 20, "{recordings:?}");
    let mut wrong = Vec::new();
    for (name, path) in &recordings {
        let (differ, text, status) = replay(&[], path);
        assert_eq!(status, i32::from(!differ.is_empty()), "{name}: {text}");
        let reasons = known.file.get(name).map_or(&[][..], Vec::as_slice);
        if reasons.iter().any(|reason| reason.lines.is_empty()) {
            if differ.is_empty() {
                wrong.push(format!("{name} comes out as recorded now: take it out of known.toml"));
            }
            continue;
        }
        let expected: BTreeSet<_> = reasons.iter().flat_map(|reason| &reason.lines).copied().collect();
        if differ != expected {
            let new: Vec<_> = differ.difference(&expected).collect();
            let gone: Vec<_> = expected.difference(&differ).collect();
            let why: Vec<_> = reasons.iter().map(|reason| &reason.because).collect();
            wrong.push(format!(
                "{name}: new differences at {new:?}; take out of known.toml {gone:?} (known: {why:?}); all: {differ:?}"
            ));
        }
    }
    for name in known.file.keys().filter(|name| !recordings.contains_key(*name)) {
        wrong.push(format!("known.toml speaks of {name}, which is not there"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words that ipvsadm takes and prints, also where packets would not be balanced so yet.
#[test]
fn wrong_use_and_lists_come_out_as_recorded() {
    for name in ["errors.txt", "lists.txt", "errors-daemon.txt"] {
        let (differ, text, status) = replay(&["--take-all"], &recordings()[name]);
        assert!(differ.is_empty() && status == 0, "{name}: {text}");
    }
}

/// A recording with something wrong in it does not pass.
#[test]
fn a_wrong_word_is_found() {
    let changes = [
        ("replay/tests/data/lists.txt", "PersistConn", "PersistCons"),
        ("replay/tests/data/states.txt", "CLOSE_WAIT", "CLOSED"),
        ("replay/tests/data/states.txt", "00:57", "00:52"),
        ("dataplane/tests/data/sched/rr.txt", "r3 r2 r1", "r3 r1 r2"),
        ("dataplane/tests/data/sched/hash-sources.txt", "=r1", "=r2"),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (from, right, wrong) in changes {
        let path = root().join(from);
        let (before, ..) = replay(&["--take-all"], &path);
        let text = std::fs::read_to_string(&path).unwrap();
        // Not where it is known to differ anyway: as early as possible.
        let changed = text.replacen(right, wrong, 1);
        let other = directory.path().join("recording.txt");
        std::fs::write(&other, changed).unwrap();
        let (after, text, status) = replay(&["--take-all"], &other);
        assert_eq!(status, 1, "{from}: {text}");
        assert_eq!(after.len(), before.len() + 1, "{from}, {right}: {text}");
        assert!(text.contains(&format!("--- {}", other.display())) && text.contains("\n@@ "), "{text}");
    }
}

/// What is piped into ipvsadm reaches it; other commands are neither run nor looked at.
#[test]
fn pipes_reach_ipvsadm_and_other_commands_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let (file, rules) = (directory.path().join("recording.txt"), directory.path().join("rules.txt"));
    std::fs::write(&rules, "-A -t 198.51.100.1:80 -s rr\n-a -t 198.51.100.1:80 -r 192.0.2.101:80 -m -w 3\n")
        .unwrap();
    let list = "-A -t 198.51.100.1:80 -s rr\n-a -t 198.51.100.1:80 -r 192.0.2.101:80 -m -w 3\n[exit 0]\n";
    let text = format!(
        "# pipes. E: is standard error\n\n$ cat rules.txt | ipvsadm -R\n[exit 0]\n\n$ ipvsadm -S -n\n{list}\n\
         $ touch {0}/made\nanything\n[exit 7]\n\n$ ipvsadm -C\n[exit 0]\n\n$ ipvsadm-restore < rules.txt\n[exit 0]\n\n\
         $ ipvsadm-save -n\n{list}\n$ echo '-D -t 198.51.100.1:80' | ipvsadm -R\n[exit 0]\n\n$ ipvsadm -S\n[exit 0]\n",
        directory.path().display()
    );
    std::fs::write(&file, &text).unwrap();
    let (_, said, status) = replay(&[], &file);
    assert_eq!(status, 0, "{said}");
    assert!(!directory.path().join("made").exists());
    std::fs::write(&file, text.replace("-w 3", "-w 4")).unwrap();
    let (differ, said, _) = replay(&[], &file);
    assert_eq!(differ.len(), 2, "{said}");
}

/// mh orders servers by their ports, which are the service's under direct routing: with the recorded choices go those of one
/// port only. The header's is tried first, also where nobody would come upon it by searching, and is what is shown where none
/// fits.
#[test]
fn a_service_that_the_first_line_names_is_the_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.txt");
    let sources: Vec<_> = (2..60).map(|last| format!("203.0.113.{last}:4000")).collect();
    let play = |service: &str, choices: &[String]| {
        let header = format!("# source address:port -> server for hash schedulers (UDP {service}, DR).");
        let line: Vec<_> = sources.iter().zip(choices).map(|(from, to)| format!("{from}={to}")).collect();
        std::fs::write(&file, format!("{header}\n\n## mh weights (1, 2, 3)\n{}\n", line.join(" "))).unwrap();
        let (_, said, status) = replay(&[], &file);
        let got = said.lines().find_map(|line| line.strip_prefix("+203.")).map(|line| {
            line.split_whitespace().filter_map(|word| Some(word.split_once('=')?.1.to_owned())).collect()
        });
        (got.unwrap_or(choices.to_vec()), status)
    };
    let (choices, status) = play("198.51.100.7:40000", &vec!["r0".to_owned(); sources.len()]);
    assert_eq!(status, 1);
    assert_eq!(play("198.51.100.7:40000", &choices), (choices.clone(), 0));
    let (others, status) = play("198.51.100.7:53", &choices);
    assert_eq!(status, 1);
    assert_ne!(others, choices);
}
