//! Whether a step would reach anything over a network.

/// Whether this process has no network interface but the loopback, as `/proc/net/dev` lists them
/// (proc(5)): then a step in place has none either.
pub(super) fn is_unreachable() -> bool {
    std::fs::read_to_string("/proc/self/net/dev").is_ok_and(|text| only_loopback(&text))
}

/// Two lines of headings, then a line for each interface that starts with its name.
fn only_loopback(text: &str) -> bool {
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim()).all(|name| name == "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces() {
        let headings = "Inter-|   Receive\n face |bytes\n";
        for (lines, want) in [
            ("", true),
            ("    lo: 1 2 3\n", true),
            ("    lo: 1 2 3\n  eth0: 1 2\n", false),
            ("  eth0: 1 2\n", false),
        ] {
            assert_eq!(only_loopback(&format!("{headings}{lines}")), want, "{lines:?}");
        }
    }
}
