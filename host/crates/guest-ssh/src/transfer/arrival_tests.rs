//! Arrival on volumes that lack something, fail half-way, fill up, or lose their process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::archive::{Fault, Kind, Member};
use super::faulty::{Faulty, Lack};
use super::header::Stamp;
use super::parent::{Opened, open_parent};
use super::receive::{Contents, Receiver};
use super::staging::{PREFIX, Staging, sweep, sweep_on};
use super::volume::{Space, Volume};
use super::{Counters, Direction, Limits, Meter, Selection, place};
use crate::Error;

impl Contents for &[u8] {
    fn fill(&mut self) -> Result<&[u8], Fault> {
        Ok(self)
    }

    fn consume(&mut self, count: usize) {
        *self = &self[count..];
    }
}

fn member(kind: Kind, path: &str, link: &str, size: usize) -> Member {
    Member {
        kind,
        path: path.into(),
        link: link.into(),
        size: size as u64,
        mode: 0o755,
        mtime: Stamp {
            seconds: 1_000_000_000,
            nanos: 0,
        },
    }
}

fn file(path: &'static str, contents: &'static str) -> (Member, &'static str) {
    (member(Kind::File, path, "", contents.len()), contents)
}

fn link(kind: Kind, path: &str, to: &str) -> (Member, &'static str) {
    (member(kind, path, to, 0), "")
}

/// Everything below a directory: contents, or the target of a link, or that it is a directory.
fn look(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = if kind.is_dir() {
                folders.push(path.clone());
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                fs::read_to_string(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            seen.insert(name, what);
        }
    }
    seen
}

fn open(path: &Path) -> Dir {
    Dir::open_ambient_dir(path, ambient_authority()).unwrap()
}

/// Receives the members and places them; gives the notes.
fn arrive(
    volume: Faulty,
    root: &Path,
    target: &str,
    members: &[(Member, &'static str)],
) -> Result<Vec<String>, Error> {
    let counters = Counters::default();
    let meter = Meter {
        direction: Direction::Download,
        limits: Limits::default(),
        counters: &counters,
    };
    let volume = Arc::new(volume);
    let Opened {
        parent,
        name,
        made,
        begun: staging,
    } = open_parent(&open(root), Path::new(target), &meter, |parent| {
        Staging::create_on(Arc::clone(&volume) as Arc<dyn Volume>, parent)
    })?;
    let selection = Selection::everything();
    let mut receiver = Receiver::new(&staging, &selection, &meter);
    for (member, contents) in members {
        receiver.take(member, &mut contents.as_bytes())?;
    }
    let mut moved = receiver.finish()?;
    moved
        .notes
        .extend(place::place(staging, &parent, name, &meter)?);
    made.keep();
    Ok(moved.notes)
}

/// A target with something to replace of each kind, and what replaces it.
fn before(root: &Path) {
    for (path, contents) in [
        ("a", "old a"),
        ("d/b", "old b"),
        ("d/kept", "kept"),
        ("was a file", "old"),
    ] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), contents).unwrap();
    }
    fs::create_dir(root.join("was empty")).unwrap();
    symlink("a", root.join("link")).unwrap();
}

fn sent() -> Vec<(Member, &'static str)> {
    vec![
        file("a", "new a"),
        file("d/b", "new b"),
        file("d/e/f", "new f"),
        file("link", "was a link"),
        file("was a file/x", "new x"),
        file("was empty", "new"),
        file("z", "new z"),
        link(Kind::HardLink, "z2", "z"),
    ]
}

fn after() -> BTreeMap<String, String> {
    [
        ("a", "new a"),
        ("d", "/"),
        ("d/b", "new b"),
        ("d/e", "/"),
        ("d/e/f", "new f"),
        ("d/kept", "kept"),
        ("link", "was a link"),
        ("was a file", "/"),
        ("was a file/x", "new x"),
        ("was empty", "new"),
        ("z", "new z"),
        ("z2", "new z"),
    ]
    .map(|(path, what)| (path.to_owned(), what.to_owned()))
    .into()
}

fn workspace() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    before(root.path());
    root
}

