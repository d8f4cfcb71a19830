//! From the file as written to the typed configuration; the first thing that is wrong ends it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dataplane::conn::ConnectionTable;
use dataplane::network::{MacAddr, PortId};
use dataplane::packet::ethernet::ethertype;
use dataplane::packet::vlan::{MAX_ID, Tags, VlanId};
use dataplane::schedule::TableSizes;
use ipnet::IpNet;
use toml::Spanned;

use super::error::Problem;
use super::{Account, Config, Connections, Control, Eal, Neighbour, Port, Route, Vlan, links, raw};
use crate::local::LocalAddresses;
use crate::mark::{self, MarkRule};
use crate::model::Change;
use crate::model::PortRange;
use crate::readable::name::ServiceName;
use crate::snat::{SnatRule, Translation};
use crate::suggest::nearest;
use crate::{supported, sysctl};

/// Where in the text (bytes), and what.
type Wrong = (Option<Range<usize>>, Problem);

const DEFAULT_SOCKET: &str = "/run/director/director.sock";
const DEFAULT_MODE: u32 = 0o660;
const DEFAULT_CAPACITY: u32 = 1 << 20;
const DEFAULT_DESTINATIONS: u32 = 1 << 16;
/// What 32-bit indexes can count with a bit to spare.
const MAX_ENTRIES: i64 = 1 << 31;
/// A `sockaddr_un` holds 108 bytes with the terminating zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// `IFNAMSIZ` with the terminating zero is 16.
const MAX_INTERFACE_NAME: usize = 15;
/// What devices have that are not told otherwise.
const DEFAULT_MTU: u16 = 1500;
/// DPDK's `RTE_MAX_ETHPORTS` as distributions build it.
const MAX_PORTS: usize = 32;

/// More would make every round of a worker longer than it need be.
const MAX_VLANS: usize = 256;

/// Names of ports and VLANs, each with its interface in Linux.
type Links<'c> = [(&'c str, Option<&'c str>)];

pub(super) fn check(raw: raw::File, usable_cores: &[usize]) -> Result<Config, Wrong> {
    let mut taken = AllTaken::default();
    let ports = ports(raw.port, &mut taken)?;
    let vlans = vlans(raw.vlan, &ports, &mut taken)?;
    let links: Vec<_> = links(&ports, &vlans).collect();
    let (marks, local_addresses) = (marks(raw.mark, &links)?, local_addresses(raw.local_address, &links)?);
    let snat = snat(raw.snat, &links)?;
    let (routes, neighbours) = (routes(raw.route, &links)?, neighbours(raw.neighbour, &links)?);
    Ok(Config {
        control: control(raw.control)?,
        eal: Eal { arguments: raw.eal.arguments, huge_pages: raw.eal.huge_pages },
        cores: cores(raw.workers, usable_cores)?,
        connections: connections(raw.connections)?,
        schedulers: schedulers(raw.schedulers)?,
        sysctls: raw.sysctl.into_iter().map(sysctl).collect::<Result<_, _>>()?,
        marks,
        local_addresses,
        snat,
        routes,
        neighbours,
        ports,
        vlans,
    })
}

fn control(raw: raw::Control) -> Result<Control, Wrong> {
    let socket = match raw.socket {
        None => PathBuf::from(DEFAULT_SOCKET),
        Some(path) if Path::new(path.get_ref()).is_absolute() && path.get_ref().len() <= MAX_SOCKET_PATH => {
            path.into_inner().into()
        }
        Some(path) => return Err((Some(path.span()), Problem::Socket(path.into_inner()))),
    };
    let mode = match raw.mode {
        None => DEFAULT_MODE,
        Some(text) => match u32::from_str_radix(text.get_ref(), 8) {
            Ok(mode) if mode <= 0o777 => mode,
            _ => return Err((Some(text.span()), Problem::Mode(text.into_inner()))),
        },
    };
    let change = match raw.change {
        None => vec![Account::Id(0)],
        Some(users) => users.into_iter().map(account).collect::<Result<_, _>>()?,
    };
    Ok(Control { socket, mode, group: raw.group.map(account).transpose()?, change })
}

