//! An access port of a switch, for kernels without VLANs: what a host sends gets the VLAN's tags on its way into the trunk, and what
//! comes for it there loses them. Frames with other tags, or none, are for others.
//!
//! Written after IEEE 802.1Q and not after director, so that it can disagree.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::process::Process;
use crate::topology::Lab;
use crate::wait_until;

/// Where a frame's type, or its first tag, begins.
const TYPE: usize = 12;

/// A tag: its type, and the id in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub kind: u16,
    /// The VLAN's id.
    pub id: u16,
}

impl FromStr for Tag {
    type Err = anyhow::Error;

    /// Reads `8100:10`: the type in hexadecimal, the id.
    fn from_str(text: &str) -> Result<Self> {
        let (kind, id) =
            text.split_once(':').with_context(|| format!("`{text}` is no tag, as 8100:10 is one"))?;
        Ok(Self { kind: u16::from_str_radix(kind, 16)?, id: id.parse()? })
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{}", self.kind, self.id)
    }
}

/// The frame with these tags, the outer one first.
pub fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(TYPE.min(frame.len()));
    let tags = tags.iter().flat_map(|tag| [tag.kind.to_be_bytes(), tag.id.to_be_bytes()].concat());
    [addresses, &tags.collect::<Vec<_>>(), rest].concat()
}

/// The frame without its tags, where they are these, whatever their priority is; `None` for any other.
pub fn untagged(frame: &[u8], tags: &[Tag]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    for (n, tag) in tags.iter().enumerate() {
        let at = TYPE + 4 * n;
        if word(at)? != tag.kind || word(at + 2)? & 0xfff != tag.id {
            return None;
        }
    }
    let rest = TYPE + 4 * tags.len();
    let is_last = !matches!(word(rest)?, 0x8100 | 0x88a8);
    is_last.then(|| [&frame[..TYPE], &frame[rest..]].concat())
}

/// Bytes that the tags of a frame of the usual length may take in addition.
const ROOM: u32 = 8;

impl Lab {
    /// Puts a host that is wired to a port of the switch into a VLAN of that wire: its `eth0` is made anew, behind an access port,
    /// without addresses and routes. What is returned is the access port, to be kept for as long as the host is to be reached.
    ///
    /// # Errors
    /// When a step fails.
    pub fn put_into_vlan(&self, host: &Host, wire: &str, tags: &[Tag]) -> Result<Process> {
        let (switch, name) = (&self.switch, host.name());
        let mac = host.run("cat /sys/class/net/eth0/address")?;
        switch.ip(&format!("link delete {name}"))?;
        let access = format!("{name}-access");
        let mut command = switch.command(crate::director::binary("access-port", "ACCESS_PORT_BIN")?);
        command.args(["--trunk", name, "--access", &access]);
        command.args(tags.iter().map(Tag::to_string));
        let mut process = switch.start(command, "access-port")?;
        wait_until("the access port is there", std::time::Duration::from_secs(10), || {
            ensure!(process.ended()?.is_none(), "access-port has ended: {}", process.log_tail());
            Ok(process.log().contains("ready"))
        })?;
        switch.ip(&format!("link set {name} mtu {}", 1500 + ROOM))?;
        switch.ip(&format!("link set {name} master br-{wire} up"))?;
        switch.ip(&format!("link set {access} netns {}", host.namespace()))?;
        host.ip(&format!("link set {access} name eth0 address {}", mac.trim()))?;
        host.ip("link set eth0 up")?;
        Ok(process)
    }

    /// Lets one of director's wires carry frames of the usual length with two tags. (What a NIC counts apart, Linux counts as part of
    /// a packet.)
    ///
    /// # Errors
    /// When Linux refuses.
    pub fn make_room_for_tags(&self, wire: &str) -> Result<()> {
        let port =
            self.ports.iter().find(|port| port.name == wire).with_context(|| format!("no wire {wire}"))?;
        self.switch.ip(&format!("link set {wire} mtu {}", 1500 + ROOM))?;
        self.director.ip(&format!("link set {} mtu {}", port.device, 1500 + ROOM)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_and_go() {
        let tags = ["88a8:200", "8100:20"].map(|text| text.parse::<Tag>().unwrap());
        let frame: Vec<u8> = [&[7; 12][..], &[8, 0, 0x45, 1, 2]].concat();
        let sent = tagged(&frame, &tags);
        assert_eq!(sent[12..22], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 20, 8, 0]);
        assert_eq!(untagged(&sent, &tags), Some(frame.clone()));
        let mut important = sent.clone();
        important[14] |= 0xe0;
        assert_eq!(untagged(&important, &tags), Some(frame.clone()));
        assert_eq!(untagged(&sent, &tags[..1]), None, "of a VLAN within");
        assert_eq!(untagged(&sent, &tags[1..]), None);
        assert_eq!(untagged(&frame, &tags), None);
        assert_eq!(untagged(&sent[..20], &tags), None);
        assert!("8100".parse::<Tag>().is_err() && "x:1".parse::<Tag>().is_err());
    }
}
