//! A small file that stands in for this program: it has its own mode, owner and capabilities, but the code that runs is
//! this program's.
//!
//! It is an ELF file that names this program as its interpreter. The kernel takes the credentials from the file and starts
//! the interpreter, which is mapped at its usual address. A complete copy would work too, but its code is new to an
//! emulator each time: the nine cases that need such a file took a tenth of the total time.
//!
//! And a file that no process can be: [`unmappable`].

use std::mem::offset_of;

use libc::{
    ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PF_R, PT_GNU_EH_FRAME, PT_GNU_RELRO, PT_GNU_STACK, PT_INTERP, PT_LOAD,
    PT_TLS,
};

use crate::elf::{kind, program_headers, u16_at};

/// The interpreter's path, NUL-terminated: the program that execs.
const INTERPRETER: &[u8] = b"/proc/self/exe\0";

/// The address at which the file is mapped, far from everything else. It contains the headers that the C library reads.
const ADDRESS: u64 = 0x1000_0000;

/// An address at which no process has memory.
const NOWHERE: u64 = 1 << 62;

const EHDR: usize = size_of::<Elf64_Ehdr>();
const PHDR: usize = size_of::<Elf64_Phdr>();
const PAGE: u64 = 4096;

/// Returns the stand-in for the program that begins with these bytes; `None` if that cannot be an interpreter, because it
/// has an interpreter itself or is position-independent.
pub(super) fn stand_in(program: &[u8]) -> Option<Vec<u8>> {
    let own = program_headers(program)?;
    let is_fixed = u16_at(program, offset_of!(Elf64_Ehdr, e_type))? == usize::from(ET_EXEC);
    if !is_fixed || own.iter().any(|header| kind(header) == Some(PT_INTERP)) {
        return None;
    }
    // Copy the headers that the C library reads: what they describe is at the addresses that they state. The kernel maps
    // nothing for them.
    let told = [PT_TLS, PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_RELRO];
    let is_told = |header: &&[u8]| kind(header).is_some_and(|kind| told.contains(&kind));
    let told: Vec<&[u8]> = own.into_iter().filter(is_told).collect();
    let count = 2 + told.len();
    let path = EHDR + count * PHDR;
    let end = path + INTERPRETER.len();

    let mut file = file_header(program, count)?;
    file.extend(program_header(PT_INTERP, ADDRESS, path, INTERPRETER.len(), 1));
    file.extend(program_header(PT_LOAD, ADDRESS, 0, end, PAGE));
    told.iter().for_each(|header| file.extend(*header));
    file.extend(INTERPRETER);
    Some(file)
}

/// Returns a program like the one that begins with these bytes, whose only segment cannot be mapped: its exec fails when the old
/// program is gone already.
pub(super) fn unmappable(program: &[u8]) -> Option<Vec<u8>> {
    let mut file = file_header(program, 1)?;
    file.extend(program_header(PT_LOAD, NOWHERE, 0, EHDR + PHDR, PAGE));
    Some(file)
}

/// Makes the header of a file that has so many program headers, for the processor of the program that begins with these bytes.
fn file_header(program: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut file = program.get(..EHDR)?.to_vec();
    let mut put = |at: usize, number: &[u8]| file[at..at + number.len()].copy_from_slice(number);
    put(offset_of!(Elf64_Ehdr, e_type), &ET_EXEC.to_le_bytes());
    put(offset_of!(Elf64_Ehdr, e_phoff), &(EHDR as u64).to_le_bytes());
    put(offset_of!(Elf64_Ehdr, e_phnum), &u16::try_from(count).ok()?.to_le_bytes());
    // The file has no sections.
    put(offset_of!(Elf64_Ehdr, e_shoff), &[0; 8]);
    put(offset_of!(Elf64_Ehdr, e_shnum), &[0; 2]);
    put(offset_of!(Elf64_Ehdr, e_shstrndx), &[0; 2]);
    Some(file)
}

/// Makes a program header for this part of the file, of which offset 0 is mapped at `base`.
fn program_header(kind: u32, base: u64, offset: usize, size: usize, align: u64) -> Vec<u8> {
    let (offset, size) = (offset as u64, size as u64);
    let address = base + offset;
    let words = [offset, address, address, size, size, align];
    let kind_and_flags = [kind, PF_R].into_iter().flat_map(u32::to_le_bytes);
    kind_and_flags.chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use libc::{ET_DYN, PT_NOTE};

    use super::*;
    use crate::elf::segment;

    /// Makes a program of this type that consists of these headers only.
    fn program(kind: u16, headers: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; EHDR];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[offset_of!(Elf64_Ehdr, e_type)] = kind as u8;
        bytes[offset_of!(Elf64_Ehdr, e_phoff)] = EHDR as u8;
        bytes[offset_of!(Elf64_Ehdr, e_phentsize)] = PHDR as u8;
        bytes[offset_of!(Elf64_Ehdr, e_phnum)] = headers.len() as u8;
        headers.iter().for_each(|kind| bytes.extend(program_header(*kind, ADDRESS, 0, 0, 1)));
        bytes
    }

    #[test]
    fn what_the_kernel_would_map_is_left_out_and_the_rest_is_told() {
        let file = stand_in(&program(ET_EXEC, &[PT_LOAD, PT_TLS, PT_NOTE])).unwrap();
        let kinds: Vec<u32> = program_headers(&file).unwrap().into_iter().filter_map(kind).collect();
        assert_eq!(kinds, [PT_INTERP, PT_LOAD, PT_TLS]);
        assert_eq!(segment(&file, PT_INTERP), Some(INTERPRETER));
    }

    #[test]
    fn a_program_that_needs_an_interpreter_or_may_be_anywhere_is_none() {
        assert_eq!(stand_in(&program(ET_EXEC, &[PT_LOAD, PT_INTERP])), None);
        assert_eq!(stand_in(&program(ET_DYN, &[PT_LOAD])), None);
        assert_eq!(stand_in(b"#!/bin/sh"), None);
    }
}
