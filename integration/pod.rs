//! A container with what a Kubernetes pod gets by default.
//!
//! runc starts it from an overlay that holds the executor and nothing else:
//! Docker's capabilities, a default seccomp profile, masked paths, its own PID,
//! mount, IPC and UTS namespaces, the host's network. The executor is its first
//! process. Container, mount and directories go when the value is dropped.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::executor::files_below;
use crate::tools;

/// What Docker and containerd give to a container that asks for nothing.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Calls that Docker's profile keeps for `CAP_SYS_ADMIN` and Debian's, made for Podman, allows.
const ADMINISTRATION: [&str; 18] = [
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "quotactl",
    "quotactl_fd",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// All `CLONE_NEW*` flags: Docker's profile compares them with none.
const CLONE_NAMESPACES: u32 = 0x7E02_0000;

/// In what a pod may differ from the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Privileges {
    /// Kubernetes' `allowPrivilegeEscalation: false`.
    pub(crate) no_new_privs: bool,
    /// A shell is the first process, and the executor its child.
    pub(crate) below_shell: bool,
    /// Capabilities beside [`CAPABILITIES`].
    pub(crate) added: &'static [&'static str],
    /// A capability of [`CAPABILITIES`] that is missing.
    pub(crate) dropped: Option<&'static str>,
    /// Limit of the container's memory in bytes.
    pub(crate) memory: Option<u64>,
    /// Kubernetes' `hostUsers: false`: its root is [`MAPPED_ROOT`] of the host.
    pub(crate) user_namespace: bool,
}

/// The first user of the host whom a container in a user namespace has.
pub(crate) const MAPPED_ROOT: u32 = 100_000;

impl Privileges {
    pub(crate) const DEFAULT: Self = Self {
        no_new_privs: false,
        below_shell: false,
        added: &[],
        dropped: None,
        memory: None,
        user_namespace: false,
    };

