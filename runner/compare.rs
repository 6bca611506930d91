//! `clone3-conformance compare`: shows the results of several kernels side by side.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use clone3_conformance::compare::{self, Changes, Table, html, markdown, terminal};
use clone3_conformance::formats::Format;
use clone3_conformance::results::{Results, write_whole};
use clone3_conformance::usage;

use super::cli;
use super::output::print;

/// The first argument, which selects this command.
pub const WORD: &str = "compare";

/// The width of a table if neither the terminal nor an option sets it.
const USUAL_WIDTH: usize = 100;

/// Shows the results of several kernels side by side: claims in rows, kernels in columns.
///
/// Exit status: 0 compared; 1 with --baseline, something regressed; 2 usage error, or a file without results; 3 the output
/// cannot be written.
#[derive(Debug, Parser)]
#[command(name = "clone3-conformance compare", bin_name = "clone3-conformance compare", max_term_width = 100)]
struct Options {
    /// Files written by --results (or by --events, if a run was cut short), in the order of the columns
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Also show the rows in which all kernels agree
    #[arg(long)]
    all: bool,

    /// Show what changed from the first of two files to the second: regressed, fixed, appeared, vanished
    #[arg(long)]
    baseline: bool,

    /// What is printed
    #[arg(long, value_enum, default_value_t = Printed::Terminal, conflicts_with = "baseline")]
    format: Printed,

    /// Also write the table to FILE, in the format of its suffix: .html or .md
    #[arg(long, value_name = "FILE", value_parser = compare::target, conflicts_with = "baseline")]
    report: Vec<(PathBuf, Format)>,

    /// Whether to use colors
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    color: Colour,

    /// Width of the text in columns, if not the terminal's
    #[arg(long, value_name = "N")]
    width: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Printed {
    Terminal,
    Markdown,
    Html,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

/// Runs the command.
pub fn run() -> ExitCode {
    let options =
        Options::try_parse_from(std::env::args_os().skip(1)).unwrap_or_else(|error| usage::exit_with(&error));
    match carry_out(&options) {
        Ok(status) => ExitCode::from(status),
        Err((status, error)) => {
            eprintln!("error: {error}");
            ExitCode::from(status)
        }
    }
}

/// Compares, and returns the exit status, also with an error.
fn carry_out(options: &Options) -> Result<u8, (u8, String)> {
    let unusable = |error| (cli::USAGE, error);
    let lost = |error| (cli::BROKEN, error);
    let files: Vec<(String, Results)> =
        options.files.iter().map(|path| read(path)).collect::<Result<_, _>>().map_err(unusable)?;
    if options.baseline {
        let Ok([old, new]) = <[_; 2]>::try_from(files) else {
            return Err(unusable("--baseline compares two files: OLD NEW".to_owned()));
        };
        let changes = Changes::between(old, new);
        print(&changes.to_string()).map_err(lost)?;
        return Ok(if changes.is_regression() { cli::FAILED } else { cli::GOOD });
    }
    let table = Table::of(files);
    for (path, format) in &options.report {
        let text = match format {
            Format::Html => html::page(&table),
            _ => markdown::text(&table, options.all),
        };
        write_whole(path, &text)
            .map_err(|error| lost(format!("cannot write {}: {error}", path.display())))?;
    }
    print(&match options.format {
        Printed::Terminal => terminal::text(&table, look(options)),
        Printed::Markdown => markdown::text(&table, options.all),
        Printed::Html => html::page(&table),
    })
    .map_err(lost)?;
    Ok(cli::GOOD)
}

/// Reads the results from a file, and returns them with the file's name without folder and suffix.
fn read(path: &Path) -> Result<(String, Results), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let results = Results::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok((name, results))
}

fn look(options: &Options) -> terminal::Look {
    let color = match options.color {
        Colour::Auto => io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        Colour::Always => true,
        Colour::Never => false,
    };
    let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let width = options.width.or(terminal.filter(|width| *width > 0)).unwrap_or(USUAL_WIDTH);
    terminal::Look { width, color, all: options.all }
}
