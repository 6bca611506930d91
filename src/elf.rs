//! As much of the format of programs (ELF, 64 bits, little-endian) as there is to read here. Source: elf(5).

use std::mem::offset_of;

use libc::{Elf64_Ehdr, Elf64_Phdr};

/// The bytes of the first segment of this kind (`PT_…`), if the file is a program and has one.
pub fn segment(file: &[u8], kind: u32) -> Option<&[u8]> {
    let header = program_headers(file)?.into_iter().find(|header| self::kind(header) == Some(kind))?;
    let start = u64_at(header, offset_of!(Elf64_Phdr, p_offset))?;
    let length = u64_at(header, offset_of!(Elf64_Phdr, p_filesz))?;
    file.get(start..start.checked_add(length)?)
}

/// The headers of the program's segments, if the file is a program and they are all there.
pub fn program_headers(file: &[u8]) -> Option<Vec<&[u8]>> {
    let size = u16_at(file, offset_of!(Elf64_Ehdr, e_phentsize))?;
    if !is_program(file) || size != size_of::<Elf64_Phdr>() {
        return None;
    }
    let table = file.get(u64_at(file, offset_of!(Elf64_Ehdr, e_phoff))?..)?;
    let count = u16_at(file, offset_of!(Elf64_Ehdr, e_phnum))?;
    Some(table.get(..count * size)?.chunks_exact(size).collect())
}

/// What kind of segment (`PT_…`) a header is of.
pub fn kind(header: &[u8]) -> Option<u32> {
    u32_at(header, offset_of!(Elf64_Phdr, p_type))
}

/// Whether the file is a program at all.
pub fn is_program(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01")
}

/// The number in the two bytes there.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

/// The number in the four bytes there.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}
