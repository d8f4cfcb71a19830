//! What can be typed in lbctl's own language.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dataplane::schedule;
use ipnet::IpNet;

use super::name::{DestinationName, ServiceName};
use crate::mark::{self, MarkRule, PortRange};
use crate::model::{ENGINES, NO_SCHEDULER, Protocol, SCHEDULERS};
use crate::sysctl;

/// Drives a director.
///
/// lbctl speaks two languages. If its first word begins with "-", it is ipvsadm's: `lbctl -A -t 198.51.100.8:80
/// -s rr`, `lbctl -Ln`; every command, list and message is as in ipvsadm 1.31, and `lbctl -h` lists them. If it
/// does not, it is one of the commands below. Without any word lbctl lists the services.
///
/// A SERVICE is written tcp:198.51.100.8:80, udp:[2001:db8::8]:53, mark:7 or mark:7:ipv6; a DESTINATION 192.0.2.9:80, or
/// without its port if that is the service's.
#[derive(Debug, Parser)]
#[command(name = "lbctl", verbatim_doc_comment, disable_help_flag = true)]
pub struct Arguments {
    /// The daemon's socket, in either language [env: LBCTL_SOCKET] [default: /run/director/director.sock]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// Print this
    // Long only: -h belongs to ipvsadm's language.
    #[arg(long, action = ArgAction::Help, global = true)]
    pub help: Option<bool>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Virtual services
    #[command(subcommand)]
    Service(Service),
    /// Destinations (real servers) of services
    #[command(subcommand, visible_alias = "server")]
    Destination(Destination),
    /// Connections
    #[command(subcommand)]
    Connection(Connection),
    /// What services and destinations have counted
    #[command(subcommand)]
    Stats(Stats),
    /// Timeouts of connections
    #[command(subcommand)]
    Timeout(Timeout),
    /// IPVS's sysctls (net.ipv4.vs.*)
    #[command(subcommand)]
    Sysctl(Sysctl),
    /// Marking rules, for services by mark
    #[command(subcommand)]
    Mark(Mark),
    /// Schedulers
    #[command(subcommand)]
    Scheduler(Scheduler),
    /// Connection synchronisation daemons
    #[command(subcommand)]
    Daemon(Daemon),
    /// Routes and neighbours
    #[command(subcommand)]
    Network(Network),
    /// What each worker received, forwarded, gave to Linux and dropped, and why
    Counters(Output),
    /// The ports with their links and counters
    Ports(Output),
    /// How the daemon is
    Status(Output),
    /// Print the services as rules that `lbctl restore`, `lbctl -R` and ipvsadm-restore read
    Save(Save),
    /// Replace the configuration by a saved one, whole or not at all
    Restore(Restore),
    /// Print a shell's completions for lbctl
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Output {
    /// Print JSON (docs/lbctl-json.md)
    #[arg(long)]
    pub json: bool,
    /// Print again every so many seconds [default: 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = seconds)]
    pub watch: Option<f64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.1..=86_400.0).contains(s)).ok_or("give 0.1 to 86400 seconds".to_owned())
}

/// Whether to say in JSON that a change was made, or why not.
#[derive(Clone, Copy, Debug, Args)]
pub struct Json {
    /// Print JSON (docs/lbctl-json.md)
    #[arg(long)]
    pub json: bool,
}

/// `lbctl service`.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// List services
    #[command(visible_alias = "ls")]
    List(Output),
    /// Show one service with its destinations
    Show {
        /// The service
        service: ServiceName,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Add a service
    Add {
        /// The service
        service: ServiceName,
        /// Its attributes.
        #[command(flatten)]
        attributes: Box<Attributes>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
    /// Change what is named of a service, and leave the rest
    Edit {
        /// The service
        service: ServiceName,
        /// Its attributes.
        #[command(flatten)]
        attributes: Box<Attributes>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
    /// Delete a service with its destinations
    #[command(visible_alias = "rm")]
    Delete {
        /// The service
        service: ServiceName,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
    /// Delete every service
    Clear(Json),
    /// Start the counters of a service, or of all, at zero
    Zero(Zero),
}

/// Of which services to zero the counters.
#[derive(Debug, Args)]
pub struct Zero {
    /// The service; all if none is named
    pub service: Option<ServiceName>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

/// What a service can have.
#[derive(Debug, Args)]
pub struct Attributes {
    /// The scheduler; `lbctl scheduler list` describes them [default: wlc]
    #[arg(long, value_parser = schedulers())]
    pub scheduler: Option<String>,
    /// The scheduler's flags, with commas between them; "" for none
    #[arg(long, value_parser = FlagList)]
    pub flags: Option<String>,
    /// A client stays with its destination for so many seconds [default: 360]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "360",
        value_parser = clap::value_parser!(u32).range(1..=86_400 * 31))]
    pub persistence: Option<u32>,
    /// No persistence
    #[arg(long, conflicts_with_all = ["persistence", "mask"])]
    pub no_persistence: bool,
    /// Clients alike under this IPv4 mask, or in this length of IPv6 prefix, count as one
    #[arg(long)]
    pub mask: Option<String>,
    /// The persistence engine
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(ENGINES))]
    pub engine: Option<String>,
    /// No persistence engine
    #[arg(long, conflicts_with = "engine")]
    pub no_engine: bool,
    /// One-packet scheduling (UDP)
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub one_packet: Option<bool>,
}

