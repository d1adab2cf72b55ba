//! How an episode is laid out on the screen.

use rerun::blueprint::components::{PanelState, PlayState};
use rerun::blueprint::{
    Blueprint, BlueprintPanel, ContainerLike, Horizontal, SelectionPanel, Spatial2DView,
    StateTimelineView, TextDocumentView, TimePanel, TimeSeriesView, Vertical,
};

use crate::timeline;

/// The layout of ways that are planned.
///
/// ```text
/// +----------------+----------------+
/// |  plan          |  denoising     |
/// +----------------+----------------+
/// |  why           |
/// +----------------+
/// ```
///
/// | path | what | in |
/// |---|---|---|
/// | `world/**` | obstacles, start and goal | both |
/// | `plan/**` | candidates, what blocks them, the motion | plan |
/// | `denoising/**` | all candidates after a pass | denoising |
/// | `decision` | what came of it | why |
pub fn paths_blueprint() -> Blueprint {
    let plan: ContainerLike = Spatial2DView::new("plan")
        .with_contents(["/world/**", "/plan/**"])
        .into();
    let denoising: ContainerLike = Spatial2DView::new("denoising")
        .with_contents(["/world/**", "/denoising/**"])
        .into();
    let why: ContainerLike = TextDocumentView::new("why").with_origin("decision").into();
    let views = Horizontal::new([plan, denoising]);
    Blueprint::new(Vertical::new([views.into(), why]).with_row_shares([5.0, 1.0]))
        .with_time_panel(TimePanel::new().with_timeline(timeline::DENOISING))
}

/// The layout of a PushT episode, or of any other in the plane.
///
/// ```text
/// +---------------------+-----------+----------+
/// |                     | denoising | decision |
/// |                     +-----------+----------+
/// |   scene and plans   | coverage             |
/// |                     +----------------------+
/// |                     | latency              |
/// +---------------------+----------------------+
/// ```
///
/// It shows what is logged under these paths:
///
/// | path | what | in |
/// |---|---|---|
/// | `world/**` | everything that is there | scene |
/// | `world/walls`, `world/goal`, `world/agent` | of that, what a plan is seen against | scene, denoising |
/// | `plan/**` | candidates, the chosen plan | scene |
/// | `denoising/**` | all estimates of the newest plan, and the current one | denoising |
/// | `metrics/score/**` | coverage, reward, the threshold of success | coverage |
/// | `metrics/latency/**` | milliseconds a plan, the deadline | latency |
/// | `decision` | why this plan | decision |
///
/// The viewer opens on [`timeline::CONTROL`] and follows it: a recording stands at its end, a live episode at its
/// newest step. (Paused, rerun 0.36 always opens at the first time, when nothing has been planned yet.)
pub fn pusht_blueprint() -> Blueprint {
    let scene: ContainerLike = Spatial2DView::new("scene and plans")
        .with_contents(["/world/**", "/plan/**"])
        .into();
    let denoising: ContainerLike = Spatial2DView::new("denoising")
        .with_contents([
            "/world/walls/**",
            "/world/goal/**",
            "/world/agent/**",
            "/denoising/**",
        ])
        .into();
    let decision: ContainerLike = TextDocumentView::new("decision")
        .with_origin("decision")
        .into();
    let score: ContainerLike = TimeSeriesView::new("coverage")
        .with_origin("metrics/score")
        .into();
    let latency: ContainerLike = TimeSeriesView::new("latency, ms a plan")
        .with_origin("metrics/latency")
        .into();

    let newest = Horizontal::new([denoising, decision]).with_column_shares([5.0, 4.0]);
    let side = Vertical::new([newest.into(), score, latency]).with_row_shares([9.0, 5.0, 5.0]);
    let all = Horizontal::new([scene, side.into()]).with_column_shares([1.0, 1.0]);

    following(all)
}

/// The layout of a training run: loss, gradient and learning rate against steps.
///
/// It shows what is logged under `training/loss/**`, on a logarithm's axis, `training/norm` and `training/rate`, on
/// [`timeline::STEP`].
pub fn training_blueprint() -> Blueprint {
    let view = |name: &str, origin: &str| -> ContainerLike {
        TimeSeriesView::new(name).with_origin(origin).into()
    };
    let all = Vertical::new([
        view("log₁₀ of the loss", "training/loss"),
        view("norm of the gradient", "training/norm"),
        view("learning rate", "training/rate"),
    ])
    .with_row_shares([3.0, 1.0, 1.0]);
    Blueprint::new(all).with_time_panel(TimePanel::new().with_timeline(timeline::STEP))
}

/// The layout of a control loop in the plane, in which plans take over from each other.
///
/// ```text
/// +---------------------+----------------------+
/// |                     | decision             |
/// |                     +----------------------+
/// |   scene and plans   | status, verdict      |
/// |                     +----------------------+
/// |                     | latency              |
/// |                     +----------------------+
/// |                     | coverage             |
/// +---------------------+----------------------+
/// ```
///
/// It shows what is logged under these paths:
///
/// | path | what | in |
/// |---|---|---|
/// | `world/**` | everything that is there | scene |
/// | `plan/**` | candidates, the [chunk](crate::chunk), its [hand-over](crate::hand_over) | scene |
/// | `decision` | what was decided, and why | decision |
/// | `loop/**` | the status of the commands, the verdict on each plan: [states](crate::states) | status |
/// | `metrics/latency/**` | milliseconds a plan, the time that is committed | latency |
/// | `metrics/score/**` | coverage, reward, the threshold of success | coverage |
pub fn control_loop_blueprint() -> Blueprint {
    let scene: ContainerLike = Spatial2DView::new("scene and plans")
        .with_contents(["/world/**", "/plan/**"])
        .into();
    let decision: ContainerLike = TextDocumentView::new("decision")
        .with_origin("decision")
        .into();
    let status: ContainerLike =
        StateTimelineView::new("status of the commands, verdict on the plans")
            .with_origin("loop")
            .into();
    let latency: ContainerLike = TimeSeriesView::new("latency, ms a plan")
        .with_origin("metrics/latency")
        .into();
    let score: ContainerLike = TimeSeriesView::new("coverage")
        .with_origin("metrics/score")
        .into();
    let side =
        Vertical::new([decision, status, latency, score]).with_row_shares([8.0, 5.0, 5.0, 5.0]);
    following(Horizontal::new([scene, side.into()]).with_column_shares([1.0, 1.0]))
}

/// Nothing but the views, and the newest time.
fn following(all: Horizontal) -> Blueprint {
    Blueprint::new(all)
        .with_auto_views(false)
        .with_blueprint_panel(BlueprintPanel::from_state(PanelState::Hidden))
        .with_selection_panel(SelectionPanel::from_state(PanelState::Hidden))
        .with_time_panel(
            TimePanel::new()
                .with_state(PanelState::Collapsed)
                .with_timeline(timeline::CONTROL)
                .with_play_state(PlayState::Following),
        )
}
