//! `clearway train`, `clearway distill` and `clearway data`: what they write, and how they fail.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn clearway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clearway"));
    command.args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn dataset() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/lerobot/dataset_v30");
    path.to_str().unwrap().to_owned()
}

/// A folder of this test binary's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A run of some steps of a network of some thousand parameters.
fn config(folder: &Path, steps: u64) -> String {
    let text = format!(
        "[run]\noutput = {:?}\nlog_every = 2\nvalidate_every = 5\nsave_every = 4\n\
         [data]\nfolder = {:?}\nbatch = 4\nheld_out = 0.25\n\
         [policy]\ndown_dims = [8, 16]\nhorizon = 8\nn_action_steps = 4\nn_groups = 4\n\
         diffusion_step_embed_dim = 16\nnum_train_timesteps = 10\n\
         [optimizer]\nsteps = {steps}\nwarm_up = 2\n",
        folder.join("run").to_str().unwrap(),
        dataset(),
    );
    let path = folder.join("train.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn assert_fails(arguments: &[&str], said: &[&str]) {
    let output = clearway(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    for word in said {
        assert!(error.contains(word), "does not say `{word}`: {error}");
    }
}

#[test]
fn a_run_writes_a_policy_a_checkpoint_and_a_curve_and_goes_on() {
    let folder = scratch("a_run");
    let run = folder.join("run");
    let short = config(&folder, 6);
    let output = clearway(&["train", &short]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("done after 6 steps"), "{said}");
    assert_fails(&["train", &short], &["run already", "--resume"]);

    let policy = run.join("policy");
    let policy = policy.to_str().unwrap();
    let output = clearway(&["policy", "inspect", "--policy", policy]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("[8, 16]"));

    let longer = config(&folder, 11);
    let output = clearway(&["train", &longer, "--resume"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let curve = std::fs::read_to_string(run.join("curve.csv")).unwrap();
    let rows: Vec<Vec<&str>> = curve.lines().map(|row| row.split(',').collect()).collect();
    assert_eq!(rows[0], ["step", "loss", "norm", "rate", "validation"]);
    let steps: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(steps, ["2", "4", "5", "6", "8", "10", "11"]);
    for row in &rows[1..] {
        let loss: f64 = row[1].parse().unwrap();
        assert!(loss.is_finite() && loss > 0.0, "{row:?}");
        let is_validated = ["5", "6", "10", "11"].contains(&row[0]);
        assert_eq!(!row[4].is_empty(), is_validated, "{row:?}");
    }
}

#[test]
fn losses_are_chosen_in_the_file() {
    let folder = scratch("losses_are_chosen");
    let path = config(&folder, 4);
    let good = std::fs::read_to_string(&path).unwrap();
    let mut losses = Vec::new();
    for loss in [
        "weighting = \"uniform\"",
        "weighting = { min_snr = 5.0 }",
        "weighting = { edm = 0.5 }",
        "do_mask_loss_for_padding = true",
    ] {
        let with = good.replace("[policy]", "[policy]\nprediction_type = \"v_prediction\"");
        std::fs::write(&path, format!("{with}[loss]\n{loss}\n")).unwrap();
        let run = folder.join(format!("run{}", losses.len()));
        let output = clearway(&["train", &path, "--output", run.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let curve = std::fs::read_to_string(run.join("curve.csv")).unwrap();
        let row = curve.lines().nth(1).unwrap().to_owned();
        assert!(!losses.contains(&row), "{loss}: {row}");
        losses.push(row);
    }
}

#[test]
fn time_ends_a_run() {
    let folder = scratch("time_ends_a_run");
    let path = config(&folder, 1_000_000_000);
    let text_of = std::fs::read_to_string(&path).unwrap();
    let timed = text_of.replacen("[run]", "[run]\nminutes = 0.02", 1);
    std::fs::write(&path, timed).unwrap();
    let output = clearway(&["train", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(
        said.contains("time is up") && said.contains("--resume"),
        "{said}"
    );
    assert!(folder.join("run/checkpoint.safetensors").is_file());
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves() {
    let folder = scratch("an_interrupt_saves");
    let path = config(&folder, 1_000_000_000);
    let mut run = Command::new(env!("CARGO_BIN_EXE_clearway"))
        .args(["train", &path])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its own checkpoint says that it is on its way.
    let checkpoint = folder.join("run/checkpoint.safetensors");
    let patience = std::time::Instant::now();
    while !checkpoint.is_file() {
        assert!(patience.elapsed().as_secs() < 60, "no checkpoint");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Twice at once, as `timeout` does.
    for _ in 0..2 {
        let kill = Command::new("kill")
            .args(["-INT", &run.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut run.stdout.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("interrupted after"), "{said}");
}

#[test]
fn a_wrong_file_is_one_sentence_with_the_key() {
    let folder = scratch("a_wrong_file");
    let path = config(&folder, 5);
    let good = std::fs::read_to_string(&path).unwrap();
    for (from, to, said) in [
        ("batch = 4", "bach = 4", &["`bach`", "line 8"][..]),
        ("batch = 4", "batch = \"four\"", &["`data.batch`", "line 8"]),
        ("batch = 4", "batch = 0", &["`data.batch`"]),
        ("batch = 4", "batch = ", &["line 8"]),
        (
            "held_out = 0.25",
            "order = \"sorted\"",
            &["`data.order`", "sorted"],
        ),
        (
            "horizon = 8",
            "horizon = 7",
            &["`horizon`", "multiple of 4"],
        ),
        ("save_every = 4", "save_every = 0", &["`run.save_every`"]),
        ("[run]\noutput", "[run]\nfolder", &["`folder`"]),
        (
            "[optimizer]",
            "[loss]\nweighting = \"min_snr\"\n[optimizer]",
            &["`loss.weighting.min_snr`", "line 18"],
        ),
        (
            "[optimizer]",
            "[loss]\nweighting = { edm = -1.0 }\n[optimizer]",
            &["`loss.weighting`", "positive"],
        ),
        (
            "[policy]",
            "[policy]\nprediction_type = \"velocity\"",
            &["`prediction_type`", "v_prediction"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        assert_fails(&["train", &path], said);
    }
    std::fs::write(&path, &good).unwrap();
    assert_fails(&["train", &path, "--resume"], &["no checkpoint"]);
    // A folder of that name is somebody's.
    let somebodys = folder.join("somebodys");
    std::fs::create_dir_all(somebodys.join("policy")).unwrap();
    let somebodys = somebodys.to_str().unwrap();
    assert_fails(
        &["train", &path, "--output", somebodys],
        &["another folder"],
    );
    assert_fails(&["train", &path, "--data", "nowhere"], &["meta/info.json"]);
    assert_fails(&["train", "nothing.toml"], &["nothing.toml"]);
}

/// A run of some steps of a prior of paths, of some thousand parameters, and of some problems of a world.
fn config_of_paths(folder: &Path, steps: u64, network: &str) -> String {
    let text = format!(
        "[run]\noutput = {:?}\nlog_every = 2\nvalidate_every = 3\nsave_every = 4\n\
         [demonstrations]\nworld = {{ clutter = {{ environment = \"simple\", added = 1 }} }}\nproblems = 8\nways = 2\n\
         [data]\nbatch = 4\nheld_out = 0.25\n\
         [paths]\nhorizon = 8\nnum_train_timesteps = 10\nsampling = {{ solver = \"ddim\", steps = 2 }}\n\
         scene = {{ origin = [-0.75, -0.75, 0.0], spacing = 0.5, size = [4, 4, 1], reach = 0.5 }}\n\
         [paths.network]\n{network}\n\
         [optimizer]\nsteps = {steps}\nwarm_up = 2\n",
        folder.join("run").to_str().unwrap(),
    );
    let path = folder.join("paths.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const UNET: &str = "type = \"conditional_unet1d\"\ndown_dims = [8, 16]\nkernel_size = 3\nn_groups = 4\n\
                    diffusion_step_embed_dim = 16";
const TRANSFORMER: &str = "type = \"trajectory_transformer\"\nwidth = 16\ndepth = 1\nheads = 2";

#[test]
fn a_prior_of_paths_is_trained_goes_on_and_plans() {
    let mut curves = Vec::new();
    for (name, network) in [("paths_unet", UNET), ("paths_transformer", TRANSFORMER)] {
        let folder = scratch(name);
        let run = folder.join("run");
        let short = config_of_paths(&folder, 4, network);
        let output = clearway(&["train", &short]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains("done after 4 steps"), "{said}");
        assert_fails(&["train", &short], &["run already", "--resume"]);
        let longer = config_of_paths(&folder, 7, network);
        let output = clearway(&["train", &longer, "--resume"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let curve = std::fs::read_to_string(run.join("curve.csv")).unwrap();
        let rows: Vec<Vec<&str>> = curve.lines().map(|row| row.split(',').collect()).collect();
        let steps: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
        assert_eq!(steps, ["2", "3", "4", "6", "7"]);
        curves.push(curve);

        // What was saved is a prior that plans; a search solves what so small a network does not.
        let prior = run.join("prior");
        let report = folder.join("report.json");
        let output = clearway(&[
            "plan",
            "clutter",
            "--environment",
            "simple",
            "--prior",
            prior.to_str().unwrap(),
            "--episodes",
            "2",
            "--candidates",
            "2",
            "--fallback",
            "--json",
            report.to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(
            (&report["steps"], &report["solver"]),
            (&2.into(), &"ddim".into())
        );
        assert_eq!(report["success_rate"], 1.0);
    }
    assert_ne!(curves[0], curves[1]);
}

#[test]
fn a_wrong_file_of_paths_is_one_sentence_with_the_key() {
    let folder = scratch("wrong_paths");
    let path = config_of_paths(&folder, 3, UNET);
    let good = std::fs::read_to_string(&path).unwrap();
    let without = |from: &str, to: &str| {
        let (start, end) = (good.find(from).unwrap(), good.find(to).unwrap());
        format!("{}{}", &good[..start], &good[end..])
    };
    for (changed, said) in [
        (without("[demonstrations]", "[data]"), "`demonstrations`"),
        (without("[paths]", "[optimizer]"), "`demonstrations`"),
        (good.replace("simple", "simpel"), "simpel"),
        (
            good.replace("horizon = 8", "horizon = 7"),
            "`prior.horizon`",
        ),
        (
            good.replace("[data]", "[data]\nfolder = \"x\""),
            "`data.folder`",
        ),
        (
            good.replace("[optimizer]", "[policy]\n[optimizer]"),
            "`policy`",
        ),
        (good.replace("batch = 4", "batch = 0"), "`data.batch`"),
        (good.replace("problems = 8", "problems = 0"), "none is left"),
        (good.replace("conditional_unet1d", "unet"), "unet"),
    ] {
        assert_ne!(changed, good, "{said}");
        std::fs::write(&path, changed).unwrap();
        assert_fails(&["train", &path], &[said]);
    }
}

/// A teacher of some steps, and a file that says what a student of its learns.
fn lesson(folder: &Path) -> [String; 2] {
    let output = clearway(&["train", &config(folder, 3)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let text = format!(
        "[run]\noutput = {:?}\nlog_every = 2\nvalidate_every = 4\nsave_every = 4\n\
         [data]\nfolder = {:?}\nbatch = 4\nheld_out = 0.25\n\
         [distill]\nkind = \"progressive\"\nsteps = 1\nteacher_steps = 4\nconvert = 2\n\
         [optimizer]\nsteps = 8\nwarm_up = 2\n",
        folder.join("student").to_str().unwrap(),
        dataset(),
    );
    let path = folder.join("distill.toml");
    std::fs::write(&path, text).unwrap();
    let teacher = folder.join("run/policy");
    [path, teacher].map(|path| path.to_str().unwrap().to_owned())
}

#[test]
fn a_student_is_a_policy_that_is_sampled_in_its_own_steps() {
    let folder = scratch("a_student");
    let [path, teacher] = lesson(&folder);
    assert_fails(&["distill", &path], &["`teacher`", "--teacher"]);
    let output = clearway(&["distill", &path, "--teacher", &teacher]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("done after 8 steps"), "{said}");
    let again = ["distill", &path, "--teacher", &teacher];
    assert_fails(&again, &["student already", "--resume"]);

    let policy = folder.join("student/policy");
    let json = folder.join("report.json");
    let [policy, json] = [policy, json].map(|path| path.to_str().unwrap().to_owned());
    let output = clearway(&["policy", "inspect", "--policy", &policy, "--json", &json]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["solver"], "euler");
    assert_eq!(report["steps"], 1);
    assert_eq!(report["prediction"], "sample");

    let ours = folder.join("student/policy/clearway.json");
    for (ours_says, said) in [
        ("{\"solver\": \"oiler\", \"steps\": 1}", "`solver`"),
        ("{\"solver\": \"euler\", \"steps\": 0}", "`steps`"),
        ("{\"solver\": \"euler\"}", "`steps`"),
        (
            "{\"solver\": \"euler\", \"steps\": 1, \"offset\": 1000}",
            "`offset`",
        ),
        ("{", "clearway.json"),
    ] {
        std::fs::write(&ours, ours_says).unwrap();
        assert_fails(&["policy", "inspect", "--policy", &policy], &[said]);
    }
}

#[test]
fn a_wrong_lesson_is_one_sentence_with_the_key() {
    let folder = scratch("a_wrong_lesson");
    let [path, teacher] = lesson(&folder);
    let good = std::fs::read_to_string(&path).unwrap();
    for (from, to, said) in [
        ("steps = 1", "step = 1", &["`step`", "line 12"][..]),
        (
            "steps = 1",
            "steps = \"one\"",
            &["`distill.steps`", "line 12"],
        ),
        ("steps = 1", "steps = 3", &["`distill.teacher_steps`"]),
        (
            "\"progressive\"",
            "\"halving\"",
            &["`distill.kind`", "halving"],
        ),
        (
            "convert = 2",
            "skip = 2",
            &["`distill.skip`", "consistency"],
        ),
        ("convert = 2", "convert = 8", &["`distill.convert`"]),
        ("batch = 4", "batch = 0", &["`data.batch`"]),
        ("save_every = 4", "save_every = 0", &["`run.save_every`"]),
        (
            "[optimizer]",
            "[student]\ndown_dims = [9]\n[optimizer]",
            &["`down_dims"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        assert_fails(&["distill", &path, "--teacher", &teacher], said);
    }
    std::fs::write(&path, &good).unwrap();
    let resumed = ["distill", &path, "--teacher", &teacher, "--resume"];
    assert_fails(&resumed, &["no checkpoint"]);
    assert_fails(
        &["distill", &path, "--teacher", "nowhere"],
        &["nowhere", "--teacher"],
    );
}

/// Twenty grey pictures of 8 × 8 pixels in two classes, as MNIST writes them.
fn grey(folder: &Path) -> String {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let write = |name: &str, sizes: &[u32], bytes: Vec<u8>| {
        let mut file = vec![0, 0, 8, u8::try_from(sizes.len()).unwrap()];
        file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        file.extend(bytes);
        std::fs::write(data.join(name), file).unwrap();
    };
    let pixels = (0..20 * 64_u32).map(|at| (at * 37 % 251) as u8).collect();
    let labels = (0..20).map(|at| at % 2).collect();
    write("train-images-idx3-ubyte", &[20, 8, 8], pixels);
    write("train-labels-idx1-ubyte", &[20], labels);
    data.to_str().unwrap().to_owned()
}

/// A file of a run of pictures.
fn of_pictures(folder: &Path, name: &str, said: &str) -> String {
    let text = format!(
        "[run]\noutput = {:?}\nlog_every = 2\nvalidate_every = 2\nsave_every = 2\n\
         [data]\nfolder = {:?}\nbatch = 4\nheld_out = 0.2\n{said}",
        folder.join(name).to_str().unwrap(),
        grey(folder),
    );
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_model_of_pictures_becomes_one_of_one_pass_and_one_step() {
    let folder = scratch("a_model_of_pictures");
    let model = |name: &str| folder.join(name).join("model").to_str().unwrap().to_owned();
    let optimizer = "[optimizer]\nsteps = 4\nwarm_up = 1\n";
    let teacher = format!(
        "[pictures]\nblock_out_channels = [8, 16]\nnorm_num_groups = 4\nnum_train_timesteps = 20\n{optimizer}"
    );
    let teacher = of_pictures(&folder, "teacher", &teacher);
    let guided = format!(
        "[guidance]\nteacher = {:?}\ntime_cond_proj_dim = 16\n{optimizer}",
        model("teacher")
    );
    let guided = of_pictures(&folder, "guided", &guided);
    for run in [&teacher, &guided] {
        let output = clearway(&["train", run]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let student = format!(
        "[student]\nscales = [2.0, 2.0]\n\
         [distill]\nkind = \"progressive\"\nsteps = 1\nteacher_steps = 4\n{optimizer}"
    );
    let student = of_pictures(&folder, "student", &student);
    let known = model("guided");
    let good = std::fs::read_to_string(&student).unwrap();
    for (from, to, said) in [
        ("scales =", "scale =", &["`scale`", "line 11"][..]),
        (
            "[student]",
            "[student]\ndown_dims = [8]",
            &["`down_dims`", "line 11"],
        ),
        (
            "batch = 4",
            "batch = 4\ndrop_n_last_frames = 1",
            &["`data.drop_n_last_frames`"],
        ),
        (
            "teacher_steps = 4",
            "teacher_steps = 3",
            &["`distill.teacher_steps` is 3"],
        ),
        ("[2.0, 2.0]", "[3.0, 2.0]", &["`student.scales`"]),
        (
            "[student]",
            "[student]\nmid_block = \"none\"",
            &["`student.mid_block`", "line 11"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&student, good.replacen(from, to, 1)).unwrap();
        assert_fails(&["distill", &student, "--teacher", &known], said);
    }
    std::fs::write(&student, &good).unwrap();
    // One that does not know scales teaches none.
    let unguided = ["distill", &student, "--teacher", &model("teacher")];
    assert_fails(&unguided, &["`student.scales`", "`[guidance]`"]);
    let distill = ["distill", &student, "--teacher", &known];
    let output = clearway(&distill);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("done after 4 steps"), "{said}");
    assert_fails(&distill, &["student already", "--resume"]);
    // The student of two steps is kept beside the last.
    for kept in ["model-2", "model"] {
        let kept = folder.join("student").join(kept);
        assert!(kept.join("model_index.json").is_file(), "{kept:?}");
    }
    // A model that is no model says what is wrong with it.
    std::fs::remove_dir_all(folder.join("student")).unwrap();
    std::fs::write(folder.join("guided/model/unet/config.json"), "{").unwrap();
    assert_fails(&distill, &["config.json"]);
}

#[test]
fn a_dataset_is_shown() {
    let folder = scratch("a_dataset");
    let json = folder.join("report.json");
    let json = json.to_str().unwrap();
    let output = clearway(&["data", "inspect", &dataset(), "--json", json]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for word in [
        "v3.0",
        "4, of 1 to 12 frames",
        "27 frames",
        "action [2], float32",
    ] {
        assert!(said.contains(word), "does not say `{word}`: {said}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["frames"], 27);
    assert_eq!(report["features"].as_array().unwrap().len(), 8);
    assert_fails(
        &["data", "inspect", "nowhere"],
        &["nowhere", "meta/info.json"],
    );
}
