//! The bundled plugin `retry-elsewhere`, against clusters that say no in their own words.

use end_to_end::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_and_a_node_that_are_not_there_send_it_elsewhere() {
    for config in [Cluster::orka2(), Cluster::orka3()] {
        let cluster = Cluster::with(config).await;
        let ended = cluster
            .run()
            .flag("--plugin", "retry-elsewhere")
            .param("base-image", "NoSuch.orkasi")
            .param(
                "alternatives",
                "base-image=Sonoma.orkasi,node=no-such-node\nbase-image=Sonoma.orkasi",
            )
            .param("script", "echo built")
            .ended()
            .await;
        ended.assert(0, "succeeded");
        assert_eq!(
            ended.result("built-on"),
            "Sonoma.orkasi, 3 cores",
            "{ended}"
        );
        ended.assert_says(&[
            "no VM on `NoSuch.orkasi, 3 cores`",
            "no VM on `Sonoma.orkasi, 3 cores, node no-such-node`",
        ]);
        cluster.assert_purged();
    }
}
