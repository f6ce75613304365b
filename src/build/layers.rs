//! What becomes a layer, and what the image says of it.
//!
//! A step's difference is packed as it is, but for paths that are to be left
//! out, and for times later than the build's epoch. With `--single-snapshot`
//! the differences of a stage only say where to look once, at its end.

use snapshot::{Contents, Difference, ImagePath, Index, Options, Suspects, Table, Timestamp};

use super::Order;
use super::stage::{Fold, Stages};
use crate::cache::outcome;
use crate::context::glob_match;
use crate::dockerfile::history;
use crate::image::{
    Blob, BlobFile, Compression, Descriptor, Digest, Flavor, HistoryEntry, ImageLayer,
};
use crate::plan::{Arguments, EPOCH, Plan, Step};
use crate::report::{Explain as _, Failure, bytes};

/// How layers are made.
#[derive(Debug, Clone)]
pub struct LayerRules {
    /// Times are no later than 1970, unless another epoch is given.
    pub reproducible: bool,
    /// One layer for each stage.
    pub single: bool,
    /// A layer for instructions that change no files, too.
    pub metadata: bool,
    /// What stays out of new layers.
    pub ignored: Vec<IgnoredPath>,
    /// How they are compressed.
    pub compression: snapshot::Compression,
}

/// A path that stays out of layers with what is below it; its components may be patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredPath(Vec<Box<[u8]>>);

impl IgnoredPath {
    /// Reads a path below the root of the image, whose components may have wildcards.
    ///
    /// # Errors
    /// It is the root itself, or no path, or has a pattern that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = ImagePath::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        if path.is_root() {
            return Err("the root of the image cannot be left out of it".to_owned());
        }
        let bad = path.components().find(|part| glob_match(part, b"").is_err());
        match bad {
            Some(part) => Err(format!("{:?} is no pattern", String::from_utf8_lossy(part))),
            None => Ok(Self::exactly(&path)),
        }
    }

    /// The path as it is.
    #[must_use]
    pub fn exactly(path: &ImagePath) -> Self {
        Self(path.components().map(Box::from).collect())
    }

    /// Whether `path` is left out.
    #[must_use]
    pub fn covers(&self, path: &ImagePath) -> bool {
        let mut parts = path.components();
        self.0.iter().all(|pattern| {
            parts.next().is_some_and(|part| glob_match(pattern, part).unwrap_or(false))
        })
    }
}

/// The times that an image tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Times {
    /// Of config and history, RFC 3339.
    pub(super) created: String,
    /// What no file of a new layer is younger than.
    pub(super) latest: Option<Timestamp>,
}

impl Times {
    /// The times of a build at `now`, whose arguments say `epoch`.
    ///
    /// # Errors
    /// The epoch is no time.
    fn new(now: &str, epoch: Option<&str>, reproducible: bool) -> Result<Self, Failure> {
        let given = epoch.filter(|text| !text.is_empty());
        let secs = match given {
            None if !reproducible => return Ok(Self { created: now.to_owned(), latest: None }),
            None => 0,
            Some(text) => text.parse().map_err(|_| no_epoch(text))?,
        };
        let created = jiff::Timestamp::from_second(secs)
            .map_err(|_| no_epoch(given.unwrap_or_default()))?
            .to_string();
        Ok(Self { created, latest: Some(Timestamp::new(secs, 0)) })
    }

    /// Those of a build: the epoch is an argument, given ones before defaults of the Dockerfile.
    ///
    /// # Errors
    /// The epoch is no time.
    pub(super) fn of(
        order: &Order,
        arguments: &Arguments,
        plan: &Plan<'_>,
    ) -> Result<Self, Failure> {
        let epoch = arguments.given().get(EPOCH).or_else(|| plan.globals.get(EPOCH));
        Self::new(&order.created, epoch.map(String::as_str), order.layers.reproducible)
    }
}

