//! What `executor cache` says, for people and for programs.

use serde_json::{Value, json};

use crate::cache::{Content, Inventory, Kept, MountImage, Record};
use crate::cli::flags::ListFormat;
use crate::plan::Key;
use crate::report::{age, bytes};

/// What there is.
pub(super) fn list(inventory: &Inventory, now: i64, format: ListFormat) -> String {
    let entries: Vec<&Kept> = inventory.entries.iter().collect();
    if format.is_json() {
        return object(&json!({
            "entries": entries.iter().map(|kept| value(kept)).collect::<Vec<_>>(),
            "bytes": inventory.bytes,
            "others": inventory.others,
        }));
    }
    let others = match inventory.others {
        0 => String::new(),
        1 => "; 1 other image is no entry".to_owned(),
        others => format!("; {others} other images are no entries"),
    };
    format!("{}{}{others}\n", table(&entries, now), sum(&entries))
}

/// What goes, or would go.
pub(super) struct Pruned<'k> {
    pub(super) chosen: &'k [&'k Kept],
    pub(super) dry_run: bool,
    pub(super) in_registry: bool,
}

impl Pruned<'_> {
    pub(super) fn text(&self, inventory: &Inventory, now: i64, format: ListFormat) -> String {
        let removed: u64 = self.chosen.iter().map(|kept| kept.bytes).sum();
        let left = inventory.entries.len() - self.chosen.len();
        if format.is_json() {
            return object(&json!({
                "removed": self.chosen.iter().map(|kept| value(kept)).collect::<Vec<_>>(),
                "bytes": removed,
                "dry_run": self.dry_run,
                "left": {"entries": left, "bytes": inventory.bytes - removed},
            }));
        }
        let (sum, left_bytes) = (sum(self.chosen), bytes(inventory.bytes - removed));
        let done = if self.dry_run { "would be removed" } else { "removed" };
        let when = if self.in_registry && !self.dry_run && !self.chosen.is_empty() {
            "the room is free once the registry has collected its garbage\n"
        } else {
            ""
        };
        let table = table(self.chosen, now);
        format!("{table}{sum} {done}; {left} of {left_bytes} stay\n{when}")
    }
}

/// What an entry was made of.
pub(super) struct Explained<'k> {
    pub(super) kept: &'k Kept,
    pub(super) record: Option<Record>,
    /// The entry that it is compared with.
    pub(super) other: Option<(Key, Record)>,
}

impl Explained<'_> {
    pub(super) fn text(&self, now: i64, format: ListFormat) -> String {
        if format.is_json() { self.json() } else { self.lines(now) }
    }

    fn changes(&self) -> Option<(Key, Vec<String>)> {
        let (key, other) = self.other.as_ref()?;
        Some((*key, self.record.as_ref()?.changes_since(other)))
    }

    fn json(&self) -> String {
        let mut told = value(self.kept);
        let inputs = self.record.iter().flat_map(Record::inputs);
        let inputs = inputs.map(|(name, digest)| json!({"name": name, "digest": digest}));
        told["inputs"] = inputs.collect();
        if let Some((key, changes)) = self.changes() {
            told["compared_with"] = json!({"key": key.to_string(), "changes": changes});
        }
        object(&told)
    }

    fn lines(&self, now: i64) -> String {
        let Kept { key, bytes: size, used, entry, .. } = self.kept;
        let ago = |seconds: i64| age(now.saturating_sub(seconds));
        let mut lines = vec![format!("key      {key}")];
        match entry {
            Ok(Content::Mount(mount)) => lines.extend([
                format!("cache    {:?} of RUN --mount=type=cache", mount.id),
                format!("for      {}", mount.platform),
                format!("made     {} ({} ago)", mount.created, ago(mount.created_seconds)),
                format!("content  {} in {}", bytes(mount.bytes), layers(mount)),
            ]),
            Ok(Content::Pushed(note)) => lines.extend([
                format!("note     {} was given {}", note.repository, note.image),
                format!("for      {}", note.platform),
                format!("made     {} ({} ago)", note.created, ago(note.created_seconds)),
            ]),
            Ok(Content::Layer(entry)) => lines.extend([
                format!("step     {}", entry.step),
                format!("made     {} ({} ago)", entry.created, ago(entry.created_seconds)),
                format!("layer    {}", entry.layer.descriptor.digest),
                format!("diff ID  {}", entry.layer.diff_id),
                format!("after    commands with the outcome {}", entry.before),
            ]),
            Err(why) => lines.push(format!("unusable {why}")),
        }
        lines.extend(used.map(|used| format!("used     {} ago", ago(used))));
        lines.push(format!("size     {}", bytes(*size)));
        let inputs: Vec<_> = self.record.iter().flat_map(Record::inputs).collect();
        if !inputs.is_empty() {
            lines.push("inputs".to_owned());
        }
        lines.extend(inputs.iter().map(|(name, digest)| format!("  {digest}  {name}")));
        if let Some((other, changes)) = self.changes() {
            let same = if changes.is_empty() { ": nothing but what came before it" } else { "" };
            lines.push(format!("what is different from {}{same}", other.short()));
            lines.extend(changes.iter().map(|change| format!("  {change}")));
        }
        lines.join("\n") + "\n"
    }
}

