//! The bundled plugin `matrix`: several VMs at once, over real SSH.

use end_to_end::Cluster;

/// Each script waits for the other's mark, which they can both see, since simulated VMs are directories of one machine.
fn meeting_script(place: &str) -> String {
    format!(
        "#!/bin/sh\ntouch \"{place}/$ORKA_MATRIX_CELL\"\n\
         for try in $(seq 600); do test -e {place}/a -a -e {place}/b && break; sleep 0.1; done\n\
         test -e {place}/a -a -e {place}/b || exit 9\n\
         echo \"I am $ORKA_MATRIX_CELL\" | tee report.txt\n\
         test \"$ORKA_MATRIX_CELL\" = a || exit 65\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_run_at_the_same_time_and_what_comes_of_each_is_told_apart() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let meeting = tempfile::tempdir().unwrap();
        let ended = cluster
            .run()
            .flag("--plugin", "matrix")
            .param("cells", "a=Sonoma.orkasi\nb=Sonoma.orkasi,cpu-count=4")
            .param("script", &meeting_script(meeting.path().to_str().unwrap()))
            .param("artifacts", "report.txt")
            .param("artifacts-when", "always")
            .ended()
            .await;
        ended.assert(65, "build-failed");
        assert_eq!(ended.result("matrix"), r#"{"a":0,"b":65}"#, "{ended}");
        assert_eq!(ended.result("exit-status"), "65");
        ended.assert_says(&[
            "1 of 2 cells succeeded",
            "[b] asking for Sonoma.orkasi, 4 cores",
        ]);
        for line in ["[a] I am a", "[b] I am b"] {
            assert!(
                ended.stdout.lines().any(|said| said == line),
                "{line}\n{ended}"
            );
        }
        for (file, text) in [("a/report.txt", "I am a\n"), ("b/report.txt", "I am b\n")] {
            assert_eq!(
                ended.file(file).as_deref(),
                Some(text.as_bytes()),
                "{ended}"
            );
        }
        cluster.assert_purged();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_fast_ends_a_script_that_runs_for_long() {
    let cluster = Cluster::with(Cluster::orka3()).await;
    let script = "#!/bin/sh\nif test \"$ORKA_MATRIX_CELL\" = a; then exit 3; fi\nexec sleep 3600\n";
    let ended = cluster
        .run()
        .flag("--plugin", "matrix")
        .param("cells", "a=Sonoma.orkasi\nb=Sonoma.orkasi")
        .param("script", script)
        .param("fail-fast", "true")
        .ended()
        .await;
    ended.assert(3, "build-failed");
    assert_eq!(
        ended.result("matrix"),
        r#"{"a":3,"b":"cancelled"}"#,
        "{ended}"
    );
    cluster.assert_nothing_left();
}
