//! Where a build's result goes: into the store, a file or a directory.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use davit_build::{
    BuildError, BuildErrorKind, Built, Cancellable, ExportError, ExportMode, ExportPart,
    ExportTarget, MoreFile, export_directory, export_tar, file_digests, open_layers,
};
use davit_image::{Descriptor, ImageId, Platform, Reference, Timestamp};
use davit_store::{ImageCommit, Lease, Store, TagUpdate, Target, archive::WholeFile, is_no_space};

use super::{
    BuildFailure,
    attest::{self, Attestation, Receiver, Told},
    form::{Formed, ImageForm, IndexUse},
    pack::Packer,
};
use crate::{
    Engine, FileError, Progress, PushRequest, Referrers, RemoteName,
    archive::{BuiltImages, SavedForm},
    compressed::CompressedLayers,
};

/// As Docker's: everyone may read it, as far as the umask goes.
const FILE_MODE: u32 = 0o666;
/// Annotation of an archive's index: when the images were made.
const CREATED: &str = "org.opencontainers.image.created";
const BUFFER: usize = 1 << 20;

/// Where a result goes.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum BuildOutput {
    /// Into the store, to registries, or both.
    Image(ImageOutput),
    /// A tar that Docker loads and that is an OCI layout as well, with these names in it.
    Archive(Vec<Reference>, ImageForm, BuildSink),
    /// An OCI layout directory, with these names in its index.
    Layout(Vec<Reference>, ImageForm, PathBuf),
    /// Its files, into a directory.
    Directory(PathBuf, FileForm, ExportMode),
    /// Its files, as a tar.
    Tar(BuildSink, FileForm),
    /// Nowhere: only the cache is filled.
    CacheOnly,
}

impl BuildOutput {
    /// Whether nothing of the result goes anywhere.
    pub(super) const fn is_nowhere(&self) -> bool {
        matches!(self, Self::CacheOnly)
    }

    /// Whether registries get it.
    pub(super) fn is_pushed(&self) -> bool {
        matches!(self, Self::Image(image) if image.place != ImagePlace::Store)
    }

    /// Gives a single result the form that several have.
    pub(super) fn form_as_several(&mut self) {
        match self {
            Self::Image(image) => image.form.index = IndexUse::Always,
            Self::Archive(_, form, _) | Self::Layout(_, form, _) => form.index = IndexUse::Always,
            Self::Directory(_, form, _) | Self::Tar(_, form) => {
                if form.folders == PlatformFolders::Several {
                    form.folders = PlatformFolders::Always;
                }
            }
            Self::CacheOnly => {}
        }
    }

    /// The form that it asks for, if it is an image.
    pub(super) const fn form(&self) -> Option<&ImageForm> {
        match self {
            Self::Image(image) => Some(&image.form),
            Self::Archive(_, form, _) | Self::Layout(_, form, _) => Some(form),
            Self::Directory(..) | Self::Tar(..) | Self::CacheOnly => None,
        }
    }
}

/// An image that the store or registries get.
#[derive(Clone, Debug, Default)]
pub struct ImageOutput {
    /// Its names; without one it is kept all the same.
    pub names: Vec<Reference>,
    /// What its documents look like.
    pub form: ImageForm,
    /// Who gets it.
    pub place: ImagePlace,
}

/// Who gets an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImagePlace {
    /// The store alone.
    #[default]
    Store,
    /// The registries of its names, and the store.
    StoreAndRegistry(RemoteName),
    /// The registries alone.
    Registry(RemoteName),
}

/// Whether the files of each platform go to a folder of its name, as `linux_arm64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlatformFolders {
    /// Where there are several.
    #[default]
    Several,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// How a result's files are laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileForm {
    /// The folders of platforms.
    pub folders: PlatformFolders,
    /// How the names of attestations begin.
    pub attestation_prefix: String,
}

/// What became of the image of a build.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What names it where it went: at the registry, if it was pushed.
    pub descriptor: Descriptor,
    /// Its id there; of several images, that of the one for this machine.
    pub image: ImageId,
    /// Its names there.
    pub names: Vec<Reference>,
    /// What names the statements about it that are in the store.
    pub statements: Vec<(Platform, Descriptor)>,
}

