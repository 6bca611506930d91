//! An initramfs with the suite's binary, which is also its init.
use std::io::{self, Write};

use anyhow::{Context, Result};
use clone3_conformance::guest::{PLAN, Plan};

/// The path of the binary in the guest.
const SUITE: &str = "suite/clone3-conformance";

/// The folder of other files.
const CARRIED: &str = "suite/carried";

const FOLDER: u32 = 0o40755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// A program that the guest finds beside the suite.
pub struct Carried {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Writes the archive that the kernel unpacks: the binary, `/init` as a link to it, the plan, and the carried files.
pub fn write(out: &mut impl Write, binary: &[u8], carried: &[Carried], plan: &Plan) -> Result<()> {
    let plan = serde_json::to_vec(plan)?;
    let mut files: Vec<(&str, u32, &[u8])> = vec![
        ("suite", FOLDER, b""),
        (SUITE, PROGRAM, binary),
        ("init", LINK, SUITE.as_bytes()),
        (PLAN.trim_start_matches('/'), TEXT, &plan),
        (CARRIED, FOLDER, b""),
    ];
    let names: Vec<String> = carried.iter().map(|file| format!("{CARRIED}/{}", file.name)).collect();
    files.extend(names.iter().zip(carried).map(|(name, file)| (name.as_str(), PROGRAM, &file.bytes[..])));
    files.push(("TRAILER!!!", 0, b""));
    for (number, (name, mode, bytes)) in files.into_iter().enumerate() {
        entry(out, number, name, mode, bytes).context("cannot write the initramfs")?;
    }
    Ok(())
}

/// Writes one file in the `newc` format: a header of hexadecimal numbers, the name, and the content, each padded to four bytes.
fn entry(out: &mut impl Write, number: usize, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let (size, name_size) = (bytes.len(), name.len() + 1);
    let (zero, links) = (0, 1);
    write!(out, "070701{number:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{size:08x}")?;
    write!(out, "{zero:08x}{zero:08x}{zero:08x}{zero:08x}{name_size:08x}{zero:08x}{name}\0")?;
    pad(out, 110 + name_size)?;
    out.write_all(bytes)?;
    pad(out, size)
}

fn pad(out: &mut impl Write, length: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..length.next_multiple_of(4) - length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_and_every_file_begins_at_a_multiple_of_four() {
        let plan = Plan {
            args: vec!["x".into()],
            user: None,
            load: 0,
            rerun: String::new(),
            expect: None,
            output: "o".into(),
            journal: "j".into(),
            counters: None,
        };
        let mut archive = Vec::new();
        let carried = [Carried { name: "more".into(), bytes: b"12345".to_vec() }];
        write(&mut archive, b"binary!", &carried, &plan).unwrap();
        let starts: Vec<usize> = archive
            .windows(6)
            .enumerate()
            .filter(|(_, bytes)| *bytes == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 7);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert_eq!(archive.len() % 4, 0);
    }
}
