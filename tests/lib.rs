//! What the claims share: where data that is not in the repository lies, and a judge of paths.

pub mod plane;

use std::path::{Path, PathBuf};

/// A file or folder of the project's shared data, or `None`, with a line that says so, where it is not at hand.
///
/// A user's clone has none: it looks in `CLEARWAY_SHARED`, then beside the checkout.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CLEARWAY_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let file = root.join(path);
    if file.exists() {
        return Some(file);
    }
    eprintln!("skipped: {} is not at hand", file.display());
    None
}

/// A file or folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
