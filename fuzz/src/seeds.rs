//! What fuzzing begins with: packets that scapy made, commands that were recorded, the documents' requests and configuration
//! files.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use dataplane::forward::tunnel::unwrap;
use dataplane::parse::IcmpError;
use dataplane::wire::memory::MemoryFrame;
use serde_json::Value;

use crate::frames::{Record, input, talk};

/// So many commands are a seed.
const COMMANDS: usize = 8;

/// The seeds of a target, from the files of the project that this was compiled in.
///
/// # Errors
/// Where they cannot be read, and for a target there is none of.
pub fn seeds(target: &str) -> Result<Vec<Vec<u8>>> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no project")?;
    let texts = |texts: Vec<String>| Ok(texts.into_iter().map(String::into_bytes).collect());
    match target {
        "parse" => Ok(frames(project)?.iter().map(|frame| [&[255, 255][..], frame].concat()).collect()),
        "tunnel" | "across" => {
            let frames = frames(project)?;
            let kinds = (0..=u8::MAX).cycle();
            Ok(frames
                .iter()
                .zip(kinds)
                .map(|(frame, kind)| [vec![kind], input(0, &story(frame))].concat())
                .collect())
        }
        "local" => {
            let talks = [8080, 80].map(talk);
            let talks = talks.iter().flat_map(|talk| (0..4).map(|how| [&[how][..], talk].concat()));
            let frames = frames(project)?;
            let stories = frames.iter().zip((0..4).cycle());
            let stories = stories.map(|(frame, how)| [vec![how], input(0, &story(frame))].concat());
            Ok(talks.chain(stories).collect())
        }
        "icmp" => Ok(errors(&frames(project)?)),
        // Each alone, and those that belong together one after the other.
        "snat" => {
            let together = vectors(&project.join("dataplane/tests/scapy/snat.txt"))?;
            let alone = frames(project)?.into_iter().map(|frame| input(0, &story(&frame)));
            let records: Vec<_> = together.into_iter().map(|frame| (Record::Raw, frame)).collect();
            Ok(alone.chain([input(0, &records)]).collect())
        }
        "commands" => {
            texts(commands(project)?.chunks(COMMANDS).map(|commands| commands.join("\n")).collect())
        }
        "requests" => texts(requests(project)?),
        "configuration" => {
            let files = ["README.md", "docs/configuration.md"].map(|file| fenced(project, file, "toml"));
            texts(files.into_iter().collect::<Result<Vec<_>>>()?.concat())
        }
        _ => Ok(frames(project)?.iter().map(|frame| input(0, &story(frame))).collect()),
    }
}

/// A client's connection that is opened by the same client as the frame's, and then the frame, again, and again later.
fn story(frame: &[u8]) -> Vec<(Record, Vec<u8>)> {
    let mut syn = frame.to_vec();
    if syn.get(12..14) == Some(&[8, 0]) && syn.get(23) == Some(&6) && syn.len() > 47 {
        syn[47] = 2;
    }
    vec![
        (Record::Summed, syn),
        (Record::Raw, frame.to_vec()),
        (Record::Wait, vec![0; 70]),
        (Record::Twice, frame.to_vec()),
    ]
}

/// The errors among these frames, as the target `icmp` takes them: each for every method, to each side, and between families. And what tunnels have made, as
/// something that does not fit.
fn errors(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut errors = Vec::new();
    for frame in frames {
        if unwrap(&frame[14..]).is_some() {
            let (head, quote) = ([[2, 3, 4], [6, 2, 0]][usize::from(frame[12] == 0x86)], &frame[14..]);
            errors.extend(
                [0, 1].map(|how| [&[head[0] + how][..], &head[1..], &[0, 0, 4, 200], quote].concat()),
            );
        }
        let Some(error) = IcmpError::in_frame(&MemoryFrame::new(frame)) else { continue };
        let message = &frame[14 + error.message..14 + error.length];
        let family = if error.is_ipv4 { 0 } else { 4 };
        let all = (0..16_u8).chain([16, 20, 24, 28]);
        errors.extend(all.filter(|how| how & 4 == family).map(|how| {
            let head = [how, error.kind, error.code];
            [&head[..], &message[4..]].concat()
        }));
    }
    errors
}

/// Every packet of the vectors that the packet formats are tested with, in a frame.
fn frames(project: &Path) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    for file in fs::read_dir(project.join("dataplane/tests/scapy"))? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "txt") {
            frames.extend(vectors(&file)?);
        }
    }
    frames.sort();
    frames.dedup();
    Ok(frames)
}

/// Those of one file, in its order.
fn vectors(file: &Path) -> Result<Vec<Vec<u8>>> {
    const TO_DIRECTOR: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let mut frames = Vec::new();
    for line in fs::read_to_string(file)?.lines().filter(|line| !line.starts_with('#')) {
        for packet in line.split_whitespace().skip(1).filter_map(bytes) {
            match packet.first() {
                Some(2) => frames.push(packet),
                Some(0x45..=0x4f) => frames.push([&TO_DIRECTOR[..], &[8, 0], &packet].concat()),
                Some(0x60..=0x6f) => frames.push([&TO_DIRECTOR[..], &[0x86, 0xdd], &packet].concat()),
                _ => {}
            }
        }
    }
    Ok(frames)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// The commands of recorded transcripts, without the program's name.
fn commands(project: &Path) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    for file in [
        "replay/tests/data/errors.txt",
        "replay/tests/data/lists.txt",
        "control/tests/data/errors-daemon.txt",
    ] {
        let text = fs::read_to_string(project.join(file))?;
        commands.extend(text.lines().filter_map(|line| line.strip_prefix("$ ipvsadm ")).map(str::to_owned));
    }
    Ok(commands)
}

/// The requests that the protocol is described with.
fn requests(project: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(project.join("docs/protocol.md"))?;
    let lines = text.lines().filter_map(|line| line.split('\'').nth(1));
    let requests = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(requests.filter_map(|line| line.get("request").map(Value::to_string)).collect())
}

/// What is between fences of this kind in a document.
fn fenced(project: &Path, document: &str, kind: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(project.join(document))?;
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == format!("```{kind}") {
            let mut block = String::new();
            for line in lines.by_ref().take_while(|line| line.trim() != "```") {
                writeln!(block, "{line}")?;
            }
            found.push(block);
        }
    }
    Ok(found)
}
