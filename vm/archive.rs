//! Debian's archive: listing its kernels, and downloading one without installing it.
//!
//! apt does the work, with settings kept apart from the machine's: it knows about proxies and mirrors, and checks signatures. It
//! needs no privileges, since nothing is installed.
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::cache::{Cache, write_whole};
use crate::interrupt::{Interrupted, Interrupts};
use crate::note;
use crate::process::{self, output};
use crate::version::{compare, is_prefix, upstream};

/// The suites that have kernels, and whether they come from the security archive.
const SUITES: [(&str, bool); 13] = [
    ("bullseye", false),
    ("bullseye-security", true),
    ("bookworm", false),
    ("bookworm-updates", false),
    ("bookworm-security", true),
    ("bookworm-backports", false),
    ("trixie", false),
    ("trixie-updates", false),
    ("trixie-security", true),
    ("trixie-backports", false),
    ("forky", false),
    ("sid", false),
    ("experimental", false),
];

/// The archive to use if the machine's apt is not configured for one.
const USUAL_ARCHIVE: &str = "http://deb.debian.org/debian";
const USUAL_SECURITY_ARCHIVE: &str = "http://deb.debian.org/debian-security";

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// The package lists are fetched again when they are older than this.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// After a kernel could not be downloaded, lists younger than this are not fetched again: the archive changes no more often.
const CHANGES: Duration = Duration::from_secs(60 * 60);

/// Returns the folder of the cache that holds the package lists.
fn folder(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "apt",
        Arch::Arm64 => "apt-arm64",
        Arch::Riscv64 => "apt-riscv64",
    }
}

/// The file in that folder that holds the [`Index`].
const INDEX: &str = "index.json";

/// The minimum size of a package with a kernel. Smaller ones only depend on the one that has it.
const SMALLEST: u64 = 1 << 20;

/// A package that contains a kernel image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub suite: String,
    pub url: String,
    pub sha256: String,
    pub size: u64,
}

/// The kernel packages that the archive offers.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Index {
    pub packages: Vec<Package>,
    /// Other names of suites, as pairs such as `stable` and `trixie`.
    aliases: Vec<(String, String)>,
}

/// The parts of a package's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name<'a> {
    /// The kernel release without the flavor: `7.1.13+deb13`, `6.1.0-56`.
    pub base: &'a str,
    pub flavor: &'a str,
}

impl Package {
    /// Parses the name. Packages whose name cannot be parsed are not in the index.
    pub fn parsed(&self) -> Option<Name<'_>> {
        parse_name(&self.name)
    }

    /// Returns the version by which people know this kernel: `7.1.13`, `6.1.0-56`, or the tag of a release candidate, `7.3-rc7`,
    /// since its release is only that of its series. The archive may have several builds of it; the package's own version tells
    /// them apart.
    pub fn short_version(&self) -> String {
        let version = upstream(&self.version);
        match self.parsed().map_or(version, |name| name.base) {
            _ if version.contains('~') => version.replace('~', "-"),
            base if base.contains('-') => base.to_owned(),
            _ => version.to_owned(),
        }
    }

    /// Returns the kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> String {
        self.parsed().map_or_else(|| self.name.clone(), |name| format!("{}-{}", name.base, name.flavor))
    }
}

/// Parses a package's name, if the package may contain a kernel.
fn parse_name(name: &str) -> Option<Name<'_>> {
    let name = name.strip_prefix("linux-")?;
    let rest = name.strip_prefix("image-").or_else(|| name.strip_prefix("binary-"))?;
    let mut flavors = Arch::ALL.iter().flat_map(|arch| arch.flavors());
    let flavor = flavors.find(|flavor| rest.ends_with(*flavor))?;
    let base = rest.strip_suffix(flavor)?.strip_suffix('-')?;
    base.starts_with(|first: char| first.is_ascii_digit()).then_some(Name { base, flavor })
}

impl Index {
    /// Returns the kernel images, oldest first.
    pub fn images(&self) -> Vec<&Package> {
        let mut images: Vec<&Package> = self.packages.iter().collect();
        images.sort_by(|a, b| compare(&a.version, &b.version).then_with(|| a.name.cmp(&b.name)));
        images
    }

