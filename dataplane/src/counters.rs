//! What became of every frame. Each worker has its own counters and is the only one to write them; anyone may read.
//!
//! At any quiet moment `received + fragments = forwarded + to_kernel + Σ dropped` holds for every worker.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

macro_rules! drops {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was dropped. Each reason has a counter of its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Drop {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Drop {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Drop] = &[$(Drop::$variant,)+];

            /// The counter's name, as `lbctl counters` prints it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Drop::$variant => $name,)+
                }
            }
        }
    };
}

drops! {
    /// Shorter than its headers, or than their length fields say.
    Truncated = "truncated",
    /// A header contradicts itself: version, header length, total length.
    BadHeader = "bad_header",
    /// The IPv4 header's checksum is wrong.
    BadChecksum = "bad_checksum",
    /// An ICMP error about a balanced packet whose own checksum is wrong.
    BadIcmpChecksum = "bad_icmp_checksum",
    /// An ICMP error about a tunnel's packet that told how long packets to the real server may be, and whose client lets its own be
    /// fragmented and need not know.
    PathMtu = "path_mtu",
    /// An ICMP error about a tunnel's packet, of whose like its client has been told often enough or may not be told.
    ErrorRate = "error_rate",
    /// A fragment that has less than all of its datagram's transport header and is the first one, or some of it and is another one.
    FragmentTiny = "fragment_tiny",
    /// A fragment that overlaps another one of its datagram or goes beyond the datagram's end, or comes after such a one.
    FragmentOverlap = "fragment_overlap",
    /// Waited for the first fragment of its datagram, in vain.
    FragmentTimeout = "fragment_timeout",
    /// As many fragments wait for the first ones of their datagrams, or for that of its own, as may.
    FragmentQueueFull = "fragment_queue_full",
    /// A new connection from an address that nobody can have (RFC 1122 §3.2.1.3).
    MartianSource = "martian_source",
    /// The time to live has run out here.
    TtlExpired = "ttl_expired",
    /// A new connection while those are to be fewer (drop_packet).
    Overload = "overload",
    /// The service has no destination that takes a new connection, and the client has been told of that often enough.
    NoDestination = "no_destination",
    /// A packet of a server by NAT that belongs to no connection, while servers are told so (nat_icmp_send), and this one has been told often
    /// enough or may not be told.
    NoConnection = "no_connection",
    /// For a service with the persistence engine sip, and no SIP message with a Call-ID.
    NoCallId = "no_call_id",
    /// The connection's destination has been deleted.
    DestinationGone = "destination_gone",
    /// No room in the buckets where the connection would have to be found.
    TableFull = "table_full",
    /// All connection entries are in use.
    NoFreeEntry = "no_free_entry",
    /// A new connection by FULLNAT, and its server's service or port has no local address of the server's family.
    NoLocalAddress = "no_local_address",
    /// A new connection by FULLNAT, and every local port that was tried is in use towards its server.
    NoLocalPort = "no_local_port",
    /// A new connection by SNAT, and every port that was tried is in use towards the host outside.
    NoSnatPort = "no_snat_port",
    /// For a real server on this host, and Linux would not believe it: by NAT to a loopback address, or by FULLNAT, from an address of
    /// its own.
    LocalMartian = "local_martian",
    /// No route leads to the packet's next stop.
    NoRoute = "no_route",
    /// None of our addresses can be the source of the tunnel's outer packets, or of a new connection by SNAT.
    NoSourceAddress = "no_source_address",
    /// Waited for its neighbour to be resolved, and it was not.
    NeighbourTimeout = "neighbour_timeout",
    /// As many packets wait for neighbours already as may.
    NeighbourQueueFull = "neighbour_queue_full",
    /// A packet all of which a new checksum covers (that of SCTP in fragments, a tunnel's) and that does not lie in one buffer.
    Scattered = "scattered",
    /// It has no counterpart in the other family of IP, in which the other side of its connection is.
    Untranslatable = "untranslatable",
    /// No buffer for a fragment.
    NoBuffer = "no_buffer",
    /// No room in front of the packet for a tunnel's headers.
    NoHeadroom = "no_headroom",
    /// Longer than the port it would leave by may send.
    TooBig = "too_big",
    /// The port's transmit queue did not take it.
    TxFull = "tx_full",
    /// The kernel interface's queue is full.
    KernelQueueFull = "kernel_queue_full",
    /// For Linux, from a port without a kernel interface.
    NoKernelInterface = "no_kernel_interface",
}

