//! The engine that needs only an initrd and a serial port from the guest's kernel: QEMU with the suite as init.
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::arch::Arch;
use crate::engine::Job;
use crate::initramfs::{self, Carried};
use crate::machine::in_option;
use crate::process::Process;
use crate::watch::{Channels, Listener, Session, watch};

/// The kernel option, besides the console, that only this engine sets: reboot immediately after a panic.
const USUAL: &str = "panic=-1";

/// Lets the kernel keep the suite, which it unpacks to memory, in huge pages, so that each process of a case has a fraction of
/// the page faults. Kernels before 6.18 ignore the option; one without huge pages would panic.
const HUGE_PAGES: &str = "initramfs_options=huge=always";

/// Firmware that only starts a kernel. QEMU's default firmware takes a quarter of a second when emulated.
const FIRMWARE: &str = "/usr/share/qemu/qboot.rom";

/// Boots the kernel, and runs the plan in it.
pub fn boot(job: &Job, listener: &mut dyn Listener) -> Result<Session> {
    let folder = TempDir::with_prefix("clone3-vm-")?;
    let initramfs = folder.path().join("initramfs");
    let binary = fs::read(job.binary).with_context(|| format!("cannot read {}", job.binary.display()))?;
    initramfs::write(&mut File::create(&initramfs)?, &binary, &carried(job)?, job.plan)?;
    let channels = Channels::create(folder.path())?;
    let complaint = OpenOptions::new().write(true).open(&channels.complaint.path)?;
    let machine = job.machine;
    let arch = machine.arch;
    let mut qemu = Command::new(arch.emulator());
    qemu.args(["-machine", arch.machine(), "-accel", machine.accel.option(), "-cpu", machine.processor()]);
    let sockets = if machine.sockets { format!(",sockets={}", machine.cpus) } else { String::new() };
    qemu.args(["-smp", &format!("{}{sockets}", machine.cpus), "-m", &format!("{}M", machine.memory_mib)]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(job.image()).arg("-initrd").arg(&initramfs);
    let is_uncompressed = job.uncompressed().is_some();
    let huge_pages = if is_uncompressed && job.kernel.huge_pages { HUGE_PAGES } else { "" };
    let console = arch.console();
    qemu.arg("-append").arg(format!("console={console} {USUAL} {huge_pages} {}", machine.kernel_options()));
    if is_uncompressed && Path::new(FIRMWARE).exists() {
        qemu.args(["-bios", FIRMWARE]);
    }
    qemu.arg("-serial").arg(format!("file:{}", channels.console.path.display()));
    let lines = [&channels.output.path, &channels.journal.path];
    for (number, line) in lines.into_iter().chain(&machine.counters).enumerate() {
        qemu.args(serial_line(arch, number, line));
    }
    qemu.args(machine.debugger());
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaint);
    let mut process = Process::spawn(&mut qemu, Signal::KILL)?;
    watch(&mut process, channels, machine.limits, job.interrupts, listener)
}

/// Returns QEMU's options for a serial line other than the console.
fn serial_line(arch: Arch, number: usize, file: &Path) -> Vec<String> {
    match arch {
        Arch::Amd64 => vec!["-serial".to_owned(), format!("file:{}", file.display())],
        // The machine has only one serial port; the others are on the PCI bus.
        Arch::Arm64 | Arch::Riscv64 => vec![
            "-chardev".to_owned(),
            format!("file,id=line{number},path={}", in_option(file)),
            "-device".to_owned(),
            format!("pci-serial,chardev=line{number}"),
        ],
    }
}

/// Reads the files that the job puts beside the suite.
fn carried(job: &Job) -> Result<Vec<Carried>> {
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Carried { name, bytes })
    };
    job.carried.iter().map(read).collect()
}
