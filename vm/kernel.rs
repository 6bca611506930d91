//! From what `--kernel` says to a kernel image that can be booted.
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clone3_conformance::elf;
use tempfile::TempDir;

use crate::arch::Arch;
use crate::archive::{Archive, Index, Package, unpack};
use crate::interrupt::Interrupted;
use crate::note;
use crate::spec::{Spec, or_usual};
use crate::virtme::Tools;
use crate::vmlinux;

/// A kernel that can be booted.
pub struct Kernel {
    pub image: PathBuf,
    /// The same kernel uncompressed, where that can be booted.
    pub uncompressed: Option<PathBuf>,
    /// Whether it is known to back files in memory with huge pages if asked to.
    pub huge_pages: bool,
    /// Its release, as `uname -r` gives it.
    pub release: String,
    pub arch: Arch,
    /// The package of the archive that it came from.
    pub package: Option<Package>,
    /// Kept as long as the kernel, where the image was unpacked for this run only.
    _unpacked: Option<TempDir>,
}

/// The empty file in the cache that says so of a kernel.
const HUGE_PAGES: &str = "huge-pages";

/// Gets the kernel that `spec` means.
pub fn get(spec: &Spec, archive: &Archive, refresh: bool) -> Result<Kernel> {
    match spec {
        Spec::Path(path) => from_path(path),
        Spec::Version { .. } | Spec::Suite { .. } => {
            let known = from_archive(find(spec, &archive.index(refresh)?)?, archive);
            match known {
                // The archive may have put a newer one in its place since it was asked.
                Err(error) if !refresh && !error.is::<Interrupted>() && archive.may_have_changed() => {
                    note!("{error:#}; asking the archive again");
                    from_archive(find(spec, &archive.index(true)?)?, archive)
                }
                known => known,
            }
        }
        Spec::Mainline(tag) => {
            let tools = Tools::prepare(archive.cache, archive.interrupts)?;
            from_image(&tools.download(tag, archive.cache, archive.interrupts)?)
        }
    }
}

/// The package in the index that `spec` means.
fn find<'a>(spec: &Spec, index: &'a Index) -> Result<&'a Package> {
    match spec {
        Spec::Suite { suite, flavour } => {
            let flavour = or_usual(flavour);
            index.newest_of_suite(suite, flavour).with_context(|| {
                format!("the archive's suite '{suite}' has no {flavour} kernel; see vm/run.sh --list-kernels")
            })
        }
        Spec::Version { prefix, flavour } => {
            let flavour = or_usual(flavour);
            index.newest(prefix, flavour).with_context(|| nothing_like(index, prefix, flavour))
        }
        spec => bail!("{spec} is not in the archive"),
    }
}

/// Why there is no such kernel, and what there is in its place.
fn nothing_like(index: &Index, prefix: &str, flavour: &str) -> String {
    let image = Arch::of_flavour(flavour).flavours().iter().find_map(|flavour| index.newest(prefix, flavour));
    match image {
        Some(package) => format!("the archive has no {flavour} kernel {prefix}, but {}", package.release()),
        None => format!("the archive has no kernel {prefix}; see vm/run.sh --list-kernels"),
    }
}

/// A kernel of the archive, unpacked in the cache.
fn from_archive(package: &Package, archive: &Archive) -> Result<Kernel> {
    let release = package.release();
    let name = format!("kernels/{release}_{}", package.version);
    let folder = archive.cache.folder(&name, archive.interrupts, |folder| {
        let file = folder.join("package.deb");
        archive.download(package, &file)?;
        take_image(&file, folder)?;
        fs::remove_file(&file)?;
        match archive.arch {
            Arch::Amd64 => unpack_image(folder).context("cannot unpack the kernel"),
            // They are not packed.
            Arch::Arm64 | Arch::Riscv64 => Ok(()),
        }
    })?;
    let kernel = from_image(&folder.join("vmlinuz"))?;
    let uncompressed = Some(folder.join("vmlinux")).filter(|path| path.exists());
    let huge_pages = folder.join(HUGE_PAGES).exists();
    Ok(Kernel { package: Some(package.clone()), uncompressed, huge_pages, ..kernel })
}

/// Puts the uncompressed kernel beside the image, if it can be booted, and what is to be known of it.
fn unpack_image(folder: &Path) -> Result<()> {
    let target = folder.join("vmlinux");
    if vmlinux::unpack(&folder.join("vmlinuz"), &target)? && vmlinux::has_huge_pages(&fs::read(&target)?) {
        File::create(folder.join(HUGE_PAGES))?;
    }
    Ok(())
}

/// A kernel that lies on this machine.
fn from_path(path: &Path) -> Result<Kernel> {
    ensure!(path.exists(), "{} is not there", path.display());
    if path.is_dir() {
        return from_image(&image_of_tree(path)?);
    }
    if path.extension().is_some_and(|suffix| suffix == "deb") {
        let folder = tempfile::tempdir()?;
        take_image(path, folder.path())?;
        let mut kernel = from_image(&folder.path().join("vmlinuz"))?;
        kernel._unpacked = Some(folder);
        return Ok(kernel);
    }
    from_image(path)
}

