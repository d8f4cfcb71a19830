//! By what connections are found: flows of either family. Look-up and insertion are written once over both, and compiled for
//! each.

use super::entry::{Direction, Entry};
use super::table::ConnectionTable;
use crate::parse::{AnyFlow, Flow, Flow6};

/// What leads to a connection.
pub trait Key: Copy {
    /// 64 bits that depend on all of the key and on the table's secret numbers.
    fn digest(self, seeds: [u64; 2]) -> u64;

    /// True where packets of this flow are those of the connection in `entry`, an entry of `table`, that go this way.
    fn matches(self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> bool;
}

impl Key for Flow {
    /// Two folded multiplications of its words, as wyhash ends with. One would not do: ports are in the top of a word, and with
    /// some seeds those of one client would meet in a few buckets.
    #[inline]
    fn digest(self, [x, y]: [u64; 2]) -> u64 {
        let [a, b] = self.words();
        let product = multiply(a ^ x, b ^ y);
        let product = multiply(product.0 ^ x, product.1 ^ y);
        product.0 ^ product.1
    }

    #[inline]
    fn matches(self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> bool {
        entry.flow_of(direction) == self || table.leads_back(entry, direction, self.into())
    }
}

impl Key for Flow6 {
    /// One more than over IPv4: each address keeps a multiplication busy, and the ports, which a client chooses freely, are in
    /// neither's way.
    #[inline]
    fn digest(self, [x, y]: [u64; 2]) -> u64 {
        let (source, destination) = (self.source().0, self.destination().0);
        let product = multiply((source >> 64) as u64 ^ x, source as u64 ^ y);
        let product = multiply(product.0 ^ self.ports() ^ x, product.1 ^ y);
        let product =
            multiply(product.0 ^ (destination >> 64) as u64 ^ x, product.1 ^ destination as u64 ^ y);
        product.0 ^ product.1
    }

    #[inline]
    fn matches(self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> bool {
        let is_between = entry.ports_of(direction) == self.ports()
            && table.extension(entry).is_some_and(|extension| extension.are_between(self, direction));
        is_between || table.leads_back(entry, direction, self.into())
    }
}

impl Key for AnyFlow {
    fn digest(self, seeds: [u64; 2]) -> u64 {
        match self {
            Self::V4(flow) => flow.digest(seeds),
            Self::V6(flow) => flow.digest(seeds),
        }
    }

    fn matches(self, table: &ConnectionTable, entry: &Entry, direction: Direction) -> bool {
        match self {
            Self::V4(flow) => flow.matches(table, entry, direction),
            Self::V6(flow) => flow.matches(table, entry, direction),
        }
    }
}

/// The low and the high half of a product.
#[inline]
pub(crate) fn multiply(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    (product as u64, (product >> 64) as u64)
}
