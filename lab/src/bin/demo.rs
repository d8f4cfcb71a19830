//! `make demo`: real HTTP requests, balanced over two real web servers by director, with everything that is typed shown.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use lab::steps::Watch;
use lab::{Director, Lab, Mode, Wire, ipv6, lifetime, list, topology, wait_until};

/// How many requests the demo sends.
const REQUESTS: usize = 66;

/// Balances real HTTP requests over two real web servers in a lab of network namespaces.
#[derive(Debug, Parser)]
struct Arguments {
    /// How director forwards.
    #[arg(long, value_enum, default_value = "nat")]
    mode: ModeArgument,
    /// What director's DPDK ports sit on.
    #[arg(long, value_enum, default_value = "af-packet")]
    wire: WireArgument,
    /// Leave the lab up at the end.
    #[arg(long)]
    keep: bool,
    /// Take down a lab that was left up (every one, if no id is given) and do nothing else.
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "all")]
    stop: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArgument {
    /// Masquerading: director rewrites addresses, replies come back through it.
    Nat,
    /// Direct routing: director rewrites the frame header only, replies go past it.
    Dr,
    /// Tunnelling: director puts packets into other ones (IP in IP), replies go past it.
    Tun,
    /// Translation of both addresses: servers see a local address of director's, and need no route to the client.
    Fullnat,
    /// Masquerading over IPv6.
    Ipv6,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WireArgument {
    /// Packet sockets.
    AfPacket,
    /// XDP sockets.
    AfXdp,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.stop {
        Some(id) => stop(id),
        None => demo(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Result<()> {
    let mode = match arguments.mode {
        ModeArgument::Nat | ModeArgument::Ipv6 => Mode::Nat,
        ModeArgument::Dr => Mode::Dr,
        ModeArgument::Tun => Mode::Tun,
        ModeArgument::Fullnat => Mode::FullNat,
    };
    let wire = match arguments.wire {
        WireArgument::AfPacket => Wire::AfPacket,
        WireArgument::AfXdp => Wire::AfXdp,
    };

    step("Building the lab: a client, director, two nginx servers, a switch between them");
    let mut lab = Lab::new(mode).context("building the lab")?;
    let by_ipv6 = arguments.mode == ModeArgument::Ipv6;
    let (client, vip, [first, second]) = if by_ipv6 {
        ipv6::add(&mut lab).context("giving the lab IPv6 addresses")?;
        (ipv6::CLIENT, ipv6::VIP, ipv6::SERVERS)
    } else {
        (topology::CLIENT, topology::VIP, topology::SERVERS)
    };
    println!("    client {client} · VIP {vip} · r1 {first} · r2 {second}");

    step("Starting director");
    let director = Director::start(&lab, wire).context("starting director")?;
    for (index, port) in lab.ports.iter().enumerate() {
        println!(
            "    port {}: {}, for Linux: {}",
            port.name,
            wire.device(index, port.device),
            port.kernel_interface
        );
    }

    let shown = show(&lab, &director, by_ipv6);
    // The lab goes with this function, and director's log with it.
    shown.map_err(|error| director.blame(&error))?;

    if arguments.keep {
        return keep(lab, director);
    }
    step("Stopping director and taking the lab down");
    director.stop().context("stopping director")?;
    drop(lab);
    println!("    done; nothing is left");
    Ok(())
}

/// The part that is worth watching.
fn show(lab: &Lab, director: &Director, by_ipv6: bool) -> Result<()> {
    step("Setting up the service");
    let (rules, page) = if by_ipv6 {
        (ipv6::rules(lab.mode), format!("http://[{}]/", ipv6::VIP))
    } else {
        (director.http_rules(), format!("http://{}/", topology::VIP))
    };
    for rule in rules {
        type_lbctl(director, &rule).with_context(|| format!("lbctl {rule}"))?;
    }
    let watch = match lab.mode {
        Mode::Dr => Some(Watch::start(lab).context("capturing")?),
        Mode::Nat | Mode::Tun | Mode::FullNat => None,
    };
    let seen = match lab.mode {
        Mode::Tun => Some(lab.switch.spawn("tcpdump -i r1 -n -v -l -c 2 ip proto 4 or src port 80")?),
        Mode::FullNat => Some(lab.switch.spawn("tcpdump -i wan -n -l -c 4 tcp[tcpflags] & tcp-syn != 0")?),
        Mode::Nat | Mode::Dr => None,
    };
    if let Some(tcpdump) = &seen {
        wait_until("tcpdump listens", Duration::from_secs(10), || {
            Ok(tcpdump.log().contains("listening on"))
        })?;
    }

    step(&format!("Sending {REQUESTS} HTTP requests: curl {page}"));
    let mut pages = Vec::new();
    for number in 1..=REQUESTS {
        let answer = lab.client.run(&format!("curl -gsS --fail --max-time 10 {page}"));
        pages.push(answer.with_context(|| format!("request {number} of {REQUESTS}"))?);
    }

    step("Who answered");
    let mut answered = Vec::new();
    for server in &lab.servers {
        let name = server.host.name();
        let seen = pages.iter().filter(|page| page.contains(&server.address)).count();
        let logged = || server.answered();
        wait_until(&format!("nginx on {name} has logged {seen} requests"), Duration::from_secs(5), || {
            Ok(logged()? == seen)
        })
        .with_context(|| format!("the client got {seen} pages of {name}"))?;
        println!(
            "    {name} ({}): {seen} pages at the client, {seen} requests in nginx's log",
            server.address
        );
        answered.push(seen as u64);
    }
    ensure!(answered.iter().sum::<u64>() == REQUESTS as u64, "{REQUESTS} pages, but not all of our servers");

    step("The list");
    let text = director.list_at_rest()?;
    println!("$ lbctl -Ln\n{}", text.trim_end_matches('\n'));
    let inactive: Vec<_> =
        list::destinations(&text)?.iter().map(|destination| destination.inactive).collect();
    ensure!(inactive == answered, "the list says {inactive:?}, the servers answered {answered:?}");

    if let Some(watch) = watch {
        step("One connection on the wires");
        let steps = watch.finish()?;
        println!("{}", steps.table(lab)?);
        steps.check()?;
        println!(
            "    {} replies reached the client, {} of them by way of director",
            steps.replies, steps.replies_by_director
        );
    }

    if let Some(mut tcpdump) = seen {
        step(match lab.mode {
            Mode::FullNat => {
                "What director's wire carries of one connection's beginning: to the server it comes from 192.0.2.33, and so does the answer go there"
            }
            _ => {
                "What the wire of r1 carries: the client's SYN inside another packet, and the answer straight to the client"
            }
        });
        tcpdump.wait(Duration::from_secs(10))?;
        print!("{}", tcpdump.log());
    }

    let total = director.check_counters()?.total();
    let dropped = if total.dropped.values().all(|&count| count == 0) {
        "0 dropped".to_owned()
    } else {
        let named = total.dropped.iter().filter(|(_, count)| **count > 0);
        named.map(|(name, count)| format!("{count} dropped ({name})")).collect::<Vec<_>>().join(" + ")
    };
    step("Every packet accounted for");
    println!(
        "    {} received = {} forwarded + {} to Linux + {dropped}",
        total.received, total.forwarded, total.to_kernel
    );
    Ok(())
}

fn keep(lab: Lab, director: Director) -> Result<()> {
    step(&format!("The lab {} stays up", lab.id()));
    let hosts = [&lab.client, &lab.director, &lab.switch]
        .into_iter()
        .chain(lab.servers.iter().map(|server| &server.host));
    for host in hosts {
        println!("    enter {:<9} ip netns exec {} bash", host.name(), host.namespace());
    }
    let lbctl = lab::director::lbctl_binary()?;
    println!("    type rules      LBCTL_SOCKET={} {} -Ln", director.socket().display(), lbctl.display());
    println!("    director's log  {}", director.log_path().display());
    println!("    stop it         {} --stop {}", std::env::current_exe()?.display(), lab.id());
    lab.keep()?;
    std::mem::forget(director);
    Ok(())
}

fn stop(id: &str) -> Result<()> {
    let kept = lifetime::kept()?;
    let wanted: Vec<_> = kept.into_iter().filter(|kept| id == "all" || kept == id).collect();
    ensure!(!wanted.is_empty() || id == "all", "no lab {id} was left up");
    for id in wanted {
        lifetime::remove(&id)?;
        println!("{id} is taken down");
    }
    Ok(())
}

fn type_lbctl(director: &Director, words: &str) -> Result<()> {
    println!("$ lbctl {words}");
    print!("{}", director.lbctl(words)?);
    Ok(())
}

fn step(what: &str) {
    println!("\n── {what}");
}