fn no_epoch(text: &str) -> Failure {
    Failure::new(format!("{EPOCH}={text}: not a number of seconds since 1970"))
        .hint("for a Git checkout, `git log -1 --pretty=%ct` prints one")
}

/// What `--single-snapshot` gathers during a stage.
#[derive(Debug)]
pub(super) struct Gathered {
    /// What the tree was before the first step that changed it.
    before: Index,
    /// Whatever a step changed.
    paths: Vec<ImagePath>,
    /// The place in the history of the last such step.
    history: usize,
}

impl Stages<'_, '_> {
    /// Takes what a step changed into the image: as a layer, or into the one of the whole stage.
    pub(super) fn take(
        &self,
        difference: Difference,
        fold: &mut Fold,
    ) -> Result<Option<ImageLayer>, Failure> {
        if !self.builder.order.layers.single {
            return self.pack(difference, fold).map(Some);
        }
        let history = fold.image.config().history.len();
        if fold.gathered.is_none() {
            let before = fold.root()?.index().clone();
            fold.gathered = Some(Gathered { before, paths: Vec::new(), history });
        }
        fold.root_mut()?.accept(&difference);
        if let Some(gathered) = &mut fold.gathered {
            gathered.history = history;
            gathered.paths.extend(difference.changes.iter().map(|change| change.path().clone()));
        }
        Ok(None)
    }

    /// The one layer of a stage, which belongs to its last step that could have one.
    pub(super) fn take_gathered(&self, fold: &mut Fold) -> Result<(), Failure> {
        let Some(gathered) = fold.gathered.take() else { return Ok(()) };
        let suspects = Suspects::Only { paths: gathered.paths, trees: Vec::new() };
        let difference = fold
            .root()?
            .difference_from(&gathered.before, &suspects)
            .could_not(|| "compare the stage with its base".to_owned())?;
        drop(gathered.before);
        let layer = self.pack(difference, fold)?;
        fold.on_disk += 1;
        self.send(&layer, fold);
        let mut config = fold.image.config().clone();
        if let Some(entry) = config.history.get_mut(gathered.history) {
            entry.empty_layer = false;
        }
        fold.image = fold.image.clone().with_layer(layer);
        config.rootfs = fold.image.config().rootfs.clone();
        fold.image = fold.image.clone().with_config(config);
        Ok(())
    }

    /// The layer and the history line of a step.
    pub(super) fn record(&self, step: &Step, layer: Option<ImageLayer>, fold: &mut Fold) {
        let empty_layer = layer.is_none();
        if let Some(layer) = layer {
            self.send(&layer, fold);
            fold.image = fold.image.clone().with_layer(layer);
        }
        if let Some(created_by) = &step.created_by {
            fold.image = fold.image.clone().with_history(HistoryEntry {
                created: Some(self.builder.times.created.clone()),
                created_by: Some(created_by.clone()),
                comment: Some(history::COMMENT.to_owned()),
                empty_layer,
                ..HistoryEntry::default()
            });
        }
    }

    /// Packs a difference and takes it into the index.
    fn pack(&self, mut difference: Difference, fold: &mut Fold) -> Result<ImageLayer, Failure> {
        let ignored = &self.builder.order.layers.ignored;
        let left_out = if ignored.is_empty() {
            Difference::default()
        } else {
            difference.split_off(|path| ignored.iter().any(|it| it.covers(path)))
        };
        if !left_out.changes.is_empty() {
            let count = left_out.changes.len();
            tracing::info!("{count} changed paths are left out of the layer: they are ignored");
        }
        let (options, dir) = (self.options(), self.builder.work.layers());
        let rootfs = fold.root_mut()?;
        let packed = rootfs
            .pack(&mut difference, &dir, options)
            .could_not(|| "pack the layer".to_owned())?;
        rootfs.accept(&difference);
        rootfs.accept(&left_out);
        fold.made = self.builder.cache.is_some().then(|| outcome(&difference.changes));
        tracing::info!(
            "Layer of {} {}, {}",
            difference.changes.len(),
            if difference.changes.len() == 1 { "entry" } else { "entries" },
            bytes(packed.size)
        );
        Ok(layer(packed, fold.image.flavor()))
    }

