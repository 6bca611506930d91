//! One run of `vm/run.sh`: gets a kernel, boots a machine, runs the suite, and reports the verdict.
use std::fs;
use std::io::{self, IsTerminal, Seek as _, StdoutLock, Write as _, stdout};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use clone3_conformance::elf;
use clone3_conformance::formats::quoted;
use clone3_conformance::guest::{Plan, VERDICT_OPTIONS};

use crate::accel::{self, Accel, AccelChoice, Threads};
use crate::arch::Arch;
use crate::archive::{Archive, Package};
use crate::cache::{Cache, write_whole};
use crate::cli::{self, Cli};
use crate::console::{Finding, Line, fault_in_line};
use crate::engine::{Engine, Job};
use crate::interrupt::{Interrupted, Interrupts};
use crate::kernel::{self, Kernel};
use crate::machine::Machine;
use crate::outcome::{BROKEN, FAILED, NO_VERDICT, Outcome, boot_findings, judge};
use crate::process;
use crate::results::{Ending, ResultFiles};
use crate::spec::Spec;
use crate::system::{self, Thing};
use crate::virtme::{Tools, lacks_virtiofs};
use crate::watch::{self, Limits, Listener, Session};
use crate::{note, say};

/// How long a kernel may take to reach the suite's first line, even on the slowest machine.
const BOOT: Duration = Duration::from_secs(180);

/// How many times a guest that does not boot is started.
const BOOTS: u32 = 3;

/// A result, or the stage that failed and why.
type Staged<T> = std::result::Result<T, (&'static str, Error)>;

/// Runs the suite as the command line says, and returns the exit status.
pub fn run(cli: &Cli, cache: &Cache, interrupts: &Interrupts) -> Result<u8> {
    let mut files = ResultFiles::open(cli);
    // Find out before the run whether the files can be written.
    if !succeeds(files.begin()) || !succeeds(write_console(cli, &[])) {
        return Ok(BROKEN);
    }
    let (session, ending) = match boot_and_judge(cli, &mut files, cache, interrupts) {
        Ok((session, ending)) => (Some(session), ending),
        Err((stage, error)) => (None, failure(stage, NO_VERDICT, &error)),
    };
    let console = session.as_ref().is_none_or(|session| succeeds(write_console(cli, &session.console)));
    let told = succeeds(files.close(session.as_ref(), &ending));
    Ok(if console && told { ending.status } else { ending.status.max(BROKEN) })
}

/// Boots the kernel and judges the session. An error comes with the stage in which it happened.
fn boot_and_judge(
    cli: &Cli,
    files: &mut ResultFiles,
    cache: &Cache,
    interrupts: &Interrupts,
) -> Staged<(Session, Ending)> {
    let mut run = Run::prepare(cli, files, cache, interrupts)?;
    run.announce();
    run.verdict().map_err(|error| ("machine", error))
}

/// Prints why a file could not be written, and returns whether it was. The verdict does not depend on it.
fn succeeds(written: Result<()>) -> bool {
    if let Err(error) = &written {
        note!("{error:#}");
    }
    written.is_ok()
}

/// Writes the console's lines to the `--console` file, if there is one.
fn write_console(cli: &Cli, console: &[Line]) -> Result<()> {
    let Some(path) = &cli.console else { return Ok(()) };
    let text: String = console.iter().map(|line| format!("{}\n", line.text)).collect();
    write_whole(path, text.as_bytes())
}

/// The receivers of the guest's output: the terminal and the documents.
struct OutputSink<'a> {
    screen: StdoutLock<'a>,
    files: &'a mut ResultFiles,
}

impl Listener for OutputSink<'_> {
    fn hear(&mut self, output: &[u8]) -> Result<()> {
        self.screen.write_all(output).and_then(|()| self.screen.flush()).context("cannot write to stdout")
    }

    fn keep(&mut self, journal: &[String]) {
        self.files.keep(journal);
    }
}

