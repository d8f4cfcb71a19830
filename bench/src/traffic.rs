//! The traffic: flows by number, and frames of them that are made by changing a few bytes of a template.
//!
//! All checksums are right, so that whatever passes the director can be checked by them.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::Context;

use clap::ValueEnum;
use dataplane::network::MacAddr;
use dataplane::packet::checksum::Difference;
use dataplane::packet::ethernet;
use etherparse::{PacketBuilder, TransportHeader};

/// The director's own address on the wire.
pub const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The router that all clients are behind.
pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The router's address on the director's link.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The virtual service's address and port.
pub const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 8), 80);
/// The real servers' port.
pub const SERVER_PORT: u16 = 8080;
/// The first of the director's local addresses, which real servers by FULLNAT answer, and how many there are: enough for every flow
/// there can be, with ports to spare.
pub const LOCALS: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 0, 2, 64), 128);
/// Real servers: enough for their turns to matter, few enough that their counters stay in the first-level cache.
pub const SERVERS: u8 = 8;

/// The time to live that frames are sent with.
pub const TTL: u8 = 64;

/// Clients are 10.0.0.0/8, each with as many ports as these bits count, from [`FIRST_PORT`] on.
const PORT_BITS: u32 = 12;
const FIRST_PORT: u16 = 1024;
const CLIENTS: u32 = u32::from_be_bytes([10, 0, 0, 0]);

/// The most flows there are numbers for.
pub const MAX_FLOWS: u32 = 100_000_000;

/// The bytes of a template that are written into every frame: all headers, and no frame is shorter.
const HEAD: usize = 60;
const IP: usize = ethernet::HEADER;
const TRANSPORT: usize = IP + 20;

/// What the flows are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

impl Protocol {
    /// The one that reports name so.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let found = [Protocol::Udp, Protocol::Tcp].into_iter().find(|protocol| protocol.name() == name);
        found.with_context(|| format!("there is no protocol {name}"))
    }

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        }
    }
}

/// Where in its connection's life a packet is. To UDP it is all one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first packet of a side: SYN from the client, SYN and ACK from the server.
    Opening,
    /// A packet of an established connection.
    Established,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// Clients, to the virtual service.
    Clients,
    /// Real servers, to clients. Flow number `f` is of the server at `f` modulo the list's length.
    Servers(&'a [u8]),
    /// Real servers that answer local addresses of the director's, which is all that they know of their clients: flow number `f` is
    /// what the list has at `f`.
    Answering(&'a Rc<[Answer]>),
}

/// Where a real server by FULLNAT answers to.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The local address.
    pub address: Ipv4Addr,
    /// The local port.
    pub port: u16,
    /// The real server's number.
    pub server: u8,
}

/// The address and MAC address of real server `number`.
pub fn server(number: u8) -> (Ipv4Addr, MacAddr) {
    (Ipv4Addr::new(192, 0, 2, 1 + number), MacAddr([2, 0, 0, 0, 1, number]))
}

/// The client's address, as a number, and port of a flow.
#[inline]
fn client(flow: u32) -> (u32, u16) {
    (CLIENTS + (flow >> PORT_BITS), FIRST_PORT + (flow & ((1 << PORT_BITS) - 1)) as u16)
}

/// The number of the flow of this client.
pub fn flow_of(address: [u8; 4], port: u16) -> Option<u32> {
    let host = u32::from_be_bytes(address).checked_sub(CLIENTS)?;
    let port = u32::from(port.checked_sub(FIRST_PORT)?);
    (port < 1 << PORT_BITS).then_some(host << PORT_BITS | port)
}

/// A frame whose client is still to be filled in.
#[derive(Clone)]
struct Template {
    frame: Vec<u8>,
    head: [u8; HEAD],
    ip_check: u16,
    transport_check: u16,
}

/// Frames of one kind.
#[derive(Clone)]
pub struct Stream {
    templates: Vec<Template>,
    /// Where the client's address, the client's port and the transport's checksum are.
    address_at: usize,
    port_at: usize,
    check_at: usize,
    /// A checksum that comes out as 0 is written as all ones (RFC 768).
    is_udp: bool,
    /// Whom flows are to, where that is not said by their numbers.
    answers: Option<Rc<[Answer]>>,
}

impl Stream {
    /// Frames of `bytes` bytes, without the frame check sequence.
    pub fn new(protocol: Protocol, from: Sender<'_>, phase: Phase, bytes: usize) -> anyhow::Result<Self> {
        let nobody = (Ipv4Addr::UNSPECIFIED, 0);
        let (templates, address_at, port_at) = match from {
            Sender::Clients => {
                (vec![template(protocol, phase, GATEWAY, nobody, SERVICE, bytes)?], IP + 12, TRANSPORT)
            }
            Sender::Servers(turns) => {
                let template = |&number: &u8| {
                    let (address, mac) = server(number);
                    template(protocol, phase, mac, (address, SERVER_PORT), nobody, bytes)
                };
                (turns.iter().map(template).collect::<anyhow::Result<_>>()?, IP + 16, TRANSPORT + 2)
            }
            Sender::Answering(_) => {
                let template = |number: u8| {
                    let (address, mac) = server(number);
                    template(protocol, phase, mac, (address, SERVICE.1), nobody, bytes)
                };
                ((0..SERVERS).map(template).collect::<anyhow::Result<_>>()?, IP + 16, TRANSPORT + 2)
            }
        };
        let answers = if let Sender::Answering(answers) = from { Some(answers.clone()) } else { None };
        let check_at = TRANSPORT + if protocol == Protocol::Udp { 6 } else { 16 };
        Ok(Self { templates, address_at, port_at, check_at, is_udp: protocol == Protocol::Udp, answers })
    }

