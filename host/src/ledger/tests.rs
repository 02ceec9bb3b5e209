//! What is owed, and when no more.

use super::*;

const LIMITS: VmLimits = VmLimits {
    at_once: 2,
    total: 3,
};

fn names(ledger: &Ledger) -> Vec<String> {
    ledger.owed().into_iter().map(|debt| debt.name).collect()
}

#[test]
fn what_was_owed_is_owed_until_released_newest_first() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.owe(Thing::Vm, "b").unwrap();
    ledger.created("b");
    assert_eq!(names(&ledger), ["b", "a"]);
    ledger.released("b");
    assert_eq!(names(&ledger), ["a"]);
}

#[test]
fn a_request_without_an_answer_outlives_a_release() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.released("a");
    assert_eq!(names(&ledger), ["a"], "in flight");
    ledger.deploy_ends("a", DeployEnd::Lost);
    ledger.released("a");
    assert_eq!(names(&ledger), ["a"], "lost");
    ledger.accounted_for("a", 1, false);
    assert!(names(&ledger).is_empty());
}

#[test]
fn a_deployment_that_nobody_waits_for_is_accounted_for_by_its_vm() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.abandon();
    ledger.released("a");
    ledger.accounted_for("a", 1, false);
    assert!(names(&ledger).is_empty());
}

#[test]
fn a_vm_that_comes_after_a_release_is_owed_again() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.released("a");
    ledger.deploy_ends("a", DeployEnd::Made("id"));
    assert_eq!(names(&ledger), ["a"]);
}

#[test]
fn a_vm_is_gone_once_it_was_deleted_alone_or_with_its_name() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    for key in ["1", "2"] {
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.deploy_begins("a").unwrap();
        ledger.deploy_ends("a", DeployEnd::Made(key));
    }
    assert!(!ledger.is_gone("a", "1"));
    // Already when it is asked for: the answer comes after others may have the address.
    ledger.vm_deletion_begins("a", "1");
    assert!(ledger.is_gone("a", "1") && !ledger.is_gone("a", "2"));
    ledger.vm_deletion_refused("a", "1");
    assert!(!ledger.is_gone("a", "1"));
    ledger.vm_gone("a", "1");
    assert!(ledger.is_gone("a", "1") && !ledger.is_gone("a", "2"));
    ledger.deletion_begins("a");
    assert!(ledger.is_gone("a", "2"));
    assert_eq!(names(&ledger), ["a"], "it is owed until it is gone");
    ledger.released("a");
    assert!(ledger.is_gone("a", "2") && !ledger.is_gone("b", "2"));
    // A key that is a name may be used again.
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Made("2"));
    assert!(!ledger.is_gone("a", "2"));
}

#[test]
fn a_refused_vm_is_not_owed_but_a_config_stays() {
    let ledger = Ledger::in_memory();
    for (thing, name) in [(Thing::Vm, "vm"), (Thing::VmConfig, "config")] {
        ledger.owe(thing, name).unwrap();
        ledger.allow_deployment(LIMITS).unwrap();
        ledger.deploy_begins(name).unwrap();
        ledger.deploy_ends(name, DeployEnd::Refused);
    }
    assert_eq!(names(&ledger), ["config"]);
}

#[test]
fn limits_count_what_exists_and_what_may_and_each_vm_once() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    assert_eq!(
        ledger.allow_deployment(LIMITS),
        Err(LimitReached::AtOnce),
        "allowed ones count"
    );
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Made("one"));
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Made("two"));
    assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::AtOnce));
    ledger.vm_gone("a", "one");
    ledger.vm_gone("a", "one");
    ledger.allow_deployment(LIMITS).unwrap();
    assert_eq!(
        ledger.allow_deployment(LIMITS),
        Err(LimitReached::AtOnce),
        "deleting one twice makes no more room"
    );
    ledger.forgo_deployment();
    assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::Total));
}

