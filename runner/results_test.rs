//! Tests of results, reports, comparisons and expected failures, through the command line and the files that it writes.
#![forbid(unsafe_code)]

mod command;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clone3_conformance::expect;
use clone3_conformance::need::Need;
use clone3_conformance::report::{Record, SCHEMA, Verdict};
use clone3_conformance::results::{Claim, Kernel, Results};
use tempfile::TempDir;

use command::{RUNNER, run, status, stderr, stdout};

/// A case that needs only the flag, and so is unsupported or passes.
const CASE: &str = "autoreap_without_pidfd";
/// A case that passes on every kernel.
const PASSING: &str = "abi_size_small_einval";

/// The files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("the file can be written");
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn results(&self, name: &str) -> Results {
        Results::parse(&self.read(name)).expect("results")
    }
}

/// Panics with all violations unless the text conforms to docs/results.schema.json.
fn assert_valid(text: &str) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results.schema.json");
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    let schema = compiler
        .compile(schema.to_str().expect("a plain path"), &mut schemas)
        .expect("the schema is correct");
    let document = serde_json::from_str(text).expect("JSON");
    if let Err(error) = schemas.validate(&document, schema) {
        panic!("{error:#}");
    }
}

#[test]
fn results_are_as_the_schema_and_the_journal_say() {
    let files = Files::new();
    let (results, journal) = (files.path("r.json"), files.path("r.jsonl"));
    let output = run(&["--case", &format!("{CASE},{PASSING}"), "--results", &results, "--events", &journal]);
    assert_eq!(status(&output), 0, "{}", stdout(&output));
    assert_valid(&files.read("r.json"));
    let whole = files.results("r.json");
    let names: Vec<&str> = whole.cases.iter().map(|record| record.case.as_str()).collect();
    assert_eq!(names, [PASSING, CASE]);
    assert!(whole.interrupted.is_empty() && whole.exit == Some(0) && whole.selected == Some(2));
    assert!(whole.cases.iter().all(|record| !record.claim.is_empty() && !record.source.is_empty()));
    assert!(whole.rerun(CASE).ends_with(" --exact autoreap_without_pidfd"), "{}", whole.rerun);
    // The journal has everything except what the claims add.
    let mut told = files.results("r.jsonl");
    told.rerun.clone_from(&whole.rerun);
    for (record, explained) in told.cases.iter_mut().zip(&whole.cases) {
        record.claim.clone_from(&explained.claim);
        record.source.clone_from(&explained.source);
        record.since.clone_from(&explained.since);
        record.declared.clone_from(&explained.declared);
    }
    assert_eq!(told, whole);
}

