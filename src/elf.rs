//! A reader for the parts of the ELF format (64 bits, little-endian) that the suite needs. Source: elf(5).

use std::mem::offset_of;

use libc::{Elf64_Ehdr, Elf64_Phdr};

/// Returns the bytes of the first segment of this kind (`PT_…`), if the file is an ELF program and has one.
pub fn segment(file: &[u8], kind: u32) -> Option<&[u8]> {
    let header = program_headers(file)?.into_iter().find(|header| self::kind(header) == Some(kind))?;
    let start = u64_at(header, offset_of!(Elf64_Phdr, p_offset))?;
    let length = u64_at(header, offset_of!(Elf64_Phdr, p_filesz))?;
    file.get(start..start.checked_add(length)?)
}

/// Returns the program headers, if the file is an ELF program and contains all of them.
pub fn program_headers(file: &[u8]) -> Option<Vec<&[u8]>> {
    let size = u16_at(file, offset_of!(Elf64_Ehdr, e_phentsize))?;
    if !is_program(file) || size != size_of::<Elf64_Phdr>() {
        return None;
    }
    let table = file.get(u64_at(file, offset_of!(Elf64_Ehdr, e_phoff))?..)?;
    let count = u16_at(file, offset_of!(Elf64_Ehdr, e_phnum))?;
    Some(table.get(..count * size)?.chunks_exact(size).collect())
}

/// Returns the segment type (`PT_…`) of a program header.
pub fn kind(header: &[u8]) -> Option<u32> {
    u32_at(header, offset_of!(Elf64_Phdr, p_type))
}

/// Returns how many notes of this owner and kind (`NT_…`) a core dump has, if the file is one.
pub fn notes(file: &[u8], owner: &str, kind: u32) -> Option<usize> {
    let mut rest = segment(file, libc::PT_NOTE)?;
    let mut count = 0;
    while !rest.is_empty() {
        let [name_size, size] = [u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize];
        let name = rest.get(12..)?.get(..name_size)?;
        count += usize::from(name.strip_suffix(b"\0") == Some(owner.as_bytes()) && u32_at(rest, 8)? == kind);
        rest = rest.get(12 + name_size.next_multiple_of(4) + size.next_multiple_of(4)..)?;
    }
    Some(count)
}

/// Returns whether the file is a 64-bit little-endian ELF file.
pub fn is_program(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01")
}

/// Returns the 16-bit number at offset `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

/// Returns the 32-bit number at offset `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a note of this owner and kind, with so many bytes of zeroes.
    fn note(owner: &str, kind: u32, size: usize) -> Vec<u8> {
        let mut note: Vec<u8> =
            [owner.len() as u32 + 1, size as u32, kind].into_iter().flat_map(u32::to_le_bytes).collect();
        note.extend(owner.as_bytes());
        note.resize(12 + (owner.len() + 1).next_multiple_of(4) + size.next_multiple_of(4), 0);
        note
    }

    /// Makes a file whose only segment has these notes.
    fn core(notes: &[u8]) -> Vec<u8> {
        let (ehdr, phdr) = (size_of::<Elf64_Ehdr>(), size_of::<Elf64_Phdr>());
        let mut file = vec![0; ehdr + phdr];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[offset_of!(Elf64_Ehdr, e_phoff)] = ehdr as u8;
        file[offset_of!(Elf64_Ehdr, e_phentsize)] = phdr as u8;
        file[offset_of!(Elf64_Ehdr, e_phnum)] = 1;
        file[ehdr + offset_of!(Elf64_Phdr, p_type)] = libc::PT_NOTE as u8;
        file[ehdr + offset_of!(Elf64_Phdr, p_offset)] = (ehdr + phdr) as u8;
        file[ehdr + offset_of!(Elf64_Phdr, p_filesz)] = notes.len() as u8;
        file.extend(notes);
        file
    }

    #[test]
    fn notes_of_one_owner_and_kind_are_counted() {
        let file =
            core(&[note("CORE", 1, 5), note("CORE", 3, 8), note("LINUX", 1, 0), note("CORE", 1, 0)].concat());
        assert_eq!(notes(&file, "CORE", 1), Some(2));
        assert_eq!(notes(&file, "CORE", 2), Some(0));
    }

    #[test]
    fn a_note_that_is_cut_short_is_none() {
        let file = core(&note("CORE", 1, 8)[..20]);
        assert_eq!(notes(&file, "CORE", 1), None);
    }
}
