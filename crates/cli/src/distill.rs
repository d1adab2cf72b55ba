//! `clearway distill`: a policy from a policy.

use std::path::PathBuf;

use burn::tensor::Device;
use clearway_planner::train::{
    AverageRecipe, DistillRecipe, Distillation, Distiller, OptimizerRecipe, StudentRecipe,
};
use serde::Deserialize;

use crate::Verdict;
use crate::error::Error;
use crate::train::config::{Data, Run, read};
use crate::train::course;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Who shall learn what, on what, how and for how long
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The policy to learn from, in place of the one that the file names
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// The dataset, in place of the one that the file names
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the run is written, in place of what the file says
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the run in the output folder
    #[arg(long)]
    resume: bool,
    /// Record the curve for rerun, besides `curve.csv`: a .rrd file, or the rerun+http:// address of a viewer that runs
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
}

/// What a file may say; what it leaves out is the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    seed: u64,
    /// The folder of the policy to learn from.
    teacher: Option<PathBuf>,
    run: Run,
    data: Data,
    #[serde(default)]
    student: StudentRecipe,
    distill: DistillRecipe,
    #[serde(default)]
    optimizer: OptimizerRecipe,
    #[serde(default)]
    average: AverageRecipe,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let path = &arguments.config;
    let mut config: Config = read(path)?;
    if let Some(data) = &arguments.data {
        config.data.folder.clone_from(data);
    }
    if let Some(output) = &arguments.output {
        config.run.output.clone_from(output);
    }
    config.run.check(path)?;
    let Some(teacher) = arguments.teacher.as_ref().or(config.teacher.as_ref()) else {
        return Err(Error::ConfigValue {
            path: path.clone(),
            key: "teacher",
            expected: "the folder of a policy, or given with --teacher",
        });
    };
    if !teacher.is_dir() {
        return Err(Error::NoTeacher(teacher.clone()));
    }
    let checkpoint = course::checkpoint(&config.run, arguments.resume)?;
    let recipe = Distillation {
        seed: config.seed,
        student: config.student,
        data: config.data.recipe(),
        distill: config.distill,
        optimizer: config.optimizer,
        average: config.average,
    };
    let (folder, device, total) = (&config.data.folder, Device::flex(), recipe.optimizer.steps);
    let distiller = if arguments.resume {
        Distiller::resume(recipe, teacher, folder, &checkpoint, &device)
    } else {
        Distiller::new(recipe, teacher, folder, &device)
    };
    let mut distiller = distiller.map_err(Error::train)?;
    course::follow(
        &mut distiller,
        &config.run,
        arguments.record.as_deref(),
        total,
    )
}
