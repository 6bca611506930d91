//! What test cases require, and how the sandbox provides it.
//!
//! A missing *feature* makes the case `unsupported`: the kernel does not have it. A missing *permission* or
//! *facility* makes it `blocked`: the environment forbids it. Some needs are provided in the case's own
//! process: privileges are dropped, or gained in a user namespace.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::check::{Failure, Result};
use crate::kit::privilege;
use crate::probe::{Clone3State, Probe};
use crate::{note, sandbox};

/// A requirement of a test case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// The kernel knows `CLONE_AUTOREAP`.
    Autoreap,
    /// The kernel knows `CLONE_NNP`.
    Nnp,
    /// The kernel knows `CLONE_PIDFD_AUTOKILL`.
    Autokill,
    /// The ioctl `PIDFD_GET_INFO`.
    PidfdInfo,
    /// `PIDFD_INFO_EXIT`: exit information of dead processes.
    ExitInfo,
    /// `PIDFD_INFO_COREDUMP`.
    CoredumpMask,
    /// `PIDFD_INFO_SUPPORTED_MASK`.
    SupportedMask,
    /// `PIDFD_INFO_COREDUMP_SIGNAL`.
    CoredumpSignal,
    /// `PIDFD_INFO_COREDUMP_CODE`.
    CoredumpCode,
    /// Real root: uid 0 with all capabilities in the initial user namespace.
    Root,
    /// An unprivileged user without capabilities. Root becomes one, and a user with capabilities drops them.
    Unprivileged,
    /// CAP_SYS_ADMIN in the caller's user namespace. An unprivileged user creates a user namespace to get it.
    SysAdmin,
    /// CAP_CHECKPOINT_RESTORE over the pid namespace, for set_tid.
    CheckpointRestore,
    /// Permission to create user namespaces.
    UserNamespaces,
    /// Permission to create pid namespaces. An unprivileged user creates a user namespace to get it.
    PidNamespace,
    /// Permission to trace one's own processes with ptrace(2).
    Ptrace,
    /// No process traces the children of the case, as a tracer of the suite that follows forks would.
    Untraced,
    /// no_new_privs is not set yet.
    NotYetNnp,
    /// `/proc` is mounted.
    Proc,
    /// A writable cgroup of version 2: root, and the hierarchy mounted or mountable.
    Cgroup2,
    /// Permission to change a global setting briefly, and to run alone meanwhile (`--allow-global-changes`).
    GlobalChanges,
}

/// The reason why a need is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The kernel does not have it.
    Unsupported(String),
    /// The environment forbids it.
    Blocked(String),
}

static SETTING: OnceLock<Setting> = OnceLock::new();

/// What is known before any test case runs.
#[derive(Debug)]
pub struct Setting {
    /// The kernel's features and the caller's privileges.
    pub probe: Probe,
    /// `--allow-global-changes`.
    pub allow_global_changes: bool,
    /// `--stress N`: the factor by which statistical loops are longer.
    pub stress: u32,
    /// `--strict`: what mainline does counts even where no document says so.
    pub strict: bool,
    /// The release whose claims count: `--as-linux`, or `uname -r`.
    pub judged_as: String,
}

impl Setting {
    /// Installs this as the setting of the whole program. Call it once, before the sandbox starts.
    pub fn install(self) -> &'static Setting {
        SETTING.get_or_init(|| self)
    }

    /// Returns the setting. Probes the kernel if none was installed.
    pub fn get() -> &'static Setting {
        SETTING.get_or_init(|| {
            let probe = Probe::run();
            let judged_as = probe.release.clone();
            Setting { probe, allow_global_changes: false, stress: 1, strict: false, judged_as }
        })
    }
}

/// Returns the rounds of a statistical loop: `base` of them, multiplied by the `--stress` factor. The
/// additional rounds end when half of the case's time has passed, to leave time for what follows.
pub fn rounds(base: u32) -> impl Iterator<Item = u32> {
    let all = base.saturating_mul(Setting::get().stress);
    (0..all).take_while(move |round| {
        let goes_on = *round < base || sandbox::is_half_time_left();
        if !goes_on {
            note!("{round} of {all} rounds: half of the time is over");
        }
        goes_on
    })
}

impl Need {
    /// The features of the kernel, which do not depend on the caller's privileges.
    pub const FEATURES: [Need; 9] = [
        Need::Autoreap,
        Need::Nnp,
        Need::Autokill,
        Need::PidfdInfo,
        Need::ExitInfo,
        Need::CoredumpMask,
        Need::SupportedMask,
        Need::CoredumpSignal,
        Need::CoredumpCode,
    ];

