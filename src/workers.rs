//! The worker threads: one on each of the configuration's cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Context;
use core_affinity::CoreId;
use dataplane::time::Clock;
use dataplane::wire::DpdkWire;
use dataplane::worker::Worker;
use dpdk_sys::{EalHandle, tsc};
use tokio::sync::mpsc::UnboundedSender;

/// Says that a thread has ended, however it did.
struct Ending(UnboundedSender<usize>, usize);

impl Drop for Ending {
    fn drop(&mut self) {
        // Nobody listens any more when the daemon stops.
        let _ = self.0.send(self.1);
    }
}

/// Starts a thread that runs `worker` on `core` until `stop` is set; `ended` is told when it ends.
pub fn start(
    worker: Worker<DpdkWire>,
    core: usize,
    clock: Clock,
    eal: EalHandle,
    stop: Arc<AtomicBool>,
    ended: UnboundedSender<usize>,
) -> anyhow::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("worker-{core}"))
        .spawn(move || {
            let _ending = Ending(ended, core);
            if !core_affinity::set_for_current(CoreId { id: core }) {
                tracing::error!(core, "cannot pin the worker to its core");
                return;
            }
            match eal.register_thread() {
                Ok(_registration) => run(worker, clock, &stop),
                Err(error) => tracing::error!(core, %error, "DPDK does not take the worker's thread"),
            }
        })
        .with_context(|| format!("cannot start the worker for core {core}"))
}

/// Here and not in the closure above, so that the worker and its mbufs are gone before the thread's registration is.
fn run(mut worker: Worker<DpdkWire>, clock: Clock, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        worker.poll(clock.tick(tsc()));
    }
}
