//! The guest's init for `vm/run.sh`: the same static binary, started under the name `init`.
//!
//! It mounts the file systems that a program expects, runs the suite as an ordinary child and reports how it ended. In an
//! initramfs it is process 1, and finally reboots, which ends the machine; in a guest with another init it just exits.
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, exit};

use anyhow::{Context as _, Result};
use clone3_conformance::clone3::{Child, Clone3};
use clone3_conformance::exit_status::USAGE;
use clone3_conformance::guest::{Exit, PLAN, Plan, SUITE_ENDED, SUITE_STARTS};
use clone3_conformance::kit::helper::{self, HELPERS, Helper};
use clone3_conformance::wait::Status;
use linkme::distributed_slice;
use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, getpid, setsid, wait};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

use super::counters;

/// The file in which the suite finds the plan's expected failures.
const EXPECTATIONS: &str = "/run/expectations.toml";

/// The name of the helper that keeps a CPU busy.
const BUSY: &str = "busy";

/// Returns whether this process was started as the guest's init.
///
/// The program's name decides, not pid 1: in a container the runner itself may well be process 1.
pub fn is_init() -> bool {
    std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name() == Some("init".as_ref()))
}

/// Runs the plan and ends the machine, or, in a guest with another init, this process.
///
/// `meanwhile` runs in a separate process, on a second CPU that would otherwise be idle until the first case.
pub fn run(meanwhile: Option<fn()>) -> ! {
    let alone = getpid().is_init();
    // The kernel passes those of its command line options that it does not know to process 1.
    let named = std::env::args_os().nth(1).filter(|_| !alone);
    let plan = plan(Path::new(&named.unwrap_or_else(|| PLAN.into())));
    // What is called init on a host by mistake must not mount anything over the host's /tmp.
    if let (false, Err(error)) = (alone, &plan) {
        eprintln!("clone3-conformance: started as the init of a guest, but without a plan: {error:#}");
        exit(i32::from(USAGE));
    }
    mount_missing(&BASIS);
    let cgroups = beside(|| mount_missing(&CGROUPS));
    let processors = std::thread::available_parallelism();
    if let Some(deed) = meanwhile.filter(|_| processors.is_ok_and(|count| count.get() > 1)) {
        beside(deed);
    }
    furnish();
    carry_out(plan, cgroups);
    match alone {
        true => restart(),
        false => exit(0),
    }
}

/// A file system that a program expects: its type, target, flags and options.
type Mount = (&'static str, &'static str, MountFlags, &'static CStr);

const RESTRICTED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The file systems that the others depend on.
const BASIS: [Mount; 3] = [
    ("proc", "/proc", RESTRICTED, c""),
    ("sysfs", "/sys", RESTRICTED, c""),
    ("devtmpfs", "/dev", MountFlags::NOSUID, c""),
];

/// The slow one: the kernel waits for all CPUs.
const CGROUPS: [Mount; 1] = [("cgroup2", "/sys/fs/cgroup", RESTRICTED, c"")];

const REST: [Mount; 4] = [
    ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
    ("tmpfs", "/tmp", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=0755"),
];

/// Completes the environment that a program expects: the kernel's file systems, and space for temporary files.
fn furnish() {
    mount_missing(&REST);
    // Unprivileged users must be able to access the root directory.
    let _ = fs::set_permissions("/", fs::Permissions::from_mode(0o755));
    let _ = setsid();
}

/// Runs something in a separate process, if one can be created.
fn beside(deed: impl FnOnce()) -> Option<Child> {
    let child = Clone3::fork().spawn(|| {
        deed();
        0
    });
    child.ok()
}

fn mount_missing(mounts: &[Mount]) {
    for &(kind, target, flags, options) in mounts {
        if is_mounted(target) {
            continue;
        }
        let made = fs::create_dir_all(target).and_then(|()| Ok(mount(kind, target, kind, flags, options)?));
        if let Err(error) = made {
            eprintln!("clone3-conformance: no {kind} on {target}: {error}");
        }
    }
}

/// Returns whether something is mounted there; false if /proc is not mounted yet.
fn is_mounted(target: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|mount| mount.split(' ').nth(1) == Some(target))
}

/// Reads the driver's plan.
fn plan(path: &Path) -> Result<Plan> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a plan", path.display()))
}

/// Runs the suite according to the plan, once everything is mounted, and reports how it ended. Errors go to the console.
fn carry_out(plan: Result<Plan>, mounting: Option<Child>) {
    match plan.and_then(|plan| start(&plan, mounting)) {
        Ok(suite) => {
            if let Err(error) = suite.report() {
                eprintln!("clone3-conformance: the suite was run, but its end cannot be reported: {error:#}");
            }
        }
        Err(error) => eprintln!("clone3-conformance: no suite was run: {error:#}"),
    }
}

/// The running suite, and the serial lines on which its end is reported.
struct Suite {
    process: i32,
    output: File,
    journal: File,
    counters: Option<File>,
}

