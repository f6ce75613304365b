//! `RUN --mount`: the options as written, and what they mean.
//!
//! Values may hold variables, so the meaning is known only when the step is reached. Until then a
//! [`MountSpec`] is what was written; [`MountSpec::resolve`] is the one place that interprets it.

use super::suggest;
use super::words::Word;

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// One `--mount` as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The value of the flag.
    pub raw: Word,
    /// Its fields in the order written.
    pub fields: Vec<MountField>,
}

/// One field of `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountField {
    /// In lower case, not expanded.
    pub key: String,
    /// Expanded; `None` without `=`.
    pub value: Option<Word>,
}

/// What a mount is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the build, as file or variable.
    Secret,
    /// An agent's socket.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Everyone.
    Shared,
    /// Each concurrent user has a directory of its own.
    Private,
    /// One after the other.
    Locked,
}

/// The meaning of one `--mount`. Empty text stands for "not given", as in the reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `type`
    pub kind: MountKind,
    /// `from`: stage, named context or image.
    pub from: String,
    /// `source`, `src`
    pub source: String,
    /// `target`, `dst`, `destination`
    pub target: String,
    /// `readonly`, `ro`, `readwrite`, `rw`; without them true for bind, secret and ssh.
    pub read_only: bool,
    /// `size` of a tmpfs in bytes, 0 for no limit.
    pub size: u64,
    /// `id`
    pub id: String,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// `required`: a secret or socket that is missing fails the step.
    pub required: bool,
    /// `env` of a secret; present but empty means the variable is named after the secret.
    pub env: Option<String>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

/// Why a `--mount` means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError<E> {
    /// A value could not be expanded.
    #[error(transparent)]
    Expand(E),
    /// The options contradict each other or the rules.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What was perhaps meant.
        hint: Option<String>,
    },
}

impl<E> MountError<E> {
    fn new(message: String) -> Self {
        Self::Invalid { message, hint: None }
    }
}

impl MountSpec {
    /// The value of a key as written, the last one where it stands twice.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Word> {
        let mut named = self.fields.iter().rev().filter(|field| field.key == key);
        named.find_map(|field| field.value.as_ref())
    }

    /// What the options mean, with their values expanded by `expand`.
    ///
    /// # Errors
    /// An unknown key or value, a value that `expand` refuses, or options that do not go together.
    pub fn resolve<E>(
        &self,
        mut expand: impl FnMut(&Word) -> Result<String, E>,
    ) -> Result<Mount, MountError<E>> {
        let mut draft = Draft::default();
        for field in &self.fields {
            match &field.value {
                None => draft.flag(&field.key)?,
                Some(word) => {
                    let value = expand(word).map_err(MountError::Expand)?;
                    draft.set(&field.key, value)?;
                }
            }
        }
        draft.finish()
    }
}

#[derive(Default)]
struct Draft {
    mount: Mount,
    writable: Option<bool>,
}

impl Draft {
    fn flag<E>(&mut self, key: &str) -> Result<(), MountError<E>> {
        match key {
            "readonly" | "ro" => self.writable = Some(false),
            "readwrite" | "rw" => self.writable = Some(true),
            "required" => self.require(key, true)?,
            _ => {
                let message = format!("invalid mount field `{key}`: it must be a key=value pair");
                return Err(MountError::new(message));
            }
        }
        Ok(())
    }

    fn set<E>(&mut self, key: &str, value: String) -> Result<(), MountError<E>> {
        let mount = &mut self.mount;
        match key {
            "type" => mount.kind = kind(&value)?,
            "from" => mount.from = value,
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => self.writable = Some(!boolean(key, &value)?),
            "readwrite" | "rw" => self.writable = Some(boolean(key, &value)?),
            "required" => self.require(key, boolean(key, &value)?)?,
            "size" => self.limit(&value)?,
            "id" => mount.id = value,
            "sharing" => mount.sharing = Some(sharing(&value)?),
            "mode" => mount.mode = Some(number(key, &value, 8)?),
            "uid" => mount.uid = Some(number(key, &value, 10)?),
            "gid" => mount.gid = Some(number(key, &value, 10)?),
            "env" => mount.env = Some(value),
            _ => {
                let message = format!("unexpected key `{key}` in a mount");
                return Err(MountError::Invalid { message, hint: suggest::nearest(key, KEYS) });
            }
        }
        Ok(())
    }

    fn require<E>(&mut self, key: &str, required: bool) -> Result<(), MountError<E>> {
        match self.mount.kind {
            MountKind::Secret | MountKind::Ssh => self.mount.required = required,
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                return Err(misplaced(key, self.mount.kind));
            }
        }
        Ok(())
    }

    fn limit<E>(&mut self, value: &str) -> Result<(), MountError<E>> {
        if self.mount.kind != MountKind::Tmpfs {
            return Err(misplaced("size", self.mount.kind));
        }
        self.mount.size = bytes(value).ok_or_else(|| invalid("size", value))?;
        Ok(())
    }

    fn finish<E>(self) -> Result<Mount, MountError<E>> {
        let Self { mut mount, writable } = self;
        let by_default = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
        mount.read_only = !writable.unwrap_or(by_default);
        match contradiction(&mount) {
            None => Ok(mount),
            Some(message) => Err(MountError::new(message)),
        }
    }
}

