//! Memory that vectors like to read: aligned to a cache line, so that none lies in two, and in large pages where there is
//! much of it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, which is also the longest vector.
const LINE: usize = 64;
/// A large page of x86-64 and of most 64-bit Arm systems.
const LARGE_PAGE: usize = 2 << 20;

/// Words, aligned to a cache line.
///
/// A word is an f32 or a pair of bf16, as its user says.
pub(super) struct Words {
    start: NonNull<u32>,
    len: usize,
}

// SAFETY: `Words` owns its memory as a `Box<[u32]>` does, and `u32` can be sent and shared.
unsafe impl Send for Words {}
// SAFETY: as above; a shared `Words` gives out shared references alone.
unsafe impl Sync for Words {}

impl Words {
    /// None.
    pub(super) const EMPTY: Self = Self {
        start: NonNull::dangling(),
        len: 0,
    };

    /// So many words of unknown value: those that there are, or new ones where they are too few.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [u32] {
        if self.len < len {
            // What there was goes first.
            *self = Self::EMPTY;
            *self = Self::zeros(len);
        }
        &mut self[..len]
    }

    /// As [`at_least`](Self::at_least), as numbers.
    pub(super) fn floats(&mut self, len: usize) -> &mut [f32] {
        let words = self.at_least(len);
        // SAFETY: an f32 has the size and alignment of a u32, and every pattern of bits is one.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
    }

    /// So many words, all zero.
    pub(super) fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self::EMPTY;
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero, since `len` is not.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        // Before the first write: a page that is there already stays small. An allocator's own zeros may be such writes.
        large_pages(start, layout.size());
        // SAFETY: so many bytes were allocated just now.
        unsafe { start.write_bytes(0, layout.size()) };
        Self {
            start: start.cast(),
            len,
        }
    }

    fn layout(len: usize) -> Layout {
        let size = len.checked_mul(size_of::<u32>());
        let layout = size.and_then(|size| {
            let align = if size >= LARGE_PAGE { LARGE_PAGE } else { LINE };
            Layout::from_size_align(size, align).ok()
        });
        layout.expect("weights fit into memory")
    }
}

/// Asks for large pages: walking page tables costs up to a tenth of the bandwidth. It is a hint; what the system
/// answers changes speed alone.
#[cfg(target_os = "linux")]
fn large_pages(start: NonNull<u8>, size: usize) {
    let whole = size / LARGE_PAGE * LARGE_PAGE;
    if whole > 0 {
        // SAFETY: the range was allocated just now with this alignment and at least this size, and advice does not
        // change what it holds.
        unsafe { libc::madvise(start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn large_pages(_: NonNull<u8>, _: usize) {}

impl Drop for Words {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `zeros` allocated it with the same layout, and nothing refers to it any more.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Deref for Words {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: `start` is aligned and valid for `len` words, which were zeroed and are initialized.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `deref`, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.len)
    }
}