fn account(raw: Spanned<raw::Account>) -> Result<Account, Wrong> {
    let at = Some(raw.span());
    // The last number stands for "no user" in the kernel (chown(2)).
    let id = |id: u32| (id != u32::MAX).then_some(Account::Id(id));
    match raw.into_inner() {
        raw::Account::Id(n) => {
            u32::try_from(n).ok().and_then(id).ok_or_else(|| (at, Problem::Account(n.to_string())))
        }
        raw::Account::Name(name) if name.is_empty() => Err((at, Problem::Account("\"\"".to_owned()))),
        raw::Account::Name(name) => Ok(name.parse().ok().and_then(id).unwrap_or(Account::Name(name))),
    }
}

fn cores(raw: Option<raw::Workers>, usable: &[usize]) -> Result<Vec<usize>, Wrong> {
    let none = || Problem::NoCores(usable.last().copied());
    let listed = raw.ok_or_else(|| (None, none()))?.cores;
    if listed.get_ref().is_empty() {
        return Err((Some(listed.span()), none()));
    }
    let mut cores = Vec::new();
    for core in listed.into_inner() {
        let (at, number) = (Some(core.span()), core.into_inner());
        match usize::try_from(number).ok().filter(|c| usable.contains(c)) {
            None => return Err((at, Problem::CoreUnusable { core: number, usable: usable.to_vec() })),
            Some(c) if cores.contains(&c) => return Err((at, Problem::CoreTwice(number))),
            Some(c) => cores.push(c),
        }
    }
    Ok(cores)
}

fn connections(raw: raw::Connections) -> Result<Connections, Wrong> {
    let capacity = size("capacity", raw.capacity, DEFAULT_CAPACITY)?;
    let destinations = size("destinations", raw.destinations, DEFAULT_DESTINATIONS)?;
    let buckets = match raw.buckets {
        None => ConnectionTable::buckets_for(capacity),
        Some(given) => number("buckets", given, i64::from(LEAST_BUCKETS), MAX_ENTRIES)?,
    };
    Ok(Connections { buckets, capacity, destinations })
}

fn schedulers(raw: raw::Schedulers) -> Result<TableSizes, Wrong> {
    let mut sizes = TableSizes::default();
    let given = [("dh_slots", raw.dh_slots), ("sh_slots", raw.sh_slots), ("mh_slots", raw.mh_slots)];
    for (key, slots) in given {
        let Some(slots) = slots else { continue };
        let (at, value) = (Some(slots.span()), slots.into_inner());
        let with = u32::try_from(value).ok().and_then(|slots| match key {
            "dh_slots" => sizes.with_dh(slots),
            "sh_slots" => sizes.with_sh(slots),
            _ => sizes.with_mh(slots),
        });
        sizes = with.ok_or((at, Problem::Slots { key, value }))?;
    }
    Ok(sizes)
}

/// A connection may be in one of eight buckets that follow each other, which must not come round to the first.
const LEAST_BUCKETS: u32 = 8;

fn sysctl(
    (name, value): (Spanned<String>, Spanned<sysctl::Value>),
) -> Result<(&'static str, sysctl::Value), Wrong> {
    let Some(known) = sysctl::find(name.get_ref()) else {
        return Err((Some(name.span()), Problem::Sysctl(sysctl::unknown(name.get_ref()))));
    };
    let at = Some(value.span());
    let value = value.into_inner();
    let change = Change::SetSysctl { name: known.name.to_owned(), value };
    let taken = sysctl::Values::default().set(known.name, value).and_then(|()| supported::check(&change));
    taken.map(|()| (known.name, value)).map_err(|refusal| (at, Problem::Sysctl(refusal)))
}

