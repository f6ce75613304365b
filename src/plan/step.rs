//! One instruction, at its point of a stage: what it does, with nothing left to expand.

use snapshot::ImagePath;
use thiserror::Error;

use super::mounts::RunMount;
use super::origin::Origin;
use super::scope::Scope;
use super::stages::BaseImages;
use super::transfer::without_user;
use crate::dockerfile::ports::{PortError, exposed};
use crate::dockerfile::{
    CommandLine, Dockerfile, ExpandError, Expose, GitRef, Healthcheck, Instruction, Located,
    Network, Program, Run, Security, Span, Word, history,
};
use crate::image::{Digest, Healthcheck as HealthcheckConfig, ImageConfig};

/// An instruction that is ready to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its first line.
    pub line: usize,
    /// Its text, for the log.
    pub text: String,
    /// Its line in the history; `ONBUILD` has none.
    pub created_by: Option<String>,
    /// What has to be done.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing but changing the configuration: no layer.
    Configure,
    /// Runs a command.
    Run(RunStep),
    /// Copies files.
    Copy(CopyStep),
    /// Makes a directory.
    Workdir(ImagePath),
}

/// A command and what it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Declared variables and arguments, in order.
    pub env: Vec<(String, String)>,
    /// `USER`, empty for root.
    pub user: String,
    /// The working directory, absolute.
    pub dir: String,
    /// `--network=none`.
    pub network_none: bool,
    /// `--mount`, in the order written.
    pub mounts: Vec<RunMount>,
    /// A script to put into [`crate::dockerfile::SCRIPT_DIR`]: name and content.
    pub script: Option<(String, String)>,
}