/// What a tar is written to.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum BuildSink {
    /// A pipe or the like.
    Stream(Box<dyn Write + Send>),
    /// A file.
    File(BufWriter<WholeFile>),
}

impl BuildSink {
    /// A file: one with the name is whole, and what had the name has it until then.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn file(path: &Path) -> Result<Self, FileError> {
        let file = WholeFile::output(path, FILE_MODE)?;
        Ok(Self::File(BufWriter::with_capacity(BUFFER, file)))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stream(stream) => stream,
            Self::File(file) => file,
        }
    }

    /// Gives what was written its name if all went well, and gives it back if not.
    fn close<T>(self, store: &Store, written: Result<T, BuildFailure>) -> Result<T, BuildFailure> {
        if written.is_ok() {
            self.finish()?;
        } else if let Self::File(file) = self
            // What is still in the buffer is of no use to anybody.
            && let Some(file) = file.into_parts().0.abandon()
        {
            store.close_behind(file);
        }
        written
    }

    fn finish(self) -> Result<(), BuildFailure> {
        let failed = |source: io::Error| ExportError::Write { path: "the output".into(), source };
        match self {
            Self::Stream(mut stream) => stream.flush().map_err(failed)?,
            Self::File(file) => {
                let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
                file.finish().map_err(FileError::from)?;
            }
        }
        Ok(())
    }
}

/// What outputs need of the build.
#[derive(Clone, Copy)]
pub(super) struct Delivery<'a> {
    pub(super) lease: &'a Lease<'a>,
    pub(super) built: &'a [Built],
    pub(super) told: &'a Told,
    pub(super) platforms: &'a [Platform],
    pub(super) progress: &'a dyn Progress,
    pub(super) cancelled: &'a AtomicBool,
    /// Layers as those get them who want them compressed.
    pub(super) compressed: &'a CompressedLayers<'a>,
}

impl Delivery<'_> {
    fn parts(&self, store: &Store, form: &FileForm) -> Result<Vec<ExportPart>, BuildFailure> {
        let split = match form.folders {
            PlatformFolders::Several => self.built.len() > 1,
            PlatformFolders::Always => true,
            PlatformFolders::Never => false,
        };
        // One folder for several platforms: the names tell them apart.
        let named = !split && self.built.len() > 1;
        let mut parts = Vec::new();
        for (position, (built, platform)) in self.built.iter().zip(self.platforms).enumerate() {
            let folder = platform.to_string().replace('/', "_");
            let layers: Vec<_> = built.outcome.layers.iter().map(|it| it.diff_id).collect();
            let attested = self.told.attested.get(position).into_iter().flatten();
            let attested: Vec<_> = attested.filter(|it| it.is_for(Receiver::Files)).collect();
            let mut more = Vec::new();
            if !attested.is_empty() {
                let opened = open_layers(store, self.lease, &layers).map_err(ExportError::from)?;
                let subjects = file_digests(&opened, self.cancelled)?;
                let suffix = named.then_some(folder.as_str());
                let name = |it: &Attestation| it.exported_name(&form.attestation_prefix, suffix);
                more.extend(
                    attested.iter().map(|it| MoreFile {
                        name: name(it),
                        content: it.exported(subjects.clone()),
                    }),
                );
            }
            parts.push(ExportPart { folder: split.then_some(folder), layers, more });
        }
        Ok(parts)
    }

    fn epoch(&self) -> Option<i64> {
        self.built.first().and_then(|built| built.outcome.epoch)
    }

    /// The last moment at which nothing is named yet.
    fn check(&self) -> Result<(), BuildFailure> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(BuildError::new(BuildErrorKind::Cancelled).into());
        }
        Ok(())
    }
}