fn marks(raw: Vec<raw::Mark>, links: &Links<'_>) -> Result<Vec<MarkRule>, Wrong> {
    let mut rules = Vec::new();
    for raw in raw {
        let at = Some(raw.mark.span());
        let in_port = port_name(raw.in_port, links)?;
        let rule = MarkRule {
            mark: number("mark", raw.mark, 1, u32::MAX.into())?,
            protocol: read(raw.protocol, mark::protocol)?,
            from: read(raw.from, mark::network)?,
            to: read(raw.to, mark::network)?,
            from_ports: read(raw.from_ports, str::parse::<PortRange>)?,
            to_ports: read(raw.to_ports, str::parse::<PortRange>)?,
            in_port,
        };
        if rules.contains(&rule) {
            return Err((at, Problem::GivenTwice(format!("a rule for mark {rule}"))));
        }
        let taken = rule.check().and_then(|()| supported::check(&Change::AddMark(rule.clone())));
        taken.map_err(|refusal| (at, Problem::Mark(refusal.to_string())))?;
        rules.push(rule);
    }
    Ok(rules)
}

/// The name of a port or a VLAN that there is.
fn port_name(name: Option<Spanned<String>>, links: &Links<'_>) -> Result<Option<String>, Wrong> {
    name.map(|name| find(&name, links).map(|_| name.into_inner())).transpose()
}

/// The number of the port or VLAN of that name.
fn find(name: &Spanned<String>, links: &Links<'_>) -> Result<usize, Wrong> {
    links.iter().position(|(known, _)| known == name.get_ref()).ok_or_else(|| {
        let nearest = nearest(name.get_ref(), links.iter().map(|(known, _)| (*known).to_owned()));
        (Some(name.span()), Problem::UnknownPort { name: name.get_ref().clone(), nearest })
    })
}

fn local_addresses(raw: Vec<raw::LocalAddress>, links: &Links<'_>) -> Result<Vec<LocalAddresses>, Wrong> {
    let mut all = Vec::new();
    for raw in raw {
        let at = Some(raw.addresses.span());
        let Some(addresses) = read(Some(raw.addresses), mark::network)? else { continue };
        let local = LocalAddresses {
            addresses,
            service: read(raw.service, str::parse::<ServiceName>)?.map(|ServiceName(service)| service),
            port: port_name(raw.port, links)?,
            ports: read(raw.ports, str::parse::<PortRange>)?,
        };
        if all.contains(&local) {
            return Err((at, Problem::GivenTwice(format!("local addresses {local}"))));
        }
        local.check().map_err(|refusal| (at, Problem::Mark(refusal.to_string())))?;
        all.push(local);
    }
    Ok(all)
}

fn snat(raw: Vec<raw::Snat>, links: &Links<'_>) -> Result<Vec<SnatRule>, Wrong> {
    let mut rules = Vec::new();
    for raw in raw {
        let at = Some(raw.translate_to.span());
        let Some(translate_to) = read(Some(raw.translate_to), str::parse::<Translation>)? else { continue };
        let rule = SnatRule {
            translate_to,
            protocol: read(raw.protocol, mark::protocol)?,
            from: read(raw.from, mark::network)?,
            to: read(raw.to, mark::network)?,
            out_port: port_name(raw.out_port, links)?,
            ports: read(raw.ports, str::parse::<PortRange>)?,
        };
        if rules.contains(&rule) {
            return Err((at, Problem::GivenTwice(format!("the rule for SNAT {rule}"))));
        }
        rule.check().map_err(|refusal| (at, Problem::Mark(refusal.to_string())))?;
        rules.push(rule);
    }
    Ok(rules)
}

