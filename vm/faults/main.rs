//! Tests of what `vm/run.sh` guarantees when something fails: exit status, message, and no leftovers.
//!
//! Each row is a real run of the driver. The rows are ignored by default, since they boot kernels.
//! `cargo test --test vm-faults -- --include-ignored` runs all of them, and with `gate/` added, those that CI runs.
#![forbid(unsafe_code)]
mod bench;

use std::fs::File;

use bench::{Act, Bench, Cache, Row};
use libtest_mimic::{Arguments, Trial};

/// The rows that CI runs: all that boot no kernel, and one for each way in which the others end.
const GATE: [&str; 25] = [
    "exit-1",
    "panic",
    "warning",
    "restart",
    "qemu-killed",
    "ctrl-c",
    "no-reader",
    "driver-killed",
    "virtme-ctrl-c",
    "no-folder",
    "no-console-folder",
    "old-rust",
    "no-spec",
    "no-file",
    "no-image",
    "empty-tree",
    "no-version",
    "no-suite",
    "cut-image",
    "cut-package",
    "wrong-package",
    "forged-package",
    "disk-full",
    "no-kvm",
    "stopping-kvm",
];

impl Row {
    /// Returns the row's name, prefixed with `gate/` if CI runs it, and with the engine if that is not QEMU alone.
    fn title(&self) -> String {
        let prefix = if self.engine == "virtme" && !self.name.starts_with("virtme") { "virtme-" } else { "" };
        let name = format!("{prefix}{}", self.name);
        if GATE.contains(&name.as_str()) { format!("gate/{name}") } else { name }
    }
}

/// Returns the table.
fn rows() -> Vec<Row> {
    let sections = [
        exits(),
        kernel_faults(),
        deaths_of_the_guest(),
        interruptions(),
        unwritable_files(),
        bad_kernels(),
        archive_failures(),
        no_machine(),
        stopping_kvm(),
        killed_decompressor(),
    ];
    sections.into_iter().flatten().collect()
}

