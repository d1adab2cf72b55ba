//! Bending a path away from obstacles until it is smooth.

use nalgebra::Vector3;
use ndarray::{Array2, ArrayView2};

use crate::free_space::FreeSpace;
use crate::path::Path;

use super::{PathError, check_ends, check_setting};

/// Covariant trajectory optimization over signed distances: Gauss-Newton in the metric of smooth paths.
///
/// Over `n` waypoints between two fixed ends it minimizes
///
/// ```text
/// F(q) = ½ Σ |Δq|² (n + 1)                                     ∫ |q′|² ds:  short, and evenly spaced
///      + ½ smoothness Σ |Δ²q|² (n + 1)³                        ∫ |q″|² ds:  smooth
///      + ½ collision Σ max(0, reserve − clearance)² / points    at waypoints and halfway between them, each ball
///      + ½ collision Σ max(0, excess over the limits)²
/// ```
///
/// With `A` the Hessian of the first two terms and `J` the Jacobian of the last two, a step solves
///
/// ```text
/// ((1 + μ) A + Jᵀ J) δ = −∇F
/// ```
///
/// so that what damps it is `A` and not the identity: a push at one waypoint bends the path and makes no kink. That is the
/// covariant gradient of CHOMP where `μ` is large, and the Gauss-Newton step of GPMP2 where it is small. The system is
/// banded, and a step costs `O(n dof³)`.
///
/// If what comes out is not free, it goes on from there with ten times the weight on collisions, twice. It finds the
/// optimum near the path that it is given, so give it one of [`RrtConnect`](super::RrtConnect), or a straight line to see
/// how far that goes.
///
/// Ratliff, Zucker, Bagnell and Srinivasa, "CHOMP: Gradient Optimization Techniques for Efficient Motion Planning", 2009,
/// ICRA; Mukadam, Dong, Yan, Dellaert and Boots, "Continuous-time Gaussian Process Motion Planning via Probabilistic
/// Inference", 2018, arXiv:1707.07383.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimizer {
    /// Waypoints of the result, its ends among them; `64`, at least 3.
    pub waypoints: usize,
    /// The clearance below which obstacles push: m, beyond the margin of the free space; `0.05`.
    pub reserve: f64,
    /// The weight of curvature against length; `0.01`, in the square of the path's own parameter.
    pub smoothness: f64,
    /// The weight of collisions against length; `1e4`.
    pub collision: f64,
    /// The most steps for each weight on collisions; `50`.
    pub iterations: usize,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            waypoints: 64,
            reserve: 0.05,
            smoothness: 0.01,
            collision: 1e4,
            iterations: 50,
        }
    }
}

/// How many times the weight on collisions is raised.
const RAISES: usize = 2;

/// A relative improvement below which steps end.
const PROGRESS: f64 = 1e-5;

impl Optimizer {
    /// A smooth free path near `initial`, with its ends and [`Optimizer::waypoints`] waypoints.
    ///
    /// It is deterministic. `initial` may be blocked.
    ///
    /// # Errors
    ///
    /// See [`PathError`]; a path that is still blocked is a [`PathError::Budget`] that says where.
    pub fn optimize(&self, free: &FreeSpace, initial: &Path) -> Result<Path, PathError> {
        check_setting("the reserve of an optimizer", self.reserve)?;
        check_setting("the smoothness of an optimizer", self.smoothness)?;
        check_setting("the weight of collisions", self.collision)?;
        let given = initial.rows();
        check_ends(free, &given[0], &given[given.len() - 1])?;
        let mut rows = initial.resampled(self.waypoints.max(3)).rows();
        let mut collision = self.collision;
        let mut iterations = 0;
        let mut raises = 0;
        loop {
            let descent = Descent::new(self, free, collision, rows.len());
            iterations += descent.run(&mut rows, self.iterations);
            for row in &mut rows {
                clamp(free, row);
            }
            let path = Path::from_rows(&rows);
            match free.check_path(&path) {
                Ok(()) => return Ok(path),
                Err(_) if raises < RAISES => {
                    raises += 1;
                    collision *= 10.0;
                }
                Err(nearest) => {
                    return Err(PathError::Budget {
                        iterations,
                        nearest,
                    });
                }
            }
        }
    }
}