impl Engine {
    /// Puts a result where it is to go; names in the store come last, when nothing can fail any
    /// more. Yields what the last output that is an image gave, as `BuildKit` tells it.
    pub(super) fn deliver(
        &self,
        delivery: Delivery<'_>,
        outputs: Vec<BuildOutput>,
    ) -> Result<Option<Exported>, BuildFailure> {
        let Delivery { lease, cancelled, .. } = delivery;
        let (store, epoch) = (self.store(), delivery.epoch());
        let is_image = |output: &BuildOutput| {
            use BuildOutput::{Archive, Image, Layout};
            matches!(output, Image(_) | Archive(..) | Layout(..))
        };
        let is_image = outputs.iter().any(is_image);
        let (mut told, mut images) = (BTreeMap::new(), Vec::new());
        for (position, output) in outputs.into_iter().enumerate() {
            match output {
                BuildOutput::CacheOnly => {}
                BuildOutput::Directory(path, form, mode) => {
                    let target = ExportTarget { path: &path, mode, epoch };
                    let parts = delivery.parts(store, &form)?;
                    export_directory(store, lease, &parts, &target, cancelled)?;
                }
                BuildOutput::Tar(mut sink, form) => {
                    let parts = delivery.parts(store, &form)?;
                    let mut writer = Cancellable { inner: sink.writer(), cancelled };
                    let written = export_tar(store, lease, &parts, epoch, &mut writer);
                    sink.close(store, written.map_err(BuildFailure::from))?;
                }
                BuildOutput::Archive(names, form, mut sink) => {
                    let mut writer = Cancellable { inner: sink.writer(), cancelled };
                    let saved = self.save(delivery, (names, &form), SavedForm::Tar(&mut writer));
                    told.insert(position, sink.close(store, saved)?);
                }
                BuildOutput::Layout(names, form, path) => {
                    let layout = SavedForm::Layout(&path, cancelled);
                    let saved = self.save(delivery, (names, &form), layout)?;
                    told.insert(position, saved);
                }
                BuildOutput::Image(image) => images.push((position, image)),
            }
        }
        let mut formed = Vec::new();
        for (position, image) in &images {
            let (whole, pushed) = self.push_image(delivery, image)?;
            let here = || Exported {
                descriptor: whole.descriptor.clone(),
                image: whole.own().id,
                names: image.names.clone(),
                statements: whole.statements(),
            };
            told.insert(*position, pushed.unwrap_or_else(here));
            formed.push(whole);
        }
        delivery.check()?;
        for ((_, image), whole) in images.iter().zip(&formed) {
            if !matches!(image.place, ImagePlace::Registry(_)) {
                self.name_image(lease, &image.names, whole)?;
            }
        }
        if is_image {
            self.remember(delivery)?;
        }
        Ok(told.pop_last().map(|(_, exported)| exported))
    }

    /// Writes an archive or a layout.
    fn save(
        &self,
        delivery: Delivery<'_>,
        (names, form): (Vec<Reference>, &ImageForm),
        saved: SavedForm<'_>,
    ) -> Result<Exported, BuildFailure> {
        let Delivery { lease, built, platforms, .. } = delivery;
        let mut formed = Formed::new(built, platforms, form);
        let mut files = BTreeMap::new();
        if let Some(compression) = form.compression {
            let mut packer = Packer {
                engine: self,
                compressed: delivery.compressed,
                compression,
                known: HashMap::new(),
                renamed: HashMap::new(),
                files,
            };
            formed = packer.pack(formed, built, form)?;
            files = packer.files;
        }
        let attested = (Receiver::Image, names.as_slice());
        attest::add_to(&mut formed, &delivery.told.attested, attested, (self.store(), form))?;
        let epoch = delivery.epoch().and_then(|it| Timestamp::from_unix_seconds(it).ok());
        // Without it an archive depends on nothing but its images: no time of the writing is in it.
        let created = epoch.map(|epoch| (CREATED.to_owned(), epoch.to_string()));
        formed.descriptor.annotations.extend(created);
        let (descriptor, image) = (formed.descriptor.clone(), formed.own().id);
        let images = BuiltImages { formed: &formed, files, names: names.clone() };
        self.save_built(lease, images, saved)?;
        Ok(Exported { descriptor, image, names, statements: Vec::new() })
    }

