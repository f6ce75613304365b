//! The rules, each once.

use std::fmt;

/// What a check looks for; `docs/checks.md` explains each under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Keywords are written in one case.
    ConsistentInstructionCasing,
    /// A source of COPY or ADD is ignored.
    CopyIgnoredFile,
    /// Two stages have one name.
    DuplicateStageName,
    /// EXPOSE has an address or a port of the host.
    ExposeInvalidFormat,
    /// A protocol of EXPOSE is not in lower case.
    ExposeProtoCasing,
    /// `FROM` and `AS` differ in case.
    FromAsCasing,
    /// `FROM --platform` is a constant.
    FromPlatformFlagConstDisallowed,
    /// The platform of a base image is not the one that is built for.
    InvalidBaseImagePlatform,
    /// Without build arguments a `FROM` names no image.
    InvalidDefaultArgInFrom,
    /// The comment above a stage or argument does not begin with its name.
    InvalidDefinitionDescription,
    /// CMD or ENTRYPOINT in shell form.
    JSONArgsRecommended,
    /// `ENV key value`.
    LegacyKeyValueFormat,
    /// MAINTAINER.
    MaintainerDeprecated,
    /// Only the last CMD, ENTRYPOINT or HEALTHCHECK counts.
    MultipleInstructionsDisallowed,
    /// An empty line within an instruction.
    NoEmptyContinuation,
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// A stage has a name that means something else.
    ReservedStageName,
    /// The name of an ARG or ENV is that of a secret.
    SecretsUsedInArgOrEnv,
    /// The name of a stage is not in lower case.
    StageNameCasing,
    /// A variable of `FROM` is not declared.
    UndefinedArgInFrom,
    /// A variable is used and not defined.
    UndefinedVar,
    /// The first WORKDIR of a stage is relative.
    WorkdirRelativePath,
}

impl Rule {
    /// In the order of their names.
    pub const ALL: [Self; 22] = [
        Self::ConsistentInstructionCasing,
        Self::CopyIgnoredFile,
        Self::DuplicateStageName,
        Self::ExposeInvalidFormat,
        Self::ExposeProtoCasing,
        Self::FromAsCasing,
        Self::FromPlatformFlagConstDisallowed,
        Self::InvalidBaseImagePlatform,
        Self::InvalidDefaultArgInFrom,
        Self::InvalidDefinitionDescription,
        Self::JSONArgsRecommended,
        Self::LegacyKeyValueFormat,
        Self::MaintainerDeprecated,
        Self::MultipleInstructionsDisallowed,
        Self::NoEmptyContinuation,
        Self::RedundantTargetPlatform,
        Self::ReservedStageName,
        Self::SecretsUsedInArgOrEnv,
        Self::StageNameCasing,
        Self::UndefinedArgInFrom,
        Self::UndefinedVar,
        Self::WorkdirRelativePath,
    ];

    /// Whether it has to be asked for with `experimental=`.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    /// Where it is explained.
    #[must_use]
    pub fn link(self) -> String {
        format!("docs/checks.md#{}", self.to_string().to_lowercase())
    }
}

/// The name of a rule is that of its variant.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