impl Optimizer {
    /// The covariant step from a path that may be blocked, for who guides another planner by this cost.
    ///
    /// ```text
    /// ((1 + μ) A + κ I + Jᵀ J) δ = −(pull · ∇prior + ∇obstacles)
    /// ```
    ///
    /// of shape `[waypoint, dof]`: what is to be added to the waypoints. With a `pull` of 0 the first two terms of the cost
    /// only measure how much a path is bent, so that `δ` is the smoothest way out of what is too near; with 1 they draw it
    /// straight as well. `μ` is `damping`: the larger, the smaller the step. `κ` is `anchor`: with a pull of 1, bends whose
    /// share of `A` is above it are straightened, and longer ones, below it, stay: it takes the tremor out of a path and leaves
    /// it its way.
    ///
    /// The ends stay, and so does what is not finite. [`Optimizer::waypoints`] and [`Optimizer::iterations`] do not matter.
    #[allow(clippy::needless_pass_by_value, reason = "a view is a reference")]
    pub fn step(
        &self,
        free: &FreeSpace,
        waypoints: ArrayView2<'_, f64>,
        pull: f64,
        damping: f64,
        anchor: f64,
    ) -> Array2<f64> {
        let mut step = Array2::zeros(waypoints.raw_dim());
        let (count, dof) = waypoints.dim();
        let finite = waypoints.iter().all(|it| it.is_finite());
        if count < 3 || dof != free.dof() || !finite {
            return step;
        }
        let rows: Vec<Vec<f64>> = waypoints.rows().into_iter().map(|it| it.to_vec()).collect();
        let descent = Descent::new(self, free, self.collision, count);
        let mut system = Banded::new((count - 2) * dof, 2 * dof);
        let mut gradient = vec![0.0; (count - 2) * dof];
        descent.prior(&rows, damping, &mut system, &mut gradient);
        for (row, entry) in gradient.iter_mut().enumerate() {
            *entry *= pull;
            system.add(row, row, anchor);
        }
        descent.obstacles(&rows, &mut system, &mut gradient);
        if let Some(solved) = system.solve(gradient) {
            for (i, value) in solved.into_iter().enumerate() {
                step[[1 + i / dof, i % dof]] = -value;
            }
        }
        step
    }

    /// `F`, the cost of a path: what of several is best is least. Infinite for what is not finite or of other coordinates.
    #[allow(clippy::needless_pass_by_value, reason = "a view is a reference")]
    pub fn cost(&self, free: &FreeSpace, waypoints: ArrayView2<'_, f64>) -> f64 {
        let finite = waypoints.iter().all(|it| it.is_finite());
        if waypoints.nrows() < 2 || waypoints.ncols() != free.dof() || !finite {
            return f64::INFINITY;
        }
        let rows: Vec<Vec<f64>> = waypoints.rows().into_iter().map(|it| it.to_vec()).collect();
        Descent::new(self, free, self.collision, rows.len()).cost(&rows)
    }
}

/// What is left of a push beyond the limits.
fn clamp(free: &FreeSpace, row: &mut [f64]) {
    let limits = free.limits();
    let bounds = limits.lower().iter().zip(limits.upper());
    for (q, (&lower, &upper)) in row.iter_mut().zip(bounds) {
        *q = q.clamp(lower, upper);
    }
}

/// One weighting of the cost.
struct Descent<'a> {
    free: &'a FreeSpace<'a>,
    reserve: f64,
    collision: f64,
    /// Weights of the squared first and second differences.
    first: f64,
    second: f64,
    dof: usize,
    /// Waypoints, the two ends among them.
    count: usize,
}

impl<'a> Descent<'a> {
    fn new(optimizer: &Optimizer, free: &'a FreeSpace<'a>, collision: f64, count: usize) -> Self {
        let steps = (count - 1) as f64;
        Self {
            free,
            reserve: optimizer.reserve,
            // Waypoints and the places halfway.
            collision: collision / (2.0 * steps),
            first: steps,
            second: optimizer.smoothness * steps.powi(3),
            dof: free.dof(),
            count,
        }
    }

