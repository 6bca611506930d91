//! The journal: every event of the run, written when it happens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use clone3_conformance::report::{Event, Results};

/// Keeps the events, and appends each to a file if there is one.
pub struct Journal {
    events: Mutex<Vec<Event>>,
    file: Option<File>,
}

impl Journal {
    /// A journal that appends to `path`, if one is given.
    pub fn open(path: Option<&Path>) -> io::Result<Journal> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Journal { events: Mutex::new(Vec::new()), file })
    }

    /// Adds an event: one write of one line, so that a crash cuts off nothing that came before.
    pub fn add(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(|poison| poison.into_inner());
        if let (Some(mut file), Ok(mut line)) = (self.file.as_ref(), serde_json::to_vec(&event)) {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                eprintln!("warning: cannot write to the journal: {error}");
            }
        }
        events.push(event);
    }

    /// All so far, as one document.
    pub fn results(&self) -> Option<Results> {
        let events = self.events.lock().unwrap_or_else(|poison| poison.into_inner());
        Results::from_events(events.iter().cloned())
    }
}

/// Writes the results next to `path` and renames them into place: nobody ever sees half of them.
pub fn write_results(results: &Results, path: &Path) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let mut text = serde_json::to_vec_pretty(results)?;
    text.push(b'\n');
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}