    fn capabilities(&self) -> Vec<&'static str> {
        let kept = CAPABILITIES.into_iter().filter(|name| Some(*name) != self.dropped);
        kept.chain(self.added.iter().copied()).collect()
    }

    /// How the executor is started; its arguments follow.
    fn command_line(&self) -> Vec<String> {
        // The `exit` keeps the shell from becoming the executor.
        let below_shell = ["/kaniko/busybox", "sh", "-c", "/kaniko/executor \"$@\"; exit $?", "sh"];
        let alone = ["/kaniko/executor"];
        let line: &[&str] = if self.below_shell { &below_shell } else { &alone };
        line.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// A container that is set up, and perhaps running.
pub(crate) struct Pod {
    home: TempDir,
    name: String,
    privileges: Privileges,
    mounts: Vec<Value>,
    environment: Vec<String>,
    command_line: Vec<String>,
}

impl Pod {
    /// Lays out a root that holds `executor` as `/kaniko/executor`.
    pub(crate) fn new(executor: &Path, privileges: Privileges) -> Self {
        let mut pod = Self::with_root(privileges, |root| fill_root(root, executor));
        pod.command_line = privileges.command_line();
        pod
    }

    /// A container whose root `fill` lays out, and whose command the caller gives.
    pub(crate) fn with_root(privileges: Privileges, fill: impl FnOnce(&Path)) -> Self {
        let home = tempfile::Builder::new().prefix("pod-").tempdir().expect("a pod's directory");
        let name = home.path().file_name().expect("a name").to_string_lossy().into_owned();
        for part in ["lower", "upper", "work", "root", "state", "etc"] {
            fs::create_dir(home.path().join(part)).expect("a directory of the pod");
        }
        let lower = home.path().join("lower");
        fill(&lower);
        fill_mount_points(&lower);
        if privileges.user_namespace {
            give_to_mapped_root(home.path());
        }
        let pod = Self {
            home,
            name,
            privileges,
            mounts: standard_mounts(privileges.user_namespace),
            environment: standard_environment(),
            command_line: Vec::new(),
        };
        pod.mount_overlay();
        pod.with_network_files()
    }

    /// Mounts a host path into the container; `access` is `ro` or `rw`.
    pub(crate) fn mount(mut self, source: &Path, destination: &str, access: &str) -> Self {
        self.mounts.push(json!({
            "type": "bind",
            "source": source,
            "destination": destination,
            "options": ["rbind", "rprivate", access],
        }));
        self
    }

    /// Sets a variable of the executor; it takes the place of a default.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|variable| !variable.starts_with(&format!("{name}=")));
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The executor's arguments.
    pub(crate) fn arguments(mut self, arguments: Vec<String>) -> Self {
        self.command_line.extend(arguments);
        self
    }

    /// Writes the bundle's config and gives the command that runs it.
    pub(crate) fn command(&self) -> Command {
        let config = self.config().to_string();
        fs::write(self.part("config.json"), config).expect("config.json is written");
        let mut runc = self.runc();
        runc.arg("run").arg("--bundle").arg(self.home.path()).arg(&self.name);
        runc
    }

    /// Ends every process of the container.
    pub(crate) fn kill(&self) {
        // There may be no container any more, and that is what was wanted.
        let _ = self.runc().args(["delete", "--force", &self.name]).output();
    }

    /// What the build wrote into the executor's own directory or into `/tmp`.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = files_below(&self.part("upper/kaniko"));
        left.extend(files_below(&self.part("upper/tmp")));
        left
    }

    /// What was written in the container, mounts aside.
    pub(crate) fn written(&self) -> PathBuf {
        self.part("upper")
    }

    /// The names in the container's root, as the build left it.
    pub(crate) fn root(&self) -> Vec<String> {
        let entries = fs::read_dir(self.part("root")).expect("the overlay is mounted");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.sort();
        names
    }

    /// What the build left in the container's root: path, mode and owner, and what is in short files.
    pub(crate) fn left_in_root(&self) -> Vec<String> {
        let root = self.part("root");
        let mut lines: Vec<String> = Vec::new();
        let mut pending = vec![root.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).expect("the overlay is mounted") {
                let path = entry.expect("an entry").path();
                let about = fs::symlink_metadata(&path).expect("it is there");
                let short = about.is_file() && about.len() < 100;
                let bytes = if short { fs::read(&path).expect("a file") } else { Vec::new() };
                let text = String::from_utf8_lossy(&bytes);
                let name = path.strip_prefix(&root).expect("below the root").display();
                lines.push(format!(
                    "{name} {:o} {}:{} {text:?}",
                    about.mode(),
                    about.uid(),
                    about.gid()
                ));
                pending.extend(about.is_dir().then_some(path));
            }
        }
        lines.sort();
        lines
    }

    fn part(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn runc(&self) -> Command {
        let mut runc = tools::command("runc");
        runc.arg("--root").arg(self.part("state"));
        runc
    }

    fn mount_overlay(&self) {
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.part("lower").display(),
            self.part("upper").display(),
            self.part("work").display()
        );
        nix::mount::mount(
            Some("overlay"),
            &self.part("root"),
            Some("overlay"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("an overlay for the pod's root");
    }

    fn with_network_files(self) -> Self {
        for name in ["resolv.conf", "hosts"] {
            fs::copy(format!("/etc/{name}"), self.part("etc").join(name)).expect("the host's file");
        }
        fs::write(self.part("etc/hostname"), "pod\n").expect("a host name");
        ["resolv.conf", "hosts", "hostname"].into_iter().fold(self, |pod, name| {
            let source = pod.part("etc").join(name);
            pod.mount(&source, &format!("/etc/{name}"), "rw")
        })
    }

    fn config(&self) -> Value {
        let capabilities = self.privileges.capabilities();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": self.command_line,
                "cwd": "/",
                "env": self.environment,
                "noNewPrivileges": self.privileges.no_new_privs,
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 20000}],
            },
            "root": {"path": self.part("root"), "readonly": false},
            "mounts": self.mounts,
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
                "rootfsPropagation": "rprivate",
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "seccomp": seccomp(&capabilities),
            },
        });
        if let Some(limit) = self.privileges.memory {
            config["linux"]["resources"] = json!({"memory": {"limit": limit, "swap": limit}});
        }
        if self.privileges.user_namespace {
            let map = json!([{"containerID": 0, "hostID": MAPPED_ROOT, "size": 65_536}]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.push(json!({"type": "user"}));
        }
        config
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.kill();
        // A container that outlived its end still holds the mount; then it goes with the container.
        let _ = nix::mount::umount2(&self.part("root"), nix::mount::MntFlags::MNT_DETACH);
    }
}

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn standard_environment() -> Vec<String> {
    [
        "PATH=/usr/local/bin:/kaniko",
        "HOME=/root",
        "USER=root",
        "SSL_CERT_DIR=/kaniko/ssl/certs",
        "DOCKER_CONFIG=/kaniko/.docker/",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Files and directories below `top` belong to the container's root, and it can come there.
pub(crate) fn give_to_mapped_root(top: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(top, mode).expect("a directory that was just made");
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        std::os::unix::fs::lchown(&path, Some(MAPPED_ROOT), Some(MAPPED_ROOT)).expect("root may");
        if path.symlink_metadata().expect("it is there").is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            pending.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
}

/// In a user namespace that has no network of its own, the kernel mounts no sysfs: runtimes then show the host's.
fn standard_mounts(in_user_namespace: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let quiet = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", &quiet),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        match in_user_namespace {
            false => mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            true => json!({"destination": "/sys", "type": "bind", "source": "/sys",
                           "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
        },
        mount("/dev/mqueue", "mqueue", &quiet),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ]
}

/// What an image of the executor holds.
fn fill_root(root: &Path, executor: &Path) {
    for directory in ["kaniko/.docker", "kaniko/ssl/certs", "etc", "root", "workspace", "out"] {
        fs::create_dir_all(root.join(directory)).expect("a directory of the image");
    }
    fs::copy(executor, root.join("kaniko/executor")).expect("the executor is copied");
    fs::copy(tools::find("busybox"), root.join("kaniko/busybox")).expect("busybox is copied");
    fs::write(root.join("kaniko/.docker/config.json"), r#"{"auths":{}}"#).expect("config.json");
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").expect("nsswitch.conf");
}

/// What a container runtime makes in any root.
fn fill_mount_points(root: &Path) {
    for mount_point in ["proc", "sys", "dev", "etc"] {
        fs::create_dir_all(root.join(mount_point)).expect("a mount point of the image");
    }
    for mounted in ["resolv.conf", "hosts", "hostname"] {
        fs::write(root.join("etc").join(mounted), "").expect("a file to mount over");
    }
    fs::write(root.join(".dockerenv"), "").expect("the mark of a container");
}

/// The profile in runc's form, for this machine and these capabilities.
fn seccomp(capabilities: &[&str]) -> Value {
    let path = tools::SECCOMP_PROFILE;
    let text = fs::read(path).unwrap_or_else(|error| {
        panic!("{path}: {error}: apt-get install {}", tools::SECCOMP_PACKAGE)
    });
    let profile: Value = serde_json::from_slice(&text).expect("the profile is JSON");
    let rules = profile["syscalls"].as_array().expect("a profile has rules");
    let mut chosen: Vec<Value> =
        rules.iter().filter(|rule| applies(rule, capabilities)).map(runc_rule).collect();
    if !capabilities.contains(&"CAP_SYS_ADMIN") {
        restrict(&mut chosen);
    }
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": chosen,
    })
}

fn applies(rule: &Value, capabilities: &[&str]) -> bool {
    let names = |pointer: &str| -> Vec<&str> {
        let list = rule.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let here = crate::craft::machine();
    let architectures = names("/includes/arches");
    (architectures.is_empty() || architectures.contains(&here))
        && !names("/excludes/arches").contains(&here)
        && names("/includes/caps").iter().all(|name| capabilities.contains(name))
        && !names("/excludes/caps").iter().any(|name| capabilities.contains(name))
}

fn runc_rule(rule: &Value) -> Value {
    let mut runc = json!({"names": rule["names"], "action": rule["action"]});
    for field in ["errnoRet", "args"] {
        if !rule[field].is_null() {
            runc[field] = rule[field].clone();
        }
    }
    runc
}

/// Takes back what Docker's profile does not allow without `CAP_SYS_ADMIN`.
fn restrict(rules: &mut Vec<Value>) {
    let kept = |name: &Value| {
        name.as_str().is_none_or(|name| name != "clone" && !ADMINISTRATION.contains(&name))
    };
    for rule in rules.iter_mut() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(kept);
        }
    }
    rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
    let no_namespace =
        json!({"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"});
    let (enosys, eperm) = (38, 1);
    rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespace]}));
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": enosys}));
    rules.push(json!({
        "names": &ADMINISTRATION[1..],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": eperm,
    }));
}

