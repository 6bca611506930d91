//! As much of the format of programs (ELF, 64 bits, little-endian) as the driver has to read.

/// The segment that names the loader of a program; a static one has none.
pub const LOADER: u32 = 3;
/// The segment of notes.
pub const NOTES: u32 = 4;

/// The bytes of the first segment of this kind, if the file is a program and has one.
pub fn segment(file: &[u8], kind: u32) -> Option<&[u8]> {
    if !is_program(file) {
        return None;
    }
    let (table, size, count) = (u64_at(file, 32)?, u16_at(file, 54)?, u16_at(file, 56)?);
    let mut headers = (0..count).map_while(|number| file.get(table.checked_add(number * size)?..));
    let header = headers.find(|header| u32_at(header, 0) == Some(kind))?;
    let (start, length) = (u64_at(header, 8)?, u64_at(header, 32)?);
    file.get(start..start.checked_add(length)?)
}

/// Whether the file is a program at all.
pub fn is_program(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01")
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}
