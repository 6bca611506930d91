//! The virtme-ng engine, which most kernel developers know; the guest's root is a folder of the host.
use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clone3_conformance::guest::PLAN;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::accel::Accel;
use crate::cache::Cache;
use crate::engine::Job;
use crate::interrupt::Interrupts;
use crate::note;
use crate::process::{Process, output, succeed, supervised};
use crate::system::{self, Need, Thing};
use crate::watch::{Channels, Listener, Session, watch};

/// The version of virtme-ng that this engine was written for.
const VERSION: &str = "1.42";
/// The version of virtiofsd that is built if the machine has none.
const VIRTIOFSD_VERSION: &str = "1.14.0";

/// The packages that the build of virtiofsd needs.
const VIRTIOFSD_NEEDS: [Need; 2] = [
    ("libcap-ng-dev", Thing::File("/usr/include/cap-ng.h")),
    ("libseccomp-dev", Thing::File("/usr/include/seccomp.h")),
];

/// Where distributions install virtiofsd.
const VIRTIOFSD_PLACES: [&str; 3] =
    ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// The folders that virtme-ng's own init steps need in the guest's root.
const FOLDERS: [&str; 14] = [
    "bin",
    "dev",
    "etc",
    "lib/modules",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "suite",
    "sys",
    "tmp",
    "usr/bin",
    "var/tmp",
];
/// The programs that these steps run, all of them links to busybox.
const APPLETS: [&str; 5] = ["cat", "ln", "mkdir", "mount", "sh"];
const SHELL: &str = "busybox";

/// An installed virtme-ng and virtiofsd.
pub struct Tools {
    python: PathBuf,
    shell: PathBuf,
    path: OsString,
}

impl Tools {
    /// Finds the tools, and installs the missing ones in the cache.
    pub fn prepare(cache: &Cache, interrupts: &Interrupts) -> Result<Self> {
        let python = python(cache, interrupts)?;
        system::ensure(&[("busybox-static", Thing::Static(SHELL))], cache, interrupts)?;
        let shell = system::find(SHELL).context("busybox is not there")?;
        let server = virtiofsd(cache, interrupts)?;
        for path in [&server, &env::temp_dir()] {
            ensure!(is_plain(path), "virtme-ng cannot use a path such as {}", path.display());
        }
        let folders = server.parent().map(Path::to_owned).into_iter();
        let path = env::var_os("PATH").unwrap_or_default();
        let administration = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let path = env::join_paths(folders.chain(env::split_paths(&path)).chain(administration))?;
        Ok(Self { python, shell, path })
    }

    /// Boots the kernel, and runs the plan in it.
    pub fn boot(&self, job: &Job, listener: &mut dyn Listener) -> Result<Session> {
        let folder = TempDir::with_prefix("clone3-vm-")?;
        let root = folder.path().join("root");
        self.create_root(&root, job)?;
        let channels = Channels::create(folder.path())?;
        let mut virtme = supervised(&self.python)?;
        // Its settings, sockets and exit status go to the temporary folder.
        virtme.env("HOME", folder.path()).env("TMPDIR", folder.path()).env("PATH", &self.path);
        virtme.args([
            "-m",
            "virtme.commands.run",
            "--disable-microvm",
            "--mods",
            "none",
            "--show-boot-console",
        ]);
        virtme.arg("--kimg").arg(job.image());
        virtme.args([
            "--cpus",
            &job.machine.cpus.to_string(),
            "--memory",
            &format!("{}M", job.machine.memory_mib),
        ]);
        if job.machine.accel != Accel::Kvm {
            virtme.arg("--disable-kvm");
        }
        let options = job.machine.kernel_options();
        virtme.args(options.split_whitespace().map(|option| format!("--kopt={option}")));
        virtme.arg("--root").arg(&root).args(["--script-sh", "exec /suite/init"]);
        // The rest of the command line is for QEMU.
        virtme.arg("--qemu-opts");
        for channel in [&channels.output, &channels.journal] {
            virtme.arg("-serial").arg(format!("file:{}", channel.path.display()));
        }
        virtme.args(["-accel", job.machine.accel.option(), "-cpu", job.machine.processor()]);
        virtme.args(job.machine.debugger());
        // virtme-ng sends the kernel's console to its standard error, to which QEMU writes as well.
        let console = OpenOptions::new().write(true).open(&channels.console.path)?;
        virtme.stdin(Stdio::null()).stdout(Stdio::null()).stderr(console);
        let mut process = Process::spawn(&mut virtme, Signal::TERM)?;
        watch(&mut process, channels, job.machine.limits, job.interrupts, listener)
    }

