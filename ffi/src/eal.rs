//! The life of the EAL, DPDK's environment: its start, the devices it finds, its end. It must never end while anything
//! that rests on its memory is left.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Errno, Error};
use crate::port::PortId;
use crate::raw;
use crate::thread::ThreadRegistration;

static STARTED: AtomicBool = AtomicBool::new(false);
/// What the EAL was started with, which it may point into for as long as the process lives.
static ARGUMENTS: AtomicPtr<*mut c_char> = AtomicPtr::new(std::ptr::null_mut());

/// The EAL of this process, in the hands of the thread that started it.
///
/// That thread has an lcore identifier (the main lcore) and is pinned to the first core of `-l` or `--lcores`; its
/// threads inherit this unless they pin themselves. Other threads get at the EAL by [`Eal::handle`].
///
/// Dropping it cleans up if [`Eal::cleanup`] would have succeeded, and otherwise leaves the EAL and its memory to the end
/// of the process.
#[derive(Debug)]
pub struct Eal {
    handle: EalHandle,
    ended: bool,
    // The main lcore's mempool caches are used by this thread. Cleaning up here, and nowhere else, is what rules out that
    // the thread is in the middle of using one at that moment.
    _main_thread: PhantomData<*const ()>,
}

/// A share in the running EAL: whoever holds one may use DPDK. From any thread.
#[derive(Debug, Clone)]
pub struct EalHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // Held while devices and ports come and go, which DPDK leaves to its caller to serialise.
    control: Mutex<Control>,
}

/// What the EAL does not keep track of itself.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) open: BTreeSet<PortId>,
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Pool(NonNull<raw::rte_mempool>);

// SAFETY: a mempool may be used from any thread; this pointer is only ever used to count what is in it.
unsafe impl Send for Pool {}

impl Eal {
    /// Starts the EAL with `args`, its own command-line options without a program name (e.g. `-l`, `0`, `--no-pci`).
    /// Device drivers are loaded, and PCI devices bound to one of DPDK's kernel drivers are attached, unless the options
    /// say otherwise. The EAL logs to standard error; `--log-level` says how much.
    ///
    /// # Errors
    /// The second call in a process, even after one that failed; an option the EAL does not take; no memory.
    pub fn init(args: &[String]) -> Result<Self, Error> {
        let program = std::env::args().next().unwrap_or_default();
        let strings = std::iter::once(&program)
            .chain(args)
            .map(|arg| match arg.as_str() {
                // The EAL answers these by printing its usage and leaving the process.
                "-h" | "--help" => Err(Error::Argument(arg.clone())),
                _ => CString::new(arg.as_str()).map_err(|_| Error::Argument(arg.clone())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let count = i32::try_from(strings.len()).map_err(|_| Error::Init(Errno::EINVAL))?;

        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(Error::AlreadyInitialised);
        }
        // Never freed: the EAL reorders the array and may keep pointers into the strings. Once in a process.
        let mut argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
        argv.push(std::ptr::null_mut());
        let argv = argv.leak();
        ARGUMENTS.store(argv.as_mut_ptr(), Ordering::Relaxed);

        // SAFETY: `argv` is `count` strings ended by a null pointer, as for main(), writable and never freed; STARTED makes
        // this the only call in the process.
        if unsafe { raw::rte_eal_init(count, argv.as_mut_ptr()) } < 0 {
            return Err(Error::Init(Errno::last()));
        }
        Ok(Self { handle: EalHandle { shared: Arc::default() }, ended: false, _main_thread: PhantomData })
    }

    /// A share for another thread.
    pub fn handle(&self) -> EalHandle {
        self.handle.clone()
    }

    /// Ends the EAL: its devices, its memory, its files under `/var/run/dpdk`. After it nothing of DPDK is left, and
    /// nothing can be started again.
    ///
    /// # Errors
    /// While handles of any kind or mbufs are left, gives itself back untouched and says how many. An mbuf counts as left
    /// also when it was forgotten (`mem::forget`), or when its driver does not give it back on close, as net_af_xdp of DPDK
    /// 22.11 does with the mbufs of its fill ring. The process may end all the same.
    pub fn cleanup(mut self) -> Result<(), CleanupError> {
        if let Some(reason) = self.in_use() {
            return Err(CleanupError { eal: Some(self), reason });
        }
        self.finish().map_err(|reason| CleanupError { eal: None, reason })
    }

    fn in_use(&self) -> Option<Error> {
        let handles = Arc::strong_count(&self.handle.shared) - 1;
        // Pairs with the Release in Arc's drop: what other threads did before they dropped their handles is done.
        fence(Ordering::Acquire);
        let mbufs = self.handle.mbufs_in_use();
        (handles > 0 || mbufs > 0).then_some(Error::StillInUse { handles, mbufs })
    }

    /// Only for when nothing is in use. The value is good for nothing but being dropped afterwards, whatever the result.
    fn finish(&mut self) -> Result<(), Error> {
        let directory = runtime_directory();
        self.ended = true;
        // SAFETY: there is no other EalHandle, so no port, queue, pool handle or registered thread, and none can come to
        // be. All pools are full, so there is no Mbuf, and none can be allocated or received. Threads that gave theirs
        // back have finished doing so: this one is here, registered ones dropped their registration (which holds a handle)
        // afterwards, and others have no cache, so that the count saw their mbuf only once the pool's ring had it, which
        // is the last they touch.
        match unsafe { raw::rte_eal_cleanup() } {
            0 => {
                // The EAL leaves it. It stays where others with the same `--file-prefix` have files in it.
                let _ = std::fs::remove_dir(directory);
                Ok(())
            }
            result => Err(Error::Cleanup(Errno::from_result(result))),
        }
    }
}

/// Why the EAL was not cleaned up.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct CleanupError {
    /// The EAL, if it was in use and so is as before; `None` if it failed on the way and is gone.
    pub eal: Option<Eal>,
    /// What is left, or what failed.
    pub reason: Error,
}

impl Drop for Eal {
    fn drop(&mut self) {
        if !self.ended && self.in_use().is_none() {
            // What cannot be cleaned up goes with the process; `cleanup` is there for those who want to know.
            let _ = self.finish();
        }
    }
}

impl Deref for Eal {
    type Target = EalHandle;