#[test]
fn an_entry_is_on_disk_before_the_request() {
    let directory = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
    let ledger = Ledger::open(&dir, head()).unwrap().0;
    ledger.owe(Thing::VmConfig, "tekton-1").unwrap();
    let text = std::fs::read_to_string(directory.path().join("ledger-pod.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(
        (line["name"].as_str(), line["state"].as_str()),
        (Some("tekton-1"), Some("intent"))
    );
}

fn head() -> Head {
    Head::new("tekton", "run", "pod", Some("task"))
}

fn kept(expires: &str) -> Kept {
    Kept {
        expires: expires.to_owned(),
        reason: "to look at it".to_owned(),
        address: "10.0.0.1".to_owned(),
        ssh_port: 8822,
        login: "ssh -p 8822 admin@10.0.0.1".to_owned(),
    }
}

fn folder() -> (tempfile::TempDir, Dir) {
    let directory = tempfile::tempdir().unwrap();
    let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
    (directory, dir)
}

#[test]
fn what_a_process_left_is_what_the_next_one_of_its_pod_reads() {
    let (_directory, dir) = folder();
    let (ledger, before) = Ledger::open(&dir, head()).unwrap();
    assert_eq!(before, Record::default());
    for name in ["kept", "handed", "gone", "there", "doubt"] {
        ledger.owe(Thing::Vm, name).unwrap();
    }
    for name in ["kept", "gone", "there"] {
        ledger.deploy_begins(name).unwrap();
        ledger.deploy_ends(name, DeployEnd::Made(name));
    }
    ledger
        .keep("kept", "kept", &kept("2030-01-01T00:00:00Z"))
        .unwrap();
    ledger.hand_over("handed").unwrap();
    ledger.released("gone");
    assert_eq!(names(&ledger), ["doubt", "there"]);
    drop(ledger);

    let (_ledger, before) = Ledger::open(&dir, head()).unwrap();
    let states: Vec<_> = before
        .entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.state))
        .collect();
    let expected = [
        ("kept", State::Kept),
        ("handed", State::HandedOver),
        ("gone", State::Released),
        ("there", State::Created),
        ("doubt", State::Intent),
    ];
    assert_eq!(states, expected);
    assert!(before.entries[0].kept_until().is_some());
}

#[test]
fn a_ledger_whose_process_is_at_work_is_held_and_opened_by_no_other() {
    let (_directory, dir) = folder();
    let (ledger, _) = Ledger::open(&dir, head()).unwrap();
    let file = record::file_name("pod");
    assert!(Ledger::is_held(&dir, Path::new(&file)));
    let failure = Ledger::open(&dir, head()).unwrap_err();
    assert!(failure.message.contains("at work"), "{failure}");
    drop(ledger);
    assert!(!Ledger::is_held(&dir, Path::new(&file)));
    Ledger::open(&dir, head()).unwrap();
}

#[test]
fn a_torn_last_line_spoils_nothing_that_follows() {
    let (directory, dir) = folder();
    let (ledger, _) = Ledger::open(&dir, head()).unwrap();
    ledger.owe(Thing::Vm, "a").unwrap();
    drop(ledger);
    let path = directory.path().join(record::file_name("pod"));
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(r#"{"at":"2026-01-02T03:04:05Z","name":"b","th"#);
    std::fs::write(&path, text).unwrap();

    let (ledger, before) = Ledger::open(&dir, head()).unwrap();
    assert_eq!((before.entries.len(), before.unreadable), (1, 0));
    ledger.owe(Thing::Vm, "c").unwrap();
    let record = record::read(&dir, Path::new(&record::file_name("pod"))).unwrap();
    assert_eq!(
        (record.entries.len(), record.unreadable),
        (2, 0),
        "{record:?}"
    );
}

#[test]
fn what_is_inherited_is_owed_and_takes_no_room() {
    let ledger = Ledger::in_memory();
    let entry = |name: &str, thing, state| Entry {
        name: name.to_owned(),
        thing,
        state,
        entered_at: None,
        was_created: state == State::Created,
        instances: BTreeSet::from([format!("{name}-vm")]),
        kept: BTreeMap::new(),
    };
    ledger
        .inherit(&entry("a", Thing::VmConfig, State::Created), true)
        .unwrap();
    ledger
        .inherit(&entry("b", Thing::Vm, State::Intent), true)
        .unwrap();
    ledger
        .inherit(&entry("c", Thing::Vm, State::Intent), false)
        .unwrap();
    assert_eq!(names(&ledger), ["c", "b", "a"]);
    let doubts: Vec<_> = ledger.owed().iter().map(Debt::in_doubt).collect();
    assert_eq!(
        doubts,
        [0, 1, 0],
        "only a request without an answer leaves doubt"
    );
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
}

#[test]
fn one_of_several_vms_is_kept_and_the_others_are_still_owed() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    for key in ["one", "two"] {
        ledger.deploy_begins("a").unwrap();
        ledger.deploy_ends("a", DeployEnd::Made(key));
    }
    ledger
        .keep("a", "one", &kept("2030-01-01T00:00:00Z"))
        .unwrap();
    assert_eq!(names(&ledger), ["a"]);
    ledger.vm_gone("a", "two");
    assert!(names(&ledger).is_empty());
    ledger.vm_gone("a", "one");
    assert_eq!(
        names(&ledger),
        ["a"],
        "the config has nothing to stay for any more"
    );
}

