//! Servers by FULLNAT learn who their client is: nginx by the PROXY protocol, and TOA as scapy reads it off the wire. What is sent arrives
//! whole all the same, both ways.

use anyhow::{Context, Result, ensure};
use lab::topology::{CLIENT, LOCAL, SERVERS, SERVICE, VIP};
use lab::{Director, Lab, Mode, Wire, ipv6};

use crate::Scene;
use crate::downloads::put_on_both;
use crate::tunnels::{Dump, upload_megabytes};

/// One family's part of the lab, or that of clients of one and servers of the other.
#[derive(Clone)]
pub struct Side {
    pub service: &'static str,
    pub host: String,
    pub client: &'static str,
    pub local: &'static str,
    pub servers: Vec<String>,
}

impl Side {
    /// These clients, and the other side's servers.
    fn with_servers_of(&self, other: &Self) -> Self {
        Self { local: other.local, servers: other.servers.clone(), ..self.clone() }
    }
}

fn sides() -> [Side; 4] {
    let servers = |all: [&str; 2], brackets: bool| {
        all.map(|server| if brackets { format!("[{server}]") } else { server.to_owned() }).to_vec()
    };
    let [v4, v6] = [
        Side {
            service: SERVICE,
            host: VIP.to_owned(),
            client: CLIENT,
            local: LOCAL,
            servers: servers(SERVERS, false),
        },
        Side {
            service: ipv6::SERVICE,
            host: format!("[{}]", ipv6::VIP),
            client: ipv6::CLIENT,
            local: ipv6::LOCAL,
            servers: servers(ipv6::SERVERS, true),
        },
    ];
    let (v64, v46) = (v6.with_servers_of(&v4), v4.with_servers_of(&v6));
    [v4, v6, v64, v46]
}

/// IPv6 clients with IPv4 servers, and the other way about.
pub fn mixes() -> [Side; 2] {
    let [.., v64, v46] = sides();
    [v64, v46]
}

pub fn play(story: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    let mut lab = Lab::new(Mode::FullNat)?;
    ipv6::add(&mut lab)?;
    let director = Director::start(&lab, Wire::AfPacket)?;
    Scene { director, lab }.play(story)
}

fn serve(scene: &Scene, side: &Side, announce: &str, port: u16) -> Result<()> {
    let service = side.service;
    scene.director.lbctl("-C")?;
    scene.director.lbctl(&format!("-A -t {service} -s rr"))?;
    for server in &side.servers {
        scene.director.lbctl(&format!("-a -t {service} -r {server}:{port} --fullnat -w 1"))?;
    }
    scene.director.lbctl(&format!("-E -t {service} -s rr --announce {announce}")).map(drop)
}

/// Ten megabytes each way, and a request that is longer than a segment.
pub fn transfer(scene: &Scene, side: &Side) -> Result<()> {
    let (client, host) = (&scene.lab.client, &side.host);
    upload_megabytes(scene, host, 10)?;
    let file = client.directory().join("download");
    client.run(&format!("curl -gsSf --max-time 60 -o {} http://{host}/file", file.display()))?;
    let sum = client.run(&format!("sha256sum {}", file.display()))?;
    ensure!(sum.starts_with(&scene.lab.servers[0].sha256("file")?), "the download is not the file: {sum}");
    let long = "x".repeat(6000);
    client.run(&format!("curl -gsSf --max-time 10 -H X-Long:{long} http://{host}/?long")).map(drop)
}

#[test]
fn nginx_learns_the_client_by_the_proxy_protocol() -> Result<()> {
    play(|scene| {
        put_on_both(scene, 10)?;
        let mut seen = [0, 0];
        let rounds =
            sides().into_iter().flat_map(|side| ["proxy-v1", "proxy-v2"].map(|how| (side.clone(), how)));
        for ((side, announce), port) in rounds.zip(45_000..) {
            let side = &side;
            let what = format!("{announce}, {} and {}", side.service, side.servers[0]);
            serve(scene, side, announce, 81)?;
            let dumps = [Dump::start(&scene.lab, "client")?, Dump::start(&scene.lab, "r1")?];
            transfer(scene, side).context(what.clone())?;
            // On one connection there is one header, whatever is asked for later.
            let page = format!("http://{}/?kept", side.host);
            let kept = [&page[..]; 3].join(" ");
            scene.lab.client.run(&format!("curl -gsSf --local-port {port} --max-time 10 {kept}"))?;
            for dump in dumps {
                dump.finish(&scene.lab).context(what.clone())?;
            }
            let mut kept = 0;
            for (server, seen) in scene.lab.servers.iter().zip(&mut seen) {
                let requests = server.announced()?;
                for request in &requests[*seen..] {
                    ensure!(request.client == side.client && request.status < 300, "{what}: {request:?}");
                    let is_kept = request.uri == "/?kept";
                    ensure!(!is_kept || request.port == port, "{what}: {request:?}");
                    kept += usize::from(is_kept);
                }
                *seen = requests.len();
            }
            ensure!(kept == 3, "{what}: {kept} of three requests came on the kept connection");
        }
        // An upload, a download, a long request and a connection of three, each of them eight times.
        ensure!(seen.iter().sum::<usize>() == 8 * 6, "{seen:?}");
        scene.director.check_counters().map(drop)
    })
}

#[test]
fn the_servers_side_has_toa_as_scapy_reads_it() -> Result<()> {
    play(|scene| {
        put_on_both(scene, 10)?;
        let script = scene.lab.directory().join("toa.py");
        std::fs::write(&script, include_str!("toa.py"))?;
        for side in &sides() {
            serve(scene, side, "toa", 80)?;
            let dumps = ["client", "r1", "r2"].map(|port| Dump::start(&scene.lab, port));
            let [client, r1, r2] =
                dumps.into_iter().collect::<Result<Vec<_>>>()?.try_into().ok().context("three")?;
            let files = [&client, &r1, &r2].map(|dump| dump.file().display().to_string());
            transfer(scene, side).context(side.servers[0].clone())?;
            for dump in [client, r1, r2] {
                dump.finish(&scene.lab).context(side.service)?;
            }
            let mut connections = 0;
            for at_server in &files[1..] {
                let line =
                    format!("/usr/bin/python3 {} {} {at_server} {}", script.display(), files[0], side.local);
                connections += scene.lab.switch.run(&line).context(side.service)?.trim().parse::<u32>()?;
            }
            ensure!(connections == 3, "{}: {connections} connections had the option", side.service);
        }
        scene.director.check_counters().map(drop)
    })
}
