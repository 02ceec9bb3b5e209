use proptest::prelude::*;

use super::*;

const BOTH: [Generation; 2] = [Generation::Orka2, Generation::Orka3];

#[test]
fn takes_the_names_that_orka_takes() {
    for name in ["a", "tekton-1a2b3c4d", "a1", "a--b"] {
        for generation in BOTH {
            vm_name(generation, name).unwrap();
            config_name(generation, name).unwrap();
        }
    }
    for name in ["", "1a", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", "a/b"] {
        for generation in BOTH {
            assert!(vm_name(generation, name).is_err(), "{name:?}");
            assert!(config_name(generation, name).is_err(), "{name:?}");
        }
    }
    let lengths: Vec<_> = (1..80).map(|chars| "a".repeat(chars)).collect();
    let longest = |check: &dyn Fn(&str) -> bool| lengths.iter().filter(|name| check(name)).count();
    assert_eq!(
        longest(&|name| vm_name(Generation::Orka2, name).is_ok()),
        38
    );
    assert_eq!(
        longest(&|name| vm_name(Generation::Orka3, name).is_ok()),
        63
    );
    assert_eq!(
        longest(&|name| config_name(Generation::Orka3, name).is_ok()),
        50
    );
}

#[test]
fn q29_suggests_a_name_that_would_do() {
    for (given, suggested) in [
        ("My_VM", "my-vm"),
        ("9lives", "lives"),
        ("build.7-", "build-7"),
        ("Ünit", "nit"),
    ] {
        let error = vm_name(Generation::Orka2, given).unwrap_err();
        assert_eq!(error.hint().unwrap(), format!("`{suggested}` would do"));
    }
    assert_eq!(vm_name(Generation::Orka2, "___").unwrap_err().hint(), None);
}

/// Secrets in a name are hidden where the hint is shown, as long as they are whole.
#[test]
fn no_name_is_suggested_that_was_cut() {
    for given in [
        "x".repeat(64),
        format!("{}-a-secret_that_is_long", "x".repeat(60)),
    ] {
        let error = vm_name(Generation::Orka3, &given).unwrap_err();
        assert_eq!(error.hint(), None, "{given}");
        assert!(error.to_string().contains(&given), "{error}");
    }
}

#[test]
fn takes_as_many_vcpus_as_cores_or_half_from_four_cores_on() {
    for (cores, vcpus) in [
        (3, None),
        (3, Some(3)),
        (4, Some(2)),
        (6, Some(3)),
        (24, Some(12)),
        (24, Some(24)),
    ] {
        orka2_cpus(cores, vcpus).unwrap();
    }
    for (cores, vcpus) in [
        (2, None),
        (5, None),
        (3, Some(1)),
        (3, Some(2)),
        (4, Some(3)),
        (6, Some(12)),
        (6, Some(0)),
    ] {
        assert!(orka2_cpus(cores, vcpus).is_err(), "{cores} {vcpus:?}");
    }
    assert!(orka2_cpus(4, Some(u32::MAX)).is_err());
}

#[test]
fn refuses_metadata_that_orka_keeps_to_itself_or_cannot_hold() {
    let of = |key: &str, bytes: usize| BTreeMap::from([(key.to_owned(), "x".repeat(bytes))]);
    metadata(&of("build", 1000)).unwrap();
    metadata(&BTreeMap::new()).unwrap();
    for (key, bytes) in [
        ("orka_vm_id", 1),
        ("ORKA_x", 1),
        ("", 1),
        (" ", 1),
        ("big", 100 * 1024),
    ] {
        assert!(metadata(&of(key, bytes)).is_err(), "{key:?}");
    }
}

#[test]
fn refuses_what_only_intel_vms_have_on_images_for_apple_silicon() {
    type Change = fn(&mut DeployRequest);
    let changes: [Change; 6] = [
        |request| request.iso = Some("mac.iso".into()),
        |request| request.system_serial = Some("C02XYZ12".into()),
        |request| request.gpu_passthrough = Some(true),
        |request| request.net_boost = Some(true),
        |request| request.legacy_io = Some(true),
        |request| request.attached_disk = Some("disk".into()),
    ];
    for (index, change) in changes.iter().enumerate() {
        for image in ["Sonoma.orkasi", "ghcr.io/x/y:latest", "localhost/x"] {
            let mut request = DeployRequest {
                image: Some(image.into()),
                ..DeployRequest::new("a")
            };
            change(&mut request);
            assert!(
                deploy(Generation::Orka3, &request).is_err(),
                "{index} {image}"
            );
        }
    }
    // The Tasks of old send these whatever the image.
    let harmless = DeployRequest {
        image: Some("Sonoma.orkasi".into()),
        vnc_console: Some(true),
        gpu_passthrough: Some(false),
        system_serial: Some(String::new()),
        ..DeployRequest::new("a")
    };
    for generation in BOTH {
        deploy(generation, &harmless).unwrap();
    }
}

#[test]
fn tells_images_apart_by_their_names() {
    for (image, kind) in [
        ("Monterey.img", ImageKind::Intel),
        ("90GBigSurSSH.IMG", ImageKind::Intel),
        ("sonoma-v1.2.orkasi", ImageKind::AppleSilicon),
        (
            "ghcr.io/macstadium/orka-images/sequoia:latest",
            ImageKind::AppleSilicon,
        ),
        ("registry:5000/x.img", ImageKind::AppleSilicon),
        ("team/image", ImageKind::Unknown),
        ("sonoma", ImageKind::Unknown),
    ] {
        assert_eq!(image_kind(image), kind, "{image}");
    }
}

