//! D4RL's own controller, from which its data come.

use std::collections::VecDeque;
use std::time::Duration;

use clearway_motion::{Interpolation, Trajectory, TrajectoryError};
use ndarray::Array2;

use super::{Layout, Maze2D, Observation};
use crate::numpy::Generator;

/// Within this of a waypoint, m, and with the last displacement below it, it is reached.
const REACHED: f64 = 0.1;

/// D4RL's `WaypointController`: the shortest way over cells, followed by a proportional-derivative law.
///
/// ```text
/// u = clip(10 (w − q) − v, −1, 1)
/// ```
///
/// `w` is the next cell of the way, each shifted by U(−0.2, 0) in x and y, except the last. The next waypoint comes when the
/// ball is within 0.1 m of this one and moved less than 0.1 m in the last step; the target is reached likewise.
/// D4RL finds the way by Q-iteration over the cells; that is the shortest way, where several are shortest the first of
/// (−y, +y, −x, +x) at each cell.
#[derive(Debug, Clone)]
pub struct WaypointController {
    layout: Layout,
    waypoints: Vec<[f64; 2]>,
    next: usize,
    target: [usize; 2],
    previous: [f64; 2],
}

impl WaypointController {
    /// A controller from a position towards the cell of a target; both as D4RL rounds them to cells.
    ///
    /// `None` if there is no way, such as from inside a wall. The jitter of the waypoints follows from the seed.
    pub fn new(layout: Layout, position: [f64; 2], target: [f64; 2], seed: u64) -> Option<Self> {
        Self::drawn(layout, position, target, &mut Generator::new(seed))
    }

    fn drawn(
        layout: Layout,
        position: [f64; 2],
        target: [f64; 2],
        draw: &mut Generator,
    ) -> Option<Self> {
        let [start, goal] = [position, target].map(|at| {
            // Python's rounding, halves to even.
            at.map(|x| x.round_ties_even().max(0.0) as usize)
        });
        let distances = distances(layout, goal);
        let at = |[i, j]: [usize; 2]| *distances.get(i)?.get(j)?;
        at(start)?;
        let mut waypoints = Vec::new();
        let mut cell = start;
        while cell != goal {
            let nearer = neighbours(cell).filter_map(|it| at(it).map(|distance| (it, distance)));
            // The first of equals.
            cell = nearer.min_by_key(|&(_, distance)| distance)?.0;
            let jitter = if cell == goal {
                [0.0; 2]
            } else {
                [(); 2].map(|()| 0.2 * draw.uniform(0.0, 1.0))
            };
            waypoints.push([0, 1].map(|axis: usize| cell[axis] as f64 - jitter[axis]));
        }
        if waypoints.is_empty() {
            waypoints.push(goal.map(|it| it as f64));
        }
        Some(Self {
            layout,
            waypoints,
            next: 0,
            target: goal,
            previous: start.map(|it| it as f64),
        })
    }

    /// The action at a position and a velocity, and whether the target's cell is reached.
    pub fn act(&mut self, position: [f64; 2], velocity: [f64; 2]) -> ([f64; 2], bool) {
        let target = self.target.map(|it| it as f64);
        let moved = distance(self.previous, position);
        let solved = distance(position, target) < REACHED && moved < REACHED;
        let waypoint = if solved {
            target
        } else {
            self.waypoints[self.next]
        };
        let mut action = [0.0; 2];
        for j in 0..2 {
            action[j] = (10.0 * (waypoint[j] - position[j]) - velocity[j]).clamp(-1.0, 1.0);
        }
        let reached = distance(position, waypoint) < REACHED && moved < REACHED;
        if !solved && reached {
            self.next = (self.next + 1).min(self.waypoints.len() - 1);
        }
        self.previous = position;
        (action, solved)
    }

    /// The waypoints, the target's cell last: m.
    pub fn waypoints(&self) -> &[[f64; 2]] {
        &self.waypoints
    }

    /// The maze.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// The number of moves from each cell to the goal; `None` for walls and what is cut off.
fn distances(layout: Layout, goal: [usize; 2]) -> Vec<Vec<Option<u32>>> {
    let [rows, columns] = layout.size();
    let mut distances = vec![vec![None; columns]; rows];
    let inside = |[i, j]: [usize; 2]| i < rows && j < columns && !layout.is_wall(i, j);
    if !inside(goal) {
        return distances;
    }
    distances[goal[0]][goal[1]] = Some(0);
    let mut waiting = VecDeque::from([(goal, 0)]);
    while let Some((cell, distance)) = waiting.pop_front() {
        for [i, j] in neighbours(cell) {
            if inside([i, j]) && distances[i][j].is_none() {
                distances[i][j] = Some(distance + 1);
                waiting.push_back(([i, j], distance + 1));
            }
        }
    }
    distances
}

/// In the order of D4RL's moves: −y, +y, −x, +x.
fn neighbours([i, j]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    let before = |at: usize| at.checked_sub(1);
    let all = [
        before(j).map(|j| [i, j]),
        Some([i, j + 1]),
        before(i).map(|i| [i, j]),
        Some([i + 1, j]),
    ];
    all.into_iter().flatten()
}

fn distance(one: [f64; 2], other: [f64; 2]) -> f64 {
    let [x, y] = [one[0] - other[0], one[1] - other[1]];
    (x * x + y * y).sqrt()
}

/// One step of a demonstration.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Frame {
    /// What is seen before the action.
    pub observation: Observation,
    /// What was done.
    pub action: [f64; 2],
    /// Where the ball was to go.
    pub target: [f64; 2],
    /// Whether a new target comes next: this one is reached, or the published episode's limit is.
    pub done: bool,
}