    /// Improves the rows between the first and the last; the number of steps.
    fn run(&self, rows: &mut Vec<Vec<f64>>, iterations: usize) -> usize {
        let mut damping = 0.1;
        let mut cost = self.cost(rows);
        for iteration in 0..iterations {
            let mut system = Banded::new((self.count - 2) * self.dof, 2 * self.dof);
            let mut gradient = vec![0.0; (self.count - 2) * self.dof];
            self.prior(rows, damping, &mut system, &mut gradient);
            self.obstacles(rows, &mut system, &mut gradient);
            let Some(step) = system.solve(gradient) else {
                return iteration;
            };
            let mut next = rows.clone();
            for (i, row) in next[1..self.count - 1].iter_mut().enumerate() {
                for (j, q) in row.iter_mut().enumerate() {
                    *q -= step[i * self.dof + j];
                }
            }
            let reached = self.cost(&next);
            if reached < cost {
                let progress = (cost - reached) / cost;
                *rows = next;
                cost = reached;
                damping = (damping / 4.0).max(1e-4);
                if progress < PROGRESS {
                    return iteration + 1;
                }
            } else {
                damping *= 8.0;
                if damping > 1e6 {
                    return iteration + 1;
                }
            }
        }
        iterations
    }

    fn cost(&self, rows: &[Vec<f64>]) -> f64 {
        let mut cost = 0.0;
        for pair in rows.windows(2) {
            let steps = pair[0].iter().zip(&pair[1]);
            cost += self.first * steps.map(|(a, b)| (b - a) * (b - a)).sum::<f64>();
        }
        for three in rows.windows(3) {
            for (j, middle) in three[1].iter().enumerate() {
                let bend = three[0][j] - 2.0 * middle + three[2][j];
                cost += self.second * bend * bend;
            }
        }
        self.pushes(rows, |_, _, residual, _| {
            cost += self.collision * residual * residual;
        });
        cost / 2.0
    }

    /// The first two terms, damped.
    fn prior(&self, rows: &[Vec<f64>], damping: f64, system: &mut Banded, gradient: &mut [f64]) {
        // (weight, first row, coefficients) of each difference.
        let firsts = (0..self.count - 1).map(|i| (self.first, i, &[-1.0, 1.0][..]));
        let seconds = (0..self.count - 2).map(|i| (self.second, i, &[1.0, -2.0, 1.0][..]));
        for (weight, first, coefficients) in firsts.chain(seconds) {
            let difference = |j: usize| -> f64 {
                let terms = coefficients.iter().zip(&rows[first..]);
                terms.map(|(c, row)| c * row[j]).sum()
            };
            for j in 0..self.dof {
                let value = difference(j);
                for (k, c) in coefficients.iter().enumerate() {
                    let Some(row) = self.variable(first + k, j) else {
                        continue;
                    };
                    gradient[row] += weight * c * value;
                    for (l, d) in coefficients.iter().enumerate() {
                        if let Some(column) = self.variable(first + l, j) {
                            system.add(row, column, (1.0 + damping) * weight * c * d);
                        }
                    }
                }
            }
        }
    }

    /// The last two terms.
    fn obstacles(&self, rows: &[Vec<f64>], system: &mut Banded, gradient: &mut [f64]) {
        self.pushes(rows, |first, shares, residual, slope| {
            // ∂residual/∂q = −slope at the place, and a share of it at the waypoints around.
            let entries = || {
                let places = shares.iter().enumerate();
                places.flat_map(|(k, share)| {
                    let slopes = slope.iter().enumerate();
                    slopes.filter_map(move |(j, slope)| {
                        Some((self.variable(first + k, j)?, -share * slope))
                    })
                })
            };
            for (row, a) in entries() {
                gradient[row] += self.collision * a * residual;
                for (column, b) in entries() {
                    system.add(row, column, self.collision * a * b);
                }
            }
        });
    }

