//! Signal falls and noise rises with time on every schedule, on its line, to the ends that it states.

use clearway_diffusion::{Cosine, Discrete, Edm, Exploding, FlowMatching, Level, Line, Schedule};

fn schedules() -> Vec<Box<dyn Schedule>> {
    let robot = Discrete::squared_cosine(100).expect("valid");
    let stable_diffusion = Discrete::scaled_linear(1000, 0.00085, 0.012).expect("valid");
    vec![
        Box::new(Exploding(robot.clone())),
        Box::new(robot.with_zero_terminal_snr().expect("long enough")),
        Box::new(robot),
        Box::new(stable_diffusion),
        Box::new(Discrete::linear(1000, 1e-4, 0.02).expect("valid")),
        Box::new(Cosine),
        Box::new(FlowMatching::new(1000.0, 3.0).expect("valid")),
        Box::new(Edm::new(0.002, 80.0).expect("valid")),
    ]
}

#[test]
fn the_ratio_rises_strictly_and_levels_lie_on_their_line() {
    for schedule in schedules() {
        let (start, end) = (*schedule.domain().start(), *schedule.domain().end());
        let levels: Vec<Level> = (0..=997)
            .map(|i| schedule.level(start + (end - start) * f64::from(i) / 997.0))
            .collect();
        for pair in levels.windows(2) {
            assert!(pair[1].ratio() > pair[0].ratio(), "{schedule:?}: {pair:?}");
        }
        for level in levels {
            assert!(level.alpha >= 0.0 && level.sigma >= 0.0 && level.sigma.is_finite());
            assert!(
                (schedule.line().norm(level) - 1.0).abs() < 1e-12,
                "{schedule:?}: {level:?}"
            );
        }
    }
}

#[test]
fn ends_are_where_they_are_stated() {
    assert_eq!(Cosine.level(0.0), Level::CLEAN);
    let noise = Level {
        alpha: 0.0,
        sigma: 1.0,
    };
    assert_eq!(Cosine.level(1.0), noise);
    let flow = FlowMatching::new(1.0, 1.0).expect("valid");
    assert_eq!((flow.level(0.0), flow.level(1.0)), (Level::CLEAN, noise));
    let edm = Edm::new(0.002, 80.0).expect("valid");
    assert!((edm.level(*edm.domain().end()).sigma - 80.0).abs() < 1e-12);
    for line in [Line::Preserving, Line::Exploding, Line::Straight] {
        assert_eq!(line.level(0.0), Level::CLEAN);
    }
}
