//! Git servers on loopback, of Debian's parts, each alive as long as its value.
//!
//! A [`Repository`] is made by git itself. It is served by nginx with
//! `git http-backend` behind fcgiwrap, open or to whoever logs in, by
//! `git daemon`, or by sshd. What a server needs lies in a directory of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::registry::{PASSWORD, USER, write_certificates};
use crate::tools;

/// Where Debian's git has its server programs.
pub(crate) const HTTP_BACKEND: &str = "/usr/lib/git-core/git-http-backend";

/// A server that does not listen by then does not work.
const LIMIT: Duration = Duration::from_secs(20);

/// A bare repository `NAME.git` in a directory, and a working tree to commit from.
pub(crate) struct Repository {
    bare: PathBuf,
    work: PathBuf,
}

impl Repository {
    /// An empty one, below `home`.
    pub(crate) fn new(home: &Path, name: &str) -> Self {
        let bare = home.join(format!("{name}.git"));
        let work = home.join(format!("{name}-work"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        git(home, &["init", "--quiet", "--bare", "--initial-branch=main", &text(&bare)]);
        git(&bare, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        git(&bare, &["update-server-info"]);
        git(home, &["init", "--quiet", "--initial-branch=main", &text(&work)]);
        git(&work, &["remote", "add", "origin", &text(&bare)]);
        Self { bare, work }
    }

    /// Commits these files on the current branch and pushes everything; answers the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.work.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        self.git(&["add", "--all", "--force"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=change"]);
        self.push();
        self.git(&["rev-parse", "HEAD"])
    }

    /// Sends all branches and tags to the bare repository.
    pub(crate) fn push(&self) {
        self.git(&["push", "--quiet", "--force", "--all", "origin"]);
        self.git(&["push", "--quiet", "--force", "--tags", "origin"]);
    }

    /// Runs git in the working tree; answers what it prints.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.work, arguments)
    }

    /// Runs git in the bare repository.
    pub(crate) fn git_bare(&self, arguments: &[&str]) -> String {
        git(&self.bare, arguments)
    }
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = tools::command("git");
    command
        .current_dir(dir)
        .env_remove("GIT_DIR")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .args(["-c", "user.name=Tester", "-c", "user.email=tester@example.org"])
        .args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"])
        .args(arguments);
    tools::output(&mut command).trim().to_owned()
}

/// How a server lets clients in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Open,
    /// [`USER`] with [`PASSWORD`], or [`TOKEN`] without one.
    Basic,
}

/// A token, which is a user without a password to hosts of repositories.
pub(crate) const TOKEN: &str = "canary-token-77b1";

/// A running server of all repositories below a directory.
pub(crate) struct Server {
    processes: Vec<Child>,
    address: String,
    home: TempDir,
}

impl Server {
    /// By HTTP: `http://ADDRESS/NAME.git`.
    pub(crate) fn web(repositories: &Path, login: Login) -> Self {
        Self::nginx(repositories, login, false)
    }

    /// By HTTPS, under [`Server::authority`]: `https://ADDRESS/NAME.git`.
    pub(crate) fn tls(repositories: &Path, login: Login) -> Self {
        Self::nginx(repositories, login, true)
    }