/// D4RL's demonstrations without end: the controller goes to one random target after the other, and the ball is never put
/// back.
///
/// D4RL's own generator forgets to look at the ball once after each target and acts on what it saw before; this does not.
///
/// ```
/// use clearway_sim::{Expert, Layout};
///
/// let reached = Expert::new(Layout::U, 1).take(2000).filter(|frame| frame.done).count();
/// assert!(reached > 5);
/// ```
#[derive(Debug, Clone)]
pub struct Expert {
    world: Maze2D,
    controller: WaypointController,
    draw: Generator,
    /// Standard deviation of what is added to actions.
    noise: f64,
    /// Since the last target came.
    steps: usize,
}

impl Expert {
    /// Demonstrations of one seed.
    pub fn new(layout: Layout, seed: u64) -> Self {
        let mut draw = Generator::new(seed);
        let world = Maze2D::drawn(layout, &mut draw);
        let mut expert = Self {
            controller: WaypointController {
                layout,
                waypoints: vec![world.target],
                next: 0,
                target: [0, 0],
                previous: world.position,
            },
            world,
            draw,
            noise: 0.0,
            steps: 0,
        };
        expert.aim();
        expert
    }

    /// The same with noise on every action, before it is clipped: `0.5` in D4RL's `-noisy` data, `0` by default.
    #[must_use]
    pub fn with_noise(mut self, deviation: f64) -> Self {
        self.noise = deviation;
        self
    }

    /// A new target and the way there.
    fn aim(&mut self) {
        let layout = self.world.layout;
        self.steps = 0;
        self.world.target = layout.draw_cell(&mut self.draw);
        let (position, target) = (self.world.position, self.world.target);
        // All free cells are connected; a ball that is pressed around a corner may round to a wall, and then it goes on
        // as it did.
        if let Some(controller) =
            WaypointController::drawn(layout, position, target, &mut self.draw)
        {
            self.controller = controller;
        }
    }
}

impl Iterator for Expert {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let observation = self.world.observation();
        let (mut action, solved) = self
            .controller
            .act(observation.position, observation.velocity);
        if self.noise > 0.0 {
            action = action.map(|u| (u + self.noise * self.draw.normal()).clamp(-1.0, 1.0));
        }
        let done = solved || self.steps >= self.world.layout.episode_steps();
        let frame = Frame {
            observation,
            action,
            target: self.world.target,
            done,
        };
        // The controller's actions are finite, and so is what noise makes of them.
        self.world.step(action).ok()?;
        self.steps += 1;
        if done {
            self.aim();
        }
        Some(frame)
    }
}

/// Diffuser's law for following a plan: the action from a state towards the plan's next one, both x, y and velocities.
///
/// ```text
/// u = (q_next − q) + (v_next − v)
/// ```
///
/// At the end of a plan its last state with no velocity stands for the next one. The world clips the action.
///
/// Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, its code for Maze2D.
pub fn tracking_action(state: [f64; 4], next: [f64; 4]) -> [f64; 2] {
    [0, 1].map(|j: usize| (next[j] - state[j]) + (next[j + 2] - state[j + 2]))
}