#[test]
fn every_kind_of_volume_gets_the_same_tree_and_says_what_it_gave_up() {
    use Lack::{Exchange, HardLink, Mode, Rename, Sync, Time};
    let cases: [(&[Lack], &[&str]); 8] = [
        (&[], &[]),
        (&[Exchange], &[]),
        (&[Exchange, HardLink], &["no hard links"]),
        (&[Mode], &["no file modes"]),
        (&[Time], &["no times"]),
        (&[Sync], &["does not say whether"]),
        (&[Rename], &["cannot rename, so 10 entries were copied"]),
        (
            &[Rename, Exchange, HardLink, Mode, Time, Sync],
            &[
                "no file modes",
                "no times",
                "no hard links",
                "does not say whether",
                "cannot rename",
            ],
        ),
    ];
    for (lacks, expected) in cases {
        let root = workspace();
        let notes = arrive(Faulty::lacking(lacks), root.path(), ".", &sent()).unwrap();
        assert_eq!(look(root.path()), after(), "{lacks:?}");
        assert_eq!(notes.len(), expected.len(), "{lacks:?}: {notes:?}");
        for (note, part) in notes.iter().zip(expected) {
            assert!(note.contains(part), "{lacks:?}: {note}");
        }
        let found = fs::metadata(root.path().join("d/b")).unwrap();
        assert_eq!(
            found.mode() & 0o777 == 0o755,
            !lacks.contains(&Mode),
            "{lacks:?}"
        );
        assert_eq!(
            found.mtime() == 1_000_000_000,
            !lacks.contains(&Time),
            "{lacks:?}"
        );
    }
}

/// A directory's access list may give every file the same mode.
#[test]
fn no_file_can_be_read_by_more_than_it_was_sent_for() {
    for lacks in [&[][..], &[Lack::ModeWhenMade]] {
        let root = tempfile::tempdir().unwrap();
        let (key, contents) = file("key", "secret");
        let key = Member { mode: 0o600, ..key };
        arrive(Faulty::lacking(lacks), root.path(), ".", &[(key, contents)]).unwrap();
        let found = fs::metadata(root.path().join("key")).unwrap();
        assert_eq!(found.mode() & 0o777, 0o600, "{lacks:?}");
    }
}

#[test]
fn a_new_target_appears_also_where_nothing_can_be_renamed() {
    for lacks in [&[][..], &[Lack::Rename]] {
        let root = tempfile::tempdir().unwrap();
        arrive(
            Faulty::lacking(lacks),
            root.path(),
            "new/place",
            &[file("x", "y")],
        )
        .unwrap();
        let found = look(root.path());
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            ["new", "new/place", "new/place/x"]
        );
    }
}

#[test]
fn directories_above_a_target_go_again_where_nothing_arrives() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("there")).unwrap();
    let volume = || Faulty {
        room: Some(AtomicU64::new(12)),
        ..Faulty::default()
    };
    let large = [file("x", "more than there is room for")];
    for target in ["a/b/c/out", "there/out", "there/too/out"] {
        arrive(volume(), root.path(), target, &large).unwrap_err();
        let found = look(root.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["there"], "{target}");
    }
}

#[test]
fn a_move_that_fails_takes_back_those_before_it() {
    for lacks in [&[][..], &[Lack::Exchange]] {
        let mut failures = 0;
        for fail_at in 1..100 {
            let root = workspace();
            let old = look(root.path());
            let volume = Faulty {
                fail_at,
                ..Faulty::lacking(lacks)
            };
            match arrive(volume, root.path(), ".", &sent()) {
                Ok(_) => break,
                Err(Error::Transfer { reason, .. }) => {
                    assert!(!reason.contains("could not be moved back"), "{reason}");
                    assert_eq!(look(root.path()), old, "{lacks:?}, move {fail_at}");
                }
                Err(other) => panic!("{other}"),
            }
            failures += 1;
        }
        assert!(failures >= 7, "{failures}");
    }
}

#[test]
fn what_cannot_be_taken_back_is_told() {
    let root = workspace();
    let volume = Faulty {
        fail_at: 6,
        ..Faulty::lacking(&[Lack::Exchange, Lack::HardLink])
    };
    let told = arrive(volume, root.path(), ".", &sent()).unwrap_err();
    assert!(
        told.to_string().contains("could not be moved back"),
        "{told}"
    );
}

#[test]
fn a_file_that_is_destroyed_on_the_way_is_told() {
    // What is there is emptied first, and then there is no room for what was to replace it.
    let root = workspace();
    let volume = Faulty {
        // The probe, what arrives, and nothing for the copy.
        room: Some(AtomicU64::new(10)),
        ..Faulty::lacking(&[Lack::Rename])
    };
    let told = arrive(volume, root.path(), ".", &[file("a", "new a")]).unwrap_err();
    assert!(
        told.to_string().contains("1 could not be moved back"),
        "{told}"
    );
    assert_ne!(fs::read(root.path().join("a")).unwrap(), b"old a");

    // A file makes room for a link that cannot be made then.
    let root = workspace();
    let volume = Faulty {
        fail_at: 1,
        ..Faulty::lacking(&[Lack::Rename])
    };
    let told = arrive(volume, root.path(), ".", &[link(Kind::Symlink, "a", "z")]).unwrap_err();
    assert!(
        told.to_string().contains("1 could not be moved back"),
        "{told}"
    );
}

