//! Maximum segment sizes: SYNs are held to what a service has, and then nobody has to be told lengths.

use anyhow::{Context, Result, ensure};
use lab::topology::{SERVICE, VIP};
use lab::{Mode, Wire};

use crate::tunnels::{Dump, lengths, upload_to};
use crate::{Scene, play};

/// What the SYNs in a dump announce, those of clients and those that answer: tcpdump's flags are `[S]` and `[S.]`.
fn announced(dump: &str, flags: &str) -> Vec<u32> {
    let syns = dump.lines().filter(|line| line.contains(&format!("Flags [{flags}],")));
    syns.filter_map(|line| line.split_once("[mss ")?.1.split_once([',', ']'])?.0.parse().ok()).collect()
}

/// The longest segment in a dump, in bytes of data.
fn longest(dump: &str) -> u32 {
    let lengths = dump.lines().filter(|line| line.contains("Flags ["));
    lengths
        .filter_map(|line| line.rsplit_once(", length ")?.1.split([':', ' ']).next()?.parse().ok())
        .max()
        .unwrap_or(0)
}

fn hold(scene: &Scene, mss: &str) -> Result<()> {
    scene.director.lbctl(&format!("service edit tcp:{SERVICE} {mss}")).map(drop)
}

/// An upload and a page, as the client and the first server see their segments.
fn seen_by_both(scene: &Scene) -> Result<[String; 2]> {
    let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
    // Both servers have their turn.
    for _ in 0..2 {
        upload_to(scene, VIP)?;
    }
    let [client, server] = dumps.map(|dump| dump.finish(&scene.lab));
    Ok([client?, server?])
}

#[test]
fn both_sides_are_held_to_it_by_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        for (words, expected) in [("--mss 1000", 1000), ("--mss auto", 1460), ("--no-mss", 1460)] {
            hold(scene, words)?;
            let [client, server] = seen_by_both(scene)?;
            for (dump, flags) in [(&server, "S"), (&client, "S.")] {
                let announced = announced(dump, flags);
                let right = !announced.is_empty() && announced.iter().all(|mss| *mss == expected);
                ensure!(right, "{words}: [{flags}] {announced:?}");
            }
            // What timestamps take of it is the senders' affair.
            let longest = longest(&server);
            ensure!(longest <= expected && longest + 20 >= expected, "{words}: {longest} bytes");
        }
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn clients_of_tunnels_send_what_fits_and_nobody_is_told() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        hold(scene, "--mss auto")?;
        // Their SYNs go past director.
        for server in &scene.lab.servers {
            server.host.ip("route change 198.51.100.0/24 dev eth0 advmss 1440")?;
        }
        let [client, server] = seen_by_both(scene)?;
        let (theirs, answers) = (announced(&server, "S"), announced(&client, "S."));
        ensure!(!theirs.is_empty() && theirs.iter().all(|mss| *mss == 1440), "{theirs:?}:\n{server}");
        ensure!(answers.len() == 2 && answers.iter().all(|mss| *mss == 1440), "{answers:?}");
        ensure!(!client.contains("need to frag"), "the client was told a length");
        let told = lengths(scene).context("counters")?;
        ensure!(told == (0, 0), "told, fragments: {told:?}");
        scene.director.check_counters().map(drop)
    })
}
