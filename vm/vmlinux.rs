//! Decompression of kernel images.
//!
//! An emulated CPU takes more than a second to decompress a distribution's kernel. QEMU can start an uncompressed kernel if it
//! has the PVH entry point (CONFIG_PVH). If it does not, or if this machine lacks the program to decompress it, the kernel is
//! booted compressed.
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clone3_conformance::elf::{self, u32_at};
use regex::bytes::Regex;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::interrupt::Interrupts;
use crate::process::filter;
use crate::system::{self, Thing};

/// A program that decompresses, and the package that it is in.
#[derive(Clone, Copy)]
struct Decompressor {
    package: &'static str,
    program: &'static str,
}

/// The magic number of a compressed kernel, the program that decompresses it, and whether its length is appended to it.
const DECOMPRESSORS: [(&[u8], Decompressor, bool); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], Decompressor { package: "zstd", program: "zstd" }, true),
    (&[0x02, 0x21, 0x4c, 0x18], Decompressor { package: "lz4", program: "lz4" }, true),
    (&[0x1f, 0x8b], Decompressor { package: "gzip", program: "gzip" }, false),
    (&[0xfd, b'7', b'z', b'X', b'Z'], Decompressor { package: "xz-utils", program: "xz" }, true),
];

/// The owner and type of the ELF note that contains the entry point.
const ENTRY_OWNER: &[u8] = b"Xen\0";
const ENTRY_TYPE: u32 = 18;

/// Decompresses the kernel in `image` to `target`, and returns it, if it is bootable.
pub fn unpack(
    image: &Path,
    target: &Path,
    cache: &Cache,
    interrupts: &Interrupts,
) -> Result<Option<Vec<u8>>> {
    let image = fs::read(image)?;
    let Some((decompressor, packed)) = payload(&image) else { return Ok(None) };
    let Decompressor { package, program } = decompressor;
    system::ensure(&[(package, Thing::Program(program))], cache, interrupts)?;
    decompress(program, packed, target, interrupts)?;
    let kernel = fs::read(target)?;
    if is_bootable(&kernel) {
        return Ok(Some(kernel));
    }
    fs::remove_file(target)?;
    Ok(None)
}

/// Returns whether QEMU can start this kernel directly.
pub fn is_bootable(kernel: &[u8]) -> bool {
    elf::segment(kernel, libc::PT_NOTE).is_some_and(has_entry)
}

/// Returns the architecture of an uncompressed image, from its header (Documentation/arch/arm64/booting.rst,
/// Documentation/arch/riscv/boot-image-header.rst).
pub fn arch_of_image(head: &[u8]) -> Option<Arch> {
    match head.get(56..60)? {
        b"ARM\x64" => Some(Arch::Arm64),
        b"RSC\x05" => Some(Arch::Riscv64),
        _ => None,
    }
}

/// Returns the release of an uncompressed kernel, from its banner.
pub fn release(kernel: &[u8]) -> Option<String> {
    let banner = Regex::new(r"Linux version (\d\S*)").ok()?;
    Some(String::from_utf8_lossy(banner.captures(kernel)?.get(1)?.as_bytes()).into_owned())
}

/// Returns whether the kernel supports huge pages for files in memory (CONFIG_TRANSPARENT_HUGEPAGE), which is the case if it has
/// this kernel option.
pub fn has_huge_pages(kernel: &[u8]) -> bool {
    Regex::new(r"\x00transparent_hugepage=\x00").is_ok_and(|option| option.is_match(kernel))
}

/// Returns the compressed kernel in an image, which the boot protocol's header locates, and the program to decompress it.
fn payload(image: &[u8]) -> Option<(Decompressor, &[u8])> {
    let number = |at: usize| Some(u32_at(image, at)? as usize);
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let start = (sectors + 1) * 512 + number(0x248)?;
    let packed = image.get(start..start.checked_add(number(0x24c)?)?)?;
    let (_, decompressor, has_length) = DECOMPRESSORS.iter().find(|(magic, ..)| packed.starts_with(magic))?;
    let length = packed.len().checked_sub(if *has_length { 4 } else { 0 })?;
    Some((*decompressor, &packed[..length]))
}

/// Decompresses the bytes to `target`. A program that was killed has written a part, in which the entry point may be found.
fn decompress(program: &str, packed: &[u8], target: &Path, interrupts: &Interrupts) -> Result<()> {
    let mut input = tempfile::tempfile()?;
    input.write_all(packed)?;
    input.rewind()?;
    let output = File::create(target).with_context(|| format!("cannot write {}", target.display()))?;
    let status = filter(Command::new(program).arg("-dc"), input, output, interrupts)?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

/// Returns whether `notes` contain the entry point. Each note has the lengths of its owner and its text, its type, then both,
/// each padded to four bytes.
fn has_entry(mut notes: &[u8]) -> bool {
    while let (Some(owner), Some(text), Some(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        let rest = &notes[12..];
        if kind == ENTRY_TYPE && rest.starts_with(ENTRY_OWNER) {
            return true;
        }
        let length = (owner as usize).next_multiple_of(4) + (text as usize).next_multiple_of(4);
        let Some(next) = rest.get(length..) else { return false };
        notes = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates an ELF file with one segment of notes.
    fn program(owner: &[u8; 4], kind: u32) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&libc::PT_NOTE.to_le_bytes());
        file[72..80].copy_from_slice(&120_u64.to_le_bytes());
        for (owner, kind) in [(b"Oth\0", 18), (owner, kind)] {
            file.extend([4_u32, 4, kind].iter().flat_map(|number| number.to_le_bytes()));
            file.extend(owner);
            file.extend([0; 4]);
        }
        let length = u64::try_from(file.len() - 120).unwrap();
        file[96..104].copy_from_slice(&length.to_le_bytes());
        file
    }

    #[test]
    fn the_entry_point_is_found_among_notes() {
        let entry = |file: &[u8]| elf::segment(file, libc::PT_NOTE).map(has_entry);
        assert_eq!(entry(&program(b"Xen\0", 18)), Some(true));
        assert_eq!(entry(&program(b"Xen\0", 6)), Some(false));
        assert_eq!(entry(&program(b"Xen\0", 18)[..130]), None);
        assert_eq!(entry(b"MZ"), None);
        assert_eq!(entry(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn the_release_is_in_the_banner() {
        let kernel = b"\0Linux version %s (%s)\0\0Linux version 7.3.4+x (a@b) #1\0";
        assert_eq!(release(kernel), Some("7.3.4+x".to_owned()));
        assert_eq!(release(b"Linux version"), None);
    }

    #[test]
    fn huge_pages_are_an_option() {
        assert!(has_huge_pages(b"\xff\0transparent_hugepage=\0thp_anon=\0"));
        assert!(!has_huge_pages(b"\0transparent_hugepage=\xffnever"));
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x24c] = 10;
        image.extend([0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 4, 5, 6]);
        let (decompressor, packed) = payload(&image).unwrap();
        assert_eq!((decompressor.program, packed), ("zstd", &image[1024..1030]));
        assert!(payload(&image[..1030]).is_none());
        assert!(payload(b"").is_none());
    }
}