    /// Returns the newest kernel whose version or release starts with `prefix`, or the package of exactly that version.
    pub fn newest(&self, prefix: &str, flavor: &str) -> Option<&Package> {
        self.images().into_iter().rfind(|package| {
            let means = |name: Name| {
                name.flavor == flavor
                    && (is_prefix(prefix, upstream(&package.version))
                        || is_prefix(prefix, name.base)
                        || prefix == package.version)
            };
            package.parsed().is_some_and(means)
        })
    }

    /// Returns the newest kernel of each series, and the newest release candidate, oldest first.
    pub fn newest_of_each_series(&self, flavor: &str) -> Vec<&Package> {
        let mut newest: Vec<(String, &Package)> = Vec::new();
        for package in self.images() {
            if package.parsed().is_none_or(|name| name.flavor != flavor) {
                continue;
            }
            let series = series(upstream(&package.version));
            newest.retain(|(known, _)| *known != series);
            newest.push((series, package));
        }
        newest.into_iter().map(|(_, package)| package).collect()
    }

    /// Returns the newest kernel of a suite.
    pub fn newest_of_suite(&self, suite: &str, flavor: &str) -> Option<&Package> {
        let alias = self.aliases.iter().find(|(alias, _)| alias == suite);
        let suite = alias.map_or(suite, |(_, suite)| suite);
        self.images().into_iter().rfind(|package| {
            package.suite == suite && package.parsed().is_some_and(|name| name.flavor == flavor)
        })
    }
}

/// Returns the series of a version, such as `7.1`, or `rc` for all release candidates.
fn series(upstream: &str) -> String {
    match upstream.contains('~') {
        true => "rc".to_owned(),
        false => upstream.splitn(3, '.').take(2).collect::<Vec<_>>().join("."),
    }
}

/// Access to the archive, or to its part for one architecture.
pub struct Archive<'a> {
    pub cache: &'a Cache,
    pub interrupts: &'a Interrupts,
    pub arch: Arch,
}

impl Archive<'_> {
    /// Returns whether the local index is old enough that it may be outdated.
    pub fn may_have_changed(&self) -> bool {
        !is_younger(&self.folder().join(INDEX), CHANGES)
    }

    /// Returns the folder that holds the package lists.
    fn folder(&self) -> PathBuf {
        self.cache.path(folder(self.arch))
    }

    /// Returns the index of the archive's kernels; fetches it again if the local one is too old or `refresh` is set.
    pub fn index(&self, refresh: bool) -> Result<Index> {
        let path = self.folder().join(INDEX);
        let known = || -> Option<Index> { serde_json::from_slice(&fs::read(&path).ok()?).ok() };
        if !refresh
            && is_younger(&path, FRESH)
            && let Some(index) = known()
        {
            return Ok(index);
        }
        let _lock = self.cache.lock(folder(self.arch), self.interrupts)?;
        if !refresh
            && is_younger(&path, FRESH)
            && let Some(index) = known()
        {
            return Ok(index);
        }
        let index = self.ask()?;
        write_whole(&path, &serde_json::to_vec(&index)?)?;
        Ok(index)
    }

    /// Fetches the archive's package lists, and extracts the kernels from them. Lists that cannot be fetched stay as they were.
    fn ask(&self) -> Result<Index> {
        let folder = self.folder();
        let archives = archives();
        let settings = write_settings(&folder, self.arch, &archives)?;
        note!("asking Debian's archive which kernels it has");
        let mut update = Command::new("apt-get");
        update.arg("-qq").arg("-c").arg(&settings).arg("update").env("LC_ALL", "C");
        let asked = process::succeed(&mut update, self.interrupts);
        if let Err(error) = &asked
            && error.is::<Interrupted>()
        {
            return asked.map(|()| Index::default());
        }
        let index = read_lists(&folder.join("lists"), &archives)?;
        match asked {
            Ok(()) => ensure!(!index.packages.is_empty(), "the archive's lists name no kernel"),
            Err(error) if index.packages.is_empty() => return Err(error).context("the archive gave no list"),
            Err(error) => {
                note!("the archive did not give every list ({error:#}); going by what it gave before")
            }
        }
        Ok(index)
    }

    /// Downloads a package to `path`, and checks it against the signed list.
    pub fn download(&self, package: &Package, path: &Path) -> Result<()> {
        note!("downloading {} {} ({} MB)", package.name, package.version, package.size.div_ceil(1_000_000));
        let settings = write_settings(&self.folder(), self.arch, &archives())?;
        let mut fetch = Command::new(HELPER);
        fetch.arg("-c").arg(settings).arg("download-file").arg(&package.url).arg(path);
        fetch.arg(format!("SHA256:{}", package.sha256)).env("LC_ALL", "C");
        process::succeed(&mut fetch, self.interrupts)
            .with_context(|| format!("cannot download {} from the archive", package.name))
    }

    /// Downloads the newest package of this name, whatever it contains, to `folder`.
    pub fn download_newest(&self, name: &str, folder: &Path) -> Result<()> {
        note!("downloading {name}");
        let settings = write_settings(&self.folder(), self.arch, &archives())?;
        let mut download = Command::new("apt-get");
        // These settings disable the index of packages, which only apt-get needs.
        download.arg("-qq").arg("-c").arg(settings).args([
            "-o",
            "pkgCacheFile::Generate=true",
            "download",
            name,
        ]);
        process::succeed(download.current_dir(folder).env("LC_ALL", "C"), self.interrupts)
            .with_context(|| format!("cannot download {name} from the archive"))
    }
}

