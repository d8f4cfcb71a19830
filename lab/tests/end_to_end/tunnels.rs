//! LVS/TUN: requests reach nginx through tunnels of every kind, and its answers go past director; long packets find their way
//! by path MTU discovery, or in pieces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{SERVERS, SERVICE, VIP};
use lab::{Lab, Mode, Process, Wire, wait_until};
use rustix::process::Signal;

use crate::{Scene, play};

/// Every kind as `lbctl` takes it, how `lbctl -L --tun-info` shows it, and by how many bytes packets grow.
const KINDS: [(&str, &str, u32); 6] = [
    ("--tun-type ipip", "ipip", 20),
    ("--tun-type gre --tun-nocsum", "gre:-c", 24),
    ("--tun-type gre --tun-csum", "gre:+c", 28),
    ("--tun-type gue --tun-port 6080 --tun-nocsum", "gue:6080:-c", 32),
    ("--tun-type gue --tun-port 6080 --tun-csum", "gue:6080:+c", 32),
    ("--tun-type gue --tun-port 6080 --tun-remcsum", "gue:6080:r+c", 40),
];

/// The address of director from which Linux reaches the servers.
const OUTER_SOURCE: &str = "192.0.2.1";

/// Makes both servers' tunnels of this kind.
fn set_kind(scene: &Scene, kind: &str) -> Result<()> {
    SERVERS.iter().try_for_each(|server| {
        scene.director.lbctl(&format!("-e -t {SERVICE} -r {server}:80 -i {kind} -w 1")).map(drop)
    })
}

/// A tcpdump of everything on a wire, read by tcpdump itself.
pub(crate) struct Dump {
    process: Process,
    file: PathBuf,
}

impl Dump {
    pub(crate) fn start(lab: &Lab, port: &str) -> Result<Self> {
        let file = lab.switch.directory().join(format!("{port}-all.pcap"));
        let line = format!("tcpdump -i {port} -n -B 16384 -U -Z root -w {}", file.display());
        let mut process = lab.switch.spawn(&line)?;
        wait_until(&format!("tcpdump listens on {port}"), Duration::from_secs(10), || {
            ensure!(process.ended()?.is_none(), "tcpdump has ended: {}", process.log_tail());
            Ok(process.log().contains("listening on"))
        })?;
        Ok(Self { process, file })
    }

    /// Where it writes what it sees.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Ends it: every packet as `tcpdump -vv` tells it, which checks all checksums it knows of.
    pub(crate) fn finish(self, lab: &Lab) -> Result<String> {
        self.finish_with(lab, "")
    }

    /// The same with more options for tcpdump.
    pub(crate) fn finish_with(mut self, lab: &Lab, options: &str) -> Result<String> {
        // Packets lie in the kernel's ring for up to a second before tcpdump gets to see them.
        std::thread::sleep(Duration::from_millis(1200));
        self.process.signal(Signal::INT)?;
        self.process.wait(Duration::from_secs(10))?;
        let text = lab.switch.run(&format!("tcpdump -vv -n {options} -r {}", self.file.display()))?;
        let words = ["bad cksum", "[bad ", "(incorrect", "(wrong "];
        // UDP over IPv6 without a checksum is what RFC 6935 lets tunnels have.
        let none = |line: &&str| line.contains("IP6") && line.contains(".6080: [bad udp cksum 0x0000 ->");
        let bad = text.lines().find(|line| words.iter().any(|word| line.contains(word)) && !none(line));
        match bad {
            Some(line) => anyhow::bail!("tcpdump finds a wrong checksum: {line}"),
            None => Ok(text),
        }
    }
}

fn no_complaints(scene: &Scene) -> Result<()> {
    for server in &scene.lab.servers {
        let complaints = server.tunnel_complaints();
        ensure!(complaints.is_empty(), "{}: {complaints:#?}", server.host.name());
    }
    Ok(())
}

/// Nothing was dropped, but for what may be.
fn dropped_only(scene: &Scene, reasons: &[&str]) -> Result<()> {
    let total = scene.director.check_counters()?.total();
    let mut dropped = total.dropped.iter().filter(|(_, count)| **count > 0);
    ensure!(dropped.all(|(name, _)| reasons.contains(&name.as_str())), "{total:?}");
    Ok(())
}

