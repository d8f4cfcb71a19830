//! The four steps of a connection under direct routing, as the wires saw its opening.
//!
//! It must never fill in what it did not see: a step without a frame is an error.

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::capture::{Capture, Frame};
use crate::topology::{CLIENT, Lab, VIP};

/// Captures on all the wires that a connection may take.
#[derive(Debug)]
pub struct Watch {
    client: Capture,
    director: Capture,
    servers: [Capture; 2],
}

/// The segments that open one connection, each where it left a host or reached one.
#[derive(Debug)]
pub struct FourSteps {
    /// 1: the client's SYN, on the client's wire.
    pub request: Frame,
    /// 2: the same SYN from director, on the real server's wire.
    pub forwarded: Frame,
    /// 3: the answer, on the real server's wire.
    pub reply: Frame,
    /// 4: the answer, on the client's wire.
    pub arrived: Frame,
    /// Segments from the VIP to the client that were seen on the client's wire, over all connections …
    pub replies: usize,
    /// … and how many of those passed director's wire.
    pub replies_by_director: usize,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn start(lab: &Lab) -> Result<Self> {
        Ok(Self {
            client: lab.capture("client")?,
            director: lab.capture("wan")?,
            servers: [lab.capture("r1")?, lab.capture("r2")?],
        })
    }

    /// Stops watching and follows the first connection that was opened.
    ///
    /// # Errors
    /// The first step that was not seen.
    pub fn finish(self) -> Result<FourSteps> {
        let [client, director] = [self.client.finish()?, self.director.finish()?];
        let [first, second] = self.servers;
        let servers = [first.finish()?, second.finish()?];

        let opening = |frame: &&Frame| frame.syn && !frame.ack && frame.destination.to_string() == VIP;
        let request = client.iter().find(opening).context("step 1: the client sent no SYN to the VIP")?;
        let same = |frame: &&Frame| opening(frame) && frame.source_port == request.source_port;
        let answer = |frame: &&Frame| frame.syn && frame.ack && frame.destination_port == request.source_port;
        let server = servers.iter().find(|frames| frames.iter().any(|frame| same(&frame)));
        let server = server.context("step 2: the SYN reached no real server")?;
        let is_reply =
            |frame: &&Frame| frame.source.to_string() == VIP && frame.destination.to_string() == CLIENT;

        Ok(FourSteps {
            request: request.clone(),
            forwarded: server.iter().find(same).context("step 2: no SYN on the server's wire")?.clone(),
            reply: server.iter().find(answer).context("step 3: the server did not answer")?.clone(),
            arrived: client.iter().find(answer).context("step 4: no answer reached the client")?.clone(),
            replies: client.iter().filter(is_reply).count(),
            replies_by_director: director.iter().filter(is_reply).count(),
        })
    }
}

impl FourSteps {
    /// Checks that this is direct routing: step 2 changes the MAC addresses and, of all else that is recorded here, at most
    /// the TTL (IPVS decrements it in every forwarding method); steps 3 and 4 are one frame; no reply passes director.
    ///
    /// # Errors
    /// What was otherwise.
    pub fn check(&self) -> Result<()> {
        let Self { request, forwarded, reply, arrived, .. } = self;
        let only_macs_differ = Frame {
            source_mac: request.source_mac,
            destination_mac: request.destination_mac,
            ttl: request.ttl,
            ..forwarded.clone()
        };
        ensure!(
            only_macs_differ == *request,
            "step 2 changed more than MAC addresses: {request:?} → {forwarded:?}"
        );
        ensure!(
            forwarded.source_mac == request.destination_mac,
            "step 2 was not sent by director: {forwarded:?}"
        );
        ensure!(forwarded.destination_mac == reply.source_mac, "steps 2 and 3 are of different servers");
        ensure!(reply == arrived, "the reply changed on its way: {reply:?} → {arrived:?}");
        ensure!(
            reply.destination_mac == request.source_mac,
            "the reply was not sent to the client: {reply:?}"
        );
        let past = self.replies_by_director;
        ensure!(past == 0, "{past} of {} replies went through director", self.replies);
        Ok(())
    }

    /// The steps as a table.
    ///
    /// # Errors
    /// When a frame is of no host of the lab.
    pub fn table(&self, lab: &Lab) -> Result<String> {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header([
            "step",
            "on the wire of",
            "source MAC",
            "destination MAC",
            "source IP",
            "destination IP",
            "what",
        ]);
        let server = lab.owner_of(self.reply.source_mac)?;
        let rows = [
            ("client", &self.request, "the client asks the VIP"),
            (server.as_str(), &self.forwarded, "director changes the MACs, not the IPs"),
            (server.as_str(), &self.reply, "the server answers as the VIP"),
            ("client", &self.arrived, "straight to the client, past director"),
        ];
        for (step, (wire, frame, what)) in (1..).zip(rows) {
            let named = |mac: [u8; 6]| -> Result<String> {
                Ok(format!("{}\n({})", written(mac), lab.owner_of(mac)?))
            };
            table.add_row([
                step.to_string(),
                wire.to_owned(),
                named(frame.source_mac)?,
                named(frame.destination_mac)?,
                format!("{}:{}", frame.source, frame.source_port),
                format!("{}:{}", frame.destination, frame.destination_port),
                what.to_owned(),
            ]);
        }
        Ok(table.to_string())
    }
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