    /// Returns the name for users.
    pub fn name(self) -> &'static str {
        match self {
            Need::Autoreap => "CLONE_AUTOREAP",
            Need::Nnp => "CLONE_NNP",
            Need::Autokill => "CLONE_PIDFD_AUTOKILL",
            Need::PidfdInfo => "PIDFD_GET_INFO",
            Need::ExitInfo => "PIDFD_INFO_EXIT",
            Need::CoredumpMask => "PIDFD_INFO_COREDUMP",
            Need::SupportedMask => "PIDFD_INFO_SUPPORTED_MASK",
            Need::CoredumpSignal => "PIDFD_INFO_COREDUMP_SIGNAL",
            Need::CoredumpCode => "PIDFD_INFO_COREDUMP_CODE",
            Need::Root => "root with all capabilities",
            Need::Unprivileged => "an ordinary user",
            Need::SysAdmin => "CAP_SYS_ADMIN",
            Need::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
            Need::UserNamespaces => "user namespaces",
            Need::PidNamespace => "pid namespaces",
            Need::Ptrace => "permission to trace with ptrace(2)",
            Need::Untraced => "no tracer",
            Need::NotYetNnp => "no_new_privs not set",
            Need::Proc => "/proc",
            Need::Cgroup2 => "cgroup2",
            Need::GlobalChanges => "leave to change global settings",
        }
    }

    /// Returns the first mainline series that has the feature, or `None` if this is not a feature of the
    /// kernel.
    pub fn since(self) -> Option<&'static str> {
        Some(match self {
            Need::Autoreap | Need::Nnp | Need::Autokill | Need::CoredumpCode => "7.1",
            Need::SupportedMask | Need::CoredumpSignal => "6.19",
            Need::CoredumpMask => "6.16",
            Need::ExitInfo => "6.15",
            Need::PidfdInfo => "6.13",
            _ => return None,
        })
    }

    /// Returns the kernel feature with this name.
    pub fn feature(name: &str) -> Option<Need> {
        Need::FEATURES.into_iter().find(|need| need.name() == name)
    }

    /// Returns whether a kernel without `other` lacks this feature too: every field of PIDFD_GET_INFO needs
    /// the ioctl.
    pub fn implies(self, other: Need) -> bool {
        self == other || (other == Need::PidfdInfo && self.is_feature() && !self.is_flag())
    }

    /// Returns whether this is one of the three clone flags.
    fn is_flag(self) -> bool {
        matches!(self, Need::Autoreap | Need::Nnp | Need::Autokill)
    }

    fn is_feature(self) -> bool {
        Need::FEATURES.contains(&self)
    }

    fn is_there(self, setting: &Setting) -> bool {
        let Setting { probe: Probe { features, privileges: may, .. }, .. } = setting;
        match self {
            Need::Root => may.root,
            Need::Unprivileged => may.ordinary_user,
            Need::SysAdmin => may.sys_admin || may.user_namespaces,
            Need::CheckpointRestore => may.checkpoint_restore,
            Need::UserNamespaces => may.user_namespaces,
            Need::PidNamespace => may.pid_namespaces,
            Need::Ptrace => may.ptrace,
            Need::Untraced => may.untraced,
            Need::NotYetNnp => !may.no_new_privs,
            Need::Proc => crate::procfs::is_mounted(),
            Need::Cgroup2 => may.root && crate::kit::cgroup::is_reachable(),
            Need::GlobalChanges => setting.allow_global_changes,
            feature => features.has(feature),
        }
    }

    fn complaint(self) -> String {
        match self {
            Need::GlobalChanges => {
                "changes a global setting for an instant: allow it with --allow-global-changes".to_owned()
            }
            Need::Untraced => "the suite is traced, and its children with it".to_owned(),
            Need::NotYetNnp => "the caller has no_new_privs set already".to_owned(),
            Need::Root => "needs root with all capabilities in the initial user namespace".to_owned(),
            Need::Cgroup2 => "needs root, and cgroup2 mounted or mountable".to_owned(),
            other => format!("needs {}", other.name()),
        }
    }
}

/// Returns what keeps a case with these needs from running here, or `None` if nothing does.
///
/// A missing feature takes precedence over a missing permission, because the permission would not help.
pub fn unmet(needs: &[Need], setting: &Setting) -> Option<Unmet> {
    if let Clone3State::Blocked(reason) = &setting.probe.clone3 {
        return Some(Unmet::Blocked(reason.clone()));
    }
    let missing: Vec<Need> = needs.iter().copied().filter(|need| !need.is_there(setting)).collect();
    let features: Vec<&str> =
        missing.iter().filter(|need| need.is_feature()).map(|need| need.name()).collect();
    if setting.probe.clone3 == Clone3State::Missing {
        return Some(Unmet::Unsupported(format!("Linux {} has no clone3", setting.probe.release)));
    }
    if let Some(reason) = setting.probe.filter_on_flags()
        && missing.iter().any(|need| need.is_flag())
    {
        return Some(Unmet::Blocked(reason));
    }
    if !features.is_empty() {
        return Some(Unmet::Unsupported(format!(
            "Linux {} has no {}",
            setting.probe.release,
            features.join(", no ")
        )));
    }
    let mut complaints: Vec<String> = missing.iter().map(|need| need.complaint()).collect();
    if are_namespaces_left_to_root(needs, setting) {
        complaints.push("needs user namespaces, which here an ordinary user may not make".to_owned());
    }
    (!complaints.is_empty()).then(|| Unmet::Blocked(complaints.join("; ")))
}