/// Returns the row of a guest that misbehaves in this way.
fn guest(name: &'static str, status: i32, says: &'static [&'static str]) -> Row {
    Row { name, guest: Some(name), status, says, ..Row::default() }
}

/// Returns the row of a guest whose run is cut short: the results so far must be kept.
fn cut_short(name: &'static str, status: i32, says: &'static [&'static str]) -> Row {
    Row { keeps: true, ..guest(name, status, says) }
}

/// Returns the row of something that is done while a guest hangs.
fn under_way(name: &'static str, act: Act, status: i32, says: &'static [&'static str]) -> Row {
    Row { name, guest: Some("hang"), act, status, says, keeps: true, ..Row::default() }
}

/// The runner's exit status becomes the run's. This guest reports one CPU.
fn exits() -> Vec<Row> {
    vec![
        guest("exit-0", 0, &["the kernel uses 1 of its 2 processors"]),
        guest("exit-1", 1, &[]),
        guest("exit-3", 3, &[]),
        guest("exit-4", 4, &[]),
        guest("usage", 2, &[]),
        guest("exit-9", 3, &["the runner ended with exit status 9"]),
        cut_short("abort", 3, &["the runner was killed by SIGABRT", "while running was running"]),
        guest("flood", 0, &["999 x"]),
    ]
}

/// The kernel reports a fault while the suite runs.
fn kernel_faults() -> Vec<Row> {
    vec![
        cut_short("panic", 1, &["a fault (panic) while running was running", "sysrq triggered crash"]),
        guest(
            "warning",
            1,
            &["a fault (warning) while running was running", "WARNING: CPU: 0 PID: 1 at kernel/exit.c"],
        ),
        guest("lockdep", 1, &["a fault (warning)", "possible circular locking"]),
        guest("bug", 1, &["a fault (bug)", "BUG: KASAN"]),
        guest("int3", 1, &["may be the host's doing", "running it all again", "a fault (int3 oops)"]),
        cut_short("int3-panic", 1, &["may be the host's doing", "running it all again", "a fault (panic)"]),
        guest("stall", 1, &["may be the host's doing", "running it all again", "a fault (stall)"]),
        guest("stall-bug", 1, &["a fault (stall)", "a fault (bug)"]),
        // A case that failed for another reason counts.
        guest("stall-beside", 1, &["a fault (stall)", "that does not explain what failed: wrong"]),
    ]
}

/// The guest dies.
fn deaths_of_the_guest() -> Vec<Row> {
    vec![
        cut_short(
            "restart",
            69,
            &["no verdict (run)", "while running was running", "the guest restarted or powered off"],
        ),
        guest("no-line", 69, &["no verdict (run)", "the suite was run, but its end cannot be reported: "]),
        cut_short("power-off", 69, &["no verdict (run)", "while running was running"]),
        guest("torn", 0, &[]),
        guest(
            "panic-before",
            69,
            &[
                "before the suite began, the kernel said: ",
                "booting again (2 of 2)",
                "no verdict (boot)",
                "Kernel panic - not syncing",
            ],
        ),
        Row {
            name: "hang",
            guest: Some("hang"),
            options: &["--timeout=20"],
            status: 69,
            says: &["no verdict (run): the suite's end did not come within 20 s while running was running"],
            ..Row::default()
        },
        Row {
            name: "hang-before",
            guest: Some("hang-before"),
            options: &["--timeout=15"],
            status: 69,
            says: &[
                "booting again (2 of 2)",
                "no verdict (boot): the suite's first line did not come within 15 s",
            ],
            ..Row::default()
        },
        Row {
            name: "no-init",
            guest: Some("exit-0"),
            options: &["--append=rdinit=/nothing init=/nothing"],
            status: 69,
            says: &["booting again (2 of 2)", "no verdict (boot)", "Kernel panic - not syncing"],
            ..Row::default()
        },
    ]
}

/// A process is killed or interrupted.
fn interruptions() -> Vec<Row> {
    vec![
        under_way(
            "qemu-killed",
            Act::KillQemu,
            69,
            &[
                "the virtual machine ended before the suite's end: its program was killed by SIGKILL",
                "while running was running",
            ],
        ),
        under_way("ctrl-c", Act::Signal("INT"), 130, &["stopped by SIGINT"]),
        under_way("terminated", Act::Signal("TERM"), 143, &["stopped by SIGTERM"]),
        under_way("hung-up", Act::Signal("HUP"), 129, &["stopped by SIGHUP"]),
        Row {
            nohup: true,
            options: &["--timeout=20"],
            ..under_way("nohup", Act::Signal("HUP"), 69, &["the suite's end did not come within 20 s"])
        },
        // Nobody reads what it says then.
        Row { guest: Some("flood"), ..under_way("no-reader", Act::CloseOutput, 3, &[]) },
        // The driver is killed as soon as it reads that the case started, possibly before it has written that.
        Row { keeps: false, ..under_way("driver-killed", Act::Kill, -9, &[]) },
        Row {
            engine: "virtme",
            ..under_way("virtme-ctrl-c", Act::Signal("INT"), 130, &["stopped by SIGINT"])
        },
        Row { engine: "virtme", keeps: false, ..under_way("virtme-driver-killed", Act::Kill, -9, &[]) },
        Row { engine: "virtme", ..guest("panic", 1, &["a fault (panic) while running was running"]) },
        Row { engine: "virtme", ..guest("exit-4", 4, &[]) },
    ]
}

/// Files that cannot be written: reported before the kernel is looked up, and after a run that completes.
fn unwritable_files() -> Vec<Row> {
    vec![
        Row {
            name: "no-folder",
            kernel: Some("./no-such"),
            options: &["--report=/no/such/folder/r.xml"],
            status: 3,
            says: &["cannot write /no/such/folder/r.xml"],
            ..Row::default()
        },
        Row {
            name: "no-console-folder",
            kernel: Some("./no-such"),
            options: &["--console=/no/such/folder/console"],
            status: 3,
            says: &["cannot write /no/such/folder/console"],
            ..Row::default()
        },
        Row {
            name: "blocked-results",
            act: Act::BlockResults,
            ..guest("flood", 3, &["999 x", "cannot write", "results.json", "ended after"])
        },
        Row {
            name: "old-rust",
            cache: Cache::OldRust,
            status: 69,
            says: &["no verdict (build): this needs Rust 1.95 or newer, and 1.85.0 is installed here"],
            ..Row::default()
        },
    ]
}

/// Kernels that do not exist or are invalid.
fn bad_kernels() -> Vec<Row> {
    vec![
        Row {
            name: "no-spec",
            kernel: Some("no-such"),
            status: 2,
            says: &["'no-such' is not a kernel"],
            ..Row::default()
        },
        Row {
            name: "no-file",
            kernel: Some("./no-such"),
            status: 69,
            says: &["is not there"],
            ..Row::default()
        },
        Row {
            name: "no-image",
            kernel: Some("/bin/sh"),
            status: 69,
            says: &["is not a kernel image"],
            ..Row::default()
        },
        Row {
            name: "empty-tree",
            kernel: Some("/proc/self/fdinfo"),
            status: 69,
            says: &["not a built kernel tree"],
            ..Row::default()
        },
        Row {
            name: "no-version",
            kernel: Some("9.9"),
            status: 69,
            says: &["the archive has no kernel 9.9"],
            ..Row::default()
        },
        Row {
            name: "no-suite",
            kernel: Some("debian:potato"),
            status: 69,
            says: &["'potato'"],
            ..Row::default()
        },
        Row {
            name: "cut-image",
            cache: Cache::CutImage,
            status: 69,
            says: &["is cut off"],
            ..Row::default()
        },
        Row {
            name: "cut-package",
            cache: Cache::CutPackage,
            status: 69,
            says: &["is not a whole Debian package"],
            ..Row::default()
        },
        Row {
            name: "wrong-package",
            cache: Cache::WrongPackage,
            status: 69,
            says: &["holds no kernel image"],
            ..Row::default()
        },
    ]
}

/// The archive fails.
fn archive_failures() -> Vec<Row> {
    vec![
        Row {
            name: "no-archive",
            cache: Cache::NoArchive,
            status: 69,
            says: &["no verdict (kernel)", "no list"],
            ..Row::default()
        },
        Row {
            name: "forged-package",
            cache: Cache::Forged,
            status: 69,
            says: &["cannot download"],
            ..Row::default()
        },
        Row {
            name: "disk-full",
            cache: Cache::Full,
            status: 69,
            says: &["no verdict (kernel)"],
            ..Row::default()
        },
        Row {
            name: "ctrl-c-asking",
            cache: Cache::SlowArchive,
            act: Act::Signal("INT"),
            status: 130,
            says: &["stopped by SIGINT"],
            ..Row::default()
        },
    ]
}

/// The machine cannot be started.
fn no_machine() -> Vec<Row> {
    vec![
        Row {
            name: "too-much-memory",
            guest: Some("exit-0"),
            options: &["--memory=100000G"],
            status: 69,
            says: &["no verdict (boot)"],
            ..Row::default()
        },
        Row {
            name: "no-kvm",
            guest: Some("exit-0"),
            cache: Cache::NoKvm,
            options: &["--accel=kvm"],
            status: 69,
            says: &["KVM does not work here"],
            ..Row::default()
        },
    ]
}

/// A KVM that turns out not to work when a kernel boots. Without a KVM at all, none would be tried.
fn stopping_kvm() -> Vec<Row> {
    let row = Row {
        name: "stopping-kvm",
        guest: Some("exit-0"),
        cache: Cache::StoppingKvm,
        status: 0,
        says: &[
            "KVM stopped the guest before the suite's first line (KVM internal error. Suberror: 1)",
            "booting again without KVM",
        ],
        ..Row::default()
    };
    let is_there = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    Vec::from_iter(is_there.then_some(row))
}

/// A decompressor that is killed when most of the kernel is written: that part must not be booted, in this run or a later one.
fn killed_decompressor() -> Vec<Row> {
    vec![Row {
        name: "killed-decompressor",
        guest: Some("exit-0"),
        cache: Cache::KilledDecompressor,
        options: &["--accel=tcg"],
        status: 0,
        says: &["the kernel stays compressed", "SIGKILL"],
        ..Row::default()
    }]
}

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trials = rows().into_iter().map(|row| {
        let name = row.title();
        Trial::test(name, move || Ok(Bench::set_up(&row)?.judge(&row)?)).with_ignored_flag(true)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
