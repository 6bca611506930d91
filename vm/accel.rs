//! The choice between KVM, which runs the guest on the host's CPU, and TCG, which emulates a CPU.
use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::arch::Arch;
use crate::cache::{Cache, write_whole};
use crate::interrupt::Interrupts;
use crate::note;
use crate::process::run_within;
use crate::system::find;

/// The value of `--accel`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum AccelChoice {
    /// KVM where it works, TCG elsewhere.
    Auto,
    /// The machine's own processor.
    Kvm,
    /// An emulated processor.
    Tcg,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accel {
    Kvm,
    /// Emulation, with one host thread per guest CPU or one for all.
    Tcg {
        threads: Threads,
    },
}

/// How the CPUs of an emulated machine share the host's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Threads {
    /// In parallel: faster, but occasionally wrong when the guest patches its own code.
    Multi,
    /// One at a time.
    Single,
}

impl Accel {
    /// Returns the name used in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } => "tcg",
        }
    }

    /// Returns the argument of QEMU's `-accel` option.
    pub fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { threads: Threads::Multi } => "tcg,thread=multi",
            Self::Tcg { threads: Threads::Single } => "tcg,thread=single",
        }
    }
}

/// The byte that the payload writes to QEMU's debug port, and the exit status that QEMU derives from it.
const ALIVE: u8 = 0x2a;
const ALIVE_STATUS: i32 = (ALIVE as i32) << 1 | 1;

/// The timeout of a trial. A KVM that uses the CPU's own virtualization runs the payload in a third of this, and TCG in a tenth.
/// One that emulates the first steps of a boot takes longer, and has been seen to stop kernels later.
const DEADLINE: Duration = Duration::from_millis(700);

/// QEMU's messages when the kernel's KVM or the CPU stopped the guest.
const KVM_FAILURES: [&str; 2] = ["KVM internal error", "kvm run failed"];

/// Returns whether QEMU says in this line that KVM stopped the guest. QEMU does not exit then.
pub fn is_kvm_failure(line: &str) -> bool {
    KVM_FAILURES.iter().any(|failure| line.contains(failure))
}

/// The result of trying KVM.
#[derive(Debug, PartialEq)]
enum Trial {
    Works,
    /// KVM does not work, and will not until something on this machine changes.
    Fails(String),
    /// The trial timed out. The host may just have been busy, so another trial may succeed.
    Slow(String),
}

/// Decides which accelerator runs the guest.
pub fn choose(choice: AccelChoice, arch: Arch, cache: &Cache, interrupts: &Interrupts) -> Result<Accel> {
    let tcg = Accel::Tcg { threads: Threads::Multi };
    match choice {
        AccelChoice::Kvm if arch != Arch::Amd64 => {
            bail!("KVM has no {} guests on this machine; use --accel tcg", arch.name())
        }
        AccelChoice::Auto if arch != Arch::Amd64 => Ok(tcg),
        AccelChoice::Tcg => Ok(tcg),
        AccelChoice::Kvm => match kvm_works(true, cache, interrupts)? {
            Ok(()) => Ok(Accel::Kvm),
            Err(why) => bail!("KVM does not work here: {why}; use --accel tcg"),
        },
        AccelChoice::Auto => Ok(match kvm_works(false, cache, interrupts)? {
            Ok(()) => Accel::Kvm,
            Err(_) => tcg,
        }),
    }
}

/// Returns whether KVM works, or why not. Tries it once per host boot and QEMU binary, and again if `anew` is set.
fn kvm_works(anew: bool, cache: &Cache, interrupts: &Interrupts) -> Result<Result<(), String>> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let why = unusable(&error);
        if !anew && error.kind() != ErrorKind::NotFound {
            note!("{why}; using TCG");
        }
        return Ok(Err(why));
    }
    answer(&cache_file(cache), anew, || try_kvm(interrupts))
}

/// Explains why `/dev/kvm` cannot be opened.
fn unusable(error: &Error) -> String {
    let hint =
        if error.kind() == ErrorKind::PermissionDenied { " (is this user in the group kvm?)" } else { "" };
    format!("/dev/kvm: {error}{hint}")
}

/// Records that KVM stopped a guest, so that later runs do not try it.
pub fn give_up_kvm(why: &str, cache: &Cache) -> Result<()> {
    write_whole(&cache_file(cache), why.as_bytes())
}

/// Returns the path of the cache file that records whether KVM works.
fn cache_file(cache: &Cache) -> PathBuf {
    cache.path(&format!("kvm-{}", circumstances()))
}

