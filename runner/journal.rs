//! The journal: every event of the run, written when it happens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use clone3_conformance::case;
use clone3_conformance::report::Event;
use clone3_conformance::results::{Claim, Results, write_whole};

/// The minimum time between two updates of the documents. Each update rewrites them, which at every event would cost more than
/// the cases themselves.
const PAUSE: Duration = Duration::from_millis(500);

/// Stores the events, appends each to the file if there is one, and keeps the documents up to date with them.
pub struct Journal {
    written: Mutex<Written>,
    /// Notified when the documents are outdated.
    stale: Condvar,
    /// Held while documents are written, so that an older state never overwrites a newer one.
    pen: Mutex<()>,
    file: Option<File>,
    documents: Vec<PathBuf>,
    /// The command that runs a case again, up to `--exact NAME`.
    pub rerun: String,
}

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    /// Whether the documents are outdated.
    is_stale: bool,
    /// Why an event is missing from the file.
    lost: Option<String>,
    /// Why the last document could not be written.
    error: Option<String>,
}

impl Journal {
    /// Opens a journal that appends to `path`, if given, and starts a thread that keeps `documents` up to date.
    pub fn open(path: Option<&Path>, documents: Vec<PathBuf>, rerun: String) -> Result<Arc<Journal>, String> {
        let append = |path: &Path| {
            appended_to(path)
                .map_err(|error| format!("cannot write the journal to {}: {error}", path.display()))
        };
        let file = path.map(append).transpose()?;
        let journal = Arc::new(Journal {
            written: Mutex::default(),
            stale: Condvar::new(),
            pen: Mutex::default(),
            file,
            documents,
            rerun,
        });
        if !journal.documents.is_empty() {
            let writer = Arc::clone(&journal);
            // If there can be no other thread, the documents are written at the start and at the end.
            let _ = thread::Builder::new().spawn(move || writer.keep_up());
        }
        Ok(journal)
    }

    /// Adds an event, as one line in one write, so that a crash cannot truncate earlier events. The documents include it within
    /// half a second, or immediately when the run starts and ends.
    pub fn add(&self, event: Event) {
        let is_outermost = matches!(event, Event::Run(_) | Event::Done(_));
        self.append(event);
        match is_outermost {
            true => self.write_documents(),
            false => self.stale.notify_one(),
        }
    }

    fn append(&self, event: Event) {
        let mut written = self.lock();
        if let (Some(mut file), Ok(mut line)) = (self.file.as_ref(), serde_json::to_vec(&event)) {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                written.lost.get_or_insert(format!("cannot write to the journal: {error}"));
            }
        }
        written.events.push(event);
        written.is_stale = true;
    }

    /// Writes the documents whenever they are outdated, at most once per [`PAUSE`].
    fn keep_up(&self) {
        loop {
            let is_fresh = |written: &mut Written| !written.is_stale;
            drop(self.stale.wait_while(self.lock(), is_fresh).unwrap_or_else(PoisonError::into_inner));
            self.write_documents();
            thread::sleep(PAUSE);
        }
    }

    /// Updates the documents, if they are outdated.
    fn write_documents(&self) {
        let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = self.lock();
        if !std::mem::take(&mut written.is_stale) || self.documents.is_empty() {
            return;
        }
        let events = written.events.clone();
        // Do not make threads that add events wait for the disk.
        drop(written);
        let error = self.try_write(events).err();
        self.lock().error = error;
    }

    fn try_write(&self, events: Vec<Event>) -> Result<(), String> {
        let text = self.document(events).map(|results| results.to_json()).unwrap_or_default();
        for path in &self.documents {
            write_whole(path, &text)
                .map_err(|error| format!("cannot write the results to {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Returns everything so far as one document.
    pub fn results(&self) -> Option<Results> {
        let events = self.lock().events.clone();
        self.document(events)
    }

    fn document(&self, events: Vec<Event>) -> Option<Results> {
        let mut results = Results::from_events(events)?;
        for record in &mut results.cases {
            if let Some(case) = case::find(&record.case) {
                Claim::from(case).explain(record);
            }
        }
        results.rerun.clone_from(&self.rerun);
        Some(results)
    }

    /// Returns whether no case has ended.
    pub fn is_without_cases(&self) -> bool {
        !self.lock().events.iter().any(|event| matches!(event, Event::End(_)))
    }

    /// Returns why the file or the documents are not up to date, if they are not.
    pub fn error(&self) -> Option<String> {
        let written = self.lock();
        written.lost.clone().or_else(|| written.error.clone())
    }

    /// Locks `written`. A poisoned lock is no problem: a panic cannot leave an event half pushed.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a journal to append to it. If an earlier run was cut short in the middle of a line, this ends that line.
fn appended_to(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    // A journal can also be a serial port, from which nothing can be read back.
    if file.metadata()?.is_file() && is_cut_short(path) {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Returns whether the text of this file, if it may be read, ends in the middle of a line.
fn is_cut_short(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'))
}
