//! Straightening a path that winds.

use crate::draws::Draws;
use crate::free_space::FreeSpace;
use crate::path::{Path, apart, between};

/// A shorter path between the same ends, by `attempts` random shortcuts.
///
/// Two places along the path are drawn, uniform in its length; if the straight way between them is proven free, it takes
/// the place of what was between. Waypoints that can be left out are left out first and last.
/// A path that is free stays free and never becomes longer; one that is not is returned as it is, where it is blocked.
/// The same seed gives the same path.
///
/// Geraerts and Overmars, "Creating High-quality Paths for Motion Planning", 2007, section 3.
#[must_use]
pub fn shortcut(free: &FreeSpace, path: &Path, attempts: usize, seed: u64) -> Path {
    let mut draws = Draws::new(seed);
    let mut rows = leave_out(free, &path.rows());
    for _ in 0..attempts {
        if rows.len() < 3 {
            break;
        }
        let lengths: Vec<f64> = rows.windows(2).map(|it| apart(&it[0], &it[1])).collect();
        let total: f64 = lengths.iter().sum();
        let mut places = [total * draws.fraction(), total * draws.fraction()];
        places.sort_unstable_by(f64::total_cmp);
        let [(i, from), (j, to)] = places.map(|place| locate(&rows, &lengths, place));
        // Within one segment there is nothing to gain. What is left of the two segments is free as they are, but is proven
        // anew: every segment of a result has a proof of its own.
        let segments = [(&from, &to), (&rows[i], &from), (&to, &rows[j + 1])];
        let mut proofs = segments
            .iter()
            .map(|(from, to)| free.check_segment(from, to));
        if i == j || proofs.any(|proof| proof.is_err()) {
            continue;
        }
        let tail = rows.split_off(j + 1);
        rows.truncate(i + 1);
        rows.push(from);
        rows.push(to);
        rows.extend(tail);
        rows.dedup_by(|later, earlier| apart(later, earlier) <= 0.0);
    }
    Path::from_rows(&leave_out(free, &rows))
}

/// The segment of a place along the path, and the configuration.
fn locate(rows: &[Vec<f64>], lengths: &[f64], mut place: f64) -> (usize, Vec<f64>) {
    let mut segment = 0;
    while segment + 1 < lengths.len() && place > lengths[segment] {
        place -= lengths[segment];
        segment += 1;
    }
    let u = if lengths[segment] > 0.0 {
        (place / lengths[segment]).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (segment, between(&rows[segment], &rows[segment + 1], u))
}

/// From each waypoint on to the last one that it sees.
fn leave_out(free: &FreeSpace, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut kept: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
    let mut at = 0;
    while at + 1 < rows.len() {
        kept.push(rows[at].clone());
        let mut next = rows.len() - 1;
        while next > at + 1 && free.check_segment(&rows[at], &rows[next]).is_err() {
            next -= 1;
        }
        at = next;
    }
    kept.extend(rows.last().cloned());
    kept
}
