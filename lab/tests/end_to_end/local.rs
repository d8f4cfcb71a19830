//! Real servers on director's own host: its nginx behind the virtual address, by every method that leads there.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::process::{self, Process};
use lab::server::nginx;
use lab::topology::{CLIENT, SERVERS, SERVICE, VIP};
use lab::{Director, Lab, Mode, Wire, ipv6, wait_until};

use crate::Scene;
use crate::udp::wrong_checksums;

/// Director's address on the servers' side, where its own server is one of them.
const OWN: &str = "192.0.2.1";
const OWN6: &str = "2001:db8:2::1";

/// A lab with a director that has no services yet, and an nginx on its host.
fn scene(wire: Wire) -> Result<(Scene, Process)> {
    let mut lab = Lab::new(Mode::Nat)?;
    ipv6::add(&mut lab)?;
    let director = Director::start(&lab, wire)?;
    let nginx = nginx(&lab.director, OWN)?;
    let scene = Scene { director, lab };
    wait_until("nginx answers on director's host", Duration::from_secs(10), || {
        Ok(scene.lab.director.try_run(&format!("curl -sf --max-time 5 http://{OWN}/"))?.status.success())
    })?;
    Ok((scene, nginx))
}

/// How often each page came.
fn ask(scene: &Scene, url: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut pages = BTreeMap::new();
    for _ in 0..times {
        let page = scene.lab.client.run(&format!("curl -gsSf --max-time 10 {url}"))?;
        *pages.entry(page.trim().to_owned()).or_default() += 1;
    }
    Ok(pages)
}

fn download(scene: &Scene, url: &str) -> Result<()> {
    let source = scene.lab.director.directory().join("pages/file");
    process::run("sh", ["-c", &format!("head -c 20M /dev/urandom > {}", source.display())])?;
    let got = scene.lab.client.directory().join("got");
    scene.lab.client.run(&format!("curl -gsSf --max-time 60 -o {} {url}file", got.display()))?;
    ensure!(fs::read(source)? == fs::read(got)?, "the file has changed on its way");
    Ok(())
}

#[test]
fn by_nat_director_itself_takes_its_share() -> Result<()> {
    let (scene, _nginx) = scene(Wire::AfPacket)?;
    scene.play(|scene| {
        let services = [
            (
                format!("-t {SERVICE}"),
                format!("http://{VIP}/"),
                format!("{}:80", SERVERS[0]),
                format!("{OWN}:80"),
                CLIENT,
            ),
            (
                format!("-t {}", ipv6::SERVICE),
                format!("http://[{}]/", ipv6::VIP),
                format!("[{}]:80", ipv6::SERVERS[0]),
                format!("[{OWN6}]:80"),
                ipv6::CLIENT,
            ),
        ];
        for (service, url, other, own, client) in services {
            scene.director.lbctl(&format!("-A {service} -s rr"))?;
            for server in [&other, &own] {
                scene.director.lbctl(&format!("-a {service} -r {server} -m"))?;
            }
            let pages = ask(scene, &url, 20)?;
            ensure!(pages.len() == 2 && pages.values().all(|times| *times == 10), "{url}: {pages:?}");
            ensure!(pages.contains_key(&format!("this is director at {OWN}")), "{pages:?}");
            let log = fs::read_to_string(scene.lab.director.directory().join("access.log"))?;
            let seen = log.lines().filter(|line| line.starts_with(&format!("{client} "))).count();
            ensure!(seen == 10, "the server knows its clients: {log}");

            let list = scene.director.list_at_rest()?;
            let row = format!("  -> {own:<28} Masq    1      0          10        ");
            ensure!(list.lines().any(|line| line == row), "{list}");
            scene.director.lbctl(&format!("-d {service} -r {other}"))?;
            download(scene, &url)?;
            let statistics = scene.director.statistics()?;
            let row = statistics.lines().find(|line| line.contains(&own)).unwrap_or_default();
            let counts: Vec<u64> = row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            ensure!(counts.len() == 5 && counts[0] == 11 && counts[4] > 20_000_000, "{statistics}");
        }
        // A port of its own, which nobody listens on at the virtual address.
        scene.director.lbctl(&format!("-A -t {VIP}:8000 -s rr"))?;
        scene.director.lbctl(&format!("-a -t {VIP}:8000 -r {OWN}:80 -m"))?;
        ask(scene, &format!("http://{VIP}:8000/"), 3)?;
        // One that nobody listens on at the server: its reset, or ICMP error, reaches the client as the virtual address's.
        scene.director.lbctl(&format!("-A -t {VIP}:8001 -s rr"))?;
        scene.director.lbctl(&format!("-a -t {VIP}:8001 -r {OWN}:9 -m"))?;
        let refused = scene.lab.client.try_run(&format!("curl -sS --max-time 5 http://{VIP}:8001/"))?;
        ensure!(refused.status.code() == Some(7), "{refused:?}");
        scene.director.check_counters().map(drop)
    })
}

