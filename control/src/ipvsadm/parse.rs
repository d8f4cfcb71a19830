//! From words to a command, with ipvsadm's defaults and complaints.
//!
//! ipvsadm looks at each option as it comes, so which of several mistakes it names depends on their order, and so
//! do some meanings (a port is copied from the service if the service was named before the server). That order is
//! kept here: first every word in turn, then the command as a whole.

use std::net::IpAddr;

use dataplane::schedule::SCHEDULERS;

use super::address::{self, leading_number, number};
use super::cut;
use super::names::Names;
use super::options::{Kind, Kinds, Switch};
use super::words::Words;
use crate::model::{
    Announce, Change, DEFAULT_PERSISTENCE, DEFAULT_SCHEDULER, DestinationSpec, Encapsulation, Family,
    ForwardingMethod, Granularity, Mss, NoMss, Protocol, SchedulerFlags, SyncRole, Timeouts, TunnelChecksum,
    VirtualRange, VirtualService,
};

mod whole;

/// The longest timeout that is taken: 31 days, in seconds.
pub(crate) const LONGEST_TIMEOUT: i64 = 86_400 * 31;
/// The longest names IPVS stores, in bytes. Longer ones are cut.
const SCHEDULER_LENGTH: usize = 15;
const ENGINE_LENGTH: usize = 16;
const INTERFACE_LENGTH: usize = 15;
const FLAGS_LENGTH: usize = 127;

/// What is wrong with a command's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No command: point at the help. Exit 255, and the end of a restore.
    NoCommand,
    /// popt's complaint. Exit 255; a restore goes on with its next line.
    Option(String),
    /// ipvsadm's complaint. Exit 2, and the end of a restore.
    Words(String),
}

/// Shows which columns of which list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Format {
    pub numeric: bool,
    pub stats: bool,
    pub rate: bool,
    pub thresholds: bool,
    pub persistent_conn: bool,
    pub no_sort: bool,
    pub exact: bool,
    pub tunnel_info: bool,
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Every service.
    All,
    /// One service.
    Service(VirtualService),
    /// Connections.
    Connections,
    /// Timeouts.
    Timeouts,
    /// Synchronisation daemons.
    Daemons,
}

/// A command that makes sense as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change something.
    Change(Change),
    /// Print a list.
    List(Subject, Format),
    /// Print the rules that make this table.
    Save(Format),
    /// Read rules from standard input.
    Restore,
    /// Print how to use it.
    Help,
    /// Print the version.
    Version,
}

/// Reads a command's words, the program's name left out.
pub fn parse(words: &[String], names: &mut dyn Names) -> Result<Command, Failure> {
    let mut words = Words::new(words);
    let mut raw = Raw::default();
    let command = match words.next() {
        Some(Ok((command, argument))) => (command, argument.unwrap_or_default()),
        _ => return Err(Failure::NoCommand),
    };
    match command.0 {
        Switch::Help => return Ok(Command::Help),
        Switch::Version => return Ok(Command::Version),
        _ => raw.command(command.0, &command.1)?,
    }
    while let Some(item) = words.next() {
        let (switch, argument) = item.map_err(|e| Failure::Option(e.to_string()))?;
        if !raw.option(switch, argument, names).map_err(Failure::Words)? {
            return Err(Failure::Words(format!("invalid option `{}'", words.last_word())));
        }
    }
    raw.arguments(words.into_arguments()).map_err(Failure::Words)?;
    raw.finish(command.0).map_err(Failure::Words)
}

/// What the words have said so far, in ipvsadm's own terms.
#[derive(Default)]
struct Raw {
    given: Kinds,
    is_set: bool,
    role: Option<SyncRole>,
    protocol: Option<Protocol>,
    /// The service's address, once it has one.
    address: Option<IpAddr>,
    port: u16,
    /// Where the service is for more than one address or port.
    range: Option<VirtualRange>,
    mark: u32,
    family: Option<Family>,
    granularity: Option<Granularity>,
    scheduler: String,
    flag_words: String,
    flags: SchedulerFlags,
    persistence: Option<u32>,
    engine: Option<String>,
    one_packet: bool,
    announce: Option<Announce>,
    mss: Option<Mss>,
    server: Option<DestinationSpec>,
    method: ForwardingMethod,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    encapsulation: Encapsulation,
    tunnel_port: u16,
    checksum: TunnelChecksum,
    format: Format,
    timeouts: Option<Timeouts>,
    interface: String,
    sync_id: u8,
    max_length: Option<u16>,
    group: Option<IpAddr>,
    mcast_port: Option<u16>,
    ttl: Option<u8>,
}

