//! The execution of one row of the table: prepares the setting, runs the driver in it, and checks what it leaves behind.
use std::error::Error;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, pipe};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use clone3_conformance::guest::SUITE_STARTS;
use clone3_conformance::results::Results;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::json;
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A fault, and the driver's expected reaction.
#[derive(Default)]
pub struct Row {
    pub name: &'static str,
    /// The fault of the guest; `None` if the run never gets to a guest.
    pub guest: Option<&'static str>,
    /// The kernel, if `cache` does not determine it.
    pub kernel: Option<&'static str>,
    /// The engine; QEMU alone if empty.
    pub engine: &'static str,
    pub options: &'static [&'static str],
    pub cache: Cache,
    pub act: Act,
    /// Whether the driver is started with SIGHUP ignored, as nohup(1) does.
    pub nohup: bool,
    /// The exit status, or if negative, the signal.
    pub status: i32,
    /// The texts that the output must contain.
    pub says: &'static [&'static str],
    /// Whether the results must contain the case that ended, name the one that was running, and say how the run ended; the
    /// report must have that case too, and the console's file what the kernel said.
    pub keeps: bool,
}

/// What is done to the run once it is under way.
#[derive(Clone, Copy, Default)]
pub enum Act {
    #[default]
    Nothing,
    /// The driver receives this signal.
    Signal(&'static str),
    /// The driver is killed with SIGKILL.
    Kill,
    /// QEMU is killed with SIGKILL.
    KillQemu,
    /// A folder replaces the results file.
    BlockResults,
    /// The reader of the driver's output, on stdout and stderr, exits.
    CloseOutput,
}

/// The setting of the run: the cache, the archive, and the machine's programs.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Cache {
    /// Those of this machine.
    #[default]
    Usual,
    /// A truncated kernel image.
    CutImage,
    /// A truncated kernel package.
    CutPackage,
    /// A package without a kernel.
    WrongPackage,
    /// An archive that does not respond.
    NoArchive,
    /// An archive whose response never ends.
    SlowArchive,
    /// A package in the archive that does not match its list.
    Forged,
    /// A cache without enough space for the kernel.
    Full,
    /// A QEMU that cannot use KVM.
    NoKvm,
    /// A KVM that runs the trial's few instructions, but stops every kernel.
    StoppingKvm,
    /// A zstd that is killed in the middle.
    KilledDecompressor,
    /// The Rust version of Debian 13.
    OldRust,
}

/// The environment variable that identifies a run's processes.
const MARK: &str = "CLONE3_FAULTS_RUN";

/// How long a killed process may take to die.
const DYING: Duration = Duration::from_secs(10);

/// The output that shows that the run has reached the point where `Act` applies.
const UNDER_WAY: [&str; 2] = ["under way", "asking Debian's archive"];

/// The version of a kernel image that is in no package and no archive.
const FOREIGN: &str = "9.9.9";

/// A QEMU in which a trial of KVM succeeds, and KVM stops every kernel as one does that lacks an instruction.
const STOPPING_KVM: &str = r#"case " $* " in
*isa-debug-exit*) exit 85 ;;
*'-accel kvm '*) echo 'KVM internal error. Suberror: 1' >&2; exec sleep 1000 ;;
*) PATH=${PATH#*:} exec qemu-system-x86_64 "$@" ;;
esac"#;

/// A zstd that writes the first half of a kernel.
const KILLED_ZSTD: &str = "PATH=${PATH#*:} zstd \"$@\" 2>/dev/null | head -c 33000000; kill -KILL $$";

/// The static guest, built once.
static GUEST: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = "x86_64-unknown-linux-gnu";
    // Not the folder of vm/build.sh: cargo would rebuild everything there, for other flags.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-guest");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--example",
        "bad-guest",
        "--target",
        target,
        "--target-dir",
    ]);
    cargo.arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    assert!(cargo.status().is_ok_and(|status| status.success()), "the guest does not build");
    folder.join(target).join("release/examples/bad-guest")
});

/// The setting of one run.
pub struct Bench {
    folder: TempDir,
    command: Command,
    mark: String,
    mounted: Option<PathBuf>,
}