#[test]
fn refuses_what_a_generation_does_not_have() {
    let spec = |image: &str| VmConfigSpec {
        name: "a".into(),
        image: image.into(),
        cpu: 4,
        ..VmConfigSpec::default()
    };
    for generation in BOTH {
        vm_config(generation, &spec("Monterey.img")).unwrap();
    }
    let boosted = VmConfigSpec {
        io_boost: Some(true),
        ..spec("Monterey.img")
    };
    vm_config(Generation::Orka2, &boosted).unwrap();
    assert!(vm_config(Generation::Orka3, &boosted).is_err());
    let legacy = VmConfigSpec {
        legacy_io: Some(true),
        ..spec("Monterey.img")
    };
    vm_config(Generation::Orka3, &legacy).unwrap();
    assert!(vm_config(Generation::Orka2, &legacy).is_err());
    assert!(
        vm_config(
            Generation::Orka3,
            &VmConfigSpec {
                tag: Some("t".repeat(33)),
                ..spec("a.img")
            }
        )
        .is_err()
    );
    assert!(
        vm_config(
            Generation::Orka3,
            &VmConfigSpec {
                system_serial: Some("short".into()),
                ..spec("a.img")
            }
        )
        .is_err()
    );
    assert!(vm_config(Generation::Orka2, &spec(" ")).is_err());
    assert!(
        deploy(Generation::Orka3, &DeployRequest::new("a")).is_err(),
        "neither image nor config"
    );
    deploy(Generation::Orka2, &DeployRequest::new("a")).unwrap();
    assert!(
        deploy(
            Generation::Orka2,
            &DeployRequest {
                replicas: Some(2),
                ..DeployRequest::new("a")
            }
        )
        .is_err()
    );
}

#[test]
fn refuses_ports_that_are_taken_or_reserved_twice() {
    let of = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| text.parse().unwrap())
            .collect::<Vec<PortReservation>>()
    };
    ports(Generation::Orka2, &of(&["9000:4000", "9001:4000"])).unwrap();
    ports(Generation::Orka3, &of(&["9000:4000", "9000:4000/udp"])).unwrap();
    for taken in [22, 443, 6443, 5000, 5014, 5999, 6013, 8822, 8836] {
        assert!(
            ports(Generation::Orka2, &of(&[&format!("{taken}:1")])).is_err(),
            "{taken}"
        );
    }
    assert!(ports(Generation::Orka2, &of(&["9000:1/udp"])).is_err());
    for generation in BOTH {
        assert!(ports(generation, &of(&["9000:1", "9000:2"])).is_err());
    }
}

/// Every whole number of MiB is at least what is sent for it; a tenth that somebody asks for stays one.
#[test]
fn tenths_of_a_gib_are_never_more_than_the_mib_asked_for() {
    for mib in 102..=20_000_u32 {
        let tenths = tenths_of_gib(f64::from(mib) / 1024.0);
        assert!(
            (tenths * 102.4).floor() <= f64::from(mib),
            "{mib}: {tenths}"
        );
        assert!(
            ((tenths + 1.0) * 102.4).floor() > f64::from(mib),
            "{mib}: {tenths}"
        );
    }
    for tenths in 1..=1000_u32 {
        let gib = f64::from(tenths) / 10.0;
        assert_eq!(tenths_of_gib(gib), f64::from(tenths));
        for mib in [(gib * 1024.0).round(), (gib * 1024.0).floor()] {
            assert_eq!(tenths_of_gib(mib / 1024.0), f64::from(tenths));
        }
    }
    assert!(memory(Some(0.099)).is_err());
    memory(Some(0.1)).unwrap();
}

#[test]
fn refuses_memory_and_displays_out_of_range() {
    for gib in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(memory(Some(gib)).is_err(), "{gib}");
    }
    memory(Some(0.0)).unwrap();
    display(&Display {
        width: Some(320),
        height: Some(2160),
        dpi: Some(320),
    })
    .unwrap();
    assert!(
        display(&Display {
            width: Some(319),
            ..Display::default()
        })
        .is_err()
    );
    assert!(
        display(&Display {
            height: Some(2161),
            ..Display::default()
        })
        .is_err()
    );
    assert!(
        display(&Display {
            dpi: Some(59),
            ..Display::default()
        })
        .is_err()
    );
}

#[test]
fn takes_namespaces_that_begin_with_orka() {
    namespace("orka-default").unwrap();
    for name in ["default", "orka-", "orka-Test", ""] {
        assert!(namespace(name).is_err(), "{name:?}");
    }
}

proptest! {
    #[test]
    fn a_suggested_name_is_always_a_good_one(name in "\\PC{0,80}") {
        for generation in BOTH {
            if let Some(hint) = vm_name(generation, &name).err().and_then(|error| error.hint()) {
                let suggested = hint.split('`').nth(1).unwrap().to_owned();
                prop_assert!(vm_name(generation, &suggested).is_ok(), "{} for {}", suggested, name);
            }
        }
    }
}
