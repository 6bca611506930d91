//! Addresses that a system call may pass to the kernel: a kernel write to them does no harm.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

/// An address at which no process has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// The null pointer.
    Null,
    /// An address in the first page, which no process can map.
    Nowhere,
    /// The last byte of the address space, which belongs to the kernel.
    Last,
}

impl Unmapped {
    /// Returns the address as a number.
    pub const fn number(self) -> u64 {
        match self {
            Unmapped::Null => 0,
            Unmapped::Nowhere => 8,
            Unmapped::Last => u64::MAX,
        }
    }
}

/// Where the kernel is to write a 32-bit number: either a word that may change at any time and is never
/// freed, or an address that cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(u64);

impl Address {
    /// Returns the address of a constant, which is readable but not writable.
    pub fn read_only() -> Address {
        static CONSTANT: u32 = 0;
        Address(&raw const CONSTANT as u64)
    }

    /// Returns the address with this number.
    ///
    /// # Safety
    /// The four bytes there are never freed, and every reference to them treats them as memory that can change at any time.
    pub(crate) const unsafe fn of_number(number: u64) -> Address {
        Address(number)
    }

    /// Returns the address as a number.
    pub(crate) const fn number(self) -> u64 {
        self.0
    }
}

/// A 32-bit number at an odd address, which is never freed.
#[derive(Debug)]
pub struct OddWord(&'static [AtomicU8; 8]);

impl OddWord {
    /// Makes one that contains 0.
    pub fn zero() -> OddWord {
        OddWord(Box::leak(Box::new([const { AtomicU8::new(0) }; 8])))
    }

    /// Returns the bytes of the number.
    fn bytes(&self) -> &'static [AtomicU8] {
        let from = if self.0.as_ptr().addr().is_multiple_of(2) { 1 } else { 2 };
        &self.0[from..from + 4]
    }

    /// Returns its address.
    pub fn address(&self) -> Address {
        Address(self.bytes().as_ptr() as u64)
    }

    /// Returns the number.
    pub fn value(&self) -> i32 {
        let mut value = [0; 4];
        for (byte, stored) in value.iter_mut().zip(self.bytes()) {
            *byte = stored.load(Ordering::Relaxed);
        }
        i32::from_ne_bytes(value)
    }
}

impl From<Unmapped> for Address {
    fn from(nothing: Unmapped) -> Address {
        Address(nothing.number())
    }
}

impl From<&'static AtomicU32> for Address {
    fn from(word: &'static AtomicU32) -> Address {
        Address(word.as_ptr() as u64)
    }
}

impl From<&'static AtomicI32> for Address {
    fn from(word: &'static AtomicI32) -> Address {
        Address(word.as_ptr() as u64)
    }
}

/// Formats as `0x8`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
