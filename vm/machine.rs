//! The virtual machine that is asked for, whatever engine boots it.
use std::path::{Path, PathBuf};

use crate::accel::Accel;
use crate::arch::Arch;
use crate::watch::Limits;

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub arch: Arch,
    pub accel: Accel,
    pub cpus: u16,
    /// Whether each is a socket of its own. What QEMU makes by itself is the cores of one, of which the table that kernels
    /// without ACPI read has the first only.
    pub sockets: bool,
    /// As QEMU's option says it: a number of MiB, or with a letter.
    pub memory: String,
    pub limits: Limits,
    /// Whether to spare an emulator time, if there is one: by an uncompressed kernel, firmware that does no more than start it, a
    /// processor with little beyond the basics, and parts of the boot left out.
    pub sparing: bool,
    /// The socket at which QEMU's gdbstub is to listen.
    pub gdb: Option<PathBuf>,
    /// More for the kernel's command line.
    pub append: String,
    /// Where the counters go of a kernel that was built with gcov.
    pub counters: Option<PathBuf>,
}

/// What an emulated kernel is told to leave out, to be quick.
const SPARING: &str =
    "initcall_blacklist=load_system_certificate_list cryptomgr.notests damon_stat.enabled=N noautogroup";

/// What it is told to leave out since an emulator gets it wrong.
const STEADY: &str = "initcall_blacklist=init_tsc_clocksource,sched_clock_init_late no_timer_check";

impl Machine {
    /// Whether an emulator is to be spared time.
    pub fn spares(&self) -> bool {
        self.sparing && self.accel != Accel::Kvm
    }

    /// The processor that the guest sees, as QEMU's option says it.
    pub fn processor(&self) -> &'static str {
        match self.accel {
            Accel::Kvm => "host",
            // What a processor has beyond the basics (five levels of page tables, SMAP, SMEP, protection keys) costs an
            // emulator time at every step, and none of it matters here. RDRAND spares the wait for entropy.
            Accel::Tcg { .. } if self.spares() && self.arch == Arch::Amd64 => "qemu64,+rdrand",
            // Signed pointers are to be checked, but need not be kept from anybody, and to compute the usual signature takes long.
            Accel::Tcg { .. } if self.spares() && self.arch == Arch::Arm64 => "max,pauth-impdef=on",
            // Of RISC-V, QEMU has one that is no particular one.
            Accel::Tcg { .. } if self.arch == Arch::Riscv64 => "rv64",
            Accel::Tcg { .. } => "max",
        }
    }

    /// QEMU's options that let a debugger in, if one is to be.
    pub fn debugger(&self) -> Vec<String> {
        let option = |socket: &PathBuf| format!("unix:{},server=on,wait=off", in_option(socket));
        self.gdb.iter().flat_map(|socket| ["-gdb".to_owned(), option(socket)]).collect()
    }

    /// What an emulator gets wrong.
    fn steady(&self) -> &'static str {
        match self.arch {
            Arch::Amd64 => STEADY,
            Arch::Arm64 | Arch::Riscv64 => "",
        }
    }

    /// What every guest's kernel is told.
    ///
    /// Warnings come to the console; what is less does not, since an emulated serial port is slow. An emulated kernel need
    /// not check the signatures of the certificates that are built into it, which takes it as long as anything else at
    /// boot: they serve only to check modules, and none is loaded. Nor need it test its cryptography, in threads that may
    /// go on beside the first cases, or watch every few milliseconds who uses its memory, or schedule each session as a group.
    ///
    /// It should not measure its clock anew and change to it a second after the boot, in the middle of the suite, or find late
    /// in the boot that the scheduler's clock is stable: for both it patches its own code, which several emulated processors
    /// may meet half done (an int3 oops; one boot in a hundred panicked). Nor should it check that its timer interrupts come in
    /// time: on a busy host an emulated one is late, and the kernel panics.
    pub fn kernel_options(&self) -> String {
        let left_out = match self.accel {
            Accel::Kvm => Vec::new(),
            Accel::Tcg { .. } if self.spares() => vec![SPARING, self.steady()],
            Accel::Tcg { .. } => vec![self.steady()],
        };
        format!("loglevel=5 {} {}", left_out.join(" "), self.append)
    }
}

/// A path inside an option of QEMU's, which takes one comma for its end, and two for one.
pub fn in_option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::accel::Threads;

    fn machine(accel: Accel, sparing: bool) -> Machine {
        let limits = Limits { boot: Duration::ZERO, whole: Duration::ZERO };
        let (memory, append) = ("1G".into(), "quiet".into());
        Machine {
            arch: Arch::Amd64,
            accel,
            cpus: 1,
            sockets: false,
            memory,
            limits,
            sparing,
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
        for (arch, accel, sparing, processor, quick, steady) in [
            (Arch::Amd64, tcg, true, "qemu64,+rdrand", true, true),
            (Arch::Amd64, tcg, false, "max", false, true),
            (Arch::Amd64, Accel::Kvm, true, "host", false, false),
            (Arch::Arm64, tcg, true, "max,pauth-impdef=on", true, false),
            (Arch::Arm64, tcg, false, "max", false, false),
            (Arch::Riscv64, tcg, true, "rv64", true, false),
        ] {
            let machine = Machine { arch, ..machine(accel, sparing) };
            let options = machine.kernel_options();
            assert_eq!(machine.processor(), processor);
            assert_eq!(machine.spares(), quick);
            assert_eq!(options.contains(SPARING), quick, "{options}");
            assert_eq!(options.contains(STEADY), steady, "{options}");
            assert!(options.ends_with("quiet"), "{options}");
        }
    }
}