impl Raw {
    /// The first option, which must be a command.
    fn command(&mut self, command: Switch, argument: &str) -> Result<(), Failure> {
        use Switch::*;
        let role = |message: &str| match argument {
            "master" => Ok(Some(SyncRole::Master)),
            "backup" => Ok(Some(SyncRole::Backup)),
            _ => Err(Failure::Words(message.to_owned())),
        };
        match command {
            StartDaemon => self.role = role("illegal start-daemon parameter specified")?,
            StopDaemon => self.role = role("illegal start_daemon specified")?,
            Set => self.is_set = true,
            AddService | EditService | DeleteService | Clear | List | Zero | AddServer | EditServer
            | DeleteServer | Restore | Save => {}
            _ => return Err(Failure::NoCommand),
        }
        Ok(())
    }

    /// Any other option; false if it cannot stand here.
    fn option(
        &mut self,
        switch: Switch,
        argument: Option<String>,
        names: &mut dyn Names,
    ) -> Result<bool, String> {
        let text = argument.as_deref().unwrap_or_default();
        match switch {
            Switch::Tcp => self.service(Protocol::Tcp, text, names)?,
            Switch::Udp => self.service(Protocol::Udp, text, names)?,
            Switch::Sctp => self.service(Protocol::Sctp, text, names)?,
            Switch::Fwmark => {
                self.given.add(Kind::Service)?;
                self.family = Some(Family::Ipv4);
                // The protocol counts for the names of ports that follow.
                self.protocol = Some(Protocol::Tcp);
                self.mark = number(text, 1..=i64::from(u32::MAX))
                    .ok_or_else(|| format!("invalid fwmark value `{text}' specified"))?
                    as u32;
            }
            Switch::Ipv6 => {
                if self.mark == 0 {
                    return Err("-6 used before -f\n".to_owned());
                }
                self.family = Some(Family::Ipv6);
                self.granularity = Some(Granularity::Prefix(128));
            }
            Switch::Scheduler => {
                self.given.add(Kind::Scheduler)?;
                self.scheduler = cut(text, SCHEDULER_LENGTH);
            }
            Switch::SchedulerFlags => {
                self.given.add(Kind::SchedulerFlags)?;
                self.flag_words = cut(text, FLAGS_LENGTH);
            }
            Switch::Persistent => {
                self.given.add(Kind::Persistent)?;
                self.persistence = Some(match &argument {
                    Some(text) => timeout(text, 1)?,
                    None => DEFAULT_PERSISTENCE,
                });
            }
            Switch::Netmask => {
                self.given.add(Kind::Netmask)?;
                self.granularity = Some(self.netmask(text, names)?);
            }
            Switch::Engine => {
                self.given.add(Kind::Engine)?;
                self.engine = Some(cut(text, ENGINE_LENGTH)).filter(|engine| !engine.is_empty());
            }
            Switch::OnePacket => {
                self.given.add(Kind::OnePacket)?;
                self.one_packet = true;
            }
            Switch::Announce => {
                self.given.add(Kind::Announce)?;
                let announce = Announce::ALL.into_iter().find(|announce| announce.word() == text);
                self.announce = Some(announce.ok_or("illegal announce specified")?);
            }
            Switch::Mss => {
                self.given.add(Kind::Mss)?;
                self.mss = Some(text.parse().map_err(|_: NoMss| "illegal mss specified")?);
            }
            Switch::RealServer => self.server(text, names)?,
            Switch::Masquerading => self.forward(ForwardingMethod::Masquerade)?,
            Switch::Ipip => self.forward(ForwardingMethod::Tunnel)?,
            Switch::Gatewaying => self.forward(ForwardingMethod::DirectRouting)?,
            Switch::FullNat => self.forward(ForwardingMethod::FullNat)?,
            Switch::Weight => {
                let weight = self.number(Kind::Weight, text, 0..=I32_MAX, "illegal weight specified")?;
                self.weight = Some(weight as u32);
            }
            Switch::UpperThreshold => {
                let message = "illegal u_threshold specified";
                self.upper = self.number(Kind::UpperThreshold, text, 0..=I32_MAX, message)? as u32;
            }
            Switch::LowerThreshold => {
                let message = "illegal l_threshold specified";
                self.lower = self.number(Kind::LowerThreshold, text, 0..=I32_MAX, message)? as u32;
            }
            _ => return self.other_option(switch, text),
        }
        Ok(true)
    }

