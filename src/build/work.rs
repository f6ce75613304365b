//! The one directory in which a build leaves things, and which goes with it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::report::{Explain as _, Failure};

/// A new directory below the executor's, removed when this is dropped.
#[derive(Debug)]
pub(super) struct WorkDir {
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
    /// What steps see as the name of their machine.
    hostname: String,
}

impl WorkDir {
    /// Makes it below `kaniko_dir`, which is made too if it is missing.
    pub(super) fn create(kaniko_dir: &Path, hostname: &str) -> Result<Self, Failure> {
        let doing = || format!("make a working directory in {}", kaniko_dir.display());
        let hint = "give a writable directory with --kaniko-dir";
        std::fs::create_dir_all(kaniko_dir).could_not(doing).map_err(|f| f.hint(hint))?;
        let dir = tempfile::Builder::new()
            .prefix("build-")
            // A tree that is being built may hold set-id programs; nobody else may reach them.
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(kaniko_dir)
            .could_not(doing)
            .map_err(|failure| failure.hint(hint))?;
        let path = dir.path().to_owned();
        let work = Self { dir: Some(dir), path, hostname: hostname.to_owned() };
        work.restore()?;
        Ok(work)
    }

    /// Makes what is missing of it: a step in place may have removed the executor's directory.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        for sub in ["layers", "blobs", "stages", "scratch"] {
            let path = self.path().join(sub);
            std::fs::create_dir_all(&path).could_not(|| format!("make {}", path.display()))?;
        }
        Ok(())
    }

    /// A directory for what the steps of one stage see, with what belongs into it: made again before each of
    /// them, because a step may have changed or removed it.
    pub(super) fn scratch_of(&self, stage: usize) -> Result<PathBuf, Failure> {
        self.restore()?;
        let path = self.scratch().join(stage.to_string());
        std::fs::create_dir_all(&path).could_not(|| format!("make {}", path.display()))?;
        self.name_service(&path)?;
        Ok(path)
    }

    /// Removes the roots of stages.
    pub(super) fn clear_stages(&self) -> Result<(), Failure> {
        let dir = self.path().join("stages");
        std::fs::remove_dir_all(&dir).could_not(|| format!("remove {}", dir.display()))?;
        self.restore()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where packed layers lie until they are pushed.
    pub(super) fn layers(&self) -> PathBuf {
        self.path().join("layers")
    }

    /// Where downloaded blobs lie until they are unpacked.
    pub(super) fn blobs(&self) -> PathBuf {
        self.path().join("blobs")
    }

    /// For what is needed for a while.
    pub(super) fn scratch(&self) -> PathBuf {
        self.path().join("scratch")
    }

    /// A new directory for the root of a stage or of an image.
    pub(super) fn root(&self, name: &str) -> Result<PathBuf, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = self.path().join("stages").join(name).join("root");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .could_not(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Copies of the machine's name service files, new ones for each step: what a step writes to them
    /// reaches neither the real ones nor another step.
    fn name_service(&self, scratch: &Path) -> Result<(), Failure> {
        for name in ["resolv.conf", "hosts"] {
            let mut text = std::fs::read(Path::new("/etc").join(name)).unwrap_or_default();
            if name == "hosts" {
                text.extend_from_slice(format!("127.0.0.1\t{}\n", self.hostname).as_bytes());
            }
            let copy = scratch.join(name);
            std::fs::write(&copy, text).could_not(|| format!("write {}", copy.display()))?;
        }
        Ok(())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.dir.take().map(tempfile::TempDir::close) {
            tracing::warn!("{} could not be removed: {error}", self.path.display());
        }
    }
}