fn schedulers() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(SCHEDULERS.into_iter().chain([NO_SCHEDULER]))
}

/// Takes any text: which flags a service can have depends on its scheduler. Completions are offered each flag's name.
#[derive(Clone)]
struct FlagList;

impl TypedValueParser for FlagList {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        text: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let own = schedule::SCHEDULERS.iter().flat_map(|scheduler| scheduler.flags);
        Some(Box::new(["flag-1", "flag-2", "flag-3"].iter().chain(own).map(PossibleValue::new)))
    }
}

/// `lbctl destination`.
#[derive(Debug, Subcommand)]
pub enum Destination {
    /// List destinations
    #[command(visible_alias = "ls")]
    List {
        /// Of this service only
        service: Option<ServiceName>,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Show one destination
    Show {
        /// The service
        service: ServiceName,
        /// The destination
        destination: DestinationName,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Add a destination
    Add(Box<DestinationWords>),
    /// Change what is named of a destination, and leave the rest
    Edit(Box<DestinationWords>),
    /// Delete a destination
    #[command(visible_alias = "rm")]
    Delete {
        /// The service
        service: ServiceName,
        /// The destination
        destination: DestinationName,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
}

/// A destination and what it can have.
#[derive(Debug, Args)]
pub struct DestinationWords {
    /// The service
    pub service: ServiceName,
    /// The destination
    pub destination: DestinationName,
    /// How packets reach it [default: dr]
    #[arg(long)]
    pub method: Option<Method>,
    /// Its share of new connections; 0 for none [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    pub weight: Option<u32>,
    /// Connections at which it counts as overloaded; 0 for never
    #[arg(long, value_name = "CONNECTIONS")]
    pub upper: Option<u32>,
    /// Connections below which it no longer does; 0 for three quarters of the upper threshold
    #[arg(long, value_name = "CONNECTIONS")]
    pub lower: Option<u32>,
    /// What a tunnelled packet is wrapped in
    #[arg(long)]
    pub tunnel: Option<Encapsulation>,
    /// The outer UDP port (gue)
    #[arg(long, value_name = "PORT")]
    pub tunnel_port: Option<u16>,
    /// The outer checksum
    #[arg(long, value_name = "CHECKSUM")]
    pub tunnel_checksum: Option<Checksum>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

/// Forwarding methods.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Method {
    /// Direct routing (LVS/DR)
    #[value(alias = "direct-routing")]
    Dr,
    /// Masquerading (LVS/NAT)
    #[value(alias = "masquerade")]
    Nat,
    /// Tunnelling (LVS/TUN)
    Tunnel,
}

/// What a tunnelled packet is wrapped in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Encapsulation {
    /// IP in IP
    Ipip,
    /// Generic UDP encapsulation
    Gue,
    /// GRE
    Gre,
}

/// The checksum of a tunnel's outer header.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Checksum {
    /// None
    None,
    /// Of the whole outer packet
    Full,
    /// GUE's remote checksum offload
    Remote,
}

/// `lbctl connection`.
#[derive(Debug, Subcommand)]
pub enum Connection {
    /// List connections and persistence templates
    #[command(visible_alias = "ls")]
    List {
        /// Of this client only: an address, with or without its port
        #[arg(long)]
        client: Option<DestinationName>,
        /// To this virtual address only, with or without a port
        #[arg(long = "virtual", value_name = "VIRTUAL")]
        virtual_address: Option<DestinationName>,
        /// On this destination only, with or without a port
        #[arg(long)]
        destination: Option<DestinationName>,
        /// In this state only, as the list names it
        #[arg(long)]
        state: Option<String>,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
}

/// `lbctl stats`.
#[derive(Debug, Subcommand)]
pub enum Stats {
    /// List what services and destinations have counted
    #[command(visible_aliases = ["ls", "show"])]
    List {
        /// This service only
        service: Option<ServiceName>,
        /// Counts per second instead
        #[arg(long)]
        rates: bool,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Start the counters of a service, or of all, at zero
    Zero(Zero),
}

/// `lbctl timeout`.
#[derive(Debug, Subcommand)]
pub enum Timeout {
    /// Show the timeouts, in seconds
    #[command(visible_alias = "list")]
    Show(Output),
    /// Set timeouts, in seconds; what is not named stays
    Set {
        /// Idle TCP connections in ESTABLISHED
        #[arg(long, value_name = "SECONDS")]
        tcp: Option<u32>,
        /// TCP connections in FIN_WAIT
        #[arg(long, value_name = "SECONDS")]
        tcp_fin: Option<u32>,
        /// UDP
        #[arg(long, value_name = "SECONDS")]
        udp: Option<u32>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
}

/// `lbctl sysctl`.
#[derive(Debug, Subcommand)]
pub enum Sysctl {
    /// List sysctls with their values, as sysctl(8) does
    #[command(visible_alias = "ls")]
    List {
        /// With what each does, takes and begins with
        #[arg(long)]
        describe: bool,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Print the value of one
    #[command(visible_alias = "show")]
    Get {
        /// Its name, with or without net.ipv4.vs.
        #[arg(value_parser = SysctlName)]
        name: String,
        /// How to print it.
        #[command(flatten)]
        output: Output,
    },
    /// Set one
    Set {
        /// Its name, with or without net.ipv4.vs.; NAME=VALUE does, too
        #[arg(value_parser = SysctlName)]
        name: String,
        /// Its value
        #[arg(num_args = 0..=2, allow_negative_numbers = true)]
        value: Vec<String>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
}

/// Reads the name of a sysctl, and what follows it after `=`.
#[derive(Clone, Debug)]
pub struct SysctlName;

impl TypedValueParser for SysctlName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        let text = value.to_string_lossy().into_owned();
        let name = text.split('=').next().unwrap_or_default().trim();
        if sysctl::find(name).is_some() {
            return Ok(text);
        }
        let mut error = clap::Error::new(ErrorKind::InvalidValue).with_cmd(command);
        if let Some(argument) = argument {
            error.insert(ContextKind::InvalidArg, ContextValue::String(argument.to_string()));
        }
        error.insert(ContextKind::InvalidValue, ContextValue::String(name.to_owned()));
        let short = name.strip_prefix(sysctl::PREFIX).unwrap_or(name);
        let names = sysctl::DEFINITIONS.iter().map(|d| d.name);
        match crate::suggest::nearest(short, names.clone()) {
            Some(nearest) => {
                error.insert(ContextKind::SuggestedValue, ContextValue::String(nearest));
            }
            None => {
                let names = names.map(str::to_owned).collect();
                error.insert(ContextKind::ValidValue, ContextValue::Strings(names));
            }
        }
        Err(error)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(sysctl::DEFINITIONS.iter().map(|d| PossibleValue::new(d.name).help(d.what))))
    }
}

/// `lbctl scheduler`.
#[derive(Debug, Subcommand)]
pub enum Scheduler {
    /// List schedulers
    #[command(visible_alias = "ls")]
    List(Output),
}

/// Which end of the synchronisation.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Role {
    /// Sends connections
    Master,
    /// Receives them
    Backup,
}

/// `lbctl mark`.
#[derive(Debug, Subcommand)]
pub enum Mark {
    /// List marking rules, in the order in which they are asked
    #[command(visible_alias = "ls")]
    List(Output),
    /// Add a rule, to be asked after all others; the first that takes a packet marks it
    Add(MarkWords),
    /// Delete the rule that says all of this and no more
    Delete(MarkWords),
    /// Delete every rule
    Clear(Json),
}

/// A marking rule. What is not named is not looked at.
#[derive(Debug, Args)]
pub struct MarkWords {
    /// The mark, from 1 to 4294967295
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub mark: u32,
    /// tcp, udp or sctp
    #[arg(long, value_parser = mark::protocol)]
    pub protocol: Option<Protocol>,
    /// The network it comes from
    #[arg(long, value_name = "NETWORK", value_parser = mark::network)]
    pub from: Option<IpNet>,
    /// The network it goes to
    #[arg(long, value_name = "NETWORK", value_parser = mark::network)]
    pub to: Option<IpNet>,
    /// The ports it comes from, as 80 or 8000-8099
    #[arg(long, value_name = "PORTS")]
    pub from_ports: Option<PortRange>,
    /// The ports it goes to
    #[arg(long, value_name = "PORTS")]
    pub to_ports: Option<PortRange>,
    /// The name of director's port that receives it
    #[arg(long, value_name = "NAME")]
    pub in_port: Option<String>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

impl MarkWords {
    /// The rule.
    pub fn rule(&self) -> MarkRule {
        let Self { mark, protocol, from, to, from_ports, to_ports, in_port, json: _ } = self;
        MarkRule {
            mark: *mark,
            protocol: *protocol,
            from: *from,
            to: *to,
            from_ports: *from_ports,
            to_ports: *to_ports,
            in_port: in_port.clone(),
        }
    }
}

/// `lbctl daemon`.
#[derive(Debug, Subcommand)]
pub enum Daemon {
    /// List synchronisation daemons
    #[command(visible_alias = "ls")]
    List(Output),
    /// Start one
    Start {
        /// Which end
        role: Role,
        /// The interface it multicasts on
        #[arg(long)]
        interface: String,
        /// Tells several pairs on one network apart; 0 takes every id
        #[arg(long, default_value_t = 0)]
        sync_id: u8,
        /// The longest message, in bytes
        #[arg(long, value_name = "BYTES")]
        max_length: Option<u16>,
        /// The multicast group
        #[arg(long)]
        group: Option<std::net::IpAddr>,
        /// The UDP port
        #[arg(long)]
        port: Option<u16>,
        /// The multicast TTL or hop limit
        #[arg(long)]
        ttl: Option<u8>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
    /// Stop one
    Stop {
        /// Which end
        role: Role,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
}

/// `lbctl network`.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// List routes and neighbours as workers see them
    #[command(visible_aliases = ["ls", "show"])]
    List(Output),
}

/// `lbctl save`.
#[derive(Debug, Args)]
pub struct Save {
    /// With what ipvsadm loses: thresholds, timeouts, synchronisation daemons and sysctls
    #[arg(long)]
    pub full: bool,
    /// Print JSON (docs/lbctl-json.md), which `lbctl restore` reads as well
    #[arg(long)]
    pub json: bool,
}

/// `lbctl restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The file; standard input if none is named
    pub file: Option<PathBuf>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

impl Command {
    /// True if JSON is wanted.
    pub fn json(&self) -> bool {
        match self {
            Self::Service(
                Service::Add { json, .. }
                | Service::Edit { json, .. }
                | Service::Delete { json, .. }
                | Service::Clear(json)
                | Service::Zero(Zero { json, .. }),
            )
            | Self::Destination(Destination::Delete { json, .. })
            | Self::Stats(Stats::Zero(Zero { json, .. }))
            | Self::Timeout(Timeout::Set { json, .. })
            | Self::Sysctl(Sysctl::Set { json, .. })
            | Self::Mark(
                Mark::Add(MarkWords { json, .. }) | Mark::Delete(MarkWords { json, .. }) | Mark::Clear(json),
            )
            | Self::Daemon(Daemon::Start { json, .. } | Daemon::Stop { json, .. })
            | Self::Restore(Restore { json, .. }) => json.json,
            Self::Destination(Destination::Add(words) | Destination::Edit(words)) => words.json.json,
            Self::Service(Service::List(output) | Service::Show { output, .. })
            | Self::Destination(Destination::List { output, .. } | Destination::Show { output, .. })
            | Self::Connection(Connection::List { output, .. })
            | Self::Stats(Stats::List { output, .. })
            | Self::Timeout(Timeout::Show(output))
            | Self::Sysctl(Sysctl::List { output, .. } | Sysctl::Get { output, .. })
            | Self::Mark(Mark::List(output))
            | Self::Scheduler(Scheduler::List(output))
            | Self::Daemon(Daemon::List(output))
            | Self::Network(Network::List(output))
            | Self::Counters(output)
            | Self::Ports(output)
            | Self::Status(output) => output.json,
            Self::Save(save) => save.json,
            Self::Completions { .. } => false,
        }
    }
}