#[test]
fn the_schema_refuses_what_is_not_as_it_says() {
    let files = Files::new();
    run(&["--exact", PASSING, "--results", &files.path("r.json")]);
    let text = files.read("r.json");
    for (right, wrong) in [
        (r#""verdict": "pass""#, r#""verdict": "fine""#),
        (r#""schema": 1"#, r#""schema": "1""#),
        (r#""runs": 1"#, r#""runs": -1"#),
        (r#""strength": ""#, r#""strongth": ""#),
    ] {
        let text = text.replacen(right, wrong, 1);
        assert!(text.contains(wrong) && std::panic::catch_unwind(|| assert_valid(&text)).is_err(), "{wrong}");
    }
}

#[test]
fn the_same_run_gives_the_same_bytes_but_for_times() {
    let files = Files::new();
    let text = |name: &str, threads: &str| {
        run(&["abi_size_", "--test-threads", threads, "--report", &files.path(name)]);
        let mut results = files.results(name);
        for record in &mut results.cases {
            (record.seconds, record.slowest_seconds) = (0.0, 0.0);
        }
        results.to_json()
    };
    assert_eq!(text("one.json", "1"), text("many.json", "8"));
}

#[test]
fn a_harness_that_is_killed_loses_nothing_and_marks_what_was_running() {
    let files = Files::new();
    let cases = format!("{CASE},{PASSING}");
    // The second of the two runs forever.
    let mut harness = Command::new(RUNNER)
        .args(["--case", &cases, "--test-threads=1", "--repeat=1000000", "--results", &files.path("r.json")])
        .stdout(Stdio::null())
        .spawn()
        .expect("the runner starts");
    let running = || fs::read_to_string(files.path("r.json")).ok().map(|text| Results::parse(&text));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !matches!(running(), Some(Ok(results)) if !results.interrupted.is_empty()) {
        assert!(Instant::now() < deadline, "no case ever runs");
        std::thread::yield_now();
    }
    harness.kill().expect("the runner can be killed");
    harness.wait().expect("the runner can be reaped");
    assert_valid(&files.read("r.json"));
    let results = files.results("r.json");
    assert_eq!((results.exit, results.interrupted.len()), (None, 1), "{results:?}");
    let left: Vec<PathBuf> = fs::read_dir(files.0.path())
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name != "r.json"))
        .collect();
    assert!(left.len() <= 1, "more than the one file that was being written: {left:?}");
}

/// A file that is not a regular file receives one document after another.
#[test]
fn documents_are_written_now_and_then_and_at_last() {
    let files = Files::new();
    let path = files.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()), "no pipe");
    let mut pipe = fs::File::options().read(true).write(true).open(&path).expect("our end");
    let mut told = BufReader::new(pipe.try_clone().expect("our end, again"));
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        told.read_until(0, &mut text).expect("the pipe can be read");
        String::from_utf8_lossy(&text).into_owned()
    });
    let start = Instant::now();
    let output = run(&["abi_", "--results", &path]);
    let halves = start.elapsed().as_millis() / 500;
    pipe.write_all(&[0]).expect("the reader can be told of the end");
    let text = reader.join().expect("the reader ends");
    let documents: Vec<&str> = text.split_inclusive("\n}\n").filter(|part| *part != "\0").collect();
    let most = 3 + usize::try_from(halves).expect("no test takes that long");
    assert!((2..=most).contains(&documents.len()), "{} documents, not {most}", documents.len());
    let last = Results::parse(documents[documents.len() - 1]).expect("a whole document");
    assert_eq!(last.exit, output.status.code().and_then(|code| u8::try_from(code).ok()));
    assert_eq!(Some(last.cases.len()), last.selected);
}

#[test]
fn results_that_cannot_be_written_are_an_error_before_any_case() {
    for option in ["--results", "--report"] {
        let output = run(&["--exact", CASE, option, "/nowhere/r.json"]);
        assert_eq!(status(&output), 3);
        assert!(stderr(&output).contains("/nowhere/r.json"), "{}", stderr(&output));
        assert!(!stdout(&output).contains(CASE), "{}", stdout(&output));
    }
}

#[test]
fn reports_go_where_their_names_say() {
    let files = Files::new();
    let names = ["r.json", "r.xml", "r.ktap", "r.html", "r.md"];
    let mut arguments = vec!["--exact".to_owned(), PASSING.to_owned()];
    for name in names {
        arguments.extend(["--report".to_owned(), files.path(name)]);
    }
    let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    for (name, beginning) in names.iter().zip(["{", "<?xml", "KTAP version 1", "<!DOCTYPE html>", "# Linux"])
    {
        assert!(files.read(name).starts_with(beginning), "{name}: {}", files.read(name));
    }
    let output = run(&["--exact", PASSING, "--report", "r.txt"]);
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains(".json, .xml, .ktap, .html or .md"), "{}", stderr(&output));
}

#[test]
fn formats_for_tools_are_all_that_is_printed() {
    let print = |format: &str| stdout(&run(&["abi_size_", "--format", format]));
    let ktap = print("ktap");
    assert!(ktap.starts_with("KTAP version 1\n1..1\n") && ktap.ends_with("ok 1 arguments\n"), "{ktap}");
    let junit = print("junit");
    assert!(junit.starts_with("<?xml") && junit.trim_end().ends_with("</testsuites>"), "{junit}");
    // libtest's own events, one JSON object per line, as cargo and similar tools read them.
    let events = print("json");
    let is_event = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).is_ok_and(|event| event["type"].is_string())
    };
    assert!(events.lines().count() > 3 && events.lines().all(is_event), "{events}");
    assert!(print("terse").contains("test result: ok"));
    assert_eq!(status(&run(&["--format", "yaml"])), 2);
}

