//! The persistence engine `sip`: calls stay with their servers, whichever client of a network speaks.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::topology::{CLIENT, SERVERS, VIP};
use lab::{Mode, Wire, wait_until};

use crate::{Scene, play};

const OTHER_CLIENT: &str = "198.51.100.101";
const CALLS: usize = 6;

fn call(scene: &Scene, from: &str, id: &str) -> Result<String> {
    let script = scene.lab.client.directory().join("sip.py");
    let line = format!("/usr/bin/python3 {} call {from} {VIP} {id}", script.display());
    Ok(scene.lab.client.run(&line)?.trim().to_owned())
}

#[test]
fn calls_stay_with_their_servers_by_nat() -> Result<()> {
    play(Mode::Nat, Wire::AfPacket, |scene| {
        scene.lab.client.ip(&format!("address add {OTHER_CLIENT}/24 dev eth0"))?;
        let script = include_str!("sip.py");
        std::fs::write(scene.lab.client.directory().join("sip.py"), script)?;
        let mut running = Vec::new();
        scene.director.lbctl(&format!("-A -u {VIP}:5060 -s rr -p 60 -M 255.255.255.0 --pe sip"))?;
        for (server, address) in scene.lab.servers.iter().zip(SERVERS) {
            let file = server.host.directory().join("sip.py");
            std::fs::write(&file, script)?;
            let name = server.host.name().to_owned();
            let line = format!("/usr/bin/python3 {} serve {name} {address}", file.display());
            running.push(server.host.spawn(&line)?);
            wait_until("the SIP server listens", Duration::from_secs(10), || {
                Ok(server.host.run("ss -lun")?.contains(":5060"))
            })?;
            scene.director.lbctl(&format!("-a -u {VIP}:5060 -r {address}:5060 -m"))?;
        }
        let mut servers = BTreeSet::new();
        for n in 0..CALLS {
            let id = format!("call{n}@{CLIENT}");
            let server = call(scene, CLIENT, &id)?;
            for from in [OTHER_CLIENT, CLIENT, OTHER_CLIENT] {
                let again = call(scene, from, &id)?;
                ensure!(again == server, "{id} went to {server}, and then from {from} to {again}");
            }
            servers.insert(server);
        }
        ensure!(servers.len() == SERVERS.len(), "all calls went to {servers:?}");
        let rows = scene.director.lbctl("-Lnc --persistent-conn")?;
        for n in 0..CALLS {
            let end = format!(" sip                call{n}@{CLIENT}");
            let of_call = rows.lines().filter(|row| row.ends_with(&end) && row.contains(" 198.51.100.0:0 "));
            ensure!(of_call.count() == 1, "{rows}");
        }
        let list = scene.director.lbctl("-Ln")?;
        ensure!(
            list.contains(&format!("UDP  {VIP}:5060 rr persistent 60 mask 255.255.255.0 pe sip\n")),
            "{list}"
        );
        scene.director.check_counters().map(drop)
    })
}
