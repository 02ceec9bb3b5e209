//! Single cases beside the sweep: slow clusters, failing builds, odd versions, removals that did nothing.

use std::time::Duration;

use orka_client::RetryPolicy;
use orka_sim::{FaultAction, FaultRule, Sim, SimConfig};
use orka_step::outcome::{EXIT_LEFTOVERS, EXIT_ORKA};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::faults::{self, Signal};
use crate::requests::{self, Call};
use crate::world::{Build, Pace, World};

/// How long the client waits for an answer.
const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// No condition of these tests takes longer.
const GUARD: Duration = Duration::from_secs(60);

const PACE: Pace = Pace {
    call: CALL_LIMIT,
    retry: RetryPolicy::NONE,
    run: Duration::from_secs(50),
};

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_takes_longer_than_anybody_waits_leaves_nothing() {
    let builds: JoinSet<()> = World::ALL.into_iter().map(slow_deploy).collect();
    builds.join_all().await;
}

/// The VM is on the list while it is deployed, and runs after the client has given up.
async fn slow_deploy(world: World) {
    let sim = Sim::start(SimConfig {
        deploy_delay: CALL_LIMIT + Duration::from_secs(1),
        ..world.cluster()
    })
    .await
    .unwrap();
    let ended = Build::new(&sim, "true").run_at(PACE).await;
    assert_eq!(ended.code, EXIT_ORKA, "{world:?}: {}", ended.text());
    let (method, path) = Call::Deploy.target(world).unwrap();
    let answered = async {
        while sim.state().requests_to(method, path)[0].status.is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GUARD, answered).await.unwrap();
    let state = sim.state();
    assert!(
        state.is_clean(),
        "{world:?}: {:?} {:?}",
        state.vms,
        state.configs
    );
    assert_eq!(requests::repeated(&state, false), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_build_stays_one_when_the_clean_up_fails_for_a_moment() {
    for world in World::ALL {
        for call in [Call::Purge, Call::LookForVm] {
            let sim = world.start().await;
            let (method, path) = call.target(world).unwrap();
            let fails = FaultAction::HtmlPage { status: 503 };
            sim.add_fault(FaultRule::new(method, path, fails).times(2));
            let ended = Build::new(&sim, "exit 65").run_at(PACE).await;
            assert_eq!(ended.code, 65, "{world:?} {call:?}: {}", ended.text());
            assert!(
                sim.state().is_clean(),
                "{world:?} {call:?}: {}",
                ended.text()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_version_is_no_reason_to_fail_and_an_unknown_one_none_to_revoke() {
    let set = |version: serde_json::Value| (json!({ "api_version": version }), Vec::new());
    let without = (json!({}), vec!["api_version".to_owned()]);
    let cases = [
        ("a suffix", set(json!("2.1.0-preview")), true),
        ("garbage", set(json!("banana")), false),
        ("null", set(json!(null)), false),
        ("a number", set(json!(2)), false),
        ("nothing", without, false),
    ];
    for (name, (set, remove), revokes) in cases {
        let sim = World::Orka210.start().await;
        let edit = FaultAction::EditReply {
            set: set.as_object().unwrap().clone(),
            remove,
            status: None,
        };
        sim.add_fault(FaultRule::new("GET", "/health-check", edit));
        let ended = Build::new(&sim, "true").run_at(PACE).await;
        assert_eq!(ended.code, 0, "{name}: {}", ended.text());
        let state = sim.state();
        assert_eq!(
            state.live_tokens() == 0,
            revokes,
            "{name}: {}",
            ended.text()
        );
        assert!(state.is_clean(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_did_nothing_is_not_believed_where_nobody_can_look() {
    for world in World::ALL {
        let sim = world.start().await;
        let fault = faults::at(world, Call::Purge, CALL_LIMIT)
            .into_iter()
            .find(|fault| fault.signal == Signal::NothingThere)
            .unwrap();
        sim.add_fault(fault.rule(world, Call::Purge));
        let (method, path) = Call::LookForVm.target(world).unwrap();
        let page = FaultAction::HtmlPage { status: 404 };
        sim.add_fault(FaultRule::new(method, path, page));
        let run = Duration::from_millis(12_700);
        let ended = Build::new(&sim, "true").run_at(Pace { run, ..PACE }).await;
        let state = sim.state();
        assert!(
            state.is_clean() || !ended.leftovers.is_empty(),
            "{world:?}: left {:?}, and said\n{}",
            state.vms,
            ended.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_comes_late_does_not_outlive_the_attempt_after_it() {
    let builds: JoinSet<()> = World::ALL.into_iter().map(second_attempt).collect();
    builds.join_all().await;
}

/// The first deploy is carried out long after the client has given up and the plugin deployed another VM.
async fn second_attempt(world: World) {
    let sim = world.start().await;
    let (method, path) = Call::Deploy.target(world).unwrap();
    let late = FaultAction::Delay { ms: 4_500 };
    sim.add_fault(FaultRule::new(method, path, late).times(1));
    let build = Build::new(&sim, "true").param("deploy-attempts", "2");
    let ended = build.run_at(PACE).await;
    // A VM that turns up is deleted; where none did, the run cannot know that none will.
    let named = ended.code == EXIT_LEFTOVERS
        && ended.leftovers.iter().all(|name| ended.names_as_left(name));
    assert!(ended.code == 0 || named, "{world:?}: {}", ended.text());
    let all_answered = async {
        while sim
            .state()
            .requests_to(method, path)
            .iter()
            .any(|request| request.status.is_none())
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(GUARD, all_answered).await.unwrap();
    let state = sim.state();
    assert_eq!(state.requests_to(method, path).len(), 2, "{world:?}");
    assert!(
        state.is_clean(),
        "{world:?}: left {:?} {:?}\n{}",
        state.vms,
        state.configs,
        ended.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_was_certainly_refused_leaves_nothing_to_look_for() {
    let sim = World::Orka3.start().await;
    let (method, path) = Call::Deploy.target(World::Orka3).unwrap();
    sim.add_fault(FaultRule::new(method, path, FaultAction::RevokeToken));
    let started = std::time::Instant::now();
    let ended = Build::new(&sim, "true").run_at(PACE).await;
    assert_eq!(
        (ended.code, ended.failure.as_str()),
        (EXIT_ORKA, "orka.token-declined"),
        "{}",
        ended.text()
    );
    // With a token that is worth nothing, no removal could ever be confirmed.
    assert_eq!(ended.leftovers, Vec::<String>::new(), "{}", ended.text());
    assert!(started.elapsed() < Duration::from_secs(20));
}