/// What is to become of a frame, where it is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Linux gets it, by the kernel interface of the port it came from.
    ToKernel,
    /// Nobody gets it.
    Drop(Drop),
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerCounters(CachePadded<Cells>);

#[derive(Debug)]
struct Cells {
    received: AtomicU64,
    forwarded: AtomicU64,
    to_kernel: AtomicU64,
    unreachable: AtomicU64,
    fragmentation_needed: AtomicU64,
    time_exceeded: AtomicU64,
    fragments: AtomicU64,
    from_kernel: AtomicU64,
    from_kernel_dropped: AtomicU64,
    dropped: [AtomicU64; Drop::ALL.len()],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        let cell = || AtomicU64::new(0);
        Self(CachePadded::new(Cells {
            received: cell(),
            forwarded: cell(),
            to_kernel: cell(),
            unreachable: cell(),
            fragmentation_needed: cell(),
            time_exceeded: cell(),
            fragments: cell(),
            from_kernel: cell(),
            from_kernel_dropped: cell(),
            dropped: std::array::from_fn(|_| cell()),
        }))
    }
}

/// Adds to a counter that only the calling thread writes: two moves, no locked instruction.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl WorkerCounters {
    #[inline]
    pub(crate) fn received(&self, n: usize) {
        add(&self.0.received, n as u64);
    }

    #[inline]
    pub(crate) fn forwarded(&self, n: usize) {
        add(&self.0.forwarded, n as u64);
    }

    #[inline]
    pub(crate) fn to_kernel(&self) {
        add(&self.0.to_kernel, 1);
    }

    pub(crate) fn unreachable(&self) {
        add(&self.0.unreachable, 1);
    }

    pub(crate) fn fragmentation_needed(&self) {
        add(&self.0.fragmentation_needed, 1);
    }

    pub(crate) fn time_exceeded(&self) {
        add(&self.0.time_exceeded, 1);
    }

    /// A packet has become so many.
    pub(crate) fn fragmented(&self, pieces: usize) {
        add(&self.0.fragments, pieces.saturating_sub(1) as u64);
    }

    #[inline]
    pub(crate) fn sent_for_kernel(&self, sent: usize, dropped: usize) {
        add(&self.0.from_kernel, sent as u64);
        add(&self.0.from_kernel_dropped, dropped as u64);
    }

    #[inline]
    pub(crate) fn dropped(&self, reason: Drop) {
        add(&self.0.dropped[reason as usize], 1);
    }

    /// The counters as they are now.
    pub fn read(&self) -> Totals {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Totals {
            received: get(&self.0.received),
            forwarded: get(&self.0.forwarded),
            to_kernel: get(&self.0.to_kernel),
            unreachable: get(&self.0.unreachable),
            fragmentation_needed: get(&self.0.fragmentation_needed),
            time_exceeded: get(&self.0.time_exceeded),
            fragments: get(&self.0.fragments),
            from_kernel: get(&self.0.from_kernel),
            from_kernel_dropped: get(&self.0.from_kernel_dropped),
            dropped: std::array::from_fn(|i| get(&self.0.dropped[i])),
        }
    }
}

/// A worker's counters at one moment, in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Taken from the ports.
    pub received: u64,
    /// Balanced and sent.
    pub forwarded: u64,
    /// Handed to Linux.
    pub to_kernel: u64,
    /// Turned into an ICMP error that tells the client that nobody takes its connection. These go on as any packet does, and
    /// are among `forwarded` once they are sent.
    pub unreachable: u64,
    /// Turned into an ICMP error that tells its sender how long a packet may be; likewise.
    pub fragmentation_needed: u64,
    /// Turned into an ICMP error that tells its sender that its time to live has run out; likewise.
    pub time_exceeded: u64,
    /// Made in addition: fragments of packets that were too long for their way, less one of each packet.
    pub fragments: u64,
    /// Taken from Linux and sent. These are not among `received`.
    pub from_kernel: u64,
    /// Taken from Linux and not sent, because the port's transmit queue was full.
    pub from_kernel_dropped: u64,
    /// Dropped, by the number of the reason; see [`Totals::dropped_for`].
    dropped: [u64; Drop::ALL.len()],
}

impl Totals {
    /// Dropped for `reason`.
    pub fn dropped_for(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize]
    }

    /// Dropped for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// True where every frame received or made is accounted for; holds whenever the worker is between two bursts and no
    /// packet waits for a neighbour.
    pub fn balance(&self) -> bool {
        self.received + self.fragments == self.forwarded + self.to_kernel + self.dropped()
    }
}