    /// A whole frame of nobody, for [`Stream::write`] to write flows into.
    pub fn blank(&self) -> &[u8] {
        self.templates.first().map_or(&[], |template| &template.frame)
    }

    /// Makes `frame`, which once was [`Stream::blank`], one of this flow: writes every header.
    #[inline]
    pub fn write(&self, frame: &mut [u8], flow: u32) {
        let Some(frame) = frame.first_chunk_mut::<HEAD>() else { return };
        let (template, (address, port)) = match (&self.templates[..], &self.answers) {
            (several, Some(answers)) => {
                let Some(answer) = answers.get(flow as usize) else { return };
                (&several[usize::from(answer.server)], (answer.address.into(), answer.port))
            }
            ([only], None) => (only, client(flow)),
            (several, None) => (&several[flow as usize % several.len()], client(flow)),
        };
        let change = Difference::default().replace_u32(0, address);
        let ip_check = change.apply(template.ip_check);
        let check = match change.replace_u16(0, port).apply(template.transport_check) {
            0 if self.is_udp => 0xffff,
            check => check,
        };
        let mut head = template.head;
        head[IP + 10..IP + 12].copy_from_slice(&ip_check.to_be_bytes());
        head[self.address_at..self.address_at + 4].copy_from_slice(&address.to_be_bytes());
        head[self.port_at..self.port_at + 2].copy_from_slice(&port.to_be_bytes());
        head[self.check_at..self.check_at + 2].copy_from_slice(&check.to_be_bytes());
        *frame = head;
    }
}

/// A frame to the director. Nobody's address and port in it are zeros.
fn template(
    protocol: Protocol,
    phase: Phase,
    mac: MacAddr,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    bytes: usize,
) -> anyhow::Result<Template> {
    let ip = PacketBuilder::ethernet2(mac.0, DIRECTOR.0).ipv4(source.0.octets(), destination.0.octets(), TTL);
    let mut frame = Vec::with_capacity(bytes);
    let payload = |headers: usize| {
        let length = bytes.checked_sub(headers).filter(|_| bytes >= HEAD);
        length.map(|n| vec![0; n]).ok_or_else(|| anyhow::anyhow!("a frame has at least {HEAD} bytes"))
    };
    match protocol {
        Protocol::Udp => {
            let builder = ip.udp(source.1, destination.1);
            let payload = payload(builder.size(0))?;
            builder.write(&mut frame, &payload)?;
        }
        Protocol::Tcp => {
            let segment = ip.tcp(source.1, destination.1, 1, 65535);
            let from_client = source.1 == 0;
            let builder = match phase {
                Phase::Opening if from_client => segment.syn(),
                Phase::Opening => segment.syn().ack(1),
                Phase::Established => segment.ack(1),
            };
            let payload = payload(builder.size(0))?;
            builder.write(&mut frame, &payload)?;
        }
    }
    let packet = headers(&frame)?;
    let transport_check = match packet.transport {
        TransportHeader::Udp(udp) => udp.checksum,
        TransportHeader::Tcp(tcp) => tcp.checksum,
        _ => anyhow::bail!("neither UDP nor TCP"),
    };
    let head = *frame.first_chunk().context("shorter than its headers")?;
    Ok(Template { head, ip_check: packet.ip.header_checksum, transport_check, frame })
}

/// A frame's headers.
pub struct Headers<'a> {
    /// The frame header.
    pub ethernet: etherparse::Ethernet2Header,
    /// The IP header.
    pub ip: etherparse::Ipv4Header,
    /// The header of UDP or TCP.
    pub transport: TransportHeader,
    /// What follows it.
    pub payload: &'a [u8],
}

impl Headers<'_> {
    /// Source port and destination port.
    pub fn ports(&self) -> (u16, u16) {
        match &self.transport {
            TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
            TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            _ => (0, 0),
        }
    }

    /// Where a real server answers this to that is from a client's or a local address.
    pub fn answer(&self) -> Option<Answer> {
        let (port, _) = self.ports();
        let [.., number] = self.ip.destination;
        let server = number.checked_sub(1).filter(|number| *number < SERVERS)?;
        Some(Answer { address: self.ip.source.into(), port, server })
    }

    /// The number of the flow of the client that sent this.
    pub fn source_flow(&self) -> Option<u32> {
        flow_of(self.ip.source, self.ports().0)
    }
}

/// Takes a frame to pieces.
pub fn headers(frame: &[u8]) -> anyhow::Result<Headers<'_>> {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame)?;
    match (packet.link, packet.net, packet.transport) {
        (
            Some(etherparse::LinkHeader::Ethernet2(ethernet)),
            Some(etherparse::NetHeaders::Ipv4(ip, _)),
            Some(transport),
        ) => Ok(Headers { ethernet, ip, transport, payload: packet.payload.slice() }),
        _ => anyhow::bail!("not UDP or TCP over IPv4 over Ethernet"),
    }
}
