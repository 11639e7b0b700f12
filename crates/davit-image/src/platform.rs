//! Platforms: `os/architecture[/variant]` (image-spec `image-index.md`, containerd's platforms).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Instruction set in Go's names (`amd64`, `arm64`, …).
    pub architecture: String,
    /// Operating system in Go's names.
    pub os: String,
    /// Version of the operating system (Windows only).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the architecture (`v7`, `v8`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why a text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Not one to three parts.
    #[error("platform `{0}` is not of the form os/architecture[/variant]")]
    Form(String),
    /// A part is empty or has a character outside `[A-Za-z0-9_.-]`.
    #[error("platform `{0}` has a part that is empty or has a character outside A-Z a-z 0-9 _ . -")]
    Part(String),
    /// A single word that is neither an operating system nor an architecture.
    #[error("`{0}` is no known operating system or architecture")]
    Unknown(String),
}

impl Platform {
    /// Names a platform by operating system and architecture, as given.
    #[must_use]
    pub fn new(os: &str, architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            os_version: None,
            os_features: None,
            variant: None,
            extra: Map::new(),
        }
    }

    /// The platform that this program was compiled for.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = normal_architecture(std::env::consts::ARCH, None);
        Self { variant, ..Self::new(std::env::consts::OS, &architecture) }
    }

    /// Puts aliases into their normal form (`aarch64` → `arm64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`).
    #[must_use]
    pub fn normalized(&self) -> Self {
        let (architecture, variant) =
            normal_architecture(&self.architecture, self.variant.as_deref());
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        Self { architecture, os, variant, ..self.clone() }
    }

    /// Ranks how well `offered` runs on this platform: `None` if it cannot, a higher variant first.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            return None;
        }
        let level = |variant: &Option<String>| match variant {
            None => Some(if wanted.architecture == "amd64" { 1 } else { 8 }),
            Some(text) => text.strip_prefix('v')?.split('.').next()?.parse().ok(),
        };
        match (level(&wanted.variant), level(&offered.variant)) {
            (Some(limit), Some(rank)) if rank <= limit => Some(rank),
            (Some(_), Some(_)) => None,
            _ => (wanted.variant == offered.variant).then_some(0),
        }
    }
}

/// Normal architecture and variant, as containerd's platforms package has them.
fn normal_architecture(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
    let (architecture, variant) = match architecture.to_ascii_lowercase().as_str() {
        "i386" | "x86" => ("386".to_owned(), None),
        "x86_64" | "x86-64" | "amd64" => {
            ("amd64".to_owned(), variant.filter(|variant| variant != "v1"))
        }
        "aarch64" | "arm64" => (
            "arm64".to_owned(),
            variant.filter(|variant| !matches!(variant.as_str(), "8" | "v8" | "v8.0")),
        ),
        "armhf" => ("arm".to_owned(), Some("v7".to_owned())),
        "armel" => ("arm".to_owned(), Some("v6".to_owned())),
        "arm" => ("arm".to_owned(), Some(variant.unwrap_or_else(|| "v7".to_owned()))),
        "386" => ("386".to_owned(), None),
        other => (other.to_owned(), variant),
    };
    let variant = variant.map(|variant| match variant.as_str() {
        "5" | "6" | "7" | "8" => format!("v{variant}"),
        _ => variant,
    });
    (architecture, variant)
}

const SYSTEMS: [&str; 7] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "wasip1"];
const ARCHITECTURES: [&str; 11] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm",
    "mips64",
];

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if parts.iter().any(|part| part.is_empty() || !part.chars().all(allowed)) {
            return Err(PlatformError::Part(text.to_owned()));
        }
        let platform = match parts[..] {
            [word] => single_word(word).ok_or_else(|| PlatformError::Unknown(text.to_owned()))?,
            [os, architecture] => Self::new(os, architecture),
            [os, architecture, variant] => {
                Self { variant: Some(variant.to_owned()), ..Self::new(os, architecture) }
            }
            _ => return Err(PlatformError::Form(text.to_owned())),
        };
        Ok(platform.normalized())
    }
}

/// An operating system alone means the host's architecture, an architecture alone Linux.
fn single_word(word: &str) -> Option<Platform> {
    let host = Platform::host();
    let system = Platform::new(word, &host.architecture).normalized().os;
    if SYSTEMS.contains(&system.as_str()) {
        return Some(Platform { os: system, ..host });
    }
    let platform = Platform::new(&host.os, word).normalized();
    ARCHITECTURES.contains(&platform.architecture.as_str()).then_some(platform)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{check_json, check_refused, check_text, platform, written_platform};

    #[test]
    fn normalises() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("Linux/AArch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("arm64", "linux/arm64"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ];
        for (text, expected) in cases {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.to_string(), expected, "{text}");
            assert_eq!(platform.to_string().parse(), Ok(platform));
        }
        assert_eq!("linux".parse(), Ok(Platform { os: "linux".into(), ..Platform::host() }));
    }

    #[test]
    fn refuses() {
        for text in
            ["", "/", "linux/", "linux//v7", "a/b/c/d", "solaris9", "linux/am d64", "linux/é"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        check_refused::<Platform>(&[
            "null",
            "[]",
            r#""linux/amd64""#,
            "{}",
            r#"{"os":"linux"}"#,
            r#"{"architecture":"amd64"}"#,
            r#"{"os":null,"architecture":"amd64"}"#,
            r#"{"os":"linux","architecture":1}"#,
            r#"{"os":"linux","architecture":"arm","variant":7}"#,
            r#"{"os":"linux","architecture":"arm","os.version":10}"#,
            r#"{"os":"linux","architecture":"arm","os.features":"win32k"}"#,
            r#"{"os":"linux","architecture":"arm","os.features":[null]}"#,
            r#"{"os":"linux","os":"linux","architecture":"arm"}"#,
        ]);
    }

    proptest! {
        #[test]
        fn round_trips(written in written_platform(), document in platform()) {
            let normal = written.normalized();
            check_text(&normal);
            prop_assert_eq!(normal.normalized(), normal.clone());
            prop_assert_eq!(written.to_string().parse(), Ok(normal));
            check_json(&written);
            check_json(&document);
        }

        #[test]
        fn never_panics(text: String) {
            if let Ok(platform) = text.parse::<Platform>() {
                check_text(&platform);
            }
        }
    }

    #[test]
    fn ranks_variants() {
        let rank = |wanted: &str, offered: &str| {
            wanted.parse::<Platform>().unwrap().rank(&offered.parse().unwrap())
        };
        assert!(rank("linux/amd64/v3", "linux/amd64/v2") > rank("linux/amd64/v3", "linux/amd64"));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert!(rank("linux/arm64", "linux/arm64/v8").is_some());
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }
}