    /// The options of tunnels, lists and daemons.
    fn other_option(&mut self, switch: Switch, text: &str) -> Result<bool, String> {
        match switch {
            Switch::TunnelType => {
                self.given.add(Kind::TunnelType)?;
                self.encapsulation = match text {
                    "ipip" => Encapsulation::Ipip,
                    "gue" => Encapsulation::Gue,
                    "gre" => Encapsulation::Gre,
                    _ => return Err("illegal tunnel type specified".to_owned()),
                };
            }
            Switch::TunnelPort => {
                let message = "illegal tunnel port specified";
                self.tunnel_port = self.number(Kind::TunnelPort, text, 1..=65535, message)? as u16;
            }
            Switch::TunnelNoChecksum => self.given.add(Kind::TunnelNoChecksum)?,
            Switch::TunnelChecksum => {
                self.given.add(Kind::TunnelChecksum)?;
                self.checksum = TunnelChecksum::Full;
            }
            Switch::TunnelRemoteChecksum => {
                self.given.add(Kind::TunnelRemoteChecksum)?;
                self.checksum = TunnelChecksum::Remote;
            }
            Switch::Connection => self.given.add(Kind::Connection)?,
            Switch::Timeout => self.given.add(Kind::Timeout)?,
            Switch::Daemon => self.given.add(Kind::Daemon)?,
            Switch::Numeric => self.format.numeric = self.flag(Kind::Numeric)?,
            Switch::Stats => self.format.stats = self.flag(Kind::Stats)?,
            Switch::Rate => self.format.rate = self.flag(Kind::Rate)?,
            Switch::Thresholds => self.format.thresholds = self.flag(Kind::Thresholds)?,
            Switch::PersistentConn => self.format.persistent_conn = self.flag(Kind::PersistentConn)?,
            Switch::TunnelInfo => self.format.tunnel_info = self.flag(Kind::TunnelInfo)?,
            Switch::NoSort => self.format.no_sort = self.flag(Kind::NoSort)?,
            Switch::Exact => self.format.exact = self.flag(Kind::Exact)?,
            Switch::Sort => {}
            Switch::McastInterface => {
                self.given.add(Kind::McastInterface)?;
                self.interface = cut(text, INTERFACE_LENGTH);
            }
            Switch::McastGroup => {
                self.given.add(Kind::McastGroup)?;
                self.group = Some(multicast_group(text)?);
            }
            Switch::McastPort => {
                let message = "illegal mcast-port specified";
                self.mcast_port = Some(self.number(Kind::McastPort, text, 1..=65535, message)? as u16);
            }
            Switch::McastTtl => {
                let message = "illegal mcast-ttl specified";
                self.ttl = Some(self.number(Kind::McastTtl, text, 1..=255, message)? as u8);
            }
            Switch::SyncId => {
                self.sync_id = self.number(Kind::SyncId, text, 0..=255, "illegal syncid specified")? as u8;
            }
            Switch::SyncMaxLength => {
                // A UDP datagram without its IP and UDP headers.
                let longest = 65535 - 20 - 8;
                let message = "illegal sync-maxlen specified";
                let length = self.number(Kind::SyncMaxLength, text, 1..=longest, message)?;
                self.max_length = Some(length as u16);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn flag(&mut self, kind: Kind) -> Result<bool, String> {
        self.given.add(kind).map(|()| true)
    }

    fn number(
        &mut self,
        kind: Kind,
        text: &str,
        range: std::ops::RangeInclusive<i64>,
        message: &str,
    ) -> Result<i64, String> {
        self.given.add(kind)?;
        number(text, range).ok_or_else(|| message.to_owned())
    }

    fn forward(&mut self, method: ForwardingMethod) -> Result<(), String> {
        self.given.add(Kind::Forward)?;
        self.method = method;
        Ok(())
    }

    fn service(&mut self, protocol: Protocol, text: &str, names: &mut dyn Names) -> Result<(), String> {
        self.given.add(Kind::Service)?;
        self.protocol = Some(protocol);
        let (address, port) = match VirtualRange::parse(text, protocol) {
            Some(range) => {
                self.range = Some(range);
                (range.network.addr(), Some(range.port()))
            }
            None => address::service(text, self.protocol, names)
                .ok_or_else(|| "illegal virtual server address[:port] specified".to_owned())?,
        };
        self.address = Some(address);
        self.port = port.unwrap_or(0);
        self.family = Some(address.into());
        if address.is_ipv6() {
            self.granularity = Some(Granularity::Prefix(128));
        }
        Ok(())
    }

    fn server(&mut self, text: &str, names: &mut dyn Names) -> Result<(), String> {
        self.given.add(Kind::Server)?;
        let (address, port) = address::service(text, self.protocol, names)
            .ok_or_else(|| "illegal real server address[:port] specified".to_owned())?;
        self.server = Some(DestinationSpec::new(address, port.unwrap_or(self.port)));
        Ok(())
    }

    fn netmask(&self, text: &str, names: &mut dyn Names) -> Result<Granularity, String> {
        if self.family == Some(Family::Ipv6) {
            return match leading_number(text) {
                length @ 1..=128 => Ok(Granularity::Prefix(length as u8)),
                _ => Err("illegal ipv6 netmask specified".to_owned()),
            };
        }
        let mask = address::inet_aton(text).or_else(|| names.address(text));
        mask.map(Granularity::Mask)
            .ok_or_else(|| "illegal virtual server persistent mask specified".to_owned())
    }

    /// What is left over, and the scheduler's flags, which ipvsadm looks at last.
    fn arguments(&mut self, arguments: Vec<String>) -> Result<(), String> {
        let mut rest = arguments.into_iter();
        if self.is_set {
            let (Some(tcp), Some(tcp_fin), Some(udp)) = (rest.next(), rest.next(), rest.next()) else {
                return Err("--set option requires 3 timeout values".to_owned());
            };
            self.timeouts = Some(Timeouts {
                tcp: timeout(&tcp, 0)?,
                tcp_fin: timeout(&tcp_fin, 0)?,
                udp: timeout(&udp, 0)?,
            });
        }
        if let Some(argument) = rest.next() {
            return Err(format!("unexpected argument {argument}"));
        }
        let scheduler = if self.scheduler.is_empty() { DEFAULT_SCHEDULER } else { &self.scheduler };
        self.flags = scheduler_flags(scheduler, &self.flag_words)?;
        Ok(())
    }
}

const I32_MAX: i64 = i32::MAX as i64;

fn timeout(text: &str, shortest: i64) -> Result<u32, String> {
    let seconds = number(text, shortest..=LONGEST_TIMEOUT);
    seconds.map(|s| s as u32).ok_or_else(|| format!("invalid timeout value `{text}' specified"))
}

fn multicast_group(text: &str) -> Result<IpAddr, String> {
    let group = text.parse().ok().filter(IpAddr::is_multicast);
    let version = if text.contains(':') { "IPv6" } else { "IPv4" };
    group.ok_or_else(|| format!("invalid {version} mcast-group `{text}'"))
}

/// Reads the names of scheduler flags, with commas between them.
pub fn scheduler_flags(scheduler: &str, words: &str) -> Result<SchedulerFlags, String> {
    let mut flags = SchedulerFlags::default();
    if words.is_empty() {
        return Ok(flags);
    }
    let mut any = false;
    for word in words.split(',').filter(|word| !word.is_empty()) {
        any = true;
        let (flag, of) = match word {
            "flag-1" => (SchedulerFlags::FIRST, None),
            "flag-2" => (SchedulerFlags::SECOND, None),
            "flag-3" => (SchedulerFlags::THIRD, None),
            _ => {
                let known = SCHEDULERS.iter().find_map(|s| {
                    let place = s.flags.iter().position(|flag| *flag == word)?;
                    Some((SchedulerFlags(1 << place), Some(s.name)))
                });
                known.ok_or_else(|| format!("invalid scheduler flag `{word}'"))?
            }
        };
        if of.is_some_and(|of| of != scheduler) {
            return Err(format!("incompatible scheduler flag `{word}'"));
        }
        flags = flags.with(flag);
    }
    // ipvsadm crashes on commas alone.
    if any { Ok(flags) } else { Err(format!("invalid scheduler flag `{words}'")) }
}

#[cfg(test)]
mod tests;