impl Bench {
    /// Creates the setting.
    pub fn set_up(row: &Row) -> Result<Self> {
        let folder = TempDir::new()?;
        let at = |name: &str| folder.path().join(name);
        for name in ["tmp", "cache/clone3-conformance/apt", "bin"] {
            fs::create_dir_all(at(name))?;
        }
        // The script that builds the driver, if the build is what fails.
        let driver = match row.cache {
            Cache::OldRust => concat!(env!("CARGO_MANIFEST_DIR"), "/vm/run.sh"),
            _ => env!("CARGO_BIN_EXE_clone3-vm"),
        };
        // These tests may themselves be running in either way.
        let signals = if row.nohup { "--ignore-signal=HUP" } else { "--default-signal=HUP" };
        let mut command = Command::new("env");
        command.arg(signals).arg(driver);
        let mark = format!("{}-{}-{}", std::process::id(), row.engine, row.name);
        command.env(MARK, &mark).env("TMPDIR", at("tmp")).stdin(Stdio::null());
        command.arg(format!("--engine={}", if row.engine.is_empty() { "qemu" } else { row.engine }));
        command.args(row.options);
        let mut bench = Self { folder, command, mark, mounted: None };
        bench.furnish(row)?;
        if row.guest.is_some() {
            bench.command.arg("--suite").arg(&*GUEST);
        }
        let files = [("--results", "results.json"), ("--report", "report.xml"), ("--console", "console")];
        // Other rows may name files of their own.
        for (option, name) in &files[..if row.keeps { 3 } else { 1 }] {
            let file = bench.at(name);
            bench.command.arg(option).arg(file);
        }
        bench.command.arg("--").args(row.guest);
        Ok(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates what the row's run uses.
    fn furnish(&mut self, row: &Row) -> Result<()> {
        let usual = std::env::var("CLONE3_FAULTS_KERNEL").unwrap_or_else(|_| "7.1".to_owned());
        let mut kernel = row.kernel.map_or(usual, str::to_owned);
        match row.cache {
            Cache::Usual => {}
            Cache::CutImage => kernel = self.image(1 << 12)?,
            Cache::CutPackage => {
                kernel = self.package(&format!("boot/vmlinuz-{FOREIGN}"))?;
                let length = fs::metadata(&kernel)?.len();
                fs::OpenOptions::new().write(true).open(&kernel)?.set_len(length / 2)?;
            }
            Cache::WrongPackage => kernel = self.package("boot/nothing")?,
            Cache::NoArchive => self.program("apt-get", "echo 'E: no route' >&2; exit 100")?,
            Cache::SlowArchive => {
                self.program("apt-get", "case $1 in indextargets) ;; *) exec sleep 1000 ;; esac")?;
            }
            Cache::Forged => {
                let package = self.package(&format!("boot/vmlinuz-{FOREIGN}"))?;
                self.archive(&package, &"0".repeat(64))?;
                kernel = FOREIGN.to_owned();
            }
            Cache::Full => {
                let package = self.package(&format!("boot/vmlinuz-{FOREIGN}"))?;
                let sum = Command::new("sha256sum").arg(&package).output()?.stdout;
                self.mount_small_cache()?;
                self.archive(&package, &String::from_utf8(sum)?[..64])?;
                kernel = FOREIGN.to_owned();
            }
            Cache::NoKvm => {
                self.program("qemu-system-x86_64", "exit 1")?;
            }
            Cache::StoppingKvm => {
                self.program("qemu-system-x86_64", STOPPING_KVM)?;
                self.share_kernels()?;
            }
            Cache::KilledDecompressor => {
                self.program("zstd", KILLED_ZSTD)?;
                self.share_kernels()?;
            }
            Cache::OldRust => {
                self.program("rustc", "echo 'rustc 1.85.0 (4d91de4e4 2025-02-17) (built from a tarball)'")?;
            }
        }
        if row.cache != Cache::Usual {
            let path = std::env::var("PATH")?;
            self.command.env("PATH", format!("{}:{path}", self.at("bin").display()));
            self.command.env("XDG_CACHE_HOME", self.at("cache"));
        }
        self.command.arg("--kernel").arg(kernel);
        Ok(())
    }

    /// Gives the run's own cache the machine's kernels and their index.
    fn share_kernels(&self) -> Result<()> {
        let ours = self.at("cache/clone3-conformance");
        let usual = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let usual = usual.or_else(home).ok_or("no HOME")?.join("clone3-conformance");
        fs::remove_dir(ours.join("apt"))?;
        for name in ["apt", "kernels"] {
            symlink(usual.join(name), ours.join(name))?;
        }
        Ok(())
    }

    /// Writes a program that this run finds before the machine's own.
    fn program(&self, name: &str, script: &str) -> Result<()> {
        let path = self.at("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
    }

    /// Writes a file of this length that starts like a kernel image of one MiB.
    fn image(&self, length: usize) -> Result<String> {
        let mut image = vec![0x5a; length];
        image[0x1f1] = 1;
        image[0x1f4..0x1f8].copy_from_slice(&(1_u32 << 16).to_le_bytes());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x306].copy_from_slice(b"9.9.9\0");
        let path = self.at("vmlinuz");
        fs::write(&path, image)?;
        Ok(path.display().to_string())
    }

    /// Creates a package with one file that starts like a kernel image.
    fn package(&self, file: &str) -> Result<String> {
        let root = self.at("root");
        let file = root.join(file);
        fs::create_dir_all(file.parent().ok_or("no folder")?)?;
        fs::create_dir_all(root.join("DEBIAN"))?;
        fs::copy(self.image(2 << 20)?, file)?;
        let control = "Package: p\nVersion: 1\nArchitecture: amd64\nMaintainer: m <m@m>\nDescription: d\n";
        fs::write(root.join("DEBIAN/control"), control)?;
        let package = self.at("package.deb");
        // Stored uncompressed, so that truncating the package truncates the file.
        let mut build = Command::new("dpkg-deb");
        build.args(["-Znone", "--root-owner-group", "--build"]).arg(&root).arg(&package);
        let built = build.output()?;
        if !built.status.success() {
            return Err(format!("dpkg-deb: {}", String::from_utf8_lossy(&built.stderr)).into());
        }
        Ok(package.display().to_string())
    }

    /// Writes a cached index of an archive with this package only.
    fn archive(&self, package: &str, sha256: &str) -> Result<()> {
        let package = json!({
            "name": format!("linux-image-{FOREIGN}-cloud-amd64"),
            "version": format!("{FOREIGN}-1"),
            "suite": "sid",
            "url": format!("copy:{package}"),
            "sha256": sha256,
            "size": fs::metadata(package)?.len(),
        });
        let index = json!({ "packages": [package], "aliases": [] });
        let path = self.at("cache/clone3-conformance/apt/index.json");
        fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        Ok(fs::write(path, index.to_string())?)
    }

    /// Mounts the cache as a file system with space for little more than the index.
    fn mount_small_cache(&mut self) -> Result<()> {
        let cache = self.at("cache");
        mount("tmpfs", &cache, "tmpfs", MountFlags::empty(), c"size=256k")
            .map_err(|error| format!("a small file system needs root: {error}"))?;
        self.mounted = Some(cache);
        Ok(())
    }

    /// Runs the driver, and compares everything it did with the expectation.
    pub fn judge(&mut self, row: &Row) -> Result<()> {
        let (output, status) = self.run(row.act)?;
        let mut wrong: Vec<String> = Vec::new();
        if status != row.status {
            wrong.push(format!("exit status {status}, not {}", row.status));
        }
        wrong.extend(
            row.says
                .iter()
                .filter(|text| !output.contains(**text))
                .map(|text| format!("it does not say: {text}")),
        );
        // If it fell back to QEMU, this would be the other engine's row.
        let fell_back = row.engine == "virtme" && output.contains("using QEMU alone");
        wrong.extend(fell_back.then(|| "virtme-ng did not boot it".to_owned()));
        if row.keeps {
            wrong.extend(self.kept().err());
        }
        wrong.extend(self.living()?.into_iter().map(|process| format!("left running: {process}")));
        wrong.extend(
            self.left_behind(row.act)?.into_iter().map(|path| format!("left behind: {}", path.display())),
        );
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("{}\n--- what it said:\n{output}", wrong.join("\n")).into()),
        }
    }

