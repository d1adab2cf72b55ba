//! Where a recording goes: a file, or a viewer that runs.

use std::path::PathBuf;

use rerun::blueprint::Blueprint;
use rerun::{RecordingStream, RecordingStreamBuilder, RecordingStreamResult};

/// A stream into a `.rrd` file, which begins with `blueprint`. It opens no socket.
///
/// The file is complete when the last clone of the stream is dropped.
///
/// # Errors
///
/// If the file cannot be created.
pub fn save(
    application: &'static str,
    path: impl Into<PathBuf>,
    blueprint: Blueprint,
) -> RecordingStreamResult<RecordingStream> {
    let rec = builder(application, blueprint).save(path)?;
    rec.set_log_time_enabled(false);
    Ok(rec)
}

/// A stream to the viewer that listens at `url`, such as `rerun+http://127.0.0.1:9876/proxy`.
///
/// This is the one function of the crate that uses the network. It returns at once, also if nobody listens yet.
///
/// # Errors
///
/// If `url` is not the address of a viewer.
pub fn connect(
    application: &'static str,
    url: &str,
    blueprint: Blueprint,
) -> RecordingStreamResult<RecordingStream> {
    let rec = builder(application, blueprint).connect_grpc_opts(url)?;
    rec.set_log_time_enabled(false);
    Ok(rec)
}

/// Both kinds leave the wall clock out (`log_time`): an episode has timelines of its own, and how fast it was simulated
/// is not one of them.
fn builder(application: &'static str, blueprint: Blueprint) -> RecordingStreamBuilder {
    RecordingStreamBuilder::new(application).with_blueprint(blueprint)
}
