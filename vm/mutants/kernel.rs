//! Builds of the base kernel, made once with its own build system in a separate folder, and of the mutants.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::catalogue::Mutant;
use crate::link::Parts;
use crate::source::Source;

/// Variables that make builds reproducible, so that an image's hash identifies its source.
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "clone3"),
    ("KBUILD_BUILD_HOST", "mutants"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// A built kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    pub sha256: String,
}

/// The result of building a mutant.
pub enum Built {
    Kernel(Kernel),
    /// An anchor does not match this tree.
    DoesNotApply(String),
    /// The compiler rejects it.
    DoesNotBuild(String),
    /// The compiler produces the same kernel.
    Same,
}

/// Builds kernels from a source tree, which it only reads, and keeps every image.
pub struct Builder {
    source: Source,
    /// The base kernel and its parts.
    base: Kernel,
    parts: Parts,
    /// The origin of all kernels: the hash of what make built, which does not depend on the files that are edited.
    origin: String,
    release: String,
    images: PathBuf,
}

impl Builder {
    /// Builds the base in `folder` from a configuration; images are kept in `images`. `files` are those that will be edited, or
    /// compiled with other options.
    pub fn new(
        source: Source,
        folder: &Path,
        images: &Path,
        config: &str,
        files: &BTreeSet<&str>,
        jobs: u16,
    ) -> Result<Self> {
        let made = make(&source, folder, config, jobs)?;
        let (origin, build) = (made.sha256, folder.join(BUILD));
        let parts = Parts::new(&source.tree, &build, folder, files)?;
        let release = fs::read_to_string(build.join("include/config/kernel.release"))?.trim().to_owned();
        let scratch = parts.scratch()?;
        let image = scratch.path().join("vmlinux");
        let linked = parts.link(&[], &image)?;
        linked.map_err(|why| anyhow!("the base kernel does not link: {why}"))?;
        let base = keep(&image, |sha256| images.join(&sha256[..16]))?;
        drop(scratch);
        Ok(Self { source, base, parts, origin, release, images: images.to_owned() })
    }

    /// Returns the kernel without mistakes.
    pub fn base(&self) -> &Kernel {
        &self.base
    }

    /// Builds the base with `files` compiled with `more` options. The compiler's other output files go to `folder`.
    pub fn counting(&self, files: &BTreeSet<&str>, more: &str, folder: &Path) -> Result<Kernel> {
        let mut objects = Vec::new();
        for file in files {
            let compiled = self.parts.compile(file, &self.source.read(file)?, folder, more)?;
            objects.push((*file, compiled.map_err(anyhow::Error::msg)?));
        }
        let image = folder.join("vmlinux");
        self.parts.link(&objects, &image)?.map_err(anyhow::Error::msg)?;
        let sha256 = hex(&fs::read(&image)?);
        Ok(Kernel { image, sha256 })
    }

    /// Creates a temporary folder, which is removed when dropped.
    pub fn scratch(&self) -> Result<TempDir> {
        self.parts.scratch()
    }

    /// Returns the tree from which kernels are built.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the base's kernel release.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Returns the mutant's kernel, from the cache or newly built.
    pub fn mutant(&self, mutant: &Mutant) -> Result<Built> {
        let edits = serde_json::to_string(&mutant.edits)?;
        let folder = self.images.join(&hex(format!("{}{edits}", self.origin).as_bytes())[..16]);
        let image = folder.join("vmlinux");
        if let Ok(bytes) = fs::read(&image) {
            return Ok(Built::Kernel(Kernel { image, sha256: hex(&bytes) }));
        }
        let edited = match self.source.edited(mutant) {
            Ok(files) => files,
            Err(error) => return Ok(Built::DoesNotApply(format!("{error:#}"))),
        };
        let scratch = self.parts.scratch()?;
        let mut objects = Vec::new();
        for (file, text) in &edited {
            match self.parts.compile(file, text, scratch.path(), "")? {
                Ok(object) => objects.push((file.as_str(), object)),
                Err(why) => return Ok(Built::DoesNotBuild(why)),
            }
        }
        let linked = scratch.path().join("vmlinux");
        if let Err(why) = self.parts.link(&objects, &linked)? {
            return Ok(Built::DoesNotBuild(why));
        }
        if hex(&fs::read(&linked)?) == self.base.sha256 {
            return Ok(Built::Same);
        }
        let kernel = keep(&linked, |_| folder.clone())?;
        fs::write(folder.join("mutant"), format!("{}\n{edits}\n", mutant.id))?;
        Ok(Built::Kernel(kernel))
    }
}

/// The subfolder in which a kernel is built.
const BUILD: &str = "build";

/// Builds a kernel in `folder` from a configuration, using only its own build system.
pub fn make(source: &Source, folder: &Path, config: &str, jobs: u16) -> Result<Kernel> {
    let build = folder.join(BUILD);
    fs::create_dir_all(&build)?;
    let tree = Tree { source: &source.tree, build: &build, jobs };
    // Several runs may be concurrent, but only one may run make.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    tree.configure(config)?;
    tree.make("vmlinux")?;
    drop(lock);
    let image = build.join("vmlinux");
    let sha256 = hex(&fs::read(&image)?);
    Ok(Kernel { image, sha256 })
}

/// A source tree, and the folder in which it is built.
struct Tree<'a> {
    source: &'a Path,
    build: &'a Path,
    jobs: u16,
}

impl Tree<'_> {
    /// Configures tinyconfig plus `wanted`; does nothing if `wanted` has not changed.
    fn configure(&self, wanted: &str) -> Result<()> {
        let used = self.build.join("../fragment.config");
        if fs::read_to_string(&used).is_ok_and(|text| text == wanted) {
            return Ok(());
        }
        self.make("tinyconfig")?;
        fs::OpenOptions::new().append(true).open(self.build.join(".config"))?.write_all(wanted.as_bytes())?;
        self.make("olddefconfig")?;
        fs::write(used, wanted)?;
        Ok(())
    }

    fn make(&self, target: &str) -> Result<()> {
        let log = self.build.join("../make.log");
        let output = File::create(&log)?;
        let status = Command::new("make")
            .arg("-C")
            .arg(self.source)
            .arg(format!("O={}", self.build.display()))
            .arg(format!("-j{}", self.jobs))
            .args(["-s", target])
            .envs(REPRODUCIBLE)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .status()
            .context("make")?;
        ensure!(status.success(), "make {target} fails, see {}", log.display());
        Ok(())
    }
}

/// Moves an image into the cache, to a folder that its hash may name. The rename ensures that an incomplete one is never found
/// there.
fn keep(built: &Path, folder: impl FnOnce(&str) -> PathBuf) -> Result<Kernel> {
    let sha256 = hex(&fs::read(built)?);
    let folder = folder(&sha256);
    fs::create_dir_all(&folder)?;
    let image = folder.join("vmlinux");
    fs::rename(built, &image)?;
    Ok(Kernel { image, sha256 })
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