/// Returns the requested engine, or QEMU if virtme-ng does not work here.
fn engine(wish: cli::Engine, kernel: &Kernel, cache: &Cache, interrupts: &Interrupts) -> Result<Engine> {
    if wish == cli::Engine::Qemu {
        return Ok(Engine::Qemu);
    }
    if kernel.arch != Arch::Amd64 {
        note!("virtme-ng boots no {} kernel here; using QEMU alone", kernel.arch.name());
        return Ok(Engine::Qemu);
    }
    if let Ok(why) = fs::read_to_string(unbootable(kernel, cache)) {
        note!("virtme-ng cannot boot this kernel: {why}; using QEMU alone");
        return Ok(Engine::Qemu);
    }
    match Tools::prepare(cache, interrupts) {
        Ok(tools) => Ok(Engine::Virtme(tools)),
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => {
            note!("virtme-ng cannot be had here: {error:#}; using QEMU alone");
            Ok(Engine::Qemu)
        }
    }
}

/// Returns the path of the cache file that records why virtme-ng cannot boot a kernel.
fn unbootable(kernel: &Kernel, cache: &Cache) -> PathBuf {
    cache.path(&format!("virtme-cannot/{}", kernel.release))
}

/// Returns the plan for the guest.
fn plan(cli: &Cli, kernel: &Kernel, cpus: u16) -> Plan {
    let mut args = vec!["--allow-global-changes".to_owned()];
    // The guest's output is a serial line; only the driver knows whether it ends at a terminal.
    if !cli.runner.iter().any(|arg| arg.starts_with("--color")) {
        let color = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        args.push(format!("--color={}", if color { "always" } else { "never" }));
    }
    args.extend(cli.runner.iter().cloned());
    Plan {
        args,
        user: cli.user,
        load: cli.load,
        rerun: rerun(cli, kernel, cpus),
        expect: cli.expect.as_ref().map(|expectations| expectations.text.clone()),
        output: kernel.arch.line(0),
        journal: kernel.arch.line(1),
        counters: cli.counters.as_ref().map(|_| kernel.arch.line(2)),
    }
}

/// Returns the command that boots exactly this kernel again, even if the archive has a newer one by then.
fn rerun(cli: &Cli, kernel: &Kernel, cpus: u16) -> String {
    let exact = |package: &Package| Spec::Version {
        prefix: package.version.clone(),
        flavor: package.parsed().map(|name| name.flavor.to_owned()),
    };
    let spec = kernel.package.as_ref().map_or_else(|| cli.kernel.clone(), exact);
    let machine = &cli.machine;
    let spec = quoted(&spec.to_string());
    let mut words = vec![format!("vm/run.sh --kernel {spec} --cpus {cpus}")];
    let mut add = |given: bool, word: String| words.extend(given.then_some(word));
    add(machine.engine == cli::Engine::Qemu, "--engine qemu".to_owned());
    add(machine.accel != AccelChoice::Auto, machine.accel_option());
    add(machine.memory_mib != cli::USUAL_MEMORY, format!("--memory {}", machine.memory_mib));
    add(!machine.append.is_empty(), format!("--append {}", quoted(&machine.append)));
    add(cli.sockets, "--sockets".to_owned());
    add(cli.plain, "--plain".to_owned());
    add(cli.user.is_some(), format!("--user {}", cli.user.unwrap_or_default()));
    add(cli.load > 0, format!("--load {}", cli.load));
    let expect = cli.expect.as_ref().map(|expectations| format!("--expect {}", quoted(&expectations.path)));
    add(expect.is_some(), expect.unwrap_or_default());
    words.push("--".to_owned());
    words.extend(verdict_options(&cli.runner));
    words.join(" ")
}

/// Returns the runner's options that affect a case's verdict.
fn verdict_options(runner: &[String]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = runner.iter();
    while let Some(word) = rest.next() {
        let name = word.split('=').next().unwrap_or(word);
        let Some((_, takes_value)) = VERDICT_OPTIONS.iter().find(|(option, _)| *option == name) else {
            continue;
        };
        words.push(word.clone());
        if *takes_value && name == word {
            words.extend(rest.next().cloned());
        }
    }
    words
}

