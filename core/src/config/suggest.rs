//! Finds the known name that a misspelt one was probably meant to be.

/// Names longer than this are not compared: no name of ours is half as long.
const LENGTH_MAX: usize = 64;

/// The nearest of `known` to `name`, if it is near enough to be what was meant.
///
/// Near enough: at most one difference per three characters of the longer name, at least one.
/// Case does not count. Of equally near names the first wins.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in known {
        let longer = wanted.chars().count().max(candidate.chars().count());
        // Names of one letter have nothing in common unless they are equal.
        let limit = (longer / 3).max(1).min(longer.saturating_sub(1));
        let distance = distance(&wanted, &candidate.to_lowercase());
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A remedy that names the nearest known name, or else all of them.
pub fn remedy<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(candidate) => format!("did you mean \"{candidate}\"?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Number of insertions, deletions, replacements and swaps of neighbours between two names.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(LENGTH_MAX).collect();
    let right: Vec<char> = right.chars().take(LENGTH_MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, &a) in left.iter().enumerate() {
        let mut here = vec![row + 1];
        for (column, &b) in right.iter().enumerate() {
            let replace = above[column] + usize::from(a != b);
            let mut least = replace.min(above[column + 1] + 1).min(here[column] + 1);
            let swapped = row > 0 && column > 0 && a == right[column - 1] && left[row - 1] == b;
            if swapped {
                least = least.min(before[column - 1] + 1);
            }
            here.push(least);
        }
        before = std::mem::replace(&mut above, here);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_survives_a_missing_a_swapped_and_a_wrong_letter() {
        let known = ["heartbeat", "heart", "vip", "rfs"];
        assert_eq!(nearest("hearbeat", known), Some("heartbeat"));
        assert_eq!(nearest("haert", known), Some("heart"));
        assert_eq!(nearest("HeartBeet", known), Some("heartbeat"));
        assert_eq!(nearest("farm", known), None);
    }

    #[test]
    fn distance_is_symmetric_and_zero_only_for_equal_names() {
        let names = ["", "a", "ab", "ba", "heartbeat", "hearbeat"];
        for left in names {
            for right in names {
                assert_eq!(distance(left, right), distance(right, left));
                assert_eq!(distance(left, right) == 0, left == right);
            }
        }
        assert_eq!(distance("ab", "ba"), 1, "a swap of neighbours is one difference");
    }
}
