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

/// How long the documents are left alone after they were written. Each time they are written whole: with every event, that would
/// cost more than the cases themselves.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps the events, appends each to a file if there is one, and keeps documents up to date with them.
pub struct Journal {
    written: Mutex<Written>,
    /// Told when documents are out of date.
    stale: Condvar,
    /// Held while documents are written, so that an older state never comes after a newer one.
    pen: Mutex<()>,
    file: Option<File>,
    documents: Vec<PathBuf>,
    /// The command that runs a case again, up to `--exact NAME`.
    pub rerun: String,
}

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    /// Whether the documents are out of date.
    is_stale: bool,
    /// Why an event is missing in the file.
    lost: Option<String>,
    /// Why the last document could not be written.
    error: Option<String>,
}

impl Journal {
    /// A journal that appends to `path`, if one is given, and keeps `documents` up to date, from a thread of its own.
    pub fn open(path: Option<&Path>, documents: Vec<PathBuf>, rerun: String) -> io::Result<Arc<Journal>> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
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
            // Where there may be no further thread, the documents are written at the beginning and at the end.
            let _ = thread::Builder::new().spawn(move || writer.keep_up());
        }
        Ok(journal)
    }

    /// Adds an event: one write of one line, so that a crash cuts off nothing that came before. Documents have it within half a
    /// second; when the run begins and when it ends, at once.
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

    /// Writes the documents whenever they are out of date, and not too often.
    fn keep_up(&self) {
        loop {
            let is_fresh = |written: &mut Written| !written.is_stale;
            drop(self.stale.wait_while(self.lock(), is_fresh).unwrap_or_else(PoisonError::into_inner));
            self.write_documents();
            thread::sleep(PAUSE);
        }
    }

    /// Brings the documents up to date, if they are not.
    fn write_documents(&self) {
        let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut written = self.lock();
        if !std::mem::take(&mut written.is_stale) || self.documents.is_empty() {
            return;
        }
        let events = written.events.clone();
        // Nobody who has something to tell waits for the disk.
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

    /// All so far, as one document.
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

    /// Whether no case has ended.
    pub fn is_without_cases(&self) -> bool {
        !self.lock().events.iter().any(|event| matches!(event, Event::End(_)))
    }

    /// Why the file or the documents are not up to date, if they are not.
    pub fn error(&self) -> Option<String> {
        let written = self.lock();
        written.lost.clone().or_else(|| written.error.clone())
    }

    /// A poisoned lock guards nothing half done: the events are pushed whole.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
