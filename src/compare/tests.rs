use super::*;
use crate::expect::Expected;
use crate::probe::Clone3State;
use crate::probe::Probe;
use crate::report::{SCHEMA, Suite};
use crate::results::{Found, Guest, Kernel, NoVerdict};

pub(crate) fn record(theme: &str, case: &str, verdict: Verdict) -> Record {
    Record {
        case: case.to_owned(),
        theme: theme.to_owned(),
        claim: format!("What {case} claims."),
        source: "a commit".to_owned(),
        verdict,
        message: if verdict.is_failure() { "expected 1, got 2".to_owned() } else { String::new() },
        runs: 1,
        failures: u32::from(verdict.is_failure()),
        ..Record::default()
    }
}

pub(crate) fn results(release: &str, cases: Vec<Record>) -> Results {
    let probe = Probe::run();
    Results {
        schema: SCHEMA,
        suite: Suite::this("0123456789ab"),
        kernel: Kernel { release: release.to_owned(), ..Kernel::default() },
        probe: Some(Found {
            clone3: Clone3State::Works,
            features: probe.features,
            privileges: probe.privileges,
        }),
        selected: Some(cases.len()),
        exit: Some(0),
        rerun: "vm/run.sh --".to_owned(),
        cases,
        ..Results::default()
    }
}

fn named(results: Results) -> (String, Results) {
    ("file".to_owned(), results)
}

fn two_kernels() -> Table {
    use Verdict::{Fail, Pass, Unsupported};
    let old = vec![record("t", "same", Pass), record("t", "new", Unsupported), record("u", "only_old", Pass)];
    let new = vec![record("t", "same", Pass), record("t", "new", Fail)];
    Table::of(vec![named(results("7.0.12-cloud", old)), named(results("7.1-rc3", new))])
}

const PLAIN: terminal::Look = terminal::Look { width: 80, color: false, all: false };

#[test]
fn every_claim_has_a_row_and_every_kernel_a_cell() {
    let table = two_kernels();
    let labels: Vec<&str> = table.columns.iter().map(|column| column.label.as_str()).collect();
    assert_eq!(labels, ["7.0.12", "7.1-rc3"]);
    let marks = |row: &Row| row.cells.iter().map(|cell| cell.mark().symbol()).collect::<String>();
    let rows: Vec<(String, String)> =
        table.themes.iter().flat_map(|theme| &theme.rows).map(|row| (row.id.clone(), marks(row))).collect();
    let expected = [("new", "-✗"), ("same", "✓✓"), ("only_old", "✓ ")];
    assert_eq!(rows, expected.map(|(id, marks)| (id.to_owned(), marks.to_owned())));
}

#[test]
fn kernels_of_one_version_are_told_apart() {
    let labels = |releases: [&str; 2]| {
        let files = ["one", "two"].into_iter().zip(releases);
        let files = files.map(|(name, release)| (name.to_owned(), results(release, Vec::new())));
        Table::of(files.collect()).columns.into_iter().map(|column| column.label).collect::<Vec<_>>()
    };
    assert_eq!(labels(["7.1.13-amd64", "7.1.13-rt-amd64"]), ["7.1.13-amd64", "7.1.13-rt-amd64"]);
    assert_eq!(labels(["7.1.13-amd64", "7.1.13-amd64"]), ["one", "two"]);
}

#[test]
fn rows_that_agree_are_only_counted_unless_asked_for() {
    let text = terminal::text(&two_kernels(), PLAIN);
    assert!(text.contains("1 claim on every kernel: pass") && !text.contains("  same "), "{text}");
    assert!(text.contains("fail: new on 7.1-rc3: expected 1, got 2"), "{text}");
    let text = terminal::text(&two_kernels(), terminal::Look { all: true, ..PLAIN });
    assert!(text.contains("  same ") && !text.contains("on every kernel"), "{text}");
}

