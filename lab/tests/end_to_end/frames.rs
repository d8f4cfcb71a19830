//! Frames of random bytes and truncated ones of every length: named drops, no crash, every one accounted for.

use anyhow::{Context, Result};
use lab::topology::VIP;
use lab::{Mode, Wire};

use crate::play;

fn nonsense(mode: Mode, wire: Wire) -> Result<()> {
    play(mode, wire, |scene| {
        let client = &scene.lab.client;
        let script = client.directory().join("frames.py");
        std::fs::write(&script, include_str!("frames.py"))?;
        let mac = scene.lab.director.run("cat /sys/class/net/wan-veth/address")?;

        let before = scene.director.check_counters()?.total();
        let line = format!("/usr/bin/python3 {} eth0 {} {VIP} 1", script.display(), mac.trim());
        let sent: u64 =
            client.run(&line)?.trim().parse().context("frames.py does not say how many it sent")?;
        assert!(sent > 5000);

        scene.director.check_alive()?;
        let after = scene.director.check_counters()?.total();
        let arrived = after.received - before.received;
        assert!(
            arrived >= sent * 9 / 10,
            "{arrived} of {sent} frames arrived: the rest was lost before director"
        );
        assert!(
            after.dropped.values().sum::<u64>() > before.dropped.values().sum::<u64>(),
            "some were dropped: {after:?}"
        );
        scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
        Ok(())
    })
}

#[test]
fn nonsense_does_no_harm_under_nat() -> Result<()> {
    nonsense(Mode::Nat, Wire::AfPacket)
}

#[test]
fn nonsense_does_no_harm_under_direct_routing_over_xdp() -> Result<()> {
    nonsense(Mode::Dr, Wire::AfXdp)
}
