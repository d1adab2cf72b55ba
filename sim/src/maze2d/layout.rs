//! D4RL's three mazes.

use clearway_motion::{
    BodyError, Limits, LimitsError, Obstacle, OccupancyGrid, Scene, SceneError, Translating,
};

use super::contact::ORIGIN;
use super::{GEAR, MASS, MAX_SPEED, RADIUS};
use crate::numpy::Generator;

/// A maze of D4RL.
///
/// `#` is a wall, `O` is free and `G` is free and the goal; a row is x, a column y.
///
/// ```text
/// U         medium       large
/// #####     ########     ############
/// #GOO#     #OO##OO#     #OOOO#OOOOO#
/// ###O#     #OO#OOO#     #O##O#O#O#O#
/// #OOO#     ##OOO###     #OOOOOO#OOO#
/// #####     #OO#OOO#     #O####O###O#
///           #O#OO#O#     #OO#O#OOOOO#
///           #OOO#OG#     ##O#O#O#O###
///           ########     #OO#OOO#OGO#
///                        ############
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `maze2d-umaze-v1`.
    U,
    /// `maze2d-medium-v1`.
    Medium,
    /// `maze2d-large-v1`.
    Large,
}

const U: [&str; 5] = ["#####", "#GOO#", "###O#", "#OOO#", "#####"];

const MEDIUM: [&str; 8] = [
    "########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########",
];

