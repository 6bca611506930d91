//! Addresses that a call may hand to the kernel: whatever the kernel writes there, nobody is harmed.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32};

/// An address at which no process has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// The null pointer.
    Null,
    /// In the first page, which is out of reach.
    Nowhere,
    /// The last byte that there is, which is the kernel's.
    Last,
}

impl Unmapped {
    /// The address as a number.
    pub const fn number(self) -> u64 {
        match self {
            Unmapped::Null => 0,
            Unmapped::Nowhere => 8,
            Unmapped::Last => u64::MAX,
        }
    }
}

/// Where the kernel is to write a number of 32 bits: a word that anybody may change at any time and that is never freed, or a
/// place to which nobody can write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(u64);

impl Address {
    /// That of a constant: it can be read, and not written to.
    pub fn read_only() -> Address {
        static CONSTANT: u32 = 0;
        Address(&raw const CONSTANT as u64)
    }

    /// An address by its number.
    ///
    /// # Safety
    /// The four bytes there are never freed, and nothing refers to them but as memory that changes by itself.
    pub(crate) const unsafe fn of_number(number: u64) -> Address {
        Address(number)
    }

    /// The address as a number.
    pub(crate) const fn number(self) -> u64 {
        self.0
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

/// `0x8`
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