    /// Brings an image into its form and sends it where it is to go; yields what the registry has.
    fn push_image(
        &self,
        delivery: Delivery<'_>,
        image: &ImageOutput,
    ) -> Result<(Formed, Option<Exported>), BuildFailure> {
        let Delivery { lease, built, platforms, progress, cancelled, .. } = delivery;
        let mut formed = Formed::new(built, platforms, &image.form);
        let receiver = match image.place {
            ImagePlace::Store => Receiver::Image,
            ImagePlace::StoreAndRegistry(_) | ImagePlace::Registry(_) => Receiver::Registry,
        };
        let attested = (receiver, image.names.as_slice());
        attest::add_to(
            &mut formed,
            &delivery.told.attested,
            attested,
            (self.store(), &image.form),
        )?;
        let requests = push_requests(image);
        if requests.is_empty() {
            return Ok((formed, None));
        }
        // A push reads documents out of the store.
        self.commit(lease, &formed, ImageCommit::default())?;
        let target = target_of(&formed);
        let mut pushed = None;
        for request in requests {
            delivery.check()?;
            // What an earlier build told of the same image is not what this one tells.
            let referrers = match formed.attestations.is_empty() {
                true => Referrers::Omitted,
                false => delivery.told.referrers,
            };
            let request = PushRequest { referrers, ..request };
            let told = (progress, cancelled, delivery.compressed);
            let sent = self.push_built(lease, &target, &request, told)?;
            let Descriptor { digest, size, .. } = sent.descriptor;
            pushed.get_or_insert_with(|| Exported {
                descriptor: Descriptor { digest, size, ..formed.descriptor.clone() },
                image: sent.image_id.unwrap_or(formed.own().id),
                names: image.names.clone(),
                statements: formed.statements(),
            });
        }
        Ok((formed, pushed))
    }

    fn name_image(
        &self,
        lease: &Lease<'_>,
        names: &[Reference],
        formed: &Formed,
    ) -> Result<(), BuildFailure> {
        let target = target_of(formed);
        let update = |reference: &Reference| TagUpdate {
            reference: reference.clone(),
            target: target.clone(),
        };
        let untagged = if names.is_empty() { vec![target.clone()] } else { Vec::new() };
        let tags = names.iter().map(update).collect();
        self.commit(lease, formed, ImageCommit { tags, untagged, ..ImageCommit::default() })
    }

    fn commit(
        &self,
        lease: &Lease<'_>,
        formed: &Formed,
        commit: ImageCommit,
    ) -> Result<(), BuildFailure> {
        let documents = formed.documents();
        let (mut referrers, mut former_referrers) = (Vec::new(), Vec::new());
        for made in &formed.attestations {
            let own = made.descriptor.digest;
            for (former, manifest) in attest::referrers(self.store(), &made.subject)? {
                if attest::is_attestation(manifest.value()) && former.digest != own {
                    former_referrers.push((made.subject, former.digest));
                }
            }
            if made.descriptor.artifact_type.is_some() {
                referrers.push((made.subject, own));
            }
        }
        let commit = ImageCommit { documents, referrers, former_referrers, ..commit };
        Ok(self.store().commit_images(lease, &commit)?)
    }

    /// Lets the next build of the same find the images.
    fn remember(&self, delivery: Delivery<'_>) -> Result<(), BuildFailure> {
        let Delivery { lease, built, .. } = delivery;
        let documents = built.iter().flat_map(|it| [it.config.clone(), it.manifest.clone()]);
        let documents = documents.collect();
        let commit = ImageCommit { documents, ..ImageCommit::default() };
        self.store().commit_images(lease, &commit)?;
        for built in built {
            match built.remember(self.store(), lease) {
                // The result is there and named; only the next build has more to do.
                Err(error) if is_no_space(&error.kind) => {}
                remembered => remembered?,
            }
        }
        Ok(())
    }
}

/// The pushes that an output asks for.
pub(super) fn push_requests(image: &ImageOutput) -> Vec<PushRequest> {
    let (name, keeps) = match image.place {
        ImagePlace::Store => return Vec::new(),
        ImagePlace::StoreAndRegistry(name) => (name, true),
        ImagePlace::Registry(name) => (name, false),
    };
    let request = |reference: &Reference| PushRequest {
        reference: reference.clone(),
        source: (!keeps).then(|| reference.clone()),
        all_tags: false,
        platform: None,
        compression: image.form.compression.unwrap_or_default(),
        name,
        referrers: Referrers::default(),
    };
    image.names.iter().map(request).collect()
}

/// What names an image in the store.
fn target_of(formed: &Formed) -> Target {
    Target::new(&formed.descriptor, Some(formed.own().id))
}
