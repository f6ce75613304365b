//! The message that ends a build, in colour.

/// Colours the parts of a message by how its lines begin: what went wrong, source lines and what marks
/// them, hints.
#[must_use]
pub fn coloured(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

const RED: &str = "\x1b[1;31m";
const BLUE: &str = "\x1b[1;34m";
const CYAN: &str = "\x1b[1;36m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

fn line(line: &str) -> String {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    let coloured = if let Some(rest) = text.strip_prefix("error:") {
        format!("{RED}error:{PLAIN}{BOLD}{rest}{PLAIN}")
    } else if let Some(rest) = text.strip_prefix("hint:") {
        format!("{CYAN}hint:{PLAIN}{rest}")
    } else {
        excerpt(text).unwrap_or_else(|| text.to_owned())
    };
    coloured + end
}

/// A line of an excerpt: its number or a blank, a bar, and source or marks.
fn excerpt(text: &str) -> Option<String> {
    if text.trim_start().starts_with("-->") {
        return Some(format!("{BLUE}{text}{PLAIN}"));
    }
    let (gutter, rest) = text.split_at(text.find(['|', '='])? + 1);
    let (number, _) = gutter.split_at(gutter.len() - 1);
    if !number.chars().all(|c| c.is_ascii_digit() || c == ' ') {
        return None;
    }
    let marks = rest.contains('^') && rest.trim_start().starts_with(['^', '-']);
    Some(match marks {
        true => format!("{BLUE}{gutter}{PLAIN}{RED}{rest}{PLAIN}"),
        false => format!("{BLUE}{gutter}{PLAIN}{rest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (text, want) in [
            ("error: bad\n", "\x1b[1;31merror:\x1b[0m\x1b[1m bad\x1b[0m\n"),
            ("hint: do", "\x1b[1;36mhint:\x1b[0m do"),
            (" --> Dockerfile:2:1", "\x1b[1;34m --> Dockerfile:2:1\x1b[0m"),
            ("2 | RUN a | b", "\x1b[1;34m2 |\x1b[0m RUN a | b"),
            ("  | ^^^", "\x1b[1;34m  |\x1b[0m\x1b[1;31m ^^^\x1b[0m"),
            ("a line | of output", "a line | of output"),
            ("x = y", "x = y"),
        ] {
            assert_eq!(coloured(text), want, "{text:?}");
        }
    }
}
