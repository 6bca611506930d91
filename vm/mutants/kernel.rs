//! Building kernels: the base once, each mutant from it by recompiling what its edit touches.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::catalogue::Mutant;
use crate::source::Source;

/// The image that `make bzImage` leaves.
const IMAGE: &str = "arch/x86/boot/bzImage";

/// Makes the same source give the same image, so that an image's hash says what it was built from.
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "clone3"),
    ("KBUILD_BUILD_HOST", "mutants"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// A kernel that was built.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    pub sha256: String,
}

/// What became of a mutant's build.
pub enum Built {
    Kernel(Kernel),
    /// An anchor does not match this tree.
    DoesNotApply(String),
    /// The compiler refuses it.
    DoesNotBuild(String),
}

/// Builds kernels in a source tree that is ours to build in, and keeps every image.
pub struct Builder {
    source: Source,
    tree: PathBuf,
    /// What we know about the tree: the configuration it was given, the originals of edited files.
    notes: PathBuf,
    images: PathBuf,
    jobs: u16,
    /// Keeps others out of the tree for as long as we are.
    _lock: File,
}

impl Builder {
    pub fn new(tree: &Path, cache: &Path, jobs: u16) -> Result<Self> {
        let tree = tree.canonicalize().with_context(|| format!("kernel tree {}", tree.display()))?;
        let notes = cache.join(&hex(tree.as_os_str().as_encoded_bytes())[..16]);
        fs::create_dir_all(&notes)?;
        let lock = File::create(notes.join("lock"))?;
        lock.try_lock().with_context(|| format!("somebody else builds in {}", tree.display()))?;
        let source = Source::open(&tree, &notes.join("originals"))?;
        Ok(Self { source, tree, notes, images: cache.join("images"), jobs, _lock: lock })
    }

    /// The kernel without any mistake. make decides what there is to do: a tree that changed gives another base.
    pub fn base(&self, fragment: &Path) -> Result<Kernel> {
        self.configure(fragment)?;
        let log = self.notes.join("make.log");
        ensure!(self.make("bzImage", &log)?, "the base kernel does not build, see {}", log.display());
        let built = self.tree.join(IMAGE);
        let sha256 = hex(&fs::read(&built)?);
        let image = self.images.join(&sha256[..16]).join("bzImage");
        store(&built, &image)?;
        Ok(Kernel { image, sha256 })
    }

    /// The smallest configuration, plus the fragment; left alone while the fragment stays the same.
    ///
    /// A configuration that somebody else made is never overwritten.
    fn configure(&self, fragment: &Path) -> Result<()> {
        let wanted = fs::read(fragment).with_context(|| format!("{}", fragment.display()))?;
        let used = self.notes.join("fragment.config");
        if fs::read(&used).is_ok_and(|text| text == wanted) {
            return Ok(());
        }
        let config = self.tree.join(".config");
        ensure!(
            used.exists() || !config.exists(),
            "{} is configured already: give a fresh copy",
            self.tree.display()
        );
        let log = self.notes.join("make.log");
        ensure!(self.make("tinyconfig", &log)?, "make tinyconfig fails, see {}", log.display());
        fs::OpenOptions::new().append(true).open(&config)?.write_all(&wanted)?;
        ensure!(self.make("olddefconfig", &log)?, "make olddefconfig fails, see {}", log.display());
        fs::write(used, wanted)?;
        Ok(())
    }

    /// Why the mutant's edits do not fit this tree, if they do not.
    pub fn misfit(&self, mutant: &Mutant) -> Option<String> {
        self.source.edited(mutant).err().map(|error| format!("{error:#}"))
    }

    /// The mutant's kernel, from the cache or newly built from `base`.
    pub fn mutant(&self, base: &Kernel, mutant: &Mutant) -> Result<Built> {
        let edits = serde_json::to_string(&mutant.edits)?;
        let dir = self.images.join(&hex(format!("{}{edits}", base.sha256).as_bytes())[..16]);
        let image = dir.join("bzImage");
        let log = dir.join("make.log");
        if !image.exists() {
            let files = match self.source.edited(mutant) {
                Ok(files) => files,
                Err(error) => return Ok(Built::DoesNotApply(format!("{error:#}"))),
            };
            fs::create_dir_all(&dir)?;
            self.source.write(&files)?;
            fs::write(dir.join("mutant"), format!("{}\n{edits}\n", mutant.id))?;
            let built = self.make("bzImage", &log);
            self.source.restore()?;
            if !built? {
                return Ok(Built::DoesNotBuild(first_error(&log)?));
            }
            store(&self.tree.join(IMAGE), &image)?;
        }
        let sha256 = hex(&fs::read(&image)?);
        Ok(Built::Kernel(Kernel { image, sha256 }))
    }

    /// What the base calls itself.
    pub fn release(&self) -> Result<String> {
        let release = self.tree.join("include/config/kernel.release");
        let text = fs::read_to_string(&release).with_context(|| format!("{}", release.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Runs make; `false` when it fails.
    fn make(&self, target: &str, log: &Path) -> Result<bool> {
        let output = File::create(log)?;
        let status = Command::new("make")
            .arg("-C")
            .arg(&self.tree)
            .arg(format!("-j{}", self.jobs))
            .args(["-s", target])
            .envs(REPRODUCIBLE)
            .stderr(output.try_clone()?)
            .stdout(output)
            .status()
            .context("make")?;
        Ok(status.success())
    }
}

/// Copies an image into the cache so that a half-written one is never found there.
fn store(built: &Path, image: &Path) -> Result<()> {
    let Some(dir) = image.parent() else { bail!("{} has no folder", image.display()) };
    fs::create_dir_all(dir)?;
    let partial = image.with_extension("partial");
    fs::copy(built, &partial)?;
    fs::rename(partial, image)?;
    Ok(())
}

fn first_error(log: &Path) -> Result<String> {
    let text = fs::read_to_string(log)?;
    let line = text.lines().find(|line| line.contains("error") || line.contains("Error"));
    Ok(line.unwrap_or("no message").to_owned())
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
