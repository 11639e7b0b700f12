//! Root filesystems: from an image to what a monitor or a build's supervisor mounts.
//!
//! ```text
//! image -> layers -> Snapshots::prepare -> Stack --(JSON)--> MountNamespace::lowers -> overlay
//!          rows      trees written or found                  shared with live holders
//! ```

use davit_image::{DiffId, ImageId};
use davit_layer::MergeError;
use davit_snapshot::{
    Form, Mountpoints, PrepareOptions, SnapshotError, SnapshotSettings, Snapshots, Stack, erofs,
};

use crate::{Engine, Hint};

/// Why layers can never be mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnusableLayers {
    /// They do not fit together.
    #[error(transparent)]
    Merge(MergeError),
    /// No tree can hold what they make.
    #[error(transparent)]
    Write(erofs::WriteError),
}

impl Engine {
    /// The root filesystems of this root, in the form that the settings force or a probe chose.
    ///
    /// # Errors
    /// [`SnapshotError::NoForm`] where nothing can be mounted.
    pub fn snapshots(&self) -> Result<Snapshots<'_>, SnapshotError> {
        let settings = &self.config().settings.store;
        let settings = SnapshotSettings {
            form: settings.snapshot,
            upper: settings.upper.clone(),
            upper_tmpfs_bytes: settings.upper_bytes.unwrap_or(0),
        };
        Snapshots::open(self.store(), settings)
    }

    /// How root filesystems are made here, as `davit info` shows it.
    ///
    /// # Errors
    /// As [`Self::snapshots`].
    pub fn snapshot_form(&self) -> Result<Form, SnapshotError> {
        Ok(self.snapshots()?.form())
    }

    /// What the root filesystem of an image is mounted from.
    ///
    /// # Errors
    /// [`SnapshotError`]: a layer is gone or does not fit, or the disk refuses.
    pub fn image_stack(
        &self,
        image: &ImageId,
        mountpoints: Mountpoints,
    ) -> Result<Stack, SnapshotError> {
        let layers = self.store().image_layers(image)?;
        self.snapshots()?.prepare(&layers, &PrepareOptions::new(mountpoints))
    }

    /// Writes what containers of these layers will be mounted from, before the image has a name,
    /// so that the first one need not wait. Only layers that can never be mounted are refused: an
    /// image for another machine may well be kept on one that cannot mount it now, and whoever
    /// runs it is told why.
    ///
    /// # Errors
    /// [`UnusableLayers`].
    pub(crate) fn prepare_layers(&self, chain: &[DiffId]) -> Result<(), UnusableLayers> {
        let options = PrepareOptions::new(Mountpoints::Container);
        match self.snapshots().and_then(|snapshots| snapshots.prepare(chain, &options)) {
            Ok(_) => Ok(()),
            Err(SnapshotError::Merge(error)) => Err(UnusableLayers::Merge(error)),
            Err(SnapshotError::Write(error)) => Err(UnusableLayers::Write(error)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no root filesystem yet");
                Ok(())
            }
        }
    }
}

impl Hint for SnapshotError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::LayerSize { .. } | Self::Table { .. } | Self::MissingLayer(_) => {
                vec!["davit system check --repair".to_owned()]
            }
            Self::File { action: "open", source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                vec!["davit system check --repair".to_owned()]
            }
            Self::Store(error) => error.hints(),
            Self::NoForm { .. } => vec!["davit info".to_owned()],
            _ => Vec::new(),
        }
    }
}