/// Returns the answer cached at `path`, or the result of a new trial, which is cached unless the trial timed out.
fn answer(path: &Path, anew: bool, trial: impl FnOnce() -> Result<Trial>) -> Result<Result<(), String>> {
    if let Some(known) = fs::read_to_string(path).ok().filter(|_| !anew) {
        return Ok(if known.is_empty() { Ok(()) } else { Err(known) });
    }
    match trial()? {
        Trial::Works => {
            write_whole(path, b"")?;
            Ok(Ok(()))
        }
        Trial::Fails(why) => {
            note!("/dev/kvm is there, but {why} (remembered in {}; --accel kvm tries again)", path.display());
            write_whole(path, why.as_bytes())?;
            Ok(Err(why))
        }
        Trial::Slow(why) => {
            note!("/dev/kvm is there, but {why}; the next run tries again");
            Ok(Err(why))
        }
    }
}

/// Returns the key under which an answer is cached: the host's boot and the QEMU binary.
fn circumstances() -> String {
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let qemu =
        find(Arch::Amd64.emulator()).and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.mtime());
    format!("{}-{qemu:x}", start.trim())
}

/// Runs a guest of a few instructions under KVM.
///
/// The guest boots the way a real kernel does: through the firmware, in and out of protected mode, to the entry point of a kernel
/// image. Some KVMs open, and even run the firmware's first instructions, but stop further on.
fn try_kvm(interrupts: &Interrupts) -> Result<Trial> {
    let folder = tempfile::tempdir()?;
    let (kernel, complaint) = (folder.path().join("payload"), folder.path().join("complaint"));
    fs::write(&kernel, payload())?;
    let mut qemu = Command::new(Arch::Amd64.emulator());
    qemu.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config"]);
    qemu.args(["-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    qemu.arg("-kernel").arg(&kernel).stdout(Stdio::null()).stderr(File::create(&complaint)?);
    let status = run_within(&mut qemu, Some(DEADLINE), interrupts)?;
    Ok(outcome(status, &String::from_utf8_lossy(&fs::read(complaint)?)))
}

/// Classifies a trial by QEMU's exit status (`None` after a timeout) and its error output.
fn outcome(status: Option<ExitStatus>, said: &str) -> Trial {
    match status {
        Some(status) if status.code() == Some(ALIVE_STATUS) => Trial::Works,
        Some(status) => Trial::Fails(format!("QEMU cannot run a guest with it ({status})")),
        // QEMU does not exit when KVM has stopped the guest.
        None => match said.lines().find(|line| is_kvm_failure(line)) {
            Some(failure) => Trial::Fails(format!("QEMU cannot run a guest with it ({})", failure.trim())),
            None => Trial::Slow(format!(
                "a guest of three instructions does not end within {} ms",
                DEADLINE.as_millis()
            )),
        },
    }
}

/// Returns the smallest kernel image that the boot protocol allows: it writes `ALIVE` to the debug port, and halts.
fn payload() -> Vec<u8> {
    const SECTORS: u8 = 4;
    let mut image = vec![0; 512 * (usize::from(SECTORS) + 1) + 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SECTORS]);
    put(0x1f4, &1_u32.to_le_bytes()); // size of the part after the setup code: 16 bytes
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]); // jump over the header, to 0x268
    put(0x202, b"HdrS");
    put(0x206, &0x206_u16.to_le_bytes()); // version of the boot protocol
    put(0x211, &[1]); // load high
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x268, &[0xb0, ALIVE, 0xe6, 0xf4]); // mov al, ALIVE; out 0xf4, al
    put(0x26c, &[0xf4, 0xeb, 0xfd]); // hlt; jump back to it
    image
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_trial_that_takes_too_long_says_nothing_about_kvm() {
        let alive = Some(ExitStatus::from_raw(ALIVE_STATUS << 8));
        assert_eq!(outcome(alive, ""), Trial::Works);
        assert!(matches!(outcome(Some(ExitStatus::from_raw(1 << 8)), ""), Trial::Fails(_)));
        assert!(matches!(outcome(None, "qemu: warning: no such feature\n"), Trial::Slow(_)));
        let stopped = outcome(None, "KVM internal error. Suberror: 1\nEAX=0\n");
        assert!(matches!(stopped, Trial::Fails(why) if why.ends_with("(KVM internal error. Suberror: 1)")));
    }

    #[test]
    fn only_what_will_be_so_tomorrow_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvm");
        let unasked = || panic!("the answer is known");
        let slow = answer(&path, false, || Ok(Trial::Slow("busy".to_owned()))).unwrap();
        assert_eq!((slow, path.exists()), (Err("busy".to_owned()), false));
        let fails = answer(&path, false, || Ok(Trial::Fails("no".to_owned()))).unwrap();
        assert_eq!(fails, Err("no".to_owned()));
        assert_eq!(answer(&path, false, unasked).unwrap(), Err("no".to_owned()));
        assert_eq!(answer(&path, true, || Ok(Trial::Works)).unwrap(), Ok(()));
        assert_eq!(answer(&path, false, unasked).unwrap(), Ok(()));
    }
}
