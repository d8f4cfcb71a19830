//! The numbers in lists are those of the wires, and the service table survives being saved and restored.

use anyhow::{Result, ensure};
use lab::list::{self, Statistics};
use lab::topology::{CLIENT, SERVICE, VIP};
use lab::{Frame, Mode, Wire, process};

use crate::{Scene, play};

fn statistics(scene: &Scene) -> Result<Vec<Statistics>> {
    list::statistics(&scene.director.statistics()?)
}

/// The same at once.
fn shown(scene: &Scene) -> Result<Vec<Statistics>> {
    list::statistics(&scene.director.lbctl("-Ln --stats --exact")?)
}

/// How many of the frames are from the one address to the other, and the bytes of their IP packets.
fn counted(frames: &[Frame], source: &str, destination: &str) -> (u64, u64) {
    let ours =
        |frame: &&Frame| frame.source.to_string() == source && frame.destination.to_string() == destination;
    frames
        .iter()
        .filter(ours)
        .fold((0, 0), |(packets, bytes), frame| (packets + 1, bytes + frame.length as u64))
}

fn one_connection(scene: &mut Scene) -> Result<()> {
    let [first, second] = &scene.lab.servers;
    first.put_random_file("file", 1)?;
    second.put_copy_of(first, "file")?;
    let wire = scene.lab.capture("client")?;
    let curl = format!(
        "curl -sSf --max-time 20 -o /dev/null -w %{{size_header}}+%{{size_download}} http://{VIP}/file"
    );
    let sizes = scene.lab.client.run(&curl)?;
    scene.director.list_at_rest()?;
    let frames = wire.finish()?;
    let payload: usize =
        frames.iter().filter(|frame| frame.source_port == 80).map(|frame| frame.payload).sum();
    let received: usize = sizes.split('+').map(str::parse::<usize>).sum::<Result<_, _>>()?;
    ensure!(payload >= received && received > 1 << 20, "the capture is whole: {payload} of {received} bytes");

    let (in_packets, in_bytes) = counted(&frames, CLIENT, VIP);
    // Replies go past director under direct routing.
    let (out_packets, out_bytes) = match scene.lab.mode {
        Mode::Nat | Mode::FullNat => counted(&frames, VIP, CLIENT),
        Mode::Dr | Mode::Tun => (0, 0),
    };
    let expected = Statistics { connections: 1, in_packets, out_packets, in_bytes, out_bytes };
    let found = statistics(scene)?;
    assert!(
        found.contains(&expected) && found.contains(&Statistics::default()),
        "{found:?}, not {expected:?}"
    );
    let list = scene.director.lbctl("-Ln --stats --exact")?;
    let service = list.lines().find(|line| line.starts_with("TCP")).unwrap_or_default();
    let sum: Vec<_> = service.split_ascii_whitespace().skip(2).map(str::to_owned).collect();
    assert_eq!(
        sum,
        [1, in_packets, out_packets, in_bytes, out_bytes].map(|number| number.to_string()),
        "{list}"
    );

    scene.director.lbctl("-Z")?;
    assert_eq!(shown(scene)?, [Statistics::default(), Statistics::default()], "after -Z");
    scene.lab.client.run(&format!("curl -sSf --max-time 20 http://{VIP}/"))?;
    scene.director.list_at_rest()?;
    let connections: u64 = statistics(scene)?.iter().map(|numbers| numbers.connections).sum();
    assert_eq!(connections, 1, "counting starts again at zero");
    scene.director.lbctl(&format!("-Z -t {SERVICE}"))?;
    assert_eq!(shown(scene)?, [Statistics::default(), Statistics::default()], "after -Z -t");
    Ok(())
}

#[test]
fn the_statistics_of_a_connection_are_those_of_the_wire_under_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, one_connection)
}

#[test]
fn the_statistics_of_a_connection_are_those_of_the_wire_under_direct_routing() -> Result<()> {
    play(Mode::Dr, Wire::AfPacket, one_connection)
}

#[test]
fn a_saved_table_is_restored() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        let rules = "\
-A -t 198.51.100.8:80 -s wlc
-a -t 198.51.100.8:80 -r 192.0.2.9:80 -m -w 3
-a -t 198.51.100.8:80 -r 192.0.2.10:8080 -m -w 0
-A -t 198.51.100.8:443 -s wrr
-a -t 198.51.100.8:443 -r 192.0.2.9:443 -g -w 65535
-A -u 198.51.100.8:53 -s lc
-a -u 198.51.100.8:53 -r 192.0.2.10:53 -m -w 1
-A -u 198.51.100.9:53 -s rr
";
        let file = scene.lab.directory().join("rules");
        std::fs::write(&file, rules)?;
        let restore = || {
            let line = format!("{} -R < {}", lab::director::lbctl_binary()?.display(), file.display());
            let mut shell = std::process::Command::new("sh");
            process::run_command(shell.args(["-c", &line]).env("LBCTL_SOCKET", scene.director.socket()))
        };
        scene.director.lbctl("-C")?;
        restore()?;
        let (saved, listed) = (scene.director.lbctl("-S -n")?, scene.director.lbctl("-Ln")?);
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim_end().to_owned()).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&saved), sorted(rules));
        assert_eq!(listed.lines().count(), 3 + 8, "{listed}");

        std::fs::write(&file, &saved)?;
        scene.director.lbctl("-C")?;
        assert_eq!(scene.director.lbctl("-S -n")?, "");
        restore()?;
        assert_eq!((scene.director.lbctl("-S -n")?, scene.director.lbctl("-Ln")?), (saved, listed));

        scene.director.lbctl("-C")?;
        scene.director.balance_http()?;
        scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/")).map(drop)
    })
}
