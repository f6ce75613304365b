//! The variables an instruction can see.
//!
//! `ARG` and `ENV` share one namespace in which the later declaration wins,
//! as in Docker's current frontend; an `ARG` without a value leaves an `ENV`
//! of its name alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::dockerfile::{Arg, ArgItem, ExpandError, Located, Span, Variables};
use crate::image::Platform;

/// Arguments that may be given without being declared, and that are seen by RUN only.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Arguments that switch scanners of the reference on and are no variables.
const FOR_SCANNERS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The argument, and variable, that says how late a time may be.
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What was given with `--build-arg`, and what the builder defines itself.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    given: BTreeMap<String, String>,
    platform: BTreeMap<String, String>,
    epoch: Option<Epoch>,
}

/// The epoch once it is known what it means.
#[derive(Debug, Clone)]
struct Epoch {
    /// What was given, which other global arguments still see.
    given: Option<String>,
    /// In seconds since 1970.
    seconds: Option<i64>,
}

impl Arguments {
    /// `given` are the build arguments; `build` is the platform that builds, `target` the one
    /// built for, `stage` the one that was asked for. What is predefined can be given otherwise.
    pub fn new(
        given: BTreeMap<String, String>,
        build: &Platform,
        target: &Platform,
        stage: Option<&str>,
    ) -> Self {
        let mut defined = BTreeMap::new();
        for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
            let variant = platform.variant.clone().unwrap_or_default();
            defined.insert(format!("{prefix}OSVERSION"), String::new());
            defined.insert(format!("{prefix}PLATFORM"), platform.to_string());
            defined.insert(format!("{prefix}OS"), platform.os.clone());
            defined.insert(format!("{prefix}ARCH"), platform.architecture.clone());
            defined.insert(format!("{prefix}VARIANT"), variant);
        }
        defined.insert("TARGETSTAGE".to_owned(), stage.unwrap_or("default").to_owned());
        for (name, value) in &mut defined {
            if let Some(given) = given.get(name) {
                value.clone_from(given);
            }
        }
        Self { given, platform: defined, epoch: None }
    }

    /// Evaluates the `ARG`s before the first `FROM`.
    ///
    /// # Errors
    /// A default that cannot be expanded, with line and place of its `ARG`. That of an argument that is
    /// given is not looked at.
    pub fn globals(
        &self,
        declared: &[Located<Arg>],
        escape: char,
    ) -> Result<BTreeMap<String, String>, (usize, Span, ExpandError)> {
        let mut globals = self.platform.clone();
        for arg in declared {
            for ArgItem { name, value } in &arg.node.items {
                let at = |error| (arg.line, arg.span, error);
                let default = || value.as_ref().map(|word| word.expand(&globals, escape));
                let given = self.given_to_globals(&name.text).cloned().map(Ok);
                if let Some(value) = given.or_else(default).transpose().map_err(at)? {
                    globals.insert(name.text.clone(), value);
                }
            }
        }
        if let Some(Epoch { seconds, .. }) = &self.epoch
            && globals.remove(EPOCH).is_some()
        {
            globals.extend(seconds.map(|seconds| (EPOCH.to_owned(), seconds.to_string())));
        }
        Ok(globals)
    }

    fn given_to_globals(&self, name: &str) -> Option<&String> {
        match &self.epoch {
            Some(epoch) if name == EPOCH => epoch.given.as_ref(),
            _ => self.given.get(name),
        }
    }

    /// What `SOURCE_DATE_EPOCH` says, where it was given or has a default.
    ///
    /// # Errors
    /// As [`Arguments::globals`].
    pub fn epoch(
        &self,
        declared: &[Located<Arg>],
        escape: char,
    ) -> Result<Option<String>, (usize, Span, ExpandError)> {
        let default = self.globals(declared, escape)?.remove(EPOCH);
        Ok(self.given.get(EPOCH).cloned().or(default.filter(|text| !text.is_empty())))
    }

    /// With the time that the epoch means; it is no argument at all if it means none.
    #[must_use]
    pub fn with_epoch(mut self, seconds: Option<i64>) -> Self {
        let given = self.given.remove(EPOCH);
        if let (Some(_), Some(seconds)) = (&given, seconds) {
            self.given.insert(EPOCH.to_owned(), seconds.to_string());
        }
        self.epoch = Some(Epoch { given, seconds });
        self
    }

    /// The same arguments as if none had been given.
    #[must_use]
    pub fn defaults(&self) -> Self {
        Self { platform: self.platform.clone(), ..Self::default() }
    }

    /// The given arguments that nobody declared and nobody predefines.
    pub fn given(&self) -> &BTreeMap<String, String> {
        &self.given
    }
}

/// The variables at one point of a stage.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// In the order of first declaration.
    variables: Vec<(String, String)>,
    /// Declared arguments with their values, for the history of RUN.
    arguments: Vec<(String, Option<String>)>,
    globals: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
}