/// Writes apt's settings: separate lists and downloads, nothing of the machine's state, and no hooks.
fn write_settings(folder: &Path, arch: Arch, (archive, security): &Archives) -> Result<PathBuf> {
    for name in ["lists/partial", "archives/partial", "sources"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let arch = arch.name();
    let source = |(suite, is_security): &(&str, bool)| {
        let from = if *is_security { security } else { archive };
        format!("deb [arch={arch} target=Packages signed-by={KEYS}] {from} {suite} main\n")
    };
    write_if_new(&folder.join("sources/kernels.list"), &SUITES.iter().map(source).collect::<String>())?;
    write_if_new(&folder.join("status"), "")?;
    let path = folder.join("apt.conf");
    let settings = format!(
        r#"#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{arch}";
#clear APT::Architectures;
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::http::Timeout "30";
Acquire::Retries "2";
pkgCacheFile::Generate "false";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{folder}/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::Status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::Archives "{folder}/archives";
"#,
        folder = folder.display()
    );
    write_if_new(&path, &settings)?;
    Ok(path)
}

/// Writes a file unless it already has this content, since another run may be reading it.
fn write_if_new(path: &Path, text: &str) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(old) if old == text => Ok(()),
        _ => write_whole(path, text.as_bytes()),
    }
}

/// The URLs of the archive and of the security archive.
type Archives = (String, String);

/// Returns the URLs from which this machine gets Debian's packages.
fn archives() -> Archives {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(ORIGIN)/$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    let targets = output(&mut targets).unwrap_or_default();
    let targets = String::from_utf8_lossy(&targets);
    let of = |label: &str, usual: &str| {
        let line = targets.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' '));
        line.unwrap_or(usual).trim_end_matches('/').to_owned()
    };
    (of("Debian/Debian", USUAL_ARCHIVE), of("Debian/Debian-Security", USUAL_SECURITY_ARCHIVE))
}

/// Reads all package lists in the folder.
fn read_lists(folder: &Path, archives: &Archives) -> Result<Index> {
    let mut index = Index::default();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((address, rest)) = name.split_once("_dists_") else { continue };
        let Some((suite, list)) = rest.split_once('_') else { continue };
        if list.contains("_Packages") {
            let url = archive_url(address, archives);
            index.packages.extend(read_list(&path, suite, url)?);
        } else if list == "InRelease" {
            index.aliases.extend(alias(&path)?.map(|alias| (alias, suite.to_owned())));
        }
    }
    Ok(index)
}

/// Returns the archive's URL, given the address in a list's file name.
fn archive_url<'a>(address: &str, (archive, security): &'a Archives) -> &'a str {
    let is_security = security.rsplit('/').next().is_some_and(|last| address.ends_with(last));
    if is_security { security } else { archive }
}

/// Reads the kernel packages from one list.
fn read_list(path: &Path, suite: &str, url: &str) -> Result<Vec<Package>> {
    let mut reader = Command::new(HELPER);
    let mut reader =
        reader.arg("cat-file").arg(path).stdout(Stdio::piped()).spawn().context("cannot start apt-helper")?;
    let lines = BufReader::new(reader.stdout.take().context("no output of apt-helper")?);
    let packages = parse_list(lines, suite, url);
    ensure!(reader.wait()?.success(), "cannot read the list {}", path.display());
    packages
}

