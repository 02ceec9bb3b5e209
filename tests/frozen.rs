//! The contract, from inside: a guest that calls all of it, as it is built now and as it was built against each published
//! version (`tests/frozen/README.md`).

use std::path::{Path, PathBuf};

use end_to_end::{Cluster, guest};

/// Runs a component that calls every function of the contract, on both generations.
async fn does_as_the_contract_says(component: &Path, functions: &str) {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let step = cluster.run();
        let secret = step.scratch_file("secrets/signing", b"hunter22-is-secret");
        let ended = step
            .flag("--plugin", component.to_str().unwrap())
            .flag(
                "--secrets",
                Path::new(&secret).parent().unwrap().to_str().unwrap(),
            )
            .granted(
                "[[grant]]\nplugin = \"contract\"\ncapabilities = [\"*\"]\nsecrets = [\"*\"]\n",
            )
            .param("image", "Sonoma.orkasi")
            .ended()
            .await;
        ended.assert(0, "succeeded");
        assert_eq!(ended.result("done"), functions, "{ended}");
        cluster.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_of_the_contract_works_from_a_guest() {
    does_as_the_contract_says(&guest("contract"), "57").await;
}

fn frozen() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen");
    let entries = std::fs::read_dir(directory).unwrap();
    let mut components: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .collect();
    components.sort();
    components
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_against_a_published_contract_still_runs() {
    let components = frozen();
    assert!(!components.is_empty());
    for component in components {
        does_as_the_contract_says(&component, "57").await;
    }
}
