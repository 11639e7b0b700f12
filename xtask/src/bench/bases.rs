//! Images of the corpus in a registry on the loopback, where all programs find them.

use std::process::Command;

use anyhow::{Context as _, Result};
use davit_test::{Access, Registry};

use super::{Setting, measure::prepare};

/// A registry with some of the images.
pub(super) struct Bases {
    registry: Registry,
    images: Vec<String>,
}

impl Bases {
    /// Starts it with the `images`.
    pub(super) fn serve(setting: &Setting, images: &[&str]) -> Result<Self> {
        let registry = Registry::start(Access::Open).context("docker-registry is needed")?;
        let mut images: Vec<String> = images.iter().map(|image| (*image).to_owned()).collect();
        images.dedup();
        let bases = Self { registry, images };
        for image in &bases.images {
            prepare(
                Command::new("skopeo")
                    .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                    .arg(format!("oci:{}:latest", setting.corpus.oci_layout(image).display()))
                    .arg(format!("docker://{}", bases.name(image))),
            )?;
        }
        Ok(bases)
    }

    /// Reference of an image.
    pub(super) fn name(&self, image: &str) -> String {
        format!("{}/{image}:latest", self.registry.host())
    }

    /// References of all.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.images.iter().map(|image| self.name(image))
    }
}
