//! `clearway distill`: a policy from a policy, or a model of pictures from one.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_planner::train::{
    AverageRecipe, DistillRecipe, Distillation, Distiller, OptimizerRecipe, StudentRecipe,
};
use clearway_stable_diffusion::PictureModel;
use clearway_stable_diffusion::dataset::{Pictures, Split};
use clearway_stable_diffusion::train::distill as pictures;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Verdict;
use crate::error::Error;
use crate::train::config::{Data, Run, read};
use crate::train::course;
use crate::train::run::PictureStudent;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Who shall learn what, on what, how and for how long
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The policy or the model of pictures to learn from, in place of the one that the file names
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

/// What a file says of whom it is about, and what it may say besides.
#[derive(Clone, Debug, Deserialize)]
struct Head {
    /// The folder of who teaches.
    teacher: Option<PathBuf>,
}

/// What a file may say; what it leaves out is the default. What a student may be, `S`, depends on its teacher.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, bound = "S: Default + DeserializeOwned")]
struct Config<S> {
    #[serde(default)]
    seed: u64,
    /// As in [`Head`].
    #[serde(default, rename = "teacher")]
    _teacher: Option<PathBuf>,
    run: Run,
    data: Data,
    #[serde(default)]
    student: S,
    distill: DistillRecipe,
    #[serde(default)]
    optimizer: OptimizerRecipe,
    #[serde(default)]
    average: AverageRecipe,
}

impl<S: Default + DeserializeOwned> Config<S> {
    /// Reads a file, and what is said in place of it.
    fn read(arguments: &Arguments) -> Result<Self, Error> {
        let path = &arguments.config;
        let mut config: Self = read(path)?;
        if let Some(data) = &arguments.data {
            config.data.folder.clone_from(data);
        }
        if let Some(output) = &arguments.output {
            config.run.output.clone_from(output);
        }
        config.run.check(path)?;
        Ok(config)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let path = &arguments.config;
    let head: Head = read(path)?;
    let Some(teacher) = arguments.teacher.as_ref().or(head.teacher.as_ref()) else {
        return Err(Error::ConfigValue {
            path: path.clone(),
            key: "teacher",
            expected: "the folder of a policy or of a model of pictures, or given with --teacher",
        });
    };
    if !teacher.is_dir() {
        return Err(Error::NoTeacher(teacher.clone()));
    }
    if PictureModel::is_in(teacher) {
        of_pictures(arguments, teacher)
    } else {
        of_policies(arguments, teacher)
    }
}

fn of_policies(arguments: &Arguments, teacher: &Path) -> Result<Verdict, Error> {
    let config = Config::<StudentRecipe>::read(arguments)?;
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

fn of_pictures(arguments: &Arguments, teacher: &Path) -> Result<Verdict, Error> {
    let config = Config::<pictures::StudentRecipe>::read(arguments)?;
    let checkpoint = course::checkpoint(&config.run, arguments.resume)?;
    let recipe = pictures::Distillation {
        seed: config.seed,
        student: config.student,
        data: config.data.recipe_of_pictures(&arguments.config)?,
        distill: config.distill,
        optimizer: config.optimizer,
        average: config.average,
    };
    let (device, total) = (Device::flex(), recipe.optimizer.steps);
    let failed = |error| Error::TrainPictures(Box::new(error));
    let read = Pictures::open(&config.data.folder, Split::Train);
    let read = read.map_err(|error| failed(error.into()))?;
    let distiller = if arguments.resume {
        pictures::Distiller::resume(recipe, teacher, read, &checkpoint, &device)
    } else {
        pictures::Distiller::new(recipe, teacher, read, &device)
    };
    let mut student = PictureStudent(distiller.map_err(failed)?);
    course::follow(
        &mut student,
        &config.run,
        arguments.record.as_deref(),
        total,
    )
}
