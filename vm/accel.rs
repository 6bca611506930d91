//! Whether this machine can run a guest on its own processor (KVM), or has to emulate one (TCG).
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::cache::{Cache, write_whole};
use crate::interrupt::Interrupts;
use crate::note;
use crate::process::run_within;
use crate::qemu::PROGRAM;
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

/// Decides what runs the guest.
pub fn choose(wish: Wish, cache: &Cache, interrupts: &Interrupts) -> Result<Accel> {
    let tcg = Accel::Tcg { threads: Threads::Multi };
    match wish {
        Wish::Tcg => Ok(tcg),
        Wish::Kvm => match kvm_works(cache, interrupts)? {
            Ok(()) => Ok(Accel::Kvm),
            Err(why) => bail!("KVM does not work here: {why}; use --accel tcg"),
        },
        Wish::Auto => Ok(match kvm_works(cache, interrupts)? {
            Ok(()) => Accel::Kvm,
            Err(_) => tcg,
        }),
    }
}

/// Whether KVM works, or why not: tried once for each start of this machine and each QEMU.
fn kvm_works(cache: &Cache, interrupts: &Interrupts) -> Result<Result<(), String>> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Err(format!("/dev/kvm: {error}")));
    }
    let path = cache.path(&format!("kvm-{}", circumstances()));
    let known = fs::read_to_string(&path);
    let answer = match known {
        Ok(answer) => answer,
        Err(_) => {
            let answer = try_kvm(interrupts)?;
            if !answer.is_empty() {
                note!("/dev/kvm is there, but {answer}");
            }
            write_whole(&path, answer.as_bytes())?;
            answer
        }
    };
    Ok(if answer.is_empty() { Ok(()) } else { Err(answer) })
}

/// What the answer holds for: this start of the machine, and this QEMU.
fn circumstances() -> String {
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let qemu = find(PROGRAM).and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.mtime());
    format!("{}-{qemu:x}", start.trim())
}

/// Runs a guest of a few instructions under KVM; says what went wrong, or nothing.
///
/// It takes a real kernel's way: through the firmware, in and out of protected mode, to the entry point of a kernel image.
/// A KVM that opens, and even runs the firmware's first instructions, has been seen to stop on that way.
fn try_kvm(interrupts: &Interrupts) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let kernel = folder.path().join("payload");
    fs::write(&kernel, payload())?;
    let mut qemu = Command::new(PROGRAM);
    qemu.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config"]);
    qemu.args(["-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    qemu.arg("-kernel").arg(&kernel).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(match run_within(&mut qemu, Some(DEADLINE), interrupts)? {
        Some(status) if status.code() == Some(ALIVE_STATUS) => String::new(),
        Some(status) => format!("QEMU cannot run a guest with it ({status})"),
        None => format!("a guest of three instructions does not end within {} s", DEADLINE.as_secs()),
    })
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
