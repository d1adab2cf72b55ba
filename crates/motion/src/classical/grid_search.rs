//! The shortest way on a lattice, with shortcuts as it goes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::free_space::{Blocked, FreeSpace};
use crate::path::{Path, apart};

use super::{PathError, check_bounds, check_ends, check_setting};

/// A* on a square lattice of the plane, any angle or along the lattice.
///
/// Places are `start + cell · (i, j)` within the limits; each has eight neighbours, and a move is proven free by a sweep, so
/// that it does not matter how the cells of a map lie.
///
/// ```text
/// f = g + |p − goal|
/// any angle     g(p) = g(parent of q) + |parent of q − p|  if the parent of q sees p,  else g(q) + |q − p|
/// ```
///
/// With [`GridSearch::any_angle`], the default, paths are not bound to the lattice's eight directions: a place takes the
/// parent of the place from which it is reached, if that one sees it. They are short, but not proven shortest.
/// Without, the path is the shortest on the lattice, but for its last step, which may be a straight one to the goal.
///
/// Hart, Nilsson and Raphael, "A Formal Basis for the Heuristic Determination of Minimum Cost Paths", 1968; Nash, Daniel,
/// Koenig and Felner, "Theta*: Any-Angle Path Planning on Grids", 2007, AAAI.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GridSearch {
    /// The distance of two neighbouring places: m; `0.05`.
    pub cell: f64,
    /// Whether paths may leave the lattice; `true`.
    pub any_angle: bool,
    /// The most places that are expanded; `1_000_000`.
    pub iterations: usize,
}

impl Default for GridSearch {
    fn default() -> Self {
        Self {
            cell: 0.05,
            any_angle: true,
            iterations: 1_000_000,
        }
    }
}

impl GridSearch {
    /// A free path from `start` to `goal`, both included.
    ///
    /// # Errors
    ///
    /// See [`PathError`]. [`PathError::Infeasible`] means that no place of the lattice that can be reached sees the goal.
    pub fn plan(&self, free: &FreeSpace, start: &[f64], goal: &[f64]) -> Result<Path, PathError> {
        if free.dof() != 2 {
            return Err(PathError::Plane { dof: free.dof() });
        }
        check_setting("the cell of a lattice", self.cell)?;
        check_ends(free, start, goal)?;
        check_bounds(free)?;
        let lattice = Lattice::new(free, self.cell, start)?;
        self.search(free, &lattice, start, goal)
    }

    fn search(
        &self,
        free: &FreeSpace,
        lattice: &Lattice,
        start: &[f64],
        goal: &[f64],
    ) -> Result<Path, PathError> {
        let mut places: Vec<Place> = vec![Place::default(); lattice.count()];
        let mut open = BinaryHeap::new();
        let root = lattice.index(lattice.root).unwrap_or_default();
        places[root].cost = 0.0;
        places[root].parent = root;
        open.push(Entry::new(root, 0.0, apart(start, goal)));
        let mut explored = 0;
        // How far the place is that is nearest to the goal, and what blocks the way from there.
        let mut nearest: Option<(f64, Blocked)> = None;
        while let Some(entry) = open.pop() {
            let at = entry.place;
            if places[at].closed {
                continue;
            }
            if let (true, Some((_, nearest))) = (explored >= self.iterations, &nearest) {
                return Err(PathError::Budget {
                    iterations: self.iterations,
                    nearest: nearest.clone(),
                });
            }
            places[at].closed = true;
            explored += 1;
            let position = lattice.position(at);
            let distance = apart(&position, goal);
            // The goal lies between places. No open place is on a shorter way than a straight one from here.
            let nearer = nearest.as_ref().is_none_or(|(least, _)| distance < *least);
            if nearer || distance <= self.cell * std::f64::consts::SQRT_2 {
                match free.check_segment(&position, goal) {
                    Ok(()) => return Ok(self.trace(free, lattice, &places, at, goal)),
                    Err(blocked) if nearer => nearest = Some((distance, blocked)),
                    Err(_) => {}
                }
            }
            for next in lattice.neighbours(at) {
                if places[next].closed {
                    continue;
                }
                let to = lattice.position(next);
                let Some((parent, cost)) = self.best_parent(free, lattice, &places, at, &to) else {
                    continue;
                };
                if cost < places[next].cost {
                    places[next].cost = cost;
                    places[next].parent = parent;
                    open.push(Entry::new(next, cost, apart(&to, goal)));
                }
            }
        }
        match nearest {
            Some((_, nearest)) => Err(PathError::Infeasible { explored, nearest }),
            // The start is always a place.
            None => free
                .check_segment(start, goal)
                .map(|()| Path::from_rows(&[start.to_vec(), goal.to_vec()]))
                .map_err(PathError::Start),
        }
    }