    /// Calls `push(first row, shares of the rows from there on, residual, ∂clearance/∂q)` for everything that pushes.
    fn pushes(&self, rows: &[Vec<f64>], mut push: impl FnMut(usize, &[f64], f64, &[f64])) {
        let body = self.free.body();
        let radii = body.radii();
        let mut centers = vec![Vector3::zeros(); radii.len()];
        let mut slope = vec![0.0; self.dof];
        let mut q = vec![0.0; self.dof];
        // Even places are waypoints, odd ones lie halfway to the next. The ends are what they are.
        for place in 1..2 * (self.count - 1) {
            let first = place / 2;
            let halfway = [0.5, 0.5];
            let shares: &[f64] = if place % 2 == 0 { &[1.0] } else { &halfway };
            for (j, q) in q.iter_mut().enumerate() {
                let terms = shares.iter().enumerate();
                *q = terms.map(|(k, share)| share * rows[first + k][j]).sum();
            }
            body.place(&q, &mut centers);
            for (i, (center, radius)) in centers.iter().zip(radii).enumerate() {
                let Some(near) = self.free.scene().nearest(center) else {
                    continue;
                };
                let clearance = near.distance - radius - self.free.margin();
                if clearance < self.reserve {
                    slope.fill(0.0);
                    body.pull(&q, i, &near.gradient, &mut slope);
                    push(first, shares, self.reserve - clearance, &slope);
                }
            }
            let limits = self.free.limits();
            for (j, &value) in q.iter().enumerate() {
                let below = limits.lower()[j] - value;
                let above = value - limits.upper()[j];
                let excess = below.max(above);
                if excess > 0.0 {
                    slope.fill(0.0);
                    slope[j] = if below > 0.0 { 1.0 } else { -1.0 };
                    push(first, shares, excess, &slope);
                }
            }
        }
    }

    /// The place of a coordinate in the system; `None` at the fixed ends.
    fn variable(&self, row: usize, j: usize) -> Option<usize> {
        let inner = row.checked_sub(1)?;
        (inner + 2 < self.count).then(|| inner * self.dof + j)
    }
}

/// A symmetric matrix of which only a band below the diagonal is not zero.
struct Banded {
    /// `[row, row − column]`.
    lower: Vec<f64>,
    size: usize,
    width: usize,
}

impl Banded {
    /// Zeros, with `width` diagonals below the main one.
    fn new(size: usize, width: usize) -> Self {
        Self {
            lower: vec![0.0; size * (width + 1)],
            size,
            width,
        }
    }

    /// Adds to an entry; those above the diagonal are their mirror images.
    fn add(&mut self, row: usize, column: usize, value: f64) {
        if row >= column {
            self.lower[row * (self.width + 1) + row - column] += value;
        }
    }