/// Parses the kernel packages of a list in the archive's format: stanzas of `Field: value` lines.
fn parse_list(lines: impl BufRead, suite: &str, url: &str) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    let mut package: Option<Package> = None;
    for line in lines.lines() {
        let line = line?;
        if line.is_empty() {
            packages.extend(package.take().filter(|package| package.size >= SMALLEST));
            continue;
        }
        let Some((field, value)) = line.split_once(": ") else { continue };
        if field == "Package" && parse_name(value).is_some() {
            package = Some(Package {
                name: value.to_owned(),
                version: String::new(),
                suite: suite.to_owned(),
                url: String::new(),
                sha256: String::new(),
                size: 0,
            });
        }
        let Some(package) = &mut package else { continue };
        match field {
            "Version" => package.version = value.to_owned(),
            "Filename" => package.url = format!("{url}/{value}"),
            "SHA256" => package.sha256 = value.to_owned(),
            "Size" => package.size = value.parse()?,
            _ => {}
        }
    }
    packages.extend(package.filter(|package| package.size >= SMALLEST));
    Ok(packages)
}

/// Returns the suite's other name, from its release file.
fn alias(release: &Path) -> Result<Option<String>> {
    let lines = BufReader::new(File::open(release)?).lines();
    for line in lines.take(20) {
        if let Some(alias) = line?.strip_prefix("Suite: ") {
            return Ok(Some(alias.to_owned()));
        }
    }
    Ok(None)
}

/// Extracts files from a package. `wanted` returns the new name of a file to extract; extraction stops after `most` files.
pub fn unpack(
    package: &Path,
    folder: &Path,
    wanted: impl Fn(&str) -> Option<String>,
    most: usize,
) -> Result<usize> {
    let mut reader = Command::new("dpkg-deb");
    reader.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).stderr(Stdio::null());
    // Ctrl-C must not look like a package that is cut off.
    let mut reader = reader.process_group(0).spawn().context("cannot start dpkg-deb")?;
    let mut files = tar::Archive::new(reader.stdout.take().context("no output of dpkg-deb")?);
    let taken = take_files(&mut files, package, folder, wanted, most);
    drop(files);
    let whole = reader.wait()?.success();
    match taken {
        // When all wanted files were found, the rest is not read, and dpkg-deb fails.
        Ok(taken) if taken == most || whole => Ok(taken),
        Ok(_) => bail!(cut_off(package)),
        Err(error) => Err(error),
    }
}

fn cut_off(package: &Path) -> String {
    format!("{} is not a whole Debian package", package.display())
}

fn take_files(
    files: &mut tar::Archive<impl Read>,
    package: &Path,
    folder: &Path,
    wanted: impl Fn(&str) -> Option<String>,
    most: usize,
) -> Result<usize> {
    let mut taken = 0;
    for file in files.entries()? {
        let mut file = file.with_context(|| cut_off(package))?;
        let path = file.path()?.to_string_lossy().into_owned();
        if file.header().entry_type().is_file()
            && let Some(name) = wanted(&path)
        {
            let target = folder.join(name);
            fs::create_dir_all(target.parent().unwrap_or(folder))?;
            let mut bytes = Vec::new();
            let length = file.read_to_end(&mut bytes).with_context(|| cut_off(package))?;
            ensure!(length as u64 == file.size(), "{}: it ends in the middle of {path}", cut_off(package));
            fs::write(&target, bytes).with_context(|| format!("cannot write {}", target.display()))?;
            taken += 1;
            if taken == most {
                break;
            }
        }
    }
    Ok(taken)
}

