//! The command line.

use std::net::{Ipv4Addr, SocketAddrV4};

use clap::{Args, Parser, Subcommand};
use dataplane::network::MacAddr;

use crate::flows::Order;
use crate::frames::{Addressing, Clients, Protocol, Side};
use crate::tester::DeviceConfig;

/// Loads a load balancer, or whatever else sends frames back, and measures what it does to them.
///
/// Frames of many flows leave by one DPDK device, of any kind, and are expected back by the same: sent on by a director
/// (direct routing, or NAT with real servers behind the generator's MAC address), by dpdk-testpmd, or by a cable. Each
/// carries a number and the time it left. Counted are frames lost, damaged, reordered and duplicated; timed is how long
/// they were away.
///
/// Examples:
///
///   pktgen --device 0000:3b:00.0 --to-mac 02:00:00:00:00:01 --flows 1M --rate 10M --seconds 10
///
///   pktgen --device net_memif0,role=client,socket=wire --to-mac 02:00:00:00:00:01 --search --json
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, verbatim_doc_comment)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    /// How the generator is started.
    #[command(flatten)]
    pub start: Start,
    /// What is to be done.
    #[command(flatten)]
    pub job: Option<Job>,
    /// Something else than one job.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Something else than one job.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads jobs from standard input, each a line of the options of one job, and answers each with a line of JSON.
    /// Devices stay open from one job to the next, until a job has --close.
    Batch(Start),
}

/// How the generator is started.
#[derive(Debug, Args)]
pub struct Start {
    /// The core to run on [default: the last one]
    #[arg(long)]
    pub core: Option<usize>,
    /// Megabytes for buffers where there are no free huge pages.
    #[arg(long, default_value_t = 256)]
    pub memory: u32,
    /// Another argument for DPDK's environment abstraction layer; may be given several times.
    #[arg(long, allow_hyphen_values = true)]
    pub eal: Vec<String>,
    /// PCI devices that later jobs of a batch will name.
    #[arg(long)]
    pub pci: Vec<String>,
}

/// A line of a batch.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
pub struct Line {
    /// What is to be done.
    #[command(flatten)]
    pub job: Job,
}

/// One measurement.
#[derive(Clone, Debug, Args)]
pub struct Job {
    /// The device: a PCI address, or a driver with its options.
    #[arg(long)]
    pub device: String,
    /// Queues in each direction; each flow keeps to one.
    #[arg(long, default_value_t = 1)]
    pub queues: u16,
    /// Descriptors of each queue.
    #[arg(long, default_value_t = 1024)]
    pub descriptors: u16,
    /// Buffers of the device; more than its queues hold.
    #[arg(long, default_value_t = 8191)]
    pub mbufs: u32,
    /// Gives the device back and does nothing else.
    #[arg(long)]
    pub close: bool,

    /// The balancer's MAC address.
    #[arg(long, default_value = "02:00:00:00:00:01")]
    pub to_mac: MacAddr,
    /// The MAC address frames are from [default: the device's]
    #[arg(long)]
    pub from_mac: Option<MacAddr>,
    /// The virtual service.
    #[arg(long, default_value = "198.51.100.8:80")]
    pub to: SocketAddrV4,
    /// The first client's address. Each client has 4096 flows.
    #[arg(long, default_value = "10.0.0.0")]
    pub clients: Ipv4Addr,
    /// UDP or TCP.
    #[arg(long, default_value = "udp")]
    pub protocol: Protocol,
    /// Number of flows; k, M and G are understood.
    #[arg(long, default_value = "1", value_parser = count)]
    pub flows: u32,
    /// Frames' length in bytes, without the frame check sequence.
    #[arg(long, default_value_t = 60)]
    pub size: usize,
    /// Take the flows one after the other, not at random.
    #[arg(long)]
    pub in_turn: bool,
    /// Who sends. Servers answer from where their flow's first frame went to (NAT).
    #[arg(long, default_value = "clients")]
    pub from: Side,
    /// By how many queues the servers' frames are off their clients' queue.
    #[arg(long, default_value_t = 0)]
    pub reply_shift: usize,

