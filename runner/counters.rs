//! The counters of a kernel that was built with gcov, which show how often each line ran.
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rustix::mount::{MountFlags, mount};

/// The kernel's folder of counters.
const FOLDER: &str = "/sys/kernel/debug/gcov";

/// Resets the counters, so that they exclude the boot.
pub fn reset() -> io::Result<()> {
    if !Path::new(FOLDER).exists() {
        mount("debugfs", "/sys/kernel/debug", "debugfs", MountFlags::empty(), c"")?;
    }
    fs::write(Path::new(FOLDER).join("reset"), "0")
}

/// Writes every file of counters into one tar archive.
pub fn write(out: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    add(&mut archive, Path::new(FOLDER))?;
    archive.into_inner()?.flush()
}

/// Adds the files below a folder. The kernel does not report the size of such a file before it is read.
fn add(archive: &mut tar::Builder<impl Write>, folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            add(archive, &path)?;
        } else if path.extension().is_some_and(|extension| extension == "gcda") {
            let bytes = fs::read(&path)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path.strip_prefix("/").unwrap_or(&path), &*bytes)?;
        }
    }
    Ok(())
}