    fn deref(&self) -> &EalHandle {
        &self.handle
    }
}

impl EalHandle {
    /// Gives the calling thread an lcore identifier, and so its own cache in every mempool. Pin the thread first: the EAL
    /// notes the cores and the NUMA node it finds.
    ///
    /// # Errors
    /// A thread that has one (the one that called [`Eal::init`], too); no identifiers left.
    pub fn register_thread(&self) -> Result<ThreadRegistration, Error> {
        ThreadRegistration::new(self.clone())
    }

    /// Attaches a device and returns its ports, in order. `device` is what DPDK calls devargs: a PCI address
    /// (`0000:3b:00.0`), or a driver's name with a number, and its options (`net_af_packet0,iface=eth0`). A device that is
    /// attached already, as PCI devices are since the start, only has its ports looked up.
    ///
    /// # Errors
    /// The driver is not installed or refuses the device, or the device has no Ethernet port.
    pub fn probe(&self, device: &str) -> Result<Vec<PortId>, Error> {
        const ATTACHED_ALREADY: i32 = -17; // -EEXIST
        let name = CString::new(device).map_err(|_| Error::Argument(device.to_owned()))?;
        let _serialised = self.control();

        // SAFETY: the EAL runs; `name` ends in NUL and is copied by the EAL; no other device is attached or removed
        // meanwhile, since that happens only under the lock held here.
        let result = unsafe { raw::rte_dev_probe(name.as_ptr()) };
        if result < 0 && result != ATTACHED_ALREADY {
            return Err(Error::Probe { device: device.to_owned(), errno: Errno::from_result(result) });
        }

        let mut ports = [0_u16; raw::SHIM_MAX_PORTS as usize];
        // SAFETY: `name` as above; at most SHIM_MAX_PORTS ports are written, and there is room for as many.
        let found =
            unsafe { raw::shim_ports_of(name.as_ptr(), ports.as_mut_ptr(), u32::from(raw::SHIM_MAX_PORTS)) };
        match &ports[..found as usize] {
            [] => Err(Error::NoPort(device.to_owned())),
            ports => Ok(ports.iter().copied().map(PortId::new).collect()),
        }
    }

    /// All ports there are, in order, open or not.
    pub fn ports(&self) -> Vec<PortId> {
        let _serialised = self.control();
        let next = |from: u16| {
            // SAFETY: the EAL runs; looks through a table of SHIM_MAX_PORTS entries and takes any number.
            let port = unsafe { raw::shim_next_port(from) };
            (port < raw::SHIM_MAX_PORTS).then_some(port)
        };
        std::iter::successors(next(0), |port| next(port + 1)).map(PortId::new).collect()
    }

    /// How many ticks of [`tsc`] there are in a second.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: reads a number the EAL determined when it started.
        unsafe { raw::rte_get_tsc_hz() }
    }

    /// Mbufs of all pools that are not in their pool: in a program, in a queue, in a device.
    pub fn mbufs_in_use(&self) -> usize {
        let control = self.control();
        // SAFETY: pools are never freed before the EAL is cleaned up, and that needs the last EalHandle.
        control
            .pools
            .iter()
            .map(|pool| unsafe { raw::rte_mempool_in_use_count(pool.0.as_ptr()) } as usize)
            .sum()
    }

    pub(crate) fn add_pool(&self, pool: NonNull<raw::rte_mempool>) {
        self.control().pools.push(Pool(pool));
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        // Nothing panics between two changes that belong together.
        self.shared.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the EAL that runs keeps its files.
fn runtime_directory() -> PathBuf {
    // SAFETY: the EAL runs (asked by its owner only); the string ends in NUL and is the EAL's until its end, before which
    // it is copied.
    let directory = unsafe { CStr::from_ptr(raw::rte_eal_get_runtime_dir()) };
    PathBuf::from(OsStr::from_bytes(directory.to_bytes()))
}

/// The version of the DPDK that is loaded, e.g. `DPDK 22.11.11`. It may be newer than the one compiled against.
pub fn version() -> &'static str {
    // SAFETY: returns a constant string that ends in NUL and is never freed.
    unsafe { CStr::from_ptr(raw::rte_version()) }.to_str().unwrap_or("DPDK of unknown version")
}

/// Whether the EAL uses huge pages: yes before it has started, and afterwards unless it was told `--no-huge`.
pub fn has_hugepages() -> bool {
    // SAFETY: reads a setting of the EAL, which has its default before the start.
    unsafe { raw::rte_eal_has_hugepages() != 0 }
}

/// Huge pages of any size that nobody uses, as the kernel counts them; 0 where it has none.
pub fn free_huge_pages() -> u64 {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free = |size: std::fs::DirEntry| {
        let text = std::fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    sizes.flatten().filter_map(free).sum()
}

/// The CPU's time-stamp counter. Its rate is [`EalHandle::tsc_hz`]; it needs no EAL.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: reads a counter of the CPU.
    unsafe { raw::shim_tsc() }
}