/// `local.py echo ADDRESS PORT`: sends each datagram back.
/// `local.py ask ADDRESS PORT REFUSING`: datagrams of many lengths come back as they were, and the other port is closed.
const PEERS: &str = r#"
import socket, sys
name = (sys.argv[2], int(sys.argv[3]))
peer = socket.socket(socket.AF_INET6 if ":" in name[0] else socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[1] == "echo":
    peer.bind(name)
    while True:
        data, client = peer.recvfrom(65536)
        peer.sendto(data, client)
peer.settimeout(5)
peer.connect(name)
for length in (1, 1452, 1472, 1473, 4000, 30000):
    data = bytes(n * 31 % 251 for n in range(length))
    peer.send(data)
    assert peer.recv(65536) == data, length
closed = socket.socket(peer.family, socket.SOCK_DGRAM)
closed.settimeout(5)
closed.connect((name[0], int(sys.argv[4])))
closed.send(b"is there anybody?")
try:
    closed.recv(100)
except ConnectionRefusedError:
    print("refused")
"#;

/// In one packet, in fragments, and to nobody. Over XDP sockets: a packet socket gets no fragments.
#[test]
fn by_nat_directors_own_server_speaks_udp() -> Result<()> {
    let (scene, _nginx) = scene(Wire::AfXdp)?;
    scene.play(|scene| {
        let script = scene.lab.directory().join("local.py");
        fs::write(&script, PEERS)?;
        let python = format!("/usr/bin/python3 {}", script.display());
        let ends = [(VIP.to_owned(), OWN), (format!("[{}]", ipv6::VIP), OWN6)];
        for (vip, own) in ends {
            let server = if own.contains(':') { format!("[{own}]") } else { own.to_owned() };
            let _echo = scene.lab.director.spawn(&format!("{python} echo {own} 7000"))?;
            std::thread::sleep(Duration::from_millis(500));
            for (port, behind) in [(7, 7000), (9, 7009)] {
                scene.director.lbctl(&format!("-A -u {vip}:{port} -s rr"))?;
                scene.director.lbctl(&format!("-a -u {vip}:{port} -r {server}:{behind} -m"))?;
            }
            let vip = vip.trim_matches(['[', ']']);
            let said = scene.lab.client.run(&format!("{python} ask {vip} 7 9"))?;
            ensure!(said == "refused\n", "{said}");
        }
        ensure!(wrong_checksums(&scene.lab.client)? == 0 && wrong_checksums(&scene.lab.director)? == 0);
        scene.director.check_counters().map(drop)
    })
}

/// The virtual address is Linux's, and so is what comes to it.
#[test]
fn by_other_methods_the_virtual_address_itself_answers() -> Result<()> {
    let (scene, _nginx) = scene(Wire::AfPacket)?;
    scene.play(|scene| {
        scene.director.lbctl(&format!("-A -t {SERVICE} -s rr"))?;
        scene.director.lbctl(&format!("-A -t {} -s rr", ipv6::SERVICE))?;
        let service = format!("tcp:{SERVICE}");
        let ways = [
            (format!("-a -t {SERVICE} -r {OWN}:80 -g"), "Route"),
            (format!("-e -t {SERVICE} -r {OWN}:80 -i"), "Tunnel"),
            (format!("destination edit {service} {OWN}:80 --method local"), "Local"),
        ];
        for (number, (command, name)) in ways.into_iter().enumerate() {
            scene.director.lbctl(&command)?;
            let pages = ask(scene, &format!("http://{VIP}/"), 5)?;
            ensure!(pages.keys().eq([&format!("this is director at {OWN}")]), "{name}: {pages:?}");
            let list = scene.director.lbctl("-Ln")?;
            let row = format!("  -> {:<28} {name:<7} 1 ", format!("{OWN}:80"));
            ensure!(list.contains(&row), "{list}");
            let statistics = scene.director.statistics()?;
            let row = statistics.lines().find(|line| line.contains(OWN)).unwrap_or_default();
            let connections = row.split_whitespace().nth(2).unwrap_or_default();
            ensure!(connections == (5 * (number + 1)).to_string(), "{statistics}");
        }
        download(scene, &format!("http://{VIP}/"))?;
        // By an address of the loopback, as a server of last resort has it.
        scene.director.lbctl(&format!("-d -t {SERVICE} -r {OWN}:80"))?;
        scene.director.lbctl(&format!("-a -t {SERVICE} -r 127.0.0.1:80 -g"))?;
        ask(scene, &format!("http://{VIP}/"), 3)?;
        scene.director.lbctl(&format!("-a -t {} -r [{OWN6}]:80 -g", ipv6::SERVICE))?;
        ask(scene, &format!("http://[{}]/", ipv6::VIP), 3)?;
        let network = scene.director.lbctl("network list")?;
        let is_local = |line: &str| line.starts_with("192.0.2.1/32 ") && line.ends_with("Linux");
        ensure!(network.lines().any(is_local), "{network}");
        scene.director.check_counters().map(drop)
    })
}

/// A transparent cache without a cache: what is marked on its way to a server goes on to that server, if it may.
#[test]
fn without_a_server_a_service_by_mark_is_passed_by() -> Result<()> {
    let (scene, _nginx) = scene(Wire::AfPacket)?;
    scene.play(|scene| {
        scene.lab.client.ip("route add 192.0.2.0/24 via 198.51.100.1")?;
        scene.director.lbctl("mark add 1 --protocol tcp --to 192.0.2.0/24 --to-ports 80")?;
        scene.director.lbctl("-A -f 1 -s rr")?;
        let url = format!("http://{}/", SERVERS[0]);
        let refused = scene.lab.client.try_run(&format!("curl -sS --max-time 5 {url}"))?;
        ensure!(refused.status.code() == Some(7), "{refused:?}");
        scene.director.lbctl("sysctl set cache_bypass 1")?;
        let pages = ask(scene, &url, 3)?;
        ensure!(pages.keys().eq([&format!("this is r1 at {}", SERVERS[0])]), "{pages:?}");
        let connections = scene.director.lbctl("-Lnc")?;
        let row = format!("{:<18} 0.0.0.0:0", format!("{}:80", SERVERS[0]));
        ensure!(connections.matches(&row).count() == 3, "{connections}");
        scene.director.check_counters().map(drop)
    })
}
