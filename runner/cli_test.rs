//! Tests of the runner's command line: options, exit status and output.
#![forbid(unsafe_code)]

mod command;

use command::{run, status, stderr, stdout};

/// A case that every build of the suite has, and that needs only the flag.
const CASE: &str = "autoreap_without_pidfd";

/// Returns whether the running kernel has a feature, according to `--list-features`.
fn kernel_has(feature: &str) -> bool {
    let features = stdout(&run(&["--list-features"]));
    let line = features.lines().find(|line| line.starts_with(feature)).expect("the feature is listed");
    line.ends_with(" yes")
}

#[test]
fn a_case_is_selected_by_name() {
    let output = run(&["--exact", CASE]);
    assert_eq!(status(&output), 0, "{}", stdout(&output));
    let verdict = if kernel_has("CLONE_AUTOREAP") { "1 pass" } else { "1 unsupported" };
    assert!(stdout(&output).contains(verdict), "{}", stdout(&output));
}

#[test]
fn a_kernel_without_the_flags_passes_no_case_of_theirs() {
    if kernel_has("CLONE_AUTOREAP") {
        return;
    }
    let output = run(&["autoreap_", "--test-threads=1"]);
    let text = stdout(&output);
    assert_eq!(status(&output), 0, "{text}");
    assert!(text.contains("has no CLONE_AUTOREAP"), "{text}");
    assert!(!text.contains("... ok"), "{text}");
}

#[test]
fn what_is_required_and_missing_fails() {
    let output = run(&["--require", "autoreap,nnp", "--exact", CASE]);
    let expected = if kernel_has("CLONE_AUTOREAP") { 0 } else { 1 };
    assert_eq!(status(&output), expected, "{}", stdout(&output));
}

/// The claim is true since 7.2, and kernels since 6.16 can be asked about it.
#[test]
fn the_claims_of_a_named_linux_apply() {
    let words = ["--strict", "--exact", "pidfd_info_coredump_zombie"];
    let by_its_release = stdout(&run(&words));
    let as_newer = run(&[&words[..], &["--as-linux", "7.2"]].concat());
    let text = stdout(&as_newer);
    let is_too_old = by_its_release.contains("ignored (unsupported: true since Linux 7.2;");
    assert_eq!(status(&as_newer), i32::from(is_too_old), "{by_its_release}{text}");
    assert!(text.contains(", judged as 7.2: "), "{text}");
    assert_eq!(
        text.contains("--strict --as-linux 7.2 --exact pidfd_info_coredump_zombie"),
        is_too_old,
        "{text}"
    );
}

#[test]
fn selecting_nothing_is_an_error_of_its_own() {
    let output = run(&["no_such_case"]);
    assert_eq!(status(&output), 4);
    assert!(stderr(&output).contains("no case is selected"), "{}", stderr(&output));
    // Only benchmarks, and there are none.
    let output = run(&["--bench", "--exact", CASE]);
    assert_eq!(status(&output), 4, "{}", stdout(&output));
    assert!(stderr(&output).contains("no selected case is to run"), "{}", stderr(&output));
}

