//! The steps that change the machine for the duration of one row.
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::row::Outside;
use crate::{Result, THIS};

/// The cgroup of rows that use one.
pub const CGROUP: &str = "/sys/fs/cgroup/environment";

/// A completed step, with what is needed to undo it.
enum Done {
    Files(Vec<Changed>),
    /// The name under which snapshots list what stays changed.
    ForGood(&'static str),
    Cgroup {
        controller: &'static str,
        was_on: bool,
    },
    Parts(Vec<Child>),
    /// Exits when its input ends; its exit status says whether a process was signaled.
    Churn(Child),
}

/// A file in `/proc/sys` or `/sys`, with its old and new content.
struct Changed {
    path: PathBuf,
    before: String,
    now: String,
}

/// All completed steps of a row.
pub struct Arrangement(Vec<Done>);

impl Arrangement {
    pub fn make(steps: &[Outside]) -> Result<Arrangement> {
        let mut made = Arrangement(Vec::new());
        for step in steps {
            let done = make(*step)?;
            made.0.push(done);
        }
        Ok(made)
    }

    /// Returns whether a difference is a permanent change that the row makes.
    pub fn stays_changed(&self, difference: &str) -> bool {
        let is_it = |done: &Done| matches!(done, Done::ForGood(name) if difference.starts_with(&format!("sysctl {name} ")));
        self.0.iter().any(is_it)
    }

    /// Undoes all steps in reverse order, and returns what the suite changed or left behind.
    pub fn undo(&mut self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for done in self.0.iter_mut().rev() {
            wrong.extend(undo(done)?);
        }
        Ok(wrong)
    }
}

fn make(step: Outside) -> Result<Done> {
    Ok(match step {
        Outside::Sysctl(name, value) => Done::Files(vec![set(Path::new("/proc/sys").join(name), value)?]),
        Outside::SysctlForGood(name, value) => {
            set(Path::new("/proc/sys").join(name), value)?;
            Done::ForGood(name)
        }
        Outside::OneProcessor => {
            let processors = std::thread::available_parallelism()?.get();
            let online = |cpu| PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
            Done::Files((1..processors).map(|cpu| set(online(cpu), "0")).collect::<Result<_>>()?)
        }
        Outside::Cgroup { controller, file, limit } => {
            let switch = Path::new(CGROUP).with_file_name("cgroup.subtree_control");
            let was_on = fs::read_to_string(&switch)?.split_whitespace().any(|word| word == controller);
            write(&switch, &format!("+{controller}"))?;
            fs::create_dir(CGROUP)?;
            write(&Path::new(CGROUP).join(file), limit)?;
            Done::Cgroup { controller, was_on }
        }
        Outside::Load => {
            let processors = std::thread::available_parallelism()?.get();
            Done::Parts((0..10 * processors).map(|_| part("load")).collect::<Result<_>>()?)
        }
        Outside::SteppingClock => Done::Parts(vec![part("clock")?]),
        Outside::Churn => Done::Churn(part("churn")?),
    })
}

fn undo(done: &mut Done) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    match done {
        Done::ForGood(_) => {}
        Done::Files(files) => {
            for Changed { path, before, now } in files.iter() {
                let left = fs::read_to_string(path)?;
                if left != *now {
                    wrong.push(format!("{} was {now:?}, and is {left:?} now", path.display()));
                }
                write(path, before.trim_end())?;
            }
        }
        Done::Cgroup { controller, was_on } => {
            if let Err(error) = fs::remove_dir(CGROUP) {
                wrong.push(format!("{CGROUP} cannot be removed: {error}"));
            }
            if !*was_on {
                write(
                    &Path::new(CGROUP).with_file_name("cgroup.subtree_control"),
                    &format!("-{controller}"),
                )?;
            }
        }
        Done::Parts(parts) => {
            for part in parts {
                part.kill()?;
                part.wait()?;
            }
        }
        Done::Churn(churn) => {
            drop(churn.stdin.take());
            if !churn.wait()?.success() {
                wrong.push("a process that is not the suite's was signalled".to_owned());
            }
        }
    }
    Ok(wrong)
}

fn set(path: PathBuf, value: &str) -> Result<Changed> {
    let before = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    write(&path, value)?;
    let now = fs::read_to_string(&path)?;
    Ok(Changed { path, before, now })
}

/// Writes with a single write(2), even if the text is empty: that clears a sysctl.
fn write(path: &Path, text: &str) -> Result<()> {
    let line = format!("{text}\n");
    let written =
        fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(line.as_bytes()));
    Ok(written.map_err(|error| format!("{text:?} to {}: {error}", path.display()))?)
}

/// Starts another process of this program.
pub fn part(name: &str) -> Result<Child> {
    let mut command = Command::new(THIS);
    command.args(["part", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command.spawn()?)
}
