//! The plan of a build for people (`--dryrun`) and programs (`--dryrun=json`).
//!
//! Cache keys, and the inputs that go into each, belong to [`OutlinedStep`].

use std::fmt;

use serde::Serialize;

/// What a build would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// What the Dockerfile is called.
    pub dockerfile: String,
    /// In the order in which they are built.
    pub stages: Vec<OutlinedStage>,
    /// Stages of the file that are not built.
    pub skipped: Vec<SkippedStage>,
    /// Where the result goes.
    pub outputs: Outputs,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlinedStage {
    /// Its number in the file, counted from 0.
    pub number: usize,
    /// Its name.
    pub name: Option<String>,
    /// The line of its `FROM`.
    pub line: usize,
    /// What it is built for.
    pub platform: String,
    /// What it starts from.
    pub base: OutlinedBase,
    /// Triggers of the base first.
    pub steps: Vec<OutlinedStep>,
    /// Its image is the result.
    pub is_result: bool,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OutlinedBase {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage {
        /// Its number.
        number: usize,
    },
    /// An image.
    Image {
        /// As named.
        name: String,
        /// The digests of its layers.
        layers: Vec<String>,
        /// How large they are together.
        bytes: u64,
        /// What has to be done with them.
        layers_are: LayersAre,
        /// The instruction that needs them unpacked.
        because: Option<String>,
    },
}

/// What a build does with the layers of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayersAre {
    /// Nothing: the result names them.
    Named,
    /// They are pulled and read, but only directories, links and accounts are made of them.
    Listed,
    /// They are pulled and unpacked.
    Unpacked,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlinedStep {
    /// Its line; of a trigger, that of the `FROM`.
    pub line: usize,
    /// A trigger that the base carries.
    pub trigger: bool,
    /// As written.
    pub text: String,
    /// Its line in the history, with nothing left to expand.
    pub created_by: Option<String>,
    /// It makes a layer.
    pub layer: bool,
    /// An image that it copies from.
    pub pulls: Option<String>,
    /// What it fetches from the web.
    pub fetches: Vec<String>,
}

/// A stage that is not built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedStage {
    /// Its number in the file, counted from 0.
    pub number: usize,
    /// Its name.
    pub name: Option<String>,
    /// The line of its `FROM`.
    pub line: usize,
}

/// Where the result goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outputs {
    /// Destinations that it is pushed to.
    pub push: Vec<String>,
    /// `--tar-path`
    pub tar: Option<String>,
    /// `--oci-layout-path`
    pub oci_layout: Option<String>,
}

impl Outline {
    /// One JSON object, indented.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stage in &self.stages {
            write!(f, "{stage}")?;
        }
        for SkippedStage { number, name, line } in &self.skipped {
            let name = named(*number, name.as_deref());
            writeln!(f, "stage {name} ({}:{line}): skipped, nothing needs it", self.dockerfile)?;
        }
        let Outputs { push, tar, oci_layout } = &self.outputs;
        let files = tar.iter().chain(oci_layout).map(|path| format!("write {path}\n"));
        let mut ends = push.iter().map(|name| format!("push {name}\n")).chain(files).peekable();
        if ends.peek().is_none() {
            return writeln!(f, "the result goes nowhere");
        }
        ends.try_for_each(|end| write!(f, "{end}"))
    }
}

fn named(number: usize, name: Option<&str>) -> String {
    name.map_or_else(|| number.to_string(), |name| format!("{number} {name}"))
}

impl fmt::Display for OutlinedStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = named(self.number, self.name.as_deref());
        let result = if self.is_result { ", the result" } else { "" };
        writeln!(f, "stage {name} for {}{result}", self.platform)?;
        writeln!(f, "  {:>4}  {}", self.line, self.base)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {:>4}  {step}", step.line))
    }
}

impl fmt::Display for OutlinedBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => write!(f, "from nothing"),
            Self::Stage { number } => write!(f, "from stage {number}"),
            Self::Image { name, layers, bytes, layers_are, because } => {
                write!(f, "from {name}, {} layers of {bytes} bytes: ", layers.len())?;
                match layers_are {
                    LayersAre::Named => write!(f, "neither pulled nor unpacked to build this")?,
                    LayersAre::Listed => write!(f, "pull and list")?,
                    LayersAre::Unpacked => write!(f, "pull and unpack")?,
                }
                because.iter().try_for_each(|it| write!(f, ", for {}", first_line(it)))
            }
        }
    }
}

impl fmt::Display for OutlinedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trigger = if self.trigger { "ONBUILD " } else { "" };
        let text = self.created_by.as_deref().unwrap_or(&self.text);
        let text = text.strip_suffix(" # buildkit").unwrap_or(text);
        write!(f, "{trigger}{}", first_line(text))?;
        if self.layer {
            write!(f, "  [layer]")?;
        }
        let pulls = self.pulls.iter().map(|name| format!("  [pull {name}]"));
        let fetches = self.fetches.iter().map(|url| format!("  [fetch {url}]"));
        pulls.chain(fetches).try_for_each(|mark| write!(f, "{mark}"))
    }
}

fn first_line(text: &str) -> String {
    match text.split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text.to_owned(),
    }
}
