//! The instructions of a Dockerfile as values.
//!
//! Nothing here is expanded: a [`Word`] is what was written, and whoever knows the variables at that
//! point of the build expands it. What the reference checks only when a stage is built (mount options,
//! ports) is kept as written too, so that a fault in a stage nobody asked for stays harmless.

use std::time::Duration;

use super::heredoc::Heredoc;
use super::mount::MountSpec;
use super::span::Located;
use super::words::Word;

/// One instruction, `FROM` excepted: that one begins a [`Stage`](super::Stage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ARG`
    Arg(Arg),
    /// `ENV`
    Env(Pairs),
    /// `LABEL`
    Label(Pairs),
    /// `MAINTAINER`, never expanded.
    Maintainer(String),
    /// `RUN`
    Run(Run),
    /// `CMD`
    Cmd(CommandLine),
    /// `ENTRYPOINT`; an empty exec form clears the entry point.
    Entrypoint(CommandLine),
    /// `SHELL`, at least one word.
    Shell(Vec<String>),
    /// `USER`
    User(Word),
    /// `WORKDIR`
    Workdir(Word),
    /// `VOLUME`
    Volume(Volume),
    /// `EXPOSE`
    Expose(Expose),
    /// `STOPSIGNAL`
    StopSignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `COPY`
    Copy(Copy),
    /// `ADD`
    Add(Add),
}

impl Instruction {
    /// The keyword in capitals.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Arg(_) => "ARG",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Run(_) => "RUN",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Shell(_) => "SHELL",
            Self::User(_) => "USER",
            Self::Workdir(_) => "WORKDIR",
            Self::Volume(_) => "VOLUME",
            Self::Expose(_) => "EXPOSE",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Onbuild(_) => "ONBUILD",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
        }
    }
}

/// `ARG name[=default] …`; defaults are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// In the order written, at least one.
    pub items: Vec<ArgItem>,
}

/// One name of an `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgItem {
    /// The name of the argument.
    pub name: Word,
    /// The default; an empty one (`ARG a=`) is not the same as none.
    pub value: Option<Word>,
}

/// The pairs of `ENV` and `LABEL`; keys and values are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// In the order written, at least one.
    pub items: Vec<Pair>,
    /// Written in the old form `ENV key value`.
    pub legacy: bool,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Never empty.
    pub key: Word,
    /// May be empty.
    pub value: Word,
}

/// A command, given to a shell or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for the shell of `SHELL`, never expanded here. May be empty.
    Shell(String),
    /// A JSON array: the program and its arguments. May be empty.
    Exec(Vec<String>),
}

/// `RUN`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to run; here-documents are named in it, their bodies are in `heredocs`.
    pub command: CommandLine,
    /// In the order of the operators in the text.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in the order written.
    pub mounts: Vec<MountSpec>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`, in the order written.
    pub devices: Vec<Device>,
}

/// `RUN --network`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The builder's own choice.
    #[default]
    Default,
    /// No network but loopback.
    None,
    /// The network of the host.
    Host,
}

/// `RUN --security`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// The usual restrictions.
    #[default]
    Sandbox,
    /// None of them.
    Insecure,
}

/// `RUN --device`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// A CDI device or class name; may be empty.
    pub name: String,
    /// Fail the step where the device is missing.
    pub required: bool,
}

/// `VOLUME`; paths are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// At least one, none blank.
    pub paths: Vec<Word>,
    /// Written as a JSON array.
    pub json: bool,
}

/// `EXPOSE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// In the order written; each expands to a *list* of ports, see [`super::ports`].
    pub ports: Vec<Word>,
}

impl Expose {
    /// The words in the order in which the reference works on them: sorted by bytes before expansion.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Word> {
        let mut words: Vec<&Word> = self.ports.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        words
    }
}

/// `HEALTHCHECK`; nothing in it is expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE` switches an inherited check off.
    None,
    /// `HEALTHCHECK CMD …`
    Cmd {
        /// The probe, never empty.
        command: CommandLine,
        /// Its timing.
        timing: HealthTiming,
    },
}

/// The options of `HEALTHCHECK CMD`; zero stands for "not given", as in the image config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthTiming {
    /// `--interval`
    pub interval: Duration,
    /// `--timeout`
    pub timeout: Duration,
    /// `--start-period`
    pub start_period: Duration,
    /// `--start-interval`
    pub start_interval: Duration,
    /// `--retries`
    pub retries: u32,
}

/// `ONBUILD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// What goes into the image config: the instruction as one logical line, bodies of here-documents after it.
    pub expression: String,
    /// The instruction. `None` where it is not one that can be run: the reference stores such a trigger
    /// and leaves the failure to the build that meets it; [`super::parse_trigger`] tells what is wrong.
    pub trigger: Option<Box<Located<Instruction>>>,
}

/// What `COPY` and `ADD` have in common. Paths and destination are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// In the order written, at least one. The reference copies paths first, here-documents after them.
    pub sources: Vec<Source>,
    /// Where to.
    pub dest: Word,
    /// `--chown`, expanded.
    pub chown: Option<Word>,
    /// `--chmod`, expanded; octal or symbolic.
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--exclude`, in the order written. Not expanded.
    pub exclude: Vec<Word>,
    /// Written as a JSON array.
    pub json: bool,
}

/// One source of `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern, or for `ADD` a URL or Git reference.
    Path(Word),
    /// A file whose content stands in the Dockerfile.
    Heredoc {
        /// The operator as written, `<<-"EOF"`.
        operator: Word,
        /// Name and content.
        heredoc: Heredoc,
    },
}

/// `COPY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What and where to.
    pub files: Transfer,
    /// `--from`: a stage by name or number, a named context or an image. Not expanded.
    pub from: Option<Word>,
    /// `--parents`
    pub parents: bool,
}

/// `ADD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What and where to.
    pub files: Transfer,
    /// `--checksum`, expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
}