    /// The solution by Cholesky's factors; `None` if the matrix is not positive definite.
    fn solve(mut self, mut right: Vec<f64>) -> Option<Vec<f64>> {
        let (n, w) = (self.size, self.width);
        let at = |i: usize, j: usize| i * (w + 1) + i - j;
        for i in 0..n {
            for j in i.saturating_sub(w)..=i {
                let begin = i.saturating_sub(w).max(j.saturating_sub(w));
                let products = (begin..j).map(|k| self.lower[at(i, k)] * self.lower[at(j, k)]);
                let value = self.lower[at(i, j)] - products.sum::<f64>();
                self.lower[at(i, j)] = if i == j {
                    if value.is_nan() || value <= 0.0 {
                        return None;
                    }
                    value.sqrt()
                } else {
                    value / self.lower[at(j, j)]
                };
            }
        }
        for i in 0..n {
            let begin = i.saturating_sub(w);
            let products = (begin..i).map(|k| self.lower[at(i, k)] * right[k]);
            right[i] = (right[i] - products.sum::<f64>()) / self.lower[at(i, i)];
        }
        for i in (0..n).rev() {
            let end = (i + w + 1).min(n);
            let products = (i + 1..end).map(|k| self.lower[at(k, i)] * right[k]);
            right[i] = (right[i] - products.sum::<f64>()) / self.lower[at(i, i)];
        }
        Some(right)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::body::Translating;
    use crate::limits::Limits;
    use crate::scene::{Obstacle, Scene};

    #[test]
    #[allow(clippy::float_cmp, reason = "nothing is exactly zero")]
    fn a_step_lowers_the_cost_and_leaves_the_ends() {
        let disc = Obstacle::disc([0.0, 0.05], 0.3).expect("it is valid");
        let (scene, limits) = (Scene::new().with(disc), Limits::unlimited(2));
        let body = Translating::disc(0.05).expect("a disc");
        let free = FreeSpace::new(&body, &scene, &limits).expect("the dimensions agree");
        let optimizer = Optimizer::default();
        let straight = Array2::from_shape_fn((32, 2), |(i, j)| match j {
            0 => -0.8 + 1.6 * i as f64 / 31.0,
            _ => 0.0,
        });
        for (pull, damping) in [(0.0, 0.1), (0.0, 10.0), (1.0, 0.1)] {
            let step = optimizer.step(&free, straight.view(), pull, damping, 0.0);
            assert!(step.row(0).iter().chain(step.row(31)).all(|it| *it == 0.0));
            // Away from the disc, whose centre is above.
            assert!(step.column(1).iter().all(|it| *it <= 1e-12), "{step}");
            let moved = &straight + &step;
            let [before, after] = [&straight, &moved].map(|it| optimizer.cost(&free, it.view()));
            assert!(after < before, "{before} {after}");
        }
        // Far from everything only the prior is left, whose minimum is the straight line.
        let empty = Scene::new();
        let free = FreeSpace::new(&body, &empty, &limits).expect("the dimensions agree");
        let bent = Array2::from_shape_fn((32, 2), |(i, j)| {
            straight[[i, j]] + f64::from(u8::from(i % 31 > 0)) * 0.1
        });
        assert_eq!(optimizer.step(&free, bent.view(), 0.0, 0.1, 0.0).sum(), 0.0);
        let step = optimizer.step(&free, bent.view(), 1.0, 0.0, 0.0);
        for (it, expected) in (&bent + &step).iter().zip(&straight) {
            // A band of 60 unknowns is solved.
            approx::assert_relative_eq!(it, expected, epsilon = 1e-9);
        }
        // An anchor takes a tremor out and leaves a long bend nearly as it is.
        let waves = |count: f64, height: f64| {
            Array2::from_shape_fn((32, 2), |(i, j)| {
                let angle = std::f64::consts::PI * count * i as f64 / 31.0;
                straight[[i, j]] + if j == 1 { height * angle.sin() } else { 0.0 }
            })
        };
        let left = |path: Array2<f64>| {
            let moved = &path + &optimizer.step(&free, path.view(), 1.0, 0.0, 30.0);
            let height = |it: &Array2<f64>| it.column(1).fold(0.0_f64, |most, y| most.max(y.abs()));
            height(&moved) / height(&path)
        };
        let (long, tremor) = (left(waves(1.0, 0.3)), left(waves(25.0, 0.01)));
        assert!(long > 0.95 && tremor < 0.1, "{long} {tremor}");
        let mut broken = bent.clone();
        broken[[3, 0]] = f64::NAN;
        assert_eq!(
            optimizer.step(&free, broken.view(), 1.0, 0.1, 0.0).sum(),
            0.0
        );
        assert!(optimizer.cost(&free, broken.view()).is_infinite());
    }

    #[test]
    fn a_band_is_solved_as_the_whole_matrix_is() {
        // Diagonally dominant, so positive definite.
        let (n, w) = (9, 3);
        let mut banded = Banded::new(n, w);
        let mut dense = nalgebra::DMatrix::zeros(n, n);
        for i in 0..n {
            for j in i.saturating_sub(w)..=i {
                let value = if i == j {
                    10.0 + i as f64
                } else {
                    ((i * 7 + j * 3) % 5) as f64 - 2.0
                };
                banded.add(i, j, value);
                dense[(i, j)] = value;
                dense[(j, i)] = value;
            }
        }
        let right: Vec<f64> = (0..n).map(|i| i as f64 - 4.0).collect();
        let solution = banded
            .solve(right.clone())
            .expect("it is positive definite");
        let product = dense * nalgebra::DVector::from_vec(solution);
        for (a, b) in product.iter().zip(&right) {
            // Some ten products of numbers of order 10.
            approx::assert_relative_eq!(a, b, epsilon = 1e-12);
        }
        assert!(Banded::new(2, 1).solve(vec![1.0, 1.0]).is_none());
    }
}
