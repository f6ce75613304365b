//! The programs that the tests start, and where each comes from.
//!
//! A program that is missing is a failure which names its package: a test that
//! skips itself would look the same as one that passes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where `.ci/setup` installs programs of the Python Package Index and of npm's registry.
const EMULATORS: &str = "/opt/kaniko-rs-emulators/bin";

/// Program, and the Debian package that brings it, or the directory it is in.
const TOOLS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("azurite-blob", EMULATORS),
    ("s3rver", EMULATORS),
    ("buildah", "buildah"),
    ("busybox", "busybox-static"),
    ("bzip2", "bzip2"),
    ("chroot", "coreutils"),
    ("cp", "coreutils"),
    ("debootstrap", "debootstrap"),
    ("docker-registry", "docker-registry"),
    ("fake-gcs-server", EMULATORS),
    ("fcgiwrap", "fcgiwrap"),
    ("gcc", "gcc"),
    ("git", "git"),
    ("grep", "grep"),
    ("gzip", "gzip"),
    ("htpasswd", "apache2-utils"),
    ("igzip", "isal"),
    ("moto_server", EMULATORS),
    ("nginx", "nginx-light"),
    ("pigz", "pigz"),
    ("runc", "runc"),
    ("setcap", "libcap2-bin"),
    ("skopeo", "skopeo"),
    ("ssh", "openssh-client"),
    ("ssh-add", "openssh-client"),
    ("ssh-agent", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("strace", "strace"),
    ("tar", "tar"),
    ("umoci", "umoci"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Debian's `seccomp.json`: the profile that the pod's filter is made from.
pub(crate) const SECCOMP_PROFILE: &str = "/usr/share/containers/seccomp.json";

/// The package of [`SECCOMP_PROFILE`].
pub(crate) const SECCOMP_PACKAGE: &str = "golang-github-containers-common";

/// Where the tool named `name` lies; its package is named where it is missing.
pub(crate) fn find(name: &str) -> PathBuf {
    let package = TOOLS
        .iter()
        .find(|(tool, _)| *tool == name)
        .map(|(_, package)| *package)
        .unwrap_or_else(|| panic!("{name} is not in the table of tools"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", EMULATORS].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| match package {
            EMULATORS => panic!("{name} is not in {EMULATORS}: run .ci/setup"),
            package => panic!("{name} is not installed: apt-get install {package}"),
        })
}

/// A command for the tool, its standard input empty.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(find(name));
    command.stdin(Stdio::null());
    command
}

/// Runs a command that has to succeed, and gives its standard output.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the tool with these arguments; it has to succeed.
pub(crate) fn run<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> String {
    output(command(name).args(arguments))
}

/// Runs a script inside `root`, with `/proc`, `/dev` and the environment of a build step.
///
/// The mounts are those of a mount namespace, and end with it.
pub(crate) fn in_root(root: &Path, script: &str) -> String {
    const ENTER: &str = "mount --rbind /dev \"$1/dev\"; mount -t proc proc \"$1/proc\"; \
                         exec chroot \"$1\" /bin/sh -ec \"$2\"";
    output(
        command("unshare")
            .args(["--mount", "/bin/sh", "-ec", ENTER, "sh"])
            .arg(root)
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C"),
    )
}

/// Both streams of a finished command, for a message.
pub(crate) fn said(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("--- stdout\n{stdout}--- stderr\n{stderr}")
}

#[test]
fn every_tool_is_installed() {
    for (tool, _) in TOOLS {
        find(tool);
    }
    assert!(
        Path::new(SECCOMP_PROFILE).is_file(),
        "{SECCOMP_PROFILE} is missing: apt-get install {SECCOMP_PACKAGE}"
    );
}
