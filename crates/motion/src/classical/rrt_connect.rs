//! Two trees that grow towards each other.

use crate::draws::Draws;
use crate::free_space::FreeSpace;
use crate::path::{Path, apart, between};

use super::{PathError, check_bounds, check_ends, check_setting};

/// RRT-Connect: a tree from the start and one from the goal, grown in turns.
///
/// ```text
/// q_rand uniform within the limits
/// q_new  = from the nearest node of one tree, at most `step` towards q_rand        (extend)
/// then the other tree steps towards q_new until it is blocked or there             (connect)
/// ```
///
/// A straight way is tried first. Each step is proven free. The same seed gives the same path.
/// What comes back winds: [`shortcut`](super::shortcut) straightens it.
///
/// Kuffner and LaValle, "RRT-Connect: An Efficient Approach to Single-Query Path Planning", 2000, ICRA.
///
/// ```
/// use clearway_motion::{FreeSpace, Limits, Obstacle, RrtConnect, Scene, Translating};
///
/// let disc = Translating::disc(0.05)?;
/// let scene = Scene::new().with(Obstacle::rectangle([0.0, -0.2], [0.1, 0.8], 0.0)?);
/// let limits = Limits::unlimited(2).with_position(&[-1.0, -1.0], &[1.0, 1.0])?;
/// let free = FreeSpace::new(&disc, &scene, &limits)?;
/// let path = RrtConnect::default().plan(&free, &[-0.8, 0.0], &[0.8, 0.0], 7)?;
/// assert!(free.check_path(&path).is_ok() && path.length() > 1.6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RrtConnect {
    /// The longest step of a tree, Euclidean over all coordinates; `0.2`. Shorter ones find their way through winding
    /// passages, longer ones cross open space sooner.
    pub step: f64,
    /// The number of random configurations before it gives up; `5000`.
    pub iterations: usize,
}

impl Default for RrtConnect {
    fn default() -> Self {
        Self {
            step: 0.2,
            iterations: 5_000,
        }
    }
}

impl RrtConnect {
    /// A free path from `start` to `goal`, both included.
    ///
    /// # Errors
    ///
    /// See [`PathError`]; that it found nothing is a [`PathError::Budget`], since it cannot know that there is nothing.
    pub fn plan(
        &self,
        free: &FreeSpace,
        start: &[f64],
        goal: &[f64],
        seed: u64,
    ) -> Result<Path, PathError> {
        check_setting("the step of a tree", self.step)?;
        check_ends(free, start, goal)?;
        if free.check_segment(start, goal).is_ok() {
            return Ok(Path::from_rows(&[start.to_vec(), goal.to_vec()]));
        }
        check_bounds(free)?;
        let (lower, upper) = (free.limits().lower(), free.limits().upper());
        let mut draws = Draws::new(seed);
        let mut trees = [Tree::new(start, false), Tree::new(goal, true)];
        for iteration in 0..self.iterations {
            // The trees take turns, the start's first.
            let (one, other) = (iteration % 2, 1 - iteration % 2);
            let bounds = lower.iter().zip(upper);
            let drawn: Vec<f64> = bounds.map(|(&a, &b)| draws.uniform(a, b)).collect();
            let Some(reached) = self.extend(free, &mut trees[one], &drawn) else {
                continue;
            };
            let target = trees[one].nodes[reached].position.clone();
            let mut node = trees[other].nearest(&target);
            while let Some(next) = self.step_from(free, &mut trees[other], node, &target) {
                node = next;
                if apart(&trees[other].nodes[node].position, &target) <= 0.0 {
                    let ends = if one == 0 {
                        [reached, node]
                    } else {
                        [node, reached]
                    };
                    return Ok(join(&trees, ends));
                }
            }
        }
        let ends = nearest_ends(&trees);
        let [one, other] = [0, 1].map(|tree| &trees[tree].nodes[ends[tree]].position);
        match free.check_segment(one, other) {
            // No step was drawn that would have found it.
            Ok(()) => Ok(join(&trees, ends)),
            Err(nearest) => Err(PathError::Budget {
                iterations: self.iterations,
                nearest,
            }),
        }
    }

    /// One step from the nearest node; the new node, if it is free.
    fn extend(&self, free: &FreeSpace, tree: &mut Tree, target: &[f64]) -> Option<usize> {
        let nearest = tree.nearest(target);
        self.step_from(free, tree, nearest, target)
    }

    /// One step from a node; the new node, if it is free and somewhere else.
    fn step_from(
        &self,
        free: &FreeSpace,
        tree: &mut Tree,
        node: usize,
        target: &[f64],
    ) -> Option<usize> {
        let from = &tree.nodes[node].position;
        let distance = apart(from, target);
        if distance <= 0.0 {
            return None;
        }
        let to = if distance <= self.step {
            target.to_vec()
        } else {
            between(from, target, self.step / distance)
        };
        // In the direction of the path, so that checking it again is checking the same.
        let ends = if tree.is_the_goals {
            (&to, from)
        } else {
            (from, &to)
        };
        free.check_segment(ends.0, ends.1).ok()?;
        tree.nodes.push(Node {
            position: to,
            parent: node,
        });
        Some(tree.nodes.len() - 1)
    }
}

struct Tree {
    nodes: Vec<Node>,
    is_the_goals: bool,
}

struct Node {
    position: Vec<f64>,
    /// The root is its own.
    parent: usize,
}

impl Tree {
    fn new(root: &[f64], is_the_goals: bool) -> Self {
        Self {
            is_the_goals,
            nodes: vec![Node {
                position: root.to_vec(),
                parent: 0,
            }],
        }
    }

    /// Of equally near nodes the oldest. A list: a search costs less than one proof of a step up to some thousand nodes.
    fn nearest(&self, target: &[f64]) -> usize {
        let mut best = (0, f64::INFINITY);
        for (i, node) in self.nodes.iter().enumerate() {
            let pairs = node.position.iter().zip(target);
            let squared: f64 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
            if squared < best.1 {
                best = (i, squared);
            }
        }
        best.0
    }

    /// From a node to the root.
    fn branch(&self, mut node: usize) -> Vec<Vec<f64>> {
        let mut branch = vec![self.nodes[node].position.clone()];
        while node != 0 {
            node = self.nodes[node].parent;
            branch.push(self.nodes[node].position.clone());
        }
        branch
    }
}

/// From the start's root over the nodes that met to the goal's root.
fn join(trees: &[Tree; 2], ends: [usize; 2]) -> Path {
    let mut rows = trees[0].branch(ends[0]);
    rows.reverse();
    rows.extend(trees[1].branch(ends[1]));
    // Trees that met share a configuration.
    rows.dedup_by(|later, earlier| apart(later, earlier) <= 0.0);
    Path::from_rows(&rows)
}

/// The nodes of either tree that are nearest to each other.
fn nearest_ends(trees: &[Tree; 2]) -> [usize; 2] {
    let mut best = ([0, 0], f64::INFINITY);
    for (i, node) in trees[0].nodes.iter().enumerate() {
        let j = trees[1].nearest(&node.position);
        let distance = apart(&node.position, &trees[1].nodes[j].position);
        if distance < best.1 {
            best = ([i, j], distance);
        }
    }
    best.0
}
