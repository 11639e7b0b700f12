//! The rules by name.

use std::fmt;

/// One of the checks; names are those of the Dockerfile frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A stage's name has capitals.
    StageNameCasing,
    /// `AS` is not in the case of `FROM`.
    FromAsCasing,
    /// An empty line within a continued instruction.
    NoEmptyContinuation,
    /// A keyword is not in the case of most others.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// A stage has a name that means something else.
    ReservedStageName,
    /// `CMD` or `ENTRYPOINT` as a shell's line, and nobody chose the shell.
    JsonArgsRecommended,
    /// `MAINTAINER`.
    MaintainerDeprecated,
    /// `FROM` uses an argument that no `ARG` before it declares.
    UndefinedArgInFrom,
    /// The first `WORKDIR` is relative.
    WorkdirRelativePath,
    /// A variable is used that nothing sets.
    UndefinedVar,
    /// Of several `CMD`, `ENTRYPOINT` or `HEALTHCHECK` of a stage only the last counts.
    MultipleInstructionsDisallowed,
    /// `ENV name value` and `LABEL name value`.
    LegacyKeyValueFormat,
    /// A base image is for another platform than the build.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// An argument or variable is named like a secret.
    SecretsUsedInArgOrEnv,
    /// Without build arguments `FROM` names no image.
    InvalidDefaultArgInFrom,
    /// `FROM --platform` with a constant.
    FromPlatformFlagConstDisallowed,
    /// A source is excluded by the ignore file.
    CopyIgnoredFile,
    /// The comment above an `ARG` or `FROM` does not begin with its name. Experimental.
    InvalidDefinitionDescription,
    /// The protocol of a port has capitals.
    ExposeProtoCasing,
    /// A port of `EXPOSE` names an address or a port of the host.
    ExposeInvalidFormat,
    /// An `ARG` stands above commands that it has nothing to do with. Experimental, and davit's own.
    ArgTooEarly,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 23] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
        Self::ArgTooEarly,
    ];

    /// The name, as in `# check=skip=NAME`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
            Self::ArgTooEarly => "ArgTooEarly",
        }
    }

    /// What the rule is there for, in one sentence.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "Names of stages are in lower case",
            Self::FromAsCasing => "FROM and AS are written in one case",
            Self::NoEmptyContinuation => {
                "An instruction that goes on has no empty lines; builders may refuse them one day"
            }
            Self::ConsistentInstructionCasing => "All keywords of a file are in one case",
            Self::DuplicateStageName => "No two stages have the same name",
            Self::ReservedStageName => "No stage takes a name that means something else",
            Self::JsonArgsRecommended => {
                "A command as a JSON array gets the container's signals itself, not a shell"
            }
            Self::MaintainerDeprecated => "A label says who made an image, MAINTAINER is outdated",
            Self::UndefinedArgInFrom => "FROM uses only arguments that an ARG above it declares",
            Self::WorkdirRelativePath => {
                "The first WORKDIR is absolute, whatever directory the base image ends in"
            }
            Self::UndefinedVar => "Variables are set before they are used",
            Self::MultipleInstructionsDisallowed => {
                "A stage has one CMD, ENTRYPOINT and HEALTHCHECK, for only the last one counts"
            }
            Self::LegacyKeyValueFormat => "ENV and LABEL are written as name=value",
            Self::InvalidBaseImagePlatform => "A base image is for the platform of its stage",
            Self::RedundantTargetPlatform => {
                "The target's platform is the default and need not be written"
            }
            Self::SecretsUsedInArgOrEnv => {
                "No secret is an argument or a variable, for these stay readable in the image"
            }
            Self::InvalidDefaultArgInFrom => "FROM names an image without any build argument too",
            Self::FromPlatformFlagConstDisallowed => {
                "The platform of a stage follows from the build's, it is no constant"
            }
            Self::CopyIgnoredFile => "Sources of COPY and ADD are not excluded by the ignore file",
            Self::InvalidDefinitionDescription => {
                "A comment right above ARG or FROM describes it and begins with its name"
            }
            Self::ExposeProtoCasing => "Protocols of ports are in lower case",
            Self::ExposeInvalidFormat => {
                "EXPOSE takes ports of the container alone, no addresses or ports of the host"
            }
            Self::ArgTooEarly => {
                "An ARG stands right above its first use, for commands below it run again when it \
                 changes"
            }
        }
    }

    /// Where the rule is documented with examples; `None` where it is not.
    #[must_use]
    pub fn url(self) -> Option<String> {
        // The name in lower case, a `-` before each word; `JSON` is one.
        let name = self.name().replace("JSON", "Json");
        let mut words = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !words.is_empty() {
                words.push('-');
            }
            words.push(c.to_ascii_lowercase());
        }
        let documented = !matches!(self, Self::InvalidBaseImagePlatform | Self::ArgTooEarly);
        documented.then(|| format!("https://docs.docker.com/go/dockerfile/rule/{words}/"))
    }

    /// Whether it must be asked for.
    #[must_use]
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::InvalidDefinitionDescription | Self::ArgTooEarly)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_follow_the_names() {
        let url = |rule: Rule| rule.url().unwrap_or_default();
        assert!(url(Rule::JsonArgsRecommended).ends_with("/rule/json-args-recommended/"));
        assert!(url(Rule::FromAsCasing).ends_with("/rule/from-as-casing/"));
        assert_eq!(Rule::InvalidBaseImagePlatform.url(), None);
        assert_eq!(Rule::ArgTooEarly.url(), None);
        let mut names = Rule::ALL.map(Rule::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
