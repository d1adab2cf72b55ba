//! What a packed network keeps in memory is its file, but for a few hundredths: codes are never decoded, and nothing plain is
//! kept beside them.

use allocation_counter::measure;
use burn::tensor::Device;
use clearway_layers::{PackPolicy, Precision};
use clearway_planner::Policy;
use clearway_tests::repository;

/// Besides the weights, a policy has names, ranges and a configuration, and rows that are padded to sixteen.
const MOST: f64 = 1.15;

#[test]
fn a_packed_policy_takes_the_memory_of_its_file() {
    let device = Device::flex();
    let shipped = repository("models/pusht");
    let folder = tempfile::tempdir().expect("a folder");
    for precision in [
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::INT4,
    ] {
        let policy = PackPolicy::from(precision);
        let mut packed = Policy::load(&shipped, &device).expect("the shipped policy loads");
        let _ = packed.pack(policy.clone());
        for entry in std::fs::read_dir(&shipped).expect("a folder") {
            let from = entry.expect("an entry").path();
            let name = from.file_name().expect("a name").to_owned();
            // Other policies lie in folders of their own.
            if from.is_file() {
                std::fs::copy(&from, folder.path().join(name)).expect("a copy");
            }
        }
        let written = packed.save_weights(&shipped, folder.path(), &policy);
        written.expect("weights are written");
        drop(packed);
        let file = folder.path().join("model.safetensors");
        let file = std::fs::metadata(file).expect("the weights").len() as f64;

        let mut packed = None;
        let memory = measure(|| {
            let mut policy = Policy::load(folder.path(), &device).expect("what was written loads");
            let report = policy.pack(precision);
            packed = Some((policy, report));
        });
        let (_policy, report) = packed.expect("it was packed");
        let kept = memory.bytes_current as f64;
        assert!(
            kept <= MOST * file,
            "{precision}: {kept} bytes in memory, {file} in the file"
        );
        // What packing says it takes is what it takes.
        let said = report.bytes as f64;
        assert!(
            said <= kept && kept <= MOST * said,
            "{precision}: {said} bytes are said to be {kept}"
        );
    }
}