#[test]
fn nginx_answers_through_tunnels_of_every_kind() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        for (kind, shown, _) in KINDS {
            set_kind(scene, kind)?;
            let list = scene.director.lbctl("-Ln --tun-info")?;
            ensure!(list.matches(&format!("Tunnel  {shown:<13} ")).count() == 2, "{shown}:\n{list}");

            let (wan, server) = (Dump::start(&scene.lab, "wan")?, Dump::start(&scene.lab, "r1")?);
            let page = || scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"));
            let pages = (0..10).map(|_| page()).collect::<Result<Vec<_>>>().context(kind)?;
            for address in SERVERS {
                let seen = pages.iter().filter(|page| page.contains(address)).count();
                ensure!(seen == 5, "{kind}: {address} answered {seen} of 10");
            }
            let (wan, server) = (wan.finish(&scene.lab)?, server.finish(&scene.lab)?);
            let sent = |text: &str, from: &str, to: &str| {
                let is_it = |line: &&str| line.trim_start().starts_with(from) && line.contains(to);
                text.lines().filter(is_it).count()
            };
            let (to_server, reply) = (format!(" > {}", SERVERS[0]), format!("{VIP}.80"));
            ensure!(
                sent(&server, OUTER_SOURCE, &to_server) > 0,
                "{kind}: no tunnel leads from {OUTER_SOURCE}"
            );
            ensure!(sent(&server, &reply, " > ") > 0, "{kind}: no reply leaves the server");
            ensure!(sent(&wan, &reply, " > ") == 0, "{kind}: a reply passed director");
            no_complaints(scene).context(kind)?;
        }
        dropped_only(scene, &[])
    })
}

/// A megabyte in a POST, which nginx keeps; checks that it is the same there.
fn upload(scene: &Scene) -> Result<()> {
    upload_to(scene, VIP)
}

pub(crate) fn upload_to(scene: &Scene, host: &str) -> Result<()> {
    upload_megabytes(scene, host, 1)
}

pub(crate) fn upload_megabytes(scene: &Scene, host: &str, megabytes: u32) -> Result<()> {
    let client = &scene.lab.client;
    let file = client.directory().join("upload");
    client.run(&format!("dd if=/dev/urandom of={} bs=1M count={megabytes} status=none", file.display()))?;
    let sum = |path: &std::path::Path| -> Result<String> {
        let said = client.run(&format!("sha256sum {}", path.display()))?;
        Ok(said.split(' ').next().unwrap_or_default().to_owned())
    };
    client
        .run(&format!("curl -sSfg --max-time 60 --data-binary @{} http://{host}/upload", file.display()))?;
    let expected = sum(&file)?;
    for server in &scene.lab.servers {
        for body in server.uploads()? {
            let same = sum(&body)? == expected;
            std::fs::remove_file(&body)?;
            if same {
                return Ok(());
            }
        }
    }
    anyhow::bail!("no server has the upload as it was sent")
}

/// What director has told senders of their packets' length, and what it has fragmented.
pub(crate) fn lengths(scene: &Scene) -> Result<(u64, u64)> {
    let said: serde_json::Value = serde_json::from_str(&scene.director.lbctl("counters --json")?)?;
    let sum = |key: &str| {
        let workers = said.as_array().into_iter().flatten();
        workers.filter_map(|worker| worker[key].as_u64()).sum::<u64>()
    };
    Ok((sum("fragmentation_needed"), sum("fragments")))
}

/// The client's packets are as long as its wire takes and must not be fragmented: it learns of each tunnel what fits.
#[test]
fn a_megabyte_arrives_by_path_mtu_discovery() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        for (kind, _, overhead) in KINDS {
            set_kind(scene, kind)?;
            scene.lab.client.ip("route flush cache")?;
            let (told, _) = lengths(scene)?;
            let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
            upload(scene).context(kind)?;
            let [client, _] = dumps.map(|dump| dump.finish(&scene.lab));
            let needed = format!("unreachable - need to frag (mtu {})", 1500 - overhead);
            ensure!(client?.contains(&needed), "{kind}: the client was not told {needed:?}");
            let (now_told, fragments) = lengths(scene)?;
            ensure!(now_told > told && fragments == 0, "{kind}: {now_told} told, {fragments} fragments");
            no_complaints(scene).context(kind)?;
        }
        dropped_only(scene, &[])
    })
}

/// With pmtu_disc off, as with IPVS, what is too long goes in pieces and nobody is told.
#[test]
fn a_megabyte_arrives_in_pieces_without_path_mtu_discovery() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        scene.director.lbctl("sysctl set pmtu_disc 0")?;
        for (kind, _, _) in KINDS {
            set_kind(scene, kind)?;
            let (_, before) = lengths(scene)?;
            let dump = Dump::start(&scene.lab, "r1")?;
            upload(scene).context(kind)?;
            dump.finish(&scene.lab).context(kind)?;
            let (told, fragments) = lengths(scene)?;
            // A megabyte is more than 700 segments of 1448 bytes; some are shorter, as the client's writes end, and fit whole.
            let fragments = fragments - before;
            ensure!(told == 0 && fragments >= 500, "{kind}: {told} told, {fragments} fragments");
            no_complaints(scene).context(kind)?;
        }
        // A client in haste fills the wire; TCP sends again.
        dropped_only(scene, &["tx_full"])
    })
}

