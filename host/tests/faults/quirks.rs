//! Behaviours of Orka that only a whole build can be tested against, by their numbers in the list of what clients work
//! around; the others have their tests in the client and in the SSH crate.

use std::time::Duration;

use orka_client::RetryPolicy;
use orka_sim::{FaultAction, FaultRule, GuestFault};
use orka_step::outcome::{EXIT_NO_CAPACITY, EXIT_ORKA, EXIT_SSH};
use tokio::time::Instant;

use crate::requests::Call;
use crate::world::{Build, Pace, World};

const PACE: Pace = Pace {
    call: Duration::from_secs(5),
    retry: RetryPolicy::NONE,
    run: Duration::from_secs(50),
};

fn on(call: Call, world: World, action: FaultAction) -> FaultRule {
    let (method, path) = call.target(world).unwrap();
    FaultRule::new(method, path, action)
}

#[tokio::test(flavor = "multi_thread")]
async fn q11_a_full_cluster_is_waited_for_with_a_limit_and_only_when_asked() {
    for world in World::ALL {
        let full = || FaultAction::Error {
            status: 500,
            message: "No available nodes with sufficient CPU.".to_owned(),
        };
        let sim = world.start().await;
        sim.add_fault(on(Call::Deploy, world, full()).times(1));
        let waited = Build::new(&sim, "true")
            .param("capacity-wait", "30s")
            .run_at(PACE)
            .await;
        assert_eq!(waited.code, 0, "{world:?}: {}", waited.text());
        assert!(
            waited.text().contains("waiting for room"),
            "{}",
            waited.text()
        );
        sim.add_fault(on(Call::Deploy, world, full()).times(1));
        let at_once = Build::new(&sim, "true").run_at(PACE).await;
        assert_eq!(
            at_once.code,
            EXIT_NO_CAPACITY,
            "{world:?}: {}",
            at_once.text()
        );
        assert!(sim.state().is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q15_ssh_that_is_not_up_yet_is_waited_for_and_noticed_soon() {
    let sim = World::Orka3.start().await;
    let late = GuestFault {
        boot_ms: Some(1500),
        reset_connections: 2,
        ..GuestFault::default()
    };
    sim.add_fault(on(Call::Deploy, World::Orka3, FaultAction::Guest(late)));
    let ended = Build::new(&sim, "true").run_at(PACE).await;
    assert_eq!(ended.code, 0, "{}", ended.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn q17_a_declined_password_is_no_slow_boot() {
    let sim = World::Orka240.start().await;
    let declines = GuestFault {
        auth_refusals: 100,
        ..GuestFault::default()
    };
    sim.add_fault(on(
        Call::Deploy,
        World::Orka240,
        FaultAction::Guest(declines),
    ));
    let began = Instant::now();
    let ended = Build::new(&sim, "true").run_at(PACE).await;
    assert_eq!(
        (ended.code, ended.failure.as_str()),
        (EXIT_SSH, "ssh.authentication-declined"),
        "{}",
        ended.text()
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "declined at once, not at the SSH deadline"
    );
    assert!(sim.state().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn q36_a_vm_that_fails_is_deleted_and_deployed_anew_a_bounded_number_of_times() {
    for world in World::ALL {
        let fails = || FaultAction::FailVm {
            message: "the underlying VM process has crashed".to_owned(),
        };
        let sim = world.start().await;
        sim.add_fault(on(Call::Deploy, world, fails()).times(1));
        let again = Build::new(&sim, "true")
            .param("deploy-attempts", "2")
            .run_at(PACE)
            .await;
        assert_eq!(again.code, 0, "{world:?}: {}", again.text());
        sim.add_fault(on(Call::Deploy, world, fails()));
        let in_vain = Build::new(&sim, "true")
            .param("deploy-attempts", "2")
            .run_at(PACE)
            .await;
        assert_eq!(in_vain.code, EXIT_ORKA, "{world:?}: {}", in_vain.text());
        assert!(sim.state().is_clean(), "{world:?}: {}", in_vain.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q38_a_failed_build_and_a_failed_cluster_have_different_exit_codes() {
    let sim = World::Orka3.start().await;
    assert_eq!(Build::new(&sim, "exit 1").run_at(PACE).await.code, 1);
    sim.add_fault(on(
        Call::Deploy,
        World::Orka3,
        FaultAction::Error {
            status: 500,
            message: "broken".to_owned(),
        },
    ));
    assert_eq!(
        Build::new(&sim, "exit 1").run_at(PACE).await.code,
        EXIT_ORKA
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn q40_a_vm_that_was_confirmed_and_is_not_there_fails_at_once() {
    for world in World::ALL {
        let nothing = if world.is_orka3() {
            FaultAction::Error {
                status: 404,
                message: "virtualmachineinstances.orka.macstadium.com \"x\" not found".to_owned(),
            }
        } else {
            FaultAction::Reply {
                status: 200,
                body: r#"{"message":"","help":{},"errors":[],"virtual_machine_resources":[]}"#
                    .to_owned(),
                content_type: None,
                headers: Vec::new(),
            }
        };
        let sim = world.start().await;
        sim.add_fault(on(Call::LookForVm, world, nothing).times(2));
        let ended = Build::new(&sim, "true").run_at(PACE).await;
        assert_eq!(
            (ended.code, ended.failure.as_str()),
            (EXIT_ORKA, "orka.unusable-vm"),
            "{world:?}: {}",
            ended.text()
        );
        assert!(sim.state().is_clean(), "{world:?}: {}", ended.text());
    }
}