#[test]
fn rows_that_differ_in_their_names_only_are_one_unless_asked_for() {
    use Verdict::{Fail, Pass, Unsupported};
    let old = ["a", "b", "c", "d"].map(|case| record("t", case, Unsupported)).to_vec();
    let new = [("a", Pass), ("b", Fail), ("c", Pass), ("d", Fail)];
    let new = new.map(|(case, verdict)| record("t", case, verdict)).to_vec();
    let table = Table::of(vec![named(results("7.0", old)), named(results("7.1", new))]);
    let rows = |all| {
        let text = terminal::text(&table, terminal::Look { all, ..PLAIN });
        let theme = text.lines().skip_while(|line| !line.starts_with("t "));
        theme.skip(1).take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let names = |rows: Vec<String>| rows.iter().map(|row| row[2..12].trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(rows(false)), ["2 claims", "b", "d"]);
    assert_eq!(names(rows(true)), ["a", "b", "c", "d"]);
}

#[test]
fn a_table_of_many_kernels_fits_the_width() {
    let long = "autoreap_with_a_name_that_is_longer_than_most_of_the_others";
    let kernel = |number: u32| {
        let verdict = if number > 6 { Verdict::Pass } else { Verdict::Unsupported };
        named(results(&format!("6.{number}.100-cloud"), vec![record("t", long, verdict)]))
    };
    let table = Table::of((0..14).map(kernel).collect());
    for width in [60, 80, 200] {
        let text = terminal::text(&table, terminal::Look { width, ..PLAIN });
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(width), "{width}: {text}");
        assert_eq!(text.contains(long), width == 200, "{text}");
    }
}

#[test]
fn a_kernel_that_does_not_boot_is_a_column_that_says_so() {
    let no_verdict = NoVerdict { stage: "boot".to_owned(), why: "a panic".to_owned() };
    let guest = Guest { status: 69, no_verdict: Some(no_verdict), ..Guest::default() };
    let silent = Results { guest: Some(guest), probe: None, exit: None, ..results("9.9", Vec::new()) };
    let good = results("7.1.1", vec![record("t", "a", Verdict::Pass)]);
    let table = Table::of(vec![named(good), named(silent)]);
    for text in [terminal::text(&table, PLAIN), markdown::text(&table, true), html::page(&table)] {
        assert!(text.contains("did not boot: a panic"), "{text}");
    }
}

#[test]
fn markdown_stays_a_table_whatever_a_file_says() {
    let mut odd = record("t", "a", Verdict::Fail);
    odd.message = "a | b <script> `c`\nd".to_owned();
    let table = Table::of(vec![named(results("7.1", vec![odd])), named(results("7.2", Vec::new()))]);
    let text = markdown::text(&table, false);
    assert!(text.contains(r"fail: a \| b \<script> \`c\` d"), "{text}");
    let widths = |line: &str| line.replace(r"\|", "").matches('|').count();
    let claims = text.lines().skip_while(|line| !line.starts_with("| claim"));
    let rows: Vec<usize> = claims.take_while(|line| line.starts_with('|')).map(widths).collect();
    assert_eq!(rows, [4, 4, 4]);
}