fn reread(dir: &Dir) -> Vec<Entry> {
    record::read(dir, Path::new(&record::file_name("pod")))
        .unwrap()
        .entries
}

/// What a process that is killed now leaves for the next one to read.
fn after_a_kill(work: impl FnOnce(&Ledger)) -> Vec<Entry> {
    let (_directory, dir) = folder();
    let (ledger, _) = Ledger::open(&dir, head()).unwrap();
    work(&ledger);
    // Lines that nobody waits for are on their way.
    drop(ledger);
    reread(&dir)
}

#[test]
fn a_request_that_may_still_make_something_is_what_a_successor_reads() {
    let entries = after_a_kill(|ledger| {
        for (thing, name) in [
            (Thing::Vm, "again"),
            (Thing::Vm, "lost"),
            (Thing::VmConfig, "config"),
        ] {
            ledger.owe(thing, name).unwrap();
        }
        // Refused for want of room, and asked for once more.
        ledger.deploy_begins("again").unwrap();
        ledger.deploy_ends("again", DeployEnd::Refused);
        ledger.deploy_begins("again").unwrap();
        // No answer, and nothing there when the clean-up looked.
        ledger.deploy_begins("lost").unwrap();
        ledger.deploy_ends("lost", DeployEnd::Lost);
        ledger.released("lost");
        ledger.created("config");
        ledger.deploy_begins("config").unwrap();
    });
    for entry in &entries {
        assert_eq!(entry.state, State::Intent, "{entry:?}");
        assert!(entry.is_open());
    }
    assert_eq!(entries.len(), 3);
}

#[test]
fn doubt_that_is_settled_is_settled_for_successors_too() {
    let entries = after_a_kill(|ledger| {
        for name in ["watched", "seen"] {
            ledger.owe(Thing::Vm, name).unwrap();
            ledger.deploy_begins(name).unwrap();
            ledger.deploy_ends(name, DeployEnd::Lost);
            ledger.released(name);
        }
        ledger.doubt_is_settled("watched");
        ledger.accounted_for("seen", 1, false);
    });
    let open: Vec<_> = entries.iter().filter(|entry| entry.is_open()).collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn what_is_beside_a_kept_vm_is_left_to_a_successor_and_the_kept_one_is_not() {
    let keep = |ledger: &Ledger| {
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.created("a");
        ledger.deploy_begins("a").unwrap();
        ledger.deploy_ends("a", DeployEnd::Made("one"));
        ledger
            .keep("a", "one", &kept("2030-01-01T00:00:00Z"))
            .unwrap();
    };
    let entries = after_a_kill(keep);
    assert!(!entries[0].is_open(), "kept alone: {entries:?}");
    let entries = after_a_kill(|ledger| {
        keep(ledger);
        ledger.deploy_begins("a").unwrap();
        ledger.deploy_ends("a", DeployEnd::Made("two"));
    });
    assert!(entries[0].is_open(), "{entries:?}");

    let successor = Ledger::in_memory();
    successor.inherit(&entries[0], true).unwrap();
    let debt = successor.debt("a").unwrap();
    assert!(
        debt.stays("one") && !debt.stays("two") && debt.instances.contains("two"),
        "{debt:?}"
    );
    successor.vm_gone("a", "two");
    assert!(successor.owed().is_empty(), "{:?}", successor.owed());

    let entries = after_a_kill(|ledger| {
        keep(ledger);
        ledger.vm_gone("a", "one");
    });
    assert!(entries[0].is_open(), "its config is left: {entries:?}");
}

#[test]
fn the_third_process_reads_of_an_inherited_name_what_the_second_did() {
    let entries = after_a_kill(|ledger| {
        ledger.owe(Thing::VmOfConfig, "shared").unwrap();
        for key in ["one", "two"] {
            ledger.deploy_begins("shared").unwrap();
            ledger.deploy_ends("shared", DeployEnd::Made(key));
        }
        ledger
            .keep("shared", "one", &kept("2030-01-01T00:00:00Z"))
            .unwrap();
    });
    let again = after_a_kill(|ledger| ledger.inherit(&entries[0], true).unwrap());
    assert_eq!(again[0].instances, entries[0].instances);
    assert_eq!(again[0].kept, entries[0].kept);
    assert!(again[0].is_open(), "{again:?}");
}

#[test]
fn a_deployment_that_waits_for_room_goes_on_counting() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::Vm, "a").unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.allow_deployment(LIMITS).unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Refused);
    ledger.deployment_waits();
    assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::AtOnce));
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Made("a"));
    assert_eq!(ledger.allow_deployment(LIMITS), Err(LimitReached::AtOnce));
}

