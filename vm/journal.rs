//! Parsing of the runner's journal, as far as the driver needs it.
use clone3_conformance::guest::Exit;
use serde_json::Value;

/// The state that the journal has reported so far.
#[derive(Default)]
pub struct Journal {
    /// Every line, unchanged.
    pub lines: Vec<String>,
    /// Whether the suite's first line has arrived. Nothing before that is caused by the suite.
    pub begun: bool,
    /// The number of CPUs that the suite found.
    pub cpus: Option<u16>,
    /// The cases that have started but not ended.
    pub running: Vec<String>,
    /// How the runner ended, as reported by the guest's init.
    pub exit: Option<Exit>,
}

impl Journal {
    /// Processes the next line.
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
