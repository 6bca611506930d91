use super::*;
use crate::compare::tests::{record, results};
use crate::expect::Expected;
use crate::results::{Fault, Guest, NoVerdict};

/// Returns a run that contains everything that can occur.
fn all_sorts() -> Results {
    let mut cases: Vec<Record> = Verdict::ALL
        .into_iter()
        .map(|verdict| record("sorts", &format!("case_{verdict}").replace(' ', "_"), verdict))
        .collect();
    let expected = Some(Expected { verdict: Verdict::Fail, reason: "not yet # here".to_owned() });
    cases.push(Record { expected: expected.clone(), ..record("expected", "fails", Verdict::Fail) });
    cases.push(Record { expected, ..record("expected", "passes", Verdict::Pass) });
    cases.push(record("good", "alone", Verdict::Pass));
    let fault = Fault {
        fault: "oops".to_owned(),
        running: vec!["cut_off".to_owned()],
        console: vec!["Oops: 0000".to_owned()],
    };
    let no_verdict = NoVerdict { stage: "run".to_owned(), why: "QEMU was ended\nby SIGKILL".to_owned() };
    let guest = Guest { status: 69, no_verdict: Some(no_verdict), faults: vec![fault], ..Guest::default() };
    let mut results = results("7.1.1", cases);
    (results.interrupted, results.guest) = (vec!["cut_off".to_owned()], Some(guest));
    results
}

#[test]
fn the_end_of_a_name_says_the_format() {
    for (name, format) in [
        ("r.json", Format::Json),
        ("a.b/r.xml", Format::Junit),
        ("r.ktap", Format::Ktap),
        ("r.html", Format::Html),
        ("r.md", Format::Markdown),
    ] {
        assert_eq!(Format::of(Path::new(name)), Ok(format));
    }
    for name in ["r", "r.txt", "json", ".xml"] {
        assert!(Format::of(Path::new(name)).unwrap_err().contains(".ktap"), "{name}");
    }
}

#[test]
fn junit_counts_what_the_kernel_and_what_the_suite_broke() {
    let text = Format::Junit.render(&all_sorts());
    let report = quick_junit::Report::deserialize_from_str(&text).expect("JUnit's XML");
    // The broken case, the interrupted case, and the missing verdict.
    assert_eq!((report.tests, report.failures, report.errors), (13, 3, 3), "{text}");
    assert!(text.contains("expected 1, got 2") && text.contains("What case_fail claims."));
    assert!(text.contains("passed unexpectedly; expected fail: not yet # here"), "{text}");
}

#[test]
fn a_run_that_was_cut_short_is_an_error() {
    let mut run = results("7.1.1", vec![record("t", "a", Verdict::Pass)]);
    run.exit = None;
    let report = quick_junit::Report::deserialize_from_str(&Format::Junit.render(&run)).expect("JUnit's XML");
    assert_eq!((report.tests, report.failures, report.errors), (2, 0, 1));
    assert!(Format::Ktap.render(&run).contains("\nnot ok 2 kernel\n"), "{}", Format::Ktap.render(&run));
}

#[test]
fn what_is_required_and_missing_is_a_failed_test() {
    let missing = Record { required: true, ..record("t", "a", Verdict::Unsupported) };
    let run = results("7.1.1", vec![missing]);
    let text = Format::Junit.render(&run);
    let report = quick_junit::Report::deserialize_from_str(&text).expect("JUnit's XML");
    assert_eq!((report.tests, report.failures), (1, 1), "{text}");
    assert!(text.contains("unsupported, though required"), "{text}");
}

#[test]
fn a_kernel_that_complained_on_a_host_is_a_failed_test() {
    let mut run = results("7.1.1", vec![record("t", "a", Verdict::Pass)]);
    (run.kernel.tainted.before, run.kernel.tainted.after) = (Some(0), Some(1 << 9));
    let report = quick_junit::Report::deserialize_from_str(&Format::Junit.render(&run)).expect("JUnit's XML");
    assert_eq!((report.tests, report.failures), (2, 1));
    let text = Format::Ktap.render(&run);
    assert!(text.contains("not ok 1 tainted") && text.contains("a warning (W)"), "{text}");
}

#[test]
fn junit_is_xml_whatever_a_case_said() {
    let mut odd = record("t", "a", Verdict::Fail);
    odd.output = "\u{1b}[31m]]> <&\u{0}\u{fffe}".to_owned();
    let text = Format::Junit.render(&results("7.1", vec![odd]));
    assert!(quick_junit::Report::deserialize_from_str(&text).is_ok(), "{text}");
}

#[test]
fn ktap_numbers_and_nests_as_it_promises() {
    let text = Format::Ktap.render(&all_sorts());
    let result = |line: &str| {
        let line = line.strip_prefix("not ").unwrap_or(line).strip_prefix("ok ")?.to_owned();
        line.split(' ').next()?.parse::<usize>().ok()
    };
    let mut plans: Vec<(usize, usize)> = Vec::new();
    for line in text.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let line = line.trim_start();
        if let Some(count) = line.strip_prefix("1..") {
            plans.truncate(depth);
            plans.push((count.parse().expect("a number"), 0));
        } else if let Some(number) = result(line) {
            plans.truncate(depth + 1);
            let (count, last) = &mut plans[depth];
            assert_eq!(number, *last + 1, "{text}");
            *last = number;
            assert!(number <= *count, "{text}");
        } else {
            assert!(line.starts_with('#') || line == "KTAP version 1", "{line}");
        }
    }
    assert_eq!(plans, [(5, 5)]);
    assert!(
        text.contains("  ok 2 case_unsupported # SKIP unsupported: ") || text.contains("# SKIP unsupported")
    );
    assert!(text.contains("  ok 1 fails # SKIP expected fail: not yet  here: expected 1, got 2"), "{text}");
    assert!(text.contains("\nnot ok 1 expected\n") && text.contains("\nok 2 good\n"), "{text}");
    assert!(text.contains("not ok 1 cut_off\n"), "{text}");
}

#[test]
fn markdown_shows_what_went_wrong() {
    let text = Format::Markdown.render(&all_sorts());
    for part in
        ["# Linux 7.1.1: ", "| `case_fail` | **failed** |", "rerun     vm/run.sh -- --exact case_fail"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("`alone`"), "{text}");
}

#[test]
fn a_page_of_one_run_has_all_of_its_cases() {
    let text = Format::Html.render(&all_sorts());
    assert_eq!(text.matches("data-id=").count(), 11, "ten that ended, and one that did not");
}