impl Scope {
    /// The start of a stage whose base image has the environment `env` (`NAME=value`).
    pub fn new(arguments: &Arguments, globals: &BTreeMap<String, String>, env: &[String]) -> Self {
        let split = |pair: &String| match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (pair.clone(), String::new()),
        };
        Self {
            variables: env.iter().map(split).collect(),
            arguments: Vec::new(),
            globals: globals.clone(),
            given: arguments.given.clone(),
        }
    }

    /// The start of a stage on top of the one that ended with these variables: as in Docker, what its image's
    /// environment says goes before what ARG has said there.
    pub fn begin_stage(&mut self, env: &[String]) {
        for (name, value) in env.iter().filter_map(|pair| pair.split_once('=')) {
            self.set(name, value);
        }
    }

    /// `ENV name=value`.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The value that was given for an argument.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// `ARG name[=default]`: the value it gets, if any.
    pub fn declare(&mut self, name: &str, default: Option<String>) -> Option<String> {
        let inherited = || self.globals.get(name).cloned();
        let value = self.given.get(name).cloned().or(default).or_else(inherited);
        if let Some(value) = value.as_ref().filter(|_| !FOR_SCANNERS.contains(&name)) {
            self.set(name, value);
        }
        self.arguments.push((name.to_owned(), value.clone()));
        value
    }

    /// The names of all variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    /// The declared arguments, in order, for the `|n` part of a RUN's history.
    pub fn arguments(&self) -> &[(String, Option<String>)] {
        &self.arguments
    }

    /// The proxies in the environment of a RUN that nobody declared: no cache depends on them.
    pub fn undeclared(&self) -> Vec<String> {
        let declared = self.variables.len();
        self.environment().into_iter().skip(declared).map(|(name, _)| name).collect()
    }

    /// The environment of a RUN: everything declared, and proxies that were given.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.variables.clone();
        for name in PROXIES {
            let declared = environment.iter().any(|(known, _)| known == name);
            if let (Some(value), false) = (self.given.get(name), declared) {
                environment.push((name.to_owned(), value.clone()));
            }
        }
        environment
    }
}

impl Variables for Scope {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| Cow::Borrowed(value.as_str()))
    }
}

/// What sets something of the builder rather than of a stage.
const BUILDER: [&str; 4] = [
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SANDBOX_HOSTNAME",
];

/// Whether an argument needs no declaration.
pub(super) fn is_predefined(name: &str) -> bool {
    let platform = name.strip_prefix("BUILD").or_else(|| name.strip_prefix("TARGET"));
    PROXIES.contains(&name)
        || BUILDER.contains(&name)
        || name == EPOCH
        || matches!(platform, Some("PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(given: &[(&str, &str)]) -> Arguments {
        let platform = Platform::new("linux", "amd64", None);
        let given = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Arguments::new(given, &platform, &platform, None)
    }

    #[test]
    fn the_later_declaration_wins_and_an_empty_arg_leaves_an_env_alone() {
        let arguments = arguments(&[("GIVEN", "g"), ("http_proxy", "p")]);
        let mut scope = Scope::new(&arguments, &BTreeMap::new(), &["A=image".to_owned()]);
        assert_eq!(scope.declare("A", None), None);
        assert_eq!(scope.value("A").as_deref(), Some("image"));
        scope.declare("A", Some("arg".to_owned()));
        assert_eq!(scope.value("A").as_deref(), Some("arg"));
        scope.set("A", "env");
        assert_eq!(scope.value("A").as_deref(), Some("env"));
        assert_eq!(scope.declare("GIVEN", Some("default".to_owned())).as_deref(), Some("g"));
        assert_eq!(scope.value("http_proxy"), None);
        let run = scope.environment();
        assert!(run.contains(&("http_proxy".to_owned(), "p".to_owned())), "{run:?}");
        assert_eq!(scope.undeclared(), ["http_proxy"]);
        scope.declare("http_proxy", None);
        assert_eq!(scope.undeclared(), [] as [String; 0]);
    }

    #[test]
    fn an_epoch_that_is_settled_is_what_all_stages_see() {
        let text = "ARG SOURCE_DATE_EPOCH=context\nARG OTHER=$SOURCE_DATE_EPOCH\nFROM scratch\n";
        let file = crate::dockerfile::parse("Dockerfile", text.as_bytes()).expect("well formed");
        let given = [(EPOCH, "stage")];
        for (given, told, other) in [(&[][..], "context", "context"), (&given, "stage", "stage")] {
            let arguments = arguments(given);
            let globals = |arguments: &Arguments| {
                let globals = arguments.globals(&file.global_args, '\\').expect("no mistakes");
                (globals.get(EPOCH).cloned(), globals.get("OTHER").cloned())
            };
            let epoch = arguments.epoch(&file.global_args, '\\').expect("no mistakes");
            assert_eq!(epoch.as_deref(), Some(told));
            for (seconds, is) in [(Some(7), Some("7".to_owned())), (None, None)] {
                let settled = arguments.clone().with_epoch(seconds);
                assert_eq!(globals(&settled), (is.clone(), Some(other.to_owned())));
                let given = is.filter(|_| !given.is_empty());
                assert_eq!(settled.given().get(EPOCH), given.as_ref());
            }
        }
    }

    #[test]
    fn platforms_are_global_and_need_a_declaration_in_a_stage() {
        let arguments = arguments(&[]);
        let globals = arguments.globals(&[], '\\').expect("no defaults");
        assert_eq!(globals["TARGETPLATFORM"], "linux/amd64");
        let mut scope = Scope::new(&arguments, &globals, &[]);
        assert_eq!(scope.value("TARGETARCH"), None);
        assert_eq!(scope.declare("TARGETARCH", None).as_deref(), Some("amd64"));
    }
}
