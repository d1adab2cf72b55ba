//! One coordinate between two waypoints, as a polynomial: its values and where they may be extreme.

/// `q(u) = c₀ + c₁ u + … + c₅ u⁵`, `u ∈ [0, 1]`, `dt = h du`; a cubic has `c₄ = c₅ = 0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    h: f64,
    c: [f64; 6],
}

/// Position, velocity and acceleration of one coordinate at one waypoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knot {
    pub(crate) q: f64,
    pub(crate) v: f64,
    pub(crate) a: f64,
}

impl Segment {
    /// The cubic of `h` seconds through the positions and velocities of two knots.
    pub(crate) fn cubic(h: f64, from: Knot, to: Knot) -> Self {
        let (m0, m1) = (h * from.v, h * to.v);
        let delta = to.q - from.q;
        let c2 = 3.0 * delta - (2.0 * m0 + m1);
        let c3 = (m0 + m1) - 2.0 * delta;
        Self {
            h,
            c: [from.q, m0, c2, c3, 0.0, 0.0],
        }
    }

    /// The quintic of `h` seconds through the positions, velocities and accelerations of two knots.
    pub(crate) fn quintic(h: f64, from: Knot, to: Knot) -> Self {
        let (m0, m1) = (h * from.v, h * to.v);
        let (w0, w1) = (h * h * from.a, h * h * to.a);
        let delta = to.q - from.q;
        let c3 = 10.0 * delta - (6.0 * m0 + 4.0 * m1) - (3.0 * w0 - w1) / 2.0;
        let c4 = -15.0 * delta + (8.0 * m0 + 7.0 * m1) + (3.0 * w0 - 2.0 * w1) / 2.0;
        let c5 = 6.0 * delta - 3.0 * (m0 + m1) - (w0 - w1) / 2.0;
        Self {
            h,
            c: [from.q, m0, w0 / 2.0, c3, c4, c5],
        }
    }

    pub(crate) fn position(&self, u: f64) -> f64 {
        value(&self.c, u)
    }

    pub(crate) fn velocity(&self, u: f64) -> f64 {
        value(&derivative(&self.c), u) / self.h
    }

    pub(crate) fn acceleration(&self, u: f64) -> f64 {
        value(&derivative(&derivative(&self.c)), u) / (self.h * self.h)
    }

    pub(crate) fn jerk(&self, u: f64) -> f64 {
        let third = derivative(&derivative(&derivative(&self.c)));
        value(&third, u) / (self.h * self.h * self.h)
    }

    /// Where inside the segment the position or one of its derivatives may be extreme.
    ///
    /// These are the roots of the first four derivatives. The last is a line; between two neighbouring roots of one
    /// derivative the derivative below is monotone, so that bisection finds its only root there, or there is none.
    /// A pair of roots that rounding hides is one between which the derivative is not larger than rounding: what is
    /// extreme there differs from its neighbour by no more.
    pub(crate) fn critical_points(&self) -> CriticalPoints {
        let first = derivative(&self.c);
        let second = derivative(&first);
        let third = derivative(&second);
        let fourth = derivative(&third);
        let mut found = CriticalPoints::default();
        // Where the derivative above vanishes, between the two ends.
        let mut knots = [0.0; 6];
        knots[1] = 1.0;
        let mut intervals = 1;
        for polynomial in [fourth, third, second, first] {
            let mut roots = [0.0; 6];
            let mut count = 0;
            for pair in knots[..=intervals].windows(2) {
                if let Some(root) = root(&polynomial, pair[0], pair[1]) {
                    count += 1;
                    roots[count] = root;
                    found.push(root);
                }
            }
            intervals = count + 1;
            roots[intervals] = 1.0;
            knots = roots;
        }
        found
    }
}

/// How close to an end of a segment an extreme is the end's own value.
///
/// `2⁻²⁶`: an extreme is flat, so that within `δ` of it values differ by the order of `δ²`, the rounding of an `f64`.
/// The end's value is the waypoint's, which was given and not computed.
const EDGE: f64 = 1.490_116_119_384_765_6e-8;

/// Up to 1 + 2 + 3 + 4 places inside a segment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct CriticalPoints {
    places: [f64; 10],
    count: usize,
}

impl CriticalPoints {
    fn push(&mut self, u: f64) {
        if (EDGE..=1.0 - EDGE).contains(&u) {
            self.places[self.count] = u;
            self.count += 1;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = f64> + '_ {
        self.places[..self.count].iter().copied()
    }
}

/// Horner's rule.
fn value(c: &[f64; 6], u: f64) -> f64 {
    c.iter().rev().fold(0.0, |sum, c| sum * u + c)
}

fn derivative(c: &[f64; 6]) -> [f64; 6] {
    [c[1], 2.0 * c[2], 3.0 * c[3], 4.0 * c[4], 5.0 * c[5], 0.0]
}

/// The root strictly between two places where the polynomial has opposite signs, to the last bit.
fn root(c: &[f64; 6], mut low: f64, mut high: f64) -> Option<f64> {
    let (at_low, at_high) = (value(c, low), value(c, high));
    // A zero at a knot is a place already, and no product is needed that might underflow.
    let opposite = (at_low < 0.0 && at_high > 0.0) || (at_low > 0.0 && at_high < 0.0);
    if !opposite {
        return None;
    }
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return Some(middle);
        }
        let at_middle = value(c, middle);
        if (at_middle < 0.0) == (at_low < 0.0) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn knot() -> impl Strategy<Value = Knot> {
        // Zeros make the degenerate cases: a rest, a line, a parabola.
        let number = || prop_oneof![3 => -1.0..1.0_f64, 1 => Just(0.0), 1 => Just(0.5)];
        (number(), number(), number()).prop_map(|(q, v, a)| Knot { q, v, a })
    }

