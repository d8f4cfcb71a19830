//! Services, destinations, and what there is to see of them.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use dataplane::schedule;

use super::super::name::{DestinationName, ServiceName};
use super::{Json, Output};
use crate::model::{ENGINES, Mss, NO_SCHEDULER, SCHEDULERS};

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
    /// How destinations by fullnat learn who their client is (TCP)
    #[arg(long, value_name = "HOW")]
    pub announce: Option<Announce>,
    /// They do not learn it
    #[arg(long, conflicts_with = "announce")]
    pub no_announce: bool,
    /// The most that connections may announce as their maximum segment size, in bytes, or auto for what fits (TCP)
    #[arg(long, value_name = "BYTES|auto")]
    pub mss: Option<Mss>,
    /// They may announce any
    #[arg(long, conflicts_with = "mss")]
    pub no_mss: bool,
}

/// How destinations by fullnat learn who their client is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Announce {
    /// By the TCP option that LVS and DPVS use (kind 254)
    Toa,
    /// By a header of the PROXY protocol, version 1
    #[value(name = "proxy-v1")]
    ProxyV1,
    /// By a header of the PROXY protocol, version 2
    #[value(name = "proxy-v2")]
    ProxyV2,
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
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    pub upper: Option<u32>,
    /// Connections below which it no longer does; 0 for three quarters of the upper threshold
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
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
    /// Translation of both addresses (LVS/FULLNAT); needs a local address
    Fullnat,
    /// To this host itself, as they come (LVS/LOCALNODE)
    Local,
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