fn contradiction(mount: &Mount) -> Option<String> {
    let name = mount.kind.name();
    let owned = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
    let stray = owned.iter().find(|(_, value)| value.is_some());
    match (mount.kind, stray) {
        (MountKind::Bind | MountKind::Tmpfs, Some((key, _))) => {
            Some(format!("{key} is not allowed for a {name} mount"))
        }
        (MountKind::Secret, _) => secret_contradiction(mount),
        (MountKind::Bind | MountKind::Tmpfs | MountKind::Ssh, _) if mount.sharing.is_some() => {
            Some(format!("sharing is not allowed for a {name} mount"))
        }
        _ => None,
    }
}

fn secret_contradiction(mount: &Mount) -> Option<String> {
    let message = if !mount.from.is_empty() {
        "a secret mount cannot have `from`"
    } else if mount.sharing.is_some() {
        "a secret mount cannot have `sharing`"
    } else if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
        "a secret mount needs `id`, `source` or `target`"
    } else if !mount.source.is_empty() && !mount.id.is_empty() {
        "a secret mount cannot have both `source` and `id`"
    } else {
        return None;
    };
    Some(message.to_owned())
}

impl MountKind {
    /// The name in a Dockerfile.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn kind<E>(value: &str) -> Result<MountKind, MountError<E>> {
    match value.to_lowercase().as_str() {
        "bind" => Ok(MountKind::Bind),
        "cache" => Ok(MountKind::Cache),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "secret" => Ok(MountKind::Secret),
        "ssh" => Ok(MountKind::Ssh),
        _ => Err(MountError::Invalid {
            message: format!("unsupported mount type `{value}`"),
            hint: suggest::nearest(value, &["bind", "cache", "tmpfs", "secret", "ssh"]),
        }),
    }
}

fn sharing<E>(value: &str) -> Result<Sharing, MountError<E>> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(MountError::Invalid {
            message: format!("unsupported sharing `{value}`"),
            hint: suggest::nearest(value, &["shared", "private", "locked"]),
        }),
    }
}

fn boolean<E>(key: &str, value: &str) -> Result<bool, MountError<E>> {
    parse_bool(value).ok_or_else(|| invalid(key, value))
}

/// The spellings of Go's `strconv.ParseBool`.
pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn number<E>(key: &str, value: &str, radix: u32) -> Result<u32, MountError<E>> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { u32::from_str_radix(value, radix).ok() } else { None };
    number.ok_or_else(|| invalid(key, value))
}

/// `64m`, `1.5 GiB`, `512`: powers of 1024, as Docker reads sizes of memory.
fn bytes(value: &str) -> Option<u64> {
    let split = value.rfind(|c: char| c.is_ascii_digit() || c == '.').map_or(0, |at| at + 1);
    let (number, unit) = value.split_at(split);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    if unit == "ib" {
        return None;
    }
    scaled(number, 1u64 << shift)
}

/// A decimal number times a factor, rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.checked_mul(u128::from(factor))?;
    u64::try_from(product / scale).ok()
}

fn misplaced<E>(key: &str, kind: MountKind) -> MountError<E> {
    MountError::new(format!("{key} is not allowed for a {} mount", kind.name()))
}

fn invalid<E>(key: &str, value: &str) -> MountError<E> {
    MountError::new(format!("invalid value `{value}` for {key} in a mount"))
}

/// Splits the value of a flag at its commas; a field may be quoted, with `""` for a quote.
///
/// # Errors
/// Quotes that do not pair up, or nothing at all.
pub fn comma_separated(text: &str) -> Result<Vec<String>, &'static str> {
    if text.is_empty() {
        return Err("the value is empty");
    }
    let mut fields = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let (field, after) = match text.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => plain_field(text)?,
        };
        fields.push(field);
        rest = after;
    }
    Ok(fields)
}

type Field<'a> = (String, Option<&'a str>);

fn plain_field(text: &str) -> Result<Field<'_>, &'static str> {
    let (field, rest) = match text.split_once(',') {
        Some((field, rest)) => (field, Some(rest)),
        None => (text, None),
    };
    if field.contains('"') {
        return Err("a quote in the middle of a field");
    }
    Ok((field.to_owned(), rest))
}

fn quoted_field(mut text: &str) -> Result<Field<'_>, &'static str> {
    let mut field = String::new();
    loop {
        let (part, rest) = text.split_once('"').ok_or("a quoted field without its end")?;
        field.push_str(part);
        match rest.chars().next() {
            None => return Ok((field, None)),
            Some(',') => return Ok((field, Some(&rest[1..]))),
            Some('"') => field.push('"'),
            Some(_) => return Err("text after the end of a quoted field"),
        }
        text = &rest[1..];
    }
}