#[test]
fn a_page_needs_nothing_else_and_words_stay_words() {
    let hostile = "</script><img src=x onerror=alert(1)>";
    let mut odd = record("t", "a", Verdict::Fail);
    (odd.message, odd.claim) = (hostile.to_owned(), hostile.to_owned());
    let page = html::page(&Table::of(vec![named(results(hostile, vec![odd]))]));
    assert!(!page.contains("<img") && page.matches("</script>").count() == 2, "{page}");
    for foreign in ["http:", "https:", "src=x>", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn what_a_file_says_is_no_command_to_a_terminal() {
    let mut odd = record("t\u{7}", "a\u{1b}[2J", Verdict::Fail);
    odd.message = "\u{1b}]0;owned\u{7}".to_owned();
    let one = || named(results("7.1\u{1b}[31m", vec![odd.clone()]));
    let other = || named(results("7.2", Vec::new()));
    let changes = Changes::between(other(), one()).to_string();
    for text in [terminal::text(&Table::of(vec![one(), other()]), PLAIN), changes] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

fn changes(old: Vec<Record>, new: Vec<Record>) -> Changes {
    Changes::between(named(results("7.1", old)), named(results("7.2", new)))
}

#[test]
fn what_changed_against_a_baseline_is_named() {
    use Verdict::{Fail, KnownDefect, Pass, Unsupported};
    let old = [("a", Pass), ("b", Fail), ("c", Unsupported), ("d", Pass), ("e", Pass), ("f", Unsupported)];
    let new = [("a", Fail), ("b", Pass), ("c", Pass), ("e", Pass), ("f", KnownDefect), ("g", Fail)];
    let of = |list: [(&str, Verdict); 6]| list.map(|(case, verdict)| record("t", case, verdict)).to_vec();
    let changes = changes(of(old), of(new));
    let list: Vec<(Change, &str)> =
        changes.list.iter().map(|(change, case, ..)| (*change, &**case)).collect();
    let expected = [
        (Change::Regressed, "a"),
        (Change::Regressed, "g"),
        (Change::Fixed, "b"),
        (Change::Appeared, "c"),
        (Change::Vanished, "d"),
        (Change::Changed, "f"),
    ];
    assert_eq!(list, expected);
    assert!(changes.is_regression());
    assert!(changes.to_string().contains("a: pass -> fail: expected 1, got 2"), "{changes}");
}

#[test]
fn a_rare_defect_that_is_met_is_no_change_and_any_other_is() {
    let rare = |verdict| vec![Record { rare: true, ..record("t", "a", verdict) }];
    assert!(changes(rare(Verdict::Pass), rare(Verdict::KnownDefect)).list.is_empty());
    assert!(changes(rare(Verdict::Pass), rare(Verdict::Fail)).is_regression());
    let always = |verdict| vec![record("t", "a", verdict)];
    assert!(changes(always(Verdict::Pass), always(Verdict::KnownDefect)).is_regression());
    assert!(!changes(always(Verdict::KnownDefect), always(Verdict::Pass)).is_regression());
}

#[test]
fn a_failure_where_the_baseline_is_broken_is_a_regression() {
    let verdict = |verdict| vec![record("t", "a", verdict)];
    assert!(changes(verdict(Verdict::Broken), verdict(Verdict::Fail)).is_regression());
    assert!(!changes(verdict(Verdict::Fail), verdict(Verdict::Broken)).is_regression());
}

#[test]
fn what_the_environment_forbids_is_no_regression() {
    let verdict = |verdict| vec![record("t", "a", verdict)];
    let changes = changes(verdict(Verdict::Pass), verdict(Verdict::Blocked));
    assert_eq!((changes.is_regression(), changes.count(Change::Vanished)), (false, 1));
}

#[test]
fn a_run_that_has_no_verdict_any_more_is_a_regression() {
    let whole = || named(results("7.1", vec![record("t", "a", Verdict::Pass)]));
    let (name, mut cut) = whole();
    cut.exit = None;
    let changes = Changes::between(whole(), (name, cut));
    assert!(changes.is_regression() && changes.to_string().contains("cut short"), "{changes}");
    assert!(!Changes::between(whole(), whole()).is_regression());
}

#[test]
fn a_kernel_that_complained_where_no_console_is_read_is_a_regression() {
    let run = |after| {
        let mut run = results("7.1", vec![record("t", "a", Verdict::Pass)]);
        (run.kernel.tainted.before, run.kernel.tainted.after) = (Some(1 << 12), Some(after));
        named(run)
    };
    let (clean, warned) = (1 << 12, 1 << 12 | 1 << 9);
    let changes = Changes::between(run(clean), run(warned));
    assert!(changes.is_regression() && changes.to_string().contains("a warning (W)"), "{changes}");
    assert!(!Changes::between(run(clean), run(clean)).is_regression());
    let table = terminal::text(&Table::of(vec![run(warned)]), PLAIN);
    assert!(table.contains("the kernel complained"), "{table}");
}

#[test]
fn files_of_different_suites_are_compared_by_claim_and_it_is_said() {
    let mut newer = results("7.2", vec![record("moved", "a", Verdict::Fail)]);
    newer.suite.version = "9.0.0".to_owned();
    let older = results("7.1", vec![record("t", "a", Verdict::Pass)]);
    let table = Table::of(vec![named(older.clone()), named(newer.clone())]);
    assert_eq!(table.themes.iter().map(|theme| theme.rows.len()).sum::<usize>(), 1);
    let changes = Changes::between(named(older), named(newer));
    for text in [terminal::text(&table, PLAIN), markdown::text(&table, true), changes.to_string()] {
        assert!(text.contains("compared by claim id") && text.contains("9.0.0"), "{text}");
    }
    assert!(changes.is_regression());
}

#[test]
fn what_was_expected_is_marked_and_no_regression() {
    let expected = Some(Expected { verdict: Verdict::Fail, reason: "known here".to_owned() });
    let fails = Record { expected: expected.clone(), ..record("t", "a", Verdict::Fail) };
    let passes = Record { expected, ..record("t", "a", Verdict::Pass) };
    let mark = |record: &Record| Cell::Ended(Box::new(record.clone())).mark();
    assert_eq!((mark(&fails), mark(&passes)), (Mark::Expected, Mark::Unexpected));
    let pass = || vec![record("t", "a", Verdict::Unsupported)];
    assert_eq!(results("7.1", vec![fails.clone()]).totals(), "1 expected fail");
    assert!(!changes(pass(), vec![fails]).is_regression());
    assert!(changes(pass(), vec![passes]).is_regression());
}