/// The image in a kernel build tree.
fn image_of_tree(tree: &Path) -> Result<PathBuf> {
    let places = Arch::ALL.map(Arch::image_in_tree);
    let image = places.iter().map(|place| tree.join(place)).find(|image| image.exists());
    image.with_context(|| {
        format!("{} is no built kernel tree: it has no {}", tree.display(), places.join(", and no "))
    })
}

/// Takes the kernel image out of a package: into `folder`, as `vmlinuz`.
fn take_image(package: &Path, folder: &Path) -> Result<()> {
    let image = |path: &str| {
        let path = path.trim_start_matches("./");
        // Where it is not packed, it is not called so.
        let old = path.starts_with("boot/vmlinuz-") || path.starts_with("boot/vmlinux-");
        let new = path.starts_with("usr/lib/modules/") && path.ends_with("/vmlinuz");
        (old || new).then(|| "vmlinuz".to_owned())
    };
    let taken = unpack(package, folder, image, 1)?;
    ensure!(taken == 1, "{} holds no kernel image", package.display());
    Ok(())
}

/// A kernel image, looked at closely enough to say that it is one.
fn from_image(path: &Path) -> Result<Kernel> {
    let no_image = || {
        format!(
            "{} is no kernel image: for x86 a vmlinuz, bzImage or vmlinux with PVH is one, for arm64 and riscv64 an Image",
            path.display()
        )
    };
    let kernel = |release, arch| {
        let image = fs::canonicalize(path)?;
        Ok(Kernel {
            image,
            release,
            arch,
            uncompressed: None,
            huge_pages: false,
            package: None,
            _unpacked: None,
        })
    };
    if let Some(release) = unpacked_release(path)? {
        return kernel(release, Arch::Amd64);
    }
    let mut head = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = file.metadata()?.len();
    file.take(HEAD).read_to_end(&mut head)?;
    if let Some(arch) = vmlinux::arch_of_image(&head) {
        return kernel(vmlinux::release(&fs::read(path)?).with_context(no_image)?, arch);
    }
    let header = Header::parse(&head).with_context(no_image)?;
    ensure!(
        length >= header.length,
        "{} is cut off: it has {length} bytes of {}",
        path.display(),
        header.length
    );
    kernel(header.release, Arch::Amd64)
}

/// The release of a kernel that is not compressed and can be started so; none of anything else.
fn unpacked_release(path: &Path) -> Result<Option<String>> {
    let mut magic = Vec::new();
    let cannot_read = || format!("cannot read {}", path.display());
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut magic)).with_context(cannot_read)?;
    if !elf::is_program(&magic) {
        return Ok(None);
    }
    let kernel = fs::read(path).with_context(cannot_read)?;
    Ok(vmlinux::is_bootable(&kernel).then(|| vmlinux::release(&kernel)).flatten())
}

/// How much of an image has to be read to know it.
const HEAD: u64 = 1 << 16;

/// What the boot protocol's header says about an image.
#[derive(Debug, Eq, PartialEq)]
struct Header {
    release: String,
    /// How long the file must be.
    length: u64,
}

impl Header {
    /// Reads the header, if the file begins as a bzImage does.
    fn parse(head: &[u8]) -> Option<Self> {
        let bytes = |at: usize, count: usize| head.get(at..at + count);
        if bytes(0x202, 4)? != b"HdrS" {
            return None;
        }
        let sectors = match head[0x1f1] {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let paragraphs = u32::from_le_bytes(bytes(0x1f4, 4)?.try_into().ok()?);
        let release_at = usize::from(u16::from_le_bytes(bytes(0x20e, 2)?.try_into().ok()?)) + 0x200;
        let release = head.get(release_at..)?.split(|byte| *byte == 0 || *byte == b' ').next()?;
        let length = (sectors + 1) * 512 + u64::from(paragraphs) * 16;
        Some(Self { release: String::from_utf8_lossy(release).into_owned(), length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_release_and_length() {
        let mut head = vec![0; 0x400];
        head[0x1f1] = 1;
        head[0x1f4] = 2;
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        head[0x300..0x30e].copy_from_slice(b"7.1.13 (x) #1\0");
        assert_eq!(Header::parse(&head), Some(Header { release: "7.1.13".into(), length: 1024 + 32 }));
    }

    #[test]
    fn an_image_for_arm_is_known_by_its_magic_and_its_banner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Image");
        let mut image = vec![0; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        fs::write(&path, &image).unwrap();
        assert!(from_image(&path).is_err());
        image.extend(b"Linux version 7.1.13-test (x) #1");
        fs::write(&path, &image).unwrap();
        let kernel = from_image(&path).unwrap();
        assert_eq!((kernel.arch, kernel.release.as_str()), (Arch::Arm64, "7.1.13-test"));
    }

    #[test]
    fn what_is_no_image_has_no_header() {
        assert_eq!(Header::parse(b"#!/bin/sh"), None);
        assert_eq!(Header::parse(&[0; 0x400]), None);
    }
}