/// The kernel's own parser is in its source, which `vm/mutants.sh` keeps in the cache. Without it, nothing is tested.
#[test]
fn the_kernels_own_parser_reads_ktap() {
    let cache = std::env::home_dir().expect("a home").join(".cache/clone3-conformance/linux-source-7.3");
    let parser = cache.join("tools/testing/kunit/kunit.py");
    if !parser.exists() {
        eprintln!("not tested: no kernel source at {}", cache.display());
        return;
    }
    let files = Files::new();
    let cases = format!("{CASE},{PASSING}");
    run(&[
        "--case",
        &cases,
        "--require",
        "all",
        "--report",
        &files.path("r.ktap"),
        "--results",
        &files.path("r.json"),
    ]);
    let failed = files.results("r.json").cases.iter().filter(|record| record.is_bad()).count();
    let expected = if failed == 0 { "passed: 2".to_owned() } else { "passed: 1, failed: 1".to_owned() };
    let output = Command::new("python3").arg(&parser).arg("parse").arg(files.path("r.ktap")).output();
    let output = stdout(&output.expect("Python starts"));
    assert!(output.contains(&format!("Ran 2 tests: {expected}")) && !output.contains("ERROR"), "{output}");
}

fn rule(claim: &str, verdict: &str) -> String {
    format!(
        "[[expect]]\nclaim = \"{claim}\"\nkernel = \">=5.3\"\nverdict = \"{verdict}\"\nreason = \"told\"\n"
    )
}

#[test]
fn a_list_is_printed_as_far_as_somebody_reads_it() {
    for (device, expected) in [("/dev/null", Some(0)), ("/dev/full", Some(3))] {
        let device = fs::File::options().write(true).open(device).expect("a device");
        let status = Command::new(RUNNER).arg("--list").stdout(device).stderr(Stdio::null()).status();
        assert_eq!(status.expect("the runner starts").code(), expected);
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(RUNNER).arg("--list").stdout(writer).stderr(Stdio::null()).status();
    assert_eq!(status.expect("the runner starts").code(), Some(0));
}

#[test]
fn what_is_expected_to_fail_and_passes_fails_the_run() {
    let files = Files::new();
    let expect = files.write("e.toml", &rule(PASSING, "fail"));
    let output = run(&["--exact", PASSING, "--expect", &expect, "--results", &files.path("r.json")]);
    assert_eq!(status(&output), 1, "{}", stdout(&output));
    assert!(stdout(&output).contains("passed unexpectedly"), "{}", stdout(&output));
    assert_valid(&files.read("r.json"));
    assert!(files.results("r.json").cases[0].passed_unexpectedly());
}

#[test]
fn what_is_expected_to_be_missing_may_be_missing() {
    let files = Files::new();
    let is_there = stdout(&run(&["--list-features"]))
        .lines()
        .any(|line| line.starts_with("CLONE_AUTOREAP") && line.ends_with(" yes"));
    let expected = if is_there { (1, "passed unexpectedly") } else { (0, "expected unsupported: ") };
    let by_claim = rule("autoreap_*", "unsupported");
    let by_need = by_claim.replace("claim = \"autoreap_*\"", "needs = \"CLONE_AUTOREAP\"");
    for rule in [by_claim, by_need] {
        let expect = files.write("e.toml", &rule);
        let output = run(&["--exact", CASE, "--require", "all", "--expect", &expect]);
        assert_eq!(status(&output), expected.0, "{}", stdout(&output));
        assert!(stdout(&output).contains(expected.1), "{}", stdout(&output));
    }
}

#[test]
fn a_wrong_file_of_expectations_is_told_in_one_line() {
    let files = Files::new();
    for (text, expected) in [
        (rule("no_such_claim", "fail"), "no_such_claim"),
        (rule(CASE, "pass"), "line 4: unknown verdict 'pass'"),
        (rule(CASE, "fail").replace("reason = \"told\"", ""), "missing field `reason`"),
    ] {
        let output = run(&["--exact", CASE, "--expect", &files.write("e.toml", &text)]);
        assert_eq!(status(&output), 2, "{}", stderr(&output));
        assert!(
            stderr(&output).starts_with("error: ") && stderr(&output).contains(expected),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(status(&run(&["--exact", CASE, "--expect", "/nowhere/e.toml"])), 2);
}

#[test]
fn the_examples_in_the_documentation_are_correct() {
    let files = Files::new();
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/expectations.md"));
    let text = text.expect("the documentation is there");
    let examples: Vec<&str> =
        text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 2);
    for example in &examples {
        let output = run(&["--exact", PASSING, "--expect", &files.write("e.toml", example)]);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
    }
    assert_backport_may_be_required(examples[1]);
}

#[test]
fn the_case_that_the_readme_shows_is_one_of_the_suite() {
    let text = |file: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("the file is there")
    };
    let readme = text("README.md");
    let example = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = example.expect("README has an example");
    assert!(text("cases/autokill.rs").contains(example), "cases/autokill.rs has it otherwise:\n{example}");
}

/// Checks the example for a backport of two flags: it excuses every case that needs anything else, and of the other cases only
/// the one case with the bug.
fn assert_backport_may_be_required(example: &str) {
    let rules = expect::parse(example).expect("the example is correct");
    let claims: Vec<Claim> =
        serde_json::from_str(&stdout(&run(&["--claims", "json"]))).expect("claims for programs");
    for claim in &claims {
        let needs: Vec<Need> = claim.needs.iter().filter_map(|need| Need::feature(need)).collect();
        let is_missing = needs.iter().any(|need| ![Need::Autoreap, Need::Nnp].contains(need));
        let expected = rules.on("6.12.50-9.acme", [(claim.case.as_str(), needs.as_slice())]);
        let verdict = expected.get(&claim.case).map(|expected| expected.verdict);
        let due = match is_missing {
            true => Some(Verdict::Unsupported),
            false => (claim.case == "autoreap_blocked_waitpid_pid").then_some(Verdict::Fail),
        };
        assert_eq!(verdict, due, "{}, which needs {}", claim.case, claim.needs.join(", "));
    }
    let expected = |case: &&Claim| case.needs.iter().any(|need| need == Need::Autokill.name());
    assert!(claims.iter().filter(expected).any(|claim| !claim.case.starts_with("autokill_")));
}

#[test]
fn the_version_names_target_and_commit() {
    let text = stdout(&run(&["--version"]));
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.starts_with(&format!("clone3-conformance {version} (commit ")), "{text}");
    assert!(text.contains(&format!("{}-unknown-linux-", std::env::consts::ARCH)), "{text}");
}