fn read<T, E: ToString>(
    raw: Option<Spanned<String>>,
    of: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Wrong> {
    let Some(text) = raw else { return Ok(None) };
    let wrong = |e: E| {
        (
            Some(text.span()),
            Problem::Mark(format!("\"{}\" is not understood; {}", text.get_ref(), e.to_string())),
        )
    };
    of(text.get_ref()).map(Some).map_err(wrong)
}

fn size(key: &'static str, raw: Option<Spanned<i64>>, default: u32) -> Result<u32, Wrong> {
    raw.map_or(Ok(default), |v| number(key, v, 1, MAX_ENTRIES))
}

fn number<N: TryFrom<i64>>(key: &'static str, raw: Spanned<i64>, min: i64, max: i64) -> Result<N, Wrong> {
    let value = *raw.get_ref();
    let number = (min..=max).contains(&value).then(|| N::try_from(value).ok()).flatten();
    number.ok_or_else(|| (Some(raw.span()), Problem::Range { key, value, min, max }))
}

fn ports(raw: Vec<raw::Port>, taken: &mut AllTaken) -> Result<Vec<Port>, Wrong> {
    if raw.is_empty() {
        return Err((None, Problem::NoPort));
    }
    if let Some(extra) = raw.get(MAX_PORTS) {
        return Err((Some(extra.name.span()), Problem::TooManyPorts(MAX_PORTS)));
    }
    let mut devices = Taken::of("device");
    let mut ports = Vec::new();
    for port in raw {
        let (at, device_at) = (port.name.span(), port.device.span());
        let name = taken.name(port.name)?;
        let device = port.device.into_inner();
        if device.is_empty() {
            return Err((Some(device_at), Problem::Empty("device")));
        }
        devices.take(&device, &name, &device_at)?;
        let is_bond = device.starts_with("net_bonding");
        match port.members.first() {
            None if is_bond => return Err((Some(device_at), Problem::NoMembers)),
            Some(member) if !is_bond => return Err((Some(member.span()), Problem::MembersWithoutBond)),
            _ => {}
        }
        for member in &port.members {
            if member.get_ref().is_empty() {
                return Err((Some(member.span()), Problem::Empty("a member")));
            }
            devices.take(member.get_ref(), &name, &member.span())?;
        }
        let (kernel_interface, addresses) =
            taken.kernel_side(port.kernel_interface, port.addresses, (&name, &at))?;
        ports.push(Port {
            descriptors: port
                .descriptors
                .map(|n| number("descriptors", n, 1, i64::from(u16::MAX)))
                .transpose()?
                .and_then(NonZeroU16::new),
            mtu: port.mtu.map(|n| mtu(n, u16::MAX)).transpose()?,
            promiscuous: port.promiscuous,
            kernel_interface,
            addresses,
            members: port.members.into_iter().map(Spanned::into_inner).collect(),
            name,
            device,
        });
    }
    Ok(ports)
}

fn mtu(raw: Spanned<i64>, most: u16) -> Result<u16, Wrong> {
    // RFC 791: every link carries 68 bytes.
    number("mtu", raw, 68, most.into())
}

fn vlans(raw: Vec<raw::Vlan>, ports: &[Port], taken: &mut AllTaken) -> Result<Vec<Vlan>, Wrong> {
    if let Some(extra) = raw.get(MAX_VLANS) {
        return Err((Some(extra.name.span()), Problem::TooManyVlans(MAX_VLANS)));
    }
    // A VLAN is on a port, and not on another VLAN.
    let links: Vec<_> = links(ports, &[]).collect();
    let mut vlans: Vec<Vlan> = Vec::new();
    for vlan in raw {
        let (at, id_at) = (vlan.name.span(), vlan.id.span());
        let name = taken.name(vlan.name)?;
        let port = find(&vlan.port, &links)?;
        let outer = vlan.outer_id.map(|n| number("outer_id", n, 1, MAX_ID.into())).transpose()?;
        let id: u16 = number("id", vlan.id, 1, MAX_ID.into())?;
        // Both are such as it takes.
        let not_an_id = || Problem::Range { key: "id", value: id.into(), min: 1, max: MAX_ID.into() };
        let id = VlanId::new(outer, id).ok_or_else(|| (Some(id_at.clone()), not_an_id()))?;
        let port_mtu = ports[port].mtu.unwrap_or(DEFAULT_MTU);
        let port = PortId(port as u16);
        if vlans.iter().any(|known| (known.port, known.id) == (port, id)) {
            return Err((Some(id_at), Problem::GivenTwice(format!("VLAN {id}"))));
        }
        let outer_type = match vlan.outer_type {
            raw::OuterType::ServiceVlan => ethertype::SERVICE_VLAN,
            raw::OuterType::Vlan => ethertype::VLAN,
        };
        let priority = vlan.priority.map_or(Ok(0), |n| number("priority", n, 0, 7))?;
        let (kernel_interface, addresses) =
            taken.kernel_side(vlan.kernel_interface, vlan.addresses, (&name, &at))?;
        vlans.push(Vlan {
            port,
            id,
            tags: Tags::new(id, outer_type, priority),
            mtu: vlan.mtu.map(|n| mtu(n, port_mtu)).transpose()?,
            kernel_interface,
            addresses,
            name,
        });
    }
    Ok(vlans)
}

/// What ports and VLANs must each have their own of.
struct AllTaken {
    names: Taken,
    interfaces: Taken,
    addresses: Taken,
}

impl Default for AllTaken {
    fn default() -> Self {
        let [names, interfaces, addresses] = ["name", "kernel_interface", "address"].map(Taken::of);
        Self { names, interfaces, addresses }
    }
}

impl AllTaken {
    fn name(&mut self, raw: Spanned<String>) -> Result<String, Wrong> {
        let (at, name) = (raw.span(), raw.into_inner());
        if name.is_empty() {
            return Err((Some(at), Problem::Empty("name")));
        }
        self.names.take(&name, &name, &at)?;
        Ok(name)
    }

    /// The interface that a port or a VLAN has in Linux, and the addresses on it.
    fn kernel_side(
        &mut self,
        raw: Option<Spanned<raw::KernelInterface>>,
        addresses: Vec<Spanned<String>>,
        (name, name_at): (&str, &Range<usize>),
    ) -> Result<(Option<String>, Vec<IpNet>), Wrong> {
        let interface = match kernel_interface(raw, name, name_at)? {
            Some((interface, at)) => {
                self.interfaces.take(&interface, name, &at)?;
                Some(interface)
            }
            None => None,
        };
        if let Some(first) = addresses.first()
            && interface.is_none()
        {
            return Err((Some(first.span()), Problem::AddressesWithoutInterface(name.to_owned())));
        }
        let mut on_interface = Vec::new();
        for text in addresses {
            let (at, network) = (text.span(), network(text)?);
            self.addresses.take(&network.addr().to_string(), name, &at)?;
            on_interface.push(network);
        }
        Ok((interface, on_interface))
    }
}

/// Values that one port at most may have.
struct Taken {
    what: &'static str,
    by: HashMap<String, String>,
}

impl Taken {
    fn of(what: &'static str) -> Self {
        Self { what, by: HashMap::new() }
    }

    fn take(&mut self, value: &str, port: &str, at: &Range<usize>) -> Result<(), Wrong> {
        match self.by.insert(value.to_owned(), port.to_owned()) {
            None => Ok(()),
            Some(port) => {
                Err((Some(at.clone()), Problem::Duplicate { what: self.what, value: value.to_owned(), port }))
            }
        }
    }
}

fn kernel_interface(
    raw: Option<Spanned<raw::KernelInterface>>,
    port: &str,
    port_at: &Range<usize>,
) -> Result<Option<(String, Range<usize>)>, Wrong> {
    let (name, at) = match raw.map(|r| (r.span(), r.into_inner())) {
        None | Some((_, raw::KernelInterface::Wanted(true))) => (port.to_owned(), port_at.clone()),
        Some((_, raw::KernelInterface::Wanted(false))) => return Ok(None),
        Some((at, raw::KernelInterface::Name(name))) => (name, at),
    };
    // What dev_valid_name() of the kernel takes; '%' is taken for a pattern.
    let valid = (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'));
    if valid { Ok(Some((name, at))) } else { Err((Some(at), Problem::InterfaceName(name))) }
}

fn routes(raw: Vec<raw::Route>, links: &Links<'_>) -> Result<Vec<Route>, Wrong> {
    let mut routes: Vec<Route> = Vec::new();
    for route in raw {
        let (at, given) = (Some(route.to.span()), route.to.get_ref().clone());
        let to = network(route.to)?;
        if to != to.trunc() {
            return Err((at, Problem::HostBits { given, meant: to.trunc() }));
        }
        if routes.iter().any(|r| r.to == to) {
            return Err((at, Problem::GivenTwice(format!("a route to {to}"))));
        }
        let via = match route.via {
            None => None,
            Some(text) => {
                let at = Some(text.span());
                let via = host(text)?;
                if matches!((to, via), (IpNet::V6(_), IpAddr::V4(_))) {
                    return Err((at, Problem::GatewayFamily(via)));
                }
                Some(via)
            }
        };
        let source = match route.source {
            None => None,
            Some(text) => {
                let at = Some(text.span());
                let source = host(text)?;
                if source.is_ipv4() != to.addr().is_ipv4() {
                    return Err((at, Problem::SourceFamily(source)));
                }
                Some(source)
            }
        };
        let command = |dev: &str| {
            let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
            let source = source.map(|source| format!(" src {source}")).unwrap_or_default();
            format!("ip route add {to}{via} dev {dev}{source}")
        };
        routes.push(Route { to, via, source, port: fixed_port(route.port, links, command)? });
    }
    Ok(routes)
}

fn neighbours(raw: Vec<raw::Neighbour>, links: &Links<'_>) -> Result<Vec<Neighbour>, Wrong> {
    let mut neighbours: Vec<Neighbour> = Vec::new();
    for neighbour in raw {
        let at = Some(neighbour.address.span());
        let address = host(neighbour.address)?;
        let mac = match neighbour.mac.get_ref().parse::<MacAddr>() {
            Ok(mac) if !mac.is_group() && mac != MacAddr::default() => mac,
            _ => return Err((Some(neighbour.mac.span()), Problem::Mac(neighbour.mac.into_inner()))),
        };
        let command = |dev: &str| format!("ip neigh replace {address} lladdr {mac} dev {dev}");
        let port = fixed_port(neighbour.port, links, command)?;
        if neighbours.iter().any(|n| n.address == address && n.port == port) {
            return Err((at, Problem::GivenTwice(format!("neighbour {address}"))));
        }
        neighbours.push(Neighbour { address, mac, port });
    }
    Ok(neighbours)
}

/// The port of that name, if it has no kernel interface; `command` is what to type in Linux if it has one.
fn fixed_port(
    name: Spanned<String>,
    links: &Links<'_>,
    command: impl Fn(&str) -> String,
) -> Result<PortId, Wrong> {
    let index = find(&name, links)?;
    match links[index].1 {
        None => Ok(PortId(index as u16)),
        Some(dev) => {
            let problem = Problem::LinuxDecides { command: command(dev), port: name.get_ref().clone() };
            Err((Some(name.span()), problem))
        }
    }
}

fn network(text: Spanned<String>) -> Result<IpNet, Wrong> {
    text.get_ref().parse().map_err(|_| (Some(text.span()), Problem::Network(text.get_ref().clone())))
}

fn host(text: Spanned<String>) -> Result<IpAddr, Wrong> {
    let (at, text) = (Some(text.span()), text.into_inner());
    match text.parse::<IpAddr>() {
        Err(_) => Err((at, Problem::Address(text))),
        Ok(a) if a.is_unspecified() || a.is_multicast() || a == IpAddr::from([255; 4]) => {
            Err((at, Problem::NotAHost(text)))
        }
        Ok(address) => Ok(address),
    }
}