/// Files to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep {
    /// Where from.
    pub from: Origin,
    /// What, in order.
    pub sources: Vec<CopySource>,
    /// Where to: absolute, with a trailing slash for a directory.
    pub dest: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--link`: the destination's path is made of directories, whatever the image has there.
    pub link: bool,
    /// `--parents`: the directories of a source come with it.
    pub parents: bool,
    /// What only ADD has.
    pub add: Option<AddStep>,
}

/// One source of a COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or pattern.
    Path(String),
    /// A file of the web, by its http or https URL.
    Url(String),
    /// The files of a commit.
    Git(GitRef),
    /// A file with this name and content.
    Inline(String, String),
}

/// The options of ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddStep {
    /// `--unpack`: whether archives are unpacked. By default, those of the context are, and those
    /// of the web are not.
    pub unpack: Option<bool>,
    /// `--checksum`, of the one file of the web.
    pub checksum: Option<Digest>,
}

/// An instruction that cannot be carried out, and where it says so.
#[derive(Debug, Error)]
#[error("{kind}")]
pub struct StepError {
    /// The line of the instruction.
    pub line: usize,
    /// The part of the Dockerfile that is wrong.
    pub span: Span,
    /// Why.
    pub kind: StepErrorKind,
}

/// Why an instruction cannot be carried out.
#[derive(Debug, Error)]
pub enum StepErrorKind {
    /// A word cannot be expanded.
    #[error("{source}")]
    Expand {
        /// Why.
        source: ExpandError,
        /// The word.
        span: Span,
    },
    /// A here-document, or a list of ports, cannot be expanded.
    #[error("{0}")]
    Body(#[from] ExpandError),
    /// A port that is none.
    #[error("{0}")]
    Port(#[from] PortError),
    /// A path that cannot be in an image.
    #[error("{0}")]
    Path(#[from] snapshot::PathError),
    /// `--from` names nothing.
    #[error("{0}")]
    Origin(String),
    /// A value that means nothing.
    #[error("{0}")]
    Value(String),
    /// Something that needs a daemon with more rights: what, and what a step has instead.
    #[error("{0} is refused: {1}")]
    Refused(&'static str, &'static str),
}

impl StepErrorKind {
    /// The part of the instruction that is wrong, where it is known.
    fn span(&self) -> Option<Span> {
        match self {
            Self::Expand { span, .. } => Some(*span),
            _ => None,
        }
    }
}

/// Takes the instruction into the configuration and the scope, and tells what is to be done.
///
/// # Errors
/// A word that cannot be expanded, or something that is not supported.
pub fn step(
    instruction: &Located<Instruction>,
    stage: usize,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
    config: &mut ImageConfig,
    scope: &mut Scope,
    command_is_own: &mut bool,
) -> Result<Step, StepError> {
    let mut evaluator = Evaluator { stage, dockerfile, images, config, scope, command_is_own };
    let done = evaluator.evaluate(&instruction.node);
    let (action, created_by) = done.map_err(|kind| {
        let span = kind.span().unwrap_or(instruction.span);
        StepError { line: instruction.line, span, kind }
    })?;
    let text = instruction.text.split_inclusive(char::is_whitespace).map(without_user).collect();
    Ok(Step { line: instruction.line, text, created_by, action })
}

pub(super) struct Evaluator<'a> {
    pub(super) stage: usize,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) images: &'a dyn BaseImages,
    pub(super) config: &'a mut ImageConfig,
    pub(super) scope: &'a mut Scope,
    /// Whether this stage has had a CMD, which its ENTRYPOINT then leaves alone.
    command_is_own: &'a mut bool,
}

pub(super) type Done = (Action, Option<String>);

fn configured(created_by: String) -> Done {
    (Action::Configure, Some(created_by))
}

impl Evaluator<'_> {
    fn evaluate(&mut self, instruction: &Instruction) -> Result<Done, StepErrorKind> {
        Ok(match instruction {
            Instruction::Arg(arg) => self.arg(arg)?,
            Instruction::Env(pairs) => {
                let pairs = self.pairs(&pairs.items)?;
                for (name, value) in &pairs {
                    self.scope.set(name, value);
                    set_env(&mut self.config.config.env, name, value);
                }
                configured(history::env(&pairs))
            }
            Instruction::Label(pairs) => {
                let pairs = self.pairs(&pairs.items)?;
                self.config.config.labels.extend(pairs.iter().cloned());
                configured(history::label(&pairs))
            }
            Instruction::Maintainer(author) => {
                self.config.author = Some(author.clone());
                configured(history::maintainer(author))
            }
            Instruction::Run(run) => self.run(run)?,
            Instruction::Cmd(command) => {
                let argv = self.with_shell(command);
                self.config.config.cmd = Some(argv.clone());
                // As with Docker and kaniko, in either form.
                self.config.config.args_escaped = true;
                *self.command_is_own = true;
                configured(history::cmd(&argv))
            }
            Instruction::Entrypoint(command) => {
                let argv = self.with_shell(command);
                self.config.config.entrypoint = Some(argv.clone());
                if !*self.command_is_own {
                    self.config.config.cmd = None;
                }
                configured(history::entrypoint(&argv))
            }
            Instruction::Shell(words) => {
                self.config.config.shell.clone_from(words);
                configured(history::shell(words))
            }
            Instruction::User(word) => {
                let user = self.expand(word)?;
                self.config.config.user.clone_from(&user);
                configured(history::user(&user))
            }
            Instruction::Workdir(word) => self.workdir(word)?,
            Instruction::Volume(volume) => {
                let paths = self.expand_all(&volume.paths)?;
                if let Some(empty) = paths.iter().position(String::is_empty) {
                    let what = format!("VOLUME {} is empty here", volume.paths[empty].text);
                    return Err(StepErrorKind::Value(what));
                }
                self.config.config.volumes.extend(paths.iter().cloned());
                configured(history::volume(&paths))
            }
            Instruction::Expose(expose) => self.expose(expose)?,
            Instruction::StopSignal(word) => {
                let signal = self.expand(word)?;
                if !is_signal(&signal) {
                    let what = format!("STOPSIGNAL {signal}: there is no such signal");
                    return Err(StepErrorKind::Value(what));
                }
                self.config.config.stop_signal.clone_from(&signal);
                configured(history::stop_signal(&signal))
            }
            Instruction::Healthcheck(check) => {
                self.config.config.healthcheck = Some(healthcheck(check));
                configured(history::healthcheck(check))
            }
            Instruction::Onbuild(onbuild) => {
                self.config.config.on_build.push(onbuild.expression.clone());
                (Action::Configure, None)
            }
            Instruction::Copy(copy) => self.copy(copy)?,
            Instruction::Add(add) => self.add(add)?,
        })
    }

    pub(super) fn expand(&self, word: &Word) -> Result<String, StepErrorKind> {
        let span = word.span;
        word.expand(self.scope, self.dockerfile.escape())
            .map_err(|source| StepErrorKind::Expand { source, span })
    }

    fn expand_all(&self, words: &[Word]) -> Result<Vec<String>, StepErrorKind> {
        words.iter().map(|word| self.expand(word)).collect()
    }

    /// All pairs of one instruction see the variables as they were before it.
    fn pairs(
        &self,
        pairs: &[crate::dockerfile::Pair],
    ) -> Result<Vec<(String, String)>, StepErrorKind> {
        pairs.iter().map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?))).collect()
    }

    /// Unlike the pairs of ENV, a default sees the names before it. Names are never expanded, nor is a
    /// default that is not needed.
    fn arg(&mut self, arg: &crate::dockerfile::Arg) -> Result<Done, StepErrorKind> {
        let mut declared = Vec::new();
        for item in &arg.items {
            let name = &item.name.text;
            let default = item.value.as_ref().filter(|_| self.scope.given(name).is_none());
            let default = default.map(|word| self.expand(word)).transpose()?;
            declared.push((name.clone(), self.scope.declare(name, default)));
        }
        Ok(configured(history::arg(&declared)))
    }

    /// The shell form gets the shell of the image before it.
    fn with_shell(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(argv) => argv.clone(),
            CommandLine::Shell(text) => {
                let mut argv = self.shell();
                argv.push(text.clone());
                argv
            }
        }
    }

    fn shell(&self) -> Vec<String> {
        match self.config.config.shell.as_slice() {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell.to_vec(),
        }
    }

    fn run(&mut self, run: &Run) -> Result<Done, StepErrorKind> {
        if run.security == Security::Insecure {
            return Err(StepErrorKind::Refused(
                "RUN --security=insecure",
                "a step has the rights of the executor's container, and no more",
            ));
        }
        if !run.devices.is_empty() {
            return Err(StepErrorKind::Refused(
                "RUN --device",
                "a step sees the devices of the executor's container",
            ));
        }
        let program = run.program();
        let argv = program.argv(&self.shell());
        let script = match &program {
            Program::Script { name, body } => Some(((*name).to_owned(), body.to_string())),
            Program::Exec(_) | Program::Shell(_) => None,
        };
        let env = self.scope.environment();
        let arguments = told_arguments(self.scope.arguments(), &env);
        let created_by = history::run(&argv, &arguments);
        let step = RunStep {
            argv,
            env,
            user: self.config.config.user.clone(),
            dir: working_dir(self.config),
            network_none: run.network == Network::None,
            mounts: self.mounts(&run.mounts)?,
            script,
        };
        Ok((Action::Run(step), Some(created_by)))
    }

    fn workdir(&mut self, word: &Word) -> Result<Done, StepErrorKind> {
        let written = self.expand(word)?;
        let current = working_dir(self.config);
        // As in the reference, only a relative one is cleaned.
        let told = match written.starts_with('/') {
            true => written,
            false => absolute(&current, &written),
        };
        let path = ImagePath::parse(absolute("/", &told).as_bytes())?;
        let created_by = Some(history::workdir(&told));
        self.config.config.working_dir = told;
        if path.is_root() {
            return Ok((Action::Configure, created_by));
        }
        Ok((Action::Workdir(path), created_by))
    }

    fn expose(&mut self, expose: &Expose) -> Result<Done, StepErrorKind> {
        let escape = self.dockerfile.escape();
        let mut words = Vec::new();
        for word in expose.sorted() {
            words.extend(word.expand_list(&*self.scope, escape)?);
        }
        let ports = exposed(&words)?;
        self.config.config.exposed_ports.extend(ports.iter().cloned());
        Ok(configured(history::expose(&ports)))
    }
}

/// The declared arguments for the history of RUN: each once, with the value it has now.
fn told_arguments(
    declared: &[(String, Option<String>)],
    env: &[(String, String)],
) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = Vec::new();
    for (name, value) in declared {
        let now = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let now = now.or_else(|| value.clone()).unwrap_or_default();
        match told.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = now,
            None => told.push((name.clone(), now)),
        }
    }
    told
}

/// The names of signal(7), without `SIG`; real-time signals are counted from either end.
const SIGNALS: [&str; 37] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "UNUSED", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
    "RTMAX",
];

/// Whether a container could be stopped with it: a number that is not 0, or a name.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let counted = |start: &str, sign: char| {
        let rest = name.strip_prefix(start).and_then(|rest| rest.strip_prefix(sign));
        rest.and_then(|rest| rest.parse::<u32>().ok())
            .is_some_and(|count| (1..=15).contains(&count))
    };
    SIGNALS.contains(&name) || counted("RTMIN", '+') || counted("RTMAX", '-')
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    let same = |known: &&mut String| known.split('=').next() == Some(name);
    match env.iter_mut().find(same) {
        Some(known) => *known = pair,
        None => env.push(pair),
    }
}

fn healthcheck(check: &Healthcheck) -> HealthcheckConfig {
    let nanos =
        |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match check {
        Healthcheck::None => {
            HealthcheckConfig { test: vec!["NONE".to_owned()], ..HealthcheckConfig::default() }
        }
        Healthcheck::Cmd { command, timing } => HealthcheckConfig {
            test: history::health_test(command),
            interval: nanos(timing.interval),
            timeout: nanos(timing.timeout),
            start_period: nanos(timing.start_period),
            start_interval: nanos(timing.start_interval),
            retries: i64::from(timing.retries),
            ..HealthcheckConfig::default()
        },
    }
}

pub(super) fn working_dir(config: &ImageConfig) -> String {
    match config.config.working_dir.as_str() {
        "" => "/".to_owned(),
        dir => absolute("/", dir),
    }
}

/// `written` from `dir`, cleaned: `..` ends at the root.
pub(super) fn absolute(dir: &str, written: &str) -> String {
    let whole =
        if written.starts_with('/') { written.to_owned() } else { format!("{dir}/{written}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, want) in [
            ("SIGTERM", true),
            ("term", true),
            ("9", true),
            ("SIGRTMIN+3", true),
            ("RTMAX-15", true),
            ("0", false),
            ("NOSUCH", false),
            ("RTMIN+99", false),
        ] {
            assert_eq!(is_signal(text), want, "{text}");
        }
    }

    #[test]
    fn env_is_replaced_in_place() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        set_env(&mut env, "A", "3");
        set_env(&mut env, "C", "");
        assert_eq!(env, ["A=3", "B=2", "C="]);
    }
}