/// Returns whether the file was written less than `than` ago.
fn is_younger(path: &Path, than: Duration) -> bool {
    let age = || SystemTime::now().duration_since(fs::metadata(path).ok()?.modified().ok()?).ok();
    age().is_some_and(|age| age < than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    const LIST: &str = "\
Package: linux-binary-7.1.13+deb13-cloud-amd64
Version: 7.1.13-1~bpo13+1
Filename: pool/a.deb
Size: 13000000
SHA256: aa

Package: linux-image-7.1.13+deb13-cloud-amd64
Version: 7.1.13-1~bpo13+1
Filename: pool/b.deb
Size: 1916
SHA256: bb

Package: linux-modules-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1
Filename: pool/c.deb
Size: 23000000
SHA256: cc

Package: linux-binary-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1
Filename: pool/d.deb
Size: 13000000
SHA256: dd

Package: linux-image-6.1.0-56-amd64
Version: 6.1.192-2
Filename: pool/e.deb
Size: 69000000
SHA256: ee

Package: linux-image-6.1.0-56-amd64-dbg
Version: 6.1.192-2
Filename: pool/f.deb
Size: 690000000
SHA256: ff
";

    fn index() -> Index {
        let packages = parse_list(LIST.as_bytes(), "suite", "http://archive").unwrap();
        Index { packages, aliases: vec![("stable".into(), "suite".into())] }
    }

    #[test]
    fn a_list_is_searched_for_packages_that_hold_kernels() {
        let index = index();
        let names: Vec<&str> = index.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "linux-binary-7.1.13+deb13-cloud-amd64",
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-image-6.1.0-56-amd64",
            ]
        );
        assert_eq!(index.packages[0].url, "http://archive/pool/a.deb");
        assert_eq!(index.packages[0].release(), "7.1.13+deb13-cloud-amd64");
    }

    #[test]
    fn a_prefix_finds_the_newest() {
        let index = index();
        let newest = |prefix, flavor| index.newest(prefix, flavor).map(|package| package.version.as_str());
        assert_eq!(newest("7.1", "cloud-amd64"), Some("7.1.13-1~bpo13+1"));
        assert_eq!(newest("7", "cloud-amd64"), Some("7.3.4-1~bpo13+1"));
        assert_eq!(newest("6.1", "amd64"), Some("6.1.192-2"));
        assert_eq!(newest("6.1.0-56", "amd64"), Some("6.1.192-2"));
        assert_eq!(newest("6.1", "cloud-amd64"), None);
    }

    #[test]
    fn the_version_of_a_package_finds_it_again() {
        let package = |name: &str, version: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            suite: String::new(),
            url: String::new(),
            sha256: String::new(),
            size: SMALLEST,
        };
        let packages = [
            package("linux-binary-7.3-amd64", "7.3~rc7-1~exp1"),
            package("linux-binary-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            package("linux-image-6.1.0-56-amd64", "6.1.192-2"),
            package("linux-image-6.1.0-9-amd64", "6.1.27-1"),
            // Of the same upstream versions, and the first release is even a prefix of the second.
            package("linux-binary-7.3.4+deb14-amd64", "7.3.4-1"),
            package("linux-image-6.12.115+deb13-amd64", "6.12.115-1"),
            package("linux-image-6.12.115+deb13.1-amd64", "6.12.115-2"),
        ];
        let index = Index { packages: packages.to_vec(), aliases: Vec::new() };
        let short = packages.each_ref().map(Package::short_version);
        assert_eq!(short, ["7.3-rc7", "7.3.4", "6.1.0-56", "6.1.0-9", "7.3.4", "6.12.115", "6.12.115"]);
        for package in &packages {
            let spec: Spec = format!("{}/amd64", package.version).parse().unwrap();
            assert!(matches!(spec, Spec::Version { prefix, .. } if prefix == package.version));
            assert_eq!(index.newest(&package.version, "amd64"), Some(package));
        }
    }

    #[test]
    fn every_series_has_a_newest_kernel() {
        let of = |version: &str| Package {
            name: format!("linux-image-{version}-amd64"),
            version: format!("{version}-1"),
            suite: String::new(),
            url: String::new(),
            sha256: String::new(),
            size: SMALLEST,
        };
        let versions = ["7.1.3", "6.12.9", "7.3~rc7", "7.1.13", "6.1.5", "7.2~rc1"];
        let index = Index { packages: versions.map(of).to_vec(), aliases: Vec::new() };
        let newest: Vec<&str> =
            index.newest_of_each_series("amd64").iter().map(|package| upstream(&package.version)).collect();
        assert_eq!(newest, ["6.1.5", "6.12.9", "7.1.13", "7.3~rc7"]);
    }

    #[test]
    fn a_suite_has_a_newest_kernel_under_every_name() {
        let index = index();
        for suite in ["suite", "stable"] {
            assert_eq!(index.newest_of_suite(suite, "amd64").unwrap().version, "6.1.192-2");
        }
        assert!(index.newest_of_suite("sid", "amd64").is_none());
    }
}
