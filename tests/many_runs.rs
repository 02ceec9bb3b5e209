//! Many runs at once in one namespace, half of them killed outright.

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end::{Cluster, Running, Step, Stream, hash, uid};
use orka_sim::{NodeSpec, SimConfig};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;

const RUNS: usize = 10;

/// Ten processes share the machine, each compiling a plugin.
const PATIENCE: Duration = Duration::from_secs(240);

/// Says that it runs and goes on until it is told to end.
const SCRIPT: &str =
    "#!/bin/sh\necho running\nwhile [ ! -e ~/go-on ]; do sleep 0.05; done\necho done\n";

/// What a run says at the moments at which one is killed.
const MOMENTS: [(Stream, &str); 5] = [
    (Stream::Stderr, "==> create VM config"),
    (Stream::Stderr, "deploying VM"),
    (Stream::Stderr, "==> wait for SSH"),
    (Stream::Stderr, "==> copy in"),
    (Stream::Stdout, "running\n"),
];

fn run_uid(number: usize) -> String {
    uid(&format!("run-{number}"))
}

fn build(cluster: &Cluster, number: usize) -> Step {
    cluster
        .build(SCRIPT)
        .flag("--run-uid", run_uid(number))
        .flag("--pod-uid", uid(&format!("pod-{number}")))
        .patience(PATIENCE)
}

async fn kill(mut running: Running, moment: (Stream, &str), delay: Duration) {
    running.says(moment.0, moment.1).await;
    // Not a wait for anything: the moment itself is what is drawn.
    tokio::time::sleep(delay).await;
    running.signal(Signal::KILL);
    let ended = running.ended().await;
    assert_eq!(ended.code, None, "{ended}");
}

async fn ten_runs(config: SimConfig, seed: u64) {
    let cluster = Cluster::with(SimConfig {
        nodes: (1..=RUNS)
            .map(|number| NodeSpec::apple_silicon(format!("mini-{number}")))
            .collect(),
        deploy_delay: Duration::from_millis(150),
        boot_delay: Duration::from_millis(150),
        ..config
    })
    .await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut numbers: Vec<usize> = (0..RUNS).collect();
    numbers.shuffle(&mut random);
    let (killed, spared) = numbers.split_at(RUNS / 2);
    let mut moments = MOMENTS;
    moments.shuffle(&mut random);

    let mut survivors: Vec<Running> = Vec::new();
    let mut killings = tokio::task::JoinSet::new();
    let mut delays = moments
        .iter()
        .map(|moment| (*moment, Duration::from_millis(random.random_range(0..200))));
    for number in 0..RUNS {
        let running = build(&cluster, number).start();
        if killed.contains(&number) {
            let (moment, delay) = delays.next().unwrap();
            killings.spawn(kill(running, moment, delay));
        } else {
            survivors.push(running);
        }
    }
    for survivor in &mut survivors {
        survivor.says(Stream::Stdout, "running\n").await;
    }
    while let Some(killing) = killings.join_next().await {
        killing.unwrap();
    }

    let reapers = killed.iter().map(|&number| {
        cluster
            .reap()
            .flag("--run", run_uid(number))
            .start()
            .ended()
    });
    for reaped in futures(reapers).await {
        assert_eq!(reaped.code, Some(0), "{reaped}");
    }
    // Nothing of a killed run is left, and everything of the others is.
    let hashes: BTreeSet<String> = spared
        .iter()
        .map(|&number| hash(&run_uid(number)))
        .collect();
    let state = cluster.sim.state();
    let of = |name: &str| name.split('-').nth(1).unwrap().to_owned();
    let left: BTreeSet<String> = state.vms.iter().map(|vm| of(&vm.name)).collect();
    assert_eq!(left, hashes, "seed {seed}");
    assert_eq!(state.vms.len(), spared.len(), "seed {seed}");
    let configs: BTreeSet<String> = state
        .configs
        .iter()
        .map(|config| of(&config.name))
        .collect();
    assert!(configs.is_subset(&hashes), "seed {seed}: {configs:?}");
    for deletion in &state.deletions {
        assert!(
            !hashes.contains(&of(&deletion.name)),
            "seed {seed}: {deletion:?}"
        );
    }

    for vm in &state.vms {
        std::fs::write(vm.home.join("go-on"), "").unwrap();
    }
    for survivor in survivors {
        let ended = survivor.ended().await;
        ended.assert(0, "succeeded");
        assert!(ended.stdout.contains("done\n"), "{ended}");
    }
    assert!(
        cluster.sim.state().is_clean(),
        "seed {seed}: {:?}",
        cluster.sim.state().vms
    );
}

/// All at once.
async fn futures<T: Send + 'static>(
    all: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut set = tokio::task::JoinSet::new();
    for one in all {
        set.spawn(one);
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_runs_at_once_on_orka_2_of_which_half_are_killed_touch_no_others_vm() {
    ten_runs(Cluster::orka2(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_runs_at_once_on_orka_3_of_which_half_are_killed_touch_no_others_vm() {
    ten_runs(Cluster::orka3(), 3).await;
}