/// Returns the suite's binary for the guest: the named one, the one beside the driver, or one built for the architecture.
fn binary(cli: &Cli, arch: Arch, interrupts: &Interrupts) -> Result<PathBuf> {
    let path = match (&cli.suite, arch) {
        (Some(named), _) => named.clone(),
        (None, Arch::Amd64) => beside()?,
        (None, Arch::Arm64 | Arch::Riscv64) => build(arch, interrupts)?,
    };
    ensure!(path.exists(), "{} is not there; vm/run.sh builds it", path.display());
    let suite = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let machine = elf::u16_at(&suite, offset_of!(libc::Elf64_Ehdr, e_machine));
    ensure!(
        elf::is_program(&suite) && machine == Some(arch.machine_in_elf().into()),
        "{} is not a program for {}, which the kernel is for",
        path.display(),
        arch.name()
    );
    Ok(path)
}

/// Returns the path of the suite's binary for the host.
fn beside() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("clone3-conformance"))
}

/// Builds the suite for a guest of this architecture, and returns its path.
pub fn build(arch: Arch, interrupts: &Interrupts) -> Result<PathBuf> {
    let script = std::env::var_os("CLONE3_BUILD").context("vm/run.sh builds the suite for such a guest")?;
    note!("building the suite for {}", arch.target());
    let mut said = tempfile::tempfile()?;
    let mut build = process::supervised(Path::new(&script))?;
    // The driver itself records the commit in the results.
    build.arg(arch.target()).env_remove("CLONE3_CONFORMANCE_COMMIT").stdout(said.try_clone()?);
    let status = process::run(&mut build, interrupts)?;
    ensure!(status.success(), "the suite does not build for {}", arch.target());
    said.rewind()?;
    Ok(io::read_to_string(said)?.trim_end().into())
}

struct Run<'a> {
    kernel: Kernel,
    machine: Machine,
    engine: Engine,
    /// Whether KVM was chosen automatically rather than requested.
    may_leave_kvm: bool,
    plan: Plan,
    binary: PathBuf,
    files: &'a mut ResultFiles,
    carried: Vec<PathBuf>,
    cache: &'a Cache,
    interrupts: &'a Interrupts,
}

impl<'a> Run<'a> {
    /// Prepares everything that is needed before a kernel can boot. An error comes with the stage in which it happened.
    fn prepare(
        cli: &Cli,
        files: &'a mut ResultFiles,
        cache: &'a Cache,
        interrupts: &'a Interrupts,
    ) -> Staged<Self> {
        let at = |stage| move |error| (stage, error);
        let archive = Archive { cache, interrupts, arch: cli.kernel.arch() };
        let options = &cli.machine;
        let kernel = kernel::get(&cli.kernel, &archive, cli.refresh).map_err(at("kernel"))?;
        let arch = kernel.arch;
        system::ensure(&[(arch.package(), Thing::Program(arch.emulator()))], cache, interrupts)
            .map_err(at("machine"))?;
        let accel = accel::choose(options.accel, arch, cache, interrupts).map_err(at("machine"))?;
        let machine = Machine {
            arch,
            accel,
            cpus: options.cpus,
            sockets: cli.sockets,
            memory_mib: options.memory_mib,
            limits: Limits { boot: BOOT, whole: options.timeout },
            gdb: cli.gdb.clone(),
            append: options.append.clone(),
            fast_boot: !cli.plain,
            counters: cli.counters.clone(),
        };
        let engine = engine(options.engine, &kernel, cache, interrupts).map_err(at("machine"))?;
        let binary = binary(cli, arch, interrupts).map_err(at("build"))?;
        let may_leave_kvm = accel == Accel::Kvm && options.accel == AccelChoice::Auto;
        let plan = plan(cli, &kernel, machine.cpus);
        // The host cannot run the guest's binary, so it asks its own, which is built from the same sources.
        let claims = if arch == Arch::Amd64 { Ok(binary.clone()) } else { beside() };
        files.ask_for_claims(&claims.map_err(at("build"))?);
        let carried = cli.carry.clone();
        Ok(Run { kernel, machine, engine, may_leave_kvm, plan, binary, carried, files, cache, interrupts })
    }

