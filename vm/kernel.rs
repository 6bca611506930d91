//! Resolution of `--kernel` to a bootable kernel image.
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

/// A bootable kernel.
pub struct Kernel {
    pub image: PathBuf,
    /// The uncompressed image of the same kernel, if it is bootable.
    pub uncompressed: Option<PathBuf>,
    /// Whether the kernel is known to use huge pages for files in memory, if asked to.
    pub huge_pages: bool,
    /// Its release, as `uname -r` prints it.
    pub release: String,
    pub arch: Arch,
    /// The package in the archive that it came from.
    pub package: Option<Package>,
    /// Keeps the temporary folder, if the image was unpacked for this run only.
    _unpacked: Option<TempDir>,
}

/// The empty file in the cache that marks such a kernel.
const HUGE_PAGES: &str = "huge-pages";

/// Gets the kernel that `spec` selects.
pub fn get(spec: &Spec, archive: &Archive, refresh: bool) -> Result<Kernel> {
    match spec {
        Spec::Path(path) => from_path(path),
        Spec::Version { .. } | Spec::Suite { .. } => {
            let known = from_archive(find(spec, &archive.index(refresh)?)?, archive);
            match known {
                // The archive may have replaced the package since its lists were fetched.
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

/// Returns the package in the index that `spec` selects.
fn find<'a>(spec: &Spec, index: &'a Index) -> Result<&'a Package> {
    match spec {
        Spec::Suite { suite, flavor } => {
            let flavor = or_usual(flavor);
            index.newest_of_suite(suite, flavor).with_context(|| {
                format!("the archive's suite '{suite}' has no {flavor} kernel; see vm/run.sh --list-kernels")
            })
        }
        Spec::Version { prefix, flavor } => {
            let flavor = or_usual(flavor);
            index.newest(prefix, flavor).with_context(|| nothing_like(index, prefix, flavor))
        }
        spec => bail!("{spec} is not in the archive"),
    }
}

/// Explains that there is no such kernel, and names the closest one that exists.
fn nothing_like(index: &Index, prefix: &str, flavor: &str) -> String {
    let image = Arch::of_flavor(flavor).flavors().iter().find_map(|flavor| index.newest(prefix, flavor));
    match image {
        Some(package) => format!("the archive has no {flavor} kernel {prefix}, but {}", package.release()),
        None => format!("the archive has no kernel {prefix}; see vm/run.sh --list-kernels"),
    }
}

/// Gets a kernel of the archive, unpacked in the cache.
fn from_archive(package: &Package, archive: &Archive) -> Result<Kernel> {
    let release = package.release();
    let name = format!("kernels/{release}_{}", package.version);
    let folder = archive.cache.folder(&name, archive.interrupts, |folder| {
        let file = folder.join("package.deb");
        archive.download(package, &file)?;
        take_image(&file, folder)?;
        Ok(fs::remove_file(&file)?)
    })?;
    let kernel = from_image(&folder.join("vmlinuz"))?;
    let kernel = Kernel { package: Some(package.clone()), ..kernel };
    match archive.arch {
        Arch::Amd64 => decompressed(kernel, archive),
        // These images are not compressed.
        Arch::Arm64 | Arch::Riscv64 => Ok(kernel),
    }
}

/// Adds the uncompressed image, which has its own place in the cache: what prevents a run from making it may be gone in the next.
fn decompressed(kernel: Kernel, archive: &Archive) -> Result<Kernel> {
    let version = kernel.package.as_ref().map_or("", |package| &package.version);
    let name = format!("uncompressed/{}_{version}", kernel.release);
    let made = archive.cache.folder(&name, archive.interrupts, |folder| {
        let target = folder.join("vmlinux");
        let bootable = vmlinux::unpack(&kernel.image, &target, archive.cache, archive.interrupts)?;
        if bootable.is_some_and(|bootable| vmlinux::has_huge_pages(&bootable)) {
            File::create(folder.join(HUGE_PAGES))?;
        }
        Ok(())
    });
    match made {
        Ok(folder) => {
            let uncompressed = Some(folder.join("vmlinux")).filter(|path| path.exists());
            Ok(Kernel { uncompressed, huge_pages: folder.join(HUGE_PAGES).exists(), ..kernel })
        }
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => {
            note!("the kernel stays compressed, which costs an emulator time: {error:#}");
            Ok(kernel)
        }
    }
}

/// Gets a kernel from a path on this machine.
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

/// Returns the image in a kernel build tree.
fn image_of_tree(tree: &Path) -> Result<PathBuf> {
    let places = Arch::ALL.map(Arch::image_in_tree);
    let image = places.iter().map(|place| tree.join(place)).find(|image| image.exists());
    image.with_context(|| {
        format!("{} is not a built kernel tree: it has no {}", tree.display(), places.join(", and no "))
    })
}

/// Extracts the kernel image from a package, to `vmlinuz` in `folder`.
fn take_image(package: &Path, folder: &Path) -> Result<()> {
    let image = |path: &str| {
        let path = path.trim_start_matches("./");
        // Uncompressed images are called vmlinux.
        let old = path.starts_with("boot/vmlinuz-") || path.starts_with("boot/vmlinux-");
        let new = path.starts_with("usr/lib/modules/") && path.ends_with("/vmlinuz");
        (old || new).then(|| "vmlinuz".to_owned())
    };
    let taken = unpack(package, folder, image, 1)?;
    ensure!(taken == 1, "{} holds no kernel image", package.display());
    Ok(())
}

/// Reads a kernel image, and checks that it is one.
fn from_image(path: &Path) -> Result<Kernel> {
    let no_image = || {
        format!(
            "{} is not a kernel image: for x86 a vmlinuz, bzImage or vmlinux with PVH is one, for arm64 and riscv64 an Image",
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

/// Returns the release of an uncompressed kernel that can be booted directly, or `None` for any other file.
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

/// The length of an image's start that is read to identify it.
const HEAD: u64 = 1 << 16;

/// What the header of the boot protocol says about an image.
#[derive(Debug, Eq, PartialEq)]
struct Header {
    release: String,
    /// The minimum length of the file.
    length: u64,
}

impl Header {
    /// Parses the header, if the file starts like a bzImage.
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