#[test]
fn bad_usage_is_told_in_words() {
    for arguments in [
        &["--repeat", "0"][..],
        &["--require", "all,of,it"],
        &["--timeout-scale", "-1"],
        &["--timeout-scale", "1e19"],
        &["--stress", "4294967295"],
        &["--timeout-scale", "1e-9"],
        &["--test-threads", "0"],
        &["--format", "junit", "--logfile", "log"],
        &["--format", "ktap", "--list"],
        &["--results", "r.json", "--claims", "json"],
        &["--speed", "--report", "r.xml"],
        &["--list-features", "--claims", "json"],
        &["--as-linux", "my-kernel"],
    ] {
        let output = run(arguments);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn an_empty_variable_is_none() {
    let with = |value: &str| {
        let mut runner = std::process::Command::new(command::RUNNER);
        runner.env("CLONE3_CONFORMANCE_REQUIRE", value).env("CLONE3_CONFORMANCE_TIMEOUT_SCALE", "");
        runner.args(["--exact", CASE]).output().expect("the runner starts")
    };
    assert_eq!(status(&with("")), 0, "{}", stderr(&with("")));
    assert_eq!(status(&with("everything")), 2);
}

/// vm/run.sh asks for the events of whatever it starts.
#[test]
fn what_is_no_run_has_no_events_and_is_done() {
    for arguments in [&["--list"][..], &["--list-features"], &["--claims", "json"], &["--describe", CASE]] {
        let output = run(&[&["--events", "/dev/null"], arguments].concat());
        assert_eq!(status(&output), 0, "{arguments:?}: {}", stderr(&output));
        assert!(!stdout(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named_in_one_line() {
    let nowhere = "/proc/self/there/is/none.md";
    for option in ["--events", "--results", "--report", "--logfile"] {
        let output = run(&["--exact", CASE, option, nowhere]);
        let said = stderr(&output);
        assert_eq!(status(&output), 3, "{option}: {said}");
        assert!(said.starts_with("error: cannot write ") && said.contains(nowhere), "{option}: {said}");
        assert_eq!(said.lines().count(), 1, "{option}: {said}");
    }
}

#[test]
fn help_says_what_the_program_is_and_how_it_ends() {
    let text = stdout(&run(&["--help"]));
    for part in ["Conformance tests for CLONE_AUTOREAP", "Exit status: 0 all good", "--repeat <N>"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_case_describes_itself() {
    let output = run(&["--describe", CASE]);
    let text = stdout(&output);
    for part in
        ["claim ", "strength      MUST", "source ", "needs         CLONE_AUTOREAP", "since         Linux 7.1"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let unknown = run(&["--describe", "without_pidfd"]);
    assert_eq!(status(&unknown), 2);
    assert!(stderr(&unknown).contains(&format!("did you mean {CASE}")), "{}", stderr(&unknown));
    let misspelled = run(&["--describe", &CASE.replace("without", "witout")]);
    assert!(stderr(&misspelled).contains(CASE), "{}", stderr(&misspelled));
    let vague = run(&["--describe", "autokill"]);
    assert!(stderr(&vague).contains(" names contain it; --list shows all"), "{}", stderr(&vague));
}

#[test]
fn names_are_listed_as_libtest_does() {
    let text = stdout(&run(&["--list", "--format", "terse"]));
    assert!(text.lines().any(|line| line == format!("{CASE}: test")), "{text}");
}

#[test]
fn repeats_and_slowest_cases_are_shown() {
    let text = stdout(&run(&["--exact", CASE, "--repeat", "3", "--durations", "1"]));
    assert!(text.contains("failures") && text.contains("slowest 1:"), "{text}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let pipe = std::io::pipe().expect("a pipe");
    let mut command = std::process::Command::new(command::RUNNER);
    let child =
        command.args(["--claims", "markdown"]).stdout(pipe.1).stderr(std::process::Stdio::piped()).spawn();
    drop((pipe.0, command));
    let output = child.expect("the runner starts").wait_with_output().expect("it ends");
    assert_eq!((status(&output), &stderr(&output)[..]), (0, ""));
}

/// The sources of a MUST, on which programs can rely: a commit message, a mail, a manual page, a UAPI header, the kernel's
/// documentation, the kernel's own selftest, or a quoted kernel comment.
const DOCUMENTS: &str = r#"(?x) \bcommits?\ " | \bLKML\b | \(\d(const)?\) | include/uapi/ | Documentation/ | pull\ request
    | selftest | \("[A-Za-z] | \bPOSIX\b"#;

#[test]
fn whoever_says_must_names_a_document() {
    let claims: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["--claims", "json"]))).expect("claims are JSON");
    let documents = regex::Regex::new(DOCUMENTS).expect("the pattern is one");
    let claims = claims.as_array().expect("claims are a list");
    assert!(claims.iter().any(|claim| claim["strength"] == "MUST"), "no claim is a MUST");
    let undocumented = |claim: &&serde_json::Value| {
        claim["strength"] == "MUST"
            && !documents.is_match(claim["source"].as_str().expect("a source is text"))
    };
    let names: Vec<_> = claims.iter().filter(undocumented).map(|claim| &claim["case"]).collect();
    assert!(names.is_empty(), "these are MUST and name no document, so they are IS: {names:?}");
}

#[test]
fn a_known_defect_breaks_a_promise() {
    let claims = stdout(&run(&["--claims", "markdown"]));
    let defects: Vec<_> = claims.lines().filter(|row| row.contains("*Known defect: ")).collect();
    assert!(!defects.is_empty(), "no claim has a known defect");
    let observed: Vec<_> = defects.iter().filter(|row| !row.contains("| MUST |")).collect();
    assert!(
        observed.is_empty(),
        "what mainline breaks cannot be what was observed in mainline: {observed:?}"
    );
}