    fn announce(&self) {
        let origin = self.kernel.package.as_ref().map_or_else(
            || self.kernel.image.display().to_string(),
            |package| format!("Debian {}, {}", package.version, package.suite),
        );
        let Machine { accel, cpus, memory_mib, .. } = &self.machine;
        let processors = if *cpus == 1 { "processor" } else { "processors" };
        note!(
            "Linux {} ({origin}) by {}, {} with {cpus} {processors}, {memory_mib} MiB",
            self.kernel.release,
            self.engine.name(),
            accel.name().to_uppercase(),
        );
    }

    /// Boots until there is a verdict or no hope of one.
    fn verdict(&mut self) -> Result<(Session, Ending)> {
        let mut boots = 1;
        let mut believed = false;
        loop {
            let session = self.boot()?;
            if let watch::Ending::Failed(error) = &session.ending {
                let ending = failure("run", BROKEN, error);
                return Ok((session, ending));
            }
            let ending = match judge(&session, self.machine.accel, believed) {
                Outcome::Verdict { status, why } => {
                    why.iter().for_each(|why| note!("{why}{}", while_running(&session.journal.running)));
                    Ending { status, ..Ending::default() }
                }
                Outcome::Accused { faults, unexplained } => {
                    faults.iter().for_each(show);
                    tell_of_cases("that does not explain what failed", &unexplained);
                    Ending { status: FAILED, faults, ..Ending::default() }
                }
                Outcome::Suspected { faults, failed } => {
                    faults.iter().for_each(show);
                    tell_of_cases("these may have failed for that", &failed);
                    note!("that may be the host's doing and not the kernel's; running it all again to know");
                    believed = true;
                    if let Accel::Tcg { threads } = &mut self.machine.accel {
                        *threads = Threads::Single;
                    }
                    continue;
                }
                Outcome::NoBoot { why, again: true, .. } if boots < BOOTS => {
                    boots += 1;
                    tell_of_boot(&session);
                    self.try_differently(&session, &why, boots)?;
                    continue;
                }
                Outcome::NoBoot { why, last, .. } => no_verdict("boot", why, &last, &session.complaint),
                Outcome::Lost { why, .. } if self.may_leave_kvm && session.is_stopped() => {
                    self.leave_kvm(&session, &why)?;
                    continue;
                }
                Outcome::Lost { why, running, last } => {
                    let why = format!("{why}{}", while_running(&running));
                    no_verdict("run", why, &last, &session.complaint)
                }
            };
            self.tell_of_end(&session);
            return Ok((session, ending));
        }
    }

    /// Prints what is notable after a guest has ended: unused CPUs, and the times.
    fn tell_of_end(&self, session: &Session) {
        if let Some(used) = session.journal.cpus.filter(|used| *used < self.machine.cpus) {
            note!("the kernel uses {used} of its {} processors (try --sockets)", self.machine.cpus);
        }
        if let Some(boot) = session.boot {
            let (boot, whole) = (boot.as_secs_f32(), session.whole.as_secs_f32());
            note!("booted in {boot:.1} s, ended after {whole:.1} s");
        }
    }

    /// Boots once. If the suite starts, prints the faults reported before that; otherwise the caller does.
    fn boot(&mut self) -> Result<Session> {
        self.files.knows(&self.kernel, &self.machine, &self.engine, &self.plan.rerun);
        let job = Job {
            kernel: &self.kernel,
            machine: &self.machine,
            plan: &self.plan,
            binary: &self.binary,
            carried: &self.carried,
            interrupts: self.interrupts,
        };
        let mut sink = OutputSink { screen: stdout().lock(), files: self.files };
        let session = self.engine.boot(&job, &mut sink)?;
        if session.journal.begun {
            tell_of_boot(&session);
        }
        Ok(session)
    }