/// Returns whether the case needs an unprivileged user that creates user namespaces, where only root may
/// create them.
fn are_namespaces_left_to_root(needs: &[Need], setting: &Setting) -> bool {
    let may = &setting.probe.privileges;
    let both = [Need::Unprivileged, Need::UserNamespaces].iter().all(|need| needs.contains(need));
    both && may.ordinary_user && may.user_namespaces && !may.ordinary_user_namespaces
}

/// Provides those needs that can be provided, in the process of the case and before its body runs.
pub(crate) fn prepare(needs: &[Need]) -> Result {
    let setting = Setting::get();
    match unmet(needs, setting) {
        None => {}
        Some(Unmet::Blocked(reason)) => return Err(Failure::blocked(reason)),
        Some(Unmet::Unsupported(reason)) => return Err(Failure::unsupported(reason)),
    }
    let may = &setting.probe.privileges;
    if needs.contains(&Need::Unprivileged) {
        privilege::become_unprivileged()?;
    }
    let wants_admin = [Need::SysAdmin, Need::PidNamespace].iter().any(|need| needs.contains(need));
    if wants_admin && !may.sys_admin {
        privilege::enter_user_namespace()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::probe::Features;

    #[test]
    fn every_feature_has_a_name_and_a_first_kernel() {
        for need in Need::FEATURES {
            assert!(need.since().is_some(), "{need:?}");
            assert_eq!(Need::feature(need.name()), Some(need));
        }
        assert_eq!(Need::feature("/proc"), None);
        assert!(Need::CoredumpCode.implies(Need::PidfdInfo) && !Need::PidfdInfo.implies(Need::CoredumpCode));
        assert!(!Need::Autokill.implies(Need::PidfdInfo) && !Need::Proc.implies(Need::PidfdInfo));
    }

    #[test]
    fn every_feature_that_the_probe_finds_is_one_need() {
        let none = serde_json::to_value(Probe::run().features).expect("features have a text");
        let none: BTreeMap<String, bool> = serde_json::from_value(none).expect("each is a yes or a no");
        let none: BTreeMap<_, _> = none.into_keys().map(|name| (name, false)).collect();
        assert_eq!(none.len(), Need::FEATURES.len());
        for name in none.keys() {
            let mut one = none.clone();
            one.insert(name.clone(), true);
            let one: Features = serde_json::from_value(serde_json::json!(one)).expect("features");
            assert_eq!(Need::FEATURES.into_iter().filter(|need| one.has(*need)).count(), 1, "{name}");
        }
    }

    fn setting() -> Setting {
        let (probe, judged_as) = (Probe::run(), String::new());
        Setting { probe, allow_global_changes: false, stress: 1, strict: false, judged_as }
    }

    #[test]
    fn a_missing_flag_is_unsupported_and_named() {
        let mut setting = setting();
        setting.probe.clone3 = Clone3State::Works;
        setting.probe.features.autoreap = false;
        setting.probe.features.nnp = false;
        setting.probe.privileges.root = false;
        setting.probe.release = "6.1".into();
        let why = unmet(&[Need::Root, Need::Autoreap, Need::Nnp], &setting);
        let expected = "Linux 6.1 has no CLONE_AUTOREAP, no CLONE_NNP";
        assert_eq!(why, Some(Unmet::Unsupported(expected.into())));
    }

    #[test]
    fn every_missing_permission_is_listed() {
        let mut setting = setting();
        setting.probe.clone3 = Clone3State::Works;
        setting.probe.privileges.root = false;
        let Some(Unmet::Blocked(why)) = unmet(&[Need::Root, Need::GlobalChanges], &setting) else { panic!() };
        assert!(why.contains("root") && why.contains("--allow-global-changes"), "{why}");
    }

    #[test]
    fn namespaces_that_only_root_may_make_are_missed_by_who_is_to_be_an_ordinary_user() {
        let mut setting = setting();
        setting.probe.clone3 = Clone3State::Works;
        let may = &mut setting.probe.privileges;
        (may.ordinary_user, may.user_namespaces, may.ordinary_user_namespaces) = (true, true, false);
        assert_eq!(unmet(&[Need::UserNamespaces], &setting), None);
        let why = unmet(&[Need::Unprivileged, Need::UserNamespaces], &setting);
        assert!(
            matches!(&why, Some(Unmet::Blocked(why)) if why.contains("ordinary user may not")),
            "{why:?}"
        );
    }

    #[test]
    fn a_filter_in_front_of_clone3_blocks_even_cases_without_needs() {
        let mut setting = setting();
        setting.probe.clone3 = Clone3State::Blocked("clone3 answers EPERM".into());
        assert_eq!(unmet(&[], &setting), Some(Unmet::Blocked("clone3 answers EPERM".into())));
    }
}
