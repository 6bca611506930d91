//! `--describe NAME`: prints everything about one case.

use clone3_conformance::case::{self, Case};
use clone3_conformance::check::source_path;

/// Returns the description of a case.
///
/// # Errors
/// There is no case of that name; the error suggests similar names.
pub fn one(name: &str) -> Result<String, String> {
    case::find(name).map(text).ok_or_else(|| no_case(name))
}

/// Returns the error that there is no case of this name, with suggestions.
pub fn no_case(name: &str) -> String {
    format!("no case is called '{name}'{}", near(name))
}

/// Suggests the names that contain this one or, if there are none, that are spelled like it.
fn near(name: &str) -> String {
    const MOST: usize = 5;
    let names = || case::all().iter().map(|case| case.name);
    let mut hits: Vec<&str> = names().filter(|known| known.contains(name)).collect();
    if hits.is_empty() {
        hits = names().filter(|known| strsim::jaro_winkler(known, name) > 0.9).collect();
        hits.sort_by(|one, other| {
            strsim::jaro_winkler(other, name).total_cmp(&strsim::jaro_winkler(one, name))
        });
        hits.truncate(MOST);
    }
    match hits.as_slice() {
        [] => "; --list shows all names".to_owned(),
        many if many.len() > MOST => {
            format!("; {} names contain it; --list shows all names", many.len())
        }
        some => format!("; did you mean {}?", some.join(" or ")),
    }
}

fn text(case: &Case) -> String {
    let needs: Vec<&str> = case.needs.iter().map(|need| need.name()).collect();
    let needs = if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
    let mut lines = vec![
        ("case", case.name.to_owned()),
        ("claim", case.claim()),
        ("strength", case.strength.to_string()),
        ("source", case.source.to_owned()),
        ("needs", needs),
    ];
    lines.extend(case.first_kernel().map(|series| ("since", format!("Linux {series}"))));
    lines.extend(case.known_defect.map(|defect| ("known defect", defect.what.to_owned())));
    lines.push(("declared", format!("{}:{}", source_path(case.file), case.line)));
    lines.iter().map(|(name, value)| format!("{name:13} {value}\n")).collect()
}
