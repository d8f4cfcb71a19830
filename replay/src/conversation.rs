//! A connection as its two ends have it: what each sends, and which real server it is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::frames::{Segment, frame, look};
use crate::stage::Stage;

/// What became of the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went to the real server whose address ends so.
    Server(u8),
    /// The client was told that nobody is there.
    Refused,
    /// Nothing came of it.
    Nothing,
}

/// A client's connection to a virtual service.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The client.
    pub client: SocketAddr,
    /// The service as the client sees it.
    pub service: SocketAddr,
    /// The real server, where its replies come through the director.
    server: Option<SocketAddr>,
}

impl Conversation {
    /// Nothing has been sent yet.
    pub fn new(client: SocketAddr, service: SocketAddr) -> Self {
        Self { client, service, server: None }
    }

    /// Sends as the client.
    ///
    /// # Errors
    /// Where there can be no such packet.
    pub fn client_sends(&mut self, stage: &Stage, segment: Segment<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::Nothing;
        for sent in stage.send(&frame(self.client, self.service, segment)?) {
            let seen = look(&sent)?;
            match seen.server {
                Some(number) => {
                    outcome = Outcome::Server(number);
                    // Under direct routing it keeps the service's address, in a tunnel it has both.
                    let is_translated =
                        seen.to.ip() == server_address(number, seen.to.ip()) && seen.to.port() != 0;
                    self.server = is_translated.then_some(seen.to);
                }
                None if seen.is_unreachable && outcome == Outcome::Nothing => outcome = Outcome::Refused,
                None => {}
            }
        }
        Ok(outcome)
    }

    /// Sends as the server the client talks to, if that goes through the director.
    ///
    /// # Errors
    /// Where there can be no such packet.
    pub fn server_sends(&self, stage: &Stage, segment: Segment<'_>) -> Result<()> {
        if let Some(server) = self.server {
            stage.send(&frame(server, self.client, segment)?);
        }
        Ok(())
    }

    /// Opens a TCP connection and has the server answer a request.
    ///
    /// # Errors
    /// As [`Conversation::client_sends`].
    pub fn establish(&mut self, stage: &Stage) -> Result<Outcome> {
        let outcome = self.client_sends(stage, Segment::Tcp("S"))?;
        if let Outcome::Server(_) = outcome {
            self.server_sends(stage, Segment::Tcp("SA"))?;
            self.client_sends(stage, Segment::Tcp("A"))?;
            self.client_sends(stage, Segment::Tcp("PA"))?;
            self.server_sends(stage, Segment::Tcp("PA"))?;
            self.client_sends(stage, Segment::Tcp("A"))?;
        }
        Ok(outcome)
    }

    /// Closes it, the client first.
    ///
    /// # Errors
    /// As [`Conversation::client_sends`].
    pub fn close(&mut self, stage: &Stage) -> Result<()> {
        self.client_sends(stage, Segment::Tcp("FA"))?;
        self.server_sends(stage, Segment::Tcp("FA"))?;
        self.client_sends(stage, Segment::Tcp("A")).map(drop)
    }
}

/// The address of the real server with this number, of the family of `like`.
pub fn server_address(number: u8, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => [192, 0, 2, number].into(),
        IpAddr::V6(_) => {
            let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or_default();
            Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, digits).into()
        }
    }
}

/// `address:port` as recordings write it, IPv6 in brackets.
///
/// # Errors
/// Where it is not one.
pub fn endpoint(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{text} is no address and port"))
}
