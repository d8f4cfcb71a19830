//! Who the flows went to, as the opening frames that came back told: real servers answer from there.

use std::collections::HashMap;

/// Servers by the numbers of their flows.
#[derive(Default)]
pub struct Servers {
    /// For each flow, one more than its server's place in `known`; 0 where nothing is known.
    flows: Vec<u16>,
    known: Vec<(u32, u16)>,
    places: HashMap<(u32, u16), u16>,
}

impl Servers {
    /// Forgets all, and makes room for `flows`.
    pub fn forget(&mut self, flows: u32) {
        *self = Self { flows: vec![0; flows as usize], ..Self::default() };
    }

    /// Takes down that a frame of `flow` was sent on to this address and port.
    pub fn learn(&mut self, flow: u32, server: (u32, u16)) {
        let Some(of_flow) = self.flows.get_mut(flow as usize) else { return };
        let known = &mut self.known;
        let place = *self.places.entry(server).or_insert_with(|| {
            known.push(server);
            // Servers are as few as a service has; beyond 65535 the last one stands for the others.
            u16::try_from(known.len()).unwrap_or(u16::MAX)
        });
        *of_flow = place;
    }

    /// The address, as a number, and port of the server that has `flow`.
    #[inline]
    pub fn of(&self, flow: u32) -> Option<(u32, u16)> {
        let place = *self.flows.get(flow as usize)?;
        self.known.get(usize::from(place).checked_sub(1)?).copied()
    }

    /// How many of the flows have one, and how many servers there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.flows.iter().filter(|place| **place > 0).count(), self.known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_has_the_server_it_went_to_last() {
        let mut servers = Servers::default();
        servers.forget(4);
        servers.learn(0, (1, 80));
        servers.learn(1, (2, 80));
        servers.learn(2, (1, 81));
        servers.learn(1, (1, 80));
        servers.learn(9, (9, 9));
        let of: Vec<_> = (0..5).map(|flow| servers.of(flow)).collect();
        assert_eq!(of, [Some((1, 80)), Some((1, 80)), Some((1, 81)), None, None]);
        assert_eq!(servers.counts(), (3, 3));
        servers.forget(1);
        assert_eq!(servers.of(0), None);
    }
}