/// One demonstration: from a random start to a random target, both of the seed, with a waypoint each 0.01 s.
///
/// # Errors
///
/// [`TrajectoryError`], which the worlds here do not produce.
pub fn expert(layout: Layout, seed: u64) -> Result<Trajectory, TrajectoryError> {
    let mut positions = Vec::new();
    let mut velocities = Vec::new();
    for frame in Expert::new(layout, seed) {
        positions.extend(frame.observation.position);
        velocities.extend(frame.observation.velocity);
        if frame.done {
            break;
        }
    }
    let rows =
        |values: Vec<f64>| Array2::from_shape_fn((values.len() / 2, 2), |(i, j)| values[2 * i + j]);
    let period = Duration::from_millis(10);
    let path = Trajectory::uniform(
        Duration::ZERO,
        period,
        rows(positions),
        Interpolation::Cubic,
    )?;
    path.with_velocities(rows(velocities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clearway_motion::FreeSpace;

    #[test]
    fn ways_are_shortest_and_turn_as_d4rls_do() {
        // Around the U: (3, 1) → (3, 2) → (3, 3) → (2, 3) → (1, 3) → (1, 2) → (1, 1).
        let controller = WaypointController::new(Layout::U, [3.1, 0.9], [1.0, 1.0], 0);
        let waypoints = controller.expect("there is a way").waypoints().to_vec();
        let cells = [[3, 2], [3, 3], [2, 3], [1, 3], [1, 2], [1, 1]];
        assert_eq!(waypoints.len(), cells.len());
        for (at, cell) in waypoints.iter().zip(cells) {
            for j in 0..2 {
                let shift = f64::from(cell[j]) - at[j];
                assert!((0.0..0.2).contains(&shift));
            }
        }
        assert!(distance(waypoints[5], [1.0, 1.0]) <= 0.0);
        assert!(WaypointController::new(Layout::U, [0.0, 0.0], [1.0, 1.0], 0).is_none());
        assert!(WaypointController::new(Layout::U, [1.0, 1.0], [90.0, 1.0], 0).is_none());
    }

    #[test]
    fn demonstrations_reach_their_targets_without_passing_through_walls() {
        for layout in Layout::ALL {
            let (scene, limits) = (
                layout.scene().expect("a map"),
                layout.limits().expect("valid"),
            );
            let body = layout.body().expect("a disc");
            // Walls give way by less than a centimetre, at full speed.
            let free = FreeSpace::new(&body, &scene, &limits)
                .expect("the dimensions agree")
                .with_margin(-0.01);
            let mut reached = 0;
            for seed in 0..50 {
                let path = expert(layout, seed).expect("finite");
                assert_eq!(free.check_trajectory(&path), Ok(()), "{layout:?} {seed}");
                reached += usize::from(path.len() <= layout.episode_steps());
            }
            // Some jitters make it wait at a corner until its time is over.
            assert!(reached >= 40, "{layout:?}: {reached}");
        }
    }

    /// The mean score of D4RL's controller: a new one for each episode, or the first one's for all.
    fn mean_score(layout: Layout, new: bool) -> f64 {
        let episodes = 500;
        let mut kept: Option<WaypointController> = None;
        let mut sum = 0.0;
        for seed in 0..episodes {
            let mut world = Maze2D::reset(layout, seed);
            let at = world.observation().position;
            let mut controller = match kept.take() {
                Some(controller) if !new => controller,
                _ => WaypointController::new(layout, at, world.target(), seed)
                    .expect("free cells are connected"),
            };
            let mut total = 0.0;
            for _ in 0..layout.episode_steps() {
                let seen = world.observation();
                let (action, _) = controller.act(seen.position, seen.velocity);
                total += world.step(action).expect("finite").reward;
            }
            sum += layout.normalized_score(total);
            kept = Some(controller);
        }
        sum / episodes as f64
    }

    #[test]
    fn the_reference_controller_scores_what_d4rl_says() {
        // D4RL's upper reference is the mean return of one controller over 100 episodes with one target. It plans when the
        // target changes, so that after the first episode it pushes straight at the goal, through walls if it could. A
        // controller that plans in each episode scores far more than 100.
        for layout in Layout::ALL {
            let [kept, new] = [false, true].map(|new| mean_score(layout, new));
            // Returns spread by some 100: the mean of D4RL's 100 is known to 10, which is 8 of the U's score.
            assert!((kept - 100.0).abs() < 25.0, "{layout:?}: {kept}");
            assert!(new > 110.0, "{layout:?}: {new}");
        }
    }

    #[test]
    fn a_demonstration_is_followed_by_its_own_states() {
        let path = expert(Layout::Medium, 8).expect("finite");
        let state = |i: usize| {
            let (q, v) = (
                path.positions().row(i).to_vec(),
                path.velocities().row(i).to_vec(),
            );
            [q[0], q[1], v[0], v[1]]
        };
        let mut world = Maze2D::at_state(Layout::Medium, state(0)).expect("finite");
        for i in 1..path.len() {
            let action = tracking_action(world.observation().state(), state(i));
            world.step(action).expect("finite");
        }
        let end = world.observation().position;
        let goal = path.positions().row(path.len() - 1).to_vec();
        // A weak law: it lags behind by some tenths of a metre.
        assert!(distance(end, [goal[0], goal[1]]) < 0.5, "{end:?} {goal:?}");
    }

    #[test]
    fn the_same_seed_demonstrates_the_same() {
        let frames = |seed| {
            Expert::new(Layout::Medium, seed)
                .with_noise(0.5)
                .take(500)
                .collect::<Vec<_>>()
        };
        assert_eq!(frames(4), frames(4));
        assert_ne!(frames(4), frames(5));
    }
}
