//! What was on a wire: tcpdump in the switch, its file read back as frames.
//!
//! It must not miss the first frame: [`Capture::start`] returns only once tcpdump listens.

use std::fs::File;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::TransportSlice;
use pcap_file::pcap::PcapReader;
use rustix::process::Signal;

use crate::host::Host;
use crate::process::Process;
use crate::wait_until;

/// A tcpdump that is running on one port of the switch.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// An IPv4 TCP segment as it was on the wire. All numbers in host order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Link-layer source.
    pub source_mac: [u8; 6],
    /// Link-layer destination.
    pub destination_mac: [u8; 6],
    /// IPv4 source.
    pub source: Ipv4Addr,
    /// IPv4 destination.
    pub destination: Ipv4Addr,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub destination_port: u16,
    /// Time to live.
    pub ttl: u8,
    /// Connection opening: SYN is set (the answer to it has `ack` as well).
    pub syn: bool,
    /// ACK is set.
    pub ack: bool,
    /// RST is set.
    pub rst: bool,
    /// Bytes of the whole IP packet, as its header tells; what IPVS counts.
    pub length: usize,
    /// Bytes of TCP payload, as the IP header tells.
    pub payload: usize,
}

impl Capture {
    pub(crate) fn start(switch: &Host, port: &str) -> Result<Self> {
        let file = switch.directory().join(format!("{port}.pcap"));
        // Whole frames: pcap-file takes one that was cut short for a broken file. They belong to root like everything here: -Z.
        let line = format!("tcpdump -i {port} -n -B 16384 -U -Z root -w {} tcp", file.display());
        let mut tcpdump = switch.spawn(&line)?;
        wait_until(&format!("tcpdump listens on {port}"), Duration::from_secs(10), || {
            ensure!(tcpdump.ended()?.is_none(), "tcpdump has ended: {}", tcpdump.log_tail());
            Ok(tcpdump.log().contains("listening on"))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture and reads it.
    ///
    /// # Errors
    /// When tcpdump did not see everything, or its file does not hold Ethernet frames.
    pub fn finish(mut self) -> Result<Vec<Frame>> {
        // Packets lie in the kernel's ring for up to a second before tcpdump gets to see them.
        std::thread::sleep(Duration::from_millis(1200));
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(Duration::from_secs(10))?;
        let log = self.tcpdump.log();
        ensure!(log.contains("0 packets dropped by kernel"), "tcpdump missed some: {log}");
        self.read().with_context(|| format!("cannot read {}", self.file.display()))
    }

    fn read(&self) -> Result<Vec<Frame>> {
        let mut reader = PcapReader::new(BufReader::new(File::open(&self.file)?))?;
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            frames.extend(parse(&packet?.data));
        }
        Ok(frames)
    }
}

/// The frame, if it is TCP over IPv4.
fn parse(bytes: &[u8]) -> Option<Frame> {
    // Captures are cut short, so lengths in the headers reach past the end.
    let packet = etherparse::LaxSlicedPacket::from_ethernet(bytes).ok()?;
    let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &packet.link else { return None };
    let Some(etherparse::LaxNetSlice::Ipv4(ip)) = &packet.net else { return None };
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let header = ip.header();
    let headers = header.slice().len() + tcp.header_slice().len();
    Some(Frame {
        source_mac: ethernet.source(),
        destination_mac: ethernet.destination(),
        source: header.source_addr(),
        destination: header.destination_addr(),
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        ttl: header.ttl(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        rst: tcp.rst(),
        length: usize::from(header.total_len()),
        payload: usize::from(header.total_len()).saturating_sub(headers),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::parse;

    #[test]
    fn a_frame_cut_short_by_the_capture_still_has_its_headers() {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([198, 51, 100, 100], [198, 51, 100, 8], 64)
            .tcp(40000, 80, 1, 1024)
            .syn()
            .write(&mut bytes, &[7; 1000])
            .unwrap();
        let frame = parse(&bytes[..128]).unwrap();
        assert_eq!(frame.destination_mac, [2, 0, 0, 0, 0, 2]);
        assert_eq!(frame.destination.octets(), [198, 51, 100, 8]);
        assert_eq!((frame.source_port, frame.destination_port), (40000, 80));
        assert_eq!((frame.syn, frame.ack, frame.length, frame.payload), (true, false, 1040, 1000));
        assert_eq!(parse(&bytes[..20]), None);
    }
}
