//! A small file that stands in for this program: its mode, owner and capabilities are its own, the code that runs is this
//! program's.
//!
//! It is an ELF file that names this program as its interpreter. The kernel takes the credentials from the file and starts
//! the interpreter, which finds itself where it always is. A whole copy would do as well, but its code is new to an emulator
//! each time: the nine cases that need such a file took a tenth of all the time.

use std::ops::Range;

/// The interpreter's path, with its end: the program that execs.
const INTERPRETER: &[u8] = b"/proc/self/exe\0";

/// Where the file is mapped, far from everything: its headers, in which the C library looks for what it needs.
const ADDRESS: u64 = 0x1000_0000;

// From elf.h: sizes, offsets and values of 64-bit ELF.
const EHDR: usize = 64;
const PHDR: usize = 56;
const E_TYPE: Range<usize> = 16..18;
const E_PHOFF: Range<usize> = 32..40;
const E_SHOFF: Range<usize> = 40..48;
const E_PHENTSIZE: Range<usize> = 54..56;
const E_PHNUM: Range<usize> = 56..58;
const E_SHNUM_AND_SHSTRNDX: Range<usize> = 60..64;
const ET_EXEC: u64 = 2;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_TLS: u32 = 7;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_R: u32 = 4;
const PAGE: u64 = 4096;

/// The stand-in for the program that begins with these bytes; `None` if it can be nobody's interpreter, as it has one itself
/// or may be mapped anywhere.
pub(super) fn stand_in(program: &[u8]) -> Option<Vec<u8>> {
    let own = program_headers(program)?;
    let is_fixed = number(program, E_TYPE)? == ET_EXEC;
    if !is_fixed || own.iter().any(|header| kind(header) == PT_INTERP) {
        return None;
    }
    // What the C library looks for in the headers of the program is where they say. The kernel looks there for nothing.
    let told = [PT_TLS, PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_RELRO];
    let told: Vec<&[u8]> = own.into_iter().filter(|header| told.contains(&kind(header))).collect();
    let count = 2 + told.len();
    let path = EHDR + count * PHDR;
    let end = path + INTERPRETER.len();

    let mut file = program.get(..EHDR)?.to_vec();
    file[E_PHOFF].copy_from_slice(&(EHDR as u64).to_le_bytes());
    file[E_SHOFF].fill(0);
    file[E_PHNUM].copy_from_slice(&u16::try_from(count).ok()?.to_le_bytes());
    file[E_SHNUM_AND_SHSTRNDX].fill(0);
    file.extend(program_header(PT_INTERP, path, INTERPRETER.len(), 1));
    file.extend(program_header(PT_LOAD, 0, end, PAGE));
    told.iter().for_each(|header| file.extend(*header));
    file.extend(INTERPRETER);
    Some(file)
}

fn program_headers(program: &[u8]) -> Option<Vec<&[u8]>> {
    let (start, count) = (number(program, E_PHOFF)? as usize, number(program, E_PHNUM)? as usize);
    if !program.starts_with(b"\x7fELF") || number(program, E_PHENTSIZE)? as usize != PHDR {
        return None;
    }
    Some(program.get(start..)?.get(..count * PHDR)?.chunks_exact(PHDR).collect())
}

fn kind(header: &[u8]) -> u32 {
    number(header, 0..4).map_or(0, |kind| kind as u32)
}

/// The little-endian number in these bytes.
fn number(bytes: &[u8], place: Range<usize>) -> Option<u64> {
    Some(bytes.get(place)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A header for this part of the file.
fn program_header(kind: u32, offset: usize, size: usize, align: u64) -> Vec<u8> {
    let (offset, size) = (offset as u64, size as u64);
    let address = ADDRESS + offset;
    let words = [offset, address, address, size, size, align];
    let kind_and_flags = [kind, PF_R].into_iter().flat_map(u32::to_le_bytes);
    kind_and_flags.chain(words.into_iter().flat_map(u64::to_le_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of this type with these headers, and nothing else.
    fn program(kind: u8, headers: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; EHDR];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[16] = kind;
        bytes[32] = EHDR as u8;
        bytes[54] = PHDR as u8;
        bytes[56] = headers.len() as u8;
        headers.iter().for_each(|kind| bytes.extend(program_header(*kind, 0, 0, 1)));
        bytes
    }

    #[test]
    fn what_the_kernel_would_map_is_left_out_and_the_rest_is_told() {
        const PT_NOTE: u32 = 4;
        let file = stand_in(&program(2, &[PT_LOAD, PT_TLS, PT_NOTE])).unwrap();
        let kinds: Vec<u32> = program_headers(&file).unwrap().into_iter().map(kind).collect();
        assert_eq!(kinds, [PT_INTERP, PT_LOAD, PT_TLS]);
        let path = number(&file, EHDR + 8..EHDR + 16).unwrap() as usize;
        assert_eq!(&file[path..], INTERPRETER);
    }

    #[test]
    fn a_program_that_needs_an_interpreter_or_may_be_anywhere_is_none() {
        assert_eq!(stand_in(&program(2, &[PT_LOAD, PT_INTERP])), None);
        assert_eq!(stand_in(&program(3, &[PT_LOAD])), None);
        assert_eq!(stand_in(b"#!/bin/sh"), None);
    }
}