fn layers(mount: &MountImage) -> String {
    match mount.contents.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    }
}

fn sum(entries: &[&Kept]) -> String {
    let count = entries.len();
    let size = bytes(entries.iter().map(|kept| kept.bytes).sum());
    format!("{count} {}, {size}", if count == 1 { "entry" } else { "entries" })
}

/// A line for each entry below a heading; nothing where there is none.
fn table(entries: &[&Kept], now: i64) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let row = |key: &str, size: &str, made: &str, used: &str, step: &str| {
        format!("{key:<12}  {size:>9}  {made:>8}  {used:>8}  {step}\n")
    };
    let ago = |seconds: Option<i64>| {
        seconds.map_or("-".to_owned(), |seconds| age(now.saturating_sub(seconds)))
    };
    let lines = entries.iter().map(|kept| {
        let made = kept.entry.as_ref().ok().map(Content::created_seconds);
        let step = match &kept.entry {
            Ok(Content::Layer(entry)) => entry.step.clone(),
            Ok(Content::Mount(mount)) => format!(
                "cache {:?} for {}: {} in {}",
                mount.id,
                mount.platform,
                bytes(mount.bytes),
                layers(mount)
            ),
            Ok(Content::Pushed(note)) => {
                format!("note of what {} was given last for {}", note.repository, note.platform)
            }
            Err(why) => format!("unusable: {why}"),
        };
        row(&kept.key.short(), &bytes(kept.bytes), &ago(made), &ago(kept.used), &step)
    });
    std::iter::once(row("KEY", "SIZE", "MADE", "USED", "STEP")).chain(lines).collect()
}

fn value(kept: &Kept) -> Value {
    let mut value = json!({
        "key": kept.key.to_string(),
        "bytes": kept.bytes,
        "used": kept.used.and_then(|it| jiff::Timestamp::from_second(it).ok()).map(|it| it.to_string()),
    });
    match &kept.entry {
        Ok(Content::Mount(mount)) => {
            value["mount"] = mount.id.clone().into();
            value["platform"] = mount.platform.clone().into();
            value["created"] = mount.created.clone().into();
            value["content"] = mount.bytes.into();
            value["layers"] = mount.contents.len().into();
        }
        Ok(Content::Pushed(note)) => {
            value["pushed_to"] = note.repository.clone().into();
            value["platform"] = note.platform.clone().into();
            value["created"] = note.created.clone().into();
            value["image"] = note.image.to_string().into();
        }
        Ok(Content::Layer(entry)) => {
            value["step"] = entry.step.clone().into();
            value["created"] = entry.created.clone().into();
            value["layer"] = entry.layer.descriptor.digest.to_string().into();
            value["diff_id"] = entry.layer.diff_id.to_string().into();
        }
        Err(why) => value["unusable"] = why.clone().into(),
    }
    value
}

pub(super) fn object(value: &Value) -> String {
    format!("{value:#}\n")
}
