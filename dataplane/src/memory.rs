//! Large, zeroed, shared arrays that are reserved at once and take memory only where they are touched, in huge
//! pages where the machine has some free.
//!
//! What lies in them holds no pointers, so that it could be mapped elsewhere or live on in another process.

use std::io;
use std::ops::Deref;

#[cfg(not(loom))]
pub use mapped::Region;

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use memmap2::{Advice, MmapMut, MmapOptions};
    use std::marker::PhantomData;
    use zerocopy::FromZeros;

    /// The size of a huge page on x86-64 and aarch64 with 4 KiB base pages, as a power of two.
    const HUGE_PAGE_BITS: u8 = 21;

    /// An array of `T`, all zeros at first.
    pub struct Region<T> {
        map: MmapMut,
        length: usize,
        element: PhantomData<T>,
    }

    impl<T: FromZeros> Region<T> {
        /// Reserves `length` elements. Fails where the address space or the memory limit does not allow it.
        pub fn new(length: usize) -> io::Result<Self> {
            let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
            let bytes = length.checked_mul(size_of::<T>()).ok_or_else(too_large)?.max(1);
            let huge_page = 1 << HUGE_PAGE_BITS;
            let huge = (bytes >= huge_page)
                .then(|| bytes.checked_next_multiple_of(huge_page))
                .flatten()
                .and_then(|bytes| MmapOptions::new().len(bytes).huge(Some(HUGE_PAGE_BITS)).map_anon().ok());
            let map = match huge {
                Some(map) => map,
                None => {
                    let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
                    // Transparent huge pages are the next best; a kernel without them costs only speed.
                    let _ = map.advise(Advice::HugePage);
                    map
                }
            };
            if !map.as_ptr().cast::<T>().is_aligned() {
                return Err(io::Error::other("the mapping is not aligned for its elements"));
            }
            Ok(Self { map, length, element: PhantomData })
        }
    }

    impl<T> Deref for Region<T> {
        type Target = [T];

        #[inline]
        fn deref(&self) -> &[T] {
            // SAFETY: the mapping is private to us, at least `length * size_of::<T>()` bytes long, aligned for `T`
            // (both checked in `new`), lives as long as `self` does, and began as zeros, which are valid `T`s
            // because `new` asks for `FromZeros`. `map` is never given out mutably, so only `&T` exist.
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.length) }
        }
    }
}

/// Under loom an array of atomics that loom knows.
#[cfg(loom)]
pub(crate) struct Region<T>(Box<[T]>);

#[cfg(loom)]
impl<T: Default> Region<T> {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        Ok(Self((0..length).map(|_| T::default()).collect()))
    }
}

#[cfg(loom)]
impl<T> Deref for Region<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// Asks the processor to load a cache line for reading. Any address will do: one that cannot be read is not.
#[inline]
pub fn prefetch<T>(line: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch reads nothing that the program can see and faults at no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = line;
}
