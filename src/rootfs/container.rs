//! Whether this is a container, by the signs that container runtimes leave.

use std::path::Path;

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// It is one; the sign tells what gave it away.
    Yes(String),
    /// Nothing says that it is one.
    No,
}

/// Files that only container runtimes make.
const MARKS: [&str; 5] = [
    "/.dockerenv",
    "/run/.containerenv",
    "/run/systemd/container",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/__runsc_containers__",
];

/// Names that container runtimes put into the path of a control group.
const WORDS: [&str; 9] =
    ["docker", "kube", "containerd", "podman", "libpod", "lxc", "garden", "rkt", "crio"];

/// Looks for signs of a container on this machine.
pub fn container() -> Container {
    if let Some(mark) = MARKS.iter().find(|mark| Path::new(mark).exists()) {
        return Container::Yes((*mark).to_owned());
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    by_text(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

fn by_text(cgroup: &str, mountinfo: &str) -> Container {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    if let Some(word) = WORDS.iter().find(|word| paths.clone().any(|path| path.contains(**word))) {
        return Container::Yes(format!("{word:?} in /proc/self/cgroup"));
    }
    // Field 5 is the mount point; the file system type follows the separator.
    let overlay_root = mountinfo.lines().any(|line| {
        line.split(' ').nth(4) == Some("/")
            && line.split(" - ").nth(1).is_some_and(|tail| tail.starts_with("overlay "))
    });
    if overlay_root {
        return Container::Yes("an overlay file system on /".to_owned());
    }
    Container::No
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_in_text() {
        let plain = "22 1 254:0 / / rw - ext4 /dev/vda rw";
        for (cgroup, mounts, want) in [
            ("0::/", plain, None),
            ("0::/user.slice", plain, None),
            ("0::/kubepods/burstable/x", plain, Some("\"kube\" in /proc/self/cgroup")),
            ("0::/", "9 8 0:1 / / rw - overlay overlay rw", Some("an overlay file system on /")),
            ("0::/", "9 8 0:1 / /x rw - overlay overlay rw", None),
        ] {
            let want = want.map_or(Container::No, |sign| Container::Yes(sign.to_owned()));
            assert_eq!(by_text(cgroup, mounts), want, "{cgroup} {mounts}");
        }
    }
}
