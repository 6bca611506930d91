//! Fast builds of mutants: compiles only the edited file, and links it with the rest of the kernel.
//!
//! make would check thousands of files to find the one that changed. Instead, this runs the compiler and the linker directly,
//! with the commands that make has recorded; everything between two files that mutants edit was linked into one object before.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use tempfile::TempDir;

/// The result of a compiler or linker: its error output if it failed.
pub type Outcome<T> = std::result::Result<T, String>;

/// A part of the kernel, in link order.
#[derive(Debug, Eq, PartialEq)]
enum Part {
    /// The object of a source file that mutants edit.
    File { source: String, object: PathBuf },
    /// Everything up to the next such file.
    Rest(PathBuf),
}

/// A built kernel, split into parts.
pub struct Parts {
    tree: PathBuf,
    build: PathBuf,
    parts: Vec<Part>,
    /// The linker's command up to the output's name, and what follows the parts.
    linker: String,
    tail: String,
    folder: TempDir,
    /// The folder itself, locked: an unlocked one is abandoned.
    _in_use: File,
}

const PREFIX: &str = "parts-";

impl Parts {
    /// Splits the kernel in `build` into `files` and the rest; the working folder is created in `scratch`.
    pub fn new(tree: &Path, build: &Path, scratch: &Path, files: &BTreeSet<&str>) -> Result<Self> {
        let members = members(build)?;
        clear_away_abandoned(scratch)?;
        let folder = TempDir::with_prefix_in(PREFIX, scratch)?;
        let in_use = File::open(folder.path())?;
        in_use.lock()?;
        let mut parts = Self {
            tree: tree.to_owned(),
            build: build.to_owned(),
            parts: Vec::new(),
            linker: linker(build)?,
            tail: libraries(build)?,
            folder,
            _in_use: in_use,
        };
        for file in files {
            let object = object(file)?;
            ensure!(members.contains(&object), "{file} is not in this kernel");
        }
        let mut rest: Vec<&str> = Vec::new();
        for member in &members {
            match files.iter().find(|file| object(file).is_ok_and(|object| object == *member)) {
                Some(file) => {
                    parts.join(std::mem::take(&mut rest))?;
                    parts.parts.push(Part::File { source: (*file).to_owned(), object: build.join(member) });
                }
                None => rest.push(member),
            }
        }
        parts.join(rest)?;
        Ok(parts)
    }

    /// Creates a temporary folder, which is removed when dropped.
    pub fn scratch(&self) -> Result<TempDir> {
        Ok(TempDir::new_in(self.folder.path())?)
    }

    /// Links objects that no mutant edits into one.
    fn join(&mut self, members: Vec<&str>) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let joined = self.folder.path().join(format!("rest-{}.o", self.parts.len()));
        let list = joined.with_extension("list");
        fs::write(&list, members.join("\n"))?;
        let command = format!("{} -r -o {} @{}", first_words(&self.linker), joined.display(), list.display());
        self.run(&command)?.map_err(anyhow::Error::msg)?;
        self.parts.push(Part::Rest(joined));
        Ok(())
    }

    /// Compiles `text` in place of a file, with `more` options, and returns the object, which is in `folder`.
    pub fn compile(&self, file: &str, text: &str, folder: &Path, more: &str) -> Result<Outcome<PathBuf>> {
        let object = object(file)?;
        let (edited, target) = (folder.join(file), folder.join(&object));
        let place = edited.parent().context("a file without a folder")?;
        fs::create_dir_all(place)?;
        fs::write(&edited, text)?;
        let original = self.tree.join(file);
        let noted = saved_command(&self.build, &object)?;
        let command = replaced(
            &noted,
            &[
                (original.to_str().context("the tree's path is no text")?, &edited.display().to_string()),
                (&object, &target.display().to_string()),
                (&dependencies(&object), ""),
            ],
        );
        // The file's neighbors are still in the original folder, and messages must name it as if it were there.
        let place = original.parent().context("a file without a folder")?;
        let more =
            format!(" {more} -iquote {} -fmacro-prefix-map={}/= -c -o ", place.display(), folder.display());
        ensure!(command.matches(" -c -o ").count() == 1, "make noted a strange command for {object}");
        Ok(self.run(&command.replace(" -c -o ", &more))?.map(|()| target))
    }

    /// Links the kernel, with these objects in place of those of their files.
    pub fn link(&self, objects: &[(&str, PathBuf)], image: &Path) -> Result<Outcome<()>> {
        let chosen = self.parts.iter().map(|part| match part {
            Part::Rest(object) => object,
            Part::File { source, object } => {
                objects.iter().find(|(file, _)| file == source).map_or(object, |(_, edited)| edited)
            }
        });
        let chosen: Vec<String> = chosen.map(|object| object.display().to_string()).collect();
        let image = image.display();
        self.run(&format!(
            "{} -o {image} --whole-archive {} .vmlinux.export.o init/version-timestamp.o --no-whole-archive {} \
             && scripts/sorttable {image} && strip {image}",
            self.linker,
            chosen.join(" "),
            self.tail,
        ))
    }

    /// Runs a command in the folder in which make would.
    fn run(&self, command: &str) -> Result<Outcome<()>> {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.build)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let failed = machine_failure(output.status.code(), &said);
        ensure!(failed.is_none(), "this machine cannot build it: {}", failed.unwrap_or_default());
        let error = said.lines().find(|line| line.contains("error") || line.contains("undefined"));
        Ok(Err(error.or(said.lines().next()).unwrap_or("no message").to_owned()))
    }
}