    /// A layer without entries, for an instruction that changes no files.
    pub(super) fn pack_nothing(&self, fold: &Fold) -> Result<ImageLayer, Failure> {
        let dir = self.builder.work.layers();
        let doing = || "pack an empty layer".to_owned();
        let root = std::fs::File::open(&dir).could_not(doing)?;
        let nothing = &mut Difference::default();
        let root = std::os::fd::AsFd::as_fd(&root);
        let packed = snapshot::pack(root, nothing, &dir, self.options()).could_not(doing)?;
        Ok(layer(packed, fold.image.flavor()))
    }

    fn options(&self) -> Options {
        Options {
            compression: self.builder.order.layers.compression,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            latest: self.builder.times.latest,
        }
    }
}

/// The family of media types that has a name for layers of this build, and annotations for their tables
/// of contents.
pub(super) fn flavor_for(compression: snapshot::Compression, flavor: Flavor) -> Flavor {
    match compression {
        snapshot::Compression::Estargz { .. } => Flavor::Oci,
        other => flavor.layer(format(other)).map_or(Flavor::Oci, |_| flavor),
    }
}

fn format(compression: snapshot::Compression) -> Compression {
    match compression {
        snapshot::Compression::Gzip { .. } | snapshot::Compression::Estargz { .. } => {
            Compression::Gzip
        }
        snapshot::Compression::Zstd { .. } | snapshot::Compression::ZstdChunked { .. } => {
            Compression::Zstd
        }
        snapshot::Compression::None => Compression::None,
    }
}

fn annotations(table: &Table) -> impl Iterator<Item = (String, String)> {
    table.annotations().into_iter().map(|(name, value)| (name.to_owned(), value))
}

pub(super) fn layer(packed: snapshot::Layer, flavor: Flavor) -> ImageLayer {
    let digest = Digest::from_bytes(packed.digest.0);
    let diff_id = Digest::from_bytes(packed.diff_id.0);
    let media_type = flavor.layer(format(packed.compression));
    let media_type = media_type.expect("a stage begins in a family that has a name for its layers");
    let mut descriptor = Descriptor::new(media_type, digest, packed.size);
    match &packed.contents {
        Contents::NotAsked => {}
        Contents::Table(table) => descriptor.annotations.extend(annotations(table)),
        Contents::Unfit { path, why } => tracing::warn!(
            "The layer has no table of contents and will not be pulled lazily: {path}: {why}"
        ),
    }
    let blob = Blob::File(BlobFile::temporary(packed.into_temp_path()));
    ImageLayer { descriptor, diff_id, blob }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sets_all_times() {
        let told = |epoch, reproducible| match Times::new("now", epoch, reproducible) {
            Ok(times) => {
                format!("{} {:?}", times.created, times.latest.map(Timestamp::secs))
            }
            Err(failure) => failure.to_string(),
        };
        for (epoch, reproducible, want) in [
            (None, false, "now None"),
            (Some(""), false, "now None"),
            (None, true, "1970-01-01T00:00:00Z Some(0)"),
            (Some(""), true, "1970-01-01T00:00:00Z Some(0)"),
            (Some("1700000000"), false, "2023-11-14T22:13:20Z Some(1700000000)"),
            (Some("1700000000"), true, "2023-11-14T22:13:20Z Some(1700000000)"),
            (Some("-1"), false, "1969-12-31T23:59:59Z Some(-1)"),
        ] {
            assert_eq!(told(epoch, reproducible), want, "{epoch:?} {reproducible}");
        }
        for epoch in ["context", "1.5", "9223372036854775807", " 1"] {
            let text = told(Some(epoch), false);
            assert!(text.contains("not a number of seconds"), "{epoch}: {text}");
        }
    }
}
