//! A scene as numbers for a network.

use clearway_motion::Scene;
use nalgebra::Vector3;
use serde::{Deserialize, Serialize};

/// Signed distances on a coarse lattice: what a network is told of a scene.
///
/// ```text
/// code_ijk = clamp(d(origin + spacing · (i, j, k)) / reach, −1, 1)          i fastest
/// ```
///
/// Which obstacles there are and in which order does not matter, only where they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneCode {
    /// The first place: m.
    pub origin: [f64; 3],
    /// Between two places: m.
    pub spacing: f64,
    /// The places along x, y and z; 1 along z in the plane.
    pub size: [usize; 3],
    /// The distance that becomes 1: m.
    pub reach: f64,
}

impl SceneCode {
    /// The number of places.
    pub fn len(&self) -> usize {
        self.size.iter().product()
    }

    /// Whether it has no place.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The code of a scene; that of an empty one is 1 everywhere.
    pub fn of(&self, scene: &Scene) -> Vec<f32> {
        let [columns, rows, layers] = self.size;
        let mut code = Vec::with_capacity(self.len());
        for k in 0..layers {
            for j in 0..rows {
                for i in 0..columns {
                    let place = Vector3::new(i as f64, j as f64, k as f64) * self.spacing;
                    let distance = scene.distance(&(place + Vector3::from(self.origin)));
                    code.push((distance / self.reach).clamp(-1.0, 1.0) as f32);
                }
            }
        }
        code
    }

    /// What is wrong with the numbers, in words, if at most so many places are allowed.
    pub(super) fn wrong(&self, most: usize) -> Option<String> {
        let Self {
            origin,
            spacing,
            size,
            reach,
        } = self;
        let places = size
            .iter()
            .try_fold(1_usize, |all, it| all.checked_mul(*it));
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let fine = places.is_some_and(|it| (1..=most).contains(&it))
            && positive(*spacing)
            && positive(*reach)
            && origin.iter().all(|it| it.is_finite());
        (!fine).then(|| {
            format!("{size:?} places of {spacing} m from {origin:?} with a reach of {reach} m")
        })
    }
}

#[cfg(test)]
mod tests {
    use clearway_motion::Obstacle;

    use super::*;

    #[test]
    fn a_code_is_the_distances_and_knows_no_order() {
        let code = SceneCode {
            origin: [-1.0, 0.0, 0.0],
            spacing: 1.0,
            size: [3, 2, 1],
            reach: 0.5,
        };
        let disc = |x: f64| Obstacle::disc([x, 0.0], 0.25).expect("a disc");
        let [one, other] = [[0.0, 1.0], [1.0, 0.0]].map(|xs| xs.map(disc).into_iter().collect());
        // (−1, 0), (0, 0), (1, 0), and three places that are √1 − ¼ and more away.
        assert_eq!(code.of(&one), [1.0, -0.5, -0.5, 1.0, 1.0, 1.0]);
        assert_eq!(code.of(&one), code.of(&other));
        assert_eq!(code.of(&Scene::new()), [1.0; 6]);
        assert_eq!((code.len(), code.wrong(6)), (6, None));
        assert!(code.wrong(5).is_some());
        let broken = SceneCode {
            reach: f64::NAN,
            ..code
        };
        assert!(broken.wrong(6).expect("no number").contains("NaN"));
    }
}
