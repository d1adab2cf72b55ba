//! The nearest of many boxes, exactly.

use nalgebra::Vector3;

/// Boxes in a leaf: below this a list is as fast as a tree.
const LEAF: usize = 8;

/// A box along the axes; a point if both corners are one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aabb {
    pub(super) lower: Vector3<f64>,
    pub(super) upper: Vector3<f64>,
}

impl Aabb {
    /// The point of the box that is nearest to `point`, which may be `point` itself.
    fn nearest(&self, point: &Vector3<f64>) -> Vector3<f64> {
        point.sup(&self.lower).inf(&self.upper)
    }

    fn squared_distance(&self, point: &Vector3<f64>) -> f64 {
        (self.nearest(point) - point).norm_squared()
    }

    fn around(boxes: &[Self]) -> Self {
        let first = boxes[0];
        boxes.iter().fold(first, |all, it| Self {
            lower: all.lower.inf(&it.lower),
            upper: all.upper.sup(&it.upper),
        })
    }
}

/// A hierarchy of bounding boxes, split at the median of their longest side.
///
/// A search visits what may hold the nearest box and nothing else; it is exact and does not allocate.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    boxes: Vec<Aabb>,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    bounds: Aabb,
    /// Of its boxes.
    first: usize,
    count: usize,
    /// The second child; the first one follows its parent. Zero: a leaf.
    second: usize,
}

impl Tree {
    pub(super) fn new(mut boxes: Vec<Aabb>) -> Self {
        let mut nodes = Vec::new();
        if !boxes.is_empty() {
            split(&mut boxes, 0, &mut nodes);
        }
        Self { boxes, nodes }
    }

    /// The nearest point of any box, with the squared distance to it; `None` if there is no box.
    pub(super) fn nearest(&self, point: &Vector3<f64>) -> Option<(Vector3<f64>, f64)> {
        let mut best: Option<(usize, f64)> = None;
        // A tree over `usize::MAX` boxes is not deeper than this.
        let mut waiting = [0_usize; 64];
        let mut count = usize::from(!self.nodes.is_empty());
        let limit = |best: &Option<(usize, f64)>| best.map_or(f64::INFINITY, |(_, d)| d);
        while count > 0 {
            count -= 1;
            let index = waiting[count];
            let node = &self.nodes[index];
            if node.bounds.squared_distance(point) >= limit(&best) {
                continue;
            }
            if node.second == 0 {
                for i in node.first..node.first + node.count {
                    let distance = self.boxes[i].squared_distance(point);
                    if distance < limit(&best) {
                        best = Some((i, distance));
                    }
                }
            } else {
                let children = [index + 1, node.second];
                let distance = children.map(|it| self.nodes[it].bounds.squared_distance(point));
                // The nearer one is looked at first.
                let (near, far) = if distance[0] <= distance[1] {
                    (children[0], children[1])
                } else {
                    (children[1], children[0])
                };
                waiting[count] = far;
                waiting[count + 1] = near;
                count += 2;
            }
        }
        best.map(|(i, distance)| (self.boxes[i].nearest(point), distance))
    }
}

/// Appends the node of `boxes`, which begin at `first`, and its descendants.
fn split(boxes: &mut [Aabb], first: usize, nodes: &mut Vec<Node>) {
    let bounds = Aabb::around(boxes);
    let index = nodes.len();
    nodes.push(Node {
        bounds,
        first,
        count: boxes.len(),
        second: 0,
    });
    if boxes.len() <= LEAF {
        return;
    }
    let axis = (bounds.upper - bounds.lower).imax();
    let middle = boxes.len() / 2;
    let center = |it: &Aabb| it.lower[axis] + it.upper[axis];
    boxes.select_nth_unstable_by(middle, |one, other| center(one).total_cmp(&center(other)));
    let (left, right) = boxes.split_at_mut(middle);
    split(left, first, nodes);
    nodes[index].second = nodes.len();
    split(right, first + middle, nodes);
}
