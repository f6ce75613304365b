//! A real SSH agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::tools;

/// An agent with one key, ended by its process id.
pub(crate) struct Agent {
    home: TempDir,
    pid: Pid,
}

impl Agent {
    /// With a key of its own.
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key");
        let mut arguments =
            ["-q", "-t", "ed25519", "-N", "", "-C", "x", "-f"].map(Path::new).to_vec();
        arguments.push(&key);
        tools::run("ssh-keygen", arguments);
        Self::with_key(home, &key)
    }

    /// With this private key.
    pub(crate) fn with(key: &Path) -> Self {
        Self::with_key(tempfile::tempdir().unwrap(), key)
    }

    fn with_key(home: TempDir, key: &Path) -> Self {
        // It listens before it goes to the background.
        let socket = home.path().join("socket");
        let said = tools::run("ssh-agent", [Path::new("-s"), Path::new("-a"), &socket]);
        let pid = said.split("SSH_AGENT_PID=").nth(1).unwrap().split(';').next().unwrap();
        let agent = Self { pid: Pid::from_raw(pid.parse().unwrap()), home };
        let added = agent.command("ssh-add").arg("-q").arg(key).status().unwrap();
        assert!(added.success(), "ssh-add {}", key.display());
        agent
    }

    /// A directory that goes with it.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// The key of its own as agents tell it, in hexadecimal digits.
    pub(crate) fn key(&self) -> String {
        let public = fs::read_to_string(self.home.path().join("key.pub")).unwrap();
        let blob = public.split(' ').nth(1).unwrap();
        let decode = "base64 -d | od -An -v -tx1 | tr -d ' \\n'";
        tools::run("busybox", ["sh", "-c", &format!("echo {blob} | {decode}")])
    }

    /// A command that speaks to it.
    pub(crate) fn command(&self, tool: &str) -> Command {
        let mut command = tools::command(tool);
        command.env("SSH_AUTH_SOCK", self.socket());
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGTERM);
    }
}