    fn nginx(repositories: &Path, login: Login, tls: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (listen, certificate) = match tls {
            false => ("", String::new()),
            true => {
                let (certificate, key) = write_certificates(home.path());
                let (certificate, key) = (certificate.display(), key.display());
                let lines = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
                (" ssl", lines)
            }
        };
        // Its workers are another user's.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = free_address();
        let socket = home.path().join("cgi.sock");
        let root = repositories.display();
        let dir = home.path().display();
        tools::run(
            "htpasswd",
            ["-bc", home.path().join("users").to_str().unwrap(), USER, PASSWORD],
        );
        tools::run("htpasswd", ["-b", home.path().join("users").to_str().unwrap(), TOKEN, ""]);
        let guard = match login {
            Login::Open => String::new(),
            Login::Basic => format!("auth_basic git; auth_basic_user_file {dir}/users;"),
        };
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{}}\n\
             http {{\n access_log {dir}/access.log; client_body_temp_path {dir}/body;\n\
             fastcgi_temp_path {dir}/fastcgi; proxy_temp_path {dir}/proxy;\n\
             uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ listen {address}{listen}; {certificate} {guard}\n\
             location / {{ fastcgi_pass unix:{socket};\n\
             fastcgi_param SCRIPT_FILENAME {HTTP_BACKEND};\n\
             fastcgi_param GIT_PROJECT_ROOT {root}; fastcgi_param GIT_HTTP_EXPORT_ALL 1;\n\
             fastcgi_param PATH_INFO $uri; fastcgi_param QUERY_STRING $query_string;\n\
             fastcgi_param REQUEST_METHOD $request_method; fastcgi_param CONTENT_TYPE $content_type;\n\
             fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param REMOTE_USER $remote_user;\n\
             fastcgi_param GIT_PROTOCOL $http_git_protocol; fastcgi_param HOME {dir};\n\
             fastcgi_param GIT_CONFIG_COUNT 1; fastcgi_param GIT_CONFIG_KEY_0 safe.directory;\n\
             fastcgi_param GIT_CONFIG_VALUE_0 *; }} }} }}\n",
            socket = socket.display(),
        );
        fs::write(home.path().join("nginx.conf"), config).unwrap();
        let cgi =
            spawn(tools::command("fcgiwrap").arg("-s").arg(format!("unix:{}", socket.display())));
        let nginx = spawn(
            tools::command("nginx")
                .args(["-e", "stderr", "-p"])
                .arg(home.path())
                .args(["-c", "nginx.conf"]),
        );
        let mut server = Self { processes: vec![nginx, cgi], address, home };
        server.wait_for(Some(&socket));
        server
    }

    /// By `git daemon`: `git://ADDRESS/NAME.git`.
    pub(crate) fn daemon(repositories: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let address = free_address();
        let (host, port) = address.split_once(':').unwrap();
        let daemon = spawn(
            tools::command("git")
                .env("HOME", "/nonexistent")
                .args(["-c", "safe.directory=*", "daemon", "--export-all", "--reuseaddr"])
                .arg(format!("--listen={host}"))
                .arg(format!("--port={port}"))
                .arg(format!("--base-path={}", repositories.display())),
        );
        let mut server = Self { processes: vec![daemon], address, home };
        server.wait_for(None);
        server
    }

    /// By sshd: `ssh://root@ADDRESS/PATH`, for whoever has the key at [`Server::key`].
    pub(crate) fn ssh() -> Self {
        let home = tempfile::tempdir().unwrap();
        let address = free_address();
        let dir = home.path().display();
        for name in ["host", "key"] {
            let file = home.path().join(name);
            tools::run(
                "ssh-keygen",
                ["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()],
            );
        }
        fs::copy(home.path().join("key.pub"), home.path().join("authorized")).unwrap();
        let (host, port) = address.split_once(':').unwrap();
        let config = format!(
            "ListenAddress {host}\nPort {port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n"
        );
        fs::write(home.path().join("sshd_config"), config).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let known = fs::read_to_string(home.path().join("host.pub")).unwrap();
        fs::write(home.path().join("known"), format!("[{host}]:{port} {known}")).unwrap();
        let config = format!(
            "Host *\n IdentityFile {dir}/key\n UserKnownHostsFile {dir}/known\n BatchMode yes\n"
        );
        fs::write(home.path().join("config"), config).unwrap();
        let sshd = spawn(
            Command::new(tools::find("sshd"))
                .args(["-D", "-e", "-f"])
                .arg(home.path().join("sshd_config")),
        );
        let mut server = Self { processes: vec![sshd], address, home };
        server.wait_for(None);
        server
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The certificate of the authority that signed the server's own.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home.path().join("trust/ca.crt")
    }

    /// Configuration for ssh that knows the server and may log in.
    pub(crate) fn ssh_config(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// The private key that may log in by ssh.
    pub(crate) fn key(&self) -> PathBuf {
        self.home.path().join("key")
    }

    /// The server's key, as clients of ssh know it.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.home.path().join("known")
    }

    /// The requests so far, a line each.
    pub(crate) fn requests(&self) -> String {
        fs::read_to_string(self.home.path().join("access.log")).unwrap_or_default()
    }

    fn wait_for(&mut self, socket: Option<&Path>) {
        let end = Instant::now() + LIMIT;
        loop {
            let listens = TcpStream::connect(&self.address).is_ok();
            if listens && socket.is_none_or(Path::exists) {
                return;
            }
            for process in &mut self.processes {
                assert!(process.try_wait().unwrap().is_none(), "the server ended");
            }
            assert!(Instant::now() < end, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        for process in &mut self.processes {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
            let _ = kill(pid, Signal::SIGTERM);
            let _ = process.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// An address that was free a moment ago: these servers cannot be asked which one they took.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
