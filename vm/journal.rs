//! The runner's journal of events, as far as the driver has to understand it.
use clone3_conformance::guest::Exit;
use serde_json::Value;

/// What the journal has said so far.
#[derive(Default)]
pub struct Journal {
    /// Every line, as it came.
    pub lines: Vec<String>,
    /// Whether the suite's first line has come: before it, nothing is the suite's doing.
    pub begun: bool,
    /// How many processors it found there.
    pub cpus: Option<u16>,
    /// The cases that have started and not ended.
    pub running: Vec<String>,
    /// How the runner ended, as the guest's init saw it.
    pub exit: Option<Exit>,
}

impl Journal {
    /// Takes the next line.
    pub fn push(&mut self, line: String) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { return };
        let case = || event["case"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("run") => {
                self.begun = true;
                self.cpus = event["cpus"].as_u64().and_then(|cpus| cpus.try_into().ok());
            }
            Some("start") => self.running.push(case()),
            Some("end") => {
                let case = case();
                if let Some(at) = self.running.iter().position(|running| *running == case) {
                    self.running.remove(at);
                }
            }
            Some("exit") => self.exit = serde_json::from_value(event).ok(),
            _ => {}
        }
        self.lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_that_was_running_is_the_start_without_an_end() {
        let mut journal = Journal::default();
        for line in [
            r#"{"event":"run","schema":1,"cpus":2}"#,
            r#"{"event":"start","case":"a"}"#,
            r#"{"event":"start","case":"b"}"#,
            r#"{"event":"end","case":"a","verdict":"pass"}"#,
        ] {
            journal.push(line.to_owned());
        }
        assert!(journal.begun);
        assert_eq!(journal.cpus, Some(2));
        assert_eq!(journal.running, ["b"]);
        assert_eq!(journal.exit, None);
    }

    #[test]
    fn the_exit_is_what_init_writes() {
        let exit = Exit { status: Some(4), signal: None };
        let mut journal = Journal::default();
        journal.push(serde_json::to_string(&exit).unwrap());
        assert_eq!(journal.exit, Some(exit));
    }

    #[test]
    fn a_torn_line_is_left_out() {
        let mut journal = Journal::default();
        journal.push(r#"{"event":"start","ca"#.to_owned());
        assert!(journal.lines.is_empty());
    }
}