const LARGE: [&str; 9] = [
    "############",
    "#OOOO#OOOOO#",
    "#O##O#O#O#O#",
    "#OOOOOO#OOO#",
    "#O####O###O#",
    "#OO#O#OOOOO#",
    "##O#O#O#O###",
    "#OO#OOO#OGO#",
    "############",
];

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::U, Self::Medium, Self::Large];

    /// The map: one string a row, one character a cell.
    pub fn rows(self) -> &'static [&'static str] {
        match self {
            Self::U => &U,
            Self::Medium => &MEDIUM,
            Self::Large => &LARGE,
        }
    }

    /// The number of rows and of columns.
    pub fn size(self) -> [usize; 2] {
        let rows = self.rows();
        [rows.len(), rows[0].len()]
    }

    /// Whether the cell in a row and a column is a wall; there are none outside of the map.
    pub fn is_wall(self, row: usize, column: usize) -> bool {
        self.tile(row, column) == Some(b'#')
    }

    fn tile(self, row: usize, column: usize) -> Option<u8> {
        self.rows().get(row)?.as_bytes().get(column).copied()
    }

    /// The cells without a wall, row by row and the goal last, as D4RL draws from them.
    pub fn free_cells(self) -> Vec<[usize; 2]> {
        let [rows, columns] = self.size();
        let cells = (0..rows).flat_map(|i| (0..columns).map(move |j| [i, j]));
        let (mut free, goal): (Vec<_>, Vec<_>) = cells
            .filter(|&[i, j]| !self.is_wall(i, j))
            .partition(|&[i, j]| self.tile(i, j) != Some(b'G'));
        free.extend(goal);
        free
    }

    /// The position of the goal's cell: m.
    pub fn goal(self) -> [f64; 2] {
        let free = self.free_cells();
        // Every map has its goal, and it is the last.
        free[free.len() - 1].map(|it| it as f64)
    }

    /// A free cell's position + U(−0.1, 0.1).
    pub(super) fn draw_cell(self, draw: &mut Generator) -> [f64; 2] {
        let free = self.free_cells();
        let cell = free[draw.integers(0, free.len() as u32) as usize];
        cell.map(|it| it as f64 + draw.uniform(-0.1, 0.1))
    }

    /// The published episode's limit, in actions of 0.01 s: 300, 600 and 800. A [`Maze2D`](super::Maze2D) itself has none.
    pub fn episode_steps(self) -> usize {
        match self {
            Self::U => 300,
            Self::Medium => 600,
            Self::Large => 800,
        }
    }

    /// D4RL's mean returns of a random policy and of its controller, between which scores are normalized.
    ///
    /// The upper one is of one [`WaypointController`](super::WaypointController) over 100 episodes with one target. It plans
    /// when its target changes, which after the first episode it does not, so that it pushes straight at the goal. One that
    /// plans in each episode scores far above 100: `cargo bench -p clearway-sim` says how far.
    pub fn reference_returns(self) -> [f64; 2] {
        match self {
            Self::U => [23.85, 161.86],
            Self::Medium => [13.13, 277.39],
            Self::Large => [6.7, 273.99],
        }
    }

    /// D4RL's score of an episode's sum of rewards: `100 (R − lo) / (hi − lo)`.
    pub fn normalized_score(self, total_reward: f64) -> f64 {
        let [low, high] = self.reference_returns();
        100.0 * (total_reward - low) / (high - low)
    }

    /// The horizon of Diffuser's plans in this maze, in actions: 128, 256 and 384.
    ///
    /// Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, and its code.
    pub fn horizon(self) -> usize {
        match self {
            Self::U => 128,
            Self::Medium => 256,
            Self::Large => 384,
        }
    }

    /// The walls as a map for planning, in positions: m.
    ///
    /// # Errors
    ///
    /// None of the three mazes has one; the constructors of a scene check.
    pub fn scene(self) -> Result<Scene, SceneError> {
        let [rows, columns] = self.size();
        // Positions count rows along x.
        let cells = (0..columns).flat_map(|j| (0..rows).map(move |i| self.is_wall(i, j)));
        let map = OccupancyGrid::new([ORIGIN; 2], 1.0, rows, cells.collect())?;
        Ok(Scene::new().with(Obstacle::grid(map)))
    }

    /// The ball, as a body for planning.
    ///
    /// # Errors
    ///
    /// None; the constructor of a body checks.
    pub fn body(self) -> Result<Translating, BodyError> {
        Translating::disc(RADIUS)
    }

    /// The extent of the map, the largest speed with which a step begins, and what the motors can do at rest: `100 / m`.
    ///
    /// # Errors
    ///
    /// None; the constructors of limits check.
    pub fn limits(self) -> Result<Limits, LimitsError> {
        let upper = self.size().map(|cells| ORIGIN + cells as f64);
        Limits::unlimited(2)
            .with_position(&[ORIGIN; 2], &upper)?
            .with_velocity(&[MAX_SPEED; 2])?
            .with_acceleration(&[GEAR / MASS; 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_rectangles_with_walls_around() {
        for layout in Layout::ALL {
            let [rows, columns] = layout.size();
            for (i, row) in layout.rows().iter().enumerate() {
                assert_eq!(row.len(), columns);
                for j in 0..columns {
                    let rim = i == 0 || j == 0 || i == rows - 1 || j == columns - 1;
                    assert!(!rim || layout.is_wall(i, j));
                }
            }
            let goals: usize = layout
                .rows()
                .iter()
                .map(|row| row.matches('G').count())
                .sum();
            assert_eq!(goals, 1);
        }
        assert_eq!(
            Layout::ALL.map(Layout::goal),
            [[1.0, 1.0], [6.0, 6.0], [7.0, 9.0]]
        );
        assert_eq!(Layout::ALL.map(|it| it.free_cells().len()), [7, 26, 46]);
    }

    #[test]
    fn scores_are_d4rls() {
        for layout in Layout::ALL {
            let [low, high] = layout.reference_returns();
            assert!((layout.normalized_score(low)).abs() < 1e-12);
            assert!((layout.normalized_score(high) - 100.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_scene_is_where_the_walls_push() {
        use nalgebra::Vector3;
        for layout in Layout::ALL {
            let scene = layout.scene().expect("a map");
            let [rows, columns] = layout.size();
            for i in 0..rows {
                for j in 0..columns {
                    // The middle of a cell is a fifth of a metre off its target.
                    let middle = Vector3::new(i as f64 - 0.2, j as f64 - 0.2, 0.0);
                    let distance = scene.distance(&middle);
                    assert!(distance.abs() > 0.5 - 1e-12);
                    assert_eq!(distance < 0.0, layout.is_wall(i, j));
                }
            }
        }
    }
}
