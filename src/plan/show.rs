//! The plan of a build for people (`--dryrun`) and programs (`--dryrun=json`).
//!
//! With a cache it says of each step by which key its layer would be found, of
//! what that was made, and whether and why it is found or not.

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
    /// With a cache: nobody needs it, because what is copied from it is cached.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_needed: bool,
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
    /// With a cache, of a step that makes a layer: what is known of it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<OutlinedLayer>,
}

/// Whether a layer is found in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlinedLayer {
    /// The key; none where it depends on what only a build knows.
    pub key: Option<String>,
    /// What will become of it.
    pub found: Found,
    /// Why, in words.
    pub why: String,
    /// What the key is made of since the last cached step: names, and enough of each digest to see a change.
    pub inputs: Vec<OutlinedInput>,
}

/// What will become of a step with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    /// Its layer is taken.
    Hit,
    /// Its layer is taken if the commands before it make what they made before.
    Likely,
    /// It is executed.
    Miss,
    /// It is executed, and its layer is not kept.
    Uncached,
}

/// One thing that a key depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlinedInput {
    /// What a person calls it.
    pub name: String,
    /// The first digits of its digest.
    pub digest: String,
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
        let needed =
            if self.not_needed { ": not built, what is copied from it is cached" } else { "" };
        writeln!(f, "stage {name} for {}{result}{needed}", self.platform)?;
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
        pulls.chain(fetches).try_for_each(|mark| write!(f, "{mark}"))?;
        self.cache.iter().try_for_each(|layer| write!(f, "{layer}"))
    }
}

impl fmt::Display for OutlinedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than this are counted.
        const NAMED: usize = 6;
        let found = match self.found {
            Found::Hit => "hit",
            Found::Likely => "likely hit",
            Found::Miss => "miss",
            Found::Uncached => "not cached",
        };
        write!(f, "\n        {found}: {}", self.why)?;
        let Some(key) = &self.key else { return Ok(()) };
        let names: Vec<&str> = self.inputs.iter().take(NAMED).map(|it| it.name.as_str()).collect();
        write!(f, "\n        key {key} of {}", names.join(", "))?;
        match self.inputs.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

fn first_line(text: &str) -> String {
    match text.split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text.to_owned(),
    }
}