    /// From where `to` is reached over `at`, and the length of the way; `None` if it is not.
    fn best_parent(
        &self,
        free: &FreeSpace,
        lattice: &Lattice,
        places: &[Place],
        at: usize,
        to: &[f64; 2],
    ) -> Option<(usize, f64)> {
        let reaches = |from: usize| {
            let position = lattice.position(from);
            let way = free.check_segment(&position, to);
            way.ok()
                .map(|()| (from, places[from].cost + apart(&position, to)))
        };
        let parent = places[at].parent;
        if self.any_angle && parent != at {
            reaches(parent).or_else(|| reaches(at))
        } else {
            reaches(at)
        }
    }

    fn trace(
        &self,
        free: &FreeSpace,
        lattice: &Lattice,
        places: &[Place],
        mut at: usize,
        goal: &[f64],
    ) -> Path {
        let mut rows = vec![goal.to_vec()];
        let parent = places[at].parent;
        let skips = self.any_angle && parent != at;
        if skips && free.check_segment(&lattice.position(parent), goal).is_ok() {
            at = parent;
        }
        loop {
            rows.push(lattice.position(at).to_vec());
            if places[at].parent == at {
                break;
            }
            at = places[at].parent;
        }
        rows.reverse();
        rows.dedup_by(|later, earlier| apart(later, earlier) <= 0.0);
        if rows.len() == 1 {
            rows.push(goal.to_vec());
        }
        Path::from_rows(&rows)
    }
}

/// The most places: 64 million, half a gigabyte of search.
const PLACES: f64 = 64e6;

struct Lattice {
    start: [f64; 2],
    cell: f64,
    /// The number of places along x and y.
    size: [usize; 2],
    /// The place of the start.
    root: [usize; 2],
}

impl Lattice {
    fn new(free: &FreeSpace, cell: f64, start: &[f64]) -> Result<Self, PathError> {
        let (lower, upper) = (free.limits().lower(), free.limits().upper());
        let before = [0, 1].map(|j| ((start[j] - lower[j]) / cell).floor());
        let after = [0, 1].map(|j| ((upper[j] - start[j]) / cell).floor());
        let size = [0, 1].map(|j: usize| before[j] + after[j] + 1.0);
        if size[0] * size[1] > PLACES {
            return Err(PathError::Setting {
                setting: "the cell of a lattice of at most 64 million places",
                value: cell,
            });
        }
        Ok(Self {
            start: [start[0], start[1]],
            cell,
            size: size.map(|it| it as usize),
            root: before.map(|it| it as usize),
        })
    }

    fn count(&self) -> usize {
        self.size[0] * self.size[1]
    }

    fn index(&self, [i, j]: [usize; 2]) -> Option<usize> {
        (i < self.size[0] && j < self.size[1]).then(|| j * self.size[0] + i)
    }

    fn position(&self, index: usize) -> [f64; 2] {
        let (i, j) = (index % self.size[0], index / self.size[0]);
        let from = |axis: usize, at: usize| {
            self.start[axis] + (at as f64 - self.root[axis] as f64) * self.cell
        };
        [from(0, i), from(1, j)]
    }

    fn neighbours(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        const MOVES: [(isize, isize); 8] = [
            (1, 0),
            (0, 1),
            (-1, 0),
            (0, -1),
            (1, 1),
            (-1, 1),
            (-1, -1),
            (1, -1),
        ];
        let (i, j) = (index % self.size[0], index / self.size[0]);
        MOVES.iter().filter_map(move |&(di, dj)| {
            self.index([i.checked_add_signed(di)?, j.checked_add_signed(dj)?])
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Place {
    cost: f64,
    parent: usize,
    closed: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            cost: f64::INFINITY,
            parent: usize::MAX,
            closed: false,
        }
    }
}

/// A place in the queue; the smallest estimate comes first, of equal ones the nearest to the goal, then the first place.
struct Entry {
    place: usize,
    estimate: f64,
    rest: f64,
}

impl Entry {
    fn new(place: usize, cost: f64, rest: f64) -> Self {
        Self {
            place,
            estimate: cost + rest,
            rest,
        }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap's first is the largest.
        let by_estimate = other.estimate.total_cmp(&self.estimate);
        by_estimate
            .then_with(|| other.rest.total_cmp(&self.rest))
            .then_with(|| other.place.cmp(&self.place))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
