//! The source of a kernel from Debian's archive, unpacked in the cache. For vm/mutants.sh, which builds kernels from it.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::arch::Arch;
use crate::archive::Archive;
use crate::cache::Cache;
use crate::interrupt::Interrupts;
use crate::process::succeed;
use crate::system::{self, Thing};

/// The first argument with which vm/mutants.sh calls this program; the package follows.
pub const SOURCE: &str = "source";

/// Prints the path of the tree of a source package, such as `linux-source-7.3`. The first run downloads it.
pub fn show(package: &str, cache: &Cache, interrupts: &Interrupts) -> Result<u8> {
    let tree = cache.folder(package, interrupts, |tree| {
        let archive = Archive { cache, interrupts, arch: Arch::Amd64 };
        archive.index(false)?;
        // The package is large, and so is what it unpacks to; /tmp may be in memory.
        let scratch = TempDir::new_in(cache.path(""))?;
        archive.download_newest(package, scratch.path())?;
        system::ensure(&[("xz-utils", Thing::Program("xz"))], cache, interrupts)?;
        unpack(package, scratch.path(), tree, interrupts)
    })?;
    Ok(crate::show(&format!("{}\n", tree.display())))
}

/// Unpacks the package in `folder`, which contains one archive with the whole tree in one folder.
fn unpack(package: &str, folder: &Path, tree: &Path, interrupts: &Interrupts) -> Result<()> {
    let files: Vec<PathBuf> =
        folder.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    let deb = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
    succeed(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder), interrupts)?;
    let archive = folder.join(format!("usr/src/{package}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("--strip-components=1").arg("-C").arg(tree);
    succeed(&mut tar, interrupts)
}
