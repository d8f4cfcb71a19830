//! What can be typed in lbctl's own language.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

mod services;
mod settings;

pub use services::{
    Announce, Attributes, Checksum, Connection, Destination, DestinationWords, Encapsulation, Method,
    Service, Stats, Zero,
};
pub use settings::{
    Daemon, LocalAddress, LocalAddressWords, Mark, MarkWords, Network, Restore, Role, Save, Scheduler, Snat,
    SnatWords, Sysctl, SysctlName, Timeout,
};

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
    /// Local addresses, which servers by fullnat take for their clients'
    #[command(subcommand, visible_alias = "laddr")]
    LocalAddress(LocalAddress),
    /// SNAT rules, for connections that servers open outward
    #[command(subcommand)]
    Snat(Snat),
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
            | Self::LocalAddress(
                LocalAddress::Add(LocalAddressWords { json, .. })
                | LocalAddress::Delete(LocalAddressWords { json, .. })
                | LocalAddress::Clear(json),
            )
            | Self::Snat(
                Snat::Add { words: SnatWords { json, .. }, .. }
                | Snat::Delete(SnatWords { json, .. })
                | Snat::Clear(json),
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
            | Self::LocalAddress(LocalAddress::List(output))
            | Self::Snat(Snat::List(output))
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