    /// Checks that the results have one case that ended and one that was running; the error describes them.
    fn kept(&self) -> std::result::Result<(), String> {
        let read =
            |name: &str| fs::read_to_string(self.at(name)).map_err(|error| format!("no {name}: {error}"));
        let results = Results::parse(&read("results.json")?)?;
        if results.guest.is_none() {
            return Err("the results do not say how the run ended".to_owned());
        }
        if !read("report.xml")?.contains("name=\"finished\"") {
            return Err("the report does not have the case that ended".to_owned());
        }
        if !read("console")?.contains(SUITE_STARTS) {
            return Err("the console's file does not have the suite's start".to_owned());
        }
        let ended: Vec<&str> = results.cases.iter().map(|record| record.case.as_str()).collect();
        match (ended.as_slice(), results.interrupted.as_slice(), results.exit) {
            (["finished"], [running], None) if running == "running" => Ok(()),
            other => Err(format!("results of a run that was cut short: {other:?}")),
        }
    }

    /// Runs the driver to its end, and returns its output and exit status.
    fn run(&mut self, act: Act) -> Result<(String, i32)> {
        let (reader, writer) = pipe()?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let mut driver = self.command.spawn()?;
        // The command holds copies of the pipe's write end.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut output = String::new();
        let mut acted = false;
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line).into_owned();
            if !acted && UNDER_WAY.iter().any(|sign| text.contains(sign)) {
                acted = true;
                self.act(act, &driver)?;
                if matches!(act, Act::CloseOutput) {
                    break;
                }
            }
            output.push_str(&text);
            line.clear();
        }
        drop(reader);
        let status = driver.wait()?;
        Ok((output, status.code().unwrap_or_else(|| -status.signal().unwrap_or_default())))
    }

    fn act(&self, act: Act, driver: &Child) -> Result<()> {
        let driver = Pid::from_child(driver);
        match act {
            Act::Nothing | Act::CloseOutput => {}
            Act::Signal("INT") => kill_process(driver, Signal::INT)?,
            Act::Signal("HUP") => kill_process(driver, Signal::HUP)?,
            Act::Signal(_) => kill_process(driver, Signal::TERM)?,
            Act::Kill => kill_process(driver, Signal::KILL)?,
            Act::KillQemu => {
                let qemu = self.processes()?.into_iter().find(|(_, name)| name.starts_with("qemu"));
                kill_process(qemu.ok_or("there is no QEMU")?.0, Signal::KILL)?;
            }
            Act::BlockResults => {
                fs::remove_file(self.at("results.json"))?;
                fs::create_dir(self.at("results.json"))?;
            }
        }
        Ok(())
    }

    /// Returns the processes of this run, with their names.
    fn processes(&self) -> Result<Vec<(Pid, String)>> {
        let mark = format!("{MARK}={}", self.mark);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(pid) = number.and_then(Pid::from_raw) else { continue };
            // The process may exit in the meantime.
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                found
                    .push((pid, fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned()));
            }
        }
        Ok(found)
    }

    /// Returns the processes of this run that do not die.
    fn living(&self) -> Result<Vec<String>> {
        let deadline = Instant::now() + DYING;
        for (pid, _) in self.processes()? {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left))?;
        }
        Ok(self
            .processes()?
            .into_iter()
            .map(|(pid, name)| format!("{} {name}", pid.as_raw_nonzero()))
            .collect())
    }

    /// Returns what the run should have removed: temporary files, unless it was killed with SIGKILL, and incomplete files.
    fn left_behind(&self, act: Act) -> Result<Vec<PathBuf>> {
        let mut left = Vec::new();
        if !matches!(act, Act::Kill) {
            left.extend(files(&self.at("tmp"))?);
        }
        let is_half =
            |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "part" || suffix == "deb");
        let cache = files(&self.at("cache"))?;
        left.extend(cache.into_iter().filter(|path| path.ancestors().any(|part| is_half(&part.to_owned()))));
        Ok(left)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(cache) = &self.mounted {
            let _ = unmount(cache, UnmountFlags::DETACH);
        }
    }
}

/// Returns every file and folder below this one.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.push(entry.path());
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        }
    }
    Ok(found)
}