/// The outer source is the one that Linux would send from, and follows when that changes.
#[test]
fn the_outer_source_is_linuxs_choice() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        let interface = scene.lab.ports[0].kernel_interface;
        let source = |scene: &Scene| -> Result<String> {
            let dump = Dump::start(&scene.lab, "wan")?;
            scene.lab.client.run(&format!("curl -sSf --max-time 10 http://{VIP}/"))?;
            let text = dump.finish(&scene.lab)?;
            let line =
                text.lines().find(|line| line.contains(" > 192.0.2.")).context("nothing was tunnelled")?;
            Ok(line.trim_start().split(' ').next().unwrap_or_default().to_owned())
        };
        ensure!(source(scene)? == OUTER_SOURCE, "{}", source(scene)?);
        let linux = &scene.lab.director;
        linux.ip(&format!("address add 192.0.2.77/24 dev {interface}"))?;
        linux.ip(&format!(
            "route replace 192.0.2.0/24 dev {interface} proto kernel scope link src 192.0.2.77"
        ))?;
        wait_until("packets come from the address that the route prefers", Duration::from_secs(10), || {
            Ok(source(scene)? == "192.0.2.77")
        })
    })
}

/// The virtual address, director's own and the servers', for IPv6.
const VIP_V6: &str = "2001:db8:1::8";
const DIRECTOR_V6: &str = "2001:db8:2::1";
const SERVERS_V6: [&str; 2] = ["2001:db8:2::9", "2001:db8:2::10"];

/// Gives everybody in the lab IPv6 addresses, on the same wire as the others.
fn enable_ipv6(scene: &Scene) -> Result<()> {
    let Lab { client, director, servers, ports, .. } = &scene.lab;
    let interface = ports[0].kernel_interface;
    client.enable_ipv6("eth0", &["2001:db8:1::100/64"])?;
    let own = [&format!("{DIRECTOR_V6}/64")[..], "2001:db8:1::1/64", &format!("{VIP_V6}/128")];
    director.enable_ipv6(interface, &own)?;
    for (server, address) in servers.iter().zip(SERVERS_V6) {
        server.host.enable_ipv6("eth0", &[&format!("{address}/64")])?;
        server.host.ip("-6 route add 2001:db8:1::/64 dev eth0")?;
        // On lo Linux does not answer who has it.
        server.host.enable_ipv6("lo", &[&format!("{VIP_V6}/128")])?;
        server.host.enable_ipv6("tun0", &[])?;
    }
    Ok(())
}

/// IPv4 and IPv6, in IPv4 and in IPv6, by every kind: pages, and a megabyte by path MTU discovery.
#[test]
fn both_families_travel_in_both() -> Result<()> {
    play(Mode::Tun, Wire::AfPacket, |scene| {
        enable_ipv6(scene)?;
        let services =
            [(SERVICE.to_owned(), VIP.to_owned()), (format!("[{VIP_V6}]:80"), format!("[{VIP_V6}]"))];
        let servers = [SERVERS.map(str::to_owned), SERVERS_V6.map(|server| format!("[{server}]"))];
        // IPv4 in IPv4 has stories of its own.
        for (inside, over) in [(0, 1), (1, 0), (1, 1)] {
            let (service, host) = &services[inside];
            for (kind, _, _) in KINDS {
                let what = format!("{service} over {:?}, {kind}", servers[over]);
                scene.director.lbctl("-C")?;
                scene.director.lbctl(&format!("-A -t {service} -s rr"))?;
                for server in &servers[over] {
                    scene.director.lbctl(&format!("-a -t {service} -r {server}:80 -i {kind}"))?;
                }
                scene.lab.client.ip("route flush cache")?;
                scene.lab.client.ip("-6 route flush cache")?;
                let dump = Dump::start(&scene.lab, "r1")?;
                for _ in 0..4 {
                    scene
                        .lab
                        .client
                        .run(&format!("curl -sSfg --max-time 10 http://{host}/"))
                        .context(what.clone())?;
                }
                upload_to(scene, host).context(what.clone())?;
                dump.finish(&scene.lab).context(what.clone())?;
                no_complaints(scene).context(what)?;
            }
        }
        // Linux's neighbour may have to be asked for first.
        dropped_only(scene, &["neighbour_timeout"])
    })
}
