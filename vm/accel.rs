//! Whether this machine can run a guest on its own processor (KVM), or has to emulate one (TCG).
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
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

/// What the user asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Wish {
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
    /// One host thread for each processor, or one for all.
    Tcg {
        threads: Threads,
    },
}

/// How an emulated machine's processors share the host's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Threads {
    /// At the same time: faster, and now and then wrong where the guest patches its own code.
    Multi,
    /// In turn.
    Single,
}

impl Accel {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } => "tcg",
        }
    }

    /// As QEMU's option says it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg { threads: Threads::Multi } => "tcg,thread=multi",
            Self::Tcg { threads: Threads::Single } => "tcg,thread=single",
        }
    }
}

/// What the payload says on QEMU's debug port, and how QEMU's exit status says it again.
const ALIVE: u8 = 0x2a;
const ALIVE_STATUS: i32 = (ALIVE as i32) << 1 | 1;

/// A working KVM runs the payload in a tenth of this.
const DEADLINE: Duration = Duration::from_secs(2);

/// What QEMU says where the kernel's KVM, or the processor, stopped the guest.
const KVM_FAILURES: [&str; 2] = ["KVM internal error", "kvm run failed"];

/// What came of trying KVM.
#[derive(Debug, PartialEq)]
enum Trial {
    Works,
    /// It does not, and will not before something changes here.
    Fails(String),
    /// It did not in time, which a busy host may have taken from it: another trial may end otherwise.
    Slow(String),
}

/// Decides what runs the guest.
pub fn choose(wish: Wish, arch: Arch, cache: &Cache, interrupts: &Interrupts) -> Result<Accel> {
    let tcg = Accel::Tcg { threads: Threads::Multi };
    match wish {
        Wish::Kvm if arch != Arch::Amd64 => {
            bail!("KVM has no {} guests on this machine; use --accel tcg", arch.name())
        }
        Wish::Auto if arch != Arch::Amd64 => Ok(tcg),
        Wish::Tcg => Ok(tcg),
        Wish::Kvm => match kvm_works(true, cache, interrupts)? {
            Ok(()) => Ok(Accel::Kvm),
            Err(why) => bail!("KVM does not work here: {why}; use --accel tcg"),
        },
        Wish::Auto => Ok(match kvm_works(false, cache, interrupts)? {
            Ok(()) => Accel::Kvm,
            Err(_) => tcg,
        }),
    }
}

/// Whether KVM works, or why not: tried once for each start of this machine and each QEMU, and again if `anew` says so.
fn kvm_works(anew: bool, cache: &Cache, interrupts: &Interrupts) -> Result<Result<(), String>> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Err(format!("/dev/kvm: {error}")));
    }
    answer(&cache.path(&format!("kvm-{}", circumstances())), anew, || try_kvm(interrupts))
}

/// The answer that is remembered at `path`, or that of a new trial, which is remembered if it is not one of the moment.
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

/// What the answer holds for: this start of the machine, and this QEMU.
fn circumstances() -> String {
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let qemu =
        find(Arch::Amd64.emulator()).and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.mtime());
    format!("{}-{qemu:x}", start.trim())
}

/// Runs a guest of a few instructions under KVM.
///
/// It takes a real kernel's way: through the firmware, in and out of protected mode, to the entry point of a kernel image.
/// A KVM that opens, and even runs the firmware's first instructions, has been seen to stop on that way.
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

/// What a trial showed that ended so, or did not end in time, and in which QEMU said this.
fn outcome(status: Option<ExitStatus>, said: &str) -> Trial {
    match status {
        Some(status) if status.code() == Some(ALIVE_STATUS) => Trial::Works,
        Some(status) => Trial::Fails(format!("QEMU cannot run a guest with it ({status})")),
        // QEMU keeps a guest that KVM has stopped.
        None => match said.lines().find(|line| KVM_FAILURES.iter().any(|failure| line.contains(failure))) {
            Some(failure) => Trial::Fails(format!("QEMU cannot run a guest with it ({})", failure.trim())),
            None => Trial::Slow(format!(
                "a guest of three instructions does not end within {} s",
                DEADLINE.as_secs()
            )),
        },
    }
}

/// The smallest kernel image by the boot protocol: it says that it is alive, and halts.
fn payload() -> Vec<u8> {
    const SECTORS: u8 = 4;
    let mut image = vec![0; 512 * (usize::from(SECTORS) + 1) + 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SECTORS]);
    put(0x1f4, &1_u32.to_le_bytes()); // the part after the set-up code: 16 bytes
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
