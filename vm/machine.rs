//! The configuration of the virtual machine, independent of the engine that boots it.
use std::path::{Path, PathBuf};

use crate::accel::Accel;
use crate::arch::Arch;
use crate::watch::Limits;

/// A virtual machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub arch: Arch,
    pub accel: Accel,
    pub cpus: u16,
    /// Whether each CPU has its own socket. By default QEMU creates the CPUs as cores of one socket, and the table that kernels
    /// without ACPI read lists only the first core.
    pub sockets: bool,
    pub memory_mib: u64,
    pub limits: Limits,
    /// Whether to save an emulator time: with an uncompressed kernel, firmware that only starts it, a CPU with few features
    /// beyond the basics, and parts of the boot left out.
    pub fast_boot: bool,
    /// The socket on which QEMU's gdbstub listens.
    pub gdb: Option<PathBuf>,
    /// Text to append to the kernel's command line.
    pub append: String,
    /// The file for the counters of a kernel that was built with gcov.
    pub counters: Option<PathBuf>,
}

/// Kernel options that make an emulated kernel boot faster.
const FAST_BOOT: &str =
    "initcall_blacklist=load_system_certificate_list cryptomgr.notests damon_stat.enabled=N noautogroup";

/// Kernel options for what an emulator gets wrong.
const WORKAROUNDS: &str = "initcall_blacklist=init_tsc_clocksource,sched_clock_init_late no_timer_check";

impl Machine {
    /// Returns whether to save an emulator time.
    pub fn boots_fast(&self) -> bool {
        self.fast_boot && self.accel != Accel::Kvm
    }

    /// Returns the guest's CPU model, as QEMU's option takes it.
    pub fn processor(&self) -> &'static str {
        match self.accel {
            Accel::Kvm => "host",
            // CPU features beyond the basics (five-level page tables, SMAP, SMEP, protection keys) cost an emulator time at every
            // step, and do not matter here. RDRAND avoids the wait for entropy.
            Accel::Tcg { .. } if self.boots_fast() && self.arch == Arch::Amd64 => "qemu64,+rdrand",
            // Pointer authentication should be emulated but need not be secure, and QEMU's default algorithm is slow.
            Accel::Tcg { .. } if self.boots_fast() && self.arch == Arch::Arm64 => "max,pauth-impdef=on",
            // QEMU's generic RISC-V CPU.
            Accel::Tcg { .. } if self.arch == Arch::Riscv64 => "rv64",
            Accel::Tcg { .. } => "max",
        }
    }

    /// Returns QEMU's options for a debugger, if one is wanted.
    pub fn debugger(&self) -> Vec<String> {
        let option = |socket: &PathBuf| format!("unix:{},server=on,wait=off", in_option(socket));
        self.gdb.iter().flat_map(|socket| ["-gdb".to_owned(), option(socket)]).collect()
    }

    /// Returns the kernel options for what an emulator gets wrong.
    fn workarounds(&self) -> &'static str {
        match self.arch {
            Arch::Amd64 => WORKAROUNDS,
            Arch::Arm64 | Arch::Riscv64 => "",
        }
    }

    /// Returns the options for the guest kernel's command line.
    ///
    /// Only warnings and worse go to the console, since an emulated serial port is slow. An emulated kernel skips what costs
    /// time: the signatures of its built-in certificates, which take as long as anything else at boot and serve only to check
    /// modules, none of which is loaded; its cryptography self-tests, which run in threads that may overlap the first cases;
    /// monitoring of memory accesses every few milliseconds; and group scheduling of sessions.
    ///
    /// It also must not recalibrate the TSC and switch to it a second after boot, in the middle of the suite, or find out late in
    /// the boot that the scheduler's clock is stable: for both it patches its own code, and other emulated CPUs may execute the
    /// code half patched (an int3 oops; one boot in a hundred panicked). Nor should it check that timer interrupts are on time:
    /// on a busy host they are late, and the kernel panics.
    pub fn kernel_options(&self) -> String {
        let left_out = match self.accel {
            Accel::Kvm => Vec::new(),
            Accel::Tcg { .. } if self.boots_fast() => vec![FAST_BOOT, self.workarounds()],
            Accel::Tcg { .. } => vec![self.workarounds()],
        };
        format!("loglevel=5 {} {}", left_out.join(" "), self.append)
    }
}

/// Formats a path for an option of QEMU's, in which a comma ends the value and two stand for one.
pub fn in_option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::accel::Threads;

    fn machine(accel: Accel, fast_boot: bool) -> Machine {
        let limits = Limits { boot: Duration::ZERO, whole: Duration::ZERO };
        let append = "quiet".into();
        Machine {
            arch: Arch::Amd64,
            accel,
            cpus: 1,
            sockets: false,
            memory_mib: 1024,
            limits,
            fast_boot,
            gdb: None,
            append,
            counters: None,
        }
    }

    #[test]
    fn a_socket_may_have_a_comma_in_its_name() {
        let tcg = Accel::Tcg { threads: Threads::Multi };
        let machine = Machine { gdb: Some("/tmp/a,b/gdb".into()), ..machine(tcg, true) };
        assert_eq!(machine.debugger(), ["-gdb", "unix:/tmp/a,,b/gdb,server=on,wait=off"]);
    }

    #[test]
    fn only_an_emulator_is_spared_time_and_only_if_asked() {
        let tcg = Accel::Tcg { threads: Threads::Multi };
        for (arch, accel, fast_boot, processor, quick, workarounds) in [
            (Arch::Amd64, tcg, true, "qemu64,+rdrand", true, true),
            (Arch::Amd64, tcg, false, "max", false, true),
            (Arch::Amd64, Accel::Kvm, true, "host", false, false),
            (Arch::Arm64, tcg, true, "max,pauth-impdef=on", true, false),
            (Arch::Arm64, tcg, false, "max", false, false),
            (Arch::Riscv64, tcg, true, "rv64", true, false),
        ] {
            let machine = Machine { arch, ..machine(accel, fast_boot) };
            let options = machine.kernel_options();
            assert_eq!(machine.processor(), processor);
            assert_eq!(machine.boots_fast(), quick);
            assert_eq!(options.contains(FAST_BOOT), quick, "{options}");
            assert_eq!(options.contains(WORKAROUNDS), workarounds, "{options}");
            assert!(options.ends_with("quiet"), "{options}");
        }
    }
}
