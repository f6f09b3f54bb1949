//! What the real kernel answered to the cases of `netlab/scenarios/kernel`, held against the simulated
//! kernel. Needs no privileges. New answers: `cargo run -p netlab -- kernel --record`.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptests::twin::case::Case;
use proptests::twin::recorded::{read, replay};

#[test]
fn the_simulator_answers_what_linux_answered() {
    let netlab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netlab");
    let (mut cases, mut wrong) = (0, Vec::new());
    for file in std::fs::read_dir(netlab.join("scenarios/kernel")).unwrap() {
        let file = file.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let answers = std::fs::read_to_string(netlab.join("recorded").join(file.file_name()));
        let recorded = read(&answers.unwrap());
        for case in Case::read_all(&text).unwrap() {
            cases += 1;
            match recorded.iter().find(|(name, _)| *name == case.name) {
                Some((_, answers)) => {
                    let found = replay(&case, answers).unwrap();
                    wrong.extend(found.iter().map(|f| format!("{}: {f}", case.name)));
                }
                None => wrong.push(format!("{}: nothing recorded", case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "real | sim:\n{}", wrong.join("\n"));
    assert!(cases >= 150, "{cases} cases");
}
