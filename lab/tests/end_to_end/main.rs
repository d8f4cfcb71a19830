//! End to end: real clients, real servers, a real director in between. Needs root and a built director; `make test` sees to both.
//!
//! One program for all of them, because each is linked with full optimisation. Run one after the other
//! (`--test-threads=1`): every director keeps a core busy.

mod across;
mod announce;
mod balance;
mod bonds;
mod daemon;
mod downloads;
mod fragments;
mod frames;
mod fullnat;
mod icmp;
mod ipv6;
mod jumbo;
mod linux;
mod load;
mod local;
mod mss;
mod network;
mod ranges;
mod rules;
mod silence;
mod sip;
mod snat;
mod statistics;
mod tunnels;
mod two_workers;
mod udp;
mod vlans;
mod wires;

use anyhow::Result;
use lab::director::Configuration;
use lab::{Director, Lab, Mode, Wire};

/// A lab with director balancing HTTP over both servers. Director is dropped first.
struct Scene {
    director: Director,
    lab: Lab,
}

impl Scene {
    fn new(mode: Mode, wire: Wire) -> Result<Self> {
        let lab = Lab::new(mode)?;
        let director = Director::start(&lab, wire)?;
        director.balance_http()?;
        Ok(Self { director, lab })
    }

    fn with(lab: Lab, configuration: &Configuration) -> Result<Self> {
        let director = Director::start_with(&lab, configuration)?;
        director.balance_http()?;
        Ok(Self { director, lab })
    }

    fn play(mut self, story: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        story(&mut self).map_err(|error| self.director.blame(&error))?;
        self.end()
    }

    /// Stops director, which must have lost no mbuf and, built with a sanitizer, have nothing to answer for.
    fn end(self) -> Result<()> {
        self.director.stop()
    }
}

/// Plays a story in a new scene, up to director's clean end.
fn play(mode: Mode, wire: Wire, story: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
    Scene::new(mode, wire)?.play(story)
}