/// Runs a BusyBox script where the executor would run, and gives what it printed.
#[cfg(test)]
fn script(privileges: Privileges, script: &str) -> String {
    let mut pod = Pod::new(&tools::find("busybox"), privileges);
    pod.command_line = ["/kaniko/busybox", "sh", "-c", script].map(str::to_owned).to_vec();
    let output = pod.command().output().expect("runc runs");
    tools::said(&output)
}

#[test]
fn a_pod_has_docker_s_capabilities_and_no_namespaces() {
    let said = script(
        Privileges::DEFAULT,
        "PATH=/none; b=/kaniko/busybox; $b grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status; \
         $b unshare -m $b true; $b unshare -U $b true; $b mount -t tmpfs none /out; \
         $b id -u; echo pid=$$; $b touch /new && $b ls /",
    );
    for part in [
        "CapEff:\t00000000a80425fb",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "unshare",
        "Operation not permitted",
        "pid=1",
        "workspace",
        "new",
    ] {
        assert!(said.contains(part), "nothing about {part:?} in:\n{said}");
    }
}

#[test]
fn a_pod_leaves_no_mount() {
    let home;
    {
        let pod = Pod::new(&tools::find("busybox"), Privileges::DEFAULT);
        home = pod.home.path().to_owned();
        assert!(home.join("root/kaniko/executor").exists());
    }
    assert!(!home.exists(), "{} is left", home.display());
}
