//! What is one for all services: timeouts, sysctls, marks, local addresses, daemons; and saving and restoring.

use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::super::name::ServiceName;
use super::{Json, Output};
use crate::ipvsadm::parse::LONGEST_TIMEOUT;
use crate::local::LocalAddresses;
use crate::mark::{self, MarkRule};
use crate::model::{PortRange, Protocol};
use crate::snat::{SnatRule, Translation};
use crate::sysctl;

/// `lbctl timeout`.
#[derive(Debug, Subcommand)]
pub enum Timeout {
    /// Show the timeouts, in seconds
    #[command(visible_alias = "list")]
    Show(Output),
    /// Set timeouts, in seconds; what is not named stays
    Set {
        /// Idle TCP connections in ESTABLISHED
        #[arg(long, value_name = "SECONDS", value_parser = timeout())]
        tcp: Option<u32>,
        /// TCP connections in FIN_WAIT
        #[arg(long, value_name = "SECONDS", value_parser = timeout())]
        tcp_fin: Option<u32>,
        /// UDP
        #[arg(long, value_name = "SECONDS", value_parser = timeout())]
        udp: Option<u32>,
        /// How to answer.
        #[command(flatten)]
        json: Json,
    },
}

/// What ipvsadm takes for a timeout, 0 for none to be changed.
fn timeout() -> impl TypedValueParser {
    clap::value_parser!(u32).range(..=LONGEST_TIMEOUT)
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

/// `lbctl local-address`.
#[derive(Debug, Subcommand)]
pub enum LocalAddress {
    /// List local addresses
    #[command(visible_alias = "ls")]
    List(Output),
    /// Add local addresses
    Add(LocalAddressWords),
    /// Delete the local addresses of which all of this was said and no more
    Delete(LocalAddressWords),
    /// Delete all local addresses
    Clear(Json),
}

/// Local addresses.
#[derive(Debug, Args)]
pub struct LocalAddressWords {
    /// An address of director's, or a network of no more than 256
    #[arg(value_parser = mark::network)]
    pub addresses: IpNet,
    /// For this service only
    #[arg(long)]
    pub service: Option<ServiceName>,
    /// For servers that are reached by director's port of this name only
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// The ports to be used [default: 1024-65535]
    #[arg(long, value_name = "PORTS")]
    pub ports: Option<PortRange>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

impl LocalAddressWords {
    /// The addresses with what was said of them.
    pub fn addresses(&self) -> LocalAddresses {
        let Self { addresses, service, port, ports, json: _ } = self;
        let service = service.map(|ServiceName(service)| service);
        LocalAddresses { addresses: *addresses, service, port: port.clone(), ports: *ports }
    }
}

/// `lbctl snat`.
#[derive(Debug, Subcommand)]
pub enum Snat {
    /// List SNAT rules, in the order in which they are asked, with what they have counted
    #[command(visible_alias = "ls")]
    List(Output),
    /// Add a rule; the first that takes a connection decides
    Add {
        /// The rule.
        #[command(flatten)]
        words: SnatWords,
        /// The place that it is to have, from 1 [default: behind all others]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        position: Option<u32>,
    },
    /// Delete the rule that says all of this and no more; its connections go on
    Delete(SnatWords),
    /// Delete every rule
    Clear(Json),
}

/// A SNAT rule. What is not named is not looked at.
#[derive(Debug, Args)]
pub struct SnatWords {
    /// The source that connections get: addresses, as 198.51.100.40, 198.51.100.40-198.51.100.47 or 198.51.100.40/29, with
    /// commas between several; `masquerade` for the one that Linux would send from; `none` to leave them to Linux
    #[arg(value_name = "ADDRESSES", value_parser = str::parse::<Translation>)]
    pub translate_to: Translation,
    /// tcp, udp or sctp
    #[arg(long, value_parser = mark::protocol)]
    pub protocol: Option<Protocol>,
    /// The network that connections come from
    #[arg(long, value_name = "NETWORK", value_parser = mark::network)]
    pub from: Option<IpNet>,
    /// The network that they go to
    #[arg(long, value_name = "NETWORK", value_parser = mark::network)]
    pub to: Option<IpNet>,
    /// The name of director's port by which they leave
    #[arg(long, value_name = "NAME")]
    pub out_port: Option<String>,
    /// The ports to be used [default: 1024-65535; with masquerade 61000-65535]
    #[arg(long, value_name = "PORTS")]
    pub ports: Option<PortRange>,
    /// How to answer.
    #[command(flatten)]
    pub json: Json,
}

impl SnatWords {
    /// The rule.
    pub fn rule(&self) -> SnatRule {
        let Self { translate_to, protocol, from, to, out_port, ports, json: _ } = self;
        SnatRule {
            translate_to: translate_to.clone(),
            protocol: *protocol,
            from: *from,
            to: *to,
            out_port: out_port.clone(),
            ports: *ports,
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
