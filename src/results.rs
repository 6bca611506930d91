//! The results of a run as one document, from which comparisons and all reports are made.
//!
//! The format is described in `docs/results.md` and, for programs, in `docs/results.schema.json`.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Strength};
use crate::check::source_path;
use crate::probe::{Clone3State, Features, Privileges};
use crate::report::{Event, Record, SCHEMA, Suite, Verdict};
use crate::taint;

/// A run as one document, in an order that does not depend on which case was faster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Results {
    /// The version of this format.
    pub schema: u32,
    /// The suite that ran.
    pub suite: Suite,
    /// The kernel that it ran on.
    pub kernel: Kernel,
    /// The machine that the kernel ran on.
    pub machine: Machine,
    /// What the probe found; `null` if the run did not get that far.
    pub probe: Option<Found>,
    /// The number of selected cases; `null` if the run did not get that far.
    pub selected: Option<usize>,
    /// The exit status of the runner; `null` while it runs, and if it was cut short.
    pub exit: Option<u8>,
    /// How the virtual machine ended; `null` without one, and while it runs.
    pub guest: Option<Guest>,
    /// The command that runs a case again on this kernel; append `--exact NAME`.
    #[serde(default)]
    pub rerun: String,
    /// The cases that ended, by name.
    pub cases: Vec<Record>,
    /// The cases that had begun and not ended when this was written, by name.
    pub interrupted: Vec<String>,
}

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Kernel {
    /// `uname -r`; of a kernel that did not boot, what its image says.
    pub release: String,
    /// `uname -v`.
    pub version: Option<String>,
    /// `uname -m`.
    pub arch: Option<String>,
    /// The distribution's package, if known.
    pub package: Option<Package>,
    /// `/proc/sys/kernel/tainted`.
    pub tainted: Tainted,
}

/// A package of a distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The suite of the archive that it came from.
    pub suite: String,
}

/// `/proc/sys/kernel/tainted` before and after the run, where it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tainted {
    /// Before the first use of the flags.
    pub before: Option<u64>,
    /// After the last.
    pub after: Option<u64>,
}

/// The machine that a kernel ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Machine {
    /// What booted the kernel: `virtme-ng` or `QEMU`; `null` if it was running already.
    pub engine: Option<String>,
    /// What ran the guest's instructions: `kvm` or `tcg`; `null` if unknown.
    pub accelerator: Option<String>,
    /// The number of CPUs that the suite may use: all that are online, or those of its affinity mask and cgroup.
    pub cpus: Option<usize>,
    /// The guest's memory, in MiB.
    pub memory_mib: Option<u64>,
    /// Whether the CPU says that it is emulated.
    pub emulated: Option<bool>,
}

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Found {
    /// clone3 itself.
    pub clone3: Clone3State,
    /// The kernel's features.
    pub features: Features,
    /// The caller's privileges.
    pub privileges: Privileges,
}

/// How a virtual machine ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Guest {
    /// The exit status of the whole run.
    pub status: u8,
    /// Why there is no verdict, if there is none.
    pub no_verdict: Option<NoVerdict>,
    /// What the kernel reported about itself while the suite ran.
    pub faults: Vec<Fault>,
    /// From power-on to the suite's first line, in seconds.
    #[serde(default)]
    pub boot_seconds: Option<f64>,
    /// From power-on to the end, in seconds.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// Why a run has no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NoVerdict {
    /// The stage that failed: `kernel`, `machine`, `build`, `boot` or `run`.
    pub stage: String,
    /// What happened there.
    pub why: String,
}

/// Something that a kernel reported about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Fault {
    /// Its kind: `oops`, `warning`, …
    pub fault: String,
    /// The cases that were running.
    pub running: Vec<String>,
    /// What the console said.
    pub console: Vec<String>,
}

/// What is known about a claim without running it on a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The case that checks it. Its name is also the ID of the claim.
    pub case: String,
    /// The theme: the name of the source file that declares the case.
    pub theme: String,
    /// The claim itself.
    pub claim: String,
    /// The source of the claim.
    pub source: String,
    /// What a failure means.
    pub strength: Strength,
    /// The needs of the case, as `--describe` prints them.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The first kernel series for which the claim is true, if that is known.
    pub since: Option<String>,
    /// `file:line` of the declaration.
    pub declared: String,
}

impl From<&Case> for Claim {
    fn from(case: &Case) -> Claim {
        Claim {
            case: case.name.to_owned(),
            theme: case.theme().to_owned(),
            claim: case.claim(),
            source: case.source.to_owned(),
            strength: case.strength,
            needs: case.needs.iter().map(|need| need.name().to_owned()).collect(),
            since: case.first_kernel().map(str::to_owned),
            declared: format!("{}:{}", source_path(case.file), case.line),
        }
    }
}

