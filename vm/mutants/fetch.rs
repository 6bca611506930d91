//! The default kernel tree: the source package in Debian's archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Returns the cache of the driver, for everything that is downloaded or built.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(base.context("no place for a cache: set HOME or XDG_CACHE_HOME")?.join("clone3-conformance"))
}

/// Returns the unpacked tree of a source package, such as `linux-source-7.3`; downloads it once.
pub fn tree(package: &str, driver: &Path) -> Result<PathBuf> {
    let cache = cache()?;
    let tree = cache.join(package);
    if tree.exists() {
        return Ok(tree);
    }
    let part = cache.join(format!("{package}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(part.join("tree"))?;
    // The driver fetches the archive's lists, and writes the apt settings for using them.
    run(Command::new(driver).arg("--list-kernels"))?;
    let settings = cache.join("apt/apt.conf");
    let mut download = Command::new("apt-get");
    // The driver reads the lists itself, and so its settings disable the index that apt-get needs.
    download.arg("-c").arg(settings).args(["-o", "pkgCacheFile::Generate=true", "download", package]);
    run(download.current_dir(&part))?;
    unpack(package, &part)?;
    fs::rename(part.join("tree"), &tree)?;
    fs::remove_dir_all(part)?;
    Ok(tree)
}

/// Unpacks the package, which contains one archive with the whole tree in one folder.
fn unpack(package: &str, part: &Path) -> Result<()> {
    let files: Vec<PathBuf> =
        part.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    let deb = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    run(Command::new("dpkg-deb").arg("-x").arg(deb.context("no package was downloaded")?).arg(part))?;
    let archive = part.join(format!("usr/src/{package}.tar.xz"));
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("--strip-components=1")
        .arg("-C")
        .arg(part.join("tree")))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
