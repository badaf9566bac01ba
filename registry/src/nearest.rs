//! Finds what a mistyped word most likely meant.
//!
//! Pure, and cheap whatever comes in: words are compared up to [`COMPARED`] characters.

/// The candidate most like `word`, if one is near enough that a person may have meant it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (candidate, distance) = closest(word, candidates)?;
    let near = (word.chars().take(COMPARED).count() / 3).max(2);
    (distance <= near).then_some(candidate)
}

/// The candidate most like `word`, however far, and how many edits lie between; the first one
/// where several are equally near. `None` without candidates.
pub fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, usize)> {
    let word: Vec<char> = word.chars().take(COMPARED).flat_map(char::to_lowercase).collect();
    candidates.into_iter().map(|it| (it, distance(&word, it))).min_by_key(|(_, distance)| *distance)
}

/// Edits (insert, delete, replace, swap of neighbours) between the two; 1 where `word` is one of
/// the parts that make up `candidate`, since people remember half of a long name.
fn distance(word: &[char], candidate: &str) -> usize {
    let typed: String = word.iter().collect();
    if typed.len() > 2 && candidate != typed && candidate.split(['_', '.']).any(|it| it == typed) {
        return 1;
    }
    let candidate: Vec<char> = candidate.chars().take(COMPARED).collect();
    // Row i, column j: the distance between the first i characters of one and j of the other.
    let mut rows: Vec<Vec<usize>> = Vec::with_capacity(word.len() + 1);
    for i in 0..=word.len() {
        let mut row: Vec<usize> = Vec::with_capacity(candidate.len() + 1);
        for j in 0..=candidate.len() {
            let cell = match (i.checked_sub(1), j.checked_sub(1)) {
                (None, _) => j,
                (_, None) => i,
                (Some(up), Some(left)) => {
                    let at = |row: usize, column: usize| rows.get(row)?.get(column).copied();
                    let differ = usize::from(word.get(up) != candidate.get(left));
                    let replaced = at(up, left).map(|it| it + differ);
                    let deleted = at(up, j).map(|it| it + 1);
                    let inserted = row.get(left).map(|it| it + 1);
                    let swap = up.checked_sub(1).zip(left.checked_sub(1)).filter(|&(a, b)| {
                        word.get(up) == candidate.get(b) && word.get(a) == candidate.get(left)
                    });
                    let swapped = swap.and_then(|(a, b)| at(a, b)).map(|it| it + 1);
                    [replaced, deleted, inserted, swapped].into_iter().flatten().min().unwrap_or(i)
                }
            };
            row.push(cell);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or_default()
}

/// Characters of a word that are looked at: no name of ours is longer, and a hostile word must
/// cost no more.
const COMPARED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = ["hosts", "port", "network", "service_cluster", "ssl_cert"];

    #[test]
    fn a_letter_too_few_too_many_wrong_or_swapped_is_understood() {
        for (typed, meant) in [
            ("host", "hosts"),
            ("hostss", "hosts"),
            ("hasts", "hosts"),
            ("prot", "port"),
            ("NETWORK", "network"),
            ("ssl.cert", "ssl_cert"),
        ] {
            assert_eq!(nearest(typed, NAMES), Some(meant), "{typed}");
        }
    }

    #[test]
    fn half_of_a_long_name_is_understood() {
        assert_eq!(nearest("cluster", NAMES), Some("service_cluster"));
    }

    #[test]
    fn a_word_like_none_is_not_guessed() {
        assert_eq!(nearest("frobnicate", NAMES), None);
        assert_eq!(nearest("", []), None);
    }

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        assert_eq!(closest("prot", ["port"]), Some(("port", 1)));
        assert_eq!(closest("", ["port"]), Some(("port", 4)));
    }

    #[test]
    fn a_huge_word_costs_no_more_than_a_long_one() {
        let huge = "h".repeat(10_000_000);
        assert_eq!(nearest(&huge, NAMES), None);
    }
}