impl Claim {
    /// Adds the claim's description to the case's record.
    pub fn explain(&self, record: &mut Record) {
        record.claim.clone_from(&self.claim);
        record.source.clone_from(&self.source);
        record.since.clone_from(&self.since);
        record.declared.clone_from(&self.declared);
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |part: &Option<String>| part.as_ref().map_or_else(String::new, |part| format!(" {part}"));
        write!(f, "Linux {}{}{}", self.release, known(&self.version), known(&self.arch))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.engine.clone());
        parts.extend(self.accelerator.as_ref().map(|name| name.to_uppercase()));
        parts.extend(self.cpus.map(|count| format!("{count} CPUs")));
        parts.extend(self.memory_mib.map(|memory| format!("{memory} MiB")));
        f.write_str(&parts.join(", "))
    }
}

impl Results {
    /// Returns the errors that the kernel recorded in its taint flags during the run. In a guest the console
    /// is read instead, because it says more.
    pub fn complaints(&self) -> Vec<&'static str> {
        match (&self.guest, &self.kernel.tainted) {
            (None, Tainted { before: Some(before), after: Some(after) }) => {
                taint::complaints(*before, *after)
            }
            _ => Vec::new(),
        }
    }

    /// Builds the results from the events of a run, the last one if there are several. Returns `None` if none began.
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> Option<Results> {
        let mut results: Option<Results> = None;
        let mut running: Vec<String> = Vec::new();
        let mut cases: Vec<Record> = Vec::new();
        let (mut exit, mut after) = (None, None);
        for event in events {
            match event {
                Event::Run(header) => {
                    (running, cases) = Default::default();
                    (exit, after) = (None, None);
                    results = Some(Results {
                        schema: header.schema,
                        suite: header.suite,
                        kernel: Kernel {
                            release: header.probe.release,
                            version: Some(header.probe.version),
                            arch: Some(header.probe.machine),
                            package: None,
                            tainted: Tainted { before: header.tainted, after: None },
                        },
                        machine: Machine {
                            cpus: Some(header.cpus),
                            emulated: Some(header.probe.emulated),
                            ..Machine::default()
                        },
                        probe: Some(Found {
                            clone3: header.probe.clone3,
                            features: header.probe.features,
                            privileges: header.probe.privileges,
                        }),
                        selected: Some(header.selected),
                        ..Results::default()
                    });
                }
                Event::Start { case } => running.push(case),
                Event::End(record) => {
                    running.retain(|name| *name != record.case);
                    cases.push(record);
                }
                Event::Done(footer) => (exit, after) = (Some(footer.exit), footer.tainted),
            }
        }
        let mut results = results?;
        cases.sort_by(|a, b| a.case.cmp(&b.case));
        running.sort();
        results.kernel.tainted.after = after;
        Some(Results { cases, interrupted: running, exit, ..results })
    }

    /// Like [`Results::from_events`], from the lines of a journal. A truncated last line is ignored.
    pub fn from_journal(journal: &str) -> Option<Results> {
        Results::from_events(journal.lines().filter_map(|line| serde_json::from_str(line).ok()))
    }

    /// Parses a document, or the journal of a run that was cut short.
    ///
    /// # Errors
    /// A one-line description of what is wrong with the text.
    pub fn parse(text: &str) -> Result<Results, String> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let journal = Results::from_journal(text);
        let schema = match &journal {
            Some(results) => results.schema,
            None => {
                let version: Version = serde_json::from_str(text)
                    .map_err(|error| format!("these are no results of this suite: {error}"))?;
                version.schema
            }
        };
        if schema != SCHEMA {
            return Err(format!(
                "results of format {schema}; this version of the suite reads format {SCHEMA}"
            ));
        }
        match journal {
            Some(results) => Ok(results),
            None => {
                serde_json::from_str(text).map_err(|error| format!("these are no whole results: {error}"))
            }
        }
    }

    /// Adds to every case the description of its claim.
    pub fn explain(&mut self, claims: &[Claim]) {
        for record in &mut self.cases {
            if let Some(claim) = claims.iter().find(|claim| claim.case == record.case) {
                claim.explain(record);
            }
        }
    }

    /// Returns the number of cases with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|record| record.verdict == verdict).count()
    }

    /// Returns the number of cases with this verdict that was not expected.
    pub fn count_unexpected(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|record| record.verdict == verdict && !record.is_expected()).count()
    }

    /// Summarizes the verdicts and their counts: `267 pass, 5 known defect, 1 expected fail`.
    pub fn totals(&self) -> String {
        let counts = |verdict| {
            let unexpected = self.count_unexpected(verdict);
            let expected = self.count(verdict) - unexpected;
            [(unexpected, verdict.to_string()), (expected, format!("expected {verdict}"))]
        };
        let interrupted = (self.interrupted.len(), "interrupted".to_owned());
        let unexpected = self.cases.iter().filter(|record| record.passed_unexpectedly()).count();
        let others = [interrupted, (unexpected, "passed unexpectedly".to_owned())];
        let parts: Vec<String> = Verdict::ALL
            .into_iter()
            .flat_map(counts)
            .chain(others)
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        if parts.is_empty() { "no case ended".to_owned() } else { parts.join(", ") }
    }

    /// Returns the command that runs one case again on this kernel.
    pub fn rerun(&self, case: &str) -> String {
        format!("{} --exact {case}", self.rerun)
    }

    /// Returns the document as JSON text.
    pub fn to_json(&self) -> String {
        // A structure of strings, numbers and lists can always be serialized.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Writes a temporary file next to `path` and renames it into place, so that no reader ever sees a partial
/// file. If `path` exists and is not a regular file (a symbolic link, or a device such as `/dev/null`), it is
/// written to directly.
///
/// # Errors
/// Errors of the file system.
pub fn write_whole(path: &Path, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, bytes);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new();
    let file = file.prefix(".results-").permissions(readable);
    let mut file = file.tempfile_in(folder).map_err(without_path)?;
    file.write_all(bytes.as_ref()).map_err(without_path)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Removes the temporary file's name, which says nothing to the user and which tempfile appends, from an error.
fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((why, _)) => io::Error::new(error.kind(), why),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Probe;
    use crate::report::{Footer, Header};

    fn begun() -> Event {
        Event::Run(Header {
            schema: SCHEMA,
            suite: Suite::default(),
            probe: Probe::run(),
            tainted: Some(0),
            cpus: 2,
            selected: 3,
        })
    }

    fn ended(case: &str) -> Event {
        Event::End(Record { case: case.to_owned(), ..Record::default() })
    }

    fn started(case: &str) -> Event {
        Event::Start { case: case.to_owned() }
    }

    #[test]
    fn a_run_that_is_cut_short_keeps_what_ended_and_names_what_ran() {
        let events = [begun(), started("b"), started("c"), started("a"), ended("b"), ended("a")];
        let results = Results::from_events(events).unwrap();
        let names: Vec<&str> = results.cases.iter().map(|record| record.case.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(results.interrupted, ["c"]);
        assert_eq!((results.exit, results.selected), (None, Some(3)));
    }

    #[test]
    fn of_several_runs_the_last_counts() {
        let done = Event::Done(Footer { exit: 0, tainted: Some(1) });
        let first = [begun(), started("a"), ended("a"), started("b"), done];
        let last = [begun(), started("a"), ended("a"), started("c")];
        let both = first.into_iter().chain(last.clone());
        assert_eq!(Results::from_events(both), Results::from_events(last));
    }

    #[test]
    fn the_order_of_events_does_not_show() {
        let done = || Event::Done(Footer { exit: 0, tainted: Some(1) });
        let one = [begun(), started("a"), started("b"), ended("a"), ended("b"), done()];
        let other = [begun(), started("b"), ended("b"), started("a"), ended("a"), done()];
        let text = |events| Results::from_events(events).map(|results| results.to_json());
        assert_eq!(text(Vec::from(one)), text(Vec::from(other)));
    }

    #[test]
    fn a_document_and_a_torn_journal_are_read() {
        let events = [begun(), started("a"), ended("a"), started("b")];
        let results = Results::from_events(events.clone()).unwrap();
        assert_eq!(Results::parse(&results.to_json()), Ok(results.clone()));
        let mut journal: String =
            events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        journal.push_str("{\"event\":\"end\",\"ca");
        assert_eq!(Results::parse(&journal), Ok(results));
    }

    #[test]
    fn what_is_no_document_is_refused_in_one_line() {
        let newer = r#"{"schema": 2, "everything": "else"}"#;
        let newer_journal = serde_json::to_string(&begun()).unwrap().replace("\"schema\":1", "\"schema\":2");
        let half = r#"{"schema": 1, "suite": {}}"#;
        for (text, expected) in [
            ("", "no results"),
            ("[]", "no results"),
            (newer, "format 2"),
            (newer_journal.as_str(), "format 2"),
            (half, "no whole results"),
        ] {
            let error = Results::parse(text).unwrap_err();
            assert!(error.contains(expected) && error.lines().count() == 1, "{text}: {error}");
        }
    }

    #[test]
    fn the_schema_file_is_what_the_types_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results.schema.json");
        let schema = schemars::schema_for!(Results);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let told = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(told == text, "run: UPDATE_SCHEMA=1 cargo test --lib schema_file");
    }
}