#[test]
fn a_config_that_was_there_is_not_what_its_successor_waits_for() {
    let entries = after_a_kill(|ledger| {
        ledger.owe(Thing::VmConfig, "a").unwrap();
        ledger.create_begins("a");
        ledger.created("a");
        ledger.create_ends("a");
        ledger.deploy_begins("a").unwrap();
    });
    let again = after_a_kill(|ledger| ledger.inherit(&entries[0], true).unwrap());
    for entry in [&entries[0], &again[0]] {
        let successor = Ledger::in_memory();
        successor.inherit(entry, true).unwrap();
        let debt = successor.debt("a").unwrap();
        assert!(debt.in_doubt() == 1 && !debt.config_in_doubt(), "{debt:?}");
        successor.released("a");
        successor.accounted_for("a", 0, true);
        assert_eq!(names(&successor), ["a"], "its VM may still come");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_doubt_for_as_long_as_something_may_come_of_it() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::Vm, "a").unwrap();
    ledger.deploy_begins("a").unwrap();
    ledger.deploy_ends("a", DeployEnd::Lost);
    ledger.released("a");
    assert_eq!(names(&ledger), ["a"]);
    tokio::time::advance(DOUBT_LASTS).await;
    assert!(names(&ledger).is_empty());
}

#[test]
fn a_config_that_is_taken_up_again_after_it_was_handed_over_is_others_to_remove() {
    let ledger = Ledger::in_memory();
    ledger.owe(Thing::VmConfig, "a").unwrap();
    ledger.created("a");
    ledger.hand_over("a").unwrap();
    ledger.owe(Thing::VmOfConfig, "a").unwrap();
    assert_eq!(ledger.debt("a").unwrap().thing, Thing::VmOfConfig);
}

#[test]
fn what_passes_on_a_torn_ledger_leaves_one_that_can_be_read() {
    let (directory, dir) = folder();
    let (ledger, _) = Ledger::open(&dir, head()).unwrap();
    ledger.owe(Thing::Vm, "a").unwrap();
    drop(ledger);
    let path = directory.path().join(record::file_name("pod"));
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(br#"{"at":"2026-01-02T03:04:05Z","name":"b","th"#)
        .unwrap();
    let name = record::file_name("pod");
    let before = record::read(&dir, Path::new(&name)).unwrap();
    record::append_handed_over(&mut file, &before.heads, before.entries.iter()).unwrap();
    let after = record::read(&dir, Path::new(&name)).unwrap();
    assert_eq!((after.unreadable, after.task()), (0, Some("task")));
    assert!(!after.entries[0].is_open(), "{after:?}");
}