    /// Creates the guest's root: the suite, the plan, and a shell.
    ///
    /// The host's own root would work too, but would cost more time than boot and suite together: virtme-ng starts the host's
    /// udev if it finds it, and waits for it.
    fn create_root(&self, root: &Path, job: &Job) -> Result<()> {
        for folder in FOLDERS {
            fs::create_dir_all(root.join(folder))?;
        }
        let program = |from: &Path, to: &str| -> Result<()> {
            let to = root.join(to);
            fs::copy(from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            Ok(fs::set_permissions(to, Permissions::from_mode(0o755))?)
        };
        program(&self.shell, "bin/busybox")?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        program(job.binary, "suite/clone3-conformance")?;
        symlink("clone3-conformance", root.join("suite/init"))?;
        fs::write(root.join("etc/fstab"), "")?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        Ok(fs::write(root.join(PLAN.trim_start_matches('/')), serde_json::to_vec(job.plan)?)?)
    }

    /// Returns the kernel image of a mainline tag, which virtme-ng downloads.
    pub fn download(&self, tag: &str, cache: &Cache, interrupts: &Interrupts) -> Result<PathBuf> {
        let folder = cache.folder(&format!("mainline/{tag}"), interrupts, |folder| {
            note!("virtme-ng is downloading Linux {tag}");
            let mut download = Command::new(&self.python);
            download.args(["-m", "virtme_ng.run", "--dry-run", "--run", tag]).env("HOME", folder);
            succeed(&mut download, interrupts)
                .with_context(|| format!("virtme-ng cannot download Linux {tag}, if there is one"))
        })?;
        let images = fs::read_dir(folder.join(format!(".cache/virtme-ng/{tag}/amd64/boot")))?;
        let is_image = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz"))
        };
        let image = images.filter_map(|file| Some(file.ok()?.path())).find(is_image);
        image.with_context(|| format!("virtme-ng downloaded no kernel image for {tag}"))
    }
}

/// Returns whether a path means itself to a shell. virtme-ng starts virtiofsd through one, and does not quote.
fn is_plain(path: &Path) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_./+-".contains(byte))
}

/// Returns the interpreter of the virtual environment in which virtme-ng is installed.
fn python(cache: &Cache, interrupts: &Interrupts) -> Result<PathBuf> {
    let name = format!("virtme-ng-{VERSION}");
    let folder = cache.folder(&name, interrupts, |folder| {
        system::ensure(
            &[("python3-venv", Thing::Python("venv, ensurepip")), ("file", Thing::Program("file"))],
            cache,
            interrupts,
        )?;
        note!("installing virtme-ng {VERSION} in the cache");
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder), interrupts)
            .context("cannot make a virtual environment")?;
        let mut install = Command::new(folder.join("bin/python3"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        succeed(install.arg(format!("virtme-ng=={VERSION}")), interrupts)
    })?;
    Ok(folder.join("bin/python3"))
}

/// Returns virtiofsd, the server through which the guest sees the host's files.
///
/// Old versions of QEMU include a different server of the same name, which virtme-ng cannot use.
fn virtiofsd(cache: &Cache, interrupts: &Interrupts) -> Result<PathBuf> {
    let is_usable = |path: &PathBuf| {
        let version = output(Command::new(path).arg("--version")).unwrap_or_default();
        // The old one prints "virtiofsd version 7.2.0".
        version.strip_prefix(b"virtiofsd ").is_some_and(|version| version.starts_with(b"1"))
    };
    if let Some(path) = VIRTIOFSD_PLACES.map(PathBuf::from).into_iter().find(is_usable) {
        return Ok(path);
    }
    let name = format!("virtiofsd-{VIRTIOFSD_VERSION}");
    let folder = cache.folder(&name, interrupts, |folder| {
        system::ensure(&VIRTIOFSD_NEEDS, cache, interrupts)?;
        note!("building virtiofsd {VIRTIOFSD_VERSION} in the cache; this takes some minutes, once");
        let mut install = Command::new("cargo");
        install.args([
            "install",
            "--quiet",
            "--locked",
            "virtiofsd",
            "--version",
            VIRTIOFSD_VERSION,
            "--root",
        ]);
        install.arg(folder).env("CARGO_TARGET_DIR", folder.join("build")).env_remove("RUSTFLAGS");
        succeed(&mut install, interrupts).context("cannot build virtiofsd")?;
        Ok(fs::remove_dir_all(folder.join("build"))?)
    })?;
    let server = folder.join("bin/virtiofsd");
    ensure!(
        server.exists(),
        "{} is not there; remove {} to build it again",
        server.display(),
        folder.display()
    );
    Ok(server)
}

/// Returns whether the kernel reported that it does not support virtiofs, the file system of its root.
pub fn lacks_virtiofs(session: &Session) -> bool {
    let said = |line: &str| line.contains("Cannot open root device \"ROOTFS\"") && line.contains("error -19");
    session.console.iter().any(|line| said(&line.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_leaves_plain_paths_alone() {
        assert!(is_plain(Path::new("/root/.cache/virtiofsd-1.14.0/bin/virtiofsd")));
        for path in ["/my cache/virtiofsd", "/tmp;", "/tmp/$x", "/tmp/'", "/tmp/\n"] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
    }
}