    /// Frames a second; k, M and G are understood [default: as many as the wire takes]
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// How long to send.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// How long to send before anything is counted.
    #[arg(long, default_value_t = 0.0)]
    pub warm_up: f64,
    /// New flows a second, among the others; each frame of them opens one.
    #[arg(long, value_parser = rate)]
    pub new: Option<f64>,
    /// Do not open the flows first. Otherwise one frame of each is sent before anything is counted: with TCP a SYN, and
    /// then an ACK.
    #[arg(long)]
    pub no_open: bool,
    /// When flows are opened, the servers answer (NAT with TCP). So it is when servers send, anyway.
    #[arg(long)]
    pub answer: bool,
    /// Frames a second when flows are opened [default: as many as the wire takes]
    #[arg(long, value_parser = rate)]
    pub open_rate: Option<f64>,
    /// Verify the checksums of every frame that comes back.
    #[arg(long)]
    pub checksums: bool,

    /// Only fills the wire, of whose other end nobody takes anything just now, and takes nothing back. Frames that come back
    /// in the next job count there as stale.
    #[arg(long, conflicts_with_all = ["search", "rate", "warm_up"], requires = "no_open")]
    pub fill: bool,

    /// Looks for the highest rate, up to --rate, at which no more than --loss is lost (RFC 2544, section 26.1), with
    /// trials of --seconds.
    #[arg(long)]
    pub search: bool,
    /// Loss allowed in a trial, in percent of the frames that were due.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// How exactly to search, in percent of the highest rate.
    #[arg(long, default_value_t = 1.0)]
    pub precision: f64,
    /// Trials at one rate, of which one must pass. RFC 2544 has one; more help where the machine itself has pauses.
    #[arg(long, default_value_t = 1)]
    pub attempts: u32,
    /// Seconds after which no other trial of a search begins; what has passed by then is the result.
    #[arg(long, requires = "search")]
    pub deadline: Option<f64>,

    /// Answers in JSON.
    #[arg(long)]
    pub json: bool,
}

impl Job {
    /// How its device is to be set up.
    pub fn device(&self) -> DeviceConfig {
        let Self { queues, descriptors, mbufs, .. } = *self;
        DeviceConfig { name: self.device.clone(), queues, descriptors, mbufs }
    }

    /// Whether it uses a memif without copies, whose driver keeps what is in its rings when it is closed (DPDK 22.11).
    pub fn keeps_buffers(&self) -> bool {
        self.device.starts_with("net_memif") && self.device.split(',').any(|option| option == "zero-copy=yes")
    }

    /// How its frames are addressed, from a device with this address.
    pub fn addressing(&self, own: MacAddr) -> Addressing {
        Addressing {
            protocol: self.protocol,
            bytes: self.size,
            clients: Clients::from(self.clients),
            service: self.to,
            source: self.from_mac.unwrap_or(own),
            destination: self.to_mac,
        }
    }

    /// In which order its flows come.
    pub fn order(&self) -> Order {
        if self.in_turn { Order::InTurn } else { Order::Random }
    }
}

/// A number with k, M or G for thousands, millions and thousands of millions.
fn rate(text: &str) -> Result<f64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        Some(b'G') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let number = digits.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number
        .map(|number| number * unit)
        .ok_or_else(|| "write a number above 0, as in 64000, 64k or 1.5M".to_owned())
}

fn count(text: &str) -> Result<u32, String> {
    let number = rate(text)?;
    let count = number as u32;
    if f64::from(count) == number {
        Ok(count)
    } else {
        Err("write a whole number, as in 64000, 64k or 1.5M".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn numbers_have_units() {
        for (text, expected) in [("64000", 64e3), ("64k", 64e3), ("1.5M", 1.5e6), ("1G", 1e9)] {
            assert_eq!(rate(text), Ok(expected));
        }
        for text in ["", "M", "0", "-1", "1K", "nan", "inf", "1 M"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!(count("10k"), Ok(10_000));
        assert!(count("1.5").is_err() && count("5G").is_err());
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        Line::command().debug_assert();
    }

    #[test]
    fn a_job_says_what_it_needs() {
        let parsed = |text: &str| Options::try_parse_from(text.split(' '));
        assert!(parsed("pktgen --device net_ring0 --flows 1M --from servers").unwrap().job.is_some());
        let batch = parsed("pktgen batch --core 1").unwrap().command;
        assert!(matches!(batch, Some(Command::Batch(Start { core: Some(1), .. }))), "{batch:?}");
        for text in ["pktgen", "pktgen --flows 1M"] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("--device"), "{error}");
        }
    }
}