/// Returns what prevented a build, if it was this machine and not the text: a full disk, or a program that was killed.
fn machine_failure(status: Option<i32>, said: &str) -> Option<&str> {
    const FAILURES: [&str; 4] =
        ["No space left on device", "signal terminated program", "virtual memory exhausted", "out of memory"];
    let line = said.lines().find(|line| FAILURES.iter().any(|failure| line.contains(failure)));
    line.or_else(|| status.is_none_or(|status| status > 128).then_some("a signal ended it"))
}

/// Returns the objects that the kernel consists of, in link order.
fn members(build: &Path) -> Result<Vec<String>> {
    let list = Command::new("ar").args(["t", "vmlinux.a"]).current_dir(build).output().context("ar")?;
    ensure!(list.status.success(), "ar: {}", String::from_utf8_lossy(&list.stderr));
    Ok(String::from_utf8(list.stdout)?.lines().map(str::to_owned).collect())
}

/// Returns the linker with the options for linking the kernel.
fn linker(build: &Path) -> Result<String> {
    let noted = saved_command(build, "vmlinux.unstripped")?;
    let strings = Regex::new(r#""([^"]*)""#)?;
    let words: Vec<&str> =
        strings.captures_iter(&noted).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    let [program, usual, options, _] = words[..] else {
        anyhow::bail!("make noted a strange command for vmlinux: {noted}")
    };
    Ok(format!("{program} {usual} {options} --script=arch/x86/kernel/vmlinux.lds"))
}

/// Returns the program and the emulation option, which even a partial link needs.
fn first_words(linker: &str) -> String {
    linker.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Returns the libraries that provide the remaining symbols.
fn libraries(build: &Path) -> Result<String> {
    let noted = saved_command(build, "vmlinux.o")?;
    let group = Regex::new("--start-group.*--end-group")?;
    Ok(group.find(&noted).map_or_else(String::new, |found| found.as_str().to_owned()))
}

/// Returns the command that built `target`, as make recorded it in a file beside it.
fn saved_command(build: &Path, target: &str) -> Result<String> {
    let path = build.join(dependencies_file(target, "cmd"));
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    let (_, command) =
        line.split_once(" := ").with_context(|| format!("no command in {}", path.display()))?;
    // Undo make's escaping.
    Ok(command.replace("$$", "$").replace("\\#", "#").replace("$(pound)", "#"))
}

/// Returns the name of a hidden file that belongs to a target.
fn dependencies_file(target: &str, suffix: &str) -> String {
    match target.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}.{suffix}"),
        None => format!(".{target}.{suffix}"),
    }
}

/// Returns the option in make's command that writes the object's dependency file.
fn dependencies(object: &str) -> String {
    format!("-Wp,-MMD,{}", dependencies_file(object, "d"))
}

/// Returns the object of a source file.
fn object(file: &str) -> Result<String> {
    let stem = file.strip_suffix(".c").with_context(|| format!("{file} is no C file"))?;
    Ok(format!("{stem}.o"))
}

/// Returns the command with some of its words replaced.
fn replaced(command: &str, words: &[(&str, &str)]) -> String {
    let replace = |word| words.iter().find(|(old, _)| *old == word).map_or(word, |(_, new)| *new);
    command.split(' ').map(replace).collect::<Vec<_>>().join(" ")
}

/// Removes the folders of interrupted runs.
fn clear_away_abandoned(scratch: &Path) -> Result<()> {
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        let is_one = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_one && File::open(entry.path())?.try_lock().is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_replaced() {
        let command = "cc -Wp,-MMD,a/.b.o.d -I /t/a -c -o a/b.o /t/a/b.c ; objtool a/b.o";
        let words = [("/t/a/b.c", "/x/b.c"), ("a/b.o", "/x/b.o"), ("-Wp,-MMD,a/.b.o.d", "")];
        assert_eq!(replaced(command, &words), "cc  -I /t/a -c -o /x/b.o /x/b.c ; objtool /x/b.o");
    }

    #[test]
    fn a_machine_that_cannot_build_says_nothing_about_the_text() {
        assert_eq!(machine_failure(Some(1), "a.c:1:8: error: expected ';'\n"), None);
        assert_eq!(machine_failure(Some(1), "a.o: undefined reference to `x'\n"), None);
        let full = "/tmp/a.s: fatal error: error writing to /tmp/a.s: No space left on device";
        assert_eq!(machine_failure(Some(1), full), Some(full));
        let killed = "gcc: fatal error: Killed signal terminated program cc1";
        assert_eq!(machine_failure(Some(1), killed), Some(killed));
        assert!(machine_failure(Some(137), "").is_some() && machine_failure(None, "").is_some());
    }

    #[test]
    fn hidden_files_lie_beside_their_targets() {
        assert_eq!(dependencies_file("kernel/fork.o", "cmd"), "kernel/.fork.o.cmd");
        assert_eq!(dependencies_file("vmlinux.o", "cmd"), ".vmlinux.o.cmd");
        assert_eq!(dependencies("kernel/fork.o"), "-Wp,-MMD,kernel/.fork.o.d");
    }
}
