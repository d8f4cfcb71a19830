//! What the connections of each service may announce as their maximum segment size: to both ends, as far as their SYNs pass.

/// The most that a SYN may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mss {
    /// What fits the links and tunnel that packets of the connection pass here.
    Auto,
    /// So many bytes.
    Bytes(u16),
}

/// All that are to be held to something, by the numbers of their destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clamps(Vec<Option<Mss>>);

impl Clamps {
    /// For these destinations. Others announce what they like.
    pub fn new(clamps: impl IntoIterator<Item = (u32, Mss)>) -> Self {
        let mut all = Vec::new();
        for (destination, mss) in clamps {
            let place = destination as usize;
            if place >= all.len() {
                all.resize(place + 1, None);
            }
            all[place] = Some(mss);
        }
        Self(all)
    }

    /// True where nobody is held to anything.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What connections to a destination are held to.
    pub fn of(&self, destination: u32) -> Option<Mss> {
        self.0.get(destination as usize).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_what_was_said_of_it() {
        let clamps = Clamps::new([(3, Mss::Auto), (1, Mss::Bytes(1400))]);
        let all = [0, 1, 2, 3, 4, u32::MAX].map(|destination| clamps.of(destination));
        assert_eq!(all, [None, Some(Mss::Bytes(1400)), None, Some(Mss::Auto), None, None]);
        assert!(!clamps.is_empty() && Clamps::default().is_empty());
    }
}