#[test]
fn a_directory_in_place_of_a_file_destroys_nothing_where_it_cannot_get_there() {
    let only = [file("was a file/x", "new x")];
    let mut failures = 0;
    for fail_at in 1..100 {
        let root = workspace();
        let old = look(root.path());
        let volume = Faulty {
            fail_at,
            ..Faulty::lacking(&[Lack::Exchange, Lack::HardLink])
        };
        let Err(told) = arrive(volume, root.path(), ".", &only) else {
            break;
        };
        assert!(
            !told.to_string().contains("could not be moved back"),
            "{told}"
        );
        assert_eq!(look(root.path()), old, "move {fail_at}");
        failures += 1;
    }
    assert!(failures > 0);
}

#[test]
fn a_target_on_another_volume_gets_copies() {
    let root = workspace();
    let volume = Faulty {
        apart: true,
        ..Faulty::default()
    };
    let notes = arrive(volume, root.path(), ".", &sent()).unwrap();
    assert_eq!(look(root.path()), after());
    assert!(
        notes.len() == 1 && notes[0].contains("on another volume"),
        "{notes:?}"
    );
}

#[test]
fn a_volume_without_symbolic_links_refuses_a_tree_with_one_and_says_what_to_do() {
    let root = workspace();
    let old = look(root.path());
    let members = [
        file("A.framework/A", "x"),
        link(Kind::Symlink, "A.framework/B", "A"),
    ];
    let told = arrive(
        Faulty::lacking(&[Lack::Symlink]),
        root.path(),
        ".",
        &members,
    )
    .unwrap_err()
    .to_string();
    assert!(
        told.contains("A.framework/B") && told.contains("pack it into an archive"),
        "{told}"
    );
    assert_eq!(look(root.path()), old);
}

#[test]
fn names_that_a_volume_takes_for_the_same_end_the_transfer() {
    let cases = [
        [file("README", "1"), file("readme", "2")],
        [file("Dir/x", "1"), file("dir/y", "2")],
        [file("x", "1"), link(Kind::Symlink, "X", "x")],
    ];
    for members in cases {
        let root = tempfile::tempdir().unwrap();
        let volume = || Faulty {
            folds_case: true,
            ..Faulty::default()
        };
        let told = arrive(volume(), root.path(), ".", &members)
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("differs in case or Unicode form only"),
            "{told}"
        );
        assert!(look(root.path()).is_empty());
        // Where they are two names, both arrive.
        arrive(Faulty::default(), root.path(), ".", &members).unwrap();
        let twice = [file("same", "1"), file("same", "2")];
        let told = arrive(volume(), root.path(), "t", &twice)
            .unwrap_err()
            .to_string();
        assert!(told.contains("came before"), "{told}");
    }
}

#[test]
fn a_volume_that_fills_up_keeps_nothing_and_says_how_much_is_missing() {
    let root = workspace();
    let old = look(root.path());
    let volume = Faulty {
        // The probe writes 5.
        room: Some(AtomicU64::new(12)),
        ..Faulty::default()
    };
    let told = arrive(volume, root.path(), ".", &sent()).unwrap_err();
    assert!(
        matches!(&told, Error::NoRoom { entry, needed: 5, source: Some(_), .. } if entry == "d/b"),
        "{told:?}"
    );
    assert_eq!(look(root.path()), old);

    // Also where the copies into place are what does not fit.
    let volume = Faulty {
        room: Some(AtomicU64::new(70)),
        ..Faulty::lacking(&[Lack::Rename])
    };
    let only_new = [
        file("y1", "0123456789012345678901234567890123456789"),
        file("y2", "0123456789"),
    ];
    let told = arrive(volume, root.path(), ".", &only_new)
        .unwrap_err()
        .to_string();
    assert!(told.contains("no room"), "{told}");
    assert_eq!(look(root.path()), old);
}