    /// The largest value at the ends and the critical points.
    fn largest(segment: &Segment, of: impl Fn(f64) -> f64) -> f64 {
        let inside = segment.critical_points();
        inside
            .iter()
            .chain([0.0, 1.0])
            .map(of)
            .fold(f64::NEG_INFINITY, f64::max)
    }

    proptest! {
        #[test]
        fn no_sample_exceeds_the_critical_points(
            from in knot(),
            to in knot(),
            scales in (-3..2_i32, -3..2_i32),
            h in 0.01..3.0_f64,
        ) {
            let (v, a) = (10_f64.powi(scales.0), 10_f64.powi(scales.1));
            let from = Knot { q: from.q, v: v * from.v, a: a * from.a };
            let to = Knot { q: to.q, v: v * to.v, a: a * to.a };
            for segment in [Segment::cubic(h, from, to), Segment::quintic(h, from, to)] {
                // A few roundings of the largest term: coefficients reach 60 c, derivatives divide by h.
                let size: f64 = segment.c.iter().map(|c| c.abs()).sum();
                let rounding = |order: i32| 1e3 * f64::EPSILON * size / h.powi(order);
                for sign in [1.0, -1.0] {
                    let top = [
                        largest(&segment, |u| sign * segment.position(u)),
                        largest(&segment, |u| sign * segment.velocity(u)),
                        largest(&segment, |u| sign * segment.acceleration(u)),
                        largest(&segment, |u| sign * segment.jerk(u)),
                    ];
                    for i in 0..=997 {
                        let u = f64::from(i) / 997.0;
                        prop_assert!(sign * segment.position(u) <= top[0] + rounding(0));
                        prop_assert!(sign * segment.velocity(u) <= top[1] + rounding(1));
                        prop_assert!(sign * segment.acceleration(u) <= top[2] + rounding(2));
                        prop_assert!(sign * segment.jerk(u) <= top[3] + rounding(3));
                    }
                }
            }
        }

        #[test]
        fn a_segment_meets_its_knots(from in knot(), to in knot(), h in 0.1..3.0_f64) {
            // Coefficients of order 100, divided by h² ≥ 0.01.
            let close = |x: f64, y: f64| (x - y).abs() < 1e-11;
            for (u, knot) in [(0.0, from), (1.0, to)] {
                let quintic = Segment::quintic(h, from, to);
                prop_assert!(close(quintic.position(u), knot.q));
                prop_assert!(close(quintic.velocity(u), knot.v));
                prop_assert!(close(quintic.acceleration(u), knot.a));
                let cubic = Segment::cubic(h, from, to);
                prop_assert!(close(cubic.position(u), knot.q));
                prop_assert!(close(cubic.velocity(u), knot.v));
            }
        }

        #[test]
        fn roots_that_are_chosen_are_found(mut roots in prop::collection::vec(0.01..0.99_f64, 4)) {
            // A velocity with four given roots: 5 c₅ u⁴ + … = ∏ (u − rᵢ).
            roots.sort_by(f64::total_cmp);
            let mut product = vec![1.0];
            for r in &roots {
                let mut next = vec![0.0; product.len() + 1];
                for (i, p) in product.iter().enumerate() {
                    next[i + 1] += p;
                    next[i] -= r * p;
                }
                product = next;
            }
            let mut c = [0.0; 6];
            for (i, p) in product.iter().enumerate() {
                c[i + 1] = p / (i as f64 + 1.0);
            }
            let segment = Segment { h: 1.0, c };
            let found = segment.critical_points();
            for r in &roots {
                // Roots that nearly coincide are known to the square root of rounding, or worse.
                let apart = roots.iter().filter(|other| (*other - r).abs() < 0.02).count() == 1;
                if apart {
                    let near = found.iter().any(|u| (u - r).abs() < 1e-7);
                    prop_assert!(near, "{r} is not among {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_parabola_has_one_critical_point() {
        // q = u − u²: the velocity vanishes at 1/2, the other derivatives nowhere.
        let knot = |v| Knot { q: 0.0, v, a: -2.0 };
        for segment in [
            Segment::cubic(1.0, knot(1.0), knot(-1.0)),
            Segment::quintic(1.0, knot(1.0), knot(-1.0)),
        ] {
            let points: Vec<f64> = segment.critical_points().iter().collect();
            assert_eq!(points, [0.5]);
        }
    }

    #[test]
    fn a_rest_has_no_critical_points() {
        let rest = Knot {
            q: 3.0,
            v: 0.0,
            a: 0.0,
        };
        let segment = Segment::quintic(1.0, rest, rest);
        assert_eq!(segment.critical_points().iter().count(), 0);
    }
}
