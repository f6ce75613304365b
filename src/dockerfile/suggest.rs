//! What was perhaps meant: the nearest known name within two edits.

/// The nearest option as a hint, for instance `did you mean mount?`; none where it is already right.
#[must_use]
pub fn nearest(typed: &str, options: &[&str]) -> Option<String> {
    let lower = typed.to_lowercase();
    // One letter is near to any other.
    let most = lower.chars().count().saturating_sub(1).min(2);
    let near = options.iter().map(|option| (distance(&lower, &option.to_lowercase()), *option));
    let (_, option) =
        near.filter(|(edits, _)| (1..=most).contains(edits)).min_by_key(|(e, _)| *e)?;
    Some(format!("did you mean {option}?"))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