#[test]
fn what_cannot_fit_is_not_begun_and_a_reserve_is_kept() {
    let space = |free, entries| Space {
        free,
        total: 100_000,
        block: 512,
        entries,
    };
    let cases = [
        // A block and the hundredth that is kept back.
        (space(1512, None), true),
        (space(1511, None), false),
        (space(1 << 20, Some(1)), true),
        (space(1 << 20, Some(0)), false),
    ];
    for (space, fits) in cases {
        let root = tempfile::tempdir().unwrap();
        let volume = Faulty {
            space: Some(space),
            ..Faulty::default()
        };
        let outcome = arrive(volume, root.path(), ".", &[file("y", "2")]);
        assert_eq!(outcome.is_ok(), fits, "{space:?}: {outcome:?}");
        if let Err(told) = outcome {
            let told = told.to_string();
            assert!(told.contains("`y`: 1 B needed, and its volume"), "{told}");
            assert!(look(root.path()).is_empty());
        }
    }
}

/// Set for the process that is to be killed: where to work, what the volume lacks, at which move.
const VICTIM: &str = "GUEST_SSH_TEST_VICTIM";

#[test]
fn a_kill_between_two_moves_leaves_each_file_old_or_new_and_the_next_run_clears_up() {
    if let Ok(order) = std::env::var(VICTIM) {
        let mut order = order.splitn(3, ' ');
        let mut next = || order.next().unwrap();
        let (kill_at, lacks) = (next().parse().unwrap(), next());
        let lacks: &[Lack] = if lacks == "exchange" {
            &[Lack::Exchange]
        } else {
            &[]
        };
        let volume = Faulty {
            kill_at,
            ..Faulty::lacking(lacks)
        };
        arrive(volume, Path::new(next()), ".", &sent()).unwrap();
        return;
    }
    let own_name = std::thread::current().name().unwrap().to_owned();
    let new = after();
    for lacks in ["nothing", "exchange"] {
        for kill_at in [1, 2, 4, 6] {
            let root = workspace();
            let old = look(root.path());
            let order = format!("{kill_at} {lacks} {}", root.path().display());
            let ended = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &own_name])
                .env(VICTIM, order)
                .output()
                .unwrap();
            let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
            assert_eq!(signal, Some(9), "{ended:?}");

            let told = sweep(&open(root.path())).unwrap();
            assert_eq!(told.len(), 1);
            assert!(
                told[0].contains("killed while its files were moved into place"),
                "{told:?}"
            );
            let found = look(root.path());
            for (path, what) in &found {
                let is_one = [&old, &new].iter().any(|tree| tree.get(path) == Some(what));
                assert!(is_one, "{lacks} {kill_at}: {path} is {what}");
            }
            for path in ["a", "d/b", "link", "d/kept"] {
                assert!(
                    found.contains_key(path),
                    "{lacks} {kill_at}: {path} is gone"
                );
            }
            // And the next arrival is whole.
            arrive(Faulty::default(), root.path(), ".", &sent()).unwrap();
            assert_eq!(look(root.path()), new);
        }
    }
}

#[test]
fn only_what_nobody_holds_is_swept() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    let living = Staging::create(&dir).unwrap();
    // Of a process that is about to lock it, of a killed one, and names that only look like ours.
    fs::create_dir(root.path().join(format!("{PREFIX}new"))).unwrap();
    let dead = root.path().join(format!("{PREFIX}dead"));
    fs::create_dir_all(dead.join("tree/half")).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("lock"), "").unwrap();
    symlink(outside.path(), root.path().join(format!("{PREFIX}link"))).unwrap();
    fs::write(root.path().join(format!("{PREFIX}file")), "").unwrap();

    let told = sweep(&dir).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("none of them had been moved"), "{told:?}");
    assert!(!dead.exists() && outside.path().join("lock").exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 4);
    drop(living);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
}

