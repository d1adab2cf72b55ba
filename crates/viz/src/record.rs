//! What is said about an episode: numbers over time, and why a plan was chosen.

use rerun::{Color, SeriesLines, SeriesPoints, TextDocument};

/// The name and colour of a quantity that has a value at every time, drawn as a line.
///
/// Log it once, static, beside the [`rerun::Scalars`] of the same path.
pub fn series(name: &str, colour: Color) -> SeriesLines {
    SeriesLines::new()
        .with_names([name])
        .with_colors([colour])
        .with_widths([2.0])
}

/// The name and colour of a quantity that has a value now and then, such as the latency of a plan, drawn as dots.
///
/// Log it once, static, beside the [`rerun::Scalars`] of the same path.
pub fn events(name: &str, colour: Color) -> SeriesPoints {
    SeriesPoints::new()
        .with_names([name])
        .with_colors([colour])
        .with_marker_sizes([4.0])
}

/// The record of one decision: what was decided, and the facts behind it in the given order.
///
/// ```
/// use clearway_viz as viz;
///
/// let facts = [("outcome", "complete"), ("latency", "41 ms")];
/// let record = viz::decision("plan 3: candidate 2", &facts);
/// # let _ = record;
/// ```
pub fn decision(title: &str, facts: &[(&str, &str)]) -> TextDocument {
    TextDocument::from_markdown(markdown(title, facts))
}

fn markdown(title: &str, facts: &[(&str, &str)]) -> String {
    let lines = facts
        .iter()
        .map(|(name, value)| format!("- {name}: **{value}**"));
    let lines: Vec<String> = lines.collect();
    format!("### {title}\n\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_a_list_of_facts() {
        assert_eq!(
            markdown("plan 3", &[("outcome", "complete"), ("steps", "10")]),
            "### plan 3\n\n- outcome: **complete**\n- steps: **10**\n"
        );
    }
}
