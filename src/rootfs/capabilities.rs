//! Which capabilities this process lacks, to explain a refusal.

use rustix::thread::CapabilitySet;

/// What a build may need, by the name that `docker run --cap-add` and pods use.
const NEEDED: [(CapabilitySet, &str, &str); 8] = [
    (CapabilitySet::CHOWN, "CHOWN", "to give files their owners"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE", "to read and write files of any owner"),
    (CapabilitySet::FOWNER, "FOWNER", "to set modes and times of files of any owner"),
    (CapabilitySet::FSETID, "FSETID", "to keep set-id bits"),
    (CapabilitySet::MKNOD, "MKNOD", "to make devices"),
    (CapabilitySet::SETFCAP, "SETFCAP", "to set file capabilities"),
    (CapabilitySet::SETUID, "SETUID", "to run steps as another user"),
    (CapabilitySet::SETGID, "SETGID", "to run steps with another group"),
];

/// A hint that names what is missing, if anything is.
pub fn missing_capabilities() -> Option<String> {
    let effective = rustix::thread::capabilities(None).ok()?.effective;
    describe(effective)
}

fn describe(effective: CapabilitySet) -> Option<String> {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, ..)| !effective.contains(*capability))
        .map(|(_, name, why)| format!("CAP_{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!("this process lacks {}; give it to the container", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(describe(CapabilitySet::all()), None);
        let told = describe(CapabilitySet::all().difference(CapabilitySet::CHOWN));
        let want = "this process lacks CAP_CHOWN (to give files their owners); \
            give it to the container";
        assert_eq!(told.as_deref(), Some(want));
    }
}