    /// Prepares another boot, in a different way if that may help, and prints why.
    fn try_differently(&mut self, session: &Session, why: &str, boot: u32) -> Result<()> {
        let by_virtme = matches!(self.engine, Engine::Virtme(_));
        // The kernel itself says why it did not boot: it is not KVM's doing.
        if by_virtme && lacks_virtiofs(session) {
            return self.give_up_virtme(session, why);
        }
        if self.may_leave_kvm {
            return self.leave_kvm(session, why);
        }
        // Boot without shortcuts.
        self.machine.fast_boot = false;
        if by_virtme && boot == BOOTS {
            return self.give_up_virtme(session, why);
        }
        note!("{why}; booting again ({} of {})", boot - 1, BOOTS - 1);
        Ok(())
    }

    /// Switches to emulation, and prints why. If KVM itself stopped the guest, later runs do not try it: otherwise the kernel may
    /// be why it did not boot.
    fn leave_kvm(&mut self, session: &Session, why: &str) -> Result<()> {
        note!("{why}; booting again without KVM");
        self.may_leave_kvm = false;
        self.machine.accel = Accel::Tcg { threads: Threads::Multi };
        if session.is_stopped() { accel::give_up_kvm(why, self.cache) } else { Ok(()) }
    }

    /// Switches to QEMU alone, prints why, and records it if virtme-ng can never boot this kernel.
    fn give_up_virtme(&mut self, session: &Session, why: &str) -> Result<()> {
        let why = match lacks_virtiofs(session) {
            true => "it has no virtiofs built in, and so no root",
            false => why,
        };
        // A kernel of the archive never changes; one from elsewhere may be rebuilt.
        if lacks_virtiofs(session) && self.kernel.package.is_some() {
            let path = unbootable(&self.kernel, self.cache);
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            write_whole(&path, why.as_bytes())?;
        }
        note!("virtme-ng cannot boot this kernel: {why}; using QEMU alone");
        self.engine = Engine::Qemu;
        Ok(())
    }
}

/// Prints one line for each fault that the kernel reported before the suite started.
fn tell_of_boot(session: &Session) {
    for finding in boot_findings(session) {
        let line = finding.excerpt.iter().find(|line| fault_in_line(line).is_some());
        note!("before the suite began, the kernel said: {}", line.map_or("", String::as_str));
    }
}

/// Prints a message about cases, if there are any.
fn tell_of_cases(what: &str, cases: &[String]) {
    if !cases.is_empty() {
        note!("{what}: {}", cases.join(", "));
    }
}

/// Prints a fault report, and what was running.
fn show(finding: &Finding) {
    note!("the kernel reported a fault ({}){}:", finding.fault, while_running(&finding.running));
    show_lines(&finding.excerpt);
}

fn while_running(cases: &[String]) -> String {
    match cases {
        [] => " while no case was running".to_owned(),
        [case] => format!(" while {case} was running"),
        cases => format!(" while these cases were running: {}", cases.join(", ")),
    }
}

/// Prints at which stage and why there is no verdict.
fn no_verdict(stage: &'static str, why: String, last: &[String], complaint: &[String]) -> Ending {
    note!("no verdict ({stage}): {why}");
    show_lines(complaint);
    if !last.is_empty() {
        note!("the last lines of the console:");
        show_lines(last);
    }
    Ending { status: NO_VERDICT, no_verdict: Some((stage, why)), faults: Vec::new() }
}

/// Prints why the driver itself could not go on. Unless a signal stopped it, the exit status is `status`.
fn failure(stage: &'static str, status: u8, error: &Error) -> Ending {
    let why = format!("{error:#}");
    match error.downcast_ref() {
        Some(interrupted @ Interrupted(_)) => {
            note!("{why}");
            Ending { status: interrupted.status(), no_verdict: Some((stage, why)), faults: Vec::new() }
        }
        None => Ending { status, ..no_verdict(stage, why, &[], &[]) },
    }
}

fn show_lines(lines: &[String]) {
    lines.iter().for_each(|line| say(format_args!("    {line}\n")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_run_again_with_the_options_that_judge_it() {
        let words = ["basic", "--strict", "--repeat", "3", "--require", "nnp", "--stress=9", "--upstream"];
        let kept = verdict_options(&words.map(str::to_owned));
        assert_eq!(kept, ["--strict", "--require", "nnp", "--stress=9"]);
    }
}