/// Creates the results of a kernel.
fn kernel(files: &Files, name: &str, release: &str, cases: &[(&str, Verdict, &str)]) -> String {
    let record = |(case, verdict, message): &(&str, Verdict, &str)| Record {
        case: (*case).to_owned(),
        theme: "theme".to_owned(),
        claim: format!("The claim of {case}."),
        source: "the source".to_owned(),
        verdict: *verdict,
        message: (*message).to_owned(),
        runs: 1,
        ..Record::default()
    };
    let results = Results {
        schema: SCHEMA,
        kernel: Kernel { release: release.to_owned(), ..Kernel::default() },
        exit: Some(0),
        rerun: "vm/run.sh --kernel 7.1 --".to_owned(),
        cases: cases.iter().map(record).collect(),
        ..Results::default()
    };
    files.write(name, &results.to_json())
}

#[test]
fn a_baseline_tells_a_regression_by_its_exit_status() {
    let files = Files::new();
    let old = kernel(&files, "old.json", "7.1.1", &[("a", Verdict::Pass, ""), ("b", Verdict::Fail, "x")]);
    let new = kernel(&files, "new.json", "7.1.2", &[("a", Verdict::Fail, "worse"), ("b", Verdict::Pass, "")]);
    let output = run(&["compare", "--baseline", &old, &new]);
    assert_eq!(status(&output), 1, "{}", stdout(&output));
    assert!(stdout(&output).contains("regressed (1):\n  a: pass -> fail: worse\n"), "{}", stdout(&output));
    assert!(stdout(&output).contains("fixed (1):\n  b: fail -> pass\n"), "{}", stdout(&output));
    let same = run(&["compare", "--baseline", &old, &old]);
    assert_eq!(status(&same), 0, "{}", stdout(&same));
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let files = Files::new();
    let good = kernel(&files, "good.json", "7.1.1", &[]);
    let bad = files.write("bad.json", "{\"schema\": 7}");
    for (arguments, expected) in [
        (vec!["compare"], "FILE"),
        (vec!["compare", "/nowhere.json"], "/nowhere.json: No such file"),
        (vec!["compare", &good, &bad], "bad.json: results of format 7"),
        (vec!["compare", "--baseline", &good], "OLD NEW"),
        (vec!["compare", &good, "--report", "r.xml"], ".html or .md"),
    ] {
        let output = run(&arguments);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(
            stderr(&output).starts_with("error: ") && stderr(&output).contains(expected),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn tables_are_printed_and_written() {
    let files = Files::new();
    let old = kernel(&files, "old.json", "7.0.1", &[("a", Verdict::Unsupported, "")]);
    let new = kernel(&files, "new.json", "7.1.2", &[("a", Verdict::Pass, "")]);
    let arguments = [
        "compare",
        &old,
        &new,
        "--width=80",
        "--report",
        &files.path("t.md"),
        "--report",
        &files.path("t.html"),
    ];
    let output = run(&arguments);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("7.0.1  7.1.2") && !stdout(&output).contains('\u{1b}'));
    assert!(files.read("t.md").contains("| `a` | - | ✓ |"), "{}", files.read("t.md"));
    assert!(stdout(&run(&[&arguments[..], &["--color=always"]].concat())).contains("\u{1b}[32m✓"));
}

/// Opens a page in a headless browser, and returns the resulting DOM, or `None` if there is no browser.
fn opened(files: &Files, page: &str) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"];
    let browser = browser.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", files.path("browser")))
        .args(["--window-size=390,844", "--dump-dom", &format!("file://{}", files.path(page))])
        .output()
        .expect("the browser starts");
    Some(stdout(&output))
}

#[test]
fn a_browser_shows_the_page_and_a_claims_details() {
    let files = Files::new();
    let hostile = "got <img src=x onerror=\"document.title='owned'\"> & more";
    let old = kernel(
        &files,
        "old.json",
        "7.0.1",
        &[("a", Verdict::Unsupported, "no flag"), ("b", Verdict::Pass, "")],
    );
    let new = kernel(&files, "new.json", "7.1.2", &[("a", Verdict::Fail, hostile), ("b", Verdict::Pass, "")]);
    run(&["compare", &old, &new, "--report", &files.path("t.html")]);
    let Some(page) = opened(&files, "t.html#a") else {
        eprintln!("not tested: there is no Chromium here");
        return;
    };
    let details = page.split("<dialog").nth(1).expect("the page has room for details");
    for part in [
        " open=\"\"",
        "The claim of a.",
        "the source",
        "got &lt;img src=x",
        "vm/run.sh --kernel 7.1 -- --exact a",
        "cell mark fail",
    ] {
        assert!(details.contains(part), "no {part:?} in {details}");
    }
    assert!(
        page.contains("<title>clone3 flags on Linux 7.0.1, 7.1.2</title>"),
        "what a file says became markup"
    );
}

#[test]
fn what_is_no_regular_file_stays_what_it_is() {
    let files = Files::new();
    let target = files.write("target.json", "");
    std::os::unix::fs::symlink(&target, files.path("link.json")).expect("a symbolic link");
    let output = run(&["--exact", PASSING, "--results", &files.path("link.json")]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(fs::symlink_metadata(files.path("link.json")).is_ok_and(|there| there.is_symlink()));
    assert_valid(&files.read("target.json"));
}

#[test]
fn an_event_that_cannot_be_written_is_an_error() {
    let output = run(&["--exact", PASSING, "--events", "/dev/full"]);
    assert_eq!(status(&output), 3, "{}", stdout(&output));
    assert!(stderr(&output).contains("cannot write to the journal"), "{}", stderr(&output));
}

#[test]
fn a_run_after_one_that_was_cut_short_has_its_events_on_lines_of_their_own() {
    let files = Files::new();
    let journal = files.write("r.jsonl", r#"{"run":{"schema":1,"sui"#);
    run(&["--exact", PASSING, "--events", &journal]);
    let told = files.results("r.jsonl");
    assert!(told.cases.len() == 1 && told.exit == Some(0), "{}", files.read("r.jsonl"));
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_run() {
    let output = run(&["--exact", PASSING, "--report", "/no/such/folder/r.xml"]);
    assert_eq!(status(&output), 3);
    assert!(stderr(&output).contains("/no/such/folder/r.xml"), "{}", stderr(&output));
    assert!(!stdout(&output).contains("running"), "{}", stdout(&output));
}

#[test]
fn the_command_that_runs_a_case_again_judges_it_likewise() {
    let files = Files::new();
    let options = ["--strict", "--require", "nnp,autokill", "--stress", "3"];
    let output = run(&[&["--exact", PASSING, "--results", &files.path("r.json")], &options[..]].concat());
    assert_eq!(status(&output), 0, "{}", stdout(&output));
    let rerun = files.results("r.json").rerun(PASSING);
    assert!(
        rerun.ends_with("--strict --stress 3 --require nnp,autokill --exact abi_size_small_einval"),
        "{rerun}"
    );
}
