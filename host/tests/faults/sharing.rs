//! One plugin for both generations, and builds that share a user.

use std::path::Path;
use std::time::Duration;

use orka_sim::{Sim, SimConfig, Switches, TokenModel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::world::{Build, Ended, World};

/// No condition of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn the_same_plugin_and_parameters_build_on_both_generations() {
    let mut digests = Vec::new();
    for world in World::ALL {
        let sim = world.start().await;
        // Endpoint and credentials differ, which is what `Build::new` takes from the cluster; nothing else does.
        let ended = Build::new(&sim, "echo built by $0")
            .param("cpu-count", "4")
            .run()
            .await;
        assert_eq!(ended.code, 0, "{world:?}: {}", ended.text());
        assert!(
            ended.text().contains("built by ../build-script"),
            "{}",
            ended.text()
        );
        let state = sim.state();
        assert!(
            state.is_clean(),
            "{world:?}: {:?} {:?}",
            state.vms,
            state.configs
        );
        let deleted = state
            .deletions
            .iter()
            .filter(|deletion| deletion.kind == "vm")
            .count();
        assert_eq!(deleted, 1, "{world:?}");
        let (three, two): (Vec<_>, Vec<_>) = state
            .requests
            .iter()
            .filter(|request| request.header("authorization").is_some())
            .partition(|request| request.path.starts_with("/api/v1/"));
        let other = if world.is_orka3() { two } else { three };
        assert!(
            other.is_empty(),
            "{world:?} was asked in the words of the other: {other:?}"
        );
        digests.push(ended.plugin_digest.unwrap());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

/// A build whose script waits until a file is there.
struct Waiting {
    build: JoinHandle<Ended>,
    signal: tempfile::TempDir,
}

impl Waiting {
    /// Starts it, and returns once its script runs.
    async fn start(sim: &Sim) -> Self {
        let signal = tempfile::tempdir().unwrap();
        let path = |name: &str| signal.path().join(name).display().to_string();
        let script = format!(
            "touch {}\nwhile [ ! -e {} ]; do sleep 0.05; done",
            path("begun"),
            path("go")
        );
        let build = tokio::spawn(Build::new(sim, &script).run());
        until(&signal.path().join("begun")).await;
        Self { build, signal }
    }

    /// Lets the script end, and waits for the build.
    async fn finish(self) -> Ended {
        std::fs::write(self.signal.path().join("go"), "").unwrap();
        timeout(PATIENCE, self.build).await.unwrap().unwrap()
    }
}

async fn until(path: &Path) {
    let there = async {
        while !path.exists() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, there).await.unwrap();
}

/// A cluster with one user, and two builds of that user: the second begins and ends under the first.
async fn one_build_under_another(sim: &Sim) -> (Ended, Ended, Vec<bool>) {
    let longer = Waiting::start(sim).await;
    let shorter = Build::new(sim, "true").run().await;
    let between = sim
        .state()
        .tokens
        .iter()
        .map(|token| token.revoked)
        .collect();
    (longer.finish().await, shorter, between)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_ends_does_not_log_out_another_of_its_user() {
    let sim = World::Orka240.start().await;
    let (longer, shorter, between) = one_build_under_another(&sim).await;
    assert_eq!(
        (longer.code, shorter.code),
        (0, 0),
        "{}\n{}",
        longer.text(),
        shorter.text()
    );
    assert_eq!(between, [false], "one token, and it still works");
    let state = sim.state();
    assert_eq!(state.live_tokens(), 1);
    assert!(state.requests_to("DELETE", "/token").is_empty());
    assert_eq!(
        state.requests_to("POST", "/token").len(),
        2,
        "one login for each build"
    );
    assert!(
        state
            .requests
            .iter()
            .all(|request| request.status != Some(401))
    );
    assert!(state.is_clean());
    assert!(
        shorter.text().contains("token kept: since Orka 2.1.1"),
        "{}",
        shorter.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_the_other_builds_token_makes_it_log_in_again() {
    let sim = Sim::start(SimConfig {
        switches: Switches {
            token_model: TokenModel::OneRotating,
            ..Switches::default()
        },
        ..World::Orka240.cluster()
    })
    .await
    .unwrap();
    let (longer, shorter, _) = one_build_under_another(&sim).await;
    assert_eq!(
        (longer.code, shorter.code),
        (0, 0),
        "{}\n{}",
        longer.text(),
        shorter.text()
    );
    let state = sim.state();
    assert!(
        state
            .requests
            .iter()
            .any(|request| request.status == Some(401)),
        "the longer build's token was good to the end"
    );
    assert_eq!(state.live_tokens(), 1);
    assert!(state.requests_to("DELETE", "/token").is_empty());
    assert!(state.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn up_to_2_1_0_each_build_revokes_its_own_token_alone() {
    let sim = World::Orka210.start().await;
    let (longer, shorter, between) = one_build_under_another(&sim).await;
    assert_eq!(
        (longer.code, shorter.code),
        (0, 0),
        "{}\n{}",
        longer.text(),
        shorter.text()
    );
    assert_eq!(
        between,
        [false, true],
        "the longer build's, the shorter one's"
    );
    let state = sim.state();
    assert_eq!((state.tokens.len(), state.live_tokens()), (2, 0));
    assert!(
        state
            .requests
            .iter()
            .all(|request| request.status != Some(401))
    );
    assert!(state.is_clean());
    assert!(
        shorter.text().contains("token revoked"),
        "{}",
        shorter.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_program_revokes_under_the_build_is_renewed() {
    let sim = World::Orka240.start().await;
    let longer = Waiting::start(&sim).await;
    let revoked = orka_sim::FaultAction::RevokeToken;
    let first_call_after = orka_sim::FaultRule::new("DELETE", "/resources/vm/purge", revoked);
    sim.add_fault(first_call_after.times(1));
    let longer = longer.finish().await;
    assert_eq!(longer.code, 0, "{}", longer.text());
    let state = sim.state();
    assert!(state.is_clean());
    assert_eq!(state.requests_to("POST", "/token").len(), 2);
}
