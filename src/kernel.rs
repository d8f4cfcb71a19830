//! Kernel interfaces: a TAP for each port and VLAN, and the one thread that carries frames between them and the workers.
//!
//! The thread makes the system calls so that no worker has to. It sleeps until Linux has something to send, and looks at
//! what workers have put down ten thousand times a second.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use control::network::{Handle, interface};
use crossbeam::queue::ArrayQueue;
use dataplane::snapshot::Resolve;
use dpdk_sys::{EalHandle, Mbuf, Mempool};
use nix::poll::{PollFd, PollFlags, ppoll};
use tracing::{debug, warn};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::links::Link;
use crate::ports::Lost;

/// How long a frame for Linux may lie before it is noticed, when nothing else happens.
const NAP: Duration = Duration::from_micros(100);

/// The same where no frame can be for Linux, and there are only neighbours to be asked for.
const REST: Duration = Duration::from_millis(10);

/// Frames carried one way before the other way has its turn.
const TURN: usize = 64;

/// The longest frame there is: 64 KiB of IP and its Ethernet header.
const LONGEST_FRAME: usize = 65_536 + 18;

/// The interface of a port or a VLAN in Linux.
pub struct KernelInterface {
    tap: SyncDevice,
    name: String,
    pool: Mempool,
    lost: Arc<Lost>,
    /// From workers.
    pub to: Arc<ArrayQueue<Mbuf>>,
    /// For the worker that sends.
    pub from: Arc<ArrayQueue<Mbuf>>,
}

impl KernelInterface {
    /// Makes the interface; `None` for a link that is to have none. It goes away when it is dropped.
    pub fn make(link: &Link) -> anyhow::Result<Option<Self>> {
        let Some(interface::Setup { name, .. }) = &link.kernel_interface else { return Ok(None) };
        let make = || {
            let tap = DeviceBuilder::new().name(name).layer(Layer::L2).enable(false).build_sync()?;
            tap.set_nonblocking(true)?;
            Ok::<_, io::Error>(tap)
        };
        let tap = make().with_context(|| {
            format!("port {}: cannot make the kernel interface {name}; is the name taken?", link.name)
        })?;
        let queue = || Arc::new(ArrayQueue::new(link.queue));
        Ok(Some(Self {
            tap,
            name: name.clone(),
            pool: link.pool.clone(),
            lost: link.lost.clone(),
            to: queue(),
            from: queue(),
        }))
    }

    /// Hands Linux what workers have put down; the number of frames.
    fn deliver(&self) -> usize {
        let mut delivered = 0;
        for mut mbuf in std::iter::from_fn(|| self.to.pop()).take(TURN) {
            delivered += 1;
            if mbuf.segment_count() > 1 && !mbuf.linearize() {
                self.lost.to_kernel.fetch_add(1, Ordering::Relaxed);
                debug!(
                    interface = self.name,
                    length = mbuf.len(),
                    "a frame in pieces is too long for its buffer"
                );
                continue;
            }
            // Linux does not take a frame while the interface is down, as it would not from any interface.
            if let Err(error) = self.tap.send(mbuf.data()) {
                self.lost.to_kernel.fetch_add(1, Ordering::Relaxed);
                debug!(interface = self.name, %error, "Linux does not take a frame");
            }
        }
        delivered
    }

    /// Takes what Linux wants to send; the number of frames.
    fn collect(&self, buffer: &mut [u8]) -> usize {
        for collected in 0..TURN {
            match self.tap.recv(buffer) {
                Ok(length) => {
                    let queued = self.pool.alloc_from(&buffer[..length]).map(|mbuf| self.from.push(mbuf));
                    if !matches!(queued, Some(Ok(()))) {
                        self.lost.from_kernel.fetch_add(1, Ordering::Relaxed);
                        debug!(
                            interface = self.name,
                            length, "a frame from Linux is lost: no buffer or no room"
                        );
                    }
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        warn!(interface = self.name, %error, "cannot read from the kernel interface");
                    }
                    return collected;
                }
            }
        }
        TURN
    }
}

/// Carries frames until `stop` is set, and workers' requests for neighbours to `resolver`.
pub fn carry(
    interfaces: &[KernelInterface],
    requests: &ArrayQueue<Resolve>,
    resolver: &Handle,
    eal: &EalHandle,
    stop: &AtomicBool,
) {
    // Without a registration it works, too: the pool's ring serves threads that have no cache.
    let _registration = eal.register_thread();
    let mut buffer = vec![0; LONGEST_FRAME];
    let nap = if interfaces.is_empty() { REST } else { NAP };
    let mut readable: Vec<_> =
        interfaces.iter().map(|i| PollFd::new(i.tap.as_fd(), PollFlags::POLLIN)).collect();
    let mut collected = 0;
    while !stop.load(Ordering::Relaxed) {
        while let Some(Resolve { port, neighbour }) = requests.pop() {
            // Where too many are asked for already, the next packet asks again.
            let _ = resolver.resolve(port, neighbour);
        }
        let delivered: usize = interfaces.iter().map(KernelInterface::deliver).sum();
        // One call asks for all, however many there are.
        let patience = if delivered == 0 && collected == 0 { nap } else { Duration::ZERO };
        // An error other than an interruption would show when reading; sleeping is all that is lost.
        let ready = ppoll(&mut readable, Some(patience.into()), None).is_ok_and(|ready| ready > 0);
        let has_any = |fd: &PollFd<'_>| ready && fd.revents().is_none_or(|events| !events.is_empty());
        let with_any = interfaces.iter().zip(&readable).filter(|(_, fd)| has_any(fd));
        collected = with_any.map(|(interface, _)| interface.collect(&mut buffer)).sum();
    }
}
