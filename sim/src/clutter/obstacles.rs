//! The published obstacles.

use clearway_motion::{Obstacle, SceneError};
use nalgebra::{Isometry3, Vector3};

use crate::numpy::Generator;

/// A planar world of Motion Planning Diffusion, by the names of its code without their `Env` and `2D`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Environment {
    /// 15 discs.
    Simple,
    /// 16 discs and 14 boxes.
    Dense,
    /// 8 discs, 9 boxes, and a wall with a narrow gap.
    NarrowPassage,
}

/// The rounding of a box's corners, as a share of its shorter edge.
const ROUNDING: f64 = 0.15;

impl Environment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Simple, Self::Dense, Self::NarrowPassage];

    /// The obstacles, discs first.
    pub fn outlines(self) -> Vec<Outline> {
        let (discs, boxes): (&[_], &[_]) = match self {
            Self::Simple => (&SIMPLE_DISCS, &[]),
            Self::Dense => (&DENSE_DISCS, &DENSE_BOXES),
            Self::NarrowPassage => (&NARROW_DISCS, &NARROW_BOXES),
        };
        outlines(discs, boxes)
    }

    /// The obstacles that its authors add to show what was never seen in training, discs first.
    pub fn additions(self) -> Vec<Outline> {
        match self {
            Self::Simple => outlines(&SIMPLE_ADDED_DISCS, &SIMPLE_ADDED_BOXES),
            Self::Dense => outlines(&DENSE_ADDED_DISCS, &DENSE_ADDED_BOXES),
            Self::NarrowPassage => outlines(&NARROW_ADDED_DISCS, &NARROW_ADDED_BOXES),
        }
    }
}

/// An obstacle of these worlds, by its numbers: m.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outline {
    /// A disc.
    Disc {
        /// Its centre, x and y.
        center: [f64; 2],
        /// Its radius.
        radius: f64,
    },
    /// A box along the axes, whose corners are rounded.
    Box {
        /// Its centre, x and y.
        center: [f64; 2],
        /// Its whole edges along x and y.
        edges: [f64; 2],
        /// The radius of its corners.
        rounding: f64,
    },
}

impl Outline {
    /// It, as an obstacle of a scene.
    ///
    /// # Errors
    ///
    /// None for the numbers of this module; the constructors check.
    pub fn obstacle(self) -> Result<Obstacle, SceneError> {
        match self {
            Self::Disc { center, radius } => Obstacle::disc(center, radius),
            Self::Box {
                center,
                edges,
                rounding,
            } => {
                let pose = Isometry3::translation(center[0], center[1], 0.0);
                let half = Vector3::new(edges[0] / 2.0, edges[1] / 2.0, f64::INFINITY);
                Obstacle::rounded_cuboid(pose, half, rounding)
            }
        }
    }
}

fn outlines(discs: &[[f64; 3]], boxes: &[[f64; 4]]) -> Vec<Outline> {
    let discs = discs.iter().map(|&[x, y, radius]| Outline::Disc {
        center: [x, y],
        radius,
    });
    let boxes = boxes
        .iter()
        .map(|&[x, y, width, height]| rounded([x, y], [width, height]));
    discs.chain(boxes).collect()
}

/// A box by its centre and its whole edges.
fn rounded(center: [f64; 2], edges: [f64; 2]) -> Outline {
    Outline::Box {
        center,
        edges,
        rounding: ROUNDING * edges[0].min(edges[1]),
    }
}

/// One obstacle that nobody has seen.
pub(super) fn drawn(draw: &mut Generator) -> Outline {
    let center = [(); 2].map(|()| draw.uniform(-0.9, 0.9));
    if draw.integers(0, 2) == 0 {
        Outline::Disc {
            center,
            radius: draw.uniform(0.05, 0.1),
        }
    } else {
        rounded(center, [(); 2].map(|()| draw.uniform(0.1, 0.2)))
    }
}

// Centre and radius of discs, centre and whole edges of boxes: m.

const SIMPLE_DISCS: [[f64; 3]; 15] = [
    [-0.433_784_72, 0.333_464_38, 0.125],
    [0.331_347_47, 0.628_805_1, 0.125],
    [-0.565_696_48, -0.484_994_5, 0.125],
    [0.421_242_48, -0.665_616_57, 0.125],
    [0.056_366_55, -0.514_966_43, 0.125],
    [-0.369_617_85, -0.123_155_41, 0.125],
    [-0.874_021_71, -0.403_493_67, 0.125],
    [-0.635_921_42, 0.668_312_49, 0.125],
    [0.808_782_16, 0.528_787_02, 0.125],
    [-0.023_786_11, 0.459_006_94, 0.125],
    [0.145_574_2, 0.164_204_97, 0.125],
    [0.628_413_74, -0.434_614_48, 0.125],
    [0.179_656_21, -0.892_627_66, 0.125],
    [0.677_596_87, 0.881_735_8, 0.125],
    [-0.360_876_68, 0.831_345_86, 0.125],
];

