//! The journal: every event of the run, written when it happens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clone3_conformance::case;
use clone3_conformance::report::Event;
use clone3_conformance::results::{Claim, Results, write_whole};

/// Keeps the events, appends each to a file if there is one, and keeps documents up to date with them.
pub struct Journal {
    written: Mutex<Written>,
    file: Option<File>,
    documents: Vec<PathBuf>,
    /// The command that runs a case again, up to `--exact NAME`.
    pub rerun: String,
}

#[derive(Default)]
struct Written {
    events: Vec<Event>,
    /// Why an event is missing in the file.
    lost: Option<String>,
    /// Why the last document could not be written.
    error: Option<String>,
}

impl Journal {
    /// A journal that appends to `path`, if one is given, and writes `documents` anew with every event.
    pub fn open(path: Option<&Path>, documents: Vec<PathBuf>, rerun: String) -> io::Result<Journal> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Journal { written: Mutex::default(), file, documents, rerun })
    }

    /// Adds an event: one write of one line, so that a crash cuts off nothing that came before.
    pub fn add(&self, event: Event) {
        let mut written = self.lock();
        if let (Some(mut file), Ok(mut line)) = (self.file.as_ref(), serde_json::to_vec(&event)) {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                written.lost.get_or_insert(format!("cannot write to the journal: {error}"));
            }
        }
        written.events.push(event);
        if !self.documents.is_empty() {
            written.error = self.write_documents(&written.events).err();
        }
    }

    fn write_documents(&self, events: &[Event]) -> Result<(), String> {
        let text = self.document(events).map(|results| results.to_json()).unwrap_or_default();
        for path in &self.documents {
            write_whole(path, &text)
                .map_err(|error| format!("cannot write the results to {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// All so far, as one document.
    pub fn results(&self) -> Option<Results> {
        self.document(&self.lock().events)
    }

    fn document(&self, events: &[Event]) -> Option<Results> {
        let mut results = Results::from_events(events.iter().cloned())?;
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