#[test]
fn a_lock_proves_nothing_where_each_node_has_its_own() {
    let root = tempfile::tempdir().unwrap();
    let dir = open(root.path());
    let day = Duration::from_secs(25 * 3600);
    let set = |path: &Path, age| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    // To this node nobody has locked them.
    for (name, age) in [("living", Duration::ZERO), ("dead", day)] {
        let path = root.path().join(format!("{PREFIX}{name}"));
        fs::create_dir_all(path.join("tree")).unwrap();
        fs::write(path.join("lock"), "").unwrap();
        set(&path.join("lock"), age);
    }
    let volume = || Faulty {
        locks_apart: true,
        ..Faulty::default()
    };
    let told = sweep_on(&volume(), &dir).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    let left = fs::read_dir(root.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{PREFIX}living").as_str()]);
    fs::remove_dir_all(root.path().join(&left[0])).unwrap();

    // So a transfer that takes long shows that it is alive.
    let staging = Staging::create_on(Arc::new(volume()), &dir).unwrap();
    let lock = fs::read_dir(root.path()).unwrap().next().unwrap().unwrap();
    let lock = lock.path().join("lock");
    let is_old = || {
        let time = fs::metadata(&lock).unwrap().modified().unwrap();
        time.elapsed()
            .is_ok_and(|age| age > Duration::from_secs(60))
    };
    set(&lock, day);
    staging.show_alive(Instant::now());
    assert!(is_old(), "not at every call");
    staging.show_alive(Instant::now() + Duration::from_secs(3600));
    assert!(!is_old());
    drop(staging);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_turns_into_a_link_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    let (stop, stopped) = (Arc::new(AtomicBool::new(false)), root.path().join("d"));
    let racing = {
        let (stop, outside) = (Arc::clone(&stop), outside.path().to_owned());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let _ = fs::create_dir(&stopped);
                let _ = fs::remove_dir_all(&stopped);
                let _ = symlink(&outside, &stopped);
                let _ = fs::remove_file(&stopped);
            }
        })
    };
    for _ in 0..100 {
        // Whether it arrives is luck; where it arrives is not.
        let _ = arrive(
            Faulty::default(),
            root.path(),
            ".",
            &[file("d/evil", "x"), file("d/e/evil", "x")],
        );
        let _ = arrive(
            Faulty::default(),
            root.path(),
            "d/deep",
            &[file("evil", "x")],
        );
    }
    stop.store(true, Ordering::SeqCst);
    racing.join().unwrap();
    assert!(look(outside.path()).is_empty());
}

#[test]
fn nothing_arrives_too_deep_too_long_or_under_a_name_of_our_own() {
    let root = tempfile::tempdir().unwrap();
    let deep = |levels: usize| "d/".repeat(levels) + "f";
    let cases: [(String, &str); 4] = [
        (
            deep(super::DEPTH_MAX + 1),
            "128 directories within each other",
        ),
        (deep(10_000), "1024 bytes in a path"),
        (format!("d/{}x/f", PREFIX.to_uppercase()), "not asked for"),
        ("a\0b".to_owned(), "NUL"),
    ];
    for (path, reason) in cases {
        let told = arrive(
            Faulty::default(),
            root.path(),
            ".",
            &[(member(Kind::File, &path, "", 0), "")],
        )
        .unwrap_err()
        .to_string();
        assert!(told.contains(reason), "{told}");
        assert!(look(root.path()).is_empty());
    }
    let deepest = [(member(Kind::File, &deep(super::DEPTH_MAX), "", 0), "")];
    arrive(Faulty::default(), root.path(), ".", &deepest).unwrap();
    // Again, into the tree that is there now, which takes two handles a level.
    arrive(Faulty::default(), root.path(), ".", &deepest).unwrap();
    assert!(root.path().join(deep(super::DEPTH_MAX)).exists());
}

#[test]
fn hard_links_that_become_copies_count_like_files() {
    let root = tempfile::tempdir().unwrap();
    let counters = Counters::default();
    let meter = Meter {
        direction: Direction::Download,
        limits: Limits {
            bytes: 10,
            ..Limits::default()
        },
        counters: &counters,
    };
    let dir = open(root.path());
    let staging = Staging::create_on(Arc::new(Faulty::lacking(&[Lack::HardLink])), &dir).unwrap();
    let selection = Selection::everything();
    let mut receiver = Receiver::new(&staging, &selection, &meter);
    let mut take = |(member, contents): (Member, &'static str)| {
        receiver.take(&member, &mut contents.as_bytes())
    };
    take(file("one", "12345")).unwrap();
    take(link(Kind::HardLink, "two", "one")).unwrap();
    let told = take(link(Kind::HardLink, "three", "two"));
    assert!(
        matches!(told, Err(Error::LimitExceeded { limit: "bytes", .. })),
        "{told:?}"
    );
}

#[test]
fn a_parent_that_another_transfer_takes_away_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let counters = Counters::default();
    let meter = Meter {
        direction: Direction::Download,
        limits: Limits::default(),
        counters: &counters,
    };
    let (ours, theirs) = (open(root.path()), open(root.path()));
    let other = open_parent(&theirs, Path::new("a/b/other"), &meter, |_| Ok(())).unwrap();
    let mut failing = Some(other.made);
    let opened = open_parent(&ours, Path::new("a/b/own"), &meter, |parent| {
        // The other fails between our opening the directory and our first entry in it.
        drop(failing.take());
        Ok((sweep(parent)?, Staging::create(parent)?))
    })
    .unwrap();
    let entries = fs::read_dir(root.path().join("a/b")).unwrap().count();
    assert_eq!(entries, 1);
    drop(opened);
    assert_eq!(look(root.path()), BTreeMap::new());
}