const DENSE_DISCS: [[f64; 3]; 16] = [
    [-0.433_784_72, 0.333_464_38, 0.125],
    [0.331_347_47, 0.628_805_1, 0.125],
    [-0.565_696_48, -0.484_994_5, 0.125],
    [0.421_242_48, -0.665_616_57, 0.125],
    [0.056_366_55, -0.514_966_43, 0.125],
    [-0.369_617_85, -0.123_155_41, 0.125],
    [-0.874_021_71, -0.403_493_67, 0.125],
    [-0.635_921_42, 0.668_312_49, 0.125],
    [0.808_782_16, 0.528_787_02, 0.125],
    [-0.023_786_11, 0.459_006_94, 0.125],
    [0.115_449_48, -0.126_760_23, 0.125],
    [0.145_574_2, 0.164_204_97, 0.125],
    [0.628_413_74, -0.434_614_48, 0.125],
    [0.179_656_21, -0.892_627_66, 0.125],
    [0.677_596_87, 0.881_735_8, 0.125],
    [-0.360_876_68, 0.831_345_86, 0.125],
];

const DENSE_BOXES: [[f64; 4]; 14] = [
    [0.607_781_71, 0.195_123_87, 0.2, 0.2],
    [0.557_531_3, 0.550_884_31, 0.2, 0.2],
    [-0.335_229_55, -0.688_751_94, 0.2, 0.2],
    [-0.657_263_22, 0.318_278_82, 0.2, 0.2],
    [-0.664_594_29, -0.016_457_16, 0.2, 0.2],
    [0.816_598_89, -0.198_560_24, 0.2, 0.2],
    [-0.822_224_62, -0.644_858, 0.2, 0.2],
    [-0.285_598_99, -0.368_414_88, 0.2, 0.2],
    [-0.894_645_81, 0.896_244_76, 0.2, 0.2],
    [-0.239_944_06, 0.602_106_09, 0.2, 0.2],
    [-0.006_193_59, 0.845_617_18, 0.2, 0.2],
    [0.305_103_6, -0.366_199_05, 0.2, 0.2],
    [-0.107_040_08, 0.131_895_02, 0.2, 0.2],
    [0.715_637_86, -0.692_334_59, 0.2, 0.2],
];

const NARROW_DISCS: [[f64; 3]; 8] = [
    [0.331_347_47, 0.628_805_1, 0.125],
    [-0.369_617_85, -0.123_155_41, 0.125],
    [-0.874_021_71, -0.403_493_67, 0.125],
    [0.808_782_16, 0.528_787_02, 0.125],
    [0.677_596_87, 0.881_735_8, 0.125],
    [-0.360_876_68, 0.831_345_86, 0.125],
    [0.715_637_86, -0.692_334_59, 0.125],
    [0.35, 0.0, 0.125],
];

const NARROW_BOXES: [[f64; 4]; 11] = [
    [0.607_781_71, 0.195_123_87, 0.2, 0.2],
    [-0.335_229_55, -0.688_751_94, 0.2, 0.2],
    [-0.657_263_22, 0.418_278_82, 0.2, 0.2],
    [-0.664_594_29, 0.016_457_16, 0.2, 0.2],
    [0.816_598_89, -0.198_560_24, 0.2, 0.2],
    [-0.822_224_62, -0.644_858, 0.2, 0.2],
    [-0.894_645_81, 0.896_244_76, 0.2, 0.2],
    [-0.239_944_06, 0.602_106_09, 0.2, 0.2],
    [0.305_103_6, -0.366_199_05, 0.2, 0.2],
    [0.0, 0.55, 0.2, 0.975],
    [0.0, -0.55, 0.2, 0.975],
];

const SIMPLE_ADDED_DISCS: [[f64; 3]; 9] = [
    [-0.15, 0.15, 0.05],
    [-0.075, -0.85, 0.1],
    [-0.1, -0.1, 0.1],
    [0.45, -0.1, 0.1],
    [0.5, 0.35, 0.1],
    [-0.6, -0.85, 0.1],
    [0.05, 0.85, 0.1],
    [-0.8, 0.15, 0.1],
    [0.8, -0.8, 0.1],
];

const SIMPLE_ADDED_BOXES: [[f64; 4]; 3] = [
    [0.45, -0.1, 0.2, 0.2],
    [-0.25, -0.5, 0.15, 0.15],
    [0.8, 0.1, 0.15, 0.15],
];

const DENSE_ADDED_DISCS: [[f64; 3]; 3] = [
    [-0.4, 0.1, 0.075],
    [-0.075, -0.85, 0.1],
    [-0.1, -0.1, 0.075],
];

const DENSE_ADDED_BOXES: [[f64; 4]; 4] = [
    [0.45, -0.1, 0.2, 0.2],
    [0.35, 0.35, 0.1, 0.15],
    [-0.6, -0.85, 0.1, 0.25],
    [-0.65, -0.25, 0.15, 0.1],
];

const NARROW_ADDED_DISCS: [[f64; 3]; 8] = [
    [-0.45, 0.2, 0.1],
    [-0.5, -0.4, 0.1],
    [0.6, -0.4, 0.1],
    [0.35, 0.35, 0.1],
    [0.4, -0.7, 0.1],
    [-0.65, 0.7, 0.075],
    [-0.225, 0.35, 0.075],
    [0.6, -0.1, 0.05],
];

const NARROW_ADDED_BOXES: [[f64; 4]; 6] = [
    [0.2, -0.9, 0.125, 0.125],
    [0.9, 0.1, 0.125, 0.125],
    [0.35, 0.35, 0.1, 0.15],
    [-0.6, -0.85, 0.15, 0.15],
    [-0.7, -0.25, 0.1, 0.1],
    [-0.9, 0.25, 0.125, 0.125],
];