/// Opens the serial lines and starts the suite.
fn start(plan: &Plan, mounting: Option<Child>) -> Result<Suite> {
    let output = serial(&plan.output)?;
    let counters = plan.counters.as_deref().map(serial).transpose()?;
    if counters.is_some() {
        counters::reset()?;
    }
    let journal = serial(&plan.journal)?;
    keep_busy(plan.load)?;
    match mounting {
        Some(child) => drop(child.reap_expecting(Status::exited(0))),
        None => mount_missing(&CGROUPS),
    }
    log(SUITE_STARTS);
    let process = start_suite(plan, &output).context("cannot start the runner")?;
    Ok(Suite { process, output, journal, counters })
}

impl Suite {
    /// Waits until the suite ends, and reports its exit.
    fn report(mut self) -> Result<()> {
        let exit = reap_all_until(self.process)?;
        tcdrain(&self.output)?;
        if let Some(line) = &self.counters {
            counters::write(line)?;
            tcdrain(line)?;
        }
        let mut line = serde_json::to_vec(&exit)?;
        line.push(b'\n');
        self.journal.write_all(&line)?;
        tcdrain(&self.journal)?;
        log(SUITE_ENDED);
        Ok(())
    }
}

/// Starts `each` busy loops per CPU, which end with the guest.
fn keep_busy(each: u16) -> Result<()> {
    for _ in 0..std::thread::available_parallelism()?.get() * usize::from(each) {
        Command::new(std::env::current_exe()?).arg0(helper::NAME).arg(BUSY).spawn()?;
    }
    Ok(())
}

#[distributed_slice(HELPERS)]
static BUSY_HELPER: Helper = Helper {
    name: BUSY,
    main: |_| loop {
        std::hint::spin_loop()
    },
};

/// The tmpfs from which the suite runs in a guest with another init.
const OWN_PLACE: &str = "/run/clone3-conformance";

/// Returns the program to run: this one. In a guest with another init it is on a file system of the host, which is accessed at
/// each exec. A copy in memory avoids that, and in huge pages it saves every process of a case most of its page faults.
fn program() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    if getpid().is_init() {
        return Ok(this);
    }
    fs::create_dir_all(OWN_PLACE)?;
    let kept = |options| mount("tmpfs", OWN_PLACE, "tmpfs", MountFlags::NODEV, options);
    kept(c"mode=0755,huge=always").or_else(|_| kept(c"mode=0755"))?;
    let copy = Path::new(OWN_PLACE).join("suite");
    fs::copy(this, &copy)?;
    Ok(copy)
}

/// Starts the runner as an ordinary child, and returns its pid.
fn start_suite(plan: &Plan, output: &File) -> Result<i32> {
    let mut command = Command::new(program()?);
    command.arg0("clone3-conformance").args(["--events", &plan.journal]);
    if let Some(text) = &plan.expect {
        fs::write(EXPECTATIONS, text)?;
        command.args(["--expect", EXPECTATIONS]);
    }
    command.args(&plan.args);
    command
        .env_clear()
        .envs([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/")])
        .env("CLONE3_CONFORMANCE_RERUN", &plan.rerun);
    command.current_dir("/").process_group(0);
    command.stdin(File::open("/dev/null")?).stdout(output.try_clone()?).stderr(output.try_clone()?);
    if let Some(user) = plan.user {
        command.uid(user).gid(user);
    }
    Ok(i32::try_from(command.spawn()?.id())?)
}

/// Waits until this child exits, and reaps all other children in the meantime.
fn reap_all_until(child: i32) -> Result<Exit> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty())? else { continue };
        if pid.as_raw_nonzero().get() == child {
            let status = ExitStatus::from_raw(status.as_raw());
            return Ok(Exit { status: status.code(), signal: status.signal() });
        }
    }
}

/// Opens a serial line that passes every byte unchanged, and that every user may open.
fn serial(device: &str) -> Result<File> {
    let no_terminal = i32::try_from(OFlags::NOCTTY.bits())?;
    let line = OpenOptions::new().read(true).write(true).custom_flags(no_terminal).open(device);
    let line = line.with_context(|| format!("cannot open the serial line {device}"))?;
    let mut settings = tcgetattr(&line)?;
    settings.make_raw();
    tcsetattr(&line, OptionalActions::Now, &settings)?;
    fs::set_permissions(device, fs::Permissions::from_mode(0o666))?;
    Ok(line)
}

/// Writes a line to the kernel's log, at a level that every console shows; one write is one line.
fn log(line: &str) {
    let written = OpenOptions::new().write(true).open("/dev/kmsg");
    let written = written.and_then(|mut log| log.write_all(format!("<1>{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("{line} (not in the kernel's log: {error})");
    }
}

/// Reboots; QEMU's -no-reboot makes it exit instead.
fn restart() -> ! {
    let _ = io::stderr().flush();
    let error = reboot(RebootCommand::Restart);
    panic!("cannot restart: {error:?}")
}
